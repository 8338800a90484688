"""The reference backend: plain PyTorch operations, any device and dtype.

Knows nothing of kernels: how weights are packed and multiplied, what a forward pass is made of and which bit-widths are
worth offering to a search, is `Linears`'.
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
from autodraft.runtime.choosing import (
    Candidates,
    ChainStop,
    ChoiceNoise,
    argmax_tokens,
    best_tokens,
    greedy_chain,
    noised,
)
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.linears import Linear, Linears
from autodraft.runtime.plan import DraftPlan, Segment, SegmentSource
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_cache import KEY_BLOCK, ROW_PADDING, TorchCache
from autodraft.runtime.torch_pass import Context, Part, Payload
from autodraft.runtime.torch_rows import RowInputs, slots_seen, whole_blocks
from autodraft.runtime.torch_steps import Capture, ChainStep, ForwardStep, LogitsOf
from autodraft.runtime.weights import TargetWeights


@dataclass(frozen=True)
class _Steps:
    """Of one plan on one cache, by the slots that rows see; forward passes also by their rows, chains by best tokens
    wanted and whether sampled.
    """

    forward: dict[tuple[int, int], ForwardStep] = field(default_factory=dict)
    chain: dict[tuple[int, int, bool], ChainStep] = field(default_factory=dict)


class TorchBackend:
    """Forward passes in PyTorch operations; see `Backend` for the contract."""

    name = "torch"

    def __init__(
        self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype, device: torch.device, linears: Linears
    ) -> None:
        self.available_bits = linears.available_bits
        self.weights = weights
        self.full_bytes = dtype.itemsize
        self._linears = linears
        self._spec, self._dtype, self._device = spec, dtype, device
        self._source = SegmentSource(spec, weights)
        self._pass = linears.forward_pass(spec, weights, dtype)
        self._orders_paths = self._pass.orders_paths or device.type == "cpu"
        # Parts live as long as a plan that uses them; the key says whose weights they are.
        self._parts: weakref.WeakValueDictionary[tuple[str, Segment], Part] = weakref.WeakValueDictionary()
        self._heads: weakref.WeakValueDictionary[tuple[str, int], Linear] = weakref.WeakValueDictionary()
        self._capture = Capture(device)
        # They go with the plan, and with the cache that they write to.
        self._steps: WeakKeyDictionary[DraftPlan, WeakKeyDictionary[TorchCache, _Steps]] = WeakKeyDictionary()

    @property
    def capture_s(self) -> float:
        return self._capture.seconds

    def new_cache(self, capacity: int) -> TorchCache:
        return TorchCache(self._spec, capacity, self._dtype, self._device)

    def compile(self, policy: DraftPolicy, own: DraftWeights | None = None) -> DraftPlan:
        weights = self.weights if own is None else own.applied_to(self.weights)
        source = self._source if own is None else SegmentSource(self._spec, weights)
        owner = "" if own is None else own.digest
        owns_head = weights.head is not self.weights.head
        head = self._head(policy.head_bits, weights.head, owner if owns_head else "")
        payload = Payload([[] for _ in policy.blocks], [[] for _ in policy.blocks], head)
        for segment in source.segments_of(policy):
            parts = payload.attention if segment.kind == "attention" else payload.mlp
            parts[segment.block].append(self._part(segment, source, owner))
        return DraftPlan(
            policy, self._spec, self.full_bytes, payload,
            silent=source.silent, in_planes=source.in_planes, owns_weights=own is not None, owns_head=owns_head,
        )  # fmt: skip

    def _part(self, segment: Segment, source: SegmentSource, owner: str) -> Part:
        part = self._parts.get((owner, segment))
        if part is None:
            weights = source.weights_of(segment)
            part = self._parts[owner, segment] = Part(
                weights.channels,
                self._linears.pack(weights.inputs, segment.bits, weights.inputs_bias),
                self._linears.pack(weights.outputs, segment.bits),
            )
        return part

    def _head(self, bits: int, matrix: Tensor, owner: str) -> Linear:
        packed = self._heads.get((owner, bits))
        if packed is None:
            packed = self._heads[owner, bits] = self._linears.pack(matrix, bits)
        return packed

    @torch.inference_mode()
    def forward(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, *, with_logits: bool = True, taps: Tensor | None = None
    ) -> Tensor | None:
        assert isinstance(cache, TorchCache)
        if len(rows) <= self._pass.row_counts[-1] and with_logits and taps is None:
            return self._forward_step(plan, cache, len(rows), slots_seen(rows))(rows)
        x, context = self._start(cache, rows)
        x = self._pass.run(plan.payload, context, x, 0, 2 * self._spec.num_blocks, taps)
        return self._pass.head(plan.payload, x)[: len(rows)] if with_logits else None

    def _steps_of(self, plan: DraftPlan, cache: TorchCache) -> _Steps:
        return self._steps.setdefault(plan, WeakKeyDictionary()).setdefault(cache, _Steps())

    def _logits_of(self, plan: DraftPlan, cache: TorchCache) -> LogitsOf:
        return partial(self._pass.logits, plan.payload, cache.keys, cache.values)

    def _inputs(self, cache: TorchCache, count: int, keys: int) -> RowInputs:
        """For steps over `count` rows, all padding, and the first `keys` slots."""
        return RowInputs(
            count, keys, cache.capacity, self._device,
            lasting=True, ordered=self._orders_paths, window=self._spec.sliding_window,
        )  # fmt: skip

    def _forward_step(self, plan: DraftPlan, cache: TorchCache, rows: int, slots: int) -> ForwardStep:
        steps, keys = self._steps_of(plan, cache).forward, self._range(cache, slots)
        count = next(count for count in self._pass.row_counts if count >= rows)
        if (count, keys) not in steps:
            inputs = self._inputs(cache, count, keys)
            steps[count, keys] = ForwardStep(self._logits_of(plan, cache), inputs, self._capture)
        return steps[count, keys]

    def _chain_step(self, plan: DraftPlan, cache: TorchCache, slots: int, top: int, sampled: bool) -> ChainStep:
        steps, keys = self._steps_of(plan, cache).chain, self._range(cache, slots)
        if (keys, top, sampled) not in steps:
            first, single = (self._inputs(cache, count, keys) for count in (ROW_PADDING, self._pass.row_counts[0]))
            logits_of, vocab_size = self._logits_of(plan, cache), self._spec.vocab_size
            steps[keys, top, sampled] = ChainStep(
                logits_of, self._pass.extend, first, single, vocab_size, self._capture, top, sampled
            )
        return steps[keys, top, sampled]

    def _range(self, cache: TorchCache, slots: int) -> int:
        """Keys of a step that sees `slots` of them: few different numbers, so that few steps are captured.

        A row's result is the same, to the bit, with more blocks that it does not see.
        """
        blocks = whole_blocks(max(slots, self._pass.least_keys)) // KEY_BLOCK
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
        return self._pass.head(plan.payload, padded)[: len(rows)]

    @torch.inference_mode()
    def run_sub_layers(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, first: int, last: int
    ) -> Tensor:
        assert isinstance(cache, TorchCache)
        padded, context = self._start(cache, rows)
        padded[: len(rows)] = stream
        return self._pass.run(plan.payload, context, padded, first, last)[: len(rows)]

    def review(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, top: int, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> list[Candidates]:
        return best_tokens(self._all_logits(plan, cache, rows), top, noise, depths)

    def choose(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> tuple[list[int], Tensor]:
        logits = self._all_logits(plan, cache, rows)
        return argmax_tokens(noised(logits, noise, depths)), logits

    def _all_logits(self, plan: DraftPlan, cache: KVCache, rows: Rows) -> Tensor:
        logits = self.forward(plan, cache, rows)
        assert logits is not None
        return logits

    def routed_passes(self, plan: DraftPlan, router: Router, passed_keys: str) -> None:
        return None

    @property
    def cycle_runner(self) -> None:
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

    def _start(self, cache: TorchCache, rows: Rows) -> tuple[Tensor, Context]:
        """Embed the rows, padded to whole multiples of `ROW_PADDING`, and say what they see."""
        padded = len(rows) + -len(rows) % ROW_PADDING
        keys = whole_blocks(slots_seen(rows))
        inputs = RowInputs(
            padded, keys, cache.capacity, self._device, ordered=self._orders_paths, window=self._spec.sliding_window
        )
        inputs.fill(rows)
        return self._pass.start(inputs, cache.keys, cache.values)
