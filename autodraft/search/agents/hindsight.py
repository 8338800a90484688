"""`Hindsight`: what has been evaluated teaches a controller which policy a budget should have had.

Knows nothing of evaluating. A policy is an answer to every budget that it keeps, whichever it was decided for. For
budgets drawn at random the best known policy that keeps them is shown to the controller step by step, and it learns to
take the same options: self-imitation (Oh et al., 1806.05635) with relabelled goals (hindsight experience replay,
Andrychowicz et al., 1707.01495). It takes no evaluations, and no return of one budget is compared with that of another.
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

from autodraft.envs.sampling import sample_budgets
from autodraft.policies.choices import DROPPED, Budgets
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.observation import Observer
from autodraft.policy import DraftPolicy

_NUM_SHOWN = 32
"""Budgets of a lesson."""
_ALIKE = 0.01
"""Predictions over some hundred tokens do not tell speedups apart that differ by less."""
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
        """Of those that keep the budgets and gain as much as any but for `_ALIKE`, the one that takes least.

        So one policy stands for a range of budgets, and a controller has fewer of them to tell apart.
        """
        most_cost = math.inf if budgets.max_cost is None else budgets.max_cost
        most_bytes = math.inf if budgets.max_extra_bytes is None else budgets.max_extra_bytes
        fitting = [entry for entry in self._known.values() if entry[1] <= most_cost and entry[2] <= most_bytes]
        enough = (1.0 - _ALIKE) * max((entry[0] for entry in fitting), default=0.0)
        size = max(self._features.target_bytes, 1)
        good = (entry for entry in fitting if entry[0] >= enough)
        found = min(good, key=lambda entry: entry[1] + entry[2] / size, default=None)
        return None if found is None else found[3]


Step = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]
"""An observation, which options were allowed, and the one that is to be taken."""


class Hindsight:
    """Lessons for one controller.

    Args:
        agent: a controller with discrete options.
        plan: the decisions of its longest episode.
        given_layers: whether it is a channel controller, whose episodes begin with a layer decision.
    """

    def __init__(self, agent: OnPolicyAlgorithm, plan: Plan, given_layers: bool) -> None:
        self._agent, self._plan, self._given_layers = agent, plan, given_layers
        self._joint, self._observer = Plan.joint(plan.table), Observer(plan)

    def lesson(self, archive: Archive, random: np.random.Generator, share_of_rate: float = 1.0) -> None:
        """Draw budgets and imitate the best known policies for them, at a share of the agent's learning rate."""
        steps: list[Step] = []
        for _ in range(_NUM_SHOWN):
            budgets = sample_budgets(self._joint, random)
            policy = archive.best(budgets)
            if policy is not None:
                steps += demonstration(self._plan_of(policy), self._observer, policy, budgets)
        if steps:
            rate = share_of_rate * self._agent.lr_schedule(1.0)
            imitate(self._agent, steps, rate, random)

    def _plan_of(self, policy: DraftPolicy) -> Plan:
        if not self._given_layers:
            return self._plan
        *choices, _ = self._plan.table.choices(policy)
        return Plan.channels(self._plan.table, [choice != DROPPED for choice in choices])


def demonstration(plan: Plan, observer: Observer, policy: DraftPolicy, budgets: Budgets) -> Iterator[Step]:
    """The steps that decide this policy within the budgets, as a controller sees them."""
    construction, choices = Construction(plan, budgets), plan.table.choices(policy)
    while not construction.is_finished:
        option = int(plan.options[:, choices[construction.decision]].argmax())
        yield observer(construction), construction.mask(), option
        construction.take(option)


def imitate(agent: OnPolicyAlgorithm, steps: list[Step], learning_rate: float, random: np.random.Generator) -> None:
    """Make the shown options more likely: cross-entropy by the agent's own optimizer."""
    seen, masks, options = (np.stack(column) for column in zip(*steps, strict=True))
    policy: Any = agent.policy
    policy.set_training_mode(True)
    for group in policy.optimizer.param_groups:
        group["lr"] = learning_rate
    for _ in range(_EPOCHS):
        for batch in np.array_split(random.permutation(len(steps)), max(len(steps) // _BATCH_STEPS, 1)):
            arguments: dict[str, Any] = {"action_masks": masks[batch]} if isinstance(agent, MaskablePPO) else {}
            shown = torch.as_tensor(seen[batch]), torch.as_tensor(options[batch])
            _, log_prob, _ = policy.evaluate_actions(*shown, **arguments)
            policy.optimizer.zero_grad()
            (-log_prob.mean()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), _LONGEST_GRADIENT)
            policy.optimizer.step()
