#ifndef AUTODRAFT_ATTENTION_H
#define AUTODRAFT_ATTENTION_H
#include "engine.h"
#include "vec.h"

/* Where the cache has keys and values of one head. In 16 bits both are laid out as matrix tiles:
 *   keys    F32 [slots/16][dim][16]    BF16 [slots/16][dim/2][16][2]
 *   values  F32 [slots][dim]           BF16 [slots/32][dim/16][16 pairs of slots][16][2] */
INLINE size_t key_index(int dtype, int dim, int slot, int d) {
    size_t block = (size_t)(slot / LANES) * dim * LANES;
    return dtype == KIND_BF16 ? block + (size_t)(d / 2) * 2 * LANES + slot % LANES * 2 + d % 2 : block + (size_t)d * LANES + slot % LANES;
}
INLINE size_t value_index(int dtype, int dim, int slot, int d) {
    if (dtype != KIND_BF16) return (size_t)slot * dim + d;
    return (((size_t)(slot / 32) * (dim / LANES) + d / LANES) * 16 + slot % 32 / 2) * 32 + d % LANES * 2 + slot % 2;
}

/* One query head of one row: it sees `prefix` keys from the common start on, but the first `hidden` of them, then the path. */
typedef struct {
    const float *query;  /* [head_dim] */
    float *scores;       /* scratch for all slots up to its last key, with SCORE_MARGIN floats to spare on either side */
    float *out;          /* [head_dim] */
    const int32_t *path;
    int32_t prefix, num_path, hidden;
    float cap; /* that scores, after their division by sqrt(dim), approach through a tanh; 0: none */
} Query;

/* Scores by key begin with those of hidden ones; a query's own begin behind them, wherever others begin. */
INLINE float *own_scores(const Query *q) { return q->scores + q->hidden; }
INLINE int own_keys(const Query *q) { return q->prefix + q->num_path - q->hidden; }

/* Weights of hidden keys, which are mixed with those that others see. */
INLINE void clear_hidden(const Query *q) {
    for (int j = 0; j < q->hidden; j++) q->scores[j] = 0;
}

#define SCORE_MARGIN 32

/* Behind the last slot that any of the queries sees. */
INLINE int slots_end(const Query *queries, int count, int start) {
    int last = 0;
    for (const Query *q = queries; q < queries + count; q++) {
        int end = q->num_path ? q->path[q->num_path - 1] + 1 : 0, prefix = start + q->prefix;
        end = end > prefix ? end : prefix;
        last = end > last ? end : last;
    }
    return last;
}

/* Of scores by key. */
INLINE void cap_scores(const Query *q, int dim) {
    float *scores = own_scores(q), root = sqrtf((float)dim);
    if (!q->cap) return;
    for (int j = 0; j < own_keys(q); j += WIDTH) store(scores + j, cap_each(load(scores + j) * splat(1 / root), q->cap) * splat(root));
}

/* From scores by slot, from `start` on, to scores by key. */
INLINE void gather_scores(const Query *q, int start) {
    for (int j = 0; j < q->num_path; j++) q->scores[q->prefix + j] = q->scores[q->path[j] - start]; /* slots ascend */
}

/* A softmax over n scores (before their division by sqrt(dim)), without the last division. Weights take the place of the
 * scores or, rounded to 16 bits and padded with zeros to whole vectors, go to `rounded`, which may begin before the scores in
 * the same memory. */
typedef struct {
    float *scores;
    uint16_t *rounded; /* or NULL */
    int n;
    float sum; /* of the weights, before they are rounded */
} Softmax;

#define TOGETHER 4 /* softmaxes at a time: one alone waits for its own maximum and its own sums most of the time */

/* A vector of weights to where they belong, and for the sum. */
INLINE f32v weights_at(const Softmax *s, int j, f32v scale, f32v shift) {
    f32v p = exp2_each(load(s->scores + j) * scale - shift);
    if (s->rounded) store_bf16(s->rounded + j, p);
    else store(s->scores + j, p);
    return p;
}

/* COUNT of them, at most TOGETHER; each gives the same bits as alone. */
INLINE void exponentiate(Softmax *s, int dim, const int COUNT) {
    const f32v scale = splat(1.44269504f / sqrtf((float)dim)); /* a power of 2 */
    f32v highest[TOGETHER], shift[TOGETHER], sum[TOGETHER];
    int common = INT32_MAX, j;
    UNROLL for (int i = 0; i < COUNT; i++) {
        int whole = s[i].n / WIDTH * WIDTH;
        common = whole < common ? whole : common;
        highest[i] = splat(-INFINITY), sum[i] = splat(0);
        if (whole == s[i].n) continue;
        highest[i] = first_lanes(load(s[i].scores + whole), s[i].n - whole, -INFINITY);
        store(s[i].scores + whole, highest[i]);
    }
    for (j = 0; j < common; j += WIDTH) UNROLL for (int i = 0; i < COUNT; i++) highest[i] = max_each(highest[i], load(s[i].scores + j));
    UNROLL for (int i = 0; i < COUNT; i++) {
        for (j = common; j + WIDTH <= s[i].n; j += WIDTH) highest[i] = max_each(highest[i], load(s[i].scores + j));
        shift[i] = splat(lane_max(highest[i])) * scale;
    }
    for (j = 0; j < common; j += WIDTH) UNROLL for (int i = 0; i < COUNT; i++) sum[i] += weights_at(s + i, j, scale, shift[i]);
    UNROLL for (int i = 0; i < COUNT; i++) {
        for (j = common; j < s[i].n; j += WIDTH) sum[i] += weights_at(s + i, j, scale, shift[i]);
        s[i].sum = lane_sum(sum[i]);
    }
}

/* Queries of one KV head whose prefixes start at the same slot; keys and values are that head's. Slots of a path ascend.
 * The scores of successive queries are equally far apart. `tails`: TAIL_QUERIES times as many numbers as a query has keys,
 * and TAIL_MARGIN each. */
void attend(const Query *queries, int count, const void *keys, const void *values, int dtype, int head_dim, int start,
            uint16_t *tails, int tail_stride);

#define TAIL_QUERIES 16
#define TAIL_MARGIN 64

#endif
