"""A differentiable forward pass over the sub-layers of any supported target: any of them left out, gated or retrained.

The matrices of the sub-layers are the only thing that may be trained; embedding, norms, biases and head are the
target's. Matrix products run in the target's dtype, the residual stream and norms in float32. A draft sees the target's
keys and values for everything before its window, as it does in decoding. What will run at few bits can be trained at
them: matrices are rounded on their way in and gradients pass straight through (Bengio et al., arXiv 1308.3432). Knows
nothing of data, losses or optimisers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.policy import FULL_BITS
from autodraft.runtime.draft_weights import matrix_name, sub_layer_parts
from autodraft.runtime.operations import activate, apply_norm, capped, placed_heads
from autodraft.runtime.quantization import fake_quantize
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import Norm, Projection, TargetWeights

RotaryTables = list[tuple[Tensor, Tensor]]
"""By rotation, cosines and sines. [tokens, 1, rotary_dim / 2] each"""

DRAFT_WINDOW = 6
"""Positions that a draft runs from one root: root and drafted tokens of a cycle of usual length."""


@dataclass(frozen=True)
class TargetKeys:
    """Keys and values that the target wrote for the same tokens.

    Attributes:
        keys, values: block -> [batch, kv_heads, tokens, head_dim].
    """

    keys: dict[int, Tensor]
    values: dict[int, Tensor]


@dataclass(frozen=True)
class DraftView:
    """What a draft sees: the target's keys before the first position of its window, its own from there on.

    Attributes:
        target: what the target wrote.
        mask: [.., tokens, 2 * tokens], True where a query sees a key; the target's keys come first.
    """

    target: TargetKeys
    mask: Tensor

    @classmethod
    def windowed(cls, target: TargetKeys, tokens: int, window: int, offset: int) -> DraftView:
        """Windows of `window` positions, the first of which ends after `offset` of them."""
        position = torch.arange(tokens)
        start = torch.where(position < offset, 0, (position - offset) // window * window + offset)[:, None]
        key = position[None, :]
        own = (key >= start) & (key <= position[:, None])
        return cls(target, torch.cat((key < start, own), dim=1))


class SubLayers:
    """The target with `matrices` in the place of its own ones.

    A sub-layer is a norm, maps into its channels, what these do, a map out of them, and in some families another norm.

    Args:
        spec, weights: the target.
        matrices: by the names of `matrix_name`, in any float dtype; what is missing is the target's.
        skipped: sub-layers that are left out, numbered 2 * block + (0 attention, 1 MLP).
        bits: bit-width that `matrices` and the head are rounded to.
        dtype: of matrix products; None: the target's.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: TargetWeights,
        matrices: Mapping[str, Tensor],
        skipped: Collection[int] = (),
        bits: int = FULL_BITS,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.spec, self.weights, self.matrices = spec, weights, matrices
        self.skipped = frozenset(skipped)
        self._bits, self._dtype = bits, dtype or weights.embedding.dtype

    def logits(self, tokens: Tensor, *, gates: Tensor | None = None, view: DraftView | None = None) -> Tensor:
        """Next-token logits. [batch, tokens] -> float32 [batch, tokens, vocab]

        `gates` [batch, 2 * blocks] multiply what each sub-layer adds.
        """
        return self._head(self._run(tokens, gates, view, None))

    def logits_and_keys(self, tokens: Tensor) -> tuple[Tensor, TargetKeys]:
        """The logits, and the keys and values of every attention sub-layer that runs."""
        written = TargetKeys({}, {})
        return self._head(self._run(tokens, None, None, written)), written

    def _run(self, tokens: Tensor, gates: Tensor | None, view: DraftView | None, written: TargetKeys | None) -> Tensor:
        """The residual stream after the last sub-layer, float32 [batch, tokens, hidden]."""
        x, tables = self._embed(tokens), self._tables(tokens.shape[1])
        for sub_layer in range(self.spec.num_sub_layers):
            if sub_layer in self.skipped:
                continue
            branch = self._branch(x, sub_layer, tables, view, written)
            x = x + (branch if gates is None else gates[:, sub_layer, None, None] * branch)
        return x

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.weights.embedding[tokens].float() * self.spec.embedding_scale
        return x if self.weights.positions is None else x + self.weights.positions[: tokens.shape[1]].float()

    def _tables(self, tokens: int) -> RotaryTables:
        """Of the first positions."""
        positions = torch.arange(tokens, device=self.weights.embedding.device)
        tables = [rotation.tables(positions) for rotation in self.weights.rotations]
        return [(cosines[:, None], sines[:, None]) for cosines, sines in tables]

    @cached_property
    def _head_weight(self) -> Tensor:
        return fake_quantize(self.weights.head, self._bits).to(self._dtype)

    def _head(self, x: Tensor) -> Tensor:
        normed = apply_norm(x, self.weights.final_norm, self.spec).to(self._dtype)
        return capped(F.linear(normed, self._head_weight).float(), self.spec.logit_cap)

    def _project(self, x: Tensor, block: int, part: str) -> Tensor:
        projection: Projection = getattr(self.weights.blocks[block], part)
        own = self.matrices.get(matrix_name(block, part))
        weight = projection.weight if own is None else _rounded(own, self._bits)
        y = F.linear(x.to(self._dtype), weight.to(self._dtype)).float()
        return y if projection.bias is None else y + projection.bias

    def _branch(
        self,
        x: Tensor,
        sub_layer: int,
        tables: RotaryTables,
        view: DraftView | None = None,
        written: TargetKeys | None = None,
    ) -> Tensor:
        """What a sub-layer adds to the residual stream. [batch, tokens, hidden]"""
        return self._behind(self._output(self._inner(x, sub_layer, tables, view, written), sub_layer), sub_layer)

    def _behind(self, output: Tensor, sub_layer: int) -> Tensor:
        """What is added of a sub-layer's output."""
        return apply_norm(output, self._norm_behind(sub_layer), self.spec)

    def _norm_behind(self, sub_layer: int) -> Norm | None:
        """Of what a sub-layer adds."""
        block = self.weights.blocks[sub_layer // 2]
        return block.mlp_norm_behind if sub_layer % 2 else block.attention_norm_behind

    def _output(self, inner: Tensor, sub_layer: int) -> Tensor:
        """What its last map gives. [batch, tokens, channels] -> [batch, tokens, hidden]"""
        return self._project(inner, sub_layer // 2, sub_layer_parts(sub_layer, self.spec)[-1])

    def _inner(
        self,
        x: Tensor,
        sub_layer: int,
        tables: RotaryTables,
        view: DraftView | None = None,
        written: TargetKeys | None = None,
    ) -> Tensor:
        """What its last map, the one out of its channels, is given. [batch, tokens, channels]"""
        if sub_layer % 2:
            return self._activated(x, sub_layer // 2)
        return self._mixed(x, sub_layer // 2, tables, view, written)

    def _mixed(
        self,
        x: Tensor,
        block: int,
        tables: RotaryTables,
        view: DraftView | None,
        written: TargetKeys | None,
    ) -> Tensor:
        """What attention brings together for its output map. [batch, tokens, heads * head_dim]"""
        spec, weights = self.spec, self.weights.blocks[block]
        normed = apply_norm(x, weights.attention_norm, spec)
        query, key, value = (
            self._project(normed, block, part).view(*x.shape[:2], -1, spec.head_dim)
            for part in ("query", "key", "value")
        )
        rotation = spec.rotation_of(block)
        cos, sin = (None, None) if rotation is None else tables[rotation]
        query = placed_heads(query, weights.query_norm, spec, cos, sin) * spec.query_scale
        key = placed_heads(key, weights.key_norm, spec, cos, sin)
        query, key, value = (part.transpose(1, 2).to(self._dtype) for part in (query, key, value))
        if written is not None:
            written.keys[block], written.values[block] = key, value
        if view is not None:
            key = torch.cat((view.target.keys[block], key), dim=2)
            value = torch.cat((view.target.values[block], value), dim=2)
        mask = self._seen(block, x, view)
        if spec.score_cap is not None:
            mixed = _capped_attention(query, key, value, mask, spec.score_cap)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(2)

    def _seen(self, block: int, x: Tensor, view: DraftView | None) -> Tensor | None:
        """What queries see in a block; None: everything before them. [.., tokens, keys]"""
        tokens, window = x.shape[1], self.spec.window_of(block)
        seen = None if view is None else view.mask.to(x.device)
        if window is None or tokens <= window:
            return seen
        position = torch.arange(tokens, device=x.device)
        distance = position[:, None] - position[None, :]
        is_near = distance < window
        return is_near & (distance >= 0) if seen is None else seen & is_near.repeat(1, 2)

    def _activated(self, x: Tensor, block: int) -> Tensor:
        """An MLP's neurons, from the residual stream. [batch, tokens, neurons]"""
        normed = apply_norm(x, self.weights.blocks[block].mlp_norm, self.spec)
        inner = activate(self._project(normed, block, "gate" if self.spec.gated else "up"), self.spec)
        if self.spec.gated:
            inner = inner * self._project(normed, block, "up")
        return inner


def _capped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, cap: float) -> Tensor:
    """Attention whose scores are capped; without a mask every query sees what stands before it.

    [batch, heads, queries, head_dim], [batch, kv_heads, keys, head_dim] twice, [.., queries, keys]
    """
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = capped((query @ key.transpose(2, 3)).float() * query.shape[-1] ** -0.5, cap)
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril() if mask is None else mask
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).to(value.dtype) @ value


def _rounded(matrix: Tensor, bits: int) -> Tensor:
    """A matrix at a bit-width; its gradient is that of the rounded one."""
    if bits == FULL_BITS:
        return matrix
    return matrix + (fake_quantize(matrix.detach(), bits) - matrix.detach())
