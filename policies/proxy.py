"""What calibration alone says of a policy's speedup (F0), and the price of time that follows from it.

Knows nothing of evaluating. The guess orders policies roughly; it is never reported. A price turns loss and time into
one figure, so that every decision can be taken alone; the best price is where a learning controller starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autodraft.measure.formulas import best_num_draft_tokens, tokens_per_cycle
from autodraft.policies.choices import Budgets
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.observation import Observer
from autodraft.policy import DraftPolicy

_LONGEST_DRAFT = 8
_PRICES = np.geomspace(1e-4, 10.0, 81)
_CAUTION = 0.5
"""A controller begins at this share of the best price: it keeps more, at more bits."""
_STRAYING = 0.12
"""Share of the decisions in which a controller that has learnt nothing departs from its own first choice."""
_SHARPEST = 1e6


def proxy_speedup(features: PolicyFeatures, policy: DraftPolicy) -> float:
    """A guess from calibration alone: acceptance falls with the summed losses, time adds up, verifying costs 1."""
    alpha, cost = math.exp(-features.policy_loss(policy)), features.cost(policy)
    return best_num_draft_tokens(lambda n: tokens_per_cycle(alpha, n), cost, lambda _: 1.0, _LONGEST_DRAFT)[1]


@dataclass(frozen=True)
class Prior:
    """Where a controller starts.

    Attributes:
        price: loss that it would take for a unit of time, both as they stand in an observation.
        sharpness: of its preference for the option of least priced loss.
    """

    price: float
    sharpness: float


class Pricing:
    """Policies that follow from one price: every decision takes the option of least loss plus priced time.

    Args:
        plan: the decisions.
        budgets: that every policy keeps.
    """

    def __init__(self, plan: Plan, budgets: Budgets | None = None) -> None:
        observer = Observer(plan)
        layout = observer.layout
        rows = np.stack([observer.static_row(index) for index in plan.order])
        steps, options = range(len(plan.order)), range(len(plan.options))
        offered = np.array([[plan.points(step, option) is not None for option in options] for step in steps])
        self.plan, self._budgets = plan, budgets
        self._loss = np.where(offered, rows[:, layout.of_options("loss")], np.inf)
        self._time = rows[:, layout.of_options("time")]

    def policy(self, price: float) -> DraftPolicy:
        """What an agent without doubts would decide at this price."""
        construction = Construction(self.plan, self._budgets)
        for row in self._loss + price * self._time:
            construction.take(construction.nearest(int(row.argmin())))
        return construction.policy()

    def ladder(self, most: int) -> dict[float, DraftPolicy]:
        """At most so many different policies by rising price, as evenly as they come in their cost."""
        policies = {float(price): self.policy(float(price)) for price in _PRICES}
        costs = {price: self.plan.table.features.cost(policy) for price, policy in policies.items()}
        wanted = np.linspace(min(costs.values()), max(costs.values()), most)
        nearest = {min(costs, key=lambda price: abs(costs[price] - cost)) for cost in wanted.tolist()}
        different = {policies[price].digest: price for price in sorted(nearest, reverse=True)}
        return {price: policies[price] for price in sorted(different.values())}

    def guessed_price(self) -> float:
        """The price with the best guess of all, made cautious."""
        features = self.plan.table.features
        return _CAUTION * float(max(_PRICES, key=lambda price: proxy_speedup(features, self.policy(float(price)))))

    def prior(self, price: float) -> Prior:
        """The price with a sharpness that leaves some room to explore."""
        regret = self._loss + price * self._time
        return Prior(price, _sharpness(regret - regret.min(axis=1, keepdims=True)))


def _sharpness(regret: np.ndarray) -> float:
    """The factor at which a softmax over `-regret` strays from its first choice as often as `_STRAYING` says."""
    for sharpness in np.geomspace(1.0, _SHARPEST, 121):
        weights = np.exp(-sharpness * regret)
        if float((1.0 - weights.max(axis=1) / weights.sum(axis=1)).mean()) <= _STRAYING:
            return float(sharpness)
    return _SHARPEST
