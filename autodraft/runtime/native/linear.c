/* Packed matrix products for a handful of rows. Knows nothing of transformers.
 *
 * Each output element is one chain of multiply-adds over the inputs in ascending order, whatever the
 * number of rows in the call and however they are blocked: a row's result is bitwise independent of the
 * others. This is what makes verification reproduce autoregressive decoding exactly. */
#include "linear.h"

#include "coded_rows.h"
#include "next.h"
#include "pairs.h"
#include "tiles.h"

#if WIDTH == 16
#define MAX_ROWS 14 /* two panels of sums, their weights and an input in 32 registers */
#define MAX_ROWS_INT4 8
#define MAX_ROWS_BYTES 8
#define MAX_ROWS_CODED 12
#else
#define MAX_ROWS 5 /* one panel of sums, the same in 16 registers of half the width */
#define MAX_ROWS_INT4 4
#define MAX_ROWS_BYTES 4
#define MAX_ROWS_CODED 2
#endif
/* Without one instruction for products of four bytes, two of which must not exceed 16 bits on their way. */
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(__AVXVNNI__)
#define BY_PAIRS 1
#else
#define BY_PAIRS 0
#endif
#define CACHED_PANELS 4
#define PAGE 4096

/* ---------------------------------------------------------------- activations */

static void quantize_row(const float *x, int k, int k_padded, int with_groups, int8_t *q, float *scale, int32_t *corrections) {
    float highest = 0;
    f32v highest_each = splat(0);
    int i = 0;
    for (; i + WIDTH <= k; i += WIDTH) {
        f32v v = load(x + i);
        highest_each = max_each(highest_each, max_each(v, -v));
    }
    highest = lane_max(highest_each);
    for (; i < k; i++) highest = fabsf(x[i]) > highest ? fabsf(x[i]) : highest;
    float inverse = highest > 0 ? 127.0f / highest : 0.0f;
    *scale = highest / 127.0f;
    for (i = 0; i < k; i++) q[i] = (int8_t)(int32_t)(x[i] * inverse + (x[i] >= 0 ? 0.5f : -0.5f));
    for (; i < k_padded; i++) q[i] = 0;
    if (with_groups)
        for (int g = 0; g < k_padded / 32; g++) {
            int32_t sum = 0;
            for (i = 0; i < 32; i++) sum += q[g * 32 + i];
            corrections[g] = -8 * sum;
        }
}

int prepares_columns(const Linear *w) { return w->kind != KIND_INT8 && w->kind != KIND_INT4; }

void prepare_columns(const Linear *w, const float *x, int rows, int row, int end, int stride, int first, int last, Activations *a) {
    int kp = w->k_padded, behind = last == w->k ? kp : last;
    a->stride = kp;
    if (coded_rows_serve(w->kind, rows)) {
        prepare_coded_rows(x, kp, rows, row, end, stride, first, last, behind, (float *)a->data);
        return;
    }
    for (int r = row; r < end; r++) {
        const float *src = x + (size_t)r * stride;
        if (w->kind == KIND_BF16 || w->kind == KIND_CODED) {
            pair_operand *dst = (pair_operand *)a->data + (size_t)r * kp;
            int i = first;
            for (; i + WIDTH <= last; i += WIDTH) store_operands(dst + i, load(src + i));
            for (; i < last; i++) dst[i] = to_operand(src[i]);
            for (; i < behind; i++) dst[i] = 0;
        } else {
            float *dst = (float *)a->data + (size_t)r * kp;
            memcpy(dst + first, src + first, sizeof(float) * (last - first));
            memset(dst + last, 0, sizeof(float) * (behind - last));
        }
    }
}

void prepare(const Linear *w, const float *x, int rows, int stride, Activations *a) {
    int k = w->k, kp = w->k_padded;
    if (prepares_columns(w)) {
        prepare_columns(w, x, rows, 0, rows, stride, 0, k, a);
        return;
    }
    a->stride = kp;
    for (int r = 0; r < rows; r++) {
        quantize_row(x + (size_t)r * stride, k, kp, w->kind == KIND_INT4, (int8_t *)a->data + (size_t)r * kp, a->scales + r,
                     a->corrections + (size_t)r * (kp / 32));
        if (w->kind == KIND_INT8 && !BY_PAIRS) { /* the kernel wants unsigned activations; `sum` takes the 128 back */
            uint8_t *dst = (uint8_t *)a->data + (size_t)r * kp;
            for (int i = 0; i < kp; i++) dst[i] ^= 0x80;
        }
    }
}

