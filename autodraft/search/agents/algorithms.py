"""The agents by name: algorithms of stable-baselines3 over an environment of this package.

Know nothing of studies, files or command lines. Episodes are short, only the last reward counts and nothing is
discounted, so horizons are whole episodes, the discount is 1 and advantages are returns minus the value network.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise

from autodraft.envs import ContinuousChoices, PolicyEnv
from autodraft.envs.continuous import option_at
from autodraft.errors import InputError
from autodraft.evaluator import Evaluator, TrialFailed
from autodraft.policies.continuous_controller import DeterministicController, GaussianController
from autodraft.policies.controller import WIDTH, Controller, MaskableController
from autodraft.policies.proxy import Pricing
from autodraft.policies.rollout import Chooser

ALGORITHMS = ("ppo", "maskable-ppo", "a2c", "ddpg", "td3", "sac")
HIERARCHICAL = "hierarchical"
AGENTS = (*ALGORITHMS, HIERARCHICAL)
CONTINUOUS = ("ddpg", "td3", "sac")
_NUM_PRICES = 16
_STEPS_PER_UPDATE = 4
"""Of DDPG, TD3 and SAC: their updates take longer than everything else in a search."""


@dataclass(frozen=True)
class AgentSettings:
    """Hyper-parameters that may be tuned; what an algorithm has no use for is ignored by it.

    Attributes:
        learning_rate: of Adam.
        entropy: weight of the entropy bonus; of SAC the starting temperature.
        width: of encoder and value network.
        episodes_per_update: of PPO; A2C updates after every one.
        epochs: passes over the episodes of an update.
        shaping: potential of unfinished policies: none or proxy.
        noise: sigma of DDPG's and TD3's actions.
    """

    learning_rate: float = 5e-3
    entropy: float = 0.05
    width: int = WIDTH
    episodes_per_update: int = 16
    epochs: int = 8
    shaping: str = "none"
    noise: float = 0.16

    def __post_init__(self) -> None:
        if self.shaping not in ("none", "proxy"):
            raise InputError(f"shaping {self.shaping!r} is unknown; choose none or proxy")
        for name in ("learning_rate", "width", "episodes_per_update", "epochs"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> AgentSettings:
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(document) - known)
        if unknown:
            raise InputError(f"unknown agent setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**document)


def make_agent(
    name: str,
    env: PolicyEnv[Any],
    settings: AgentSettings,
    seed: int,
    price: float | None = None,
    **arguments: Any,
) -> BaseAlgorithm:
    """An agent that has learnt nothing yet. It logs nothing: stable-baselines3's own logger would make a folder.

    Args:
        name: one of `ALGORITHMS`.
        env: a sequential environment.
        settings: its hyper-parameters.
        seed: of everything it draws.
        price: of time, where a controller starts; None takes the one that calibration suggests.
        arguments: further ones of every algorithm of stable-baselines3.
    """
    if name not in ALGORITHMS:
        raise InputError(f"no agent {name!r}; choose one of {', '.join(AGENTS)}")
    agent = _algorithm(name, env, settings, seed, price, **arguments)
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent


def _algorithm(
    name: str, env: PolicyEnv[Any], settings: AgentSettings, seed: int, price: float | None, **arguments: Any
) -> BaseAlgorithm:
    """The algorithm of a name with the networks of this package."""
    common: dict[str, Any] = {"gamma": 1.0, "seed": seed, "device": "cpu", "learning_rate": settings.learning_rate}
    common |= arguments
    num_options = int(env.action_space.n)  # type: ignore[attr-defined]
    pricing = Pricing(env.plan)
    prior = pricing.prior(pricing.guessed_price() if price is None else price)
    kwargs = {"num_options": num_options, "price": prior.price, "sharpness": prior.sharpness, "width": settings.width}
    if name in CONTINUOUS:
        return _continuous(name, ContinuousChoices(env), settings, {**common, "policy_kwargs": kwargs})
    episode = len(env.plan.order)
    common |= {"gae_lambda": 1.0, "ent_coef": settings.entropy, "policy_kwargs": kwargs}
    if name == "a2c":
        return A2C(Controller, env, n_steps=4 * episode, use_rms_prop=False, normalize_advantage=True, **common)
    common |= {
        "n_steps": settings.episodes_per_update * episode,
        "batch_size": 2 * episode,
        "n_epochs": settings.epochs,
    }
    if name == "ppo":
        return PPO(Controller, env, **common)
    return MaskablePPO(MaskableController, env, **common)


def _continuous(name: str, env: gym.Env[Any, Any], settings: AgentSettings, common: dict[str, Any]) -> BaseAlgorithm:
    """DDPG, TD3 or SAC over the continuous form: an update for every few steps once some episodes are known."""
    length = len(env.unwrapped.plan.order)  # type: ignore[attr-defined]
    common |= {
        "learning_rate": settings.learning_rate / 5,
        "learning_starts": 10 * length,
        "train_freq": (1, "episode"),
        "gradient_steps": max(length // _STEPS_PER_UPDATE, 1),
        "buffer_size": 200_000,
        "batch_size": 128,
    }
    if name == "sac":
        return _SAC(GaussianController, env, ent_coef=f"auto_{max(settings.entropy, 1e-6)}", **common)
    noise = NormalActionNoise(np.zeros(1), np.full(1, settings.noise))
    return (_TD3 if name == "td3" else _DDPG)(DeterministicController, env, action_noise=noise, **common)


class _OwnStart:
    """Before it learns, an agent acts as its network does and not at random: the network begins at a good policy."""

    def _sample_action(self, learning_starts: int, *arguments: Any, **named: Any) -> Any:
        return super()._sample_action(0, *arguments, **named)  # type: ignore[misc]


class _SAC(_OwnStart, SAC): ...


class _TD3(_OwnStart, TD3): ...


class _DDPG(_OwnStart, DDPG): ...


def chooser(agent: BaseAlgorithm, deterministic: bool = True) -> Chooser:
    """The agent as a function from an observation and a mask to an option."""
    if isinstance(agent, MaskablePPO):
        return lambda seen, mask: int(agent.predict(seen, deterministic=deterministic, action_masks=mask)[0])
    if isinstance(agent.action_space, spaces.Box):
        return lambda seen, mask: option_at(agent.predict(seen, deterministic=deterministic)[0], len(mask))
    return lambda seen, mask: int(agent.predict(seen, deterministic=deterministic)[0])


def best_price(env: PolicyEnv[Any], evaluator: Evaluator) -> float | None:
    """The price whose policy has the best prediction, of a few; None where none of them can run."""
    scores: dict[float, float] = {}
    for price, policy in Pricing(env.plan, env.budgets).ladder(_NUM_PRICES).items():
        with contextlib.suppress(TrialFailed):
            scores[price] = evaluator.predict(policy).speedup
    return max(scores, key=lambda price: scores[price]) if scores else None
