"""The group penalty on sub-layers: gates in [0, 1] under an l1 budget that falls from all of them to what is kept.

With a gate in front of each residual branch, the l1 norm of the gates is a penalty with one group per sub-layer. A
fixed weight of it would have to fit the model: too small it closes nothing, too large everything. So the constrained
form is used: projection onto the gates whose sum is the budget is the proximal step with the very weight that meets the
budget, and it sets gates to exactly zero. A gate is the probability that its branch runs, each window draws which ones
do, and the gradient passes straight through: gates that scale their branches would all shrink alike, which costs next
to nothing in front of a norm and says nothing of what can be removed. The analogue for transformers of the layer-wise
penalty of Hebiri & Lederer (arXiv 2006.15604), whose own one needs plain ReLU layers. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOMENTUM = 0.9
TRAVEL = 4.0
"""How far the gradients of a whole run could carry a gate, in root mean square over gates."""

_RAMP_SHARE = 0.75  # of the steps; in the rest the gates settle at the final budget
_BISECTIONS = 60
_CLOSED = 1e-6  # below this a gate is open by the rounding of the bisection only


@dataclass(frozen=True)
class Gates:
    """Probabilities that sub-layers run, and the running mean of their gradients, each float32 [sub-layers]."""

    values: Tensor
    momentum: Tensor

    @classmethod
    def opened(cls, count: int, device: torch.device) -> Gates:
        """All gates at 1."""
        return cls(torch.ones(count, device=device), torch.zeros(count, device=device))

    def sample(self, count: int, seed: int, step: int) -> Tensor:
        """Which sub-layers run in each of `count` windows of a step: 0 or 1, float32 [count, sub-layers]."""
        uniform = np.random.default_rng((seed, step)).random((count, len(self.values)))
        return (torch.from_numpy(uniform).to(self.values) < self.values).to(self.values.dtype)

    def descend(self, gradient: Tensor, step: int, steps: int, num_kept: int) -> Gates:
        """The gates after step `step` (from 1) of `steps`; the last one meets the budget of `num_kept`."""
        momentum = MOMENTUM * self.momentum + (1 - MOMENTUM) * gradient
        # Only how sub-layers compare matters: the common scale of the gradients changes a lot during a run.
        direction = momentum / momentum.square().mean().sqrt().clamp_min(torch.finfo(momentum.dtype).tiny)
        moved = self.values - TRAVEL / steps * direction
        return Gates(project(moved, budget_at(step / steps, len(moved), num_kept)), momentum)

    @property
    def num_open(self) -> int:
        """Gates that are not zero."""
        return int((self.values > 0).sum())

    def largest(self, count: int) -> list[int]:
        """Numbers of the `count` most open gates, ascending."""
        return sorted(self.values.argsort(descending=True, stable=True)[:count].tolist())


def budget_at(progress: float, count: int, num_kept: int) -> float:
    """Sum of the gates at `progress` in [0, 1]: from all `count` down to `num_kept`, linearly, then level."""
    return count - (count - num_kept) * min(progress / _RAMP_SHARE, 1.0)


def project(values: Tensor, total: float) -> Tensor:
    """The nearest point with entries in [0, 1] that add up to `total`: one soft threshold for all, by bisection."""
    low, high = float(values.min()) - 1.0, float(values.max())
    for _ in range(_BISECTIONS):
        threshold = (low + high) / 2
        if float((values - threshold).clamp(0.0, 1.0).sum()) > total:
            low = threshold
        else:
            high = threshold
    projected = (values - high).clamp(0.0, 1.0)
    return torch.where(projected < _CLOSED, 0.0, projected)
