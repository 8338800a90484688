"""Triton kernels of y = x W^T + bias for a single row, with W at 8 or 4 bits and x rounded to 8.

Know nothing of packing or of tensors. At the bytes per second of a fast memory there is time for only a few
instructions per weight: four products of 8 bits and their sum are one instruction (`dp4a`), on whole words of weights
as they come from memory. The inputs are rounded to 8 bits in groups of 32, each with a scale of its own, once for all
outputs. For drafts only, like low bits themselves.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodraft.runtime.triton_kernels import put, wait_for_inputs

GROUP: tl.constexpr = tl.constexpr(32)
_ROUNDING: tl.constexpr = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves no fraction
_UPPER: tl.constexpr = tl.constexpr(-0x0F0F0F10)  # the upper four bits of each byte


@triton.jit
def store_rounded(
    values,  # [some groups, 32] float32, zeros where there is no input
    group,  # [some groups]: which ones
    rounded,  # [groups * 32] int8
    scale,  # [groups] float32
    correction,  # [groups] int32, or None
    groups,
):
    """Inputs as 8 bits with a scale per group.

    With `correction`, for `row_per_group`: input 8 b + 4 h + j of a group goes to half h of the whole, byte b of word j
    of its group there, and the correction of a group is -8 times the sum of its inputs, as its weights are 8 too large.
    """
    is_group = group < groups
    place = tl.arange(0, GROUP)[None, :]
    largest = tl.max(tl.abs(values), 1)
    to_integers = 127.0 / tl.maximum(largest, 1e-30)
    whole = ((values * to_integers[:, None] + _ROUNDING) - _ROUNDING).to(tl.int32)
    tl.store(scale + group, largest / 127.0, mask=is_group)
    if correction is None:
        tl.store(rounded + group[:, None] * GROUP + place, whole.to(tl.int8), mask=is_group[:, None])
    else:
        half, word, byte = place // 4 % 2, place % 4, place // 8
        to = half * groups * (GROUP // 2) + group[:, None] * (GROUP // 2) + word * 4 + byte
        tl.store(rounded + to, whole.to(tl.int8), mask=is_group[:, None])
        tl.store(correction + group, -8 * tl.sum(whole, 1), mask=is_group)


@triton.jit
def round_row(
    x,  # [inputs], 16 or 32 bits
    rounded,  # as `store_rounded` takes them
    scale,
    correction,
    inputs,
    groups,
    BLOCK_GROUPS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Inputs as 8 bits with a scale per group, where what makes them does not write them so."""
    group = tl.program_id(0) * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    at = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    wait_for_inputs(EARLY)
    values = tl.load(x + at, mask=at < inputs, other=0.0).to(tl.float32)
    store_rounded(values, group, rounded, scale, correction, groups)


