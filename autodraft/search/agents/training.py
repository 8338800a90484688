"""`ControllerTraining`: teaches a controller by predictions, in blocks that can be stopped between.

Knows nothing of models or command lines. A block is a few episodes that begin with an empty policy and with random
numbers of their own, so what it does depends only on the agent as the block before left it: training that was killed
goes on from its last checkpoint exactly as if nothing had happened. The folder holds the checkpoint (agents, replay
buffer, number of blocks), the curve (a line for each episode) and TensorBoard's logs.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from autodraft.envs import JointPolicyEnv
from autodraft.errors import InputError
from autodraft.evaluator import Evaluator
from autodraft.measure.device import versions
from autodraft.policies.choices import Budgets
from autodraft.policies.rollout import LearnedDecider
from autodraft.policy_text import decode_policy
from autodraft.profile import write_atomically
from autodraft.search.agents.algorithms import (
    HIERARCHICAL,
    best_price,
    chooser,
    make_agent,
)
from autodraft.search.agents.curve import Curve, Episode
from autodraft.search.agents.files import AGENT_NAME, save_agents
from autodraft.search.agents.hierarchical import ControllerPair
from autodraft.search.agents.hindsight import Archive, Hindsight
from autodraft.search.agents.training_options import TrainingOptions

EPISODES_PER_BLOCK = 16
_SEEDS_PER_BLOCK = 10
_MOST_FINAL_LESSONS = 60
STATE_NAME, CURVE_NAME = "training.json", "curve.jsonl"


class ControllerTraining:
    """Trains in a folder, or goes on there; see the module's text.

    Args:
        evaluator: calibrated.
        options: of the training; those of an earlier run in the same folder must be the same, episodes excepted.
        folder: of everything it writes.
        on_episode: told of every episode.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        options: TrainingOptions,
        folder: Path,
        on_episode: Callable[[Episode], None] | None = None,
    ) -> None:
        self._evaluator, self.options, self._folder, self._on_episode = evaluator, options, folder, on_episode
        arguments: dict[str, Any] = {
            "sample_budget": options.sample_budget,
            "channels": options.channels,
            "protect_ends": options.protect_ends,
        }
        env = JointPolicyEnv(evaluator, shaping=options.settings.shaping, **arguments)
        price = best_price(env, evaluator)
        if options.algorithm == HIERARCHICAL:
            pair = ControllerPair(evaluator, options.settings, options.seed, price, **arguments)
            self._agents: dict[str, BaseAlgorithm] = pair.agents
        else:
            self._agents = {"joint": make_agent(options.algorithm, env, options.settings, options.seed, price)}
        folder.mkdir(parents=True, exist_ok=True)
        self._curve = Curve(folder / CURVE_NAME)
        self._archive = Archive(evaluator.features)
        self._hindsight = self._teachers() if options.sample_budget else []
        self._blocks, self._checkpoint = 0, ""
        self._resume()
        formats = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
        for role, agent in self._agents.items():
            agent.set_logger(configure(str(folder / "logs" / role), formats))

    @property
    def episodes(self) -> list[Episode]:
        """What its episodes ended in so far, those of earlier runs included."""
        return self._curve.episodes

    def decider(self, budgets: Budgets | None = None) -> LearnedDecider:
        """What has been learnt so far."""
        layers = self._agents.get("layers")
        return LearnedDecider(
            chooser(self._agents["channels" if layers is not None else "joint"]),
            None if layers is None else chooser(layers),
            budgets or Budgets(),
            channels=self.options.channels,
            protect_ends=self.options.protect_ends,
        )

    def run(self) -> Path:
        """Train to the end, with a checkpoint after each block; the path of the saved agent.

        The last lessons, at a falling rate, come after the last checkpoint: a longer training goes on without them.
        """
        while len(self.episodes) < self.options.episodes:
            self._learn_block()
            self._blocks += 1
            self._save_checkpoint()
        num_lessons = min(self._blocks, _MOST_FINAL_LESSONS)
        for number in range(num_lessons):
            self._teach([self.options.seed, self._blocks, number], 1.0 - number / num_lessons)
        path = self._folder / AGENT_NAME
        save_agents(self._agents, path, self._facts())
        return path

    def _learn_block(self) -> None:
        """A few episodes of each agent: budgets, exploration and everything else drawn from the block's own seed."""
        for number, (role, agent) in enumerate(self._agents.items()):
            agent.set_random_seed(self.options.seed + _SEEDS_PER_BLOCK * (self._blocks + 1) + number)
            agent.set_env(agent.get_env(), force_reset=True)  # type: ignore[arg-type]
            env = agent.get_env()
            assert env is not None
            steps = EPISODES_PER_BLOCK * len(env.get_attr("plan")[0].order)
            if hasattr(agent, "n_steps"):
                steps = -(-steps // agent.n_steps) * agent.n_steps
            agent.learn(steps, callback=_Listener(role, self._record), reset_num_timesteps=False)
        self._teach([self.options.seed, self._blocks], 1.0)

    def _teachers(self) -> list[Hindsight]:
        return [
            Hindsight(agent, agent.get_env().get_attr("plan")[0], role == "channels")  # type: ignore[union-attr]
            for role, agent in self._agents.items()
            if isinstance(agent, OnPolicyAlgorithm)
        ]

    def _teach(self, seed: list[int], share_of_rate: float) -> None:
        """One lesson for every agent that learns from what has been evaluated for whichever budget."""
        for number, hindsight in enumerate(self._hindsight):
            hindsight.lesson(self._archive, np.random.default_rng([*seed, number]), share_of_rate)

    def _record(self, role: str, info: Mapping[str, Any]) -> None:
        limits = {name: None if math.isinf(info[name]) else info[name] for name in ("max_cost", "max_extra_bytes")}
        episode = Episode(len(self.episodes) + 1, role, info["speedup"], info["c"], info["policy"], **limits)
        self._curve.append(episode)
        self._remember(episode)
        if self._on_episode is not None:
            self._on_episode(episode)

    def _remember(self, episode: Episode) -> None:
        if episode.speedup > 0:
            self._archive.add(decode_policy(episode.policy), episode.speedup)

    def _facts(self) -> dict[str, Any]:
        """What the card says of the agent."""
        options, features = self.options, self._evaluator.features
        return {
            "algorithm": options.algorithm,
            "settings": options.settings.to_json(),
            "available_bits": features.available_bits,
            "channels": options.channels,
            "protect_ends": options.protect_ends,
            "sample_budget": options.sample_budget,
            "num_blocks": features.num_blocks,
            "trained_on": dict(self._evaluator.identity),
            "episodes": len(self.episodes),
            "seed": options.seed,
            "versions": versions(),
        }

    def _save_checkpoint(self) -> None:
        """Agents and buffers into a folder of their own; only then the state that names it."""
        previous = self._checkpoint
        self._checkpoint = f"checkpoint-{self._blocks}"
        folder = self._folder / self._checkpoint
        folder.mkdir(exist_ok=True)
        for role, agent in self._agents.items():
            agent.save(folder / f"{role}.zip")
            if isinstance(agent, OffPolicyAlgorithm):
                agent.save_replay_buffer(folder / f"{role}-replay.pkl")
        state = {
            "options": self.options.resumable(),
            "blocks": self._blocks,
            "episodes": len(self.episodes),
            "checkpoint": self._checkpoint,
            "counters": {role: [agent.num_timesteps, agent._n_updates] for role, agent in self._agents.items()},
        }
        write_atomically(self._folder / STATE_NAME, json.dumps(state, indent=1) + "\n")
        if previous:
            shutil.rmtree(self._folder / previous, ignore_errors=True)

    def _resume(self) -> None:
        """Go on from the last checkpoint of this folder, if there is one."""
        path = self._folder / STATE_NAME
        if not path.is_file():
            self._curve.cut(0)
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["options"] != self.options.resumable():
            changed = sorted(
                name for name, value in self.options.resumable().items() if state["options"][name] != value
            )
            raise InputError(f"{self._folder} holds a training with other {', '.join(changed)}; choose another folder")
        self._blocks, self._checkpoint = state["blocks"], state["checkpoint"]
        for role, agent in self._agents.items():
            _restore(agent, self._folder / self._checkpoint, role, *state["counters"][role])
        self._curve.cut(state["episodes"])
        for episode in self._curve:
            self._remember(episode)


def _restore(agent: BaseAlgorithm, folder: Path, role: str, num_timesteps: int, num_updates: int) -> None:
    """Parameters, optimizers, variables and the replay buffer, into an agent that was made in the same way."""
    _, parameters, variables = load_from_zip_file(folder / f"{role}.zip", load_data=False)
    agent.set_parameters(parameters)
    for name, variable in (variables or {}).items():
        getattr(agent, name).data = variable.data
    agent.num_timesteps, agent._n_updates = num_timesteps, num_updates
    if isinstance(agent, OffPolicyAlgorithm):
        agent.load_replay_buffer(folder / f"{role}-replay.pkl")


class _Listener(BaseCallback):
    """Tells of every episode that ends."""

    def __init__(self, role: str, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._role, self._tell = role, tell

    def _on_step(self) -> bool:
        for is_done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if is_done:
                self._tell(self._role, info)
        return True
