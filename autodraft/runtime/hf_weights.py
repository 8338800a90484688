"""`read_weights`: the tensors of a loaded Hugging Face model, by what each family calls its modules.

Knows nothing of how they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import BlockWeights, Norm, Projection, Rotation, TargetWeights


def read_weights(model: Any, spec: ModelSpec, *, byte_planes: bool = False) -> TargetWeights:
    """Take the tensors out of a loaded `AutoModelForCausalLM`.

    With `byte_planes`, sub-layers that have planes are kept as such, and the model's own matrices are freed block
    by block: it cannot run any more.

    On an accelerator, whose memory is dear, the model's maps that are run as one are first put side by side: they
    become parts of one matrix, in the model as well, so that nobody needs a copy.
    """
    with torch.no_grad():
        if model.device.type != "cpu" and spec.family not in _OTHERWISE_NAMED:
            for layer in model.model.layers:
                attention, mlp = layer.self_attn, layer.mlp
                if hasattr(attention, "q_proj"):  # else they are one already
                    put_side_by_side(attention.q_proj, attention.k_proj, attention.v_proj)
                if hasattr(mlp, "gate_proj"):
                    put_side_by_side(mlp.gate_proj, mlp.up_proj)
        read = _OTHERWISE_NAMED.get(spec.family, _from_llama_like)
        return read(model, spec, byte_planes)


def put_side_by_side(*modules: Any) -> None:
    """Make the weights of linear modules with the same inputs parts of one matrix, one below the other."""
    whole = torch.cat([module.weight.data for module in modules])
    parts = whole.split([len(module.weight) for module in modules])
    for module, part in zip(modules, parts, strict=True):
        module.weight.data = part


def _norm(
    module: Any, offset: float = 0.0, scale: float = 1.0, *, channels: int = 0, device: torch.device | None = None
) -> Norm:
    """`offset`, `scale`: what the module adds to its weights, and a factor on both; one without weights has so many
    `channels`.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    weight = torch.ones(channels, device=device) if weight is None else weight.detach().float() + offset
    return Norm(weight * scale, None if bias is None else bias.detach().float())


def _projection(module: Any) -> Projection:
    return Projection(module.weight.detach(), None if module.bias is None else module.bias.detach().float())


def mlp_outputs(mlp: Any) -> nn.Linear:
    """The module that writes what an MLP adds."""
    found: nn.Linear = next(getattr(mlp, name) for name in ("c_proj", "fc2", "down_proj") if hasattr(mlp, name))
    return found


def _inner_maps(attention: Any, mlp: Any, spec: ModelSpec) -> list[Projection | None]:
    """Query, key, value, gate and up; Phi-3 and GLM have modules of several, one below the other."""
    if hasattr(attention, "qkv_proj"):
        found = _parts(attention.qkv_proj, spec.fused_rows["qkv_proj"])
    else:
        found = [_projection(module) for module in (attention.q_proj, attention.k_proj, attention.v_proj)]
    if hasattr(mlp, "gate_up_proj"):
        return [*found, *_parts(mlp.gate_up_proj, spec.fused_rows["gate_up_proj"])]
    gate = mlp.gate_proj if spec.gated else None
    up = next(getattr(mlp, name) for name in ("c_fc", "fc1", "up_proj") if hasattr(mlp, name))
    return [*found, None if gate is None else _projection(gate), _projection(up)]


def _parts(module: Any, rows: Sequence[int]) -> list[Projection]:
    """Maps of so many outputs that a module without bias has below each other."""
    return [Projection(part, None) for part in module.weight.detach().split(list(rows))]


def _stored(block: BlockWeights, layer: Any, byte_planes: bool) -> BlockWeights:
    """The block as it is kept; in planes it leaves nothing in the model's layer."""
    if not byte_planes:
        return block
    block = block.in_planes()
    for parameter in layer.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.new_empty(0)
    return block


def _norm_names(spec: ModelSpec) -> tuple[tuple[str | None, str | None], tuple[str | None, str | None]]:
    """Modules of a layer: norms before attention and MLP, and behind them."""
    usual = ("input_layernorm", "post_attention_layernorm")
    if spec.family == "glm4":
        return usual, ("post_self_attn_layernorm", "post_mlp_layernorm")
    if spec.family == "hyperclovax" and spec.norms_behind:
        return usual, ("post_norm1", "post_norm2")
    if spec.family == "vaultgemma":
        return ("input_layernorm", "pre_feedforward_layernorm"), (None, None)
    if not spec.norms_behind:
        return usual, (None, None)
    before = ("input_layernorm", "pre_feedforward_layernorm") if spec.norms_before else (None, None)
    return before, ("post_attention_layernorm", "post_feedforward_layernorm")


