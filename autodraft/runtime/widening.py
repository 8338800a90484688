"""Function-preserving widening: a small checkpoint with the cost of a larger one (`--widen K`).

Every width is repeated K times and every matrix is tiled K x K and divided by K, so that each channel
of the wide model equals its channel of the narrow one (the idea of Net2Net, Chen et al., arXiv
1511.05641). Acceptance is that of the trained model, time and memory those of one K * K times as large.
It is a stand-in for the memory-bound regime, not a claim about any other model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autodraft.errors import InputError, UnsupportedModelError
from autodraft.runtime.spec import ModelSpec

_WIDTHS = (
    *("hidden_size", "intermediate_size", "ffn_dim", "n_inner", "word_embed_proj_dim"),
    *("num_attention_heads", "num_key_value_heads"),
)
_FINAL_NORMS = ("model.norm.", "model.decoder.final_layer_norm.", "transformer.ln_f.")
_TABLES = ("embed_tokens.weight", "embed_positions.weight", "wte.weight", "wpe.weight", "lm_head.weight")


def widen(model: Any, factor: int) -> Any:
    """A new Hugging Face model `factor` times as wide that computes the same function as `model`."""
    if factor < 1:
        raise InputError(f"--widen is {factor}; it must be 1 or more")
    if factor == 1:
        return model
    spec = ModelSpec.from_config(model.config)
    if "gemma" in spec.family:
        raise UnsupportedModelError(f"cannot widen a {spec.family} checkpoint: its embeddings are scaled by its width")
    if not any(name.startswith(_FINAL_NORMS) for name in model.state_dict()):
        raise UnsupportedModelError(f"cannot widen a {spec.family} checkpoint: its last norm has no weights")
    config = copy.deepcopy(model.config)
    for name in _WIDTHS:
        value = getattr(config, name, None)
        if value is not None:
            setattr(config, name, value * factor)
    if spec.rotary_dim:
        config.head_dim = spec.head_dim
    with torch.device("meta"):
        wide = type(model)(config)
    state = {name: _widened(name, tensor, factor, spec) for name, tensor in model.state_dict().items()}
    wide.load_state_dict(state, assign=True, strict=False)
    wide.tie_weights()
    _move_buffers(model, wide)
    if any(parameter.is_meta for parameter in wide.parameters()):
        raise UnsupportedModelError(f"cannot widen a {spec.family} checkpoint: it has weights of unknown shape")
    return wide.eval()


def widened_matrix(matrix: Tensor, factor: int) -> Tensor:
    """The map that does to `factor` copies of its inputs what `matrix` does to one. [outputs, inputs]"""
    return matrix.repeat(factor, factor).div_(factor)


def widened_table(table: Tensor, factor: int) -> Tensor:
    """A head or an embedding: every channel `factor` times; the final norm takes their sum back. [vocab, hidden]"""
    return table.repeat(1, factor)


def _widened(name: str, tensor: Tensor, factor: int, spec: ModelSpec) -> Tensor:
    if name.endswith(_TABLES):
        return widened_table(tensor, factor)
    if tensor.ndim == 2:
        return _tiled(name, tensor, factor, spec)
    if name.endswith(("q_norm.weight", "k_norm.weight", "query_layernorm.weight", "key_layernorm.weight")):
        return tensor.repeat(factor if spec.joint_qk_norm else 1)  # the size of a head is kept
    if not name.startswith(_FINAL_NORMS):
        return _each_map(name, tensor, spec, 0, lambda channels: channels.repeat(factor))
    # The head sums over `factor` copies of each channel: the final norm takes that back.
    offset = spec.norm_offset if name.endswith("weight") else 0.0
    return ((tensor.float() + offset) / factor - offset).to(tensor.dtype).repeat(factor)


def _tiled(name: str, matrix: Tensor, factor: int, spec: ModelSpec) -> Tensor:
    """The widened matrix, which GPT-2 keeps the other way round."""
    return _each_map(name, matrix, spec, int(spec.family == "gpt2"), lambda part: widened_matrix(part, factor))


def _each_map(name: str, tensor: Tensor, spec: ModelSpec, outputs: int, widened: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor of a module widened; where the module is several maps in one, each of them by itself.

    `outputs`: the dimension of their outputs.
    """
    rows = spec.fused_rows.get(name.split(".")[-2])
    if rows is None:
        return widened(tensor)
    return torch.cat([widened(part) for part in tensor.split(rows, outputs)], outputs)


def _move_buffers(source: Any, target: Any) -> None:
    """Buffers that are not saved (rotary frequencies) are computed at construction, here on no device: copy them."""
    modules = dict(source.named_modules())
    for name, module in target.named_modules():
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, key, getattr(modules[name], key))
