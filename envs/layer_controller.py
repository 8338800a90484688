"""`AutoDraft/LayerController-v0`: which sub-layers are kept; something else decides their bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from autodraft.envs.sequential import SequentialEnv
from autodraft.errors import InputError
from autodraft.evaluator import Evaluator
from autodraft.policies.choices import Budgets, DecisionTable, share_menu
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.observation import Observer
from autodraft.policy import ChannelShares, DraftPolicy

Completion = Callable[[tuple[bool, ...], Budgets], DraftPolicy]
"""Which sub-layers are kept, and the budgets -> the policy."""


class LayerControllerEnv(SequentialEnv):
    """The layer controller's half of AJPQ: keep or drop.

    ## Description
    The agent walks over the target's sub-layers and keeps or drops each. What is kept runs at `kept_bits`, head
    included, or as `complete` (a channel controller) says.

    ## Action Space
    `Discrete(2)`: 0 drops, 1 keeps. `action_masks()` names what still leads to a policy within all budgets; any other
    action is replaced by the other one.

    ## Observation Space
    The table of `JointPolicyEnv` with n = 2; loss, time and memory of keeping are those of the fastest choice.

    ## Rewards
    As in `JointPolicyEnv`, for the completed policy.

    ## Starting State
    As in `JointPolicyEnv`.

    ## Episode End
    After 2 * blocks steps. Never truncated.

    ## Arguments
    Those of `PolicyEnv`, and:
    `kept_bits`: bits of everything that is kept; None takes the fastest. Not used with `complete`.
    `complete`: turns (kept, budgets) into the policy; called once at the end of each episode.
    `channels`: with `complete`, whether it may put channels of a sub-layer at different bits.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        kept_bits: int | None = None,
        complete: Completion | None = None,
        channels: bool = True,
        **arguments: Any,
    ) -> None:
        super().__init__(evaluator, **arguments)
        self._complete = complete
        self._completed: DraftPolicy | None = None
        self._plan = Plan.layers(self._table(kept_bits, channels), self.least_kept)
        self._observer = Observer(self._plan)
        self.action_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(0.0, 1.0, (self._observer.layout.size,), np.float32)

    def _table(self, kept_bits: int | None, channels: bool) -> DecisionTable:
        features = self.evaluator.features
        if self._complete is not None:
            menu = share_menu(features.available_bits, channels)
            return DecisionTable(features, menu, protect_ends=self.protect_ends)
        bits = features.fastest_head_bits if kept_bits is None else kept_bits
        if bits not in features.available_bits:
            raise InputError(f"kept_bits is {bits}; this device offers {features.available_bits}")
        menu = (ChannelShares(), ChannelShares.all_at(bits))
        return DecisionTable(features, menu, protect_ends=self.protect_ends, head_bits=(bits,))

    @property
    def plan(self) -> Plan:
        return self._plan

    def _begin(self, budgets: Budgets, options: Mapping[str, Any]) -> Construction:
        self._completed = None
        return Construction(self._plan, budgets)

    def _finished_policy(self) -> DraftPolicy:
        if self._complete is None:
            return super()._finished_policy()
        if self._completed is None:
            self._completed = self._complete(self.construction.kept, self.construction.budgets)
        return self._completed
