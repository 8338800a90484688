/* Attention of several queries over the keys of one head. Knows nothing of weights.
 *
 * Keys are visited in order of position and every query has accumulators of its own, so a query gives the
 * same bits whoever shares the call, and whether its ancestors lie in the prefix (autoregressive
 * decoding), behind it (a chain) or scattered over other slots (a tree). */
#include "attention.h"

#include "attention_pairs.h"
#include "attention_tiles.h"

#define TILE 4 /* queries that share a loaded key or value */

/* Channels offset .. offset + 15 of the value in a slot. */
INLINE f32x16 load_value(const void *values, int dtype, int dim, size_t slot, int offset) {
    if (dtype != KIND_BF16) return load((const float *)values + slot * dim + offset);
    u32x16 pair;
    memcpy(&pair, (const uint16_t *)values + value_index(dtype, dim, slot & ~(size_t)1, offset), sizeof pair);
    return (f32x16)(slot & 1 ? pair & 0xffff0000u : pair << 16);
}

/* Scores of the 16 slots of each of BLOCKS key blocks against COUNT queries. */
INLINE void score_tile(const Query *q, const void *keys, int dtype, size_t block, int dim, f32x16 out[][TILE],
                       const int COUNT, const int BLOCKS) {
    f32x16 acc[2][TILE];
    for (int b = 0; b < BLOCKS; b++) for (int i = 0; i < COUNT; i++) acc[b][i] = splat(0);
    if (dtype == KIND_BF16) {
        for (int d = 0; d < dim; d += 2)
            for (int b = 0; b < BLOCKS; b++) {
                u32x16 pair;
                memcpy(&pair, (const uint16_t *)keys + key_index(dtype, dim, (block + b) * LANES, d), sizeof pair);
                f32x16 even = (f32x16)(pair << 16), odd = (f32x16)(pair & 0xffff0000u);
                for (int i = 0; i < COUNT; i++) acc[b][i] += splat(q[i].query[d]) * even;
                for (int i = 0; i < COUNT; i++) acc[b][i] += splat(q[i].query[d + 1]) * odd;
            }
    } else {
        for (int d = 0; d < dim; d++)
            for (int b = 0; b < BLOCKS; b++) {
                f32x16 k = load((const float *)keys + ((block + b) * dim + d) * LANES);
                for (int i = 0; i < COUNT; i++) acc[b][i] += splat(q[i].query[d]) * k;
            }
    }
    for (int b = 0; b < BLOCKS; b++) for (int i = 0; i < COUNT; i++) out[b][i] = acc[b][i];
}

/* Scores of all slots up to the last one that anybody sees. */
INLINE void score_all(const Query *q, const void *keys, int dtype, int dim, int start, const int COUNT) {
    f32x16 out[2][TILE];
    int block = start / LANES, last = (slots_end(q, COUNT, start) + LANES - 1) / LANES;
    for (; block < last; block += 2) {
        int blocks = last - block > 1 ? 2 : 1;
        if (blocks == 2) score_tile(q, keys, dtype, block, dim, out, COUNT, 2);
        else score_tile(q, keys, dtype, block, dim, out, COUNT, 1);
        for (int b = 0; b < blocks; b++)
            for (int i = 0; i < COUNT; i++) store(q[i].scores + (block + b) * LANES - start, out[b][i]);
    }
}

/* 16 * VECTORS channels of the mixed values of COUNT queries; the first `shared` keys are common to all. */
INLINE void mix_tile(const Query *q, const void *values, int dtype, int dim, int offset, int start, int shared, const float *scale,
                     const int COUNT, const int VECTORS) {
    f32x16 acc[TILE][2];
    for (int i = 0; i < COUNT; i++) for (int v = 0; v < VECTORS; v++) acc[i][v] = splat(0);
    for (int j = 0; j < shared; j++)
        for (int v = 0; v < VECTORS; v++) {
            f32x16 value = load_value(values, dtype, dim, start + j, offset + v * LANES);
            for (int i = 0; i < COUNT; i++) acc[i][v] += splat(q[i].scores[j]) * value;
        }
    for (int i = 0; i < COUNT; i++)
        for (int j = shared; j < q[i].prefix + q[i].num_path; j++) {
            size_t slot = j < q[i].prefix ? start + j : q[i].path[j - q[i].prefix];
            for (int v = 0; v < VECTORS; v++)
                acc[i][v] += splat(q[i].scores[j]) * load_value(values, dtype, dim, slot, offset + v * LANES);
        }
    for (int i = 0; i < COUNT; i++)
        for (int v = 0; v < VECTORS; v++) store(q[i].out + offset + v * LANES, acc[i][v] * splat(scale[i]));
}

INLINE void attend_tile(const Query *q, const void *keys, const void *values, int dtype, int dim, int start, const int COUNT) {
    int shared = q->prefix;
    float scale[TILE];
    score_all(q, keys, dtype, dim, start, COUNT);
    for (int i = 0; i < COUNT; i++) {
        shared = q[i].prefix < shared ? q[i].prefix : shared;
        gather_scores(q + i, start);
        scale[i] = 1.0f / exponentiate(q[i].scores, q[i].prefix + q[i].num_path, dim, 0);
    }
    int offset = 0;
    for (; offset + 2 * LANES <= dim; offset += 2 * LANES) mix_tile(q, values, dtype, dim, offset, start, shared, scale, COUNT, 2);
    if (offset < dim) mix_tile(q, values, dtype, dim, offset, start, shared, scale, COUNT, 1);
}

#define FOR_DTYPE(NAME, DTYPE)                                                                            \
    static __attribute__((noinline)) void NAME(const Query *q, int count, const void *keys, const void *values, int dim, int start) { \
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
