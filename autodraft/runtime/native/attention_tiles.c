/* Attention of up to 16 queries at a time on tile registers. Knows nothing of weights.
 *
 * A score is one product over the channels, whichever slots stand beside; values are mixed as attention_weights.h says.
 * So a query gives the same bits whoever shares the call and wherever its ancestors are. */
#include "attention_tiles.h"

#include "attention_weights.h"
#include "tiles.h"

#ifdef AUTODRAFT_TILES
#define QUERIES 16
#define KEYS 32 /* positions of a tile of values */
#define MOST_CHANNELS 128

int attention_tiles_serve(int dim) { return dim % 32 == 0 && dim <= MOST_CHANNELS && tiles_serve(KIND_BF16, 1); }

typedef struct {
    const Query *q;
    int count, dim, start, first; /* first: the slot of column 0 of the weights, a multiple of KEYS */
    const uint16_t *keys, *values;
    char *scores;                 /* of the first query */
    size_t stride;                /* bytes between the scores of successive queries */
    float sums[QUERIES];
    float out[QUERIES][MOST_CHANNELS] __attribute__((aligned(64)));
} Group;

#define SCORE(SUM, BLOCK) { _tile_loadd(6, key + (size_t)(BLOCK) * g->dim * LANES, 64); _tile_dpbf16ps(SUM, 4, 6); }
#define STORE(SUM, BLOCK) _tile_stored(SUM, g->scores + ((BLOCK) * LANES - g->start) * (int)sizeof(float), g->stride);

/* Scores of all slots up to the last one that anybody sees. */
static void score_all(const Group *g) {
    uint16_t queries[QUERIES][MOST_CHANNELS] __attribute__((aligned(64)));
    for (int i = 0; i < g->count; i++)
        for (int d = 0; d < g->dim; d += LANES) store_bf16(queries[i] + d, load(g->q[i].query + d));
    FENCE;
    int block = g->start / LANES, end = (slots_end(g->q, g->count, g->start) + LANES - 1) / LANES;
    for (; block < end; block += 4) {
        int more = end - block - 1;
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
        for (int d = 0; d < g->dim; d += 32) {
            const uint16_t *key = g->keys + d * LANES;
            _tile_loadd(4, queries[0] + d, sizeof queries[0]);
            SCORE(0, block)
            if (more > 0) SCORE(1, block + 1)
            if (more > 1) SCORE(2, block + 2)
            if (more > 2) SCORE(3, block + 3)
        }
        STORE(0, block)
        if (more > 0) STORE(1, block + 1)
        if (more > 1) STORE(2, block + 2)
        if (more > 2) STORE(3, block + 3)
    }
    FENCE;
}

#define MIX(SUM, CHANNEL) { _tile_loadd(6, value + (CHANNEL) * KEYS, 64); _tile_dpbf16ps(SUM, 4, 6); }

/* out[.][c .. c + 32) += weights x values over `tiles` tiles of both. */
INLINE void mix(const char *weights, size_t weights_stride, const uint16_t *values, int dim, int c, int tiles, float *out) {
    _tile_loadd(0, out + c, MOST_CHANNELS * sizeof(float));
    _tile_loadd(1, out + c + LANES, MOST_CHANNELS * sizeof(float));
    for (int t = 0; t < tiles; t++) {
        const uint16_t *value = values + ((size_t)t * dim) * KEYS;
        _tile_loadd(4, weights + t * KEYS * sizeof(uint16_t), weights_stride);
        MIX(0, c)
        MIX(1, c + LANES)
    }
    _tile_stored(0, out + c, MOST_CHANNELS * sizeof(float));
    _tile_stored(1, out + c + LANES, MOST_CHANNELS * sizeof(float));
}

/* The tile of values at positions [first, first + KEYS) for queries of q's row: its path is put where it would lie if it went on
 * from the prefix. Positions that the row does not have have a weight of 0, so whatever lies there will do. */
static void gather_values(const Group *g, const Query *q, int first, uint16_t *tile) {
    const uint16_t *in_place = g->values + (size_t)first * g->dim;
    int slots[KEYS];
    for (int p = 0; p < KEYS; p++) {
        int step = first + p - g->start - q->prefix; /* of the path */
        slots[p] = step >= 0 && step < q->num_path ? q->path[step] : first + p;
    }
    for (int d = 0; d < g->dim; d += LANES, tile += LANES * KEYS, in_place += LANES * KEYS)
        for (int p = 0; p < KEYS; p += 2) {
            u32v pair, even, odd;
            memcpy(&pair, in_place + p * LANES, sizeof pair);
            if (slots[p] != first + p || slots[p + 1] != first + p + 1) {
                memcpy(&even, g->values + value_index(KIND_BF16, g->dim, slots[p] & ~1, d), sizeof even);
                memcpy(&odd, g->values + value_index(KIND_BF16, g->dim, slots[p + 1] & ~1, d), sizeof odd);
                pair = (slots[p] & 1 ? even >> 16 : even & 0xffffu) | (slots[p + 1] & 1 ? odd & 0xffff0000u : odd << 16);
            }
            memcpy(tile + p * LANES, &pair, sizeof pair);
        }
}

