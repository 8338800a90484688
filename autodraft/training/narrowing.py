"""`Narrowing`: MLPs of a draft that keep a part of their neurons, dense while they are trained.

A file of draft weights has the target's shapes, with zeros where a neuron is gone; training with those would waste
time, and low bits would share their scales with zeros. Knows nothing of which neurons are worth keeping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from autodraft.runtime.draft_weights import matrix_name
from autodraft.runtime.weights import BlockWeights, TargetWeights

_INPUTS, _OUTPUT = ("gate", "up"), "down"


@dataclass(frozen=True)
class Narrowing:
    """Which neurons are left, where it is not all of them.

    Attributes:
        neurons: block -> their numbers, ascending.
    """

    neurons: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, matrices: Mapping[str, Tensor], num_blocks: int) -> Narrowing:
        """A neuron of which nothing comes, in matrices of the target's shapes, is gone; a silent MLP stays whole."""
        found = {}
        for block in range(num_blocks):
            down = matrices.get(matrix_name(block, _OUTPUT))
            if down is None:
                continue
            neurons = down.any(dim=0).nonzero().flatten()
            if 0 < len(neurons) < down.shape[1]:
                found[block] = neurons
        return cls(found)

    def dense(self, matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Matrices of the target's shapes without the rows and columns of neurons that are gone."""
        dense = dict(matrices)
        for block, neurons in self.neurons.items():
            for part in (*_INPUTS, _OUTPUT):
                name = matrix_name(block, part)
                if name in dense:
                    dense[name] = dense[name].index_select(int(part == _OUTPUT), neurons)
        return dense

    def spread(self, dense: Mapping[str, Tensor], num_neurons: int) -> dict[str, Tensor]:
        """The inverse of `dense`."""
        matrices = dict(dense)
        for block, neurons in self.neurons.items():
            for part in (*_INPUTS, _OUTPUT):
                matrix = dense.get(matrix_name(block, part))
                if matrix is not None:
                    dim = int(part == _OUTPUT)
                    shape = [num_neurons if axis == dim else size for axis, size in enumerate(matrix.shape)]
                    whole = torch.zeros(shape, dtype=matrix.dtype, device=matrix.device)
                    matrices[matrix_name(block, part)] = whole.index_copy(dim, neurons, matrix.detach())
        return matrices

    def biases_of(self, weights: TargetWeights) -> TargetWeights:
        """The target, for a student with dense matrices of its own: neurons that are gone have no bias either."""
        blocks = list(weights.blocks)
        for block, neurons in self.neurons.items():
            blocks[block] = _without_biases(blocks[block], neurons)
        return replace(weights, blocks=tuple(blocks))


def _without_biases(block: BlockWeights, neurons: Tensor) -> BlockWeights:
    changed: dict[str, Any] = {}
    for part in _INPUTS:
        projection = getattr(block, part)
        if projection is not None and projection.bias is not None:
            changed[part] = replace(projection, bias=projection.bias[neurons])
    return replace(block, **changed)
