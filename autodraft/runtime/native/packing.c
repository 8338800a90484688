/* Packs the rows of a matrix into the panels that engine.h describes, at 8 and 4 bits with the numbers of
 * autodraft/runtime/quantization.py. Knows nothing of models. */
#include "engine.h"
#include "vec.h"

#define INT4_GROUP 32
#define INT4_LEAST (-8.0f)
#define INT4_MOST 7.0f
#define SHRINKS 5
static const float shrinks[SHRINKS] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f};

/* Inputs [first, first + INT4_GROUP) of an output in 32 bits, zeros where there are none. */
static void read_group(const Source *from, int output, int first, float *to) {
    int count = from->k - first;
    size_t bytes = from->kind == KIND_F32 ? 4 : 2;
    const char *at = (const char *)from->rows + ((size_t)output * from->k + first) * bytes;
    char whole[4 * INT4_GROUP];
    if (output >= from->n || count < INT4_GROUP) {
        memset(whole, 0, sizeof whole);
        if (output < from->n && count > 0) memcpy(whole, at, bytes * count);
        at = whole;
    }
    for (int i = 0; i < INT4_GROUP; i += WIDTH, at += bytes * WIDTH) {
        const uint16_t *halves = (const uint16_t *)at;
        store(to + i, from->kind == KIND_F32 ? load((const float *)at) : from->kind == KIND_F16 ? load_f16(halves) : load_bf16(halves));
    }
}

INLINE f32v to_whole(f32v v) { return v + splat(ROUNDING) - splat(ROUNDING); }

/* The weight that lies furthest from 0, the first of those that do. */
static float extreme(const float *group) {
    f32v most = splat(-INFINITY), least = splat(-INFINITY);
    for (int i = 0; i < INT4_GROUP; i += WIDTH) most = max_each(load(group + i), most), least = max_each(-load(group + i), least);
    float highest = lane_max(most), lowest = -lane_max(least);
    if (highest != -lowest) return highest > -lowest ? highest : lowest;
    for (int i = 0; i < INT4_GROUP; i++)
        if (group[i] == highest || group[i] == lowest) return group[i];
    return 0;
}

/* Whole numbers from -8 to 7 for a group, and their squared error. */
static float round_group(const float *group, float scale, float *whole) {
    f32v errors = splat(0);
    for (int i = 0; i < INT4_GROUP; i += WIDTH) {
        f32v v = load(group + i), rounded = -max_each(-to_whole(v / splat(scale)), splat(-INT4_MOST));
        rounded = max_each(rounded, splat(INT4_LEAST));
        f32v error = rounded * splat(scale) - v;
        store(whole + i, rounded), errors += error * error;
    }
    return lane_sum(errors);
}

/* A lane of a group at the scale that suits it best, which is returned. */
static uint16_t pack_group(const float *group, uint8_t *to) {
    float furthest = extreme(group), base = furthest == 0 ? 1 : furthest / INT4_LEAST, whole[2][INT4_GROUP], least = INFINITY;
    uint16_t best = 0;
    int kept = 0;
    for (int s = 0; s < SHRINKS; s++) {
        uint16_t scale = float_to_bf16(base * shrinks[s]);
        float error = round_group(group, bf16_to_float(scale), whole[!kept]);
        if (!s || error < least) best = scale, least = error, kept = !kept;
    }
    for (int i = 0; i < INT4_GROUP; i++) {
        int weight = (int)whole[kept][i] - (int)INT4_LEAST, place = i / 8 * 4 * LANES + i % 4;
        to[place] = (uint8_t)(i % 8 < 4 ? weight : to[place] | weight << 4);
    }
    return best;
}

/* Panels [first, last) at 4 bits. */
void pack_int4(const Source *from, int first, int last, uint8_t *weight, uint16_t *scale) {
    int groups = from->k_padded / INT4_GROUP;
    float group[INT4_GROUP];
    for (int output = first * LANES; output < last * LANES; output++)
        for (int g = 0; g < groups; g++) {
            size_t at = (size_t)(output / LANES) * groups + g;
            int lane = output % LANES;
            read_group(from, output, g * INT4_GROUP, group);
            scale[at * LANES + lane] = pack_group(group, weight + at * INT4_GROUP / 2 * LANES + lane * 4);
        }
}

/* Panels [first, last) at 8 bits. */
void pack_int8(const Source *from, int first, int last, int8_t *weight, float *scale, int32_t *sum) {
    float group[INT4_GROUP];
    for (int output = first * LANES; output < last * LANES; output++) {
        f32v most = splat(0);
        int32_t total = 0;
        for (int k = 0; k < from->k_padded; k += INT4_GROUP) {
            read_group(from, output, k, group);
            for (int i = 0; i < INT4_GROUP; i += WIDTH) most = max_each(max_each(load(group + i), -load(group + i)), most);
        }
        float furthest = lane_max(most), step = (furthest > 1e-12f ? furthest : 1e-12f) / 127.0f;
        int8_t *to = weight + (size_t)(output / LANES) * from->k_padded * LANES + output % LANES * 4;
        for (int k = 0; k < from->k_padded; k += INT4_GROUP) {
            read_group(from, output, k, group);
            for (int i = 0; i < INT4_GROUP; i += WIDTH) store(group + i, to_whole(load(group + i) / splat(step)));
            for (int i = 0; i < INT4_GROUP; i++) {
                int whole = (int)group[i];
                to[(size_t)(k + i) / 4 * 4 * LANES + i % 4] = (int8_t)whole, total += whole;
            }
        }
        scale[output] = step, sum[output] = 128 * total;
    }
}

/* A row of one lane, `unit` bytes to each place. */
INLINE void pack_row(const char *row, size_t bytes, size_t padded_bytes, char *to, const size_t unit) {
    size_t whole = bytes / unit * unit;
    for (size_t at = 0; at < whole; at += unit) memcpy(to + at * LANES, row + at, unit);
    for (size_t at = whole; at < padded_bytes; at += unit) {
        memset(to + at * LANES, 0, unit);
        if (at < bytes) memcpy(to + at * LANES, row + at, bytes - at);
    }
}

/* Panels [first, last) of BF16, F32 or F16. */
void pack_as_it_is(const Source *from, int first, int last, char *weight) {
    size_t bytes = from->kind == KIND_F32 ? 4 : 2;
    for (int output = first * LANES; output < last * LANES; output++) {
        int lane = output % LANES;
        const char *row = (const char *)from->rows + (size_t)output * from->k * bytes;
        char *panel = weight + (size_t)(output - lane) * from->k_padded * bytes;
        size_t there = output < from->n ? from->k * bytes : 0, padded = from->k_padded * bytes;
        if (from->kind == KIND_F16) pack_row(row, there, padded, panel + 2 * lane, 2);
        else pack_row(row, there, padded, panel + 4 * lane, 4);
    }
}