/* The last tiles of `count` queries of one row whose path lies scattered. */
static void mix_tails(Group *g, int i, int count, const uint16_t *tails, int tail_stride, int tail_keys) {
    uint16_t gathered[MOST_CHANNELS * KEYS] __attribute__((aligned(64)));
    const Query *q = g->q + i;
    int n = q->prefix + q->num_path, first = (g->start + n - tail_keys) / KEYS * KEYS;
    for (; first < g->start + n; first += KEYS, tails += KEYS) {
        gather_values(g, q, first, gathered);
        FENCE;
        for (int c = 0; c < g->dim; c += 32)
            mix((const char *)tails, tail_stride * sizeof(uint16_t), gathered, g->dim, c, 1, g->out[i]);
        FENCE;
    }
}

/* All tails; queries of one row, which see the same keys, together. */
static void mix_branches(Group *g, const uint16_t *tails, int tail_stride, const int *tail_keys) {
    for (int i = 0, count; i < g->count; i += count) {
        const Query *q = g->q + i;
        for (count = 1; i + count < g->count && q[count].path == q->path && q[count].num_path == q->num_path;) count++;
        if (!tail_keys[i]) continue;
        tiles_configure(count);
        mix_tails(g, i, count, tails + (size_t)i * tail_stride, tail_stride, tail_keys[i]);
    }
}

#define WEIGH(COUNT)                                                                                                     \
    static void weigh_##COUNT(const Query *q, int dim, int start, int first, int columns, uint16_t *tails, int tail_stride, \
                              int *tail_keys, float *sums) {                                                             \
        weigh(q, dim, start, first, columns, tails, tail_stride, tail_keys, sums, KEYS, COUNT);                          \
    }
WEIGH(1) WEIGH(2) WEIGH(3) WEIGH(4)
/* A table: GCC 12 miscompiles a choice between function names that is called at once. */
static void (*const weigh_some[TOGETHER + 1])(const Query *, int, int, int, int, uint16_t *, int, int *, float *) = {
    0, weigh_1, weigh_2, weigh_3, weigh_4};

static void attend_group(Group *g, uint16_t *tails, int tail_stride) {
    int tail_keys[QUERIES], columns = columns_of(g->q, g->count, g->start, g->first, KEYS), some;
    tiles_configure(g->count);
    score_all(g);
    for (int i = 0; i < g->count; i += some) {
        some = g->count - i < TOGETHER ? g->count - i : TOGETHER;
        weigh_some[some](g->q + i, g->dim, g->start, g->first, columns, tails + (size_t)i * tail_stride, tail_stride, tail_keys + i,
                         g->sums + i);
    }
    memset(g->out, 0, sizeof g->out[0] * g->count);
    FENCE;
    const uint16_t *values = g->values + (size_t)g->first * g->dim;
    for (int c = 0; c < g->dim; c += 32)
        mix((const char *)weights_of(g->q), g->stride, values, g->dim, c, columns / KEYS, g->out[0]);
    FENCE;
    mix_branches(g, tails, tail_stride, tail_keys);
    for (int i = 0; i < g->count; i++)
        for (int d = 0; d < g->dim; d += LANES) store(g->q[i].out + d, load(g->out[i] + d) * splat(1.0f / g->sums[i]));
}

void attend_tiles(const Query *q, int count, const void *keys, const void *values, int dim, int start, uint16_t *tails,
                  int tail_stride) {
    for (int i = 0; i < count; i += QUERIES) {
        Group g;
        g.q = q + i, g.count = count - i < QUERIES ? count - i : QUERIES;
        g.dim = dim, g.start = start, g.first = start / KEYS * KEYS;
        g.keys = (const uint16_t *)keys, g.values = (const uint16_t *)values;
        g.scores = (char *)q[i].scores;
        g.stride = g.count > 1 ? (size_t)((char *)q[i + 1].scores - g.scores) : 64;
        attend_group(&g, tails, tail_stride);
    }
}

#else

int attention_tiles_serve(int dim) { return (void)dim, 0; }
void attend_tiles(const Query *q, int count, const void *keys, const void *values, int dim, int start, uint16_t *tails,
                  int tail_stride) {
    (void)q, (void)count, (void)keys, (void)values, (void)dim, (void)start, (void)tails, (void)tail_stride;
}

#endif
