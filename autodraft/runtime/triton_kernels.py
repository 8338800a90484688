"""Triton kernels of y = x W^T + bias for few rows, with W at 16, 8 or 4 bits.

Know nothing of packing or of tensors. One program makes a block of outputs for `ROW_BLOCK` rows and walks over all
inputs in order, in tiles that do not depend on the number of rows, and adds up in float32: nothing is split over
programs, so a row's result is the same bits whatever else is in the call. The number of rows is no constant of the
kernel for the same reason: one binary serves them all. Rows that are not there are neither read nor written. Programs
of the same outputs come one after the other, so that further blocks of rows find their weights in the cache.

At 8 and 4 bits this is bound by instructions, not by memory. A single row, which is what drafting is made of, has its
own kernels in `autodraft.runtime.triton_row_kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

ROW_BLOCK: tl.constexpr = tl.constexpr(16)  # the least that tensor cores take
_UPPER_BITS: tl.constexpr = tl.constexpr(-0x4080)  # of float16: the sign, and what the upper plane has of the magnitude


@triton.jit
def wait_for_inputs(EARLY: tl.constexpr):
    """Where a kernel may start before the one ahead of it has ended: wait for that one, and let the next one start."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def fetch_ahead(weight, rows, width, LINES: tl.constexpr, EARLY: tl.constexpr):
    """Before `wait_for_inputs`: the first `LINES` lines of some rows of weights to the second-level cache.

    Weights are nobody's output, and while the kernel ahead ends, memory has nothing else to do.
    """
    if EARLY:
        line: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth  # weights in 128 bytes
        place = tl.minimum(tl.arange(0, LINES) * line, width - 1)
        where = weight + rows.to(tl.int64)[:, None] * width + place[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [where.to(tl.int64)],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def put(total, to, mask, ADD: tl.constexpr):
    """Sums to `to`, or onto what is there."""
    if ADD:
        total = total + tl.load(to, mask=mask, other=0.0)
    tl.store(to, total, mask=mask)


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """ACTIVATION of each, as `ModelSpec` names it."""
    if ACTIVATION == "silu":
        return x * tl.sigmoid(x)
    elif ACTIVATION == "relu":
        return tl.maximum(x, 0.0)
    elif ACTIVATION == "relu2":
        return tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    elif ACTIVATION == "gelu_tanh":
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))  # 1 + tanh(u) is 2 sigmoid(2 u)
    else:
        return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def _outputs(column, outputs, GATED: tl.constexpr):
    """Whose sums the columns of a tile are: where there are gates, each beside what it is a gate of."""
    return column % 2 * (outputs // 2) + column // 2 if GATED else column


@triton.jit
def _finish(
    total, scale, bias, y, row, rows, column, outputs,
    ADD: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Sums, scaled, with their bias, to y: as they are or added to what is there, or activated. [rows, columns]"""
    is_column, output = column < outputs, _outputs(column, outputs, GATED)
    if scale is not None:
        total = total * tl.load(scale + output, mask=is_column, other=0.0)[None, :]
    if bias is not None:
        total = total + tl.load(bias + output, mask=is_column, other=0.0)[None, :]
    place, width = column, outputs
    if GATED:
        half: tl.constexpr = total.shape[1] // 2
        gate, up = tl.split(tl.reshape(total, (total.shape[0], half, 2)))
        total = activated(gate, ACTIVATION) * up
        place, width = tl.program_id(1) * half + tl.arange(0, half), outputs // 2
    elif ACTIVATION is not None:
        total = activated(total, ACTIVATION)
    to = y + row[:, None] * width + place[None, :]
    put(total.to(y.dtype.element_ty), to, (row < rows)[:, None] & (place < width)[None, :], ADD)


@triton.jit
def _from_planes(upper, lower):
    """Tiles of int8 as `BytePlanes` has them -> float16; lower: None where there is the upper one alone."""
    bits = (upper.to(tl.int16) << 7) & _UPPER_BITS
    if lower is not None:
        bits += lower.to(tl.int16)
    return bits.to(tl.float16, bitcast=True)


@triton.jit(do_not_specialize=["rows"])
def per_channel(
    x,  # [rows, inputs], 16 or 32 bits
    weight,  # [outputs, inputs], x's type or int8
    lower,  # int8 [outputs, inputs], or None
    scale,  # [outputs] float32, or None
    bias,  # [outputs] float32, or None
    y,  # [rows, outputs] float32; with ACTIVATION any type, where it is gated [rows, outputs / 2]
    rows,
    outputs,
    inputs,
    ADD: tl.constexpr,  # to what is in y
    ACTIVATION: tl.constexpr,  # as `activated` takes it, or None
    GATED: tl.constexpr,  # with ACTIVATION: the first half of the outputs are gates of the other one
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether inputs is a multiple of BLOCK_INPUTS
    LINES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Weights in the precision of x, or as int8 with one scale per output, which is applied to the sum.

    As int8 without a scale they are float16 in two planes, the upper one here; without `lower` it is all there is.
    """
    in_planes: tl.constexpr = scale is None and weight.dtype.element_ty == tl.int8
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    column = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    # Columns past the end read the last output again: cheaper than a mask, and never written.
    output = tl.minimum(_outputs(column, outputs, GATED), outputs - 1)
    place = tl.arange(0, BLOCK_INPUTS)
    is_row = (row < rows)[:, None]
    x_tiles = x + row[:, None] * inputs + place[None, :]
    of_tile = output.to(tl.int64)[:, None] * inputs + place[None, :]
    total = tl.zeros((ROW_BLOCK, BLOCK_OUTPUTS), tl.float32)
    fetch_ahead(weight, output, inputs, LINES, EARLY)
    if lower is not None:
        fetch_ahead(lower, output, inputs, LINES, EARLY)
    wait_for_inputs(EARLY)
    for start in range(0, inputs, BLOCK_INPUTS):
        if WHOLE_TILES:
            x_tile = tl.load(x_tiles + start, mask=is_row, other=0.0)
            w_tile = tl.load(weight + of_tile + start)
            lower_tile = None if lower is None else tl.load(lower + of_tile + start)
        else:
            is_input = (start + place < inputs)[None, :]
            x_tile = tl.load(x_tiles + start, mask=is_row & is_input, other=0.0)
            w_tile = tl.load(weight + of_tile + start, mask=is_input, other=0)
            lower_tile = None if lower is None else tl.load(lower + of_tile + start, mask=is_input, other=0)
        if in_planes:
            w_tile = _from_planes(w_tile, lower_tile)
        total = tl.dot(x_tile, tl.trans(w_tile.to(x_tile.dtype)), total, input_precision="ieee")
    _finish(total, scale, bias, y, row, rows, column, outputs, ADD, ACTIVATION, GATED)


@triton.jit
def _centred(words, number, dtype: tl.constexpr):
    """The `number`-th four bits of each word, less 8, as `dtype`.

    As the lowest bits of the mantissa of 128 or 1024 they are that much more, without an instruction that converts:
    at the bytes per second of a fast memory there is time for only a few instructions per weight.
    """
    bits = (words >> (4 * number)) & 15
    if dtype == tl.bfloat16:
        return (bits | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True) - 136.0
    elif dtype == tl.float16:
        return (bits | 0x6400).to(tl.int16).to(tl.float16, bitcast=True) - 1032.0
    else:
        return bits.to(tl.float32) - 8.0


@triton.jit(do_not_specialize=["rows"])
def per_group(
    x,  # [rows, inputs], 16 or 32 bits
    weight,  # [outputs, groups, 4] int32: bits 4 i to 4 i + 3 of word j are input 4 i + j of the group
    scale,  # [outputs, groups], x's type
    bias,  # [outputs] float32, or None
    y,  # [rows, outputs] float32; with ACTIVATION any type, where it is gated [rows, outputs / 2]
    rows,
    outputs,
    inputs,
    groups,
    ADD: tl.constexpr,  # to what is in y
    ACTIVATION: tl.constexpr,  # as `activated` takes it, or None
    GATED: tl.constexpr,  # with ACTIVATION: the first half of the outputs are gates of the other one
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether inputs is a multiple of 32 BLOCK_GROUPS
    LINES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Weights of 4 bits with one scale per 32 inputs, dequantized in the precision of x."""
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    column = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    output = tl.minimum(_outputs(column, outputs, GATED), outputs - 1)
    group = tl.arange(0, BLOCK_GROUPS)
    word = tl.arange(0, BLOCK_GROUPS * 4)
    place = word // 4 * 32 + word % 4
    is_row = (row < rows)[:, None]
    x_tiles = x + row[:, None] * inputs + place[None, :]
    first_group = output.to(tl.int64)[:, None] * groups
    word_tiles = weight + first_group * 4 + word[None, :]
    scale_tiles = scale + first_group + group[None, :]
    total = tl.zeros((ROW_BLOCK, BLOCK_OUTPUTS), tl.float32)
    fetch_ahead(weight, output, groups * 4, LINES, EARLY)
    wait_for_inputs(EARLY)
    for start in range(0, groups, BLOCK_GROUPS):
        if WHOLE_TILES:
            words = tl.load(word_tiles + start * 4)
            scales = tl.load(scale_tiles + start)
        else:
            words = tl.load(word_tiles + start * 4, mask=(start * 4 + word < groups * 4)[None, :], other=0)
            scales = tl.load(scale_tiles + start, mask=(start + group < groups)[None, :], other=0.0)
        spread = tl.broadcast_to(scales[:, :, None], (BLOCK_OUTPUTS, BLOCK_GROUPS, 4))
        factor = tl.reshape(spread, (BLOCK_OUTPUTS, BLOCK_GROUPS * 4))
        for number in tl.static_range(8):
            first = start * 32 + 4 * number
            seen = is_row if WHOLE_TILES else is_row & (first + place < inputs)[None, :]
            x_tile = tl.load(x_tiles + first, mask=seen, other=0.0)
            w_tile = _centred(words, number, x_tile.dtype) * factor
            total = tl.dot(x_tile, tl.trans(w_tile), total, input_precision="ieee")
    _finish(total, None, bias, y, row, rows, column, outputs, ADD, ACTIVATION, GATED)
