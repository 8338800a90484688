"""`TorchPass`: a forward pass over rows as plain PyTorch operations. Knows nothing of plans, steps or kernels.

Rows come in multiples of a fixed number and keys are visited in blocks of fixed size, so that every matrix product of a
row has the same shape whatever else is in the call: a row's result then depends neither on its index nor on its
neighbours, as long as its keys stand in order of position (chains; in a tree the keys of a branch stand in other slots
and rounding may differ).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodraft.runtime.choosing import best_of
from autodraft.runtime.operations import activate, apply_norm, capped, placed_heads
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_cache import KEY_BLOCK, ROW_PADDING
from autodraft.runtime.torch_rows import Drafted, RowInputs
from autodraft.runtime.weights import TargetWeights

if TYPE_CHECKING:
    from autodraft.runtime.linears import Linear


@dataclass(frozen=True)
class Part:
    """One segment's linear maps at the bits they run in; `inputs` adds its bias, `outputs` has none."""

    channels: Tensor
    inputs: Linear
    outputs: Linear


@dataclass(frozen=True)
class Payload:
    """What a plan runs: the parts of each block, and the head."""

    attention: list[list[Part]]
    mlp: list[list[Part]]
    head: Linear


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares.

    Attributes:
        keys, values: of the cache. [blocks, kv_heads, slots, head_dim]
        inputs: the rows: the slots that their keys go to, and what they see.
        tables: by rotation, cosines and sines of the rows' positions. [n, rotary_dim / 2] each
        windowed_mask: of blocks with a sliding window, where whoever attends wants one. [n, keys]
    """

    keys: Tensor
    values: Tensor
    inputs: RowInputs
    tables: list[tuple[Tensor, Tensor]]
    windowed_mask: Tensor | None = None


class TorchPass:
    """Embedding, sub-layers and head over rows of one model.

    Args:
        spec, weights: the model.
        dtype: of the cache.

    Attributes:
        orders_paths: whether rows see the keys of their paths in order on a GPU as well; on the CPU they always do.
        row_counts: rows, padding included, that steps of fixed shape are made for.
        least_keys: fewest keys of such a step: fewer steps where keys that no row sees cost next to nothing.
    """

    orders_paths = False
    row_counts: tuple[int, ...] = (ROW_PADDING,)
    least_keys = KEY_BLOCK

    def __init__(self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype) -> None:
        self._spec, self._weights, self._dtype = spec, weights, dtype

    def start(self, inputs: RowInputs, keys: Tensor, values: Tensor) -> tuple[Tensor, Context]:
        """The residual stream before the first sub-layer, float32 [n, hidden], and what the rows see."""
        weights = self._weights
        x = weights.embedding[inputs.tokens].float() * self._spec.embedding_scale
        if weights.positions is not None:
            x = x + weights.positions[inputs.positions].float()
        tables = [rotation.tables(inputs.positions) for rotation in weights.rotations]
        return x, Context(keys, values, inputs, tables, inputs.windowed_mask if self._spec.windowed_blocks else None)

    def run(
        self, payload: Payload, context: Context, x: Tensor, first: int, last: int, taps: Tensor | None = None
    ) -> Tensor:
        """Sub-layers `first .. last - 1` on the residual stream `x`, which may be changed in place.

        `taps`, if given, receives the stream of the first rows, as many as it has, before each of them and after.
        """
        for index in range(first, last):
            if taps is not None:
                taps[index] = x[: taps.shape[1]]
            number = index // 2
            if index % 2 == 0 and payload.attention[number]:
                x = self.attention(number, payload.attention[number], x, context)
            elif index % 2 == 1 and payload.mlp[number]:
                x = self.mlp(number, payload.mlp[number], x)
        if taps is not None:
            taps[last] = x[: taps.shape[1]]
        return x

    def head(self, payload: Payload, x: Tensor) -> Tensor:
        """Final norm and output head, float32 [n, hidden] -> [n, vocab]."""
        return capped(payload.head(apply_norm(x, self._weights.final_norm, self._spec)), self._spec.logit_cap)

    def logits(self, payload: Payload, keys: Tensor, values: Tensor, inputs: RowInputs) -> Tensor:
        """A whole pass without the host. [rows, vocab]"""
        x, context = self.start(inputs, keys, values)
        return self.head(payload, self.run(payload, context, x, 0, 2 * self._spec.num_blocks))

    def extend(self, drafted: Drafted, inputs: RowInputs, row: Tensor, scores: Tensor) -> None:
        """Add the best tokens by the scores after one of the rows. [1], [1, vocab]"""
        drafted.add(inputs, row, *best_of(scores, drafted.found.shape[2]))

    def attention(self, index: int, parts: list[Part], x: Tensor, context: Context) -> Tensor:
        """The residual stream after one attention sub-layer. [n, hidden]"""
        spec, block = self._spec, self._weights.blocks[index]
        rotation = spec.rotation_of(index)
        normed = apply_norm(x, block.attention_norm, spec)
        total = torch.zeros_like(x)
        cos, sin = (table[:, None] for table in context.tables[rotation]) if rotation is not None else (None, None)
        mask = context.windowed_mask if index in spec.windowed_blocks else context.inputs.mask
        assert mask is not None
        for part in parts:
            heads = len(part.channels)
            sizes = [heads * spec.group_size, heads, heads]
            projected = part.inputs(normed).view(len(x), -1, spec.head_dim)
            query, key, value = projected.split(sizes, dim=1)
            whole = heads == spec.num_kv_heads
            own = None if whole else part.channels
            query = placed_heads(query, block.query_norm, spec, cos, sin, own) * spec.query_scale
            key = placed_heads(key, block.key_norm, spec, cos, sin, own)
            channels: Tensor | slice = slice(None) if whole else part.channels
            slots = context.inputs.slots
            where = (slice(None), slots) if whole else (part.channels[:, None], slots[None])
            keys, values = context.keys[index], context.values[index]
            keys[where] = key.transpose(0, 1).to(self._dtype)
            values[where] = value.transpose(0, 1).to(self._dtype)
            mixed = _attend(query, keys[channels], values[channels], context.inputs, mask, spec.score_cap)
            total = total + part.outputs(mixed)
        total = total if block.output.bias is None else total + block.output.bias
        return x + apply_norm(total, block.attention_norm_behind, spec)

    def mlp(self, index: int, parts: list[Part], x: Tensor) -> Tensor:
        """The residual stream after one MLP. [n, hidden]"""
        block = self._weights.blocks[index]
        normed = apply_norm(x, block.mlp_norm, self._spec)
        total = torch.zeros_like(x)
        for part in parts:
            hidden = part.inputs(normed)
            if self._spec.gated:
                gate, up = hidden.chunk(2, dim=1)
                hidden = activate(gate, self._spec) * up
            else:
                hidden = activate(hidden, self._spec)
            total = total + part.outputs(hidden)
        total = total if block.down.bias is None else total + block.down.bias
        return x + apply_norm(total, block.mlp_norm_behind, self._spec)


def _attend(query: Tensor, keys: Tensor, values: Tensor, inputs: RowInputs, mask: Tensor, cap: float | None) -> Tensor:
    """Attention with the query heads of a KV head packed into rows, one key block of fixed size after the other.

    query [n, heads, head_dim], keys and values [kv_heads, slots, head_dim], mask [n, seen] -> [n, heads * head_dim].
    The running softmax (as in FlashAttention) leaves a row unchanged, to the bit, by blocks it does not see.
    """
    n, heads, head_dim = query.shape
    kv_heads = len(keys)
    group = heads // kv_heads
    q = query.view(n, kv_heads, group, head_dim).permute(1, 2, 0, 3).reshape(kv_heads, group * n, head_dim)
    q = q * head_dim**-0.5
    highest = torch.full((kv_heads, group * n, 1), -torch.inf, device=query.device)
    weight_sum = torch.zeros_like(highest)
    mixed = torch.zeros_like(q)
    for start in range(0, mask.shape[1], KEY_BLOCK):
        block = range(start, min(start + KEY_BLOCK, mask.shape[1]))
        orders = inputs.orders(block)
        seen = mask[:, block.start : block.stop].repeat(group, 1)
        scores = _by_row(lambda slots: q @ keys[:, slots].float().transpose(1, 2), orders)
        scores = capped(scores, cap).masked_fill(~seen, -torch.inf)
        new_highest = torch.maximum(highest, scores.amax(-1, keepdim=True))
        finite = new_highest.masked_fill(new_highest == -torch.inf, 0.0)
        weights = torch.exp(scores - finite)
        scale = torch.exp(highest - finite)
        mixed = mixed * scale + _by_row(partial(_mix, weights, values), orders)
        weight_sum = weight_sum * scale + weights.sum(-1, keepdim=True)
        highest = new_highest
    mixed = mixed / weight_sum
    return mixed.view(kv_heads, group, n, head_dim).permute(2, 0, 1, 3).reshape(n, heads * head_dim)


def _mix(weights: Tensor, values: Tensor, slots: slice | Tensor) -> Tensor:
    return weights @ values[:, slots].float()


def _by_row(product: Callable[[slice | Tensor], Tensor], orders: slice | Tensor) -> Tensor:
    """A product for all rows, with the slots that each of them sees: one slice, or [n, keys].

    Where rows differ it is made as often as there are rows, and a row's lines are taken out of its own: of the same
    shape, it rounds as it would for all at once. -> [kv_heads, group * n, ...]
    """
    if isinstance(orders, slice):
        return product(orders)
    found = product(orders[0])
    for row in range(1, len(orders)):
        found[:, row :: len(orders)] = product(orders[row])[:, row :: len(orders)]
    return found
