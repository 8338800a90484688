"""A target that has lost sub-layers, as a Hugging Face checkpoint that loads anywhere.

A block that lost both of its sub-layers is gone. Where it lost one, the checkpoint format has no place for that: the
output projection of the lost one is zero, so that it adds nothing in any engine, and this package's runtime does not
run it. Knows nothing of how the weights were trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autodraft.measure.hf_pruned import depth_pruned
from autodraft.runtime.draft_weights import matrix_name, target_matrices
from autodraft.runtime.hf_weights import mlp_outputs, read_weights
from autodraft.runtime.spec import ModelSpec


@torch.no_grad()
def sparse_model(model: Any, kept: Collection[int], matrices: Mapping[str, Tensor]) -> Any:
    """The model without the sub-layers that are not `kept`, and with `matrices` (see `matrix_name`) in the others.

    `model` is a Hugging Face causal LM; its weights are overwritten.
    """
    spec = ModelSpec.from_config(model.config)
    own = target_matrices(read_weights(model, spec), spec, set(range(spec.num_sub_layers)))
    for name, matrix in matrices.items():
        own[name].copy_(matrix)
    for index in set(range(spec.num_sub_layers)) - set(kept):
        own[matrix_name(index // 2, "down" if index % 2 else "output")].zero_()
        bias = _output_projection(model, index).bias
        if bias is not None:
            bias.zero_()
    blocks = sorted({index // 2 for index in kept})
    return model if len(blocks) == spec.num_blocks else depth_pruned(model, blocks)


def _output_projection(model: Any, sub_layer: int) -> nn.Linear:
    """The module that writes a sub-layer's result to the residual stream."""
    if model.config.model_type == "gpt2":
        block = model.transformer.h[sub_layer // 2]
        return (block.mlp if sub_layer % 2 else block.attn).c_proj  # type: ignore[no-any-return]
    decoder = getattr(model.model, "decoder", model.model)
    layer = decoder.layers[sub_layer // 2]
    if hasattr(layer, "mlp"):
        found: nn.Linear = mlp_outputs(layer.mlp) if sub_layer % 2 else layer.self_attn.o_proj
    else:
        found = layer.fc2 if sub_layer % 2 else layer.self_attn.out_proj
    return found


def save_sparse_target(model: Any, tokenizer: Any, card: str, folder: Path) -> None:
    """Write checkpoint, tokenizer and model card into `folder`."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone
