/* Attention of several queries over the keys of one head. Knows nothing of weights.
 *
 * Keys are visited in order of position and every query has accumulators of its own, so a query gives the
 * same bits whoever shares the call, and whether its ancestors lie in the prefix (autoregressive
 * decoding), behind it (a chain) or scattered over other slots (a tree). */
#include "attention.h"

#include "attention_pairs.h"
#include "attention_tiles.h"

#define TILE (WIDTH == 16 ? 8 : 4) /* queries that share a loaded key or value */
#define LEAST (WIDTH == 16 ? 2 : PARTS) /* vectors of keys or values at a time: as many sums as there are registers for, */
#define MOST (2 * LEAST)                /* or, of one or two queries, as keep the multipliers busy */

/* WIDTH channels from `offset` on of the values in a slot and in the one behind it, of which the first is even. */
INLINE void load_values(const void *values, int dtype, int dim, size_t slot, int offset, f32v *even, f32v *odd) {
    if (dtype == KIND_BF16) {
        u32v pair;
        memcpy(&pair, (const uint16_t *)values + value_index(dtype, dim, slot, offset), sizeof pair);
        *even = (f32v)(pair << 16), *odd = (f32v)(pair & 0xffff0000u);
    } else {
        *even = load((const float *)values + slot * dim + offset), *odd = load((const float *)values + (slot + 1) * dim + offset);
    }
}

/* The same of one slot. */
INLINE f32v load_value(const void *values, int dtype, int dim, size_t slot, int offset) {
    if (dtype != KIND_BF16) return load((const float *)values + slot * dim + offset);
    f32v even, odd;
    load_values(values, dtype, dim, slot & ~(size_t)1, offset, &even, &odd);
    return slot & 1 ? odd : even;
}

/* Scores of VECTORS times WIDTH slots from `slot` on, which begins a block or a part of it, against COUNT queries. */
INLINE void score_tile(const Query *q, const void *keys, int dtype, size_t slot, int dim, int start, const int COUNT,
                       const int VECTORS) {
    f32v acc[MOST][TILE];
    UNROLL for (int v = 0; v < VECTORS; v++) UNROLL for (int i = 0; i < COUNT; i++) acc[v][i] = splat(0);
    for (int d = 0; d < dim; d += 2) {
        f32v even[MOST], odd[MOST];
        UNROLL for (int v = 0; v < VECTORS; v++) {
            if (dtype == KIND_BF16) {
                u32v pair;
                memcpy(&pair, (const uint16_t *)keys + key_index(dtype, dim, slot + v * WIDTH, d), sizeof pair);
                even[v] = (f32v)(pair << 16), odd[v] = (f32v)(pair & 0xffff0000u);
            } else {
                const float *key = (const float *)keys + key_index(dtype, dim, slot + v * WIDTH, d);
                even[v] = load(key), odd[v] = load(key + LANES);
            }
        }
        UNROLL for (int i = 0; i < COUNT; i++) {
            f32v first = splat(q[i].query[d]), second = splat(q[i].query[d + 1]);
            UNROLL for (int v = 0; v < VECTORS; v++) acc[v][i] += first * even[v];
            UNROLL for (int v = 0; v < VECTORS; v++) acc[v][i] += second * odd[v];
        }
    }
    UNROLL for (int v = 0; v < VECTORS; v++)
        UNROLL for (int i = 0; i < COUNT; i++) store(q[i].scores + slot + v * WIDTH - start, acc[v][i]);
}

/* Scores of all slots up to the last one that anybody sees. */
INLINE void score_all(const Query *q, const void *keys, int dtype, int dim, int start, const int COUNT) {
    int slot = start / LANES * LANES, end = (slots_end(q, COUNT, start) + LANES - 1) / LANES * LANES;
    for (; COUNT <= 2 && slot + MOST * WIDTH <= end; slot += MOST * WIDTH) score_tile(q, keys, dtype, slot, dim, start, COUNT, MOST);
    for (; slot + LEAST * WIDTH <= end; slot += LEAST * WIDTH) score_tile(q, keys, dtype, slot, dim, start, COUNT, LEAST);
    if (slot < end) score_tile(q, keys, dtype, slot, dim, start, COUNT, PARTS);
}

/* Key number `key`, which all of COUNT queries see, with its value. */
INLINE void mix_value(const Query *q, int key, const f32v *value, f32v acc[][MOST], const int COUNT, const int VECTORS) {
    UNROLL for (int i = 0; i < COUNT; i++) {
        f32v weight = splat(q[i].scores[key]);
        UNROLL for (int v = 0; v < VECTORS; v++) acc[i][v] += weight * value[v];
    }
}

INLINE void mix_one(const Query *q, const void *values, int dtype, int dim, int offset, int start, int key, f32v acc[][MOST],
                    const int COUNT, const int VECTORS) {
    f32v value[MOST];
    UNROLL for (int v = 0; v < VECTORS; v++) value[v] = load_value(values, dtype, dim, start + key, offset + v * WIDTH);
    mix_value(q, key, value, acc, COUNT, VECTORS);
}

