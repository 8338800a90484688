"""`ContinuousChoices`: one number between -1 and 1 per decision, for agents without discrete actions.

Knows nothing of what is decided. The interval is cut into equal parts, one for each option in their order (dropped,
then rising bits), as HAQ does; a part that is not allowed stands for the nearest option that is (AMC's action wall).
"""

from __future__ import annotations

from typing import Any, SupportsInt

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from autodraft.envs.base import PolicyEnv
from autodraft.errors import InputError
from autodraft.policies.observation import Vector


class ContinuousChoices(
    gym.ActionWrapper[Vector, npt.NDArray[np.float32], SupportsInt], gym.utils.RecordConstructorArgs
):
    """A sequential environment of this package with `Box(-1, 1, (1,))` actions, for DDPG, TD3 and SAC."""

    def __init__(self, env: gym.Env[Vector, SupportsInt]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not isinstance(env.unwrapped, PolicyEnv) or not isinstance(env.action_space, spaces.Discrete):
            raise InputError("only the sequential environments of autodraft.envs have a continuous form")
        self._num_options = int(env.action_space.n)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def action(self, action: Any) -> int:
        """The option whose part of the interval the number lies in."""
        return option_at(action, self._num_options)


def option_at(action: Any, num_options: int) -> int:
    """Which of equal parts of [-1, 1] a number lies in."""
    position = (float(np.asarray(action).reshape(-1)[0]) + 1.0) / 2.0
    return min(max(int(position * num_options), 0), num_options - 1)
