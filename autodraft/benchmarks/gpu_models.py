"""Models of the shapes that people run, with random weights made on the device: no checkpoint, no network.

Knows nothing of what is measured. A random model's steps take the time of a trained one's; its text means nothing, so
nothing is decoded with it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from autodraft.benchmarks.gpu_device import free_bytes
from autodraft.policy import DraftPolicy
from autodraft.runtime import DraftPlan, ModelSpec, TransformerRuntime, build_runtime

_SPARE = 1.1
_SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3.1-8B": (
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 40960,
        },
    ),
    "Qwen3-32B": (
        "qwen3",
        {
            "hidden_size": 5120,
            "intermediate_size": 25600,
            "num_hidden_layers": 64,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
        },
    ),
}


def random_config(name: str) -> Any:
    """The `transformers` configuration of a shape, its head untied."""
    kind, sizes = _SHAPES[name]
    return AutoConfig.for_model(kind, tie_word_embeddings=False, **sizes)


def shortage(config: Any, available: int | None) -> str | None:
    """Why a bfloat16 target, its 4-bit copy and a tenth more do not fit into `available` bytes; None: they do."""
    spec = ModelSpec.from_config(config)
    uniform = (DraftPolicy.uniform(spec.num_blocks, bits) for bits in (16, 4))
    packed = sum(DraftPlan(policy, spec, 2, None).weight_bytes for policy in uniform)
    needed = _SPARE * (packed + 2 * spec.vocab_size * spec.hidden_size)
    if available is None or needed <= available:
        return None
    return f"needs {needed / 1e9:.0f} GB of device memory and {available / 1e9:.0f} GB are free"


def draft_shortage(policy: DraftPolicy, runtime: TransformerRuntime) -> str | None:
    """Why a draft's own packed weights do not fit beside what is on the device; None: they do."""
    needed = _SPARE * DraftPlan(policy, runtime.spec, runtime.full_bytes, None).extra_bytes
    available = free_bytes(runtime.device)
    if available is None or needed <= available:
        return None
    return f"needs {needed / 1e9:.0f} GB of device memory and {available / 1e9:.0f} GB are free"


def random_runtime(config: Any, device: torch.device, max_length: int) -> TransformerRuntime:
    """A bfloat16 model of random weights, ready to run."""
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    return build_runtime(model, max_length=max_length)
