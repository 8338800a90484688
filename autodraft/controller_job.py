"""`ControllerJob`: everything that decides the training of a controller; values in, checked values out.

Knows nothing of torch, agents or training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from autodraft.configuration import RUNS_FOLDER, TargetSettings, checked_settings

Agent = Literal["ppo", "maskable-ppo", "a2c", "ddpg", "td3", "sac", "hierarchical"]


class ControllerJob(TargetSettings):
    """One training of a controller."""

    algorithm: Agent = Field(default="maskable-ppo", description="agent of stable-baselines3 that learns")
    episodes: int = Field(default=2000, ge=1, description="policies to learn from")
    tune: int = Field(default=0, ge=0, description="settings of the agent that Optuna tries first, each in a tenth")
    settings: dict[str, Any] = Field(default_factory=dict, description="hyper-parameters of the agent")
    sample_budget: bool = Field(default=True, description="learn to decide for any budget of time and memory")
    channels: bool = Field(default=False, description="share the channels of a sub-layer out over bit-widths")
    calibration_tokens: int = Field(default=512, ge=16, description="tokens for importance, sensitivity and acceptance")
    seed: int = Field(default=0, ge=0, description="seed of everything that is drawn")
    output: Path | None = Field(default=None, description="folder of agent and logs; null names it by the model")

    @property
    def output_folder(self) -> Path:
        """Where agent, checkpoint, curve and logs go."""
        return RUNS_FOLDER / f"{self.folder_name}-controller" if self.output is None else self.output


def controller_job(settings: Mapping[str, Any]) -> ControllerJob:
    """The job of these settings; an unknown or impossible one is an `InputError`."""
    return checked_settings(ControllerJob, settings, "training of a controller")
