"""`AutoDraft/ChannelController-v0`: given which sub-layers are kept, at how many bits their channels run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from autodraft.envs.sampling import sample_kept
from autodraft.envs.sequential import SequentialEnv
from autodraft.evaluator import Evaluator
from autodraft.policies.choices import Budgets, DecisionTable, share_menu
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.observation import Observer

LayerDecision = Callable[[Budgets], Sequence[bool]]
"""The budgets of an episode -> which sub-layers are kept."""


class ChannelControllerEnv(SequentialEnv):
    """The channel controller's half of AJPQ: shares at {0, 4, 8, full} bits, in order of importance.

    ## Description
    A layer decision is given. The agent first decides the output head's bits; then it walks over the kept sub-layers
    (each a fused group: {q,k,v,o} or {gate,up,down}) and says which share of the channels runs at which bit-width.

    ## Action Space
    `Discrete(n)` as in `JointPolicyEnv`; 0 (dropping everything) is never allowed here.

    ## Observation Space
    The table of `JointPolicyEnv`.

    ## Rewards
    As in `JointPolicyEnv`.

    ## Starting State
    The layer decision of `reset(options={"kept": [True, False, ...]})`, one flag per sub-layer, else one drawn at
    random; budgets as in `JointPolicyEnv`.

    ## Episode End
    After one step for each kept sub-layer and one for the head. Never truncated.

    ## Arguments
    Those of `PolicyEnv`, and:
    `channels`: whether channels of a sub-layer may be at different bits.
    `decide_layers`: draws the layer decision of an episode (a layer controller); None draws any that is feasible.
    """

    _reset_options: ClassVar[tuple[str, ...]] = ("kept",)

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        channels: bool = True,
        decide_layers: LayerDecision | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(evaluator, **arguments)
        self._decide_layers = decide_layers
        features = self.evaluator.features
        table = DecisionTable(features, share_menu(features.available_bits, channels), protect_ends=self.protect_ends)
        self._layers = Plan.layers(table, self.least_kept)
        self._everything = Plan.channels(table, [True] * table.head)
        self._observer = Observer(self._everything)
        self.action_space = spaces.Discrete(len(table.menu))
        self.observation_space = spaces.Box(0.0, 1.0, (self._observer.layout.size,), np.float32)

    @property
    def plan(self) -> Plan:
        return self._everything

    @property
    def _widest_plan(self) -> Plan:
        return self._layers

    def _begin(self, budgets: Budgets, options: Mapping[str, Any]) -> Construction:
        kept = options.get("kept")
        if kept is None and self._decide_layers is not None:
            kept = self._decide_layers(budgets)
        elif kept is None:
            kept = sample_kept(self._layers, budgets, self.np_random)
        return Construction(Plan.channels(self._everything.table, tuple(map(bool, kept))), budgets)
