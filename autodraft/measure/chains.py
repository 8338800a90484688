"""The chain of a self-draft with the best predicted speedup: its length and stop threshold. Nothing is measured."""

from __future__ import annotations

from collections.abc import Iterator
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
class PredictedChain:
    """A draft, and what the formula promises of it."""

    draft: SelfDraft
    speedup: float
    tokens_per_cycle: float


def best_chain(
    policy: DraftPolicy, agreement: Agreement, latency: LatencyTable, weights: WeightsFile | None = None
) -> PredictedChain:
    """The chain of this policy, on `weights` of its own or the target's, that promises the most."""
    return max(_chains(policy, agreement, latency, weights), key=lambda chain: chain.speedup)


def _chains(
    policy: DraftPolicy, agreement: Agreement, latency: LatencyTable, weights: WeightsFile | None
) -> Iterator[PredictedChain]:
    """The chain of the best length, and the same with every stop threshold that can be predicted."""
    cost = latency.cost(policy)
    length, best = best_num_draft_tokens(agreement.tokens_per_cycle, cost, latency.verify_cost, _LONGEST)
    draft = SelfDraft(policy=policy, weights=weights, num_draft_tokens=length)
    yield PredictedChain(draft, best, agreement.tokens_per_cycle(length))
    longest = agreement.matches.shape[1]
    for threshold in _THRESHOLDS:
        tau, drafted = agreement.stopped_chain(longest, threshold)
        promised = speedup(tau, drafted, cost, latency.verify_cost(round(drafted) + 1))
        draft = SelfDraft(policy=policy, weights=weights, num_draft_tokens=longest, stop_threshold=threshold)
        yield PredictedChain(draft, promised, tau)
