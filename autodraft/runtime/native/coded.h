/* Coded 16-bit weights (autodraft/runtime/coded_weights.py): where a panel's groups lie, and what they stand for. */
#ifndef AUTODRAFT_CODED_H
#define AUTODRAFT_CODED_H
#include "engine.h"
#include "pairs.h"

#define CODED_HALF 64 /* weights, or lower bytes; a pair of inputs of a panel as it was takes as many */

#ifdef LOOKS_UP
#define GROUPS_BYTES (2 * CODED_BYTES) /* of two panels in turn, one stream */
/* Groups that are fetched ahead: memory's latency is that of many; of two streams, less than they push out of the first cache. */
#define STRAIGHT_AHEAD 32
#define TURNING_AHEAD 16

#define STREAM_BYTES(W) ((size_t)(W)->k_padded / CODED_INPUTS * GROUPS_BYTES)

/* Groups of CODED_BYTES of two panels in turn, which are thus read straight on. */
INLINE const char *coded_panel(const Linear *w, int panel) {
    return (const char *)w->weight + panel / 2 * STREAM_BYTES(w) + panel % 2 * CODED_BYTES;
}

/* The number and the weights of a panel's next group that stands as it was. */
typedef struct {
    const int32_t *stop;
    const char *plain;
} Plain;

INLINE Plain next_plain(const int32_t *stop, const char *plain) {
    UNROLL for (int line = 0; line < PLAIN_BYTES; line += 64) __builtin_prefetch(plain + line);
    return (Plain){stop, plain};
}

INLINE Plain first_plain(const Linear *w, int panel) {
    int panels = (w->n + LANES - 1) / LANES, start = w->sum[panel];
    size_t before = (size_t)(start - panels - panel); /* groups of other panels: every list has an end */
    return next_plain(w->sum + start, (const char *)w->lower + before * PLAIN_BYTES);
}

/* Half `h` of vector `v` of a group's first (or third) pair of inputs, and of its second (or fourth). */
INLINE void decode(const char *group, int h, int v, u8v4 uppers, u32v *first, u32v *second) {
    u8v4 lower = load_bytes(group + (h * PARTS + v) * sizeof lower), codes = load_bytes(group + 2 * CODED_HALF + v * sizeof codes);
    u8v4 upper = look_up(uppers, h ? (u8v4)((u32v)codes >> 4) & 15 : codes & 15);
    *first = (u32v)interleave_lower(lower, upper), *second = (u32v)interleave_upper(lower, upper);
}

/* An address, where `wanted` in a register of its own: of two streams compilers would keep one for each line, and have too few. */
INLINE const char *address(const char *start, size_t offset, const int wanted) {
    start += offset;
    if (wanted) __asm__("" : "+r"(start));
    return start;
}

/* Group `g` of all panels and rows; `stops`: it stands as it was in one of them. `streams` of two panels each, and `fetched`, where
 * they are fetched along with that, begin with group 0. */
INLINE void add_group(const char *const streams[], const char *const fetched[], Plain plains[], int g, const pair_operand *x, int stride,
                      u8v4 uppers, f32v acc[][MOST_VECTORS], const int stops, const int ROWS, const int PANELS) {
    const char *groups[MOST_VECTORS], *ahead[MOST_VECTORS];
    UNROLL for (int p = 0; p < PANELS; p++) {
        groups[p] = p % 2 ? groups[p - 1] + CODED_BYTES : address(streams[p / 2], (size_t)g * GROUPS_BYTES, PANELS > 2);
        ahead[p] = p % 2 ? ahead[p - 1] + CODED_BYTES : address(fetched[p / 2], (size_t)g * GROUPS_BYTES, PANELS > 2);
    }
    UNROLL for (int h = 0; h < 2; h++) {
        UNROLL for (int line = 0; line < CODED_BYTES; line += 64) UNROLL for (int p = 0; p < PANELS; p++)
            if (PANELS > 2 ? h == p / 2 : h == 0) __builtin_prefetch(ahead[p] + line); /* of two streams not all at once */
        u32v wv[2][MOST_VECTORS];
        UNROLL for (int p = 0; p < PANELS; p++) UNROLL for (int v = 0; v < PARTS; v++) {
            u32v *first = wv[0] + p * PARTS + v, *second = wv[1] + p * PARTS + v;
            if (stops && *plains[p].stop == g) {
                const char *plain = plains[p].plain + 2 * h * CODED_HALF + v * sizeof *first;
                *first = load_pairs(plain), *second = load_pairs(plain + CODED_HALF);
            } else decode(groups[p], h, v, uppers, first, second);
        }
        UNROLL for (int j = 0; j < 2; j++) add_pairs(acc, wv[j], x + CODED_INPUTS * g + 4 * h + 2 * j, stride, ROWS, PANELS * PARTS);
    }
    UNROLL for (int p = 0; p < PANELS && stops; p++)
        if (*plains[p].stop == g) plains[p] = next_plain(plains[p].stop + 1, plains[p].plain + PLAIN_BYTES);
}
#endif

#endif
