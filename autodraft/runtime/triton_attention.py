"""Triton kernels of attention over cached keys and the rows' own, which they put there: splits, and their sum.

Know nothing of models or of tensors' owners. Keys are visited in tiles of fixed size, tiles belong to splits by where
they stand, and sums run in float32 in their order: a row's result is the same bits whatever else is in the call and
however many keys there are that it does not see. With `EARLY` see `autodraft.runtime.triton_fused`.
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
TILE: tl.constexpr = tl.constexpr(64)
"""Keys that are visited at once."""
_PER_LEVEL: tl.constexpr = tl.constexpr(8)  # splits; the first level has as many again
_LEVELS: tl.constexpr = tl.constexpr(3)
_SPLITS: tl.constexpr = tl.constexpr(16)  # added up at once


def splits_of(keys: int) -> int:
    """How many splits so many keys are in; see `tiles_of`."""
    tiles = -(-keys // TILE.value)
    level = min(max(((tiles - 1) // _PER_LEVEL.value).bit_length() - 1, 0), _LEVELS.value)
    splits: int = _PER_LEVEL.value * level + -(-tiles // (1 << level))
    return splits


@triton.jit
def tiles_of(split):
    """The first tile of a split, and how many it has: one in the first 16 splits, then 8 splits of two, 8 of four, and
    eight tiles in all others.

    Few keys are then enough for all multiprocessors, and of many keys there is little left to add up: what a split of
    16 rows with 4 query heads per KV head leaves is as many bytes as 64 keys with their values, to write and to read.
    """
    level = tl.minimum(tl.maximum(split // _PER_LEVEL - 1, 0), _LEVELS)
    return (split - _PER_LEVEL * level) << level, 1 << level


@triton.jit
def _rotated(
    source, norm, cos, sin, row, inside, eps,
    HEAD_DIM: tl.constexpr, ROTATED: tl.constexpr, PAIRS: tl.constexpr, NORM_LAST: tl.constexpr,
):  # fmt: skip
    """Heads, normed and rotated, or the other way round. -> float32 [heads, head_dim]

    source: pointers [heads]; row [heads]: of the tables.
    """
    place = tl.arange(0, HEAD_DIM)
    half: tl.constexpr = ROTATED // 2
    is_first, other, angle = place < half, place, place  # of the two that are rotated together, the other, and by what
    if cos is not None:
        is_first = place % 2 == 0 if PAIRS else is_first
        other = place ^ 1 if PAIRS else (place + half) % ROTATED
        angle = place // 2 % half if PAIRS else place % half
    given = tl.load(source[:, None] + place[None, :], mask=inside[:, None], other=0.0)
    scale = 1.0
    norm_first: tl.constexpr = (norm is not None) and not NORM_LAST
    if norm_first:
        scale = tl.rsqrt(tl.sum(given * given, 1) / HEAD_DIM + eps)[:, None]
        given = given * scale * tl.load(norm + place)[None, :]
    if cos is not None:
        partner = tl.load(source[:, None] + other[None, :], mask=inside[:, None], other=0.0)
        if norm_first:
            partner = partner * scale * tl.load(norm + other)[None, :]
        table = row[:, None] * half + angle[None, :]
        c = tl.load(cos + table, mask=inside[:, None], other=0.0)
        s = tl.load(sin + table, mask=inside[:, None], other=0.0)
        rotated = given * c + tl.where(is_first, -1.0, 1.0)[None, :] * partner * s
        given = rotated if ROTATED == HEAD_DIM else tl.where((place < ROTATED)[None, :], rotated, given)
    if NORM_LAST:
        scale = tl.rsqrt(tl.sum(given * given, 1) / HEAD_DIM + eps)[:, None]
        given = given * scale * tl.load(norm + place)[None, :]
    return given


@triton.jit
def _cache_rows(
    own_keys, own_values, stride, norm, cos, sin, slots, first, last, keys, values, rows, eps,
    HEAD_DIM: tl.constexpr, ROTATED: tl.constexpr, PAIRS: tl.constexpr, NORM_LAST: tl.constexpr,
):  # fmt: skip
    """Keys and values of one head of those rows whose slots are in [first, last), put where this program finds them."""
    place = tl.arange(0, HEAD_DIM)[None, :]
    for start in range(0, rows, _NEW):
        row = (start + tl.arange(0, _NEW)).to(tl.int64)
        slot = tl.load(slots + row, mask=row < rows, other=-1)
        is_here = (slot >= first) & (slot < last)
        if tl.max(is_here.to(tl.int32), 0) > 0:
            key = _rotated(
                own_keys + row * stride, norm, cos, sin, row, is_here, eps, HEAD_DIM, ROTATED, PAIRS, NORM_LAST
            )
            value = tl.load((own_values + row * stride)[:, None] + place, mask=is_here[:, None], other=0.0)
            to = slot[:, None] * HEAD_DIM + place
            tl.store(keys + to, key.to(keys.dtype.element_ty), mask=is_here[:, None])
            tl.store(values + to, value.to(values.dtype.element_ty), mask=is_here[:, None])
    tl.debug_barrier()


@triton.jit
def _seen(mask, floor, row, is_line, key, seen):
    """Which of the keys the rows see. [lines, keys]"""
    inside = is_line[:, None] & (key < seen)[None, :]
    if floor is not None:
        inside = inside & (key[None, :] >= floor[:, None])
    return tl.load(mask + row[:, None] * seen + key[None, :], mask=inside, other=0) > 0


@triton.jit
def _any_seen(mask, floor, row, is_line, key, seen):
    return tl.max(tl.max(_seen(mask, floor, row, is_line, key, seen).to(tl.int32), 1), 0) > 0


@triton.jit
def _mixed_tiles(
    q, keys, values, mask, floor, row, is_line, path, start, begin, used, seen, scale, cap,
    LINES: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """Largest scores, sums of weights [lines] and weighted values [lines, head_dim] of `used` tiles from a key on.

    Keys from `start` on are in the slots of `path`. The running softmax (as in FlashAttention) leaves a row unchanged,
    to the bit, by tiles that it does not see.
    """
    place = tl.arange(0, HEAD_DIM)
    top, total = tl.full((LINES,), float("-inf"), tl.float32), tl.zeros((LINES,), tl.float32)
    mix = tl.zeros((LINES, HEAD_DIM), tl.float32)
    for tile in tl.range(0, used, num_stages=1):
        key = begin + tile * TILE + tl.arange(0, TILE)
        is_seen = _seen(mask, floor, row, is_line, key, seen)
        behind = key - start
        is_moved = (behind >= 0) & (behind < _PATH_SLOTS)
        slot = tl.where(is_moved, tl.load(path + behind, mask=is_moved, other=0), key)
        at = slot[:, None] * HEAD_DIM + place[None, :]
        k = tl.load(keys + at, mask=(key < seen)[:, None], other=0.0)
        v = tl.load(values + at, mask=(key < seen)[:, None], other=0.0)
        scores = tl.dot(q.to(k.dtype), tl.trans(k), input_precision="ieee") * scale
        if cap is not None:
            scores = cap * (2.0 * tl.sigmoid(scores * (2.0 / cap)) - 1.0)  # its tanh
        scores = tl.where(is_seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights, keep = tl.exp(scores - finite[:, None]), tl.exp(top - finite)
        total = total * keep + tl.sum(weights, 1)
        mix = tl.dot(weights.to(v.dtype), v, mix * keep[:, None], input_precision="ieee")
        top = new_top
    return top, total, mix


@triton.jit(do_not_specialize=["rows"])
def attend_splits(
    projected,  # [rows, (group + 2) * kv_heads, head_dim] float32: queries, keys, values
    query_norm,  # [head_dim] float32, or None
    key_norm,
    cos,  # [rows, ROTATED / 2] float32; None where nothing is rotated
    sin,
    channels,  # [kv_heads]: which of the model's KV heads these are
    slots,  # [rows]
    starts,  # [rows] int32; with `paths` as `RowInputs` has them
    paths,  # [rows, _PATH_SLOTS] int32
    keys,  # one block of the cache: [all kv_heads, slots, head_dim]
    values,
    mask,  # [rows, seen] uint8
    floors,  # [rows] int64: keys below them are not seen; or None
    mixed,  # [splits, rows, group * kv_heads, head_dim] float32
    highest,  # [splits, rows, group * kv_heads] float32: largest score, -inf where nothing is seen
    sums,  # the same: sum of weights
    rows,
    kv_heads,
    seen,  # keys that the mask says something of
    cache_slots,
    eps,
    scale,
    cap,  # that scores approach through a tanh; or None
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTATED: tl.constexpr,  # leading channels of a head
    PAIRS: tl.constexpr,  # whether neighbours are rotated together, not halves
    NORM_LAST: tl.constexpr,  # whether heads are normed after their rotation
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
    first, tiles = tiles_of(tl.program_id(2))
    begin, end, used = first * TILE, (first + tiles) * TILE, 0
    # What rows see stands before a pass begins: it need not wait, and neither need keys that were there before.
    floor = None
    if floors is not None:
        floor = tl.load(floors + row, mask=is_line, other=0)
    is_scattered = tl.min(tl.load(starts + row, mask=is_line, other=_IN_PLACE), 0) < end
    for tile in tl.range(0, tiles, num_stages=1):
        key = begin + tile * TILE + tl.arange(0, TILE)
        if _any_seen(mask, floor, row, is_line, key, seen):
            fetch_ahead(keys + cached, tl.minimum(key, seen - 1), HEAD_DIM, KEY_LINES, EARLY)
            fetch_ahead(values + cached, tl.minimum(key, seen - 1), HEAD_DIM, KEY_LINES, EARLY)
            used = tile + 1
    wait_for_inputs(EARLY)
    head, heads = kv_head * GROUP + line % GROUP, (GROUP + 2) * kv_heads
    to = split * (rows * GROUP * kv_heads) + row * (GROUP * kv_heads) + head
    if used > 0:
        queries = projected + (row * heads + head) * HEAD_DIM
        q = _rotated(queries, query_norm, cos, sin, row, is_line, eps, HEAD_DIM, ROTATED, PAIRS, NORM_LAST)
        own = projected + (GROUP * kv_heads + kv_head) * HEAD_DIM
        _cache_rows(
            own, own + kv_heads * HEAD_DIM, heads * HEAD_DIM, key_norm, cos, sin, slots,
            tl.where(is_scattered, 0, begin), tl.where(is_scattered, seen, end),
            keys + cached, values + cached, rows, eps, HEAD_DIM, ROTATED, PAIRS, NORM_LAST,
        )  # fmt: skip
        for turn in tl.range(0, tl.where(is_scattered, together, 1), num_stages=1):
            of = tl.program_id(0) * together + turn
            start = tl.load(starts + of, mask=is_scattered & (of < rows), other=_IN_PLACE)
            top, total, mix = _mixed_tiles(
                q, keys + cached, values + cached, mask, floor, row, is_line, paths + of * _PATH_SLOTS, start,
                begin, used, seen, scale, cap, LINES, HEAD_DIM,
            )  # fmt: skip
            is_turn = is_line & ((line // GROUP == turn) | (is_scattered == 0))
            tl.store(highest + to, top, mask=is_turn)
            tl.store(sums + to, total, mask=is_turn)
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
        is_seen = score > float("-inf")
        part = tl.load(sums + split * heads + head, mask=is_seen, other=0.0)  # others have written none
        new_top = tl.maximum(top, tl.max(score, 0))
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight, keep = tl.where(is_seen, tl.exp(score - finite), 0.0), tl.exp(top - finite)
        total = total * keep + tl.sum(weight * part, 0)
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
