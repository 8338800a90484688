"""Drafts that are fitted during the search: the most promising policies once more, on weights made for them.

What a policy is worth once it is fitted is seen only then, so the search goes on from the best of them. Knows nothing
of models or of how weights are fitted: it is given a function that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from autodraft.evaluator import Evaluation
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.search.plans import Found
from autodraft.search.proposals import Proposal, Searcher
from autodraft.search.space import narrowed, narrower

Fit = Callable[[DraftPolicy, float | None], WeightsFile | None]
"""Weights for a policy, made in so many seconds at most; None where that cannot be done."""

_CLEARLY_CHEAPER = 0.75
_MOST_RUNGS = 5
_STEP = 2
"""Sixteenths of its neurons that an MLP has more or fewer in a neighbouring policy, on average."""


def worth_fitting(found: Found) -> list[DraftPolicy]:
    """Of policies that can be fitted: the best one, and the best of less and less cost.

    A fit takes at least a third of the disagreement away from each of them, so what was best before stays a good guess;
    but what is cheap and agreed too seldom may have become good enough.
    """
    ordered = sorted(found, key=lambda pair: -pair[1].speedup)
    ladder: list[DraftPolicy] = []
    limit = inf
    while len(ladder) < _MOST_RUNGS and (cheaper := [pair for pair in ordered if pair[1].cost < limit]):
        policy, evaluation = cheaper[0]
        ladder.append(policy)
        limit = _CLEARLY_CHEAPER * evaluation.cost
    return ladder


def neighbours(features: PolicyFeatures, policy: DraftPolicy) -> list[DraftPolicy]:
    """Policies with fewer neurons, with more, and with a head at other bits: what a fit may make better than it was."""
    found = [policy.replace({}, head_bits=bits) for bits in features.low_bits if bits != policy.head_bits]
    if features.narrowing:
        mlps = {i: shares for i, shares in enumerate(policy.sub_layers) if i % 2 and shares.single_width is not None}
        wider = policy.replace({index: narrower(shares, -_STEP) for index, shares in mlps.items()})
        found += [narrowed(features, policy, _STEP * len(mlps)), wider]
    return [each for each in found if each != policy]


class FittedSearcher(Searcher):
    """Asks for each policy on weights of its own, which are fitted when it is their turn; then for those near the best.

    Args:
        policies: those worth it, the most promising first.
        fit: makes the weights.
        seconds_left: for the next fit, given how many there were; None is no limit.
        near: policies near one.
    """

    name = "fitted"

    def __init__(
        self,
        policies: Sequence[DraftPolicy],
        fit: Fit,
        seconds_left: Callable[[int], float | None],
        near: Callable[[DraftPolicy], Sequence[DraftPolicy]] = lambda policy: (),
    ) -> None:
        self._pending = list(policies)[::-1]
        self._seen = set(policies)
        self._fit, self._seconds_left, self._near = fit, seconds_left, near
        self._best: tuple[float, DraftPolicy] | None = None
        self._num_fitted = 0

    def ask(self) -> Proposal | None:
        while policy := self._next():
            weights = self._fit(policy, self._seconds_left(self._num_fitted))
            if weights is not None:
                self._num_fitted += 1
                return Proposal(policy, origin="fitted", weights=weights)
        return None

    def _next(self) -> DraftPolicy | None:
        if not self._pending and self._best is not None:
            new = [policy for policy in self._near(self._best[1]) if policy not in self._seen]
            self._pending, self._seen = new[::-1], self._seen | set(new)
        return self._pending.pop() if self._pending else None

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        if evaluation is not None and (self._best is None or evaluation.speedup > self._best[0]):
            self._best = evaluation.speedup, proposal.policy
