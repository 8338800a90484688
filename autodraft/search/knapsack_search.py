"""`KnapsackSearcher`: a line search over the time budget of the exact knapsack.

Knows nothing of Optuna. The knapsack turns a time budget into the policy of least summed loss; what is left to
find is the budget. Coarse budgets come first, then ever finer ones around the best.
"""

from __future__ import annotations

import numpy as np

from autodraft.errors import PolicyError
from autodraft.evaluator import Evaluation
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.knapsack import LatencyKnapsack
from autodraft.policy import DraftPolicy
from autodraft.search.proposals import Proposal, Searcher
from autodraft.search.space import RawSpace

NUM_COARSE = 8
_FINEST = 1e-3


class KnapsackSearcher(Searcher):
    """Asks for knapsack policies at time budgets between the fastest possible step and the target's."""

    name = "knapsack"

    def __init__(
        self,
        features: PolicyFeatures,
        *,
        protected: frozenset[int] = frozenset(),
        choices: tuple[int, ...] | None = None,
        num_coarse: int = NUM_COARSE,
    ) -> None:
        self._features = features
        self._protected = protected
        self._choices = choices
        self._head_bits = 16 if choices is not None and not set(choices) - {0, 16} else features.fastest_head_bits
        self._raw = RawSpace(features)
        self._scores: dict[float, float] = {}
        self._asked: dict[str, float] = {}
        low = features.base_ms[self._head_bits] / features.target_ms
        self._step = (1.0 - low) / num_coarse
        self._pending = [low + self._step * (index + 0.5) for index in range(num_coarse)]

    def ask(self) -> Proposal | None:
        while self._step > _FINEST:
            while self._pending:
                proposal = self._next()
                if proposal is not None:
                    return proposal
            if not self._scores:
                return None
            self._refine()
        return None

    def coarse(self) -> list[Proposal]:
        """The different policies at the coarse budgets, without waiting for any evaluation."""
        proposals = [self._next() for _ in range(len(self._pending))]
        return [proposal for proposal in proposals if proposal is not None]

    def _next(self) -> Proposal | None:
        """The policy at the next budget, unless it is infeasible or has been asked for."""
        share = self._pending.pop(0)
        policy = self.policy_at(share)
        if policy is None or policy.digest in self._asked:
            return None
        self._asked[policy.digest] = share
        return Proposal(policy, self._raw.encode(policy), f"knapsack at {share:.2f} of the target's time")

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        if evaluation is not None:
            self._scores[self._asked[proposal.policy.digest]] = evaluation.speedup

    def policy_at(self, share: float) -> DraftPolicy | None:
        """The knapsack's policy for a step of `share` of the target's time; None where nothing fits."""
        budget_ms = share * self._features.target_ms
        try:
            return LatencyKnapsack(budget_ms, self._head_bits, self._protected, self._choices).decide(self._features)
        except PolicyError:
            return None

    def _refine(self) -> None:
        """Halve the step and look on both sides of the three best budgets."""
        self._step /= 2
        best = sorted(self._scores, key=lambda share: -self._scores[share])[:3]
        self._pending = [share + offset for share in best for offset in (-self._step, self._step)]
        self._pending = [share for share in np.unique(np.round(self._pending, 6)).tolist() if share <= 1.0]
