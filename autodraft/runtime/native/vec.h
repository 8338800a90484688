/* As many floats at a time as the processor has lanes, in portable vector extensions; intrinsics only where the compiler
 * cannot find them. Vectors wider than the processor's would go through memory: compilers split them badly.
 * Every function here treats its lanes alike and independently, so results do not depend on what stands beside. */
#ifndef AUTODRAFT_VEC_H
#define AUTODRAFT_VEC_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 16 /* outputs of a panel of weights, slots of a block of keys: in memory, on every processor */
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define PARTS (LANES / WIDTH) /* vectors of a panel */
#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))
#define LOOKS_UP /* bytes in tables, and widens whole vectors of them */
#endif
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
typedef float f32v __attribute__((vector_size(4 * WIDTH)));
typedef int32_t i32v __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t u32v __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t u16v __attribute__((vector_size(2 * WIDTH)));
typedef uint16_t u16v2 __attribute__((vector_size(4 * WIDTH))); /* for two vectors of floats */
typedef int16_t i16v2 __attribute__((vector_size(4 * WIDTH)));
typedef int8_t i8v2 __attribute__((vector_size(2 * WIDTH)));

INLINE f32v splat(float x) { return x - (f32v){0}; } /* in one instruction; x + 0 would turn -0 into 0 */
INLINE i32v splat_i32(int32_t x) { return x + (i32v){0}; }
INLINE i32v load_i32(const void *p) { i32v v; memcpy(&v, p, sizeof v); return v; }
INLINE f32v load(const float *p) { f32v v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, f32v v) { memcpy(p, &v, sizeof v); }

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
INLINE f32v load_bf16(const uint16_t *p) {
#ifdef __AVX512F__
    return (f32v)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
    u16v h;
    memcpy(&h, p, sizeof h);
    return (f32v)(__builtin_convertvector(h, u32v) << 16);
#endif
}
INLINE f32v f16_to_float(u16v h) { /* of finite numbers */
#if defined(__AVX512F__)
    return (f32v)_mm512_cvtph_ps((__m256i)h);
#elif defined(__AVX2__) && defined(__F16C__)
    return (f32v)_mm256_cvtph_ps((__m128i)h);
#else
    u32v bits = __builtin_convertvector(h, u32v);
    f32v size = (f32v)((bits & 0x7fffu) << 13) * splat(0x1p112f); /* exponents are 112 apart */
    return (f32v)((u32v)size | (bits & 0x8000u) << 16);
#endif
}
INLINE f32v load_f16(const uint16_t *p) {
    u16v h;
    memcpy(&h, p, sizeof h);
    return f16_to_float(h);
}
INLINE u16v2 load_extended(const int8_t *p) {
#if defined(LOOKS_UP) && WIDTH == 16
    return (u16v2)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
#elif defined(LOOKS_UP)
    return (u16v2)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
#else
    i8v2 bytes;
    memcpy(&bytes, p, sizeof bytes);
    return (u16v2)__builtin_convertvector(bytes, i16v2);
#endif
}
/* Bytes, and tables of 16 of them; looking up and interleaving go by 16 bytes at a time, as instructions do. */
#ifdef LOOKS_UP
typedef uint8_t u8v4 __attribute__((vector_size(4 * WIDTH)));
INLINE u8v4 load_bytes(const void *p) { u8v4 v; memcpy(&v, p, sizeof v); return v; }
INLINE u8v4 repeated_bytes(const void *p) {
    u8v4 v;
    for (size_t i = 0; i < sizeof v; i += 16) memcpy((char *)&v + i, p, 16);
    return v;
}
#if WIDTH == 16
INLINE u8v4 look_up(u8v4 table, u8v4 places) { return (u8v4)_mm512_shuffle_epi8((__m512i)table, (__m512i)places); }
INLINE u8v4 interleave_lower(u8v4 a, u8v4 b) { return (u8v4)_mm512_unpacklo_epi8((__m512i)a, (__m512i)b); }
INLINE u8v4 interleave_upper(u8v4 a, u8v4 b) { return (u8v4)_mm512_unpackhi_epi8((__m512i)a, (__m512i)b); }
#else
INLINE u8v4 look_up(u8v4 table, u8v4 places) { return (u8v4)_mm256_shuffle_epi8((__m256i)table, (__m256i)places); }
INLINE u8v4 interleave_lower(u8v4 a, u8v4 b) { return (u8v4)_mm256_unpacklo_epi8((__m256i)a, (__m256i)b); }
INLINE u8v4 interleave_upper(u8v4 a, u8v4 b) { return (u8v4)_mm256_unpackhi_epi8((__m256i)a, (__m256i)b); }
#endif
#endif

