/* Attention of one query row over a cached prefix and a path. Knows nothing of weights.
 *
 * Keys are visited in order of position, so a row gives the same bits whether its ancestors lie in the
 * prefix (autoregressive decoding), behind it (a chain) or scattered over other slots (a tree). */
#include "attention.h"

INLINE f32x16 load_cached(const void *base, int dtype, size_t index) {
    return dtype == KIND_BF16 ? load_bf16((const uint16_t *)base + index) : load((const float *)base + index);
}

/* Scores of the 16 slots of one key block against GROUP queries. */
INLINE void score_block(const float *q, const void *keys, int dtype, size_t block, int head_dim, f32x16 *out, const int GROUP) {
    f32x16 acc[4];
    for (int g = 0; g < GROUP; g++) acc[g] = splat(0);
    for (int d = 0; d < head_dim; d++) {
        f32x16 k = load_cached(keys, dtype, (block * head_dim + d) * LANES);
        for (int g = 0; g < GROUP; g++) acc[g] += splat(q[g * head_dim + d]) * k;
    }
    for (int g = 0; g < GROUP; g++) out[g] = acc[g];
}

INLINE void mix_values(const float *weights, const void *values, int dtype, int start, int prefix, const int32_t *path,
                       int num_path, int head_dim, float *out, float scale, const int VECTORS) {
    f32x16 acc[8];
    for (int v = 0; v < VECTORS; v++) acc[v] = splat(0);
    for (int j = 0; j < prefix; j++) {
        f32x16 p = splat(weights[j]);
        for (int v = 0; v < VECTORS; v++) acc[v] += p * load_cached(values, dtype, (size_t)(start + j) * head_dim + v * LANES);
    }
    for (int j = 0; j < num_path; j++) {
        f32x16 p = splat(weights[prefix + j]);
        for (int v = 0; v < VECTORS; v++) acc[v] += p * load_cached(values, dtype, (size_t)path[j] * head_dim + v * LANES);
    }
    for (int v = 0; v < VECTORS; v++) store(out + v * LANES, acc[v] * splat(scale));
}

/* Softmax over n scores in place, without the division; the sum is returned. */
static float exponentiate(float *scores, int n) {
    int padded = (n + LANES - 1) / LANES * LANES;
    for (int j = n; j < padded; j++) scores[j] = -INFINITY;
    f32x16 highest = load(scores);
    for (int j = LANES; j < padded; j += LANES) highest = max16(highest, load(scores + j));
    f32x16 shift = splat(lane_max(highest)), sum = splat(0);
    for (int j = 0; j < padded; j += LANES) {
        f32x16 p = exp16(load(scores + j) - shift);
        sum += p;
        store(scores + j, p);
    }
    return lane_sum(sum);
}

static void score_group(const float *q, int group, const void *keys, int dtype, size_t block, int head_dim, f32x16 *out) {
    for (; group >= 4; group -= 4, q += 4 * head_dim, out += 4) score_block(q, keys, dtype, block, head_dim, out, 4);
    for (; group >= 2; group -= 2, q += 2 * head_dim, out += 2) score_block(q, keys, dtype, block, head_dim, out, 2);
    if (group) score_block(q, keys, dtype, block, head_dim, out, 1);
}

void attend(const float *q, int group, const void *keys, const void *values, int dtype, int head_dim, int start, int prefix,
            const int32_t *path, int num_path, float *scores, int stride, float *out) {
    f32x16 block_scores[MAX_GROUP];
    for (int block = start / LANES; block * LANES < start + prefix; block++) {
        score_group(q, group, keys, dtype, block, head_dim, block_scores);
        for (int g = 0; g < group; g++) store(scores + (size_t)g * stride + LANES + block * LANES - start, block_scores[g]);
    }
    for (int j = 0; j < num_path; j++) { /* whole blocks again, so that a key's score has the same bits on either way */
        score_group(q, group, keys, dtype, path[j] / LANES, head_dim, block_scores);
        for (int g = 0; g < group; g++)
            scores[(size_t)g * stride + LANES + prefix + j] = ((float *)&block_scores[g])[path[j] % LANES];
    }
    for (int g = 0; g < group; g++) {
        float *s = scores + (size_t)g * stride + LANES;
        float scale = 1.0f / exponentiate(s, prefix + num_path);
        float *dst = out + (size_t)g * head_dim;
        switch (head_dim) {
        case 16: mix_values(s, values, dtype, start, prefix, path, num_path, head_dim, dst, scale, 1); break;
        case 32: mix_values(s, values, dtype, start, prefix, path, num_path, head_dim, dst, scale, 2); break;
        case 64: mix_values(s, values, dtype, start, prefix, path, num_path, head_dim, dst, scale, 4); break;
        case 128: mix_values(s, values, dtype, start, prefix, path, num_path, head_dim, dst, scale, 8); break;
        default: mix_values(s, values, dtype, start, prefix, path, num_path, head_dim, dst, scale, head_dim / LANES);
        }
    }
}
