"""`ModelSpec`: the architecture facts of a target, read from a Hugging Face configuration.

Holds no weights and imports no model code. Everything that our forward pass does not implement is
refused here, by name, so that no checkpoint runs with a silently wrong forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from autodraft.errors import UnsupportedModelError

SUPPORTED_FAMILIES = (
    *("llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text"),
    *("smollm3", "granite", "glm", "glm4", "ernie4_5", "seed_oss", "arcee", "exaone", "exaone4", "internlm3"),
    *("iquestcoder", "cwm", "nemotron", "jais2", "stablelm", "starcoder2", "olmo", "olmo2", "olmo3", "helium"),
    *("vaultgemma", "hyperclovax", "hunyuan_v1_dense", "nanochat", "opt", "gpt2"),
)
_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")
_ACTIVATIONS = {
    **{name: name for name in ("silu", "relu", "relu2", "gelu")},
    **{"swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"},
}
_LAYER_NORM_EPS = {
    **{"nemotron": "norm_eps", "jais2": "layer_norm_eps"},
    **{"stablelm": "layer_norm_eps", "starcoder2": "norm_epsilon"},
}
"""By family with LayerNorm: the setting."""
_UNGATED = ("arcee", "nemotron", "jais2", "starcoder2", "nanochat")
_GEMMAS = ("gemma", "gemma2", "gemma3_text", "vaultgemma")
_PAIRWISE = ("glm", "glm4", "ernie4_5", "helium")
"""Families that rotate neighbouring channels of a head."""
_NORMS_ROTATED = ("hunyuan_v1_dense", "nanochat")
"""Families whose queries and keys are normed after their rotation."""
_POST_NORM = ("exaone4", "olmo2", "olmo3")
"""Families without norms of what goes into a sub-layer."""
_UNIT_NORMS = ("nemotron", *_GEMMAS)
"""Families whose norms multiply by one more than their weights."""
LEAST_WINDOW = 128
"""All of a row's path is taken to be within its window, so a shorter one would keep drafts short."""


@dataclass(frozen=True)
class ModelSpec:
    """Sizes and variants of a decoder-only transformer.

    Attributes:
        family: the Hugging Face `model_type`.
        hidden_size, intermediate_size, head_dim: widths, in channels.
        num_heads, num_kv_heads: query heads, and the key/value heads that groups of them share.
        max_positions: positions that the checkpoint was made for; where frequencies (LongRoPE) or the size of queries
            (Ministral 3) are others further on, those before.
        norm: RMSNorm ("rms") or LayerNorm with bias ("layer").
        norm_eps: what is added to a mean square, for a residual stream as `embedding_scale` makes it.
        activation: SiLU, ReLU, its square, GELU, or GELU's approximation by tanh.
        gated: whether the MLP is `down(act(gate(x)) * up(x))` rather than `down(act(up(x)))`.
        rotary_dim: leading channels of a head that are rotated; 0: learned positions are added to the embeddings.
        sliding_window: keys that a query of the windowed blocks may see at most, its own and the last ones before it.
        windowed_blocks: where that holds.
        unrotated_blocks: those whose heads are not rotated (NoPE).
        rotates_pairs: whether channels 2i and 2i + 1 of a head are rotated together, not i and i + rotary_dim / 2.
        local_rotation: whether heads of windowed blocks are rotated by frequencies of their own.
        norms_before, norms_behind: where a sub-layer has norms: of what goes in, and of what it adds.
        qk_norm: whether queries and keys are normed, head by head or, with `joint_qk_norm`, all heads as one vector.
        norms_rotated: whether that comes after the rotation.
        norm_offset: what norms add to their weights.
        score_cap, logit_cap: bounds that scores of keys and logits approach, through a tanh.
        embedding_scale: what embeddings are multiplied by.
        query_scale: what queries are multiplied by, beside `head_dim ** -0.5`.
    """

    family: str
    num_blocks: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    activation: Literal["silu", "relu", "relu2", "gelu", "gelu_tanh"]
    gated: bool
    rotary_dim: int
    qk_norm: bool
    sliding_window: int | None = None
    windowed_blocks: frozenset[int] = frozenset()
    unrotated_blocks: frozenset[int] = frozenset()
    rotates_pairs: bool = False
    local_rotation: bool = False
    norms_before: bool = True
    norms_behind: bool = False
    joint_qk_norm: bool = False
    norms_rotated: bool = False
    norm_offset: float = 0.0
    score_cap: float | None = None
    logit_cap: float | None = None
    embedding_scale: float = 1.0
    query_scale: float = 1.0

    @property
    def num_sub_layers(self) -> int:
        return 2 * self.num_blocks

    @property
    def group_size(self) -> int:
        """Query heads per KV head."""
        return self.num_heads // self.num_kv_heads

    def rotation_of(self, block: int) -> int | None:
        """Which set of frequencies rotates heads of a block, if any: the first, or that of windowed blocks."""
        if not self.rotary_dim or block in self.unrotated_blocks:
            return None
        return int(self.local_rotation and block in self.windowed_blocks)

    def window_of(self, block: int) -> int | None:
        """Keys that a query of the block may see at most."""
        return self.sliding_window if block in self.windowed_blocks else None

    @property
    def fused_rows(self) -> dict[str, list[int]]:
        """By module of Phi-3, GLM and GPT-2: outputs of the maps that it holds, one after the other."""
        keys = self.num_kv_heads * self.head_dim
        heads = [self.num_heads * self.head_dim, keys, keys]
        return {"qkv_proj": heads, "c_attn": heads, "gate_up_proj": [self.intermediate_size] * 2}

    @classmethod
    def from_config(cls, config: Any) -> ModelSpec:
        """Read a `transformers` configuration; raises `UnsupportedModelError` naming what is not supported."""
        family = config.model_type
        if family not in SUPPORTED_FAMILIES:
            raise UnsupportedModelError(
                f"architecture {family!r} is not supported; supported: {', '.join(SUPPORTED_FAMILIES)}"
            )
        return {"opt": _from_opt, "gpt2": _from_gpt2}.get(family, _from_llama_like)(config)


