"""`DraftWeights`: matrices of a draft's own in the place of the target's, and the file that they are kept in.

Only matrices of sub-layers and, where it runs at low bits, of the head: embedding, norms and biases of a draft are
always the target's. A file of the narrow model serves its widened forms as well: it is tiled as they are. Knows nothing
of how matrices came about or how they run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autodraft.errors import ProfileError
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import BlockWeights, Projection, TargetWeights
from autodraft.runtime.widening import widened_matrix, widened_table

HEAD = "head"
"""Name of the output head among a draft's matrices."""

ATTENTION_PARTS = ("query", "key", "value", "output")


def mlp_parts(spec: ModelSpec) -> tuple[str, ...]:
    """Names of an MLP's matrices."""
    return ("gate", "up", "down") if spec.gated else ("up", "down")


def sub_layer_parts(sub_layer: int, spec: ModelSpec) -> tuple[str, ...]:
    """Names of the matrices of sub-layer 2 * block + (0 attention, 1 MLP)."""
    return mlp_parts(spec) if sub_layer % 2 else ATTENTION_PARTS


def matrix_name(block: int, part: str) -> str:
    """The name of a matrix in files and mappings, such as `blocks.3.query`."""
    return f"blocks.{block}.{part}"


def target_matrices(weights: TargetWeights, spec: ModelSpec, sub_layers: set[int]) -> dict[str, Tensor]:
    """The target's own matrices of some sub-layers."""
    return {
        matrix_name(index // 2, part): getattr(weights.blocks[index // 2], part).weight
        for index in sorted(sub_layers)
        for part in sub_layer_parts(index, spec)
    }


def kept_sub_layers(policy: DraftPolicy) -> set[int]:
    """Sub-layers that run at any bit-width."""
    return {index for index, shares in enumerate(policy.sub_layers) if not shares.is_skipped}


def save_draft_weights(matrices: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> WeightsFile:
    """Write matrices by the names of `matrix_name`, in the target's dtype; how a profile beside the file names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    save_file({name: matrix.detach().to(dtype).contiguous() for name, matrix in matrices.items()}, partial)
    partial.chmod(0o644)  # safetensors writes for the owner alone
    partial.replace(path)
    return WeightsFile.of(path, path.parent)


@dataclass(frozen=True)
class DraftWeights:
    """Matrices by the names of `matrix_name`, in the target's dtype and on its device; `digest` identifies them."""

    matrices: Mapping[str, Tensor]
    digest: str

    @classmethod
    def read(cls, file: WeightsFile, weights: TargetWeights) -> DraftWeights:
        """The tensors of a profile's file; `ProfileError` where it is missing, changed or another model's."""
        path = file.verified_path()
        try:
            tensors = load_file(path, device=str(weights.embedding.device))
        except (SafetensorError, OSError) as error:
            raise ProfileError(f"{path}: not a safetensors file ({error})") from error
        shapes = {
            matrix_name(index, part): projection.matrix.shape
            for index, block in enumerate(weights.blocks)
            for part, projection in vars(block).items()
            if isinstance(projection, Projection)
        }
        shapes[HEAD] = weights.head.shape
        matrices = {}
        for name, tensor in tensors.items():
            fitting = _widened(name, tensor.to(weights.embedding.dtype), shapes.get(name))
            if fitting is None:
                raise ProfileError(f"{path}: the tensor {name!r} {tuple(tensor.shape)} does not fit this model")
            matrices[name] = fitting
        return cls(matrices, file.sha256)

    @classmethod
    def unsaved(cls, matrices: Mapping[str, Tensor]) -> DraftWeights:
        """Matrices that are in no file; each call's are others."""
        return cls(matrices, uuid4().hex)

    def check(self, policy: DraftPolicy, spec: ModelSpec) -> None:
        """Raise `ProfileError` unless there is a matrix for everything that the policy keeps."""
        for index in sorted(kept_sub_layers(policy)):
            for part in sub_layer_parts(index, spec):
                if matrix_name(index // 2, part) not in self.matrices:
                    name = matrix_name(index // 2, part)
                    raise ProfileError(f"the draft's own weights lack {name}, which its policy keeps")

    def applied_to(self, weights: TargetWeights) -> TargetWeights:
        """The target with these matrices in the place of its own."""
        blocks = tuple(self._block(index, block) for index, block in enumerate(weights.blocks))
        return replace(weights, blocks=blocks, head=self.matrices.get(HEAD, weights.head))

    def _block(self, index: int, block: BlockWeights) -> BlockWeights:
        changed: dict[str, Any] = {
            part: replace(projection, matrix=self.matrices[matrix_name(index, part)])
            for part, projection in vars(block).items()
            if isinstance(projection, Projection) and matrix_name(index, part) in self.matrices
        }
        return replace(block, **changed)


def _widened(name: str, matrix: Tensor, shape: torch.Size | None) -> Tensor | None:
    """`matrix`, widened where `shape` is that of a wider model; None where it fits neither way."""
    if shape is None or matrix.ndim != 2 or shape[1] % matrix.shape[1]:
        return None
    factor = shape[1] // matrix.shape[1]
    if factor > 1:
        matrix = widened_table(matrix, factor) if name == HEAD else widened_matrix(matrix, factor)
    return matrix if matrix.shape == shape else None
