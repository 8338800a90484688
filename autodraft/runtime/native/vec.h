/* Sixteen floats at a time, in portable vector extensions; intrinsics only where the compiler cannot find them.
 * Every function here treats its lanes alike and independently, so results do not depend on what stands beside. */
#ifndef AUTODRAFT_VEC_H
#define AUTODRAFT_VEC_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef int8_t i8x32 __attribute__((vector_size(32)));

INLINE f32x16 splat(float x) { return (f32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE i32x16 splat_i32(int32_t x) { return (i32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE i32x16 load_i32(const void *p) { i32x16 v; memcpy(&v, p, sizeof v); return v; }
INLINE f32x16 load(const float *p) { f32x16 v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, f32x16 v) { memcpy(p, &v, sizeof v); }

INLINE float bf16_to_float(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
INLINE uint16_t float_to_bf16(float x) { /* round to nearest even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
INLINE f32x16 load_bf16(const uint16_t *p) {
#ifdef __AVX512F__
    return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
    u16x16 h;
    memcpy(&h, p, sizeof h);
    return (f32x16)(__builtin_convertvector(h, u32x16) << 16);
#endif
}
INLINE f32x16 f16_to_float(u16x16 h) { /* of finite numbers */
#ifdef __AVX512F__
    return (f32x16)_mm512_cvtph_ps((__m256i)h);
#else
    u32x16 bits = __builtin_convertvector(h, u32x16);
    f32x16 size = (f32x16)((bits & 0x7fffu) << 13) * splat(0x1p112f); /* exponents are 112 apart */
    return (f32x16)((u32x16)size | (bits & 0x8000u) << 16);
#endif
}
INLINE f32x16 load_f16(const uint16_t *p) {
    u16x16 h;
    memcpy(&h, p, sizeof h);
    return f16_to_float(h);
}
INLINE u16x32 load_extended(const int8_t *p) {
    i8x32 bytes;
    memcpy(&bytes, p, sizeof bytes);
    return (u16x32)__builtin_convertvector(bytes, i16x32);
}
/* The float16 bits of the upper bytes of autodraft/runtime/byte_planes.py; the lower ones are added to them as integers. */
INLINE u16x32 load_upper(const int8_t *p) { return load_extended(p) << 7 & 0xbf80; }
INLINE void split_f16(u16x32 bits, f32x16 to[2]) {
    u16x16 halves[2];
    memcpy(halves, &bits, sizeof halves);
    to[0] = f16_to_float(halves[0]), to[1] = f16_to_float(halves[1]);
}
INLINE void store_bf16(uint16_t *p, f32x16 v) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v)); /* subnormal numbers become 0 */
#else
    u32x16 bits = (u32x16)v;
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
#ifdef __AVX512F__
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)bits));
#else
    u16x16 h = __builtin_convertvector(bits, u16x16);
    memcpy(p, &h, sizeof h);
#endif
#endif
}

INLINE f32x16 select16(i32x16 mask, f32x16 a, f32x16 b) { return (f32x16)((mask & (i32x16)a) | (~mask & (i32x16)b)); }
INLINE f32x16 max16(f32x16 a, f32x16 b) { /* b where they do not compare */
#ifdef __AVX512F__
    return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return select16(a > b, a, b);
#endif
}

INLINE f32x16 first_lanes(f32x16 v, int n, float others) { /* `others` behind the first n lanes */
    return select16((i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} < splat_i32(n), v, splat(others));
}

INLINE int any16(i32x16 mask) {
#ifdef __AVX512F__
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
    int any = 0;
    for (int i = 0; i < LANES; i++) any |= mask[i];
    return any;
#endif
}

/* Sum and maximum over lanes, in a fixed order. */
INLINE float lane_sum(f32x16 v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
#endif
}
INLINE float lane_max(f32x16 v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)v);
#else
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
    return m;
#endif
}

INLINE f32x16 round16(f32x16 x) { /* to whole numbers, of at most 2^22 */
#ifdef __AVX512F__
    return (f32x16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return x + splat(12582912.0f) - splat(12582912.0f);
#endif
}

/* 2^(whole + f) for f between -1/2 and 1/2, to about 2 ulp (degree 5, in few steps that wait for each other). */
INLINE f32x16 power_of_two(f32x16 whole, f32x16 f) {
    f32x16 squared = f * f;
    f32x16 low = splat(0.240222424f) * f + splat(0.693147004f), high = splat(0.00967151299f) * f + splat(0.0555073358f);
    f32x16 p = ((splat(0.00132647203f) * squared + high) * squared + low) * f + splat(1.0f);
#ifdef __AVX512F__
    return (f32x16)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    whole = max16(splat(-127.0f), whole); /* 2^-127 is 0 here, and 2^128 infinite */
    whole = select16(whole > splat(128.0f), splat(128.0f), whole);
    return p * (f32x16)((__builtin_convertvector(whole, i32x16) + 127) << 23);
#endif
}

INLINE f32x16 exp2_16(f32x16 x) { /* exp2_16(-inf) = 0 */
    x = max16(splat(-152.0f), x);
    f32x16 whole = round16(x);
    return power_of_two(whole, x - whole);
}

INLINE f32x16 exp16(f32x16 x) { /* exp16(-inf) = 0 */
    x = max16(splat(-105.0f), x);
    f32x16 whole = round16(x * splat(1.44269504f));
    f32x16 r = x - whole * splat(0.693359375f) + whole * splat(2.12194440e-4f); /* Cody and Waite: the first product is exact */
    return power_of_two(whole, r * splat(1.44269504f));
}

#endif
