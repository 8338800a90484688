"""Drafts that are fitted during the search: the most promising policies once more, on weights made for them.

Knows nothing of models or of how weights are fitted: it is given a function that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from autodraft.evaluator import Evaluation
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.search.plans import Found, is_bits_only
from autodraft.search.proposals import Proposal, Searcher

Fit = Callable[[DraftPolicy, float | None], WeightsFile | None]
"""Weights for a policy, made in so many seconds at most; None where that cannot be done."""

_CLEARLY_CHEAPER = 0.75
_MOST_FITS = 5


def worth_fitting(found: Found) -> list[DraftPolicy]:
    """Of policies that can be fitted: the best one, the best that drops nothing, and the best of less and less cost.

    A fit takes a third of the disagreement away from each of them, so what was best before stays a good guess; but what
    is cheap and agreed too seldom may have become good enough.
    """
    ordered = sorted(found, key=lambda pair: -pair[1].speedup)
    ladder: list[DraftPolicy] = []
    limit = inf
    while cheaper := [pair for pair in ordered if pair[1].cost < limit]:
        policy, evaluation = cheaper[0]
        ladder.append(policy)
        limit = _CLEARLY_CHEAPER * evaluation.cost
    bits_only = [policy for policy, _ in ordered if is_bits_only(policy)]
    return list(dict.fromkeys([*ladder[:1], *bits_only[:1], *ladder[1:_MOST_FITS]]))


class FittedSearcher(Searcher):
    """Asks for each policy on weights of its own, which are fitted when it is their turn.

    Args:
        policies: those worth it, the most promising first.
        fit: makes the weights.
        seconds_left: for the next fit, given how many there were; None is no limit.
    """

    name = "fitted"

    def __init__(self, policies: Sequence[DraftPolicy], fit: Fit, seconds_left: Callable[[int], float | None]) -> None:
        self._pending = list(policies)[::-1]
        self._fit, self._seconds_left = fit, seconds_left
        self._num_fitted = 0

    def ask(self) -> Proposal | None:
        while self._pending:
            policy = self._pending.pop()
            weights = self._fit(policy, self._seconds_left(self._num_fitted))
            if weights is not None:
                self._num_fitted += 1
                return Proposal(policy, origin="fitted", weights=weights)
        return None

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        """What is worth fitting was decided before."""
