"""What calibration alone says of a policy's speedup (F0), and the price of time that follows from it.

Knows nothing of evaluating. The guess orders policies roughly; it is never reported. A price turns loss and time into
one figure, so that every decision can be taken alone; the best price is where a learning controller starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autodraft.measure.formulas import best_num_draft_tokens, tokens_per_cycle
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.observation import Observer
from autodraft.policy import DraftPolicy

_LONGEST_DRAFT = 8
_PRICES = np.geomspace(1e-3, 10.0, 41)
_CAUTION = 0.5
"""A controller begins at this share of the best price: it keeps more, at more bits."""
_STRAYING = 0.12
"""Share of the decisions in which a controller that has learnt nothing departs from its own first choice."""


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


def prior_of(plan: Plan) -> Prior:
    """The price with the best guess of all, made cautious, and a sharpness that leaves some room to explore."""
    observer = Observer(plan)
    layout = observer.layout
    rows = np.stack([observer.static_row(index) for index in plan.order])
    loss, time = rows[:, layout.of_options("loss")], rows[:, layout.of_options("time")]

    def guess(price: float) -> float:
        construction = Construction(plan)
        for row in loss + price * time:
            construction.take(construction.nearest(int(row.argmin())))
        return proxy_speedup(plan.table.features, construction.policy())

    price = _CAUTION * float(max(_PRICES, key=guess))
    offered = np.stack(
        [[plan.points(step, o) is not None for o in range(len(plan.options))] for step in range(len(plan.order))]
    )
    regret = np.where(offered, loss + price * time, np.inf)
    regret -= regret.min(axis=1, keepdims=True)
    return Prior(price, _sharpness(regret))


def _sharpness(regret: np.ndarray) -> float:
    """The factor at which a softmax over `-regret` strays from its first choice as often as `_STRAYING` says."""
    for sharpness in np.geomspace(1.0, 1e4, 81):
        weights = np.exp(-sharpness * regret)
        if float((1.0 - weights.max(axis=1) / weights.sum(axis=1)).mean()) <= _STRAYING:
            return float(sharpness)
    return 1e4