@triton.jit
def _dot4(a, b, c, SIGNED: tl.constexpr, NATIVE: tl.constexpr):
    """c plus the sum of the products of the four bytes of a, `SIGNED` or not, and the four signed ones of b."""
    if NATIVE:
        instruction: tl.constexpr = "dp4a.s32.s32 $0, $1, $2, $3;" if SIGNED else "dp4a.u32.s32 $0, $1, $2, $3;"
        return tl.inline_asm_elementwise(instruction, "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1)
    for byte in tl.static_range(4):
        from_a = ((a << (24 - 8 * byte)) >> 24) if SIGNED else ((a >> (8 * byte)) & 255)
        c += from_a * ((b << (24 - 8 * byte)) >> 24)
    return c


@triton.jit
def row_per_channel(
    x,  # [groups, 8] int32: four inputs in each
    x_scale,  # [groups] float32
    weight,  # [outputs, words] int32: four weights in each
    scale,  # [outputs] float32
    bias,  # [outputs] float32, or None
    y,  # [outputs] float32
    outputs,
    words,
    ADD: tl.constexpr,  # to what is in y
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether words is a multiple of 8 BLOCK_GROUPS
    NATIVE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Weights of 8 bits with one scale per output."""
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    word, group = tl.arange(0, BLOCK_GROUPS * 8), tl.arange(0, BLOCK_GROUPS)
    tiles = weight + tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * words + word[None, :]
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_GROUPS, 2), tl.float32)
    wait_for_inputs(EARLY)
    for start in tl.range(0, words, BLOCK_GROUPS * 8, num_stages=1):
        if WHOLE_TILES:
            tile, x_tile = tl.load(tiles + start), tl.load(x + start + word)
            x_scales = tl.load(x_scale + start // 8 + group)
        else:
            inside = start + word < words
            tile = tl.load(tiles + start, mask=inside[None, :], other=0)
            x_tile = tl.load(x + start + word, mask=inside, other=0)
            x_scales = tl.load(x_scale + start // 8 + group, mask=start + group * 8 < words, other=0.0)
        products = _dot4(tile, x_tile[None, :], tl.zeros_like(tile), True, NATIVE)
        # What a thread has read at once, half of a group, is added up there.
        sums = tl.sum(tl.reshape(products, (BLOCK_OUTPUTS, BLOCK_GROUPS, 2, 4)), 3)
        total += sums.to(tl.float32) * x_scales[None, :, None]
    is_output = output < outputs
    result = tl.sum(tl.sum(total, 2), 1) * tl.load(scale + output, mask=is_output, other=0.0)
    if bias is not None:
        result = result + tl.load(bias + output, mask=is_output, other=0.0)
    put(result, y + output, is_output, ADD)


@triton.jit
def row_per_group(
    x,  # [2, groups, 4] int32, as `round_row` makes them
    x_scale,  # [groups] float32
    correction,  # [groups] int32
    weight,  # [outputs, groups, 4] int32, as `per_group` takes them
    scale,  # [outputs, groups], 16 or 32 bits
    bias,  # [outputs] float32, or None
    y,  # [outputs] float32
    outputs,
    groups,
    ADD: tl.constexpr,  # to what is in y
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether groups is a multiple of BLOCK_GROUPS
    NATIVE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Weights of 4 bits with one scale per group.

    Words are read in a row and become groups afterwards, in the registers where they are: read by groups, they would be
    handed from thread to thread before each product. The upper four bits of a byte stay where they are, and their sum
    is 16 times what it should be.
    """
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    word, group = tl.arange(0, BLOCK_GROUPS * 4), tl.arange(0, BLOCK_GROUPS)
    first_group = tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * groups
    tiles = weight + first_group * 4 + word[None, :]
    scale_tiles = scale + first_group + group[None, :]
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_GROUPS), tl.float32)
    wait_for_inputs(EARLY)
    for start in tl.range(0, groups, BLOCK_GROUPS, num_stages=1):
        if WHOLE_TILES:
            tile, scales = tl.load(tiles + start * 4), tl.load(scale_tiles + start)
            low, high = tl.load(x + start * 4 + word), tl.load(x + (groups + start) * 4 + word)
            sums, x_scales = tl.load(correction + start + group), tl.load(x_scale + start + group)
        else:
            is_group, is_word = start + group < groups, start * 4 + word < groups * 4
            tile = tl.load(tiles + start * 4, mask=is_word[None, :], other=0)
            scales = tl.load(scale_tiles + start, mask=is_group[None, :], other=0.0)
            low = tl.load(x + start * 4 + word, mask=is_word, other=0)
            high = tl.load(x + (groups + start) * 4 + word, mask=is_word, other=0)
            sums = tl.load(correction + start + group, mask=is_group, other=0)
            x_scales = tl.load(x_scale + start + group, mask=is_group, other=0.0)
        products = _dot4(tile & 0x0F0F0F0F, low[None, :], tl.zeros_like(tile), True, NATIVE)
        upper = _dot4(tile & _UPPER, high[None, :], tl.zeros_like(tile), False, NATIVE)
        products = tl.reshape(products + (upper >> 4), (BLOCK_OUTPUTS, BLOCK_GROUPS, 4))
        whole = tl.sum(products, 2) + sums[None, :]
        total += whole.to(tl.float32) * (scales.to(tl.float32) * x_scales[None, :])
    is_output = output < outputs
    result = tl.sum(total, 1)
    if bias is not None:
        result = result + tl.load(bias + output, mask=is_output, other=0.0)
    put(result, y + output, is_output, ADD)
