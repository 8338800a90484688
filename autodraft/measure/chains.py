"""The chain of a draft with the best predicted speedup: its length and stop threshold. Nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from autodraft.cascade import SelfDraft
from autodraft.measure.agreement import Agreement
from autodraft.measure.formulas import speedup
from autodraft.measure.latency import LatencyTable
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile

_THRESHOLDS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8)
_LONGEST = 8


@dataclass(frozen=True)
class ChainShape:
    """How a chain drafts, and what is predicted of it.

    Attributes:
        num_draft_tokens: its length.
        stop_threshold: drafting ends after a token of lower draft probability.
        speedup: over autoregressive decoding.
        tokens_per_cycle: committed tokens, bonus included (tau).
        drafted_per_cycle: drafted tokens, fewer than the length where it stops early.
        verify_cost: of the verify passes, a mean over cycles, in target steps (v).
    """

    num_draft_tokens: int
    stop_threshold: float
    speedup: float
    tokens_per_cycle: float
    drafted_per_cycle: float
    verify_cost: float


@dataclass(frozen=True)
class PredictedChain:
    """A self-draft, and what is predicted of it."""

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


def best_shape(
    agreement: Agreement, cost: float, verify_cost: Callable[[int], float], longest: int = _LONGEST
) -> ChainShape:
    """The chain that promises the most of any draft with this agreement and cost; the simpler one of equals."""
    return max(_shapes(agreement, cost, verify_cost, longest), key=lambda shape: shape.speedup)


def _shapes(
    agreement: Agreement, cost: float, verify_cost: Callable[[int], float], longest: int
) -> Iterator[ChainShape]:
    """Every length with every stop threshold."""
    costs = np.array([verify_cost(drafted + 1) for drafted in range(longest + 1)])
    for threshold in _THRESHOLDS:
        for length in range(1, longest + 1):
            cycles = agreement.cycles(length, threshold)
            tau, drafted = cycles.tokens_per_cycle, cycles.drafted_per_cycle
            verify = float(costs[cycles.drafted].mean())
            yield ChainShape(length, threshold, speedup(tau, drafted, cost, verify), tau, drafted, verify)
