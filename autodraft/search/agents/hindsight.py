"""`Hindsight`: what has been evaluated teaches a controller which policy a budget should have had.

Knows nothing of evaluating. A policy is an answer to every budget that it keeps, whichever it was decided for. For
budgets drawn at random the best known policy that keeps them is shown to the controller step by step, and the controller
learns to take the same options: self-imitation (Oh et al., 1806.05635) with relabelled goals (hindsight experience
replay, Andrychowicz et al., 1707.01495). It takes no evaluations, and no return of one budget is compared with that of
another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from autodraft.policies.choices import Budgets
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.observation import Observer
from autodraft.policy import DraftPolicy

NUM_SHOWN = 32
"""Budgets whose best known policies are shown in one lesson."""
_EPOCHS = 4
_BATCH_STEPS = 128
_LONGEST_GRADIENT = 0.5


class Archive:
    """Policies and what they were predicted to gain."""

    def __init__(self, features: PolicyFeatures) -> None:
        self._features = features
        self._known: dict[str, tuple[float, float, int, DraftPolicy]] = {}

    def add(self, policy: DraftPolicy, speedup: float) -> None:
        features = self._features
        extra_bytes = features.extra_bytes(policy) if features.target_bytes else 0
        self._known[policy.digest] = speedup, features.cost(policy), extra_bytes, policy

    def best(self, budgets: Budgets) -> DraftPolicy | None:
        """The best of those that keep the budgets; None where none does."""
        most_cost = math.inf if budgets.max_cost is None else budgets.max_cost
        most_bytes = math.inf if budgets.max_extra_bytes is None else budgets.max_extra_bytes
        fitting = (entry for entry in self._known.values() if entry[1] <= most_cost and entry[2] <= most_bytes)
        found = max(fitting, key=lambda entry: entry[0], default=None)
        return None if found is None else found[3]


Step = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]
"""An observation, which options were allowed, and the one that is to be taken."""


def demonstration(plan: Plan, observer: Observer, policy: DraftPolicy, budgets: Budgets) -> Iterator[Step]:
    """The steps that decide this policy within the budgets, as a controller sees them."""
    construction, choices = Construction(plan, budgets), plan.table.choices(policy)
    while not construction.is_finished:
        option = int(plan.options[:, choices[construction.decision]].argmax())
        yield observer(construction), construction.mask(), option
        construction.take(option)


def imitate(agent: OnPolicyAlgorithm, steps: list[Step], random: np.random.Generator) -> None:
    """Make the shown options more likely."""
    seen, masks, options = (np.stack(column) for column in zip(*steps, strict=True))
    policy: Any = agent.policy
    policy.set_training_mode(True)
    for _ in range(_EPOCHS):
        for batch in np.array_split(random.permutation(len(steps)), max(len(steps) // _BATCH_STEPS, 1)):
            arguments: dict[str, Any] = {"action_masks": masks[batch]} if isinstance(agent, MaskablePPO) else {}
            shown = torch.as_tensor(seen[batch]), torch.as_tensor(options[batch])
            _, log_prob, _ = policy.evaluate_actions(*shown, **arguments)
            policy.optimizer.zero_grad()
            (-log_prob.mean()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), _LONGEST_GRADIENT)
            policy.optimizer.step()
