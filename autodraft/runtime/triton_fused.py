"""Triton kernels of a forward pass between its matrix products: norm, rotary embedding, attention, activation.

Know nothing of models or of tensors' owners. At batch size 1 a step is as long as reading its weights takes, as long as
nothing else takes time; each kernel here does what would be a dozen launches in plain PyTorch. Sums run in float32 and
in an order that depends neither on the number of rows nor on how many keys a row does not see: a row's result is the
same bits whatever else is in the call.

With `EARLY` a kernel is launched while the one ahead of it still runs, and waits for its results when it needs them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodraft.runtime.torch_rows import IN_PLACE, PATH_SLOTS
from autodraft.runtime.triton_kernels import fetch_ahead, wait_for_inputs
from autodraft.runtime.triton_row_kernels import GROUP, store_rounded

LEAST_LINES: tl.constexpr = tl.constexpr(16)
"""Query heads that one program of attention serves, of one row or of more: the least that tensor cores take."""
_NEW: tl.constexpr = tl.constexpr(16)  # rows whose keys are looked at together
_IN_PLACE: tl.constexpr = tl.constexpr(IN_PLACE)
_PATH_SLOTS: tl.constexpr = tl.constexpr(PATH_SLOTS)
SPLIT: tl.constexpr = tl.constexpr(64)
"""Keys that one program of attention visits."""
_SPLITS: tl.constexpr = tl.constexpr(16)  # added up at once


@triton.jit
def begin(
    tokens,  # [rows] int64
    positions,  # [rows] int64
    embedding,  # [vocabulary, width]
    learned,  # [positions, width], or None
    frequencies,  # [head_dim / 2] float32, or None
    x,  # [rows, width] float32
    cos,  # [rows, head_dim / 2] float32, or None
    sin,
    width,
    half,  # head_dim / 2
    scale,  # of both tables
    BLOCK: tl.constexpr,  # at least head_dim / 2
):
    """Embeddings and rotary tables; one program per row and block of channels."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    token, position = tl.load(tokens + row), tl.load(positions + row)
    values = tl.load(embedding + token * width + place, mask=inside, other=0.0).to(tl.float32)
    if learned is not None:
        values += tl.load(learned + position * width + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * width + place, values, mask=inside)
    if frequencies is not None:
        is_pair = place < half
        angle = position.to(tl.float32) * tl.load(frequencies + place, mask=is_pair, other=0.0)
        tl.store(cos + row * half + place, tl.cos(angle) * scale, mask=is_pair)
        tl.store(sin + row * half + place, tl.sin(angle) * scale, mask=is_pair)