/* VECTORS times WIDTH channels of the mixed values of COUNT queries; the first `shared` keys are common to all. Of two slots at
 * a time, for values lie in pairs: to take those apart is as much work as to mix them for one query. */
INLINE void mix_tile(const Query *q, const void *values, int dtype, int dim, int offset, int start, int shared, const float *scale,
                     const int COUNT, const int VECTORS) {
    f32v acc[TILE][MOST];
    UNROLL for (int i = 0; i < COUNT; i++) UNROLL for (int v = 0; v < VECTORS; v++) acc[i][v] = splat(0);
    int key = start & 1 && shared;
    if (key) mix_one(q, values, dtype, dim, offset, start, 0, acc, COUNT, VECTORS);
    for (; key + 2 <= shared; key += 2) {
        f32v even[MOST], odd[MOST];
        UNROLL for (int v = 0; v < VECTORS; v++) load_values(values, dtype, dim, start + key, offset + v * WIDTH, even + v, odd + v);
        mix_value(q, key, even, acc, COUNT, VECTORS);
        mix_value(q, key + 1, odd, acc, COUNT, VECTORS);
    }
    if (key < shared) mix_one(q, values, dtype, dim, offset, start, key, acc, COUNT, VECTORS);
    UNROLL for (int i = 0; i < COUNT; i++)
        for (int j = shared; j < q[i].prefix + q[i].num_path; j++) {
            size_t slot = j < q[i].prefix ? start + j : q[i].path[j - q[i].prefix];
            UNROLL for (int v = 0; v < VECTORS; v++)
                acc[i][v] += splat(q[i].scores[j]) * load_value(values, dtype, dim, slot, offset + v * WIDTH);
        }
    UNROLL for (int i = 0; i < COUNT; i++)
        UNROLL for (int v = 0; v < VECTORS; v++) store(q[i].out + offset + v * WIDTH, acc[i][v] * splat(scale[i]));
}

INLINE void attend_tile(const Query *q, const void *keys, const void *values, int dtype, int dim, int start, const int COUNT) {
    int shared = q->prefix;
    Softmax softmax[TILE];
    float scale[TILE];
    score_all(q, keys, dtype, dim, start, COUNT);
    for (int i = 0; i < COUNT; i++) {
        shared = q[i].prefix < shared ? q[i].prefix : shared;
        gather_scores(q + i, start);
        cap_scores(q + i, dim);
        softmax[i] = (Softmax){own_scores(q + i), 0, own_keys(q + i), 0};
    }
    UNROLL for (int i = 0; i < COUNT; i += TOGETHER) exponentiate(softmax + i, dim, COUNT - i < TOGETHER ? COUNT - i : TOGETHER);
    for (int i = 0; i < COUNT; i++) clear_hidden(q + i), scale[i] = 1.0f / softmax[i].sum;
    int offset = 0;
    for (; COUNT <= 2 && offset + MOST * WIDTH <= dim; offset += MOST * WIDTH)
        mix_tile(q, values, dtype, dim, offset, start, shared, scale, COUNT, MOST);
    for (; offset + LEAST * WIDTH <= dim; offset += LEAST * WIDTH)
        mix_tile(q, values, dtype, dim, offset, start, shared, scale, COUNT, LEAST);
    if (offset < dim) mix_tile(q, values, dtype, dim, offset, start, shared, scale, COUNT, PARTS);
}

#define FOR_DTYPE(NAME, DTYPE)                                                                            \
    static __attribute__((noinline)) void NAME(const Query *q, int count, const void *keys, const void *values, int dim, int start) { \
        for (; count >= TILE; count -= TILE, q += TILE) attend_tile(q, keys, values, DTYPE, dim, start, TILE); \
        for (; count >= 4; count -= 4, q += 4) attend_tile(q, keys, values, DTYPE, dim, start, 4);           \
        for (; count >= 2; count -= 2, q += 2) attend_tile(q, keys, values, DTYPE, dim, start, 2);           \
        if (count) attend_tile(q, keys, values, DTYPE, dim, start, 1);                                       \
    }
FOR_DTYPE(attend_f32, KIND_F32)
FOR_DTYPE(attend_bf16, KIND_BF16)

void attend(const Query *q, int count, const void *keys, const void *values, int dtype, int dim, int start,
            uint16_t *tails, int tail_stride) {
    if (dtype == KIND_BF16 && attention_tiles_serve(dim)) attend_tiles(q, count, keys, values, dim, start, tails, tail_stride);
    else if (dtype == KIND_BF16 && attention_pairs_serve(dim)) attend_pairs(q, count, keys, values, dim, start, tails, tail_stride);
    else (dtype == KIND_BF16 ? attend_bf16 : attend_f32)(q, count, keys, values, dim, start);
}
