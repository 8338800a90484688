"""ctypes mirrors of `native/engine.h`, and the packing of matrices into its layouts.

Knows nothing of policies or blocks. Every structure keeps the tensors that it points into alive.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.runtime.byte_planes import BytePlanes
from autodraft.runtime.choosing import ACCEPTANCE_BINS, Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.coded_weights import CodedWeights
from autodraft.runtime.huge_pages import HugePages
from autodraft.runtime.quantization import INT4_GROUP_SIZE, quantize_int4, quantize_int8
from autodraft.runtime.rows import Rows

LANES = 16
KIND_F32, KIND_BF16, KIND_INT8, KIND_INT4, KIND_F16, KIND_PLANES, KIND_UPPER, KIND_CODED = range(8)
# Whole tiles of 64 bytes; pairs of bytes.
_INPUT_MULTIPLE = {KIND_BF16: 32, KIND_INT8: 64, KIND_INT4: INT4_GROUP_SIZE, KIND_PLANES: 2}


_POINTERS = ("weight", "lower", "scale", "sum", "bias")


class CLinear(ctypes.Structure):
    """One packed matrix."""

    _fields_ = (
        *((name, c_int32) for name in ("kind", "n", "k", "k_padded", "cached")),
        *((name, c_void_p) for name in _POINTERS),
    )


class CSegment(ctypes.Structure):
    """The two matrices of a segment."""

    _fields_ = (("channels", c_int32), ("kv_heads", c_void_p), ("input", CLinear), ("output", CLinear))


class CBlockPlan(ctypes.Structure):
    """The segments of one block."""

    _fields_ = (
        ("num_attention", c_int32),
        ("num_mlp", c_int32),
        ("attention", POINTER(CSegment)),
        ("mlp", POINTER(CSegment)),
    )


class CPlan(ctypes.Structure):
    """All blocks and the output head."""

    _fields_ = (("blocks", POINTER(CBlockPlan)), ("head", CLinear))


class CBlockNorms(ctypes.Structure):
    """Norm weights of one block."""

    _fields_ = tuple(
        (name, c_void_p)
        for name in (
            *("attention_norm", "attention_norm_bias", "query_norm", "key_norm", "mlp_norm", "mlp_norm_bias"),
            *("attention_norm_behind", "mlp_norm_behind"),
        )
    )


class CModel(ctypes.Structure):
    """What all plans of a target share."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                *("num_blocks", "hidden", "num_heads", "num_kv_heads", "head_dim", "vocab"),
                *("layer_norm", "activation", "gated", "dtype"),
                *("joint_qk_norm", "norms_rotated", "rotary_dim", "rotates_pairs"),
            )
        ),
        *((name, c_float) for name in ("norm_eps", "embedding_scale", "query_scale", "score_cap", "logit_cap")),
        *((name, c_void_p) for name in ("embedding", "positions", "cosine", "sine")),
        *((name, c_int32) for name in ("table_rows", "window")),
        *((name, c_void_p) for name in ("rotations", "windowed")),
        ("norms", POINTER(CBlockNorms)),
        ("final_norm", c_void_p),
        ("final_norm_bias", c_void_p),
    )


class CCache(ctypes.Structure):
    """Keys and values."""

    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("slots", c_int32))


class CRows(ctypes.Structure):
    """The rows of one forward pass."""

    _fields_ = (
        ("n", c_int32),
        *(
            (name, c_void_p)
            for name in (
                *("tokens", "positions", "slots", "prefix_starts", "prefix_lengths"),
                *("path_offsets", "path_slots"),
            )
        ),
    )


class CRouter(ctypes.Structure):
    """The networks that pick every token's next node."""

    _fields_ = (
        *((name, c_int32) for name in ("nodes", "width", "most_runs", "goes_back", "units", "places")),
        *((name, c_void_p) for name in ("input", "input_bias", "output", "output_bias")),
    )


class CRouting(ctypes.Structure):
    """A router with what its passes write down."""

    _fields_ = (
        ("router", POINTER(CRouter)),
        ("projected", c_int32),
        ("committed", c_int32),
        *((name, c_void_p) for name in ("written", "streams", "notes")),
        *((name, c_int64) for name in ("written_stride", "notes_stride")),
    )


class CChoosing(ctypes.Structure):
    """How the best tokens of a row are found."""

    _fields_ = (("temperature", c_float), ("noise", c_void_p), ("top", c_int32))


class CStopping(ctypes.Structure):
    """When a chain ends."""

    _fields_ = (
        *(("threshold", c_float), ("acceptance", POINTER(c_float)), ("reach", c_float), ("least", c_float)),
        *(("last_tokens", POINTER(c_int32)), ("num_last_tokens", c_int32)),
    )


