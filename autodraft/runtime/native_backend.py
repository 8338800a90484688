"""The compiled CPU backend: packed weights at 16 (or 32), 8 and 4 bits, one C call per forward pass.

Row-invariant by construction: the logits of a row are bitwise the same whatever else is in the call and
in whichever slots its ancestors lie, so verification reproduces autoregressive decoding exactly, without
padding, for chains and trees. Knows nothing of decoding.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autodraft.errors import AutodraftError
from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.runtime import native_binding as binding
from autodraft.runtime.backend import KVCache
from autodraft.runtime.byte_planes import PLANE_BITS, BytePlanes, fits_float16
from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.huge_pages import HugePages
from autodraft.runtime.native_build import NativeUnavailableError, load_library
from autodraft.runtime.native_cache import NativeCache
from autodraft.runtime.native_model import FULL_KINDS, arithmetic_dtype, model_struct
from autodraft.runtime.native_routing import NativePasses, NativeRoutes
from autodraft.runtime.plan import DraftPlan, Segment, SegmentSource
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import Matrix, TargetWeights

_LOW_KINDS = {8: binding.KIND_INT8, 4: binding.KIND_INT4}
_MAX_GROUP = 64  # MAX_QUERIES in forward.c


@dataclass(frozen=True)
class _PackedSegment:
    count: int  # channels, padded to whole panels in an MLP
    channels: Tensor
    inputs: binding.PackedLinear
    outputs: binding.PackedLinear

    @property
    def struct(self) -> binding.CSegment:
        return binding.CSegment(self.count, self.channels.data_ptr(), self.inputs.struct, self.outputs.struct)

    @property
    def width(self) -> int:
        return max(self.inputs.padded_outputs, int(self.outputs.struct.k_padded), self.count)

    def moved(self, pages: HugePages) -> _PackedSegment:
        """The same with its matrices there."""
        return replace(self, inputs=self.inputs.moved(pages), outputs=self.outputs.moved(pages))

    @property
    def upper(self) -> _PackedSegment:
        """Of a segment in planes, the same at 8 bits in the same memory."""
        return replace(self, inputs=self.inputs.upper, outputs=self.outputs.upper)


@dataclass(frozen=True)
class _Payload:
    struct: binding.CPlan
    owned: tuple[Any, ...]
    width: int  # widest activation, in channels


class NativeBackend:
    """Packs weights for the C engine and calls it; see `Backend` for the contract."""

    name = "native"
    available_bits: tuple[int, ...] = (FULL_BITS, 8, 4)
    capture_s = 0.0

    def __init__(self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype, max_positions: int) -> None:
        """Raises `NativeUnavailableError` where the engine or its layout does not fit."""
        self._library = load_library()
        self._library.workspace_new.restype = ctypes.c_void_p
        if dtype not in FULL_KINDS:
            raise NativeUnavailableError(f"the compiled engine runs float32, bfloat16 and float16, not {dtype}")
        if spec.head_dim % binding.LANES or spec.head_dim > 128 or spec.hidden_size % binding.LANES:
            raise NativeUnavailableError("the compiled engine needs widths in multiples of 16 and heads of at most 128")
        if spec.group_size > _MAX_GROUP:
            raise NativeUnavailableError(f"the compiled engine takes at most {_MAX_GROUP} query heads per KV head")
        self.weights = weights
        self._spec, self._cache_dtype = spec, arithmetic_dtype(dtype)
        self._kinds = {FULL_BITS: FULL_KINDS[dtype], **_LOW_KINDS}
        # A checkpoint has one dtype: what its head was stored in, all of it was.
        self.full_bytes = 2 if dtype.itemsize == 2 or fits_float16(weights.head) else dtype.itemsize
        self._source = SegmentSource(spec, weights)
        # Packed segments live as long as a plan that uses them; the key says whose weights they are.
        self._segments: weakref.WeakValueDictionary[tuple[str, Segment], _PackedSegment] = weakref.WeakValueDictionary()
        self._heads: dict[int, binding.PackedLinear] = {}
        self._pages = HugePages()
        self._model, self._model_tensors = model_struct(spec, weights, dtype, max_positions)
        self._threads = torch.get_num_threads()
        self._workspace = ctypes.c_void_p(self._library.workspace_new(self._threads))
        self._logits = torch.empty((0, self._padded_vocab))
        self._lock = threading.Lock()  # the workspace serves one call at a time

    def __del__(self) -> None:
        if getattr(self, "_workspace", None):
            self._library.workspace_free(self._workspace)

    def new_cache(self, capacity: int) -> NativeCache:
        return NativeCache(self._spec, capacity, self._cache_dtype)

    def compile(self, policy: DraftPolicy, own: DraftWeights | None = None) -> DraftPlan:
        source = self._source if own is None else SegmentSource(self._spec, own.applied_to(self.weights))
        owner = "" if own is None else own.digest
        # Every step of the target reads all of it; drafts come and go.
        pages = self._pages if policy.is_full and own is None else None
        head = self._head(policy.head_bits, pages)
        grouped: dict[tuple[int, str], list[_PackedSegment]] = {}
        for segment in source.segments_of(policy):
            grouped.setdefault((segment.block, segment.kind), []).append(self._segment(segment, source, owner, pages))
        owned: list[Any] = [head, *(segment for group in grouped.values() for segment in group)]
        blocks = (binding.CBlockPlan * self._spec.num_blocks)()
        for index in range(self._spec.num_blocks):
            arrays = []
            for kind in ("attention", "mlp"):
                group = grouped.get((index, kind), [])
                arrays.append((len(group), binding.segment_array([segment.struct for segment in group])))
            owned.extend(array for _, array in arrays)
            blocks[index] = binding.CBlockPlan(arrays[0][0], arrays[1][0], arrays[0][1], arrays[1][1])
        widths = [segment.width for group in grouped.values() for segment in group]
        width = -(-max([self._spec.hidden_size, *widths]) // 64) * 64
        payload = _Payload(binding.CPlan(blocks, head.struct), (blocks, *owned), width)
        return DraftPlan(
            policy, self._spec, self.full_bytes, payload,
            silent=source.silent, in_planes=source.in_planes, owns_weights=own is not None,
        )  # fmt: skip

    def _head(self, bits: int, pages: HugePages | None) -> binding.PackedLinear:
        if bits not in self._heads:
            packed = self._pack(self.weights.head, bits)
            self._heads[bits] = packed if pages is None else packed.moved(pages)
        return self._heads[bits]

    def _pack(self, weight: Matrix, bits: int, bias: Tensor | None = None) -> binding.PackedLinear:
        """A matrix for the engine; one of 32 bits in 16 where those hold the same numbers: half the bytes to read."""
        if isinstance(weight, BytePlanes):
            if bits == FULL_BITS:
                return binding.pack_planes(weight, bias)
            weight = weight.joined()
        kind = self._kinds[bits]
        if kind == binding.KIND_F32 and fits_float16(weight):
            kind = binding.KIND_F16
        return binding.pack(weight, kind, bias)

    def _segment(
        self, segment: Segment, source: SegmentSource, owner: str, pages: HugePages | None = None
    ) -> _PackedSegment:
        packed = self._segments.get((owner, segment))
        if packed is None:
            packed = self._pack_segment(segment, source, owner)
            packed = self._segments[owner, segment] = packed if pages is None else packed.moved(pages)
        return packed

    def _pack_segment(self, segment: Segment, source: SegmentSource, owner: str) -> _PackedSegment:
        weights, bits = source.weights_of(segment), segment.bits
        if bits == PLANE_BITS and isinstance(weights.inputs, BytePlanes):
            return self._segment(replace(segment, bits=FULL_BITS), source, owner).upper
        block = self.weights.blocks[segment.block]
        rows, bias, count = weights.inputs, weights.inputs_bias, len(weights.channels)
        in_panels: Callable[[Tensor], Tensor]
        if segment.kind == "attention":
            in_panels = partial(binding.group_by_head, heads=count, head_dim=self._spec.head_dim)
        elif self._spec.gated:
            in_panels = partial(binding.interleave_gate_up, channels=count)
        else:
            in_panels = binding.pad_panels
        rows = rows.mapped(in_panels) if isinstance(rows, BytePlanes) else in_panels(rows)
        bias = None if bias is None else in_panels(bias)
        if segment.kind == "mlp":
            count = -(-count // binding.LANES) * binding.LANES
        out_bias = (block.output if segment.kind == "attention" else block.down).bias
        # The bias belongs to the sub-layer: its first segment adds it.
        packed_in, packed_out = (
            self._pack(rows, bits, bias),
            self._pack(weights.outputs, bits, out_bias if segment.start == 0 else None),
        )
        return _PackedSegment(count, weights.channels.to(torch.int32).contiguous(), packed_in, packed_out)

    def forward(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        *,
        with_logits: bool = True,
        taps: Tensor | None = None,
        routes: NativeRoutes | None = None,
    ) -> Tensor | None:
        logits = torch.empty((len(rows), self._padded_vocab)) if with_logits else None
        self._forward(plan, cache, rows, logits, taps, None, 0, 2 * self._spec.num_blocks, routes=routes)
        return None if logits is None else logits[:, : self._spec.vocab_size]

    def run_sub_layers(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, first: int, last: int
    ) -> Tensor:
        result = stream.to(torch.float32, copy=True).contiguous()
        self._forward(plan, cache, rows, None, None, result, first, last)
        return result

    def write_keys(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, block: int) -> None:
        passing = stream.to(torch.float32, copy=True).contiguous()
        self._forward(plan, cache, rows, None, None, passing, 2 * block, 2 * block + 1, keys_only=True)

    def embed(self, plan: DraftPlan, cache: KVCache, rows: Rows) -> Tensor:
        taps = torch.empty((1, len(rows), self._spec.hidden_size))
        self._forward(plan, cache, rows, None, taps, None, 0, 0)
        return taps[0]

    def logits(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor) -> Tensor:
        logits = torch.empty((len(rows), self._padded_vocab))
        self._forward(plan, cache, rows, logits, None, stream.to(torch.float32, copy=True).contiguous(), 0, 0)
        return logits[:, : self._spec.vocab_size]

    def _forward(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        logits: Tensor | None,
        taps: Tensor | None,
        stream: Tensor | None,
        first: int,
        last: int,
        keys_only: bool = False,
        routes: NativeRoutes | None = None,
    ) -> None:
        assert isinstance(cache, NativeCache)
        payload: _Payload = plan.payload
        struct, buffer = binding.rows_struct(rows)
        with self._lock:
            status = self._library.forward(
                ctypes.byref(self._model),
                ctypes.byref(payload.struct),
                None if routes is None else routes.over(cache, rows),
                ctypes.byref(cache.struct),
                ctypes.byref(struct),
                self._workspace,
                payload.width,
                _longest(rows),
                *(ctypes.c_void_p(binding.pointer(tensor)) for tensor in (logits, taps, stream)),
                first,
                last,
                keys_only,
            )
        del buffer
        _check(status)

    def review(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        top: int,
        noise: ChoiceNoise | None,
        depths: Sequence[int],
        routes: NativeRoutes | None = None,
    ) -> list[Candidates]:
        tokens, probs = (ctypes.c_int32 * (len(rows) * top))(), (ctypes.c_float * (len(rows) * top))()
        self._review(plan, cache, rows, top, noise, depths, tokens, probs, routes)
        return binding.candidates(tokens, probs, len(rows), top)

    def choose(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> tuple[list[int], Tensor]:
        tokens = (ctypes.c_int32 * len(rows))()
        self._review(plan, cache, rows, 1, noise, depths, tokens)
        return list(tokens), self._logits[: len(rows), : self._spec.vocab_size]

    def _review(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        top: int,
        noise: ChoiceNoise | None,
        depths: Sequence[int],
        tokens: ctypes.Array[ctypes.c_int32],
        probs: ctypes.Array[ctypes.c_float] | None = None,
        routes: NativeRoutes | None = None,
    ) -> None:
        assert isinstance(cache, NativeCache)
        payload: _Payload = plan.payload
        struct, buffer = binding.rows_struct(rows)
        n = len(rows)
        with self._lock:
            status = self._library.review(
                ctypes.byref(self._model),
                ctypes.byref(payload.struct),
                None if routes is None else routes.over(cache, rows),
                ctypes.byref(cache.struct),
                ctypes.byref(struct),
                self._workspace,
                payload.width,
                _longest(rows),
                ctypes.c_void_p(self._scratch_logits(n)),
                ctypes.byref(binding.choosing(top, noise)),
                (ctypes.c_int32 * n)(*depths),
                tokens,
                probs,
            )
        del buffer
        _check(status)

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
        routes: NativeRoutes | None = None,
    ) -> list[Candidates]:
        assert isinstance(cache, NativeCache)
        payload: _Payload = plan.payload
        n = len(fed)
        tokens, probs = (ctypes.c_int32 * (num_tokens * top))(), (ctypes.c_float * (num_tokens * top))()
        stopping, owned = binding.stopping(stop)
        with self._lock:
            count = self._library.draft_chain(
                ctypes.byref(self._model),
                ctypes.byref(payload.struct),
                None if routes is None else routes.over_chain(cache, n, offset + n + num_tokens),
                ctypes.byref(cache.struct),
                self._workspace,
                payload.width,
                (ctypes.c_int32 * n)(*fed),
                n,
                cache.length + offset,
                num_tokens,
                ctypes.c_void_p(self._scratch_logits(n)),
                ctypes.byref(binding.choosing(top, noise)),
                ctypes.byref(stopping),
                (ctypes.c_int32 * (3 * n + 1))(),
                tokens,
                probs,
            )
        del owned
        _check(count)
        return binding.candidates(tokens, probs, count, top)

    def routed_passes(self, plan: DraftPlan, router: Router, passed_keys: str) -> NativePasses:
        routes = NativeRoutes(router, passed_keys == "projected", self._spec, self._threads)
        return NativePasses(self, plan, routes)

    def best_tokens(self, logits: Tensor, top: int) -> list[list[int]]:
        n = len(logits)
        tokens, scratch = (ctypes.c_int32 * (n * top))(), (ctypes.c_float * top)()
        self._library.choose_rows(
            ctypes.c_void_p(logits.data_ptr()), n, logits.stride(0), self._spec.vocab_size, top, tokens, scratch
        )
        return [tokens[i : i + top] for i in range(0, n * top, top)]

    def _scratch_logits(self, rows: int) -> int:
        """Address of room for the logits of `rows` rows that nobody outside the engine reads."""
        if self._logits.shape[0] < rows:
            self._logits = torch.empty((rows, self._padded_vocab))
        return self._logits.data_ptr()

    @property
    def _padded_vocab(self) -> int:
        return -(-self._spec.vocab_size // binding.LANES) * binding.LANES


def _longest(rows: Rows) -> int:
    """Slots from the first one that a row sees to its last one, at most."""
    ends = zip(rows.prefix_starts, rows.prefix_lengths, rows.paths, strict=True)
    return max(max(length, path[-1] + 1 - start) for start, length, path in ends)


def _check(status: int) -> None:
    if status < 0:
        raise AutodraftError("out of memory in the compiled engine; use a shorter context or a smaller --widen")
