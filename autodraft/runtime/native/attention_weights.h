#ifndef AUTODRAFT_ATTENTION_WEIGHTS_H
#define AUTODRAFT_ATTENTION_WEIGHTS_H
/* From the scores of 16-bit keys to weights of 16 bits, for products that take several positions at once.
 *
 * Positions are mixed so many at a time (KEYS), in ascending order, each always at the same place of its product: where a
 * query's path does not lie in the slots that follow its prefix (a branch of a tree), its last positions go to a tail, whose
 * values are first put where they would lie if it did. So a query gives the same bits wherever its ancestors are. */
#include "attention.h"

/* Keys of a query that lie one after the other from `start` on: the prefix, and as much of the path as goes on from it. */
INLINE int straight_keys(const Query *q, int start) {
    int n = 0;
    while (n < q->num_path && q->path[n] == start + q->prefix + n) n++;
    return q->prefix + n;
}

/* Columns of the longest query, in whole products; column 0 is slot `first`. */
INLINE int columns_of(const Query *queries, int count, int start, int first, const int KEYS) {
    int columns = 0;
    for (const Query *q = queries; q < queries + count; q++) {
        int end = start - first + q->prefix + q->num_path;
        columns = end > columns ? end : columns;
    }
    return (columns + KEYS - 1) / KEYS * KEYS;
}

/* Zeros around `n` weights at column `at`, up to `columns`. */
INLINE void pad_weights(uint16_t *to, int n, int at, int columns) {
    for (int column = 0; column < at; column++) to[column] = 0;
    for (int column = at + n; column < columns; column++) to[column] = 0;
}

/* Weights of `n` keys at column `at`, zeros around them up to `columns`. */
INLINE void round_weights(const float *p, int n, uint16_t *to, int at, int columns) {
    for (int i = 0; i < n; i += WIDTH) store_bf16(to + at + i, load(p + i)); /* forwards: `to` may begin before `p` in the same memory */
    pad_weights(to, n, at, columns);
}

/* Where a query's weights come to stand, in the memory of its scores. */
INLINE uint16_t *weights_of(const Query *q) { return (uint16_t *)(q->scores - SCORE_MARGIN); }

/* Scores of all slots from `start` on to weights, with their sums. Of a query with a branch only whole products of straight
 * keys stay; the last `tail_keys` go to its tail. COUNT is at most TOGETHER. */
INLINE void weigh(const Query *q, int dim, int start, int first, int columns, uint16_t *tails, int tail_stride, int *tail_keys,
                  float *sums, const int KEYS, const int COUNT) {
    const int offset = start - first;
    Softmax softmax[TOGETHER];
    int straight[TOGETHER];
    for (int i = 0; i < COUNT; i++) {
        int n = q[i].prefix + q[i].num_path;
        straight[i] = straight_keys(q + i, start);
        softmax[i] = (Softmax){own_scores(q + i), straight[i] == n ? weights_of(q + i) + offset + q[i].hidden : 0, own_keys(q + i), 0};
        if (straight[i] < n) gather_scores(q + i, start);
        cap_scores(q + i, dim);
    }
    exponentiate(softmax, dim, COUNT);
    for (int i = 0; i < COUNT; i++) {
        int n = q[i].prefix + q[i].num_path;
        sums[i] = softmax[i].sum, tail_keys[i] = 0;
        if (straight[i] == n) {
            pad_weights(weights_of(q + i), (softmax[i].n + WIDTH - 1) / WIDTH * WIDTH, offset + q[i].hidden, columns);
            continue;
        }
        clear_hidden(q + i);
        int kept = (straight[i] + offset) / KEYS * KEYS - offset;
        kept = kept > 0 ? kept : 0;
        tail_keys[i] = n - kept;
        int at = kept ? 0 : offset % KEYS;
        round_weights(q[i].scores + kept, n - kept, tails + (size_t)i * tail_stride, at, (at + n - kept + KEYS - 1) / KEYS * KEYS);
        round_weights(q[i].scores, kept, weights_of(q + i), offset, columns);
    }
}

#endif
