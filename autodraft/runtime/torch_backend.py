"""The reference backend: plain PyTorch operations, any device and dtype.

Knows nothing of kernels: how weights are packed and multiplied, and which bit-widths are worth offering to a
search, is `Linears`'.

Rows are padded to a fixed number and keys are visited in blocks of fixed size, so that every matrix
product of a row has the same shape whatever else is in the call: a row's result then depends neither
on its index nor on its neighbours, as long as its keys stand in order of position (chains; in a tree
the keys of a branch stand in other slots and rounding may differ).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.policy import DraftPolicy
from autodraft.runtime.backend import KVCache
from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise, best_tokens, greedy_chain
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.linears import Linear, Linears
from autodraft.runtime.operations import apply_norm, rotate
from autodraft.runtime.plan import DraftPlan, Segment, SegmentSource
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_cache import KEY_BLOCK, ROW_PADDING, TorchCache
from autodraft.runtime.torch_rows import RowInputs, slots_seen, whole_blocks
from autodraft.runtime.torch_steps import Capture, ChainStep, ForwardStep, LogitsOf
from autodraft.runtime.weights import TargetWeights


@dataclass(frozen=True)
class _Part:
    """One segment's linear maps at the bits they run in; `inputs` adds its bias, `outputs` has none."""

    channels: Tensor
    inputs: Linear
    outputs: Linear


@dataclass(frozen=True)
class _Payload:
    attention: list[list[_Part]]
    mlp: list[list[_Part]]
    head: Linear


@dataclass(frozen=True)
class _Steps:
    """Of one plan on one cache, by the slots that rows see; chains also by best tokens wanted and whether sampled."""

    forward: dict[int, ForwardStep] = field(default_factory=dict)
    chain: dict[tuple[int, int, bool], ChainStep] = field(default_factory=dict)


@dataclass(frozen=True)
class _Context:
    """What every block of one forward pass shares."""

    keys: Tensor  # of the cache
    values: Tensor
    slots: Tensor  # [n]
    mask: Tensor  # [n, keys], True where a row sees a slot
    cos: Tensor | None  # [n, 1, head_dim / 2]
    sin: Tensor | None


