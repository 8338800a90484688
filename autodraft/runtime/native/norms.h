#ifndef AUTODRAFT_NORMS_H
#define AUTODRAFT_NORMS_H
/* RMSNorm and LayerNorm of one vector. */
#include "engine.h"
#include "vec.h"

/* Of n numbers by the sums of their squares. */
INLINE float inverse_root(const Model *m, f32v squares, int n) { return 1.0f / sqrtf(lane_sum(squares) / n + m->norm_eps); }

/* Mean, of LayerNorm alone, and inverse deviation; as a call it makes verifying 16 rows of a small model a fifth slower. */
INLINE f32v moments(const Model *m, const float *x, int n, float *mean) {
    f32v sum = splat(0), squares = splat(0);
    for (int i = 0; i < n; i += WIDTH) {
        f32v v = load(x + i);
        sum += v;
        squares += v * v;
    }
    *mean = 0;
    if (m->layer_norm) { /* second pass over the centred values, as precise as PyTorch's */
        *mean = lane_sum(sum) / n;
        squares = splat(0);
        for (int i = 0; i < n; i += WIDTH) {
            f32v v = load(x + i) - splat(*mean);
            squares += v * v;
        }
    }
    return splat(inverse_root(m, squares, n));
}

static void norm_row(const Model *m, const float *x, const float *weight, const float *bias, int n, float *y) {
    float mean;
    f32v inverse = moments(m, x, n, &mean);
    for (int i = 0; i < n; i += WIDTH) {
        f32v v = (load(x + i) - splat(mean)) * inverse * load(weight + i);
        store(y + i, bias ? v + load(bias + i) : v);
    }
}

#endif
