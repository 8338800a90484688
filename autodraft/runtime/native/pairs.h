/* Products of pairs of 16-bit weights with the inputs of up to as many rows as registers hold sums of. */
#ifndef AUTODRAFT_PAIRS_H
#define AUTODRAFT_PAIRS_H
#include "vec.h"

#define MOST_VECTORS (4 * PARTS) /* of outputs that are summed up at once */

/* Activations beside 16-bit weights are rounded to 16 bits. Without instructions for products of such pairs they are
 * kept as floats, which multiply-adds broadcast from memory: rounding them again for every panel took most of the time. */
#ifdef __AVX512BF16__
typedef uint16_t pair_operand;
INLINE pair_operand to_operand(float x) { return float_to_bf16(x); }
INLINE void store_operands(pair_operand *p, f32v v) { store_bf16(p, v); }
#else
typedef float pair_operand;
INLINE pair_operand to_operand(float x) { return bf16_to_float(float_to_bf16(x)); }
INLINE void store_operands(pair_operand *p, f32v v) {
    u32v bits = (u32v)v;
    store(p, (f32v)((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u));
}
#endif

/* acc[row][vector] += the products of two inputs of each row with the pairs of weights wv[vector], one after the other. */
INLINE void add_pairs(f32v acc[][MOST_VECTORS], const u32v *wv, const pair_operand *x, int stride, const int ROWS, const int VECTORS) {
#ifdef __AVX512BF16__
    UNROLL for (int r = 0; r < ROWS; r++) {
        int32_t pair;
        memcpy(&pair, x + (size_t)r * stride, 4);
        __m512bh xv = (__m512bh)_mm512_set1_epi32(pair);
        UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = (f32v)_mm512_dpbf16_ps((__m512)acc[r][v], (__m512bh)wv[v], xv);
    }
#else
    f32v even[MOST_VECTORS], odd[MOST_VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) {
        even[v] = (f32v)(wv[v] << 16), odd[v] = (f32v)(wv[v] & 0xffff0000u);
        UNROLL for (int r = 0; r < ROWS && ROWS <= 2; r++) { /* now: there are not registers enough for all vectors */
            acc[r][v] += splat(x[(size_t)r * stride]) * even[v];
            acc[r][v] += splat(x[(size_t)r * stride + 1]) * odd[v];
        }
    }
    UNROLL for (int r = 0; r < ROWS && ROWS > 2; r++) {
        f32v first = splat(x[(size_t)r * stride]), second = splat(x[(size_t)r * stride + 1]);
        UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] += first * even[v];
        UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] += second * odd[v];
    }
#endif
}

INLINE u32v load_pairs(const void *p) {
    u32v pairs;
    memcpy(&pairs, p, sizeof pairs);
    return pairs;
}

#endif
