"""Triton kernels of a forward pass between its products and attention: embedding, norm, activation, the best token.

Know nothing of models or of tensors' owners. At batch size 1 a step is as long as reading its weights takes, as long as
nothing else takes time; each kernel here does what would be a dozen launches in plain PyTorch. Sums run in float32 and
in an order that depends neither on the number of rows nor on how many keys a row does not see: a row's result is the
same bits whatever else is in the call.

With `EARLY` a kernel is launched while the one ahead of it still runs, and waits for its results when it needs them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodraft.runtime.triton_kernels import activated, wait_for_inputs
from autodraft.runtime.triton_row_kernels import GROUP, store_rounded


@triton.jit
def begin(
    tokens,  # [rows] int64
    positions,  # [rows] int64
    embedding,  # [vocabulary, width]
    learned,  # [positions, width], or None
    frequencies,  # [ROTATIONS, half] float32, or None
    scales,  # [ROTATIONS] float32: of both tables; or None
    x,  # [rows, width] float32
    cos,  # [ROTATIONS, rows, half] float32, or None
    sin,
    width,
    half,  # of the channels of a head that are rotated
    embedding_scale,
    ROTATIONS: tl.constexpr,
    BLOCK: tl.constexpr,  # at least half
):
    """Embeddings and rotary tables; one program per row and block of channels."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    token, position = tl.load(tokens + row), tl.load(positions + row)
    values = tl.load(embedding + token * width + place, mask=inside, other=0.0).to(tl.float32) * embedding_scale
    if learned is not None:
        values += tl.load(learned + position * width + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * width + place, values, mask=inside)
    is_pair = place < half
    for number in tl.static_range(0, ROTATIONS):
        scale = tl.load(scales + number)
        angle = position.to(tl.float32) * tl.load(frequencies + number * half + place, mask=is_pair, other=0.0)
        to = (number * tl.num_programs(0) + row) * half + place
        tl.store(cos + to, tl.cos(angle) * scale, mask=is_pair)
        tl.store(sin + to, tl.sin(angle) * scale, mask=is_pair)


