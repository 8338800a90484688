"""The part of a target that all its plans share, as the compiled engine sees it: embeddings, norms, rotary tables."""

from __future__ import annotations

from typing import Any

import torch

from autodraft.runtime import native_binding as binding
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import Norm, TargetWeights

FULL_KINDS = {torch.float32: binding.KIND_F32, torch.bfloat16: binding.KIND_BF16, torch.float16: binding.KIND_F16}
"""Kinds of the target's own precision."""


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the engine keeps embeddings, keys and values of such a target in."""
    return torch.float32 if dtype == torch.float16 else dtype


_ACTIVATIONS = {"silu": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "relu2": 4}


def model_struct(
    spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype, max_positions: int
) -> tuple[binding.CModel, tuple[Any, ...]]:
    """What all plans of a target share, and the tensors that it points into."""
    norms = (binding.CBlockNorms * spec.num_blocks)()
    for index, block in enumerate(weights.blocks):
        norms[index] = binding.CBlockNorms(
            *_norm_pointers(block.attention_norm),
            *(_norm_pointers(norm)[0] for norm in (block.query_norm, block.key_norm)),
            *_norm_pointers(block.mlp_norm),
            *(_norm_pointers(norm)[0] for norm in (block.attention_norm_behind, block.mlp_norm_behind)),
        )
    cosine = sine = None
    if weights.rotations:
        tables = [rotation.tables(torch.arange(max_positions)) for rotation in weights.rotations]
        cosine, sine = (torch.stack(parts) for parts in zip(*tables, strict=True))
    dtype = arithmetic_dtype(dtype)
    blocks, numbers = range(spec.num_blocks), [spec.rotation_of(block) for block in range(spec.num_blocks)]
    rotations = torch.tensor([-1 if number is None else number for number in numbers], dtype=torch.int8)
    windowed = torch.tensor([block in spec.windowed_blocks for block in blocks], dtype=torch.uint8)
    embedding = weights.embedding.to(dtype).contiguous()
    positions = None if weights.positions is None else weights.positions.to(dtype).contiguous()
    struct = binding.CModel(
        *(spec.num_blocks, spec.hidden_size, spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.vocab_size),
        *(spec.norm == "layer", _ACTIVATIONS[spec.activation], spec.gated, FULL_KINDS[dtype]),
        *(spec.joint_qk_norm, spec.norms_rotated, spec.rotary_dim, spec.rotates_pairs),
        *(spec.norm_eps, spec.embedding_scale, spec.query_scale),
        *(spec.score_cap or 0.0, spec.logit_cap or 0.0),
        *map(binding.pointer, (embedding, positions, cosine, sine)),
        *(max_positions, spec.sliding_window or 0),
        *map(binding.pointer, (rotations, windowed)),
        norms,
        *_norm_pointers(weights.final_norm),
    )
    return struct, (norms, cosine, sine, rotations, windowed, embedding, positions, weights)


def _norm_pointers(norm: Norm | None) -> tuple[int | None, int | None]:
    return (None, None) if norm is None else (norm.weight.data_ptr(), binding.pointer(norm.bias))