/* ---------------------------------------------------------------- kernels: ROWS rows, PANELS panels of 16 outputs */

/* Fetches what is at a distance from the weights at `line`. A processor does so by itself, which is best for one or two
 * rows of wide vectors; but not across pages, nor far enough ahead of more instructions: then it is the same place in the
 * next panels, if more follow. Single rows of 4 bits, which are unpacked for so little, read one panel at a time, straight on. */
#define FETCHES(ROWS) ((ROWS) > 2 || WIDTH < 16)
INLINE const char *fetching(const void *line, size_t distance, const int wanted) {
    if (wanted) __builtin_prefetch((const char *)line + distance);
    return (const char *)line;
}

/* What is fetched while some panels are multiplied: as many panels, `ahead` of them (0: none), or `only_one`, then along with
 * each of them, which costs nothing more. `left`: panels of the thread, these included; what is `next` comes behind them. */
typedef struct {
    int ahead, only_one, left;
    const Next *next;
} Fetch;

/* Bytes from panel number `p` of those that are multiplied to what is fetched with it. */
INLINE size_t ahead(Fetch fetch, int p, size_t panel_bytes) {
    return fetch.ahead ? (size_t)(fetch.only_one ? fetch.ahead - p : fetch.ahead) * panel_bytes : 0;
}

/* The same for panels that are read one at a time, straight on: what is next as if it followed them. */
INLINE size_t straight_ahead(Fetch fetch, const void *panel, size_t panel_bytes) {
    size_t left = fetch.left * panel_bytes;
    if (left > PAGE || !fetch.next) return PAGE;
    return PAGE - left + (size_t)(panel_start(fetch.next) - (const char *)panel);
}

INLINE void finish_all(const Linear *w, int panel, f32v acc[][MOST_VECTORS], float *y, int row, int stride, int add, const int ROWS,
                       const int VECTORS) {
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++) finish(w, panel * PARTS + v, acc[r][v], y + (size_t)(row + r) * stride, add);
}

/* Weights of 32 bits, or of 16 that are the same numbers: the arithmetic is the same, and so is every bit of the result. */
INLINE void kernel_float(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride, int add,
                         const int ROWS, const int PANELS, const int HALF) {
    const int k = w->k, size = HALF ? sizeof(uint16_t) : sizeof(float), VECTORS = PANELS * PARTS;
    const float *x = (const float *)a->data + (size_t)row * a->stride;
    const char *wp = (const char *)w->weight + (size_t)panel * k * LANES * size;
    const size_t panel_bytes = (size_t)k * LANES * size;
    f32v acc[MAX_ROWS][MOST_VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = splat(0);
    for (int i = 0; i < k; i++) {
        f32v wv[MOST_VECTORS];
        UNROLL for (int p = 0; p < PANELS; p++) {
            const char *line = fetching(wp + ((size_t)p * k + i) * LANES * size, ahead(fetch, p, panel_bytes), FETCHES(ROWS));
            UNROLL for (int part = 0; part < PARTS; part++) {
                const char *from = line + part * WIDTH * size;
                wv[p * PARTS + part] = HALF ? load_f16((const uint16_t *)from) : load((const float *)from);
            }
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            f32v xv = splat(x[(size_t)r * a->stride + i]);
            UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] += xv * wv[v];
        }
    }
    finish_all(w, panel, acc, y, row, stride, add, ROWS, VECTORS);
}

INLINE void kernel_f32(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride, int add,
                       const int ROWS, const int PANELS) {
    kernel_float(w, panel, fetch, a, row, y, stride, add, ROWS, PANELS, 0);
}

INLINE void kernel_f16(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride, int add,
                       const int ROWS, const int PANELS) {
    kernel_float(w, panel, fetch, a, row, y, stride, add, ROWS, PANELS, 1);
}

/* The same sums with float16 weights in two planes, or with the upper one alone; two inputs at once, for putting bytes
 * together takes longer than multiplying. */
