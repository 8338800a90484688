"""`SequentialEnv`: environments that take one decision a step, by the number of an option.

Knows nothing of which decisions these are: a subclass brings the plan and an observer over it.
"""

from __future__ import annotations

from typing import SupportsInt

import numpy as np
import numpy.typing as npt

from autodraft.envs.base import PolicyEnv
from autodraft.policies.observation import Observer, Vector


class SequentialEnv(PolicyEnv[SupportsInt]):
    """Base of the environments with a `Discrete` action space."""

    _observer: Observer

    def _observe(self) -> Vector:
        return self._observer(self.construction)

    def _apply(self, action: SupportsInt) -> None:
        self.construction.take(self.construction.nearest(int(action)))

    def action_masks(self) -> npt.NDArray[np.bool_]:
        return self.construction.mask()
