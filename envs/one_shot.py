"""`AutoDraft/OneShot-v0`: the whole policy as one action, for bandits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from autodraft.envs.base import PolicyEnv
from autodraft.evaluator import Evaluator
from autodraft.policies.choices import Budgets, DecisionTable, share_menu
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.observation import Observer, Vector


class OneShotEnv(PolicyEnv[npt.NDArray[np.integer[Any]]]):
    """All decisions of `JointPolicyEnv` in one step.

    ## Description
    The agent names a choice for every sub-layer and the head at once. The choices are then taken in turn; one that
    would leave no policy within the budgets is replaced by the nearest that does.

    ## Action Space
    `MultiDiscrete([n] * (2 * blocks + 1))` with the choices of `JointPolicyEnv`. `action_masks()` is flat, n flags per
    decision: what is allowed for each alone, when all others are as cheap as they can be.

    ## Observation Space
    `Box(0, 1)`: for each decision the figures index to memory of the table of `JointPolicyEnv`, one decision after
    another, then cost_budget and memory_budget.

    ## Rewards
    As in `JointPolicyEnv`. There is no step before the last, so shaping only subtracts a constant.

    ## Starting State
    As in `JointPolicyEnv`.

    ## Episode End
    After one step. Never truncated.

    ## Arguments
    Those of `PolicyEnv`, and `channels`: whether channels of a sub-layer may be at different bits.
    """

    def __init__(self, evaluator: Evaluator, *, channels: bool = True, **arguments: Any) -> None:
        super().__init__(evaluator, **arguments)
        features = self.evaluator.features
        table = DecisionTable(features, share_menu(features.available_bits, channels), protect_ends=self.protect_ends)
        self._plan = Plan.joint(table, self.least_kept)
        self._observer = Observer(self._plan)
        self.action_space = spaces.MultiDiscrete([len(table.menu)] * table.num_decisions)
        size = self._observer.whole(self.budgets).size
        self.observation_space = spaces.Box(0.0, 1.0, (size,), np.float32)

    @property
    def plan(self) -> Plan:
        return self._plan

    def _begin(self, budgets: Budgets, options: Mapping[str, Any]) -> Construction:
        return Construction(self._plan, budgets)

    def _observe(self) -> Vector:
        return self._observer.whole(self.construction.budgets)

    def _apply(self, action: npt.NDArray[np.integer[Any]]) -> None:
        for decision in self._plan.order:
            self.construction.take(self.construction.nearest(int(action[decision])))

    def action_masks(self) -> npt.NDArray[np.bool_]:
        budgets = self.construction.budgets
        return np.concatenate([Construction(plan, budgets).mask() for plan in self._each_first])

    @cached_property
    def _each_first(self) -> list[Plan]:
        """For every decision a plan that takes it before all others."""
        plan, everything = self._plan, self._plan.order
        orders = [[first, *(index for index in everything if index != first)] for first in sorted(everything)]
        return [Plan(plan.table, order, plan.options, least_kept=plan.least_kept) for order in orders]