INLINE void kernel_bytes(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride, int add,
                         const int ROWS, const int PANELS, const int BOTH) {
    const int k = w->k_padded, VECTORS = PANELS * PARTS;
    const float *x = (const float *)a->data + (size_t)row * a->stride;
    const size_t panel_bytes = (size_t)k * LANES, first = panel * panel_bytes;
    const int8_t *upper = (const int8_t *)w->weight + first, *lower = BOTH ? (const int8_t *)w->lower + first : upper;
    f32v acc[MAX_ROWS_BYTES][MOST_VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = splat(0);
    for (int i = 0; i < k; i += 2) {
        f32v wv[4][2 * PARTS]; /* of both inputs, as they lie */
        UNROLL for (int p = 0; p < PANELS; p++) UNROLL for (int part = 0; part < PARTS; part++) {
            size_t at = ((size_t)p * k + i) * LANES + part * 2 * WIDTH;
            u16v2 bits = load_upper((const int8_t *)fetching(upper + at, ahead(fetch, p, panel_bytes), FETCHES(ROWS)));
            if (BOTH) bits += load_extended((const int8_t *)fetching(lower + at, ahead(fetch, p, panel_bytes), FETCHES(ROWS)));
            split_f16(bits, wv[p] + 2 * part);
        }
        UNROLL for (int j = 0; j < 2; j++) UNROLL for (int r = 0; r < ROWS; r++) {
            f32v xv = splat(x[(size_t)r * a->stride + i + j]);
            UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] += xv * wv[v / PARTS][j * PARTS + v % PARTS];
        }
    }
    finish_all(w, panel, acc, y, row, stride, add, ROWS, VECTORS);
}

INLINE void kernel_planes(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride, int add,
                          const int ROWS, const int PANELS) {
    kernel_bytes(w, panel, fetch, a, row, y, stride, add, ROWS, PANELS, 1);
}

INLINE void kernel_upper(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride, int add,
                         const int ROWS, const int PANELS) {
    kernel_bytes(w, panel, fetch, a, row, y, stride, add, ROWS, PANELS, 0);
}

