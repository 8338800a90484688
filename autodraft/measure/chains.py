"""The chain of a draft with the best predicted speedup: its length and stop threshold. Nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from autodraft.cascade import SelfDraft
from autodraft.measure.agreement import Agreement
from autodraft.measure.formulas import best_num_draft_tokens, speedup
from autodraft.measure.latency import LatencyTable
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile

_THRESHOLDS = (0.2, 0.35, 0.5, 0.65, 0.8)
_LONGEST = 8


@dataclass(frozen=True)
class ChainShape:
    """How a chain drafts, and what the formula promises of it."""

    num_draft_tokens: int
    stop_threshold: float
    speedup: float
    tokens_per_cycle: float


@dataclass(frozen=True)
class PredictedChain:
    """A self-draft, and what the formula promises of it."""

    draft: SelfDraft
    speedup: float
    tokens_per_cycle: float


def best_chain(
    policy: DraftPolicy, agreement: Agreement, latency: LatencyTable, weights: WeightsFile | None = None
) -> PredictedChain:
    """The chain of this policy, on `weights` of its own or the target's, that promises the most."""
    best = best_shape(agreement, latency.cost(policy), latency.verify_cost)
    length, threshold = best.num_draft_tokens, best.stop_threshold
    draft = SelfDraft(policy=policy, weights=weights, num_draft_tokens=length, stop_threshold=threshold)
    return PredictedChain(draft, best.speedup, best.tokens_per_cycle)


def best_shape(agreement: Agreement, cost: float, verify_cost: Callable[[int], float]) -> ChainShape:
    """The chain that promises the most of any draft with this agreement and cost."""
    return max(_shapes(agreement, cost, verify_cost), key=lambda shape: shape.speedup)


def _shapes(agreement: Agreement, cost: float, verify_cost: Callable[[int], float]) -> Iterator[ChainShape]:
    """The best length, and the same with every stop threshold that can be predicted."""
    length, best = best_num_draft_tokens(agreement.tokens_per_cycle, cost, verify_cost, _LONGEST)
    yield ChainShape(length, 0.0, best, agreement.tokens_per_cycle(length))
    longest = agreement.matches.shape[1]
    for threshold in _THRESHOLDS:
        tau, drafted = agreement.stopped_chain(longest, threshold)
        promised = speedup(tau, drafted, cost, verify_cost(round(drafted) + 1))
        yield ChainShape(longest, threshold, promised, tau)