class TorchBackend:
    """Forward passes in PyTorch operations; see `Backend` for the contract."""

    name = "torch"

    def __init__(
        self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype, device: torch.device, linears: Linears
    ) -> None:
        self.available_bits = linears.available_bits
        self.weights = weights
        self._linears = linears
        self._spec, self._dtype, self._device = spec, dtype, device
        self._source = SegmentSource(spec, weights)
        # Parts live as long as a plan that uses them; the key says whose weights they are.
        self._parts: weakref.WeakValueDictionary[tuple[str, Segment], _Part] = weakref.WeakValueDictionary()
        self._heads: dict[int, Linear] = {}
        self._capture = Capture(device)
        # They go with the plan, and with the cache that they write to.
        self._steps: WeakKeyDictionary[DraftPlan, WeakKeyDictionary[TorchCache, _Steps]] = WeakKeyDictionary()

    def new_cache(self, capacity: int) -> TorchCache:
        return TorchCache(self._spec, capacity, self._dtype, self._device)

    def compile(self, policy: DraftPolicy, own: DraftWeights | None = None) -> DraftPlan:
        source = self._source if own is None else SegmentSource(self._spec, own.applied_to(self.weights))
        owner = "" if own is None else own.digest
        payload = _Payload([[] for _ in policy.blocks], [[] for _ in policy.blocks], self._head(policy.head_bits))
        for segment in source.segments_of(policy):
            parts = payload.attention if segment.kind == "attention" else payload.mlp
            parts[segment.block].append(self._part(segment, source, owner))
        return DraftPlan(
            policy, self._spec, self._dtype.itemsize, payload, silent=source.silent, owns_weights=own is not None
        )

    def _part(self, segment: Segment, source: SegmentSource, owner: str) -> _Part:
        part = self._parts.get((owner, segment))
        if part is None:
            weights = source.weights_of(segment)
            part = self._parts[owner, segment] = _Part(
                weights.channels,
                self._linears.pack(weights.inputs, segment.bits, weights.inputs_bias),
                self._linears.pack(weights.outputs, segment.bits),
            )
        return part

    def _head(self, bits: int) -> Linear:
        if bits not in self._heads:
            self._heads[bits] = self._linears.pack(self.weights.head, bits)
        return self._heads[bits]

    @torch.inference_mode()
    def forward(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, *, with_logits: bool = True, taps: Tensor | None = None
    ) -> Tensor | None:
        assert isinstance(cache, TorchCache)
        if len(rows) <= ROW_PADDING and with_logits and taps is None:
            return self._forward_step(plan, cache, slots_seen(rows))(rows)
        x, context = self._start(cache, rows)
        x = self._run(plan.payload, context, x, 0, 2 * self._spec.num_blocks, len(rows), taps)
        return self._head_of(plan.payload, x)[: len(rows)] if with_logits else None

    def _head_of(self, payload: _Payload, x: Tensor) -> Tensor:
        return payload.head(apply_norm(x, self.weights.final_norm, self._spec))

    def _logits_of(self, payload: _Payload, keys: Tensor, values: Tensor, inputs: RowInputs) -> Tensor:
        """A whole pass without the host. [rows, vocab]"""
        x, context = self._begin(inputs, keys, values)
        x = self._run(payload, context, x, 0, 2 * self._spec.num_blocks, len(x))
        return self._head_of(payload, x)

    def _steps_of(self, plan: DraftPlan, cache: TorchCache) -> _Steps:
        return self._steps.setdefault(plan, WeakKeyDictionary()).setdefault(cache, _Steps())

    def _ingredients(self, plan: DraftPlan, cache: TorchCache, keys: int) -> tuple[LogitsOf, RowInputs, int, Capture]:
        """What a step over the first `keys` slots is made of."""
        logits_of = partial(self._logits_of, plan.payload, cache.keys, cache.values)
        inputs = RowInputs(ROW_PADDING, keys, cache.capacity, self._device)
        return logits_of, inputs, self._spec.vocab_size, self._capture

    def _forward_step(self, plan: DraftPlan, cache: TorchCache, slots: int) -> ForwardStep:
        steps, keys = self._steps_of(plan, cache).forward, self._range(cache, slots)
        if keys not in steps:
            steps[keys] = ForwardStep(*self._ingredients(plan, cache, keys))
        return steps[keys]

    def _chain_step(self, plan: DraftPlan, cache: TorchCache, slots: int, top: int, sampled: bool) -> ChainStep:
        steps, keys = self._steps_of(plan, cache).chain, self._range(cache, slots)
        if (keys, top, sampled) not in steps:
            steps[keys, top, sampled] = ChainStep(*self._ingredients(plan, cache, keys), top, sampled)
        return steps[keys, top, sampled]

    def _range(self, cache: TorchCache, slots: int) -> int:
        """Keys of a step that sees `slots` of them: few different numbers, so that few steps are captured.

        A row's result is the same, to the bit, with more blocks that it does not see.
        """
        blocks = whole_blocks(slots) // KEY_BLOCK
        return min(KEY_BLOCK << (blocks - 1).bit_length(), cache.slots)

    def write_keys(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, block: int) -> None:
        self.run_sub_layers(plan, cache, rows, stream, 2 * block, 2 * block + 1)  # what it adds is not looked at

    @torch.inference_mode()
    def embed(self, plan: DraftPlan, cache: KVCache, rows: Rows) -> Tensor:
        assert isinstance(cache, TorchCache)
        return self._start(cache, rows)[0][: len(rows)]

    @torch.inference_mode()
    def logits(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor) -> Tensor:
        padded = F.pad(stream, (0, 0, 0, -len(rows) % ROW_PADDING))
        return self._head_of(plan.payload, padded)[: len(rows)]

    def _run(
        self,
        payload: _Payload,
        context: _Context,
        x: Tensor,
        first: int,
        last: int,
        n: int,
        taps: Tensor | None = None,
    ) -> Tensor:
        """Sub-layers `first .. last - 1`; `n` rows of x are not padding."""
        for index in range(first, last):
            if taps is not None:
                taps[index] = x[:n]
            block, number = self.weights.blocks[index // 2], index // 2
            if index % 2 == 0 and payload.attention[number]:
                normed = apply_norm(x, block.attention_norm, self._spec)
                x = x + self._attention(number, payload.attention[number], normed, context)
            elif index % 2 == 1 and payload.mlp[number]:
                x = x + self._mlp(number, payload.mlp[number], apply_norm(x, block.mlp_norm, self._spec))
        if taps is not None:
            taps[last] = x[:n]
        return x

    @torch.inference_mode()
    def run_sub_layers(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, first: int, last: int
    ) -> Tensor:
        assert isinstance(cache, TorchCache)
        padded, context = self._start(cache, rows)
        padded[: len(rows)] = stream
        return self._run(plan.payload, context, padded, first, last, len(rows))[: len(rows)]

    def review(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, top: int, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> list[Candidates]:
        return best_tokens(self._all_logits(plan, cache, rows), top, noise, depths)

    def _all_logits(self, plan: DraftPlan, cache: KVCache, rows: Rows) -> Tensor:
        logits = self.forward(plan, cache, rows)
        assert logits is not None
        return logits

    def routed_passes(self, plan: DraftPlan, router: Router, passed_keys: str) -> None:
        return None

    def best_tokens(self, logits: Tensor, top: int) -> list[list[int]]:
        tokens: list[list[int]] = torch.topk(logits, top).indices.tolist()
        return tokens

    @torch.inference_mode()
    def draft_chain(
        self,
        plan: DraftPlan,
        cache: KVCache,
        fed: Sequence[int],
        offset: int,
        num_tokens: int,
        top: int,
        stop: ChainStop,
        noise: ChoiceNoise | None,
    ) -> list[Candidates]:
        assert isinstance(cache, TorchCache)
        position = cache.length + offset
        if len(fed) > ROW_PADDING:
            return greedy_chain(
                lambda rows: self._all_logits(plan, cache, rows), fed, position, num_tokens, top, stop, noise
            )
        step = self._chain_step(plan, cache, position + len(fed) + num_tokens, top, noise is not None)
        return step(Rows.chain(fed, position), num_tokens, stop, noise)

    def _start(self, cache: TorchCache, rows: Rows) -> tuple[Tensor, _Context]:
        """Embed the rows, padded to whole multiples of `ROW_PADDING`, and say what they see."""
        padded = len(rows) + -len(rows) % ROW_PADDING
        inputs = RowInputs(padded, whole_blocks(slots_seen(rows)), cache.capacity, self._device)
        inputs.fill(rows)
        return self._begin(inputs, cache.keys, cache.values)

    def _begin(self, inputs: RowInputs, keys: Tensor, values: Tensor) -> tuple[Tensor, _Context]:
        x = self.weights.embedding[inputs.tokens].float()
        if self.weights.positions is not None:
            x = x + self.weights.positions[inputs.positions].float()
        cos = sin = None
        if self.weights.rotary_frequencies is not None:
            angles = inputs.positions[:, None].float() * self.weights.rotary_frequencies
            cos, sin = (table[:, None] * self.weights.rotary_scale for table in (angles.cos(), angles.sin()))
        return x, _Context(keys, values, inputs.slots, inputs.mask, cos, sin)

    def _attention(self, index: int, parts: list[_Part], x: Tensor, context: _Context) -> Tensor:
        spec, block = self._spec, self.weights.blocks[index]
        total = torch.zeros_like(x)
        for part in parts:
            heads = len(part.channels)
            sizes = [heads * spec.group_size, heads, heads]
            projected = part.inputs(x).view(len(x), -1, spec.head_dim)
            query, key, value = projected.split(sizes, dim=1)
            if block.query_norm is not None and block.key_norm is not None:
                query, key = apply_norm(query, block.query_norm, spec), apply_norm(key, block.key_norm, spec)
            query, key = rotate(query, context.cos, context.sin), rotate(key, context.cos, context.sin)
            whole = heads == spec.num_kv_heads
            channels: Tensor | slice = slice(None) if whole else part.channels
            where = (slice(None), context.slots) if whole else (part.channels[:, None], context.slots[None])
            keys, values = context.keys[index], context.values[index]
            keys[where] = key.transpose(0, 1).to(self._dtype)
            values[where] = value.transpose(0, 1).to(self._dtype)
            mixed = _attend(query, keys[channels], values[channels], context.mask)
            total = total + part.outputs(mixed)
        return total if block.output.bias is None else total + block.output.bias

    def _mlp(self, index: int, parts: list[_Part], x: Tensor) -> Tensor:
        block, activation = self.weights.blocks[index], getattr(F, self._spec.activation)
        total = torch.zeros_like(x)
        for part in parts:
            hidden = part.inputs(x)
            if self._spec.gated:
                gate, up = hidden.chunk(2, dim=1)
                hidden = activation(gate) * up
            else:
                hidden = activation(hidden)
            total = total + part.outputs(hidden)
        return total if block.down.bias is None else total + block.down.bias


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention with the query heads of a KV head packed into rows, one key block of fixed size after the other.

    query [n, heads, head_dim], keys and values [kv_heads, slots, head_dim], mask [n, keys] -> [n, heads * head_dim].
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
        block = slice(start, start + KEY_BLOCK)
        seen = mask[:, block].repeat(group, 1)
        scores = (q @ keys[:, block].float().transpose(1, 2)).masked_fill(~seen, -torch.inf)
        new_highest = torch.maximum(highest, scores.amax(-1, keepdim=True))
        finite = new_highest.masked_fill(new_highest == -torch.inf, 0.0)
        weights = torch.exp(scores - finite)
        scale = torch.exp(highest - finite)
        mixed = mixed * scale + weights @ values[:, block].float()
        weight_sum = weight_sum * scale + weights.sum(-1, keepdim=True)
        highest = new_highest
    mixed = mixed / weight_sum
    return mixed.view(kv_heads, group, n, head_dim).permute(2, 0, 1, 3).reshape(n, heads * head_dim)