INLINE void kernel_bf16(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride,
                        int add, const int ROWS, const int PANELS) {
    const int pairs = w->k_padded / 2, VECTORS = PANELS * PARTS;
    const pair_operand *x = (const pair_operand *)a->data + (size_t)row * a->stride;
    const uint16_t *wp = (const uint16_t *)w->weight + (size_t)panel * pairs * 32;
    const size_t panel_bytes = sizeof(uint16_t) * pairs * 32;
    size_t distance[MOST_VECTORS]; /* compilers would ask in every round how far ahead */
    UNROLL for (int p = 0; p < PANELS; p++) distance[p] = ahead(fetch, p, panel_bytes);
    f32v acc[MAX_ROWS][MOST_VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = splat(0);
    for (int i = 0; i < pairs; i++) {
        u32v wv[MOST_VECTORS];
        UNROLL for (int p = 0; p < PANELS; p++) {
            const char *line = fetching(wp + ((size_t)p * pairs + i) * 32, distance[p], FETCHES(ROWS));
            UNROLL for (int part = 0; part < PARTS; part++) wv[p * PARTS + part] = load_pairs(line + part * sizeof(u32v));
        }
        add_pairs(acc, wv, x + 2 * i, a->stride, ROWS, VECTORS);
    }
    finish_all(w, panel, acc, y, row, stride, add, ROWS, VECTORS);
}

#ifdef LOOKS_UP
/* At group `g` of streams beside each other: what they fetch from there on is no longer their own, but as many streams on, or
 * what is multiplied next. */
INLINE void turn_fetches(const Linear *w, Fetch fetch, int g, const char *fetched[], const int STREAMS) {
    if (!fetch.ahead && !fetch.next) return;
    UNROLL for (int s = 0; s < STREAMS; s++)
        fetched[s] = fetch.ahead ? fetched[s] + (STREAMS - 1) * STREAM_BYTES(w)
                                 : panel_start(fetch.next) + s * STREAM_BYTES(fetch.next->linear) - (size_t)g * GROUPS_BYTES;
}

/* The sums of kernel_bf16, to the bit. Streams beside each other are fetched until they end, one alone straight on. */
INLINE void kernel_coded(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride,
                         int add, const int ROWS, const int PANELS) {
    const int groups = w->k_padded / CODED_INPUTS, VECTORS = PANELS * PARTS, STREAMS = (PANELS + 1) / 2, TURNS = STREAMS > 1;
    const pair_operand *x = (const pair_operand *)a->data + (size_t)row * a->stride;
    const u8v4 uppers = repeated_bytes(w->scale);
    Plain plains[MOST_VECTORS];
    const char *streams[MOST_VECTORS], *fetched[MOST_VECTORS];
    f32v acc[MAX_ROWS][MOST_VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = splat(0);
    UNROLL for (int p = 0; p < PANELS; p++) plains[p] = first_plain(w, panel + p);
    UNROLL for (int s = 0; s < STREAMS; s++) {
        streams[s] = coded_panel(w, panel + 2 * s);
        fetched[s] = streams[s] + (TURNS ? TURNING_AHEAD : STRAIGHT_AHEAD) * GROUPS_BYTES;
    }
    int turn = !TURNS ? INT32_MAX : groups > TURNING_AHEAD ? groups - TURNING_AHEAD : 0;
    for (int g = 0;;) { /* between stops nothing has to be asked */
        if (g == turn) turn_fetches(w, fetch, g, fetched, STREAMS), turn = INT32_MAX;
        int stop = turn < groups ? turn : groups;
        UNROLL for (int p = 0; p < PANELS; p++) stop = *plains[p].stop < stop ? *plains[p].stop : stop;
        for (; g < stop; g++) add_group(streams, fetched, plains, g, x, a->stride, uppers, acc, 0, ROWS, PANELS);
        if (g == groups) break;
        if (g < turn) add_group(streams, fetched, plains, g++, x, a->stride, uppers, acc, 1, ROWS, PANELS);
    }
    finish_all(w, panel, acc, y, row, stride, add, ROWS, VECTORS);
}

/* The same by another name, for loops of other widths. */
INLINE void kernel_cached(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride,
                          int add, const int ROWS, const int PANELS) {
    kernel_coded(w, panel, fetch, a, row, y, stride, add, ROWS, PANELS);
}
#endif

/* acc += unsigned bytes * signed bytes, four at a time in each lane; of unsigned bytes up to 127, where BY_PAIRS. */
INLINE i32v dot4(i32v acc, i32v unsigned4, i32v signed4) {
#if defined(__AVX512VNNI__)
    return (i32v)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)unsigned4, (__m512i)signed4);
#elif WIDTH == 8 && defined(__AVXVNNI__)
    return (i32v)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)unsigned4, (__m256i)signed4);
#elif BY_PAIRS
    __m256i pairs = _mm256_maddubs_epi16((__m256i)unsigned4, (__m256i)signed4);
    return acc + (i32v)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    for (int byte = 0; byte < 4; byte++) {
        i32v u = (unsigned4 >> (8 * byte)) & 0xff;
        i32v s = (signed4 << (24 - 8 * byte)) >> 24;
        acc += u * s;
    }
    return acc;
#endif
}

/* acc += inputs * weights of 8 bits; inputs as `prepare` left them. */
INLINE i32v dot_int8(i32v acc, i32v inputs, i32v weights) {
#if BY_PAIRS
    return dot4(acc, (i32v)_mm256_abs_epi8((__m256i)weights), (i32v)_mm256_sign_epi8((__m256i)inputs, (__m256i)weights));
#else
    return dot4(acc, inputs, weights);
#endif
}

