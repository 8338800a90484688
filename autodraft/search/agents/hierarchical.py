"""AJPQ's two controllers, learning in turns: the layer controller and, given its decision, the channel controller.

Knows nothing of studies or files. While one learns the other stands still. The layer controller's policies are
completed by draws of the channel controller: its first choices would make the same few policies again and again, which
tells a search nothing. The channel controller's episodes begin with the layer controller's first choice, as a decision
does: what a drawn layer decision gains or loses would drown what bits do. Both see one criterion, the loss and time of
each sub-layer that calibration measured.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from autodraft.envs import ChannelControllerEnv, LayerControllerEnv
from autodraft.evaluator import Evaluator
from autodraft.policies.choices import Budgets
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.observation import Observer
from autodraft.policies.rollout import Chooser, roll_out
from autodraft.policy import DraftPolicy
from autodraft.search.agents.algorithms import AgentSettings, chooser, make_agent
from autodraft.search.agents.exploring import KeepExploring

CONTROLLER = "maskable-ppo"


class ControllerPair:
    """Both controllers and their environments over one evaluator.

    Args:
        evaluator: calibrated, or answered from outside.
        settings: of both.
        seed: of both.
        price: of time, where both start; None takes what calibration suggests to each.
        arguments: of both environments (budgets, protection, channels).
    """

    def __init__(
        self, evaluator: Evaluator, settings: AgentSettings, seed: int, price: float | None = None, **arguments: Any
    ) -> None:
        arguments |= {"shaping": settings.shaping}
        self._layers_env = LayerControllerEnv(evaluator, complete=self._complete, **arguments)
        self._channels_env = ChannelControllerEnv(evaluator, decide_layers=self._decide, **arguments)
        self._observers = Observer(self._layers_env.plan), Observer(self._channels_env.plan)
        self.layers = make_agent(CONTROLLER, self._layers_env, settings, seed, price)
        self.channels = make_agent(CONTROLLER, self._channels_env, settings, seed + 1, price)

        self._callbacks = {agent: KeepExploring() for agent in (self.layers, self.channels)}

    def learn_in_turns(self) -> None:
        """One update of each controller."""
        for agent in (self.layers, self.channels):
            steps = agent.n_steps  # type: ignore[attr-defined]
            agent.learn(steps, callback=self._callbacks[agent], reset_num_timesteps=False)

    @property
    def agents(self) -> dict[str, BaseAlgorithm]:
        return {"layers": self.layers, "channels": self.channels}

    def _complete(self, kept: tuple[bool, ...], budgets: Budgets) -> DraftPolicy:
        plan = Plan.channels(self._channels_env.plan.table, kept)
        choose: Chooser = chooser(self.channels, deterministic=False)
        return roll_out(Construction(plan, budgets), self._observers[1], choose).policy()

    def _decide(self, budgets: Budgets) -> tuple[bool, ...]:
        construction = Construction(self._layers_env.plan, budgets)
        return roll_out(construction, self._observers[0], chooser(self.layers)).kept
