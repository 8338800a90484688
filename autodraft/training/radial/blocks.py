"""The sub-layers of any supported target in differentiable PyTorch, on whole windows of tokens.

Knows nothing of routes or of training. Attention comes in two forms: over keys and values that were given, those of the
target for the tokens before and the token's own for itself, as a draft sees them; or over its own, as a model of its own
sees them. Matrices run in bfloat16, residual stream and norms in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import BlockWeights, Norm, Projection, TargetWeights


@dataclass(frozen=True)
class Memory:
    """Keys and values of one attention sub-layer over a batch of windows. [windows, kv_heads, tokens, head_dim]"""

    keys: Tensor
    values: Tensor


class Blocks:
    """Forward passes over `weights`, sub-layer by sub-layer: sub-layer 2i is block i's attention, 2i + 1 its MLP."""

    def __init__(self, spec: ModelSpec, weights: TargetWeights) -> None:
        self.spec, self.weights = spec, weights

    def embed(self, tokens: Tensor) -> Tensor:
        """The residual stream before the first sub-layer. [windows, tokens] -> [windows, tokens, hidden]"""
        x = self.weights.embedding[tokens].float()
        if self.weights.positions is not None:
            x = x + self.weights.positions[: tokens.shape[1]].float()
        return x

    def branch(self, index: int, x: Tensor, memory: Memory | None = None) -> Tensor:
        """What a sub-layer adds to `x`; attention looks at `memory` before each token, or at its own keys."""
        block = self.weights.blocks[index // 2]
        if index % 2:
            return self._mlp(block, _norm(x, block.mlp_norm, self.spec))
        query, own = self._project(block, x)
        mixed = _attend_own(query, own) if memory is None else _attend_given(query, own, memory)
        return _linear(mixed.transpose(1, 2).flatten(2), block.output)

    def memory(self, index: int, x: Tensor) -> Memory:
        """Keys and values that attention sub-layer `index` makes of `x`."""
        return self._project(self.weights.blocks[index // 2], x)[1]

    def logits(self, x: Tensor) -> Tensor:
        """Next-token logits of the residual stream after the last sub-layer. float32 [..., vocab]"""
        normed = _norm(x, self.weights.final_norm, self.spec)
        return F.linear(normed.bfloat16(), self.weights.head.bfloat16()).float()

    def _project(self, block: BlockWeights, x: Tensor) -> tuple[Tensor, Memory]:
        spec, normed = self.spec, _norm(x, block.attention_norm, self.spec)
        query, key, value = (
            _linear(normed, projection).view(*x.shape[:2], -1, spec.head_dim).transpose(1, 2)
            for projection in (block.query, block.key, block.value)
        )
        if block.query_norm is not None and block.key_norm is not None:
            query, key = _norm(query, block.query_norm, spec), _norm(key, block.key_norm, spec)
        if self.weights.rotary_frequencies is not None:
            angles = torch.arange(x.shape[1], device=x.device)[:, None].float() * self.weights.rotary_frequencies
            cos, sin = (table * self.weights.rotary_scale for table in (angles.cos(), angles.sin()))
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        return query, Memory(key, value)

    def _mlp(self, block: BlockWeights, normed: Tensor) -> Tensor:
        activation = getattr(F, self.spec.activation)
        up = _linear(normed, block.up)
        hidden = activation(up) if block.gate is None else activation(_linear(normed, block.gate)) * up
        return _linear(hidden, block.down)


def trainable_copy(weights: TargetWeights) -> TargetWeights:
    """Float32 copies that gradients flow into; a head tied to the embedding stays tied."""
    copied: dict[int, Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in copied:
                copied[id(value)] = value.detach().float().clone().requires_grad_()
            return copied[id(value)]
        if isinstance(value, Norm | Projection | BlockWeights):
            return replace(value, **{field.name: copy(getattr(value, field.name)) for field in fields(value)})
        return tuple(map(copy, value)) if isinstance(value, tuple) else value

    made = {field.name: copy(getattr(weights, field.name)) for field in fields(weights)}
    if weights.rotary_frequencies is not None:
        made["rotary_frequencies"] = weights.rotary_frequencies
    if weights.head.data_ptr() == weights.embedding.data_ptr():
        made["head"] = made["embedding"]
    return TargetWeights(**made)


def named_tensors(weights: TargetWeights) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that can be trained with its name, a tied one once."""

    def walk(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                yield from walk(f"{name}.{number}", item)
        elif isinstance(value, Norm | Projection | BlockWeights):
            for field in fields(value):
                yield from walk(f"{name}.{field.name}", getattr(value, field.name))

    seen: set[int] = set()
    for field in fields(weights):
        for name, tensor in walk(field.name, getattr(weights, field.name)):
            if field.name != "rotary_frequencies" and id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor


def _linear(x: Tensor, projection: Projection) -> Tensor:
    y = F.linear(x.bfloat16(), projection.weight.bfloat16()).float()
    return y if projection.bias is None else y + projection.bias


def _norm(x: Tensor, norm: Norm, spec: ModelSpec) -> Tensor:
    if spec.norm == "layer":
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, spec.norm_eps)
    return F.rms_norm(x, x.shape[-1:], norm.weight, spec.norm_eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _attend_own(query: Tensor, own: Memory) -> Tensor:
    """Causal attention. [windows, heads, tokens, head_dim]"""
    groups = query.shape[1] // own.keys.shape[1]
    keys, values = (part.repeat_interleave(groups, 1).bfloat16() for part in (own.keys, own.values))
    return F.scaled_dot_product_attention(query.bfloat16(), keys, values, is_causal=True).float()


def _attend_given(query: Tensor, own: Memory, memory: Memory) -> Tensor:
    """Attention over `memory` at earlier positions and over one's own key and value at one's own. [windows, heads, ..]"""
    windows, heads, tokens, dim = query.shape
    grouped = query.view(windows, own.keys.shape[1], -1, tokens, dim) * dim**-0.5
    keys, values = memory.keys[:, :, None].bfloat16(), memory.values[:, :, None].bfloat16()
    scores = (grouped.bfloat16() @ keys.transpose(-1, -2)).float()  # [windows, kv_heads, group, tokens, tokens]
    own_score = (grouped * own.keys[:, :, None]).sum(-1)
    is_own = torch.eye(tokens, dtype=torch.bool, device=query.device)
    later = torch.ones_like(is_own).triu(1)
    scores = torch.where(is_own, own_score[..., None], scores).masked_fill(later, -torch.inf)
    shares = scores.softmax(-1)
    own_share = shares.diagonal(dim1=-2, dim2=-1)[..., None]
    mixed = shares.masked_fill(is_own, 0.0).bfloat16() @ values
    return (mixed.float() + own_share * own.values[:, :, None]).view(windows, heads, tokens, dim)
