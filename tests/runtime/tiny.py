"""Tiny random checkpoints of every supported family, built from configurations."""

from typing import Any

import pytest
import torch
import transformers

_COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_LLAMA_LIKE = {**_COMMON, "intermediate_size": 112, "num_key_value_heads": 2}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "llama-bias": ("Llama", {**_LLAMA_LIKE, "attention_bias": True, "mlp_bias": True}),
    "llama3-rope": (
        "Llama",
        {
            **_LLAMA_LIKE,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama-linear-rope": (
        "Llama",
        {**_LLAMA_LIKE, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama-multi-head": ("Llama", {**_LLAMA_LIKE, "num_key_value_heads": 4}),
    "llama-head-dim": ("Llama", {**_LLAMA_LIKE, "head_dim": 32}),
    "mistral": ("Mistral", {**_LLAMA_LIKE, "sliding_window": None}),
    "qwen2": ("Qwen2", {**_LLAMA_LIKE}),
    "qwen3": ("Qwen3", {**_LLAMA_LIKE, "head_dim": 32}),
    "phi3": ("Phi3", {**_LLAMA_LIKE, "pad_token_id": None, "eos_token_id": None}),
    "phi3-longrope": (
        "Phi3",
        {
            **_LLAMA_LIKE,
            "pad_token_id": None,
            "eos_token_id": None,
            "original_max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0],
                "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0],
            },
        },
    ),
    "phi4-mini": (
        "Phi3",
        {
            **_LLAMA_LIKE,
            "pad_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        },
    ),
    "ministral": ("Ministral", {**_LLAMA_LIKE, "head_dim": 16, "sliding_window": 256}),
    "ministral3": (
        "Ministral3",
        {
            **_LLAMA_LIKE,
            "head_dim": 16,
            "pad_token_id": None,
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 256},
                **{"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
                "llama_4_scaling_beta": 0.1,
            },
        },
    ),
    "smollm3": ("SmolLM3", {**_LLAMA_LIKE, "no_rope_layer_interval": 2, "pad_token_id": None}),
    "granite": (
        "Granite",
        {
            **_LLAMA_LIKE,
            "attention_bias": True,
            "mlp_bias": True,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
            "logits_scaling": 6.0,
        },
    ),
    "glm": ("Glm", {**_LLAMA_LIKE, "head_dim": 32, "attention_bias": True, "pad_token_id": None}),
    "glm4": ("Glm4", {**_LLAMA_LIKE, "head_dim": 32, "attention_bias": True, "pad_token_id": None}),
    "ernie4.5": ("Ernie4_5", {**_LLAMA_LIKE, "head_dim": 32, "use_bias": True}),
    "helium": ("Helium", {**_LLAMA_LIKE, "num_key_value_heads": 4, "head_dim": 16, "pad_token_id": None}),
    "seed-oss": ("SeedOss", {**_LLAMA_LIKE, "head_dim": 32, "attention_bias": True, "attention_out_bias": True}),
    "arcee": ("Arcee", {**_LLAMA_LIKE}),
    "nemotron": (
        "Nemotron",
        {
            **_LLAMA_LIKE,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "stablelm": (
        "StableLm",
        {
            **_LLAMA_LIKE,
            "use_qkv_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        },
    ),
    "starcoder2": ("Starcoder2", {**_LLAMA_LIKE, "sliding_window": 256, "pad_token_id": None}),
    "mistral-window": ("Mistral", {**_LLAMA_LIKE, "sliding_window": 128}),
    "qwen3-window": (
        "Qwen3",
        {**_LLAMA_LIKE, "head_dim": 32, "use_sliding_window": True, "sliding_window": 128, "max_window_layers": 1},
    ),
    "gemma": ("Gemma", {**_LLAMA_LIKE, "head_dim": 256}),
    "gemma2": (
        "Gemma2",
        {
            **_LLAMA_LIKE,
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "sliding_window": 128,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.5,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            **_LLAMA_LIKE,
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "sliding_window": 128,
            "sliding_window_pattern": 2,
        },
    ),
    "exaone": ("Exaone", {**_LLAMA_LIKE}),
    "internlm3": ("InternLM3", {**_LLAMA_LIKE, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "iquestcoder": ("IQuestCoder", {**_LLAMA_LIKE, "head_dim": 16}),
    "cwm": (
        "Cwm",
        {
            **_LLAMA_LIKE,
            "head_dim": 16,
            "sliding_window": 128,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "jais2": ("Jais2", {**_LLAMA_LIKE, "num_key_value_heads": 4}),
    "exaone4": ("Exaone4", {**_LLAMA_LIKE, "sliding_window": 128, "sliding_window_pattern": 2}),
    "olmo2": ("Olmo2", {**_LLAMA_LIKE}),
    "olmo3": (
        "Olmo3",
        {
            **_LLAMA_LIKE,
            "sliding_window": 128,
            "num_key_value_heads": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 500000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
            },
        },
    ),
    "olmo3-windows": ("Olmo3", {**_LLAMA_LIKE, "sliding_window": 128}),
    "olmo": ("Olmo", {**_LLAMA_LIKE}),
    "vaultgemma": (
        "VaultGemma",
        {
            **{**_LLAMA_LIKE, "head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 128},
            **{"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5},
        },
    ),
    "hyperclovax": (
        "HyperCLOVAX",
        {
            **_LLAMA_LIKE,
            **{"embedding_multiplier": 10.0, "residual_multiplier": 0.4},
            **{"attention_multiplier": 0.1, "logits_scaling": 0.125},
        },
    ),
    "hyperclovax-no-norms-behind": (
        "HyperCLOVAX",
        {**_LLAMA_LIKE, "use_post_norm": False, "embedding_multiplier": 10.0, "residual_multiplier": 0.4},
    ),
    "hunyuan": (
        "HunYuanDenseV1",
        {
            **{**_LLAMA_LIKE, "head_dim": 32, "attention_bias": True},
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 1000.0},
        },
    ),
    "nanochat": ("NanoChat", {**_LLAMA_LIKE, "final_logit_softcapping": 1.5}),
    "opt": ("OPT", {**_COMMON, "ffn_dim": 112, "word_embed_proj_dim": 64}),
    "gpt2": ("GPT2", {**_COMMON, "n_inner": 112, "bos_token_id": 0, "eos_token_id": 2}),
}


def tiny_model(name: str, seed: int = 0, **changes: Any) -> Any:
    """A random Hugging Face model in float32; weights large enough that logits differ, norms and biases not trivial."""
    family, settings = CONFIGS[name]
    if not hasattr(transformers, f"{family}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    config = getattr(transformers, f"{family}Config")(**{**settings, **changes})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4.0)
    return model
