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

/* Where a panel is read, and the number and the weights of its next group that stands as it was. */
typedef struct {
    const char *line;
    const int32_t *stop;
    const char *plain;
} CodedPanel;

INLINE CodedPanel next_plain(CodedPanel panel, const int32_t *stop, const char *plain) {
    UNROLL for (int line = 0; line < PLAIN_BYTES; line += 64) __builtin_prefetch(plain + line);
    return (CodedPanel){panel.line, stop, plain};
}

INLINE CodedPanel open_panel(const Linear *w, int panel) {
    int panels = (w->n + LANES - 1) / LANES, start = w->sum[panel];
    const char *plain = (const char *)w->lower + (size_t)(start - panels - panel) * PLAIN_BYTES; /* every list has an end */
    return next_plain((CodedPanel){.line = coded_panel(w, panel)}, w->sum + start, plain);
}

/* Half `h` of vector `v` of a group's first (or third) pair of inputs, and of its second (or fourth). */
INLINE void decode(const char *group, int h, int v, u8v4 uppers, u32v *first, u32v *second) {
    u8v4 lower = load_bytes(group + (h * PARTS + v) * sizeof lower), codes = load_bytes(group + 2 * CODED_HALF + v * sizeof codes);
    u8v4 upper = look_up(uppers, h ? (u8v4)((u32v)codes >> 4) & 15 : codes & 15);
    *first = (u32v)interleave_lower(lower, upper), *second = (u32v)interleave_upper(lower, upper);
}

/* Group `g` of all panels and rows; `stops`: it stands as it was in one of them. `fetched`: where streams are fetched along
 * with these groups, counted from group 0. */
INLINE void add_group(CodedPanel from[], const char *const fetched[], int g, const pair_operand *x, int stride, u8v4 uppers,
                      f32v acc[][MOST_VECTORS], const int stops, const int ROWS, const int PANELS) {
    const size_t at = (size_t)g * GROUPS_BYTES;
    UNROLL for (int p = 0; p < PANELS; p++)
        UNROLL for (int line = 0; line < CODED_BYTES; line += 64) __builtin_prefetch(fetched[p / 2] + p % 2 * CODED_BYTES + at + line);
    UNROLL for (int h = 0; h < 2; h++) {
        u32v wv[2][MOST_VECTORS];
        UNROLL for (int p = 0; p < PANELS; p++) UNROLL for (int v = 0; v < PARTS; v++) {
            u32v *first = wv[0] + p * PARTS + v, *second = wv[1] + p * PARTS + v;
            if (stops && *from[p].stop == g) {
                const char *plain = from[p].plain + 2 * h * CODED_HALF + v * sizeof *first;
                *first = load_pairs(plain), *second = load_pairs(plain + CODED_HALF);
            } else decode(from[p].line + at, h, v, uppers, first, second);
        }
        UNROLL for (int j = 0; j < 2; j++) add_pairs(acc, wv[j], x + CODED_INPUTS * g + 4 * h + 2 * j, stride, ROWS, PANELS * PARTS);
    }
    UNROLL for (int p = 0; p < PANELS && stops; p++)
        if (*from[p].stop == g) from[p] = next_plain(from[p], from[p].stop + 1, from[p].plain + PLAIN_BYTES);
}
#endif

#endif
