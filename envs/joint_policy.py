"""`AutoDraft/JointPolicy-v0`: skipping and bits decided together, sub-layer by sub-layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from autodraft.envs.sequential import SequentialEnv
from autodraft.evaluator import Evaluator
from autodraft.policies.choices import Budgets, DecisionTable, share_menu
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.observation import Observer


class JointPolicyEnv(SequentialEnv):
    """The layer decision and the channel decision of each sub-layer as one: 0 bits is dropping (AJPQ).

    ## Description
    The first step decides the bits of the output head, the largest single part of a draft step. Then the agent walks
    over the target's sub-layers (attention 0, MLP 0, attention 1, ...) and says of each which share of its channels, in
    order of importance, runs at which bit-width.

    ## Action Space
    `Discrete(n)`: 0 drops the sub-layer, then shares by rising mean bits, n - 1 is full precision. With channels, on
    a device that offers 16, 8 and 4 bits: dropped; 12/16 at 4; all at 4; half at 8 and half at 4; 12/16 at 8; all at 8;
    half at 16 and half at 8; all at 16. Without channels: dropped, 4, 8, 16. The head takes the whole ones.
    `action_masks()` names the actions after which some policy still fits every budget; any other action is replaced by
    the nearest of these.

    ## Observation Space
    `Box(0, 1)`, one vector of these figures (n: actions):

    | figure | count | unit | range |
    |---|---|---|---|
    | index | 1 | number of the sub-layer over that of all; 1 is the head | 0 to 1 |
    | is_attention, is_mlp, is_head | 3 | flags | 0 or 1 |
    | size | 1 | share of the target's weights (of its time where sizes are unknown) | 0 to 1 |
    | block_influence | 1 | 1 - cosine around the sub-layer, over the largest of all | 0 to 1 |
    | drop_rank | 1 | rank in loss per time saved by dropping, over the last rank | 0 to 1 |
    | loss | n | x/(1+x) of the KL divergence in nats when only this is changed | 0 to 1 |
    | time | n | time of this choice beyond the fastest, in average decisions, over 4 | 0 to 1 |
    | memory | n | added bytes of this choice beyond the fewest, in average decisions, over 4 | 0 to 1 |
    | allowed | n | the action mask | 0 or 1 |
    | progress | 1 | share of the decisions taken | 0 to 1 |
    | cost, cost_ahead | 2 | target steps: decided so far; the rest at full precision | 0 to 1 |
    | cost_budget, cost_slack | 2 | target steps; what the fastest completion leaves of it; 1 without limit | 0 to 1 |
    | memory_used, memory_budget, memory_slack | 3 | the same, in shares of the target's weights | 0 to 1 |
    | kept | 1 | sub-layers kept so far, as a share of all | 0 to 1 |
    | loss_so_far | 1 | x/(1+x) of the summed losses | 0 to 1 |
    | bits_so_far | 1 | mean bits of what is decided, over 16 | 0 to 1 |
    | previous_1 to previous_4 | 4 | mean bits of the latest decisions over 16, 1 before the first | 0 to 1 |
    | time_price_ahead, memory_price_ahead | 2 | loss a unit that keeps what is left, log scale; 0: none | 0 to 1 |

    ## Rewards
    0 until the last step; then the natural logarithm of the speedup: predicted (F1), or in `JointPolicyMeasured-v0`
    measured (F2) with a chain of the best predicted length. A policy that cannot run gets `FAILURE_REWARD`. With
    shaping, every step adds the change of a potential; the sum over an episode changes by a constant.

    ## Starting State
    Nothing decided. `reset(options={"max_cost": 0.3, "max_extra_bytes": 10_000_000})` sets the budgets of the episode,
    `sample_budget=True` draws them.

    ## Episode End
    After 2 * blocks + 1 steps. Never truncated.

    ## Arguments
    Those of `PolicyEnv`, and `channels`: whether channels of a sub-layer may be at different bits. `info` has the
    same keys at every step: policy, alpha (measured only), top1_agreement (predicted only), c, tau, speedup,
    max_cost and max_extra_bytes (infinite without limit), and fidelity ("none" before the end, "failed" for a policy
    that cannot run).
    """

    def __init__(self, evaluator: Evaluator, *, channels: bool = True, **arguments: Any) -> None:
        super().__init__(evaluator, **arguments)
        features = self.evaluator.features
        table = DecisionTable(features, share_menu(features.available_bits, channels), protect_ends=self.protect_ends)
        self._plan = Plan.joint(table, self.least_kept)
        self._observer = Observer(self._plan)
        self.action_space = spaces.Discrete(len(table.menu))
        self.observation_space = spaces.Box(0.0, 1.0, (self._observer.layout.size,), np.float32)

    @property
    def plan(self) -> Plan:
        return self._plan

    def _begin(self, budgets: Budgets, options: Mapping[str, Any]) -> Construction:
        return Construction(self._plan, budgets)
