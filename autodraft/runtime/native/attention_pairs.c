/* Attention of a few queries at a time on vector products of 16-bit pairs: two channels of a key, values of two positions.
 * Knows nothing of weights.
 *
 * Every query has accumulators of its own and values are mixed as attention_weights.h says, so a query gives the same bits
 * whoever shares the call and wherever its ancestors are. */
#include "attention_pairs.h"

#include "attention_weights.h"

#ifdef __AVX512BF16__
#define QUERIES 10 /* two blocks of keys have twenty sums, two more registers hold the keys */
#define MOST_CHANNELS 256
#define MOST_BLOCKS 8
#define MIXED 4 /* queries whose values are mixed at a time */
#define TILE 32 /* slots of a tile of values */
#define CHAINS 2 /* sums of a channel: pairs of slots take turns, for one product waits for the one before it */

int attention_pairs_serve(int dim) { return dim <= MOST_CHANNELS; }

INLINE __m512bh load_pairs(const uint16_t *p) { return (__m512bh)_mm512_loadu_si512(p); }
INLINE __m512bh splat_pair(const uint16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}
INLINE f32v multiply_pairs(f32v sum, __m512bh a, __m512bh b) { return (f32v)_mm512_dpbf16_ps((__m512)sum, a, b); }

/* Scores of the 16 slots of each of BLOCKS key blocks against COUNT queries. */
INLINE void score_blocks(const Query *q, const uint16_t (*rounded)[MOST_CHANNELS], const uint16_t *keys, const uint16_t *values, int block,
                         int dim, int start, const int COUNT, const int BLOCKS) {
    const uint16_t *key = keys + (size_t)block * dim * LANES, *value = values + (size_t)block * dim * LANES;
    f32v sum[QUERIES][MOST_BLOCKS];
    UNROLL for (int i = 0; i < COUNT; i++) UNROLL for (int b = 0; b < BLOCKS; b++) sum[i][b] = splat(0);
    for (int d = 0; d < dim; d += 2) {
        __m512bh pairs[MOST_BLOCKS];
        UNROLL for (int b = 0; b < BLOCKS; b++) {
            pairs[b] = load_pairs(key + ((size_t)b * dim + d) * LANES);
            __builtin_prefetch(key + ((size_t)(BLOCKS + b) * dim + d) * LANES);
            __builtin_prefetch(value + ((size_t)b * dim + d) * LANES); /* as many values lie in as many lines */
        }
        UNROLL for (int i = 0; i < COUNT; i++) {
            __m512bh query = splat_pair(rounded[i] + d);
            UNROLL for (int b = 0; b < BLOCKS; b++) sum[i][b] = multiply_pairs(sum[i][b], pairs[b], query);
        }
    }
    UNROLL for (int i = 0; i < COUNT; i++)
        UNROLL for (int b = 0; b < BLOCKS; b++) store(q[i].scores + (block + b) * LANES - start, sum[i][b]);
}

/* Scores of all slots up to the last one that anybody sees. */
INLINE void score_all(const Query *q, const uint16_t *keys, const uint16_t *values, int dim, int start, const int COUNT) {
    uint16_t rounded[QUERIES][MOST_CHANNELS];
    int block = start / LANES, end = (slots_end(q, COUNT, start) + LANES - 1) / LANES;
    UNROLL for (int i = 0; i < COUNT; i++)
        for (int d = 0; d < dim; d += LANES) store_bf16(rounded[i] + d, load(q[i].query + d));
    /* Sixteen sums at a time keep the multipliers busy. */
    if (COUNT <= 2)
        for (; block + 8 <= end; block += 8) score_blocks(q, rounded, keys, values, block, dim, start, COUNT, 8);
    if (COUNT <= 4)
        for (; block + 4 <= end; block += 4) score_blocks(q, rounded, keys, values, block, dim, start, COUNT, 4);
    for (; block + 2 <= end; block += 2) score_blocks(q, rounded, keys, values, block, dim, start, COUNT, 2);
    if (block < end) score_blocks(q, rounded, keys, values, block, dim, start, COUNT, 1);
}

typedef f32v Sums[2][CHAINS]; /* of a query, by vector of channels */

INLINE void mix_pair(const Query *q, const uint16_t *value, int first, int slot, Sums *sum, int chain, const int COUNT,
                     const int VECTORS) {
    __m512bh pairs[2];
    UNROLL for (int v = 0; v < VECTORS; v++) pairs[v] = load_pairs(value + (v * TILE + slot) * LANES);
    UNROLL for (int i = 0; i < COUNT; i++) {
        __m512bh weights = splat_pair(weights_of(q + i) + first + slot);
        UNROLL for (int v = 0; v < VECTORS; v++) sum[i][v][chain] = multiply_pairs(sum[i][v][chain], pairs[v], weights);
    }
}

/* Weights of `columns` slots, the first of which begins a tile, times 16 * VECTORS channels from `channel` on of their values. */
INLINE void mix(const Query *q, const uint16_t *values, int dim, int channel, int columns, Sums *sum, const int COUNT,
                const int VECTORS) {
    for (int first = 0; first < columns; first += TILE) {
        const uint16_t *value = values + (size_t)first * dim + channel * TILE;
        int slots = columns - first < TILE ? columns - first : TILE, slot = 0;
        for (; slot + 2 * CHAINS <= slots; slot += 2 * CHAINS)
            UNROLL for (int c = 0; c < CHAINS; c++) mix_pair(q, value, first, slot + 2 * c, sum, c, COUNT, VECTORS);
        for (int c = 0; slot < slots; slot += 2, c++) mix_pair(q, value, first, slot, sum, c, COUNT, VECTORS);
    }
}

