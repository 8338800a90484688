"""`TargetWeights`: the target's tensors under one naming (hf_weights.py takes them out of a Hugging Face model).

Knows nothing of kernels, policies or caches. Tensors are the model's own (no copies), in its dtype;
norm weights and biases are small and kept in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autodraft.runtime.byte_planes import BytePlanes

Matrix = Tensor | BytePlanes
"""[outputs, inputs], in the target's dtype or in two planes."""

_MATRICES = ((("query", "key", "value"), ("output",)), (("gate", "up"), ("down",)))
"""Of attention and MLP: those into the channels, which are run as one, and the one out of them."""


@dataclass(frozen=True)
class Norm:
    """RMSNorm or LayerNorm parameters."""

    weight: Tensor  # [channels], float32
    bias: Tensor | None  # [channels], float32; LayerNorm only


@dataclass(frozen=True)
class Projection:
    """A linear map."""

    matrix: Matrix
    bias: Tensor | None  # [outputs], float32

    @property
    def weight(self) -> Tensor:
        """The matrix in the target's dtype, put together anew where it is kept in planes. [outputs, inputs]"""
        return self.matrix.joined() if isinstance(self.matrix, BytePlanes) else self.matrix

    @property
    def is_zero(self) -> bool:
        """Whether its result is zero for every input."""
        return not bool(self.weight.any()) and (self.bias is None or not bool(self.bias.any()))


@dataclass(frozen=True)
class Rotation:
    """How heads are rotated.

    Attributes:
        frequencies: inverse ones. float32 [rotary_dim / 2]
        scale: factor on cos and sin (1 but for YaRN and LongRoPE).
    """

    frequencies: Tensor
    scale: float

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines. [n] -> float32 [n, rotary_dim / 2] each"""
        angles = positions[:, None].float() * self.frequencies
        return angles.cos() * self.scale, angles.sin() * self.scale


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """One transformer block; `gate` is None in a plain MLP, norms where the family has none.

    Weights of joint query and key norms are those of all heads, one after the other.
    """

    attention_norm: Norm | None
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    attention_norm_behind: Norm | None = None
    mlp_norm: Norm | None
    gate: Projection | None = None
    up: Projection
    down: Projection
    mlp_norm_behind: Norm | None = None

    def in_planes(self) -> BlockWeights:
        """The same block with the matrices of each sub-layer in planes, where all of them have some."""
        changed: dict[str, Any] = {}
        for sub_layer in _MATRICES:
            planes = [self._planes(names) for names in sub_layer]
            if all(planes):
                changed |= {name: projection for part in planes for name, projection in part.items()}
        return replace(self, **changed)

    def _planes(self, names: Sequence[str]) -> dict[str, Projection]:
        """Parts of the planes of these matrices one below the other; nothing where those have none."""
        found = {name: projection for name in names if (projection := getattr(self, name)) is not None}
        whole = BytePlanes.of(joined([projection.weight for projection in found.values()]))
        if whole is None:
            return {}
        parts = whole.split([len(projection.weight) for projection in found.values()])
        return {name: replace(found[name], matrix=part) for name, part in zip(found, parts, strict=True)}


@dataclass(frozen=True)
class TargetWeights:
    """Attributes:
    embedding: [vocab, hidden].
    positions: learned positions, [positions, hidden], or None.
    rotations: as `ModelSpec.rotation_of` numbers them; none with learned positions.
    head: [vocab, hidden]; the embedding itself when tied.
    """

    embedding: Tensor
    positions: Tensor | None
    rotations: tuple[Rotation, ...]
    blocks: tuple[BlockWeights, ...]
    final_norm: Norm
    head: Tensor

    @cached_property
    def silent_sub_layers(self) -> frozenset[int]:
        """Sub-layers, 2 * block + (0 attention, 1 MLP), that add exactly zero, as in a checkpoint that lost them."""
        return frozenset(index for index, output in enumerate(self._outputs) if output.is_zero)

    @cached_property
    def plane_sub_layers(self) -> frozenset[int]:
        """Sub-layers whose matrices are kept in planes."""
        return frozenset(index for index, output in enumerate(self._outputs) if isinstance(output.matrix, BytePlanes))

    @property
    def _outputs(self) -> list[Projection]:
        """The map out of each sub-layer."""
        return [projection for block in self.blocks for projection in (block.output, block.down)]


def joined_matrix(matrices: Sequence[Matrix]) -> Matrix:
    """The matrices one below the other: planes where all of them are planes, else a tensor."""
    planes = [matrix for matrix in matrices if isinstance(matrix, BytePlanes)]
    if len(planes) < len(matrices):
        return joined([matrix.joined() if isinstance(matrix, BytePlanes) else matrix for matrix in matrices])
    upper, lower = joined([part.upper for part in planes]), joined([part.lower for part in planes])
    return BytePlanes(upper, lower, planes[0].dtype)


def joined(weights: Sequence[Tensor]) -> Tensor:
    """The matrices one below the other; a view where they lie so already. [outputs, inputs] each, contiguous"""
    first, place = weights[0], weights[0].data_ptr()
    for weight in weights:
        if weight.data_ptr() != place or not weight.is_contiguous():
            return torch.cat(list(weights))
        place += weight.nbytes
    rows = sum(len(weight) for weight in weights)
    if first.untyped_storage().nbytes() < (first.storage_offset() + rows * first.shape[1]) * first.itemsize:
        return torch.cat(list(weights))  # neighbours by chance
    return first.as_strided((rows, first.shape[1]), first.stride())