def _activation(name: str) -> Any:
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"activation {name!r} is not supported; supported: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _from_llama_like(config: Any) -> ModelSpec:
    """With a rotary embedding; RMSNorm and a gated MLP, where no table above says otherwise.

    Granite and HyperCLOVA X multiply what a sub-layer adds, by m say. A stream divided by m is the same without that
    factor, where the eps of norms is divided by the square of m.
    """
    family = config.model_type
    if family == "stablelm" and (config.use_parallel_residual or config.qk_layernorm):
        raise UnsupportedModelError("StableLM with parallel sub-layers or norms of single heads is not supported")
    if family in _GEMMAS and getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModelError("Gemma with attention to tokens ahead is no causal language model")
    if family == "gemma3_text" and config.attn_logit_softcapping:
        raise UnsupportedModelError("Gemma 3 with soft caps on scores is not supported: transformers ignores them")
    if family == "olmo" and config.clip_qkv is not None:
        raise UnsupportedModelError("OLMo with bounds on queries, keys and values (clip_qkv) is not supported")
    windowed = _windowed_blocks(config)
    ropes = _rope_settings(config, windowed)
    rope = ropes[0]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    positions = config.max_position_embeddings
    if rope.get("rope_type") == "longrope" or "llama_4_scaling_beta" in rope:
        positions = min(positions, rope["original_max_position_embeddings"])
    branch_scale, unrotated = 1.0, frozenset[int]()
    embedding_scale = query_scale = 1.0
    norms_behind = family in ("gemma2", "gemma3_text", "glm4", *_POST_NORM) or getattr(config, "use_post_norm", False)
    if family in ("granite", "hyperclovax"):
        branch_scale = 1.0 if norms_behind else config.residual_multiplier  # which is part of weights of norms behind
        embedding_scale = config.embedding_multiplier / branch_scale
        query_scale = config.attention_multiplier * head_dim**0.5
    elif family == "smollm3":
        unrotated = frozenset(block for block, rotates in enumerate(config.no_rope_layers) if not rotates)
    elif family == "exaone4" and config.sliding_window is not None:
        unrotated = frozenset(range(config.num_hidden_layers)) - windowed
    elif family in _GEMMAS:
        embedding_scale = _stored(config.hidden_size**0.5, config)
        query_scale = (head_dim / getattr(config, "query_pre_attn_scalar", head_dim)) ** 0.5
    return ModelSpec(
        family=family,
        num_blocks=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        max_positions=positions,
        norm="layer" if family in ("olmo", *_LAYER_NORM_EPS) else "rms",
        norm_eps=_norm_eps(config) / branch_scale**2,
        activation=_activation(config.hidden_activation if family in _GEMMAS[1:] else config.hidden_act),
        gated=family not in _UNGATED,
        rotary_dim=int(head_dim * rope.get("partial_rotary_factor", 1.0)),
        qk_norm=family in ("qwen3", "gemma3_text", *_NORMS_ROTATED, *_POST_NORM),
        joint_qk_norm=family in ("olmo2", "olmo3"),
        norms_rotated=family in _NORMS_ROTATED,
        sliding_window=config.sliding_window if windowed else None,
        windowed_blocks=windowed,
        unrotated_blocks=unrotated,
        rotates_pairs=family in _PAIRWISE,
        local_rotation=len(ropes) > 1,
        norms_before=family not in _POST_NORM,
        norms_behind=norms_behind,
        norm_offset=1.0 if family in _UNIT_NORMS else 0.0,
        score_cap=getattr(config, "attn_logit_softcapping", None),
        logit_cap=getattr(config, "final_logit_softcapping", None),
        embedding_scale=embedding_scale,
        query_scale=query_scale,
    )