@triton.jit
def normalise(
    x,  # [rows, width] float32
    weight,  # [width] float32, or None: what the sub-layer takes is x itself
    bias,  # [width] float32, or None
    y,  # [rows, width]; with x_scale as `store_rounded` takes it, of a single row
    x_scale,  # float32, or None
    correction,  # int32, or None
    width,
    eps,
    CENTRED: tl.constexpr,  # LayerNorm rather than RMSNorm
    BLOCK: tl.constexpr,  # at least width and 32
    EARLY: tl.constexpr,
):
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < width
    factor = 1.0
    if weight is not None:
        factor = tl.load(weight + place, mask=inside, other=0.0)  # nobody's output: it need not wait
    wait_for_inputs(EARLY)
    values = tl.load(x + row * width + place, mask=inside, other=0.0)
    if CENTRED:
        values = tl.where(inside, values - tl.sum(values) / width, 0.0)
    if weight is not None:
        values = values * tl.rsqrt(tl.sum(values * values) / width + eps) * factor
    if bias is not None:
        values = values + tl.load(bias + place, mask=inside, other=0.0)
    if x_scale is None:
        tl.store(y + row * width + place, values.to(y.dtype.element_ty), mask=inside)
    else:
        group = tl.arange(0, BLOCK // GROUP)
        values = tl.reshape(values, (BLOCK // GROUP, GROUP))
        store_rounded(values, group, y, x_scale, correction, tl.cdiv(width, GROUP))


@triton.jit
def add_normed(
    y,  # [rows, width] float32
    weight,  # [width] float32
    x,  # [rows, width] float32
    width,
    eps,
    BLOCK: tl.constexpr,  # at least width
    EARLY: tl.constexpr,
):
    """RMSNorm of y added to x; one program per row."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < width
    factor = tl.load(weight + place, mask=inside, other=0.0)  # nobody's output: it need not wait
    wait_for_inputs(EARLY)
    values = tl.load(y + row * width + place, mask=inside, other=0.0)
    values = values * tl.rsqrt(tl.sum(values * values) / width + eps) * factor
    stream = tl.load(x + row * width + place, mask=inside, other=0.0)
    tl.store(x + row * width + place, stream + values, mask=inside)


@triton.jit
def norm_jointly(
    projected,  # [rows, query_width + 2 * key_width] float32: queries, keys and values of some heads
    query_norm,  # [query_width] float32
    key_norm,  # [key_width] float32
    query_width,
    key_width,
    eps,
    BLOCK: tl.constexpr,  # at least query_width
    EARLY: tl.constexpr,
):
    """RMSNorm of all queries of a row as one vector, and of all its keys, in place; one program per row and norm."""
    row, of_keys = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tl.arange(0, BLOCK)
    width = tl.where(of_keys == 0, query_width, key_width)
    inside = place < width
    is_query, is_key = inside & (of_keys == 0), inside & (of_keys == 1)
    factor = tl.load(query_norm + place, mask=is_query, other=0.0) + tl.load(key_norm + place, mask=is_key, other=0.0)
    wait_for_inputs(EARLY)
    at = projected + row * (query_width + 2 * key_width) + tl.where(of_keys == 0, 0, query_width) + place
    values = tl.load(at, mask=inside, other=0.0)
    tl.store(at, values * tl.rsqrt(tl.sum(values * values) / width + eps) * factor, mask=inside)


@triton.jit
def activate(
    hidden,  # [rows, 2 * width] float32: gate and up; without a gate [rows, width]
    y,  # [rows, width]; with x_scale as `store_rounded` takes it, of a single row
    x_scale,  # float32, or None
    correction,  # int32, or None
    width,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,  # as `activated` takes it
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Where the product ahead does not do it, for whoever comes next wants rounded inputs.

    One program per row and block of channels.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    source = hidden + row * width * (2 if GATED else 1) + place
    wait_for_inputs(EARLY)
    value = tl.load(source, mask=inside, other=0.0)
    value = activated(value, ACTIVATION)
    if GATED:
        value = value * tl.load(source + width, mask=inside, other=0.0)
    if x_scale is None:
        tl.store(y + row * width + place, value.to(y.dtype.element_ty), mask=inside)
    else:
        group = tl.program_id(1) * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
        value = tl.reshape(value, (BLOCK // GROUP, GROUP))
        store_rounded(value, group, y, x_scale, correction, tl.cdiv(width, GROUP))


@triton.jit
def best_of_chunks(
    scores,  # [vocabulary] float32
    best,  # [chunks] float32: largest score
    token,  # [chunks] int64: whose it is
    sums,  # [chunks] float32: of exp(score - best)
    vocabulary,
    CHUNK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The most probable token of each chunk of the vocabulary."""
    chunk = tl.program_id(0)
    place = chunk * CHUNK + tl.arange(0, CHUNK)
    wait_for_inputs(EARLY)
    values = tl.load(scores + place, mask=place < vocabulary, other=float("-inf"))
    top, index = tl.max(values, 0, return_indices=True)
    tl.store(best + chunk, top)
    tl.store(token + chunk, (chunk * CHUNK + index).to(tl.int64))
    tl.store(sums + chunk, tl.sum(tl.exp(values - top), 0))


@triton.jit
def extend_chain(
    best,  # [chunks] float32
    token,  # [chunks] int64
    sums,  # [chunks] float32
    numbers,  # [4, count] int64: as `RowInputs` has them, of the rows of the pass
    mask,  # [count, seen] uint8: the slots that they see
    row,  # [1] int64: after which of them
    found,  # [places, 2] float32
    drafted,  # [1] int64: the place of this one; after the last comes the first
    next_numbers,  # [4] int64
    next_mask,  # [seen] uint8
    chunks,
    count,
    seen,
    places,
    BLOCK: tl.constexpr,  # at least chunks
    KEYS: tl.constexpr,  # at once
    EARLY: tl.constexpr,
):
    """The most probable token, the first of equals, with its probability: found, and the row that runs next."""
    chunk = tl.arange(0, BLOCK)
    wait_for_inputs(EARLY)
    tops = tl.load(best + chunk, mask=chunk < chunks, other=float("-inf"))
    top, index = tl.max(tops, 0, return_indices=True)
    total = tl.sum(tl.exp(tops - top) * tl.load(sums + chunk, mask=chunk < chunks, other=0.0), 0)
    chosen, after, to = tl.load(token + index), tl.load(row), tl.load(drafted)
    position, slot = tl.load(numbers + count + after) + 1, tl.load(numbers + 2 * count + after) + 1
    for start in range(0, seen, KEYS):
        key = start + tl.arange(0, KEYS)
        # A row of padding follows itself into slots behind all keys, where there is nothing to mark.
        sees = tl.load(mask + after * seen + key, mask=key < seen, other=0)
        tl.store(next_mask + key, tl.where(key == slot, 1, sees), mask=key < seen)
    tl.store(found + 2 * to, chosen.to(tl.float32))
    tl.store(found + 2 * to + 1, 1.0 / total)
    tl.store(drafted, (to + 1) % places)
    tl.store(next_numbers, chosen)
    tl.store(next_numbers + 1, position)
    tl.store(next_numbers + 2, slot)
    tl.store(next_numbers + 3, tl.load(numbers + 3 * count + after) + 1)
