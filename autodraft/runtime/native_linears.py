"""`PackedLinear`: a matrix in the layouts of native/engine.h, and how it gets there. Knows nothing of policies."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.runtime.byte_planes import BytePlanes
from autodraft.runtime.coded_weights import CodedWeights
from autodraft.runtime.huge_pages import HugePages
from autodraft.runtime.native_binding import (
    KIND_BF16,
    KIND_CODED,
    KIND_F16,
    KIND_F32,
    KIND_INT4,
    KIND_INT8,
    KIND_PLANES,
    KIND_UPPER,
    LANES,
    POINTERS,
    CLinear,
    CSource,
    pointer,
)
from autodraft.runtime.native_build import load_library
from autodraft.runtime.quantization import INT4_GROUP_SIZE
from autodraft.runtime.sharing_out import share_out

_INPUT_MULTIPLE = {
    **{KIND_BF16: 32, KIND_INT8: 64},  # whole tiles of 64 bytes
    **{KIND_INT4: INT4_GROUP_SIZE, KIND_PLANES: 2},
}
_KINDS = {torch.float32: KIND_F32, torch.float16: KIND_F16, torch.bfloat16: KIND_BF16}
_DTYPES = {kind: dtype for dtype, kind in _KINDS.items()}


@dataclass(frozen=True)
class PackedLinear:
    """One matrix in the engine's layout; `tensors` own the memory behind `struct`."""

    struct: CLinear
    tensors: tuple[Tensor, ...]

    @property
    def padded_outputs(self) -> int:
        return -(-int(self.struct.n) // LANES) * LANES

    @property
    def size_bytes(self) -> int:
        """Of all it consists of."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    def moved(self, pages: HugePages) -> PackedLinear:
        """The same with all it consists of there."""
        moved = {tensor.data_ptr(): pages.moved(tensor) for tensor in self.tensors}
        struct = CLinear.from_buffer_copy(self.struct)
        for name in POINTERS:
            tensor = moved.get(getattr(struct, name))
            setattr(struct, name, pointer(tensor))
        return PackedLinear(struct, tuple(moved.values()))

    @property
    def upper(self) -> PackedLinear:
        """Of a matrix in planes, the upper one as a matrix of 8 bits, in the same memory."""
        struct = CLinear.from_buffer_copy(self.struct)
        struct.kind, struct.lower = KIND_UPPER, None
        return PackedLinear(struct, self.tensors)


def pack_planes(planes: BytePlanes, bias: Tensor | None = None) -> PackedLinear:
    """Pack both planes for `KIND_PLANES`; outputs and inputs are padded with zeros."""
    outputs, inputs = planes.shape
    padding = -inputs % _INPUT_MULTIPLE[KIND_PLANES]
    padded = planes.mapped(lambda plane: F.pad(pad_panels(plane), (0, padding)))
    upper, lower = _interleave(padded.upper), _interleave(padded.lower)
    bias = _packed_bias(bias, outputs)
    struct = CLinear(KIND_PLANES, outputs, inputs, inputs + padding, 0, *map(pointer, (upper, lower, None, None, bias)))
    return PackedLinear(struct, tuple(tensor for tensor in (upper, lower, bias) if tensor is not None))


def pack(weight: Tensor, bits_kind: int, bias: Tensor | None = None, *, cached: bool = False) -> PackedLinear:
    """Pack [outputs, inputs] for the kernel of `bits_kind`; outputs and inputs are padded with zeros.

    `KIND_F16` is for weights that `fits_float16`; planes have `pack_planes`. `KIND_CODED` is `KIND_BF16` where too few
    weights have codes; `cached` says of it that it is expected to lie in a cache of the processor.
    """
    if bits_kind == KIND_CODED:
        return _with_codes(pack(weight, KIND_BF16, bias), cached)
    outputs, inputs = weight.shape
    panels, padded = -(-outputs // LANES), inputs + -inputs % _INPUT_MULTIPLE.get(bits_kind, 1)
    scale = row_sums = None
    if bits_kind == KIND_INT8:
        packed = torch.empty((panels, padded // 4, LANES, 4), dtype=torch.int8)
        scale, row_sums = torch.empty(panels * LANES), torch.empty(panels * LANES, dtype=torch.int32)
        _in_panels("pack_int8", weight, padded, packed, scale, row_sums)
    elif bits_kind == KIND_INT4:
        packed = torch.empty((panels, padded // 8, LANES, 4), dtype=torch.uint8)
        scale = torch.empty((panels, padded // INT4_GROUP_SIZE, LANES), dtype=torch.bfloat16)
        _in_panels("pack_int4", weight, padded, packed, scale)
    else:
        weight, per_lane = weight.to(_DTYPES[bits_kind]), 2 if bits_kind == KIND_BF16 else 1
        packed = torch.empty((panels, padded // per_lane, LANES, per_lane), dtype=weight.dtype)
        _in_panels("pack_as_it_is", weight, padded, packed)
    bias = _packed_bias(bias, outputs)
    struct = CLinear(bits_kind, outputs, inputs, padded, 0, *map(pointer, (packed, None, scale, row_sums, bias)))
    return PackedLinear(struct, tuple(tensor for tensor in (packed, scale, row_sums, bias) if tensor is not None))


def _in_panels(function: str, weight: Tensor, padded_inputs: int, *packed: Tensor) -> None:
    """Have the engine fill the tensors, some panels per thread."""
    weight, (outputs, inputs) = weight.contiguous(), weight.shape
    source = CSource(pointer(weight), _KINDS[weight.dtype], outputs, inputs, padded_inputs)
    run, addresses = getattr(load_library(), function), [ctypes.c_void_p(pointer(tensor)) for tensor in packed]
    share_out(-(-outputs // LANES), lambda first, last, _: run(ctypes.byref(source), first, last, *addresses))


def _with_codes(linear: PackedLinear, cached: bool) -> PackedLinear:
    coded = CodedWeights.of(linear.tensors[0])
    if coded is None:
        return linear
    struct = CLinear.from_buffer_copy(linear.struct)
    struct.kind, struct.cached = KIND_CODED, cached
    tensors = (coded.groups, coded.plain, coded.uppers, coded.lists)
    struct.weight, struct.lower, struct.scale, struct.sum = map(pointer, tensors)
    return PackedLinear(struct, (*tensors, *linear.tensors[1:]))


def _packed_bias(bias: Tensor | None, outputs: int) -> Tensor | None:
    """float32, padded to whole panels."""
    return None if bias is None else F.pad(bias.float(), (0, -outputs % LANES)).contiguous()


def _interleave(plane: Tensor) -> Tensor:
    """[outputs, inputs] -> [outputs / 16, inputs, 16]"""
    return plane.view(-1, LANES, plane.shape[1]).transpose(1, 2).contiguous()


def interleave_gate_up(rows: Tensor, channels: int) -> Tensor:
    """[gate; up] rows (or entries) -> panels of 16 gate rows and 16 up rows in turn, padded with zeros."""
    gate, up = (pad_panels(part) for part in rows.split(channels))
    shape = (-1, LANES, *rows.shape[1:])
    return torch.stack((gate.view(shape), up.view(shape)), dim=1).flatten(0, 2)


def group_by_head(rows: Tensor, heads: int, head_dim: int) -> Tensor:
    """[queries; keys; values] rows (or entries) of KV heads -> queries, key and value of one head after the other."""
    width = heads * head_dim
    parts = rows.split([len(rows) - 2 * width, width, width])
    return torch.cat([part.view(heads, -1, *rows.shape[1:]) for part in parts], dim=1).flatten(0, 1)


def pad_panels(rows: Tensor) -> Tensor:
    """Zero rows (or entries) at the end, up to whole panels of 16."""
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, -len(rows) % LANES))
