"""`LearnedDecider`: features in, policy out, by a controller that has been trained.

Knows nothing of networks or environments: a controller is a function from an observation and a mask to an option.
One rollout decides; nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autodraft.policies.choices import Budgets, DecisionTable, share_menu
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.observation import Observer, Vector
from autodraft.policy import DraftPolicy

Chooser = Callable[[Vector, npt.NDArray[np.bool_]], int]
"""An observation and which options are allowed -> an option; the nearest allowed one is taken."""


def roll_out(construction: Construction, observer: Observer, choose: Chooser) -> Construction:
    """Decide everything that is still open."""
    while not construction.is_finished:
        option = choose(observer(construction), construction.mask())
        construction.take(construction.nearest(option))
    return construction


@dataclass(frozen=True)
class LearnedDecider:
    """Decides by a controller, or by a layer controller and a channel controller in turn.

    Attributes:
        choose: the controller of all decisions; of the channels where there is a layer controller.
        choose_layers: the layer controller.
        budgets: that the policy keeps.
        channels: whether channels of a sub-layer may be at different bits, as in training.
        protect_ends: whether the first and last block are kept.
    """

    choose: Chooser
    choose_layers: Chooser | None = None
    budgets: Budgets = field(default_factory=Budgets)
    channels: bool = False
    protect_ends: bool = False

    def decide(self, features: PolicyFeatures) -> DraftPolicy:
        menu = share_menu(features.available_bits, self.channels)
        table = DecisionTable(features, menu, protect_ends=self.protect_ends)
        plan = Plan.joint(table)
        if self.choose_layers is not None:
            layers = Plan.layers(table)
            kept = roll_out(Construction(layers, self.budgets), Observer(layers), self.choose_layers).kept
            plan = Plan.channels(table, kept)
        return roll_out(Construction(plan, self.budgets), Observer(plan), self.choose).policy()
