"""`TrainingOptions`: what a training of a controller is; values, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autodraft.errors import InputError
from autodraft.search.agents.algorithms import AGENTS, AgentSettings


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained, and for how long.

    Attributes:
        algorithm: one of `AGENTS`.
        episodes: policies to learn from, rounded up to whole blocks.
        sample_budget: draw the budgets of every episode, so that the controller learns to decide for any.
        channels: whether channels of a sub-layer may be at different bits.
        protect_ends: whether the first and last block are kept.
        seed: of everything.
        settings: hyper-parameters of the agent.
    """

    algorithm: str = "maskable-ppo"
    episodes: int = 1000
    sample_budget: bool = True
    channels: bool = False
    protect_ends: bool = False
    seed: int = 0
    settings: AgentSettings = field(default_factory=AgentSettings)

    def __post_init__(self) -> None:
        if self.algorithm not in AGENTS:
            raise InputError(f"no agent {self.algorithm!r}; choose one of {', '.join(AGENTS)}")
        if self.episodes < 1:
            raise InputError(f"episodes is {self.episodes}; it must be positive")

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "settings": self.settings.to_json()}

    def resumable(self) -> dict[str, Any]:
        """What has to be the same for a training to go on: everything but its length."""
        return {name: value for name, value in self.to_json().items() if name != "episodes"}