/* The float16 bits of the upper bytes of autodraft/runtime/byte_planes.py; the lower ones are added to them as integers. */
INLINE u16v2 load_upper(const int8_t *p) { return load_extended(p) << 7 & 0xbf80; }
INLINE void split_f16(u16v2 bits, f32v to[2]) {
    u16v halves[2];
    memcpy(halves, &bits, sizeof halves);
    to[0] = f16_to_float(halves[0]), to[1] = f16_to_float(halves[1]);
}
INLINE void store_bf16(uint16_t *p, f32v v) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v)); /* subnormal numbers become 0 */
#else
    u32v bits = (u32v)v;
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
#ifdef __AVX512F__
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)bits));
#else
    u16v h = __builtin_convertvector(bits, u16v);
    memcpy(p, &h, sizeof h);
#endif
#endif
}

/* In 16 bits to p[0], p[2], p[4]... and nowhere else; `second`: p is the second place of a pair that begins a line. */
INLINE void store_alternate(uint16_t *p, f32v v, int second) {
    uint16_t half[WIDTH];
    store_bf16(half, v);
#ifdef __AVX512BW__
    __m512i pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)half));
    if (second) _mm512_mask_storeu_epi16(p - 1, 0xaaaaaaaau, _mm512_slli_epi32(pairs, 16));
    else _mm512_mask_storeu_epi16(p, 0x55555555u, pairs);
#else
    (void)second;
    for (int i = 0; i < WIDTH; i++) p[2 * i] = half[i];
#endif
}

INLINE f32v select_each(i32v mask, f32v a, f32v b) { return (f32v)((mask & (i32v)a) | (~mask & (i32v)b)); }
INLINE f32v max_each(f32v a, f32v b) { /* b where they do not compare */
#if defined(__AVX512F__)
    return (f32v)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (f32v)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return select_each(a > b, a, b);
#endif
}

INLINE f32v first_lanes(f32v v, int n, float others) { /* `others` behind the first n lanes */
    i32v lanes;
    for (int i = 0; i < WIDTH; i++) lanes[i] = i;
    return select_each(lanes < splat_i32(n), v, splat(others));
}

INLINE int any_lane(i32v mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    int any = 0;
    for (int i = 0; i < WIDTH; i++) any |= mask[i];
    return any;
#endif
}

/* Sum and maximum over lanes, in a fixed order. */
INLINE float lane_sum(f32v v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s = 0;
    for (int i = 0; i < WIDTH; i++) s += v[i];
    return s;
#endif
}
INLINE float lane_max(f32v v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)v);
#else
    float m = v[0];
    for (int i = 1; i < WIDTH; i++) m = v[i] > m ? v[i] : m;
    return m;
#endif
}

/* The last bit of numbers of its size counts as 1: added to a small number it rounds it to a whole one, whose bits are the last
 * ones of the sum. Instructions that round, or scale by powers of two, go through one port of several on some processors. */
#define ROUNDING 12582912.0f

/* 2^(whole + fraction) where that is neither subnormal nor infinite; `rounded` is whole + ROUNDING, and the fraction lies between
 * -1/2 and 1/2. To about 2 ulp: degree 5, in few steps that wait for each other. */
INLINE f32v power_of_two(f32v rounded, f32v fraction) {
    f32v squared = fraction * fraction;
    f32v low = splat(0.240222424f) * fraction + splat(0.693147004f), high = splat(0.00967151299f) * fraction + splat(0.0555073358f);
    f32v p = ((splat(0.00132647203f) * squared + high) * squared + low) * fraction + splat(1.0f);
    return (f32v)((i32v)p + ((i32v)rounded << 23));
}

/* v, and 0 where x is below `least`. */
INLINE f32v zero_below(f32v x, float least, f32v v) {
#ifdef __AVX512F__
    return (f32v)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(least), _CMP_GE_OQ), (__m512)v);
#else
    return (f32v)((x >= splat(least)) & (i32v)v);
#endif
}

/* 2^x of numbers that are at most 0; 0 below 2^-125, for some processors take ten times as long over subnormal numbers. */
INLINE f32v exp2_each(f32v x) {
    f32v rounded = x + splat(ROUNDING);
    return zero_below(x, -125.0f, power_of_two(rounded, x - (rounded - splat(ROUNDING))));
}

/* e^x, and e^88 where it is more; 0 below e^-86. */
INLINE f32v exp_each(f32v x) {
    x = -max_each(splat(-88.0f), -x);
    f32v rounded = x * splat(1.44269504f) + splat(ROUNDING), whole = rounded - splat(ROUNDING);
    f32v r = x - whole * splat(0.693359375f) + whole * splat(2.12194440e-4f); /* Cody and Waite: the first product is exact */
    return zero_below(x, -86.0f, power_of_two(rounded, r * splat(1.44269504f)));
}

/* cap * tanh(v / cap) */
INLINE f32v cap_each(f32v v, float cap) {
    return splat(cap) - splat(2 * cap) / (exp_each(v * splat(2 / cap)) + splat(1.0f));
}

#endif