/* Sixteen channels of the value of key number `key`, in the place of the first or the second of a pair. */
INLINE u32v value_of(const Query *q, const uint16_t *values, int dim, int start, int key, int channel, int second) {
    if (key < 0 || key >= q->prefix + q->num_path) return (u32v)splat_i32(0);
    size_t slot = key < q->prefix ? start + key : q->path[key - q->prefix];
    u32v pair;
    memcpy(&pair, values + value_index(KIND_BF16, dim, slot & ~(size_t)1, channel), sizeof pair);
    pair = slot & 1 ? pair >> 16 : pair & 0xffffu;
    return second ? pair << 16 : pair;
}

/* The last keys of a query whose path lies scattered: pairs of values are put together by position. */
INLINE void mix_tail(const Query *q, const uint16_t *values, int dim, int channel, int start, const uint16_t *tail, int tail_keys,
                     Sums sum, const int VECTORS) {
    int n = q->prefix + q->num_path, key = n - tail_keys;
    for (key -= (start + key) % 2; key < n; key += 2, tail += 2)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            u32v pair = value_of(q, values, dim, start, key, channel + v * LANES, 0) |
                          value_of(q, values, dim, start, key + 1, channel + v * LANES, 1);
            f32v *chain = &sum[v][(start + key) / 2 % CHAINS];
            *chain = multiply_pairs(*chain, (__m512bh)pair, splat_pair(tail));
        }
}

INLINE void mix_all(const Query *q, const uint16_t *values, int dim, int start, int columns, const uint16_t *tails, int tail_stride,
                    const int *tail_keys, const float *scale, int channel, const int COUNT, const int VECTORS) {
    int first = start / TILE * TILE;
    Sums sum[MIXED];
    UNROLL for (int i = 0; i < COUNT; i++)
        UNROLL for (int v = 0; v < VECTORS; v++) UNROLL for (int c = 0; c < CHAINS; c++) sum[i][v][c] = splat(0);
    mix(q, values + (size_t)first * dim, dim, channel, columns, sum, COUNT, VECTORS);
    UNROLL for (int i = 0; i < COUNT; i++)
        if (tail_keys[i])
            mix_tail(q + i, values, dim, channel, start, tails + (size_t)i * tail_stride, tail_keys[i], sum[i], VECTORS);
    UNROLL for (int i = 0; i < COUNT; i++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            store(q[i].out + channel + v * LANES, (sum[i][v][0] + sum[i][v][1]) * splat(scale[i]));
}

INLINE void attend_few(const Query *q, const uint16_t *keys, const uint16_t *values, int dim, int start, uint16_t *tails,
                       int tail_stride, const int COUNT) {
    int tail_keys[QUERIES], first = start / TILE * TILE, columns = columns_of(q, COUNT, start, first, 2), channel;
    float scale[QUERIES];
    score_all(q, keys, values, dim, start, COUNT);
    UNROLL for (int i = 0; i < COUNT; i += TOGETHER)
        weigh(q + i, dim, start, first, columns, tails + (size_t)i * tail_stride, tail_stride, tail_keys + i, scale + i, 2,
              COUNT - i < TOGETHER ? COUNT - i : TOGETHER);
    UNROLL for (int i = 0; i < COUNT; i++) scale[i] = 1.0f / scale[i];
    UNROLL for (int i = 0; i < COUNT; i += MIXED) {
        const int some = COUNT - i < MIXED ? COUNT - i : MIXED;
        const uint16_t *tail = tails + (size_t)i * tail_stride;
        for (channel = 0; channel + 2 * LANES <= dim; channel += 2 * LANES)
            mix_all(q + i, values, dim, start, columns, tail, tail_stride, tail_keys + i, scale + i, channel, some, 2);
        if (channel < dim) mix_all(q + i, values, dim, start, columns, tail, tail_stride, tail_keys + i, scale + i, channel, some, 1);
    }
}

#define FOR_COUNT(COUNT)                                                                                              \
    static __attribute__((noinline)) void attend_##COUNT(const Query *q, const uint16_t *keys, const uint16_t *values, int dim, \
                                                         int start, uint16_t *tails, int tail_stride) {               \
        attend_few(q, keys, values, dim, start, tails, tail_stride, COUNT);                                           \
    }
FOR_COUNT(1) FOR_COUNT(2) FOR_COUNT(4) FOR_COUNT(6) FOR_COUNT(8) FOR_COUNT(10)

void attend_pairs(const Query *q, int count, const void *keys, const void *values, int dim, int start, uint16_t *tails,
                  int tail_stride) {
    static void (*const attend_some[])(const Query *, const uint16_t *, const uint16_t *, int, int, uint16_t *, int) = {
        attend_1, attend_2, attend_4, attend_6, attend_8, attend_10};
    while (count) {
        int few = count == 1 ? 1 : count <= 10 ? count / 2 * 2 : 8;
        attend_some[few / 2](q, (const uint16_t *)keys, (const uint16_t *)values, dim, start, tails, tail_stride);
        count -= few, q += few;
    }
}

#else

int attention_pairs_serve(int dim) { return (void)dim, 0; }
void attend_pairs(const Query *q, int count, const void *keys, const void *values, int dim, int start, uint16_t *tails,
                  int tail_stride) {
    (void)q, (void)count, (void)keys, (void)values, (void)dim, (void)start, (void)tails, (void)tail_stride;
}

#endif