@triton.jit
def normalise(
    x,  # [rows, width] float32
    weight,  # [width] float32
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
    factor = tl.load(weight + place, mask=inside, other=0.0)  # nobody's output: it need not wait
    wait_for_inputs(EARLY)
    values = tl.load(x + row * width + place, mask=inside, other=0.0)
    if CENTRED:
        values = tl.where(inside, values - tl.sum(values) / width, 0.0)
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
def _rotated(source, norm, cos, sin, row, inside, eps, HEAD_DIM: tl.constexpr):
    """Heads, normed and rotated. source: pointers [heads]; row [heads]: of the tables. -> float32 [heads, head_dim]"""
    place = tl.arange(0, HEAD_DIM)
    half: tl.constexpr = HEAD_DIM // 2
    other = (place + half) % HEAD_DIM  # what it is rotated with
    given = tl.load(source[:, None] + place[None, :], mask=inside[:, None], other=0.0)
    scale = 1.0
    if norm is not None:
        scale = tl.rsqrt(tl.sum(given * given, 1) / HEAD_DIM + eps)[:, None]
        given = given * scale * tl.load(norm + place)[None, :]
    if cos is not None:
        partner = tl.load(source[:, None] + other[None, :], mask=inside[:, None], other=0.0)
        if norm is not None:
            partner = partner * scale * tl.load(norm + other)[None, :]
        table = row[:, None] * half + (place % half)[None, :]
        c = tl.load(cos + table, mask=inside[:, None], other=0.0)
        s = tl.load(sin + table, mask=inside[:, None], other=0.0)
        given = given * c + tl.where(place < half, -1.0, 1.0)[None, :] * partner * s
    return given


@triton.jit
def _cache_rows(
    own_keys, own_values, stride, norm, cos, sin, slots, first, last, keys, values, rows, eps, HEAD_DIM: tl.constexpr
):  # fmt: skip
    """Keys and values of one head of those rows whose slots are in [first, last), put where this program finds them."""
    place = tl.arange(0, HEAD_DIM)[None, :]
    for start in range(0, rows, _NEW):
        row = (start + tl.arange(0, _NEW)).to(tl.int64)
        slot = tl.load(slots + row, mask=row < rows, other=-1)
        is_here = (slot >= first) & (slot < last)
        if tl.max(is_here.to(tl.int32), 0) > 0:
            key = _rotated(own_keys + row * stride, norm, cos, sin, row, is_here, eps, HEAD_DIM)
            value = tl.load((own_values + row * stride)[:, None] + place, mask=is_here[:, None], other=0.0)
            to = slot[:, None] * HEAD_DIM + place
            tl.store(keys + to, key.to(keys.dtype.element_ty), mask=is_here[:, None])
            tl.store(values + to, value.to(values.dtype.element_ty), mask=is_here[:, None])
    tl.debug_barrier()


@triton.jit(do_not_specialize=["rows"])
def attend_splits(
    projected,  # [rows, (group + 2) * kv_heads, head_dim] float32: queries, keys, values
    query_norm,  # [head_dim] float32, or None
    key_norm,
    cos,  # [rows, head_dim / 2] float32, or None
    sin,
    channels,  # [kv_heads]: which of the model's KV heads these are
    slots,  # [rows]
    starts,  # [rows] int32; with `paths` as `RowInputs` has them
    paths,  # [rows, _PATH_SLOTS] int32
    keys,  # one block of the cache: [all kv_heads, slots, head_dim]
    values,
    mask,  # [rows, seen] uint8
    mixed,  # [splits, rows, group * kv_heads, head_dim] float32
    highest,  # [splits, rows, group * kv_heads] float32: largest score, -inf where nothing is seen
    sums,  # the same: sum of weights
    rows,
    kv_heads,
    seen,  # keys that the mask says something of
    cache_slots,
    eps,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LINES: tl.constexpr,  # at least GROUP
    KEY_LINES: tl.constexpr,  # of 128 bytes that a key takes
    EARLY: tl.constexpr,
):
    """Softmax-weighted values of one split of the keys, for the query heads of one KV head and as many rows as fit.

    Keys and values of rows whose slots are in the split go to the cache first, from every program that reads them.
    Where the paths of rows are scattered, rows take turns, each with the keys of its own path in order: so a row of a
    tree is the same bits as in a chain.
    """
    kv_head, split = tl.program_id(1), tl.program_id(2).to(tl.int64)
    line, place = tl.arange(0, LINES), tl.arange(0, HEAD_DIM)
    together: tl.constexpr = LINES // GROUP  # rows; programs of the same keys come one after the other
    row = (tl.program_id(0) * together + line // GROUP).to(tl.int64)
    is_line = (line < together * GROUP) & (row < rows)
    cached = tl.load(channels + kv_head).to(tl.int64) * cache_slots * HEAD_DIM
    key = split * SPLIT + tl.arange(0, SPLIT)
    # What rows see stands before a pass begins: it need not wait, and neither need keys that were there before.
    is_seen = tl.load(mask + row[:, None] * seen + key[None, :], mask=is_line[:, None] & (key < seen)[None, :], other=0)
    any_seen = tl.max(tl.max(is_seen, 1), 0) > 0
    is_scattered = tl.min(tl.load(starts + row, mask=is_line, other=_IN_PLACE), 0) < (split + 1) * SPLIT
    if any_seen:
        fetch_ahead(keys + cached, tl.minimum(key, seen - 1), HEAD_DIM, KEY_LINES, EARLY)
        fetch_ahead(values + cached, tl.minimum(key, seen - 1), HEAD_DIM, KEY_LINES, EARLY)
    wait_for_inputs(EARLY)
    head, heads = kv_head * GROUP + line % GROUP, (GROUP + 2) * kv_heads
    to = split * (rows * GROUP * kv_heads) + row * (GROUP * kv_heads) + head
    if any_seen:
        q = _rotated(projected + (row * heads + head) * HEAD_DIM, query_norm, cos, sin, row, is_line, eps, HEAD_DIM)
        own = projected + (GROUP * kv_heads + kv_head) * HEAD_DIM
        first = tl.where(is_scattered, 0, split * SPLIT)
        last = tl.where(is_scattered, seen, (split + 1) * SPLIT)
        _cache_rows(
            own, own + kv_heads * HEAD_DIM, heads * HEAD_DIM, key_norm, cos, sin, slots, first, last,
            keys + cached, values + cached, rows, eps, HEAD_DIM,
        )  # fmt: skip
        for turn in tl.range(0, tl.where(is_scattered, together, 1), num_stages=1):
            of = tl.program_id(0) * together + turn
            behind = key - tl.load(starts + of, mask=is_scattered & (of < rows), other=_IN_PLACE)
            is_moved = (behind >= 0) & (behind < _PATH_SLOTS)
            moved_to = tl.load(paths + of * _PATH_SLOTS + behind, mask=is_moved, other=0)
            at = cached + tl.where(is_moved, moved_to, key)[:, None] * HEAD_DIM + place[None, :]
            k = tl.load(keys + at, mask=(key < seen)[:, None], other=0.0)
            v = tl.load(values + at, mask=(key < seen)[:, None], other=0.0)
            scores = tl.dot(q.to(k.dtype), tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(is_seen > 0, scores, float("-inf"))
            top = tl.max(scores, 1)
            finite = tl.where(top == float("-inf"), 0.0, top)
            weights = tl.exp(scores - finite[:, None])
            is_turn = is_line & ((line // GROUP == turn) | (is_scattered == 0))
            tl.store(highest + to, top, mask=is_turn)
            tl.store(sums + to, tl.sum(weights, 1), mask=is_turn)
            mix = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            tl.store(mixed + to[:, None] * HEAD_DIM + place[None, :], mix, mask=is_turn[:, None])
    else:
        tl.store(highest + to, tl.full((LINES,), float("-inf"), tl.float32), mask=is_line)


@triton.jit(do_not_specialize=["heads", "splits"])
def join_splits(
    mixed,  # [splits, heads, head_dim] float32; heads of all rows
    highest,  # [splits, heads]
    sums,
    out,  # [heads, head_dim]; with x_scale as `store_rounded` takes it, of a single row
    x_scale,  # float32, or None
    correction,  # int32, or None
    heads,
    splits,
    HEAD_DIM: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Attention from its splits, one program per head. Splits are added up in groups of fixed size, in order."""
    head = tl.program_id(0).to(tl.int64)
    number, place = tl.arange(0, _SPLITS), tl.arange(0, HEAD_DIM)
    wait_for_inputs(EARLY)
    top, total, mix = float("-inf"), 0.0, tl.zeros((HEAD_DIM,), tl.float32)
    for start in range(0, splits, _SPLITS):
        split = (start + number).to(tl.int64)
        score = tl.load(highest + split * heads + head, mask=split < splits, other=float("-inf"))
        part = tl.load(sums + split * heads + head, mask=split < splits, other=0.0)
        is_seen = score > float("-inf")
        new_top = tl.maximum(top, tl.max(score, 0))
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight, keep = tl.where(is_seen, tl.exp(score - finite), 0.0), tl.exp(top - finite)
        total = total * keep + tl.sum(tl.where(is_seen, weight * part, 0.0), 0)
        where = (split * heads + head)[:, None] * HEAD_DIM + place[None, :]
        mix = mix * keep + tl.sum(weight[:, None] * tl.load(mixed + where, mask=is_seen[:, None], other=0.0), 0)
        top = new_top
    mix = mix / total
    if x_scale is None:
        tl.store(out + head * HEAD_DIM + place, mix.to(out.dtype.element_ty))
    else:
        group = head * (HEAD_DIM // GROUP) + tl.arange(0, HEAD_DIM // GROUP)
        values = tl.reshape(mix, (HEAD_DIM // GROUP, GROUP))
        store_rounded(values, group, out, x_scale, correction, heads * (HEAD_DIM // GROUP))


@triton.jit
def _erf_gelu(x):
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def activate(
    hidden,  # [rows, 2 * width] float32: gate and up; without a gate [rows, width]
    y,  # [rows, width]; with x_scale as `store_rounded` takes it, of a single row
    x_scale,  # float32, or None
    correction,  # int32, or None
    width,
    GATED: tl.constexpr,
    ACTIVATION: tl.constexpr,  # "silu", "relu" or "gelu"
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program per row and block of channels."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    source = hidden + row * width * (2 if GATED else 1) + place
    wait_for_inputs(EARLY)
    value = tl.load(source, mask=inside, other=0.0)
    if ACTIVATION == "silu":
        value = value * tl.sigmoid(value)
    elif ACTIVATION == "relu":
        value = tl.maximum(value, 0.0)
    else:
        value = _erf_gelu(value)
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
    numbers,  # [3, count] int64: tokens, positions and slots of the rows of the pass
    mask,  # [count, seen] uint8: the slots that they see
    row,  # [1] int64: after which of them
    found,  # [places, 2] float32
    drafted,  # [1] int64: the place of this one; after the last comes the first
    next_numbers,  # [3] int64
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