def _rotations(rotary: Any) -> tuple[Rotation, ...]:
    """Of all blocks, or of those kinds of blocks that a module with several has."""
    kinds = [kind for kind in ("", "full_attention_", "sliding_attention_") if hasattr(rotary, f"{kind}inv_freq")]
    found = [(getattr(rotary, f"{kind}inv_freq"), getattr(rotary, f"{kind}attention_scaling")) for kind in kinds]
    return tuple(Rotation(frequencies.detach().float(), float(scale)) for frequencies, scale in found)


def _from_llama_like(model: Any, spec: ModelSpec, byte_planes: bool) -> TargetWeights:
    config, embedding = model.config, model.model.embed_tokens.weight.detach()
    norm = partial(_norm, offset=spec.norm_offset, channels=spec.hidden_size, device=embedding.device)
    is_hyperclovax = spec.family == "hyperclovax"
    scale_behind = config.residual_multiplier if is_hyperclovax else 1.0
    of_heads = ("query_layernorm", "key_layernorm") if spec.family == "hunyuan_v1_dense" else ("q_norm", "k_norm")
    blocks = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        query, key, value, gate, up = _inner_maps(attention, mlp, spec)
        assert query and key and value and up
        before, behind = (
            [None if name is None else norm(getattr(layer, name), scale=scale) for name in names]
            for names, scale in zip(_norm_names(spec), (1.0, scale_behind), strict=True)
        )
        query_norm, key_norm = (
            norm(getattr(attention, name), channels=spec.head_dim) if spec.qk_norm else None for name in of_heads
        )
        block = BlockWeights(
            attention_norm=before[0],
            query=query,
            key=key,
            value=value,
            output=_projection(attention.o_proj),
            query_norm=query_norm,
            key_norm=key_norm,
            attention_norm_behind=behind[0],
            mlp_norm=before[1],
            gate=gate,
            up=up,
            down=_projection(mlp_outputs(mlp)),
            mlp_norm_behind=behind[1],
        )
        blocks.append(_stored(block, layer, byte_planes))
    logits_scale = getattr(config, "logits_scaling", 1.0)  # Granite divides by it
    rotations = _rotations(model.model.rotary_emb)
    if spec.family == "nanochat":  # norms embeddings, and turns the other way
        embedding = F.rms_norm(embedding.float(), (spec.hidden_size,), eps=spec.norm_eps).to(embedding.dtype)
        rotations = tuple(replace(rotation, frequencies=-rotation.frequencies) for rotation in rotations)
    return TargetWeights(
        embedding=embedding,
        positions=None,
        rotations=rotations,
        blocks=tuple(blocks),
        final_norm=norm(model.model.norm, scale=logits_scale if is_hyperclovax else 1 / logits_scale),
        head=model.lm_head.weight.detach(),
    )


def _from_opt(model: Any, spec: ModelSpec, byte_planes: bool) -> TargetWeights:
    decoder = model.model.decoder
    blocks = []
    for layer in decoder.layers:
        attention = layer.self_attn
        block = BlockWeights(
            attention_norm=_norm(layer.self_attn_layer_norm),
            query=_projection(attention.q_proj),
            key=_projection(attention.k_proj),
            value=_projection(attention.v_proj),
            output=_projection(attention.out_proj),
            mlp_norm=_norm(layer.final_layer_norm),
            up=_projection(layer.fc1),
            down=_projection(layer.fc2),
        )
        blocks.append(_stored(block, layer, byte_planes))
    table = decoder.embed_positions
    return TargetWeights(
        embedding=decoder.embed_tokens.weight.detach(),
        positions=table.weight.detach()[table.offset :],
        rotations=(),
        blocks=tuple(blocks),
        final_norm=_norm(decoder.final_layer_norm),
        head=model.lm_head.weight.detach(),
    )


def _from_gpt2(model: Any, spec: ModelSpec, byte_planes: bool) -> TargetWeights:
    """Its modules keep matrices the other way round, [inputs, outputs]."""
    decoder, rows = model.transformer, spec.fused_rows["c_attn"]
    blocks = []
    for layer in decoder.h:
        whole = _transposed(layer.attn.c_attn)
        assert whole.bias is not None
        query, key, value = map(Projection, whole.weight.split(rows), whole.bias.split(rows))
        block = BlockWeights(
            attention_norm=_norm(layer.ln_1),
            query=query,
            key=key,
            value=value,
            output=_transposed(layer.attn.c_proj),
            mlp_norm=_norm(layer.ln_2),
            up=_transposed(layer.mlp.c_fc),
            down=_transposed(layer.mlp.c_proj),
        )
        blocks.append(_stored(block, layer, byte_planes))
    return TargetWeights(
        embedding=decoder.wte.weight.detach(),
        positions=decoder.wpe.weight.detach(),
        rotations=(),
        blocks=tuple(blocks),
        final_norm=_norm(decoder.ln_f),
        head=model.lm_head.weight.detach(),
    )


def _transposed(module: Any) -> Projection:
    return Projection(module.weight.detach().T, module.bias.detach().float())


_OTHERWISE_NAMED = {"opt": _from_opt, "gpt2": _from_gpt2}
"""By family whose modules have other names than Llama's."""
