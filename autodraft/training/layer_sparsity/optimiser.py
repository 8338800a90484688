"""Proximal gradient steps with momentum and one adaptive step size per matrix.

Knows matrices and their gradients, not losses or data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodraft.training.layer_sparsity.penalty import shrink_negative_part

_MOMENTUM, _MEMORY, _EPSILON = 0.9, 0.999, 1e-8


class ProximalSteps:
    """Adam (arXiv 1412.6980), except that its second moment is the mean over a run's matrix, not one of each entry.

    A matrix thus has a single step size, and the proximal operator of its penalty in the metric of the step is group
    soft-thresholding by step size times penalty. With one step size per entry that would not be so, and thresholding
    all the same would minimise another penalty than the one asked for.
    """

    def __init__(self, layers: Sequence[Tensor]) -> None:
        self._momenta = [torch.zeros_like(layer) for layer in layers]
        self._squares = [layer.new_zeros(layer.shape[0]) for layer in layers]
        self._count = 0

    def step(
        self, layers: Sequence[Tensor], gradients: Sequence[Tensor], learning_rate: float, penalty: Tensor
    ) -> None:
        """Change `layers` in place, each `[runs, outputs, inputs + 1]`.

        Args:
            layers: those given at the beginning.
            gradients: of the loss without penalty.
            learning_rate: size of a step in units of the gradient's root mean square.
            penalty: of each run, `[runs]`, on all layers but the first and the last.
        """
        self._count += 1
        momentum_share, memory_share = 1.0 - _MOMENTUM**self._count, 1.0 - _MEMORY**self._count
        for index, (layer, gradient) in enumerate(zip(layers, gradients, strict=True)):
            momentum = self._momenta[index].lerp_(gradient, 1.0 - _MOMENTUM)
            square = self._squares[index].lerp_(gradient.square().mean(dim=(1, 2)), 1.0 - _MEMORY)
            size = learning_rate / ((square / memory_share).sqrt() + _EPSILON)  # [runs]
            layer -= (size / momentum_share)[:, None, None] * momentum
            if 0 < index < len(layers) - 1:
                layer.copy_(shrink_negative_part(layer, size * penalty))
