"""`PolicyEnv`: what all environments have in common, from budgets to rewards.

Knows nothing of models: an evaluator is given to it. A subclass says which decisions an episode takes in which order,
and what becomes of the last one; this class keeps the policy under construction, its mask, the observation and `info`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec

from autodraft.envs.rendering import policy_image, policy_map
from autodraft.envs.rewards import Judge, RewardFidelity, Shaping, potential
from autodraft.envs.sampling import sample_budgets
from autodraft.errors import InputError, PolicyError
from autodraft.evaluator import Evaluation, Evaluator
from autodraft.policies.choices import Budgets
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.observation import Vector
from autodraft.policy import DraftPolicy
from autodraft.policy_text import encode_policy

Action = TypeVar("Action")
_BUDGET_OPTIONS = ("max_cost", "max_extra_bytes")


class _Shared:
    """An evaluator in the spec that Gymnasium keeps and copies: the copy is the same evaluator, not another model."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class PolicyEnv(gym.Env[Vector, Action], Generic[Action]):
    """Base of the environments; see their docstrings for what an agent needs to know.

    Args:
        evaluator: calibrated.
        max_cost: budget of every episode: a draft step over a target step. None is no limit.
        max_extra_bytes: budget of every episode: memory that the draft adds. None is no limit.
        sample_budget: draw both budgets anew at every reset, between the least that a policy takes and no limit.
        protect_ends: keep the first and the last block.
        min_kept_share: share of the sub-layers that is kept at least; one always is.
        shaping: potential of unfinished policies: none, proxy (F0) or predicted (F1).
        fidelity: of the final reward, predicted (F1) or measured (F2).
        predicted_episodes: with measured rewards, how many episodes are only predicted before measuring begins.
        render_mode: None, "ansi" or "rgb_array".
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        evaluator: Evaluator | _Shared,
        *,
        max_cost: float | None = None,
        max_extra_bytes: int | None = None,
        sample_budget: bool = False,
        protect_ends: bool = False,
        min_kept_share: float = 0.0,
        shaping: Shaping = "none",
        fidelity: RewardFidelity = "predicted",
        predicted_episodes: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.evaluator = evaluator.evaluator if isinstance(evaluator, _Shared) else evaluator
        if not 0.0 <= min_kept_share <= 1.0:
            raise InputError(f"min_kept_share is {min_kept_share}; it is a share between 0 and 1")
        for name, value, known in (
            ("render_mode", render_mode, (None, *self.metadata["render_modes"])),
            ("shaping", shaping, ("none", "proxy", "predicted")),
            ("fidelity", fidelity, ("predicted", "measured")),
        ):
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; choose one of {known}")
        self.render_mode = render_mode
        self.budgets = Budgets(max_cost, max_extra_bytes)
        self.sample_budget, self.protect_ends = sample_budget, protect_ends
        self.least_kept = max(int(np.ceil(min_kept_share * self.evaluator.features.num_sub_layers)), 1)
        self._judge = Judge(self.evaluator, fidelity, predicted_episodes)
        self._potential: Callable[[DraftPolicy], float] | None = potential(shaping, self.evaluator)
        self._construction: Construction | None = None
        self._last_potential = 0.0

    # Gymnasium sets `spec` when it makes an environment, and deep-copies it for every wrapper.
    @property
    def spec(self) -> EnvSpec | None:
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec.kwargs = {**spec.kwargs, "evaluator": _Shared(self.evaluator)}
        self._spec = spec

    _spec: EnvSpec | None = None

    @property
    def construction(self) -> Construction:
        """The policy under construction; there is none before the first reset."""
        if self._construction is None:
            raise InputError("reset the environment first")
        return self._construction

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The decisions of the longest episode."""

    @property
    def _widest_plan(self) -> Plan:
        """The plan whose totals say which budgets are possible at all."""
        return self.plan

    @abstractmethod
    def _begin(self, budgets: Budgets, options: Mapping[str, Any]) -> Construction:
        """The empty policy of a new episode."""

    @abstractmethod
    def _observe(self) -> Vector:
        """What the agent sees now."""

    @abstractmethod
    def _apply(self, action: Action) -> None:
        """Take a decision; what is not allowed becomes the nearest that is."""

    @abstractmethod
    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Which actions are allowed now, in the form that MaskablePPO asks for."""

    def _finished_policy(self) -> DraftPolicy:
        """The policy that is evaluated at the end."""
        return self.construction.policy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Begin a policy; `options` may give the budgets of this episode."""
        super().reset(seed=seed)
        given = dict(options or {})
        unknown = sorted(set(given) - {*_BUDGET_OPTIONS, *self._reset_options})
        if unknown:
            raise InputError(f"unknown reset option {unknown[0]!r}; known: {', '.join(self._known_options)}")
        try:
            self._construction = self._begin(self._episode_budgets(given), given)
        except PolicyError as error:
            raise InputError(str(error)) from error
        if self._potential is not None:
            self._last_potential = self._potential(self.construction.policy())
        return self._observe(), self._info(None)

    _reset_options: ClassVar[tuple[str, ...]] = ()

    @property
    def _known_options(self) -> tuple[str, ...]:
        return (*_BUDGET_OPTIONS, *self._reset_options)

    def _episode_budgets(self, options: Mapping[str, Any]) -> Budgets:
        if any(name in options for name in _BUDGET_OPTIONS):
            return Budgets(options.get("max_cost"), options.get("max_extra_bytes"))
        return sample_budgets(self._widest_plan, self.np_random) if self.sample_budget else self.budgets

    def step(self, action: Action) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Take one decision; the last one ends the episode and is rewarded."""
        if self.construction.is_finished:
            raise InputError("the episode is over; reset the environment first")
        self._apply(action)
        if not self.construction.is_finished:
            return self._observe(), self._shaped(0.0), False, False, self._info(None)
        outcome = self._judge.outcome(self._finished_policy())
        info = self._info(outcome.evaluation, "failed" if outcome.evaluation is None else None)
        return self._observe(), self._shaped(outcome.reward), True, False, info

    def _shaped(self, reward: float) -> float:
        if self._potential is None:
            return reward
        before = self._last_potential
        finished = self.construction.is_finished
        self._last_potential = 0.0 if finished else self._potential(self.construction.policy())
        return reward + self._last_potential - before

    def _info(self, evaluation: Evaluation | None, fidelity: str | None = None) -> dict[str, Any]:
        """The policy so far, its figures (0 where there is none) and budgets; `fidelity` is "none" before the end."""
        budgets = self.construction.budgets
        figures = ("alpha", "top1_agreement", "cost", "tokens_per_cycle", "speedup")
        alpha, agreement, cost, tau, speedup = (
            float(getattr(evaluation, name, None) or 0.0) if evaluation is not None else 0.0 for name in figures
        )
        return {
            "policy": encode_policy(self._policy()),
            "alpha": alpha,
            "top1_agreement": agreement,
            "c": cost,
            "tau": tau,
            "speedup": speedup,
            "max_cost": math.inf if budgets.max_cost is None else budgets.max_cost,
            "max_extra_bytes": math.inf if budgets.max_extra_bytes is None else float(budgets.max_extra_bytes),
            "fidelity": fidelity or (evaluation.fidelity if evaluation is not None else "none"),
        }

    def render(self) -> Any:
        """The map of layers and bits, as text or as an image; undecided sub-layers are marked."""
        if self.render_mode == "ansi":
            return policy_map(self._policy(), self._is_decided)
        return policy_image(self._policy(), self._is_decided) if self.render_mode == "rgb_array" else None

    def _policy(self) -> DraftPolicy:
        """The policy so far, with the target's own precision where nothing is decided."""
        return self._finished_policy() if self.construction.is_finished else self.construction.policy()

    def _is_decided(self, decision: int) -> bool:
        return self.construction.is_finished or self.construction.is_decided(decision)
