"""Triton kernels of y = x W^T + bias for few rows, with W at 16, 8 or 4 bits.

Know nothing of packing or of tensors. One program makes a block of outputs for `ROW_BLOCK` rows and walks over all
inputs in order, in tiles that do not depend on the number of rows, and adds up in float32: nothing is split over
programs, so a row's result is the same bits whatever else is in the call. The number of rows is no constant of the
kernel for the same reason: one binary serves them all. Rows that are not there are neither read nor written. Programs
of the same outputs come one after the other, so that further blocks of rows find their weights in the cache.

A single row has no use for tensor cores, and 4 bits leave them too little time: `row_per_channel` and `row_per_group`
are the same products of one row at 8 and 4 bits without them.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROW_BLOCK: tl.constexpr = tl.constexpr(16)  # the least that tensor cores take


@triton.jit
def _put(total, to, mask, ADD: tl.constexpr):
    """Sums to `to`, or onto what is there."""
    if ADD:
        total = total + tl.load(to, mask=mask, other=0.0)
    tl.store(to, total, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def per_channel(
    x,  # [rows, inputs], 16 or 32 bits
    weight,  # [outputs, inputs], x's type or int8
    scale,  # [outputs] float32, or None
    bias,  # [outputs] float32, or None
    y,  # [rows, outputs] float32
    rows,
    outputs,
    inputs,
    ADD: tl.constexpr,  # to what is in y
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether inputs is a multiple of BLOCK_INPUTS
):
    """Weights in the precision of x, or as int8 with one scale per output, which is applied to the sum."""
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    output = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    place = tl.arange(0, BLOCK_INPUTS)
    is_row = (row < rows)[:, None]
    x_tiles = x + row[:, None] * inputs + place[None, :]
    # Outputs past the end read the last one again: cheaper than a mask, and never written.
    w_tiles = weight + tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * inputs + place[None, :]
    total = tl.zeros((ROW_BLOCK, BLOCK_OUTPUTS), tl.float32)
    for start in range(0, inputs, BLOCK_INPUTS):
        if WHOLE_TILES:
            x_tile = tl.load(x_tiles + start, mask=is_row, other=0.0)
            w_tile = tl.load(w_tiles + start)
        else:
            is_input = (start + place < inputs)[None, :]
            x_tile = tl.load(x_tiles + start, mask=is_row & is_input, other=0.0)
            w_tile = tl.load(w_tiles + start, mask=is_input, other=0)
        total = tl.dot(x_tile, tl.trans(w_tile.to(x_tile.dtype)), total, input_precision="ieee")
    is_output = output < outputs
    if scale is not None:
        total = total * tl.load(scale + output, mask=is_output, other=0.0)[None, :]
    if bias is not None:
        total = total + tl.load(bias + output, mask=is_output, other=0.0)[None, :]
    _put(total, y + row[:, None] * outputs + output[None, :], is_row & is_output[None, :], ADD)


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
    y,  # [rows, outputs] float32
    rows,
    outputs,
    inputs,
    groups,
    ADD: tl.constexpr,  # to what is in y
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether inputs is a multiple of 32 BLOCK_GROUPS
):
    """Weights of 4 bits with one scale per 32 inputs, dequantized in the precision of x."""
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    output = tl.program_id(1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    group = tl.arange(0, BLOCK_GROUPS)
    word = tl.arange(0, BLOCK_GROUPS * 4)
    place = word // 4 * 32 + word % 4
    is_row = (row < rows)[:, None]
    x_tiles = x + row[:, None] * inputs + place[None, :]
    first_group = tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * groups
    word_tiles = weight + first_group * 4 + word[None, :]
    scale_tiles = scale + first_group + group[None, :]
    total = tl.zeros((ROW_BLOCK, BLOCK_OUTPUTS), tl.float32)
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
    is_output = output < outputs
    if bias is not None:
        total = total + tl.load(bias + output, mask=is_output, other=0.0)[None, :]
    _put(total, y + row[:, None] * outputs + output[None, :], is_row & is_output[None, :], ADD)


@triton.jit
def row_per_channel(
    x,  # [inputs], 16 or 32 bits
    weight,  # [outputs, inputs] int8
    scale,  # [outputs] float32
    bias,  # [outputs] float32, or None
    y,  # [outputs] float32
    outputs,
    inputs,
    ADD: tl.constexpr,  # to what is in y
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether inputs is a multiple of BLOCK_INPUTS
    STAGES: tl.constexpr,
):
    """Int8 weights with one scale per output, and one row."""
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    place = tl.arange(0, BLOCK_INPUTS)
    w_tiles = weight + tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * inputs + place[None, :]
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_INPUTS), tl.float32)
    for start in tl.range(0, inputs, BLOCK_INPUTS, num_stages=STAGES):
        if WHOLE_TILES:
            x_tile = tl.load(x + start + place)
            w_tile = tl.load(w_tiles + start)
        else:
            is_input = start + place < inputs
            x_tile = tl.load(x + start + place, mask=is_input, other=0.0)
            w_tile = tl.load(w_tiles + start, mask=is_input[None, :], other=0)
        total += w_tile.to(tl.float32) * x_tile.to(tl.float32)[None, :]
    is_output = output < outputs
    result = tl.sum(total, 1) * tl.load(scale + output, mask=is_output, other=0.0)
    if bias is not None:
        result = result + tl.load(bias + output, mask=is_output, other=0.0)
    _put(result, y + output, is_output, ADD)


@triton.jit
def _raised(words, number: tl.constexpr):
    """The `number`-th four bits of each word, plus 128: as bits 16 to 19 of a float32, one shift and one operation."""
    moved = words << (16 - 4 * number) if number < 4 else words >> (4 * number - 16)
    return ((moved & 0x000F0000) | 0x43000000).to(tl.float32, bitcast=True)


@triton.jit
def row_per_group(
    x,  # [inputs], 16 or 32 bits
    weight,  # [outputs, groups, 4] int32, as `per_group` takes it
    scale,  # [outputs, groups], 16 or 32 bits
    bias,  # [outputs] float32, or None
    y,  # [outputs] float32
    outputs,
    inputs,
    groups,
    ADD: tl.constexpr,  # to what is in y
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether inputs is a multiple of 32 BLOCK_GROUPS
    STAGES: tl.constexpr,
):
    """Weights of 4 bits with one scale per 32 inputs, and one row."""
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    word = tl.arange(0, BLOCK_GROUPS * 4)
    place = word // 4 * 32 + word % 4
    first_group = tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * groups
    word_tiles = weight + first_group * 4 + word[None, :]
    # The four words of a group read the same scale: in the words' layout it needs no exchange between threads.
    scale_tiles = scale + first_group + (word // 4)[None, :]
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_GROUPS * 4), tl.float32)
    for start in tl.range(0, groups, BLOCK_GROUPS, num_stages=STAGES):
        if WHOLE_TILES:
            words = tl.load(word_tiles + start * 4)
            scales = tl.load(scale_tiles + start)
        else:
            is_word = (start * 4 + word < groups * 4)[None, :]
            words = tl.load(word_tiles + start * 4, mask=is_word, other=0)
            scales = tl.load(scale_tiles + start, mask=is_word, other=0.0)
        products = tl.zeros((BLOCK_OUTPUTS, BLOCK_GROUPS * 4), tl.float32)
        inputs_sum = tl.zeros((BLOCK_GROUPS * 4,), tl.float32)
        for number in tl.static_range(8):
            at = start * 32 + 4 * number + place
            x_tile = tl.load(x + at) if WHOLE_TILES else tl.load(x + at, mask=at < inputs, other=0.0)
            value = x_tile.to(tl.float32)
            products += _raised(words, number) * value[None, :]
            inputs_sum += value
        total += (products - 136.0 * inputs_sum[None, :]) * scales.to(tl.float32)
    is_output = output < outputs
    result = tl.sum(total, 1)
    if bias is not None:
        result = result + tl.load(bias + output, mask=is_output, other=0.0)
    _put(result, y + output, is_output, ADD)
