"""Muon (Jordan et al., 2024) whose orthogonalisation runs in a precision of the caller's.

PyTorch's own one always takes bfloat16, which processors without such instructions emulate: there it takes longer than
everything else in a step of a small model. Defaults and results are those of `torch.optim.Muon` without weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MOMENTUM, _STEPS, _SMALLEST = 0.95, 5, 1e-7
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal, for matrices.

    Args:
        matrices: parameters, [outputs, inputs] each.
        lr: step, in spectral norm for a matrix that is not taller than wide.
        precision: of the orthogonalisation.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, precision: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; a matrix without one stays as it is."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group["lr"])

    def descend(self, lr: float) -> None:
        """A step of size `lr` along gradients of norm 1 at most, which are gone afterwards."""
        for group in self.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
            group["lr"] = lr
        self.step()
        self.zero_grad(set_to_none=True)

    def _move(self, matrix: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        update = orthogonalised(gradient.lerp(momentum, _MOMENTUM).to(self._precision))
        outputs, inputs = matrix.shape
        matrix.add_(update, alpha=-lr * math.sqrt(max(1.0, outputs / inputs)))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly U V^T of its singular value decomposition: singular values between about 0.7 and 1.2. Newton-Schulz."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    x: Tensor = matrix / matrix.norm().clamp_min(_SMALLEST)
    linear, cubic, quintic = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x
