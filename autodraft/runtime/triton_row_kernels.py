"""Triton kernels of y = x W^T + bias for a single row, with W at 8 or 4 bits and x rounded to 8.

Know nothing of packing or of tensors. At the bytes per second of a fast memory there is time for only a few
instructions per weight: four products of 8 bits and their sum are one instruction (`dp4a`), on whole words of weights
as they come from memory. The inputs are rounded to 8 bits in groups of 32, each with a scale of its own, once for all
outputs. For drafts only, like low bits themselves.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodraft.runtime.triton_kernels import fetch_ahead, put, wait_for_inputs

GROUP: tl.constexpr = tl.constexpr(32)
_ROUNDING: tl.constexpr = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves no fraction


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
def _dot4(a, b, c, NATIVE: tl.constexpr):
    """c plus the sum of the products of the four signed bytes of a and b."""
    if NATIVE:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    for byte in tl.static_range(4):
        c += ((a << (24 - 8 * byte)) >> 24) * ((b << (24 - 8 * byte)) >> 24)
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
    BLOCK_WORDS: tl.constexpr,
    WHOLE_TILES: tl.constexpr,  # whether words is a multiple of BLOCK_WORDS
    STAGES: tl.constexpr,
    NATIVE: tl.constexpr,
    LINES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Weights of 8 bits with one scale per output."""
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    word = tl.arange(0, BLOCK_WORDS)[None, :]
    tiles = weight + tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * words + word
    x_scales_at = x_scale + word // 8
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_WORDS), tl.float32)
    fetch_ahead(weight, tl.minimum(output, outputs - 1), words, LINES, EARLY)
    wait_for_inputs(EARLY)
    for start in tl.range(0, words, BLOCK_WORDS, num_stages=STAGES):
        if WHOLE_TILES:
            tile = tl.load(tiles + start)
            x_tile = tl.load(x + start + word)
            x_scales = tl.load(x_scales_at + start // 8)
        else:
            inside = start + word < words
            tile = tl.load(tiles + start, mask=inside, other=0)
            x_tile = tl.load(x + start + word, mask=inside, other=0)
            x_scales = tl.load(x_scales_at + start // 8, mask=inside, other=0.0)
        total += _dot4(tile, x_tile, tl.zeros_like(tile), NATIVE).to(tl.float32) * x_scales
    is_output = output < outputs
    result = tl.sum(total, 1) * tl.load(scale + output, mask=is_output, other=0.0)
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
    STAGES: tl.constexpr,
    NATIVE: tl.constexpr,
    LINES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Weights of 4 bits with one scale per group."""
    output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    group = tl.arange(0, BLOCK_GROUPS)
    # A thread has the four words of a group, and with them a whole sum of its products.
    place = (group[:, None] * 4 + tl.arange(0, 4)[None, :])[None, :, :]
    first_group = tl.minimum(output, outputs - 1).to(tl.int64) * groups
    tiles = weight + (first_group * 4)[:, None, None] + place
    scale_tiles = scale + first_group[:, None] + group[None, :]
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_GROUPS), tl.float32)
    fetch_ahead(weight, tl.minimum(output, outputs - 1), groups * 4, LINES, EARLY)
    wait_for_inputs(EARLY)
    for start in tl.range(0, groups, BLOCK_GROUPS, num_stages=STAGES):
        if WHOLE_TILES:
            tile, scales = tl.load(tiles + start * 4), tl.load(scale_tiles + start)
            low, high = tl.load(x + start * 4 + place), tl.load(x + (groups + start) * 4 + place)
            sums, x_scales = tl.load(correction + start + group), tl.load(x_scale + start + group)
        else:
            is_group = start + group < groups
            is_word = is_group[None, :, None]
            tile = tl.load(tiles + start * 4, mask=is_word, other=0)
            scales = tl.load(scale_tiles + start, mask=is_group[None, :], other=0.0)
            low = tl.load(x + start * 4 + place, mask=is_word, other=0)
            high = tl.load(x + (groups + start) * 4 + place, mask=is_word, other=0)
            sums = tl.load(correction + start + group, mask=is_group, other=0)
            x_scales = tl.load(x_scale + start + group, mask=is_group, other=0.0)
        products = _dot4(tile & 0x0F0F0F0F, low, tl.zeros_like(tile), NATIVE)
        products = _dot4((tile >> 4) & 0x0F0F0F0F, high, products, NATIVE)
        sums = tl.sum(products, 2) + sums[None, :]
        total += sums.to(tl.float32) * (scales.to(tl.float32) * x_scales[None, :])
    is_output = output < outputs
    result = tl.sum(total, 1)
    if bias is not None:
        result = result + tl.load(bias + output, mask=is_output, other=0.0)
    put(result, y + output, is_output, ADD)