def _norm_eps(config: Any) -> float:
    if config.model_type == "olmo":
        return 1e-5  # no setting
    eps: float = getattr(config, _LAYER_NORM_EPS.get(config.model_type, "rms_norm_eps"))
    return eps


def _stored(value: float, config: Any) -> float:
    """A number as a tensor of the checkpoint's dtype holds it."""
    return float(torch.tensor(value).to(config.dtype or torch.float32))


def _windowed_blocks(config: Any) -> frozenset[int]:
    window, count = getattr(config, "sliding_window", None), config.num_hidden_layers
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * count
    unknown = ", ".join(sorted(set(kinds) - {"full_attention", "sliding_attention"}))
    if unknown:
        raise UnsupportedModelError(f"layers of {config.model_type!r} with {unknown} are not supported")
    if window is None:
        return frozenset()
    if window < LEAST_WINDOW:
        raise UnsupportedModelError(
            f"a sliding window of {window} tokens is not supported; the least is {LEAST_WINDOW}"
        )
    return frozenset(block for block, kind in enumerate(kinds) if kind == "sliding_attention")


def _rope_settings(config: Any, windowed: frozenset[int]) -> list[dict[str, Any]]:
    """Of all blocks, or of full attention and of windowed blocks, where those differ and there are both."""
    settings = getattr(config, "rope_parameters", None) or {}
    kinds = {"full_attention": len(windowed) < config.num_hidden_layers, "sliding_attention": bool(windowed)}
    ropes = [settings[kind] for kind, is_used in kinds.items() if is_used and kind in settings] or [settings]
    for rope in ropes:
        scaling = rope.get("rope_type", "default")
        if config.model_type == "hunyuan_v1_dense" and scaling == "dynamic" and rope.get("alpha"):
            continue  # with that its frequencies are the same at any length
        if scaling not in _ROPE_TYPES:
            raise UnsupportedModelError(
                f"rotary scaling {scaling!r} is not supported; supported: {', '.join(_ROPE_TYPES)}"
            )
    return ropes


def _from_opt(config: Any) -> ModelSpec:
    if not config.do_layer_norm_before:
        raise UnsupportedModelError("OPT with post-norm blocks (opt-350m) is not supported; use another OPT size")
    if config.word_embed_proj_dim != config.hidden_size:
        raise UnsupportedModelError("OPT with projected word embeddings is not supported; use another OPT size")
    if getattr(config, "_remove_final_layer_norm", False) or not config.layer_norm_elementwise_affine:
        raise UnsupportedModelError("OPT without its final or affine layer norms is not supported")
    return ModelSpec(
        family="opt",
        num_blocks=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_dim,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        norm="layer",
        norm_eps=1e-5,
        activation=_activation(config.activation_function),
        gated=False,
        rotary_dim=0,
        qk_norm=False,
    )


def _from_gpt2(config: Any) -> ModelSpec:
    if config.add_cross_attention:
        raise UnsupportedModelError("GPT-2 with attention to an encoder (add_cross_attention) is not supported")
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise UnsupportedModelError("GPT-2 whose scores are scaled by block, or not at all, is not supported")
    return ModelSpec(
        family="gpt2",
        num_blocks=config.n_layer,
        hidden_size=config.n_embd,
        intermediate_size=config.n_inner or 4 * config.n_embd,
        num_heads=config.n_head,
        num_kv_heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        vocab_size=config.vocab_size,
        max_positions=config.n_positions,
        norm="layer",
        norm_eps=config.layer_norm_epsilon,
        activation=_activation(config.activation_function),
        gated=False,
        rotary_dim=0,
        qk_norm=False,
    )
