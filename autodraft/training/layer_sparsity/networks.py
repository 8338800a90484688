"""Feed-forward ReLU networks of one shape, many of them side by side in the same tensors.

Knows shapes and the forward pass. Does not know how networks are trained or which of their layers could merge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Networks:
    """`f(x) = W^l relu(W^(l-1) ... relu(W^0 x))` with l hidden layers, for several runs at once.

    Every layer's matrix acts on its input extended by a one, so its last column is the bias. The tensors belong to
    whoever made them; nothing here changes them.

    Attributes:
        layers: `W^0 ... W^l`, each `[runs, outputs, inputs + 1]`.
    """

    layers: tuple[Tensor, ...]

    @property
    def num_runs(self) -> int:
        return self.layers[0].shape[0]

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.layers) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of features, widths of the hidden layers, number of outputs."""
        return (self.layers[0].shape[2] - 1, *(layer.shape[1] for layer in self.layers))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs `[runs, samples, outputs]` for inputs `[runs, samples, features]`."""
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = torch.relu(_affine(layer, hidden))
        return _affine(self.layers[-1], hidden)

    def select(self, runs: Tensor | Sequence[int]) -> Networks:
        """Copies of some of the runs, in the order given."""
        index = torch.as_tensor(runs, device=self.layers[0].device)
        return Networks(tuple(layer[index] for layer in self.layers))


def stack(networks: Sequence[Networks]) -> Networks:
    """Networks of the same shape side by side, in the order given."""
    return Networks(tuple(torch.cat(layers) for layers in zip(*(each.layers for each in networks), strict=True)))


def random_networks(
    num_runs: int, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Networks:
    """Normal weights of variance 2 / inputs (He et al., arXiv 1502.01852), 1 / inputs behind the last ReLU; no biases.

    Args:
        num_runs: how many networks.
        shape: see `Networks.shape`.
        generator: source of randomness, on the device where the networks shall be.
        dtype: of the weights.
    """
    layers = []
    for index, (inputs, outputs) in enumerate(pairwise(shape)):
        variance = (2.0 if index < len(shape) - 2 else 1.0) / inputs
        size = (num_runs, outputs, inputs + 1)
        layer = torch.randn(size, generator=generator, device=generator.device, dtype=dtype).mul_(math.sqrt(variance))
        layer[..., -1] = 0.0
        layers.append(layer)
    return Networks(tuple(layers))


def _affine(layer: Tensor, inputs: Tensor) -> Tensor:
    return torch.baddbmm(layer[..., -1].unsqueeze(1), inputs, layer[..., :-1].transpose(1, 2))
