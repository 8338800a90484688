"""`Packing`: the weights of plans in the compiled engine's layouts, each segment packed once while a plan uses it.

Knows nothing of forward passes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.runtime import native_binding as binding
from autodraft.runtime import native_linears as linears
from autodraft.runtime.byte_planes import PLANE_BITS, BytePlanes, fits_float16
from autodraft.runtime.coded_weights import CODED_SHARE
from autodraft.runtime.cpu_cache import last_level_cache_bytes
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.huge_pages import HugePages
from autodraft.runtime.native_model import FULL_KINDS
from autodraft.runtime.plan import DraftPlan, Segment, SegmentSource
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import Matrix, TargetWeights

_LOW_KINDS = {8: binding.KIND_INT8, 4: binding.KIND_INT4}


@dataclass(frozen=True)
class PackedSegment:
    """Both matrices of a segment; `count` channels, padded to whole panels in an MLP."""

    count: int
    channels: Tensor
    inputs: linears.PackedLinear
    outputs: linears.PackedLinear

    @property
    def struct(self) -> binding.CSegment:
        """For the engine; it points into this segment."""
        return binding.CSegment(self.count, self.channels.data_ptr(), self.inputs.struct, self.outputs.struct)

    @property
    def width(self) -> int:
        """Its widest activation, in channels."""
        return max(self.inputs.padded_outputs, int(self.outputs.struct.k_padded), self.count)

    def moved(self, pages: HugePages) -> PackedSegment:
        """The same with its matrices there."""
        return replace(self, inputs=self.inputs.moved(pages), outputs=self.outputs.moved(pages))

    @property
    def upper(self) -> PackedSegment:
        """Of a segment in planes, the same at 8 bits in the same memory."""
        return replace(self, inputs=self.inputs.upper, outputs=self.outputs.upper)


@dataclass(frozen=True)
class Payload:
    """A plan as the engine takes it, what it points to, and its widest activation in channels."""

    struct: binding.CPlan
    owned: tuple[Any, ...]
    width: int

    @property
    def linears(self) -> list[linears.PackedLinear]:
        """The head and both matrices of every segment."""
        segments = [each for each in self.owned if isinstance(each, PackedSegment)]
        heads = [each for each in self.owned if isinstance(each, linears.PackedLinear)]
        return heads + [linear for segment in segments for linear in (segment.inputs, segment.outputs)]

    @property
    def matrix_bytes(self) -> int:
        """Of all of them as they lie in memory, less than 16 bits a weight where those are coded."""
        return sum(linear.size_bytes for linear in self.linears)


class Packing:
    """Compiles policies of one target, for the engine.

    Args:
        spec, weights: of the target.
        dtype: one of `FULL_KINDS`.
        coded: whether the engine is given bfloat16 weights in codes (coded_weights.py). None: where it reads codes
            `at_once`, or where the target does not fit the processor's caches.
        at_once: whether codes are worth it out of a cache, too.

    Attributes:
        full_bytes: of a weight in the target's precision.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: TargetWeights,
        dtype: torch.dtype,
        *,
        coded: bool | None = None,
        at_once: bool = False,
    ) -> None:
        self._spec, self._weights = spec, weights
        # A checkpoint has one dtype: what its head was stored in, all of it was.
        self.full_bytes = 2 if dtype.itemsize == 2 or fits_float16(weights.head) else dtype.itemsize
        target = DraftPlan(DraftPolicy.uniform(spec.num_blocks, FULL_BITS), spec, self.full_bytes, None)
        if coded is None:
            coded = at_once or target.weight_bytes > last_level_cache_bytes()
        self._cached = CODED_SHARE * target.weight_bytes <= last_level_cache_bytes()
        full = binding.KIND_CODED if coded and dtype == torch.bfloat16 else FULL_KINDS[dtype]
        self._kinds = {FULL_BITS: full, **_LOW_KINDS}
        self._source = SegmentSource(spec, weights)
        # Packed segments live as long as a plan that uses them; the key says whose weights they are.
        self._segments: weakref.WeakValueDictionary[tuple[str, Segment], PackedSegment] = weakref.WeakValueDictionary()
        self._heads: weakref.WeakValueDictionary[tuple[str, int], linears.PackedLinear] = weakref.WeakValueDictionary()
        self._pages = HugePages()

    def compile(self, policy: DraftPolicy, own: DraftWeights | None = None) -> DraftPlan:
        """See `Backend`."""
        weights = self._weights if own is None else own.applied_to(self._weights)
        source = self._source if own is None else SegmentSource(self._spec, weights)
        owner = "" if own is None else own.digest
        # Every step of the target reads all of it; drafts come and go.
        pages = self._pages if policy.is_full and own is None else None
        owns_head = weights.head is not self._weights.head
        head = self._head(policy.head_bits, weights.head, owner if owns_head else "", pages)
        grouped: dict[tuple[int, str], list[PackedSegment]] = {}
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
        payload = Payload(binding.CPlan(blocks, head.struct), (blocks, *owned), width)
        return DraftPlan(
            policy, self._spec, self.full_bytes, payload,
            silent=source.silent, in_planes=source.in_planes, owns_weights=own is not None, owns_head=owns_head,
        )  # fmt: skip

    def _head(self, bits: int, matrix: Tensor, owner: str, pages: HugePages | None) -> linears.PackedLinear:
        packed = self._heads.get((owner, bits))
        if packed is None:
            packed = self._pack(matrix, bits)
            packed = self._heads[owner, bits] = packed if pages is None else packed.moved(pages)
        return packed

    def _pack(self, weight: Matrix, bits: int, bias: Tensor | None = None) -> linears.PackedLinear:
        """A matrix for the engine; one of 32 bits in 16 where those hold the same numbers: half the bytes to read."""
        if isinstance(weight, BytePlanes):
            if bits == FULL_BITS:
                return linears.pack_planes(weight, bias)
            weight = weight.joined()
        kind = self._kinds[bits]
        if kind == binding.KIND_F32 and fits_float16(weight):
            kind = binding.KIND_F16
        return linears.pack(weight, kind, bias, cached=self._cached)

    def _segment(
        self, segment: Segment, source: SegmentSource, owner: str, pages: HugePages | None = None
    ) -> PackedSegment:
        packed = self._segments.get((owner, segment))
        if packed is None:
            packed = self._pack_segment(segment, source, owner)
            packed = self._segments[owner, segment] = packed if pages is None else packed.moved(pages)
        return packed

    def _pack_segment(self, segment: Segment, source: SegmentSource, owner: str) -> PackedSegment:
        weights, bits = source.weights_of(segment), segment.bits
        if bits == PLANE_BITS and isinstance(weights.inputs, BytePlanes):
            return self._segment(replace(segment, bits=FULL_BITS), source, owner).upper
        block = self._weights.blocks[segment.block]
        rows, bias, count = weights.inputs, weights.inputs_bias, len(weights.channels)
        in_panels: Callable[[Tensor], Tensor]
        if segment.kind == "attention":
            in_panels = partial(linears.group_by_head, heads=count, head_dim=self._spec.head_dim)
        elif self._spec.gated:
            in_panels = partial(linears.interleave_gate_up, channels=count)
        else:
            in_panels = linears.pad_panels
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
        return PackedSegment(count, weights.channels.to(torch.int32).contiguous(), packed_in, packed_out)