INLINE void kernel_int8(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride,
                        int add, const int ROWS, const int PANELS) {
    const int quads = w->k_padded / 4, VECTORS = PANELS * PARTS;
    const uint8_t *x = (const uint8_t *)a->data + (size_t)row * a->stride;
    const int8_t *wp = (const int8_t *)w->weight + (size_t)panel * quads * 64;
    const size_t panel_bytes = (size_t)quads * 64;
    i32v acc[MAX_ROWS][MOST_VECTORS];
    f32v scaled[MAX_ROWS][MOST_VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = splat_i32(0);
    for (int i = 0; i < quads; i++) {
        i32v wv[MOST_VECTORS];
        UNROLL for (int p = 0; p < PANELS; p++) {
            const char *line = fetching(wp + ((size_t)p * quads + i) * 64, ahead(fetch, p, panel_bytes), FETCHES(ROWS));
            UNROLL for (int part = 0; part < PARTS; part++) wv[p * PARTS + part] = load_i32(line + part * sizeof(i32v));
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            int32_t quad;
            memcpy(&quad, x + (size_t)r * a->stride + 4 * i, 4);
            i32v xv = splat_i32(quad);
            UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = dot_int8(acc[r][v], xv, wv[v]);
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) {
        int first = (panel * PARTS + v) * WIDTH;
        i32v sum = BY_PAIRS ? acc[r][v] : acc[r][v] - load_i32(w->sum + first);
        scaled[r][v] = __builtin_convertvector(sum, f32v) * load((const float *)w->scale + first) * splat(a->scales[row + r]);
    }
    finish_all(w, panel, scaled, y, row, stride, add, ROWS, VECTORS);
}

/* The high nibbles of a single row stay where they are, sixteen times their value, in a sum of their own. */
INLINE void kernel_int4(const Linear *w, int panel, Fetch fetch, const Activations *a, int row, float *y, int stride,
                        int add, const int ROWS, const int PANELS) {
    const int groups = w->k_padded / 32, VECTORS = PANELS * PARTS;
    const int8_t *x = (const int8_t *)a->data + (size_t)row * a->stride;
    const uint8_t *wp = (const uint8_t *)w->weight + (size_t)panel * groups * 256;
    const size_t panel_bytes = (size_t)groups * 256, straight = straight_ahead(fetch, wp, panel_bytes);
    const int apart = ROWS == 1 && !BY_PAIRS;
    f32v total[MAX_ROWS_INT4][MOST_VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) total[r][v] = splat(0);
    for (int g = 0; g < groups; g++) {
        i32v acc[MAX_ROWS_INT4][MOST_VECTORS], sixteenfold[MOST_VECTORS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            i32v start = splat_i32(a->corrections[(size_t)(row + r) * groups + g]);
            UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = start;
        }
        UNROLL for (int v = 0; v < VECTORS; v++) sixteenfold[v] = splat_i32(0);
        UNROLL for (int i = 0; i < 4; i++) {
            i32v low[MOST_VECTORS], high[MOST_VECTORS];
            UNROLL for (int p = 0; p < PANELS; p++) {
                const char *line = fetching(wp + (((size_t)p * groups + g) * 4 + i) * 64,
                                            ROWS == 1 ? straight : ahead(fetch, p, panel_bytes), ROWS == 1 || FETCHES(ROWS));
                UNROLL for (int part = 0; part < PARTS; part++) {
                    i32v both = load_i32(line + part * sizeof(i32v));
                    low[p * PARTS + part] = both & 0x0f0f0f0f;
                    high[p * PARTS + part] = apart ? both & ~0x0f0f0f0f : (both >> 4) & 0x0f0f0f0f;
                }
            }
            UNROLL for (int r = 0; r < ROWS; r++) {
                int32_t first, second;
                memcpy(&first, x + (size_t)r * a->stride + 32 * g + 8 * i, 4);
                memcpy(&second, x + (size_t)r * a->stride + 32 * g + 8 * i + 4, 4);
                UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = dot4(acc[r][v], low[v], splat_i32(first));
                UNROLL for (int v = 0; v < VECTORS; v++) {
                    i32v *sum = apart ? &sixteenfold[v] : &acc[r][v];
                    *sum = dot4(*sum, high[v], splat_i32(second));
                }
            }
        }
        UNROLL for (int v = 0; v < VECTORS; v++) {
            const int p = v / PARTS, part = v % PARTS;
            const uint16_t *scales = (const uint16_t *)w->scale + ((size_t)(panel + p) * groups + g) * LANES;
            f32v scale = load_bf16(scales + part * WIDTH);
            if (apart) acc[0][v] += sixteenfold[v] >> 4;
            UNROLL for (int r = 0; r < ROWS; r++) total[r][v] += __builtin_convertvector(acc[r][v], f32v) * scale;
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) total[r][v] *= splat(a->scales[row + r]);
    finish_all(w, panel, total, y, row, stride, add, ROWS, VECTORS);
}

/* ---------------------------------------------------------------- dispatch */

/* Panels of a product, and those of them that come next: [first, end) of all before `last`, multiplied with one block of the
 * rows after the other where there are several. */
typedef struct {
    int first, end, last, block, blocks;
    const Next *next; /* behind the last one */
} Section;

/* With several blocks the panels are read from memory once and multiplied often. If they were all fetched along with the
 * first block, memory would idle in the others, and the others wait for it: each fetches its share of the next section. */
INLINE Fetch fetch_of(Section s, int panel, int panels) {
    int next = s.blocks == 1 ? panel + panels : s.end + (s.block * CACHED_PANELS + panel - s.first) / s.blocks;
    return (Fetch){next < s.last ? next - panel : 0, s.blocks > 1, s.last - panel, s.next};
}

#define PANEL_LOOP(KERNEL, ROWS, PANELS)                                                                                \
    static __attribute__((noinline)) void KERNEL##_##ROWS(const Linear *w, Section s, const Activations *a, int row,    \
                                                          float *y, int stride, int add) {                              \
        int panel = s.first;                                                                                            \
        if (w->kind == KIND_CODED && PANELS > 1 && panel % 2 && panel < s.end) { /* a pair begins with an even one */   \
            KERNEL(w, panel, fetch_of(s, panel, 1), a, row, y, stride, add, ROWS, 1);                                   \
            panel++;                                                                                                    \
        }                                                                                                               \
        for (; panel + PANELS <= s.end; panel += PANELS)                                                                \
            KERNEL(w, panel, fetch_of(s, panel, PANELS), a, row, y, stride, add, ROWS, PANELS);                         \
        for (; panel < s.end; panel++) KERNEL(w, panel, fetch_of(s, panel, 1), a, row, y, stride, add, ROWS, 1);        \
    }
#if WIDTH == 16
#define SEVERAL 4 /* panels, of two rows */
#define FEW_ROWS(KERNEL, PANELS_OF_ONE, PANELS_OF_TWO)                                                                  \
    PANEL_LOOP(KERNEL, 1, PANELS_OF_ONE) PANEL_LOOP(KERNEL, 2, PANELS_OF_TWO) PANEL_LOOP(KERNEL, 3, 2)                  \
    PANEL_LOOP(KERNEL, 4, 2) PANEL_LOOP(KERNEL, 5, 2) PANEL_LOOP(KERNEL, 6, 2) PANEL_LOOP(KERNEL, 7, 2)                 \
    PANEL_LOOP(KERNEL, 8, 2)
#define MOST_ROWS(KERNEL, PANELS_OF_TWO)                                                                                \
    FEW_ROWS(KERNEL, PANELS_OF_TWO, PANELS_OF_TWO) PANEL_LOOP(KERNEL, 9, 2) PANEL_LOOP(KERNEL, 10, 2)                   \
    PANEL_LOOP(KERNEL, 11, 2) PANEL_LOOP(KERNEL, 12, 2)
#define ALL_ROWS(KERNEL) MOST_ROWS(KERNEL, SEVERAL) PANEL_LOOP(KERNEL, 13, 2) PANEL_LOOP(KERNEL, 14, 2)
#define NAMES_TO_FIVE(KERNEL) 0, KERNEL##_1, KERNEL##_2, KERNEL##_3, KERNEL##_4, KERNEL##_5
#define NAMES_TO_EIGHT(KERNEL) KERNEL##_6, KERNEL##_7, KERNEL##_8
#define NAMES_TO_TWELVE(KERNEL) NAMES_TO_EIGHT(KERNEL), KERNEL##_9, KERNEL##_10, KERNEL##_11, KERNEL##_12
#define NAMES_OF_FEW(KERNEL) NAMES_TO_FIVE(KERNEL), NAMES_TO_EIGHT(KERNEL)
#define NAMES(KERNEL) NAMES_TO_FIVE(KERNEL), NAMES_TO_TWELVE(KERNEL), KERNEL##_13, KERNEL##_14
#define NAMES_OF_CODED(FIRST, KERNEL) NAMES_TO_FIVE(FIRST), NAMES_TO_TWELVE(KERNEL)
#else
#define SEVERAL 2
#define FEW_ROWS(KERNEL, PANELS_OF_ONE, PANELS_OF_TWO)                                                                  \
    PANEL_LOOP(KERNEL, 1, PANELS_OF_ONE) PANEL_LOOP(KERNEL, 2, PANELS_OF_TWO) PANEL_LOOP(KERNEL, 3, 1)                  \
    PANEL_LOOP(KERNEL, 4, 1)
#define MOST_ROWS(KERNEL, PANELS_OF_TWO) PANEL_LOOP(KERNEL, 1, PANELS_OF_TWO) PANEL_LOOP(KERNEL, 2, PANELS_OF_TWO)
#define ALL_ROWS(KERNEL) FEW_ROWS(KERNEL, SEVERAL, SEVERAL) PANEL_LOOP(KERNEL, 5, 1)
#define NAMES_OF_FEW(KERNEL) 0, KERNEL##_1, KERNEL##_2, KERNEL##_3, KERNEL##_4
#define NAMES(KERNEL) NAMES_OF_FEW(KERNEL), KERNEL##_5
#define NAMES_TO_TWO(KERNEL) 0, KERNEL##_1, KERNEL##_2
#define NAMES_OF_CODED(FIRST, KERNEL) NAMES_TO_TWO(FIRST)
#endif
ALL_ROWS(kernel_f32)
ALL_ROWS(kernel_f16)
FEW_ROWS(kernel_planes, 4, SEVERAL)
FEW_ROWS(kernel_upper, 4, SEVERAL)
ALL_ROWS(kernel_bf16)
ALL_ROWS(kernel_int8)
FEW_ROWS(kernel_int4, 1, SEVERAL)
#ifdef LOOKS_UP
/* Two panels are one stream, which memory likes best. */
MOST_ROWS(kernel_coded, 2)
#if WIDTH == 16 /* out of a cache the few sums of few rows would wait for their own last products: more panels have more of them */
PANEL_LOOP(kernel_cached, 1, SEVERAL) PANEL_LOOP(kernel_cached, 2, SEVERAL) PANEL_LOOP(kernel_cached, 3, SEVERAL)
PANEL_LOOP(kernel_cached, 4, SEVERAL) PANEL_LOOP(kernel_cached, 5, SEVERAL)
#define FEW_CACHED kernel_cached
#else /* there are no registers for more */
#define FEW_CACHED kernel_coded
#endif
#endif
static void (*const kernels[][MAX_ROWS + 1])(const Linear *, Section, const Activations *, int, float *, int, int) = {
    {NAMES(kernel_f32)}, {NAMES(kernel_bf16)}, {NAMES(kernel_int8)}, {NAMES_OF_FEW(kernel_int4)}, {NAMES(kernel_f16)},
    {NAMES_OF_FEW(kernel_planes)}, {NAMES_OF_FEW(kernel_upper)},
#ifdef LOOKS_UP
    {NAMES_OF_CODED(kernel_coded, kernel_coded)}, {NAMES_OF_CODED(FEW_CACHED, kernel_coded)},
#endif
};

/* As many as the registers hold sums of, beside what a kernel needs otherwise. */
INLINE int most_rows(int kind) {
    switch (kind) {
    case KIND_INT4: return MAX_ROWS_INT4;
    case KIND_CODED: return MAX_ROWS_CODED;
    case KIND_PLANES:
    case KIND_UPPER: return MAX_ROWS_BYTES;
    default: return MAX_ROWS;
    }
}

void multiply(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add, const Next *next) {
    if (tiles_serve(w->kind, rows)) {
        multiply_tiles(w, first, last, a, rows, y, stride, add, next);
        return;
    }
    if (coded_rows_serve(w->kind, rows)) {
        multiply_coded_rows(w, first, last, a, rows, y, stride, add);
        return;
    }
    /* Rows in blocks of about the same size, and few panels at a time: what one block has read from memory the next
     * ones find in the cache. */
    int most = most_rows(w->kind);
    int table = w->kind + (w->kind == KIND_CODED && w->cached); /* the one behind is for those */
    int blocks = (rows + most - 1) / most, step = blocks > 1 ? CACHED_PANELS : last - first;
    for (int panel = first; panel < last; panel += step) {
        Section s = {panel, panel + step < last ? panel + step : last, last, 0, blocks, next};
        for (; s.block < blocks; s.block++) {
            int row = rows * s.block / blocks, count = rows * (s.block + 1) / blocks - row;
            kernels[table][count](w, s, a, row, y, stride, add);
        }
    }
}

int reads_codes(void) {
#ifdef LOOKS_UP
    return 1;
#else
    return 0;
#endif
}

int reads_codes_at_once(void) {
#if WIDTH == 16
    return reads_codes();
#else
    return 0;
#endif
}
