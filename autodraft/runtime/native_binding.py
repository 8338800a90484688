"""ctypes mirrors of `native/engine.h`, and how they are filled.

Knows nothing of policies or blocks. Whatever a structure points to must outlive its use.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autodraft.runtime.choosing import ACCEPTANCE_BINS, Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.rows import Rows

LANES = 16
KIND_F32, KIND_BF16, KIND_INT8, KIND_INT4, KIND_F16, KIND_PLANES, KIND_UPPER, KIND_CODED = range(8)
POINTERS = ("weight", "lower", "scale", "sum", "bias")


class CLinear(ctypes.Structure):
    """One packed matrix."""

    _fields_ = (
        *((name, c_int32) for name in ("kind", "n", "k", "k_padded", "cached")),
        *((name, c_void_p) for name in POINTERS),
    )


class CSource(ctypes.Structure):
    """A matrix to be packed."""

    _fields_ = (("rows", c_void_p), *((name, c_int32) for name in ("kind", "n", "k", "k_padded")))


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


def pointer(tensor: Tensor | None) -> int | None:
    """Address of the first element, NULL for None; the tensor must outlive its use."""
    return None if tensor is None else tensor.data_ptr()


def segment_array(segments: Sequence[CSegment]) -> ctypes.Array[CSegment]:
    """An array in C of at least one element."""
    return (CSegment * max(1, len(segments)))(*segments)
