"""The training forward pass: a LlamaForCausalLM's own parameters, any subset of its sub-layers.

Written out so that a skipped sub-layer costs nothing and a fused one compiles to few kernels; the
parameters stay those of the Hugging Face model. Matrices run in bf16, residuals and norms in fp32.
Knows nothing about data, optimisers or schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from autodraft.training.config import ModelShape

NORM_EPS = 1e-6
IGNORE = -100


def build_model(shape: ModelShape, bos: int, eos: int, seed: int) -> LlamaForCausalLM:
    """A fresh model; the projections that write to the residual stream start at zero."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_blocks,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=NORM_EPS,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def rotary_tables(shape: ModelShape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each `[max_positions, head_dim]`."""
    half = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32) / shape.head_dim
    positions = torch.arange(shape.max_positions, device=device, dtype=torch.float32)
    angles = torch.outer(positions, shape.rope_theta**-half).repeat(1, 2)
    return angles.cos(), angles.sin()


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS) * weight).bfloat16()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.float().chunk(2, -1)
    return (torch.cat((left, right), -1) * cos + torch.cat((-right, left), -1) * sin).bfloat16()


def attention_branch(
    x: Tensor, norm: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, wo: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """What the attention sub-layer adds to the residual stream `x` `[batch, tokens, hidden]`."""
    batch, tokens, _ = x.shape
    head_dim = cos.shape[-1]
    qkv = F.linear(_norm(x, norm), torch.cat((wq, wk, wv)).bfloat16())
    parts = torch.split(qkv, [wq.shape[0], wk.shape[0], wv.shape[0]], -1)
    q, k, v = (part.view(batch, tokens, -1, head_dim).transpose(1, 2) for part in parts)
    groups = q.shape[1] // k.shape[1]
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(mixed.transpose(1, 2).reshape(batch, tokens, -1), wo.bfloat16()).float()


def mlp_branch(x: Tensor, norm: Tensor, wg: Tensor, wu: Tensor, wd: Tensor) -> Tensor:
    """What the MLP sub-layer adds to the residual stream `x` `[rows, hidden]`."""
    gate, up = F.linear(_norm(x, norm), torch.cat((wg, wu)).bfloat16()).chunk(2, -1)
    return F.linear((F.silu(gate.float()) * up).bfloat16(), wd.bfloat16()).float()


def logits_of(x: Tensor, norm: Tensor, embedding: Tensor) -> Tensor:
    """Next-token logits of `x` `[..., hidden]`, in bf16, `[..., vocab]`."""
    return F.linear(_norm(x, norm), embedding.bfloat16())


def loss_of(x: Tensor, norm: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of `x` `[rows, hidden]` against `labels` `[rows]`."""
    return F.cross_entropy(logits_of(x, norm, embedding).float(), labels, ignore_index=IGNORE)


class SublayerForward:
    """Runs a model with any of its sub-layers skipped. Sub-layer 2i is block i's attention, 2i+1 its MLP."""

    def __init__(self, model: LlamaForCausalLM, shape: ModelShape, compile_it: bool = False) -> None:
        self.model = model
        self.shape = shape
        self._cos, self._sin = rotary_tables(shape, model.device)
        wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = (
            (lambda function: torch.compile(function, dynamic=False)) if compile_it else (lambda function: function)
        )
        self._attention, self._mlp, self._loss = wrap(attention_branch), wrap(mlp_branch), wrap(loss_of)

    def branch(self, x: Tensor, sublayer: int) -> Tensor:
        """The residual contribution of one sub-layer."""
        layer: Any = self.model.model.layers[sublayer // 2]
        if sublayer % 2:
            mlp = layer.mlp
            weights = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
            flat = self._mlp(x.flatten(0, 1), layer.post_attention_layernorm.weight, *weights)
            return flat.view_as(x)
        attn, tokens = layer.self_attn, x.shape[1]
        projections = (attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight, attn.o_proj.weight)
        tables = self._cos[:tokens], self._sin[:tokens]
        return self._attention(x, layer.input_layernorm.weight, *projections, *tables)

    def hidden(self, inputs: Tensor, skipped: Collection[int] = ()) -> Tensor:
        """The residual stream after the last kept sub-layer, `[batch, tokens, hidden]`, fp32."""
        x = F.embedding(inputs, self.model.model.embed_tokens.weight)
        for sublayer in range(self.shape.num_sublayers):
            if sublayer not in skipped:
                x = x + self.branch(x, sublayer)
        return x

    def loss(self, windows: Tensor, skipped: Collection[int] = ()) -> Tensor:
        """Mean loss in nats per token over `windows` `[batch, tokens + 1]`."""
        x = self.hidden(windows[:, :-1], skipped).flatten(0, 1)
        return self._loss(x, self.model.model.norm.weight, self.model.lm_head.weight, windows[:, 1:].flatten())

    def logits(self, inputs: Tensor, skipped: Collection[int] = ()) -> Tensor:
        """`[batch, tokens, vocab]`, bf16."""
        return logits_of(self.hidden(inputs, skipped), self.model.model.norm.weight, self.model.lm_head.weight)