def choosing(top: int, noise: ChoiceNoise | None) -> CChoosing:
    """The structure; `noise` must outlive its use."""
    if noise is None:
        return CChoosing(1.0, None, top)
    assert isinstance(noise.rows, np.ndarray)
    return CChoosing(noise.temperature, address(noise.rows, np.float32), top)


def address(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> int:
    """Of an array's first number; `ValueError` unless its numbers are those of C and lie one after the other."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"an array of {array.dtype} where contiguous {np.dtype(dtype)} is needed")
    first: int = array.__array_interface__["data"][0]  # `array.ctypes` makes an object that takes longer
    return first


def stopping(stop: ChainStop) -> tuple[CStopping, object]:
    """The structure and what it points to."""
    acceptance = None if stop.acceptance is None else (c_float * ACCEPTANCE_BINS)(*stop.acceptance)
    number = len(stop.last_tokens)
    last_tokens = (c_int32 * number)(*stop.last_tokens) if number else None
    structure = CStopping(stop.threshold, acceptance, stop.reach, stop.least, last_tokens, number)
    return structure, (acceptance, last_tokens)


def candidates(tokens: ctypes.Array[c_int32], probs: ctypes.Array[c_float], rows: int, top: int) -> list[Candidates]:
    """What the engine chose, row by row."""
    best, likely = tokens[: rows * top], probs[: rows * top]  # lists are cut faster than what C has written
    return [Candidates(best[i : i + top], likely[i : i + top]) for i in range(0, rows * top, top)]


def rows_struct(rows: Rows) -> tuple[CRows, array[int]]:
    """The structure and the buffer it points into."""
    n = len(rows)
    width = 4 * n
    if rows.is_chain:  # most passes are: what is the same is written once
        buffer = array("i", (*rows.tokens, *rows.slots, *[0] * n, *range(n + 1)))
        tokens = buffer.buffer_info()[0]
        slots, zeros, offsets = tokens + width, tokens + 2 * width, tokens + 3 * width
        return CRows(n, tokens, slots, slots, zeros, slots, offsets, slots), buffer
    buffer = array("i", rows.tokens)
    for part in (rows.positions, rows.slots, rows.prefix_starts, rows.prefix_lengths):
        buffer.extend(part)
    offset = 0
    buffer.append(0)
    for path in rows.paths:
        offset += len(path)
        buffer.append(offset)
    for path in rows.paths:
        buffer.extend(path)
    address = buffer.buffer_info()[0]
    return CRows(n, *(address + width * part for part in range(6)), address + 6 * width + 4), buffer


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
        for name in _POINTERS:
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
    upper, lower = _interleave(padded.upper, 1), _interleave(padded.lower, 1)
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
    padded_outputs = -(-outputs // LANES) * LANES
    multiple = _INPUT_MULTIPLE.get(bits_kind, 1)
    padded_inputs = -(-inputs // multiple) * multiple
    weight = F.pad(weight, (0, padded_inputs - inputs, 0, padded_outputs - outputs))
    scale = row_sums = None
    if bits_kind == KIND_F32:
        packed = _interleave(weight.float(), 1)
    elif bits_kind == KIND_F16:
        packed = _interleave(weight.half(), 1)
    elif bits_kind == KIND_BF16:
        packed = _interleave(weight.to(torch.bfloat16), 2)
    elif bits_kind == KIND_INT8:
        quantized, scale = quantize_int8(weight)
        row_sums = quantized.sum(dim=1, dtype=torch.int32) * 128
        packed = _interleave(quantized, 4)
    else:
        nibbles, group_scale = quantize_int4(weight)
        pairs = nibbles.view(padded_outputs, padded_inputs // 8, 2, 4)
        packed = _interleave((pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(padded_outputs, -1), 4)
        scale = group_scale.view(padded_outputs // LANES, LANES, -1).transpose(1, 2).contiguous()
    bias = _packed_bias(bias, outputs)
    struct = CLinear(bits_kind, outputs, inputs, padded_inputs, 0, *map(pointer, (packed, None, scale, row_sums, bias)))
    return PackedLinear(struct, tuple(tensor for tensor in (packed, scale, row_sums, bias) if tensor is not None))


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


def _interleave(weight: Tensor, inputs_per_lane: int) -> Tensor:
    """[outputs, inputs] -> [outputs / 16, inputs / i, 16, i]"""
    outputs, inputs = weight.shape
    split = weight.view(outputs // LANES, LANES, inputs // inputs_per_lane, inputs_per_lane)
    return split.transpose(1, 2).contiguous()


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


def pointer(tensor: Tensor | None) -> int | None:
    """Address of the first element, NULL for None; the tensor must outlive its use."""
    return None if tensor is None else tensor.data_ptr()


def segment_array(segments: Sequence[CSegment]) -> ctypes.Array[CSegment]:
    """An array in C of at least one element."""
    return (CSegment * max(1, len(segments)))(*segments)
