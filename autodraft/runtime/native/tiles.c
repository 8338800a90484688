/* Matrix products on tile registers (Intel AMX): up to 32 rows for about the time that reading the weights takes.
 * Knows nothing of transformers, and does nothing on other processors.
 *
 * The packed layouts are those of linear.c: 16 x 64 bytes of a panel, or what their codes stand for, are one tile. A tile
 * product adds up each row by itself, over the inputs in ascending order, so a row's result is bitwise independent of the
 * others here too. */
#include "tiles.h"

#include "next.h"

#ifdef AUTODRAFT_TILES
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* arch_prctl: ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18              /* XFEATURE_XTILEDATA */
#define TILE_ROWS 16
#define TILE_BYTES 1024
#define LEAST_ROWS_INT8 4 /* below, the vector kernels read the weights just as fast */
#define LEAST_ROWS_INT4 5
/* Of more rows than tiles hold sums of, as many weights at a time as stay in the second-level cache meanwhile. */
#define SECTION_WEIGHTS (1 << 18)
#define AHEAD 4096 /* bytes between what is multiplied and what is prefetched */

static int permitted;

__attribute__((constructor)) static void request_permission(void) {
    permitted = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

int tiles_serve(int kind, int rows) {
    if (!permitted) return 0;
    switch (kind) {
    case KIND_BF16:
    case KIND_CODED: return rows >= 1;
    case KIND_INT8: return rows >= LEAST_ROWS_INT8;
    case KIND_INT4: return rows >= LEAST_ROWS_INT4;
    default: return 0; /* kinds whose activations are floats */
    }
}

/* Tiles 0..3 hold sums, 4 and 5 activations, 6 and 7 weights. With up to 16 rows four panels are multiplied at once,
 * with up to 32 two panels by two groups of rows. */
typedef struct __attribute__((aligned(64))) {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Shapes;

static _Thread_local int configured; /* rows, and 1 << 8 for a tile of half the inputs; 0: nothing */

static void configure(int rows, int half) {
    int wanted = rows | half << 8;
    if (configured == wanted) return;
    int upper = rows < TILE_ROWS ? rows : TILE_ROWS, lower = rows - upper, bytes = half ? 32 : 64;
    Shapes shapes;
    memset(&shapes, 0, sizeof shapes);
    shapes.palette = 1;
    for (int tile = 0; tile < 8; tile++) {
        int sums = tile < 4, weights = tile >= 6, second = tile == 2 || tile == 3 || tile == 5;
        shapes.row_bytes[tile] = sums || weights ? 64 : bytes;
        shapes.rows[tile] = weights ? bytes / 4 : lower && second ? lower : upper;
    }
    FENCE;
    _tile_loadconfig(&shapes);
    configured = wanted;
}

void tiles_configure(int rows) { configure(rows, 0); }

void tiles_release(void) {
    if (configured) _tile_release();
    configured = 0;
}

INLINE void prefetch_tile(const char *p) {
    UNROLL for (int line = 0; line < TILE_BYTES; line += 64) _mm_prefetch(p + AHEAD + line, _MM_HINT_T0);
}

#define ZERO_SUMS { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
#define LOAD_WEIGHTS(TILE, FROM) { _tile_loadd(TILE, FROM, 64); prefetch_tile(FROM); }

/* Sums of up to 16 rows by 1..4 panels into tile `panel`, or of up to 32 rows by 1 or 2 panels into tile 2 * half + panel. */
#define SUM_TILES(NAME, PRODUCT)                                                                                       \
    INLINE void NAME##_16(const char *x, size_t x_stride, const char *w, size_t panel_bytes, int count, int panels) { \
        ZERO_SUMS                                                                                                      \
        for (int i = 0; i < count; i++, x += 64, w += TILE_BYTES) {                                                    \
            _tile_loadd(4, x, x_stride);                                                                               \
            LOAD_WEIGHTS(6, w) PRODUCT(0, 4, 6);                                                                       \
            if (panels > 1) { LOAD_WEIGHTS(7, w + panel_bytes) PRODUCT(1, 4, 7); }                                     \
            if (panels > 2) { LOAD_WEIGHTS(6, w + 2 * panel_bytes) PRODUCT(2, 4, 6); }                                 \
            if (panels > 3) { LOAD_WEIGHTS(7, w + 3 * panel_bytes) PRODUCT(3, 4, 7); }                                 \
        }                                                                                                              \
    }                                                                                                                  \
    INLINE void NAME##_32(const char *x, size_t x_stride, const char *w, size_t panel_bytes, int count, int panels) { \
        const char *lower = x + TILE_ROWS * x_stride;                                                                  \
        ZERO_SUMS                                                                                                      \
        for (int i = 0; i < count; i++, x += 64, lower += 64, w += TILE_BYTES) {                                       \
            _tile_loadd(4, x, x_stride);                                                                               \
            _tile_loadd(5, lower, x_stride);                                                                           \
            LOAD_WEIGHTS(6, w) PRODUCT(0, 4, 6); PRODUCT(2, 5, 6);                                                     \
            if (panels > 1) { LOAD_WEIGHTS(7, w + panel_bytes) PRODUCT(1, 4, 7); PRODUCT(3, 5, 7); }                   \
        }                                                                                                              \
    }
SUM_TILES(sum_bf16, _tile_dpbf16ps)
SUM_TILES(sum_int8, _tile_dpbusd)

typedef int32_t Sums[4][TILE_ROWS][LANES] __attribute__((aligned(64))); /* floats where the kind is 16 bits */

static void store_sums(Sums sums) {
    FENCE;
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    FENCE;
}

/* 16 and 8 bits: `rows` of at most 32. */
static void multiply_wide(const Linear *w, int first, int last, const Activations *a, int row, int rows, float *y, int stride, int add) {
    Sums sums;
    int half = w->kind == KIND_BF16, size = half ? 2 : 1, count = w->k_padded * size / 64, most = rows > TILE_ROWS ? 2 : 4;
    size_t panel_bytes = (size_t)w->k_padded * LANES * size, x_stride = (size_t)a->stride * size;
    const char *x = (const char *)a->data + row * x_stride;
    for (int panel = first; panel < last; panel += most) {
        const char *weight = (const char *)w->weight + panel * panel_bytes;
        int panels = last - panel < most ? last - panel : most;
        if (most == 4 && half) sum_bf16_16(x, x_stride, weight, panel_bytes, count, panels);
        else if (most == 4) sum_int8_16(x, x_stride, weight, panel_bytes, count, panels);
        else if (half) sum_bf16_32(x, x_stride, weight, panel_bytes, count, panels);
        else sum_int8_32(x, x_stride, weight, panel_bytes, count, panels);
        store_sums(sums);
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < panels; p++) {
                const int32_t *sum = sums[r / TILE_ROWS * 2 + p][r % TILE_ROWS];
                float *out = y + (size_t)(row + r) * stride;
                if (half) {
                    finish(w, panel + p, load((const float *)sum), out, add);
                    continue;
                }
                i32v exact = load_i32(sum) - load_i32(w->sum + (panel + p) * LANES);
                f32v v = __builtin_convertvector(exact, f32v) * load((const float *)w->scale + (panel + p) * LANES);
                finish(w, panel + p, v * splat(a->scales[row + r]), out, add);
            }
    }
}

#define GROUPS_OF_TILE 4
#define TWO_TILES (GROUPS_OF_TILE * GROUPS_BYTES) /* of two panels in turn, coded */

/* A tile of 16 bits out of the panel's groups from number `first` on. */
INLINE void decode_tile(const char *groups, int first, u8v4 uppers, Plain *plains, char *tile) {
    UNROLL for (int g = 0; g < GROUPS_OF_TILE; g++) UNROLL for (int h = 0; h < 2; h++) {
        u32v pairs[2];
        decode(groups + g * GROUPS_BYTES, h, 0, uppers, pairs, pairs + 1);
        memcpy(tile + g * PLAIN_BYTES + h * sizeof pairs, pairs, sizeof pairs);
    }
    for (; *plains->stop < first + GROUPS_OF_TILE; *plains = next_plain(plains->stop + 1, plains->plain + PLAIN_BYTES))
        memcpy(tile + (*plains->stop - first) * PLAIN_BYTES, plains->plain, PLAIN_BYTES);
}

/* Two streams beside each other are what memory likes best here, as long as each goes on for some pages. */
#define LEAST_OF_TWO_STREAMS (8 * 4096)
#define TILES_AHEAD(PANELS) ((PANELS) > 2 ? 2 : 4)

/* Where panels in codes lie: in streams of two, so many bytes each. What comes behind `end`, where the thread's last ones end, is
 * `further` on. */
typedef struct {
    const char *groups, *end;
    size_t stream;
    ptrdiff_t further;
    Plain plains[4];
} CodedPanels;

/* Sums += those over one tile of inputs, as below. */
INLINE void add_tiles(const char *x, size_t x_stride, const char weights[][TILE_BYTES], const int halves, const int panels) {
    _tile_loadd(4, x, x_stride);
    if (halves > 1) _tile_loadd(5, x + TILE_ROWS * x_stride, x_stride);
    _tile_loadd(6, weights[0], 64);
    _tile_dpbf16ps(0, 4, 6);
    if (halves > 1) _tile_dpbf16ps(2, 5, 6);
    if (panels > 1) { _tile_loadd(7, weights[1], 64); _tile_dpbf16ps(1, 4, 7); }
    if (panels > 1 && halves > 1) _tile_dpbf16ps(3, 5, 7);
    if (panels > 2) { _tile_loadd(6, weights[2], 64); _tile_dpbf16ps(2, 4, 6); }
    if (panels > 3) { _tile_loadd(7, weights[3], 64); _tile_dpbf16ps(3, 4, 7); }
}

/* Sums of up to 16 rows by up to 4 panels, or of up to 32 (`halves`) by up to 2, into tiles as SUM_TILES has them. What has just
 * been stored cannot be loaded into a tile at once, so each is multiplied while the next one is decoded. Fetched is a stream
 * itself, where two lie beside each other from its end on the next but one. */
INLINE void sum_coded(CodedPanels *w, const char *x, size_t x_stride, int count, u8v4 uppers, const int halves, const int panels) {
    char tiles[2][4][TILE_BYTES] __attribute__((aligned(64)));
    ZERO_SUMS
    for (int i = 0; i <= count; i++) {
        if (i < count) {
            const char *from = w->groups + (size_t)i * TWO_TILES;
            UNROLL for (int p = 0; p < panels; p++) {
                const char *stream = from + p / 2 * w->stream;
                if (p % 2 == 0) {
                    const char *ahead = stream + TILES_AHEAD(panels) * TWO_TILES;
                    if (panels > 2 && i >= count - TILES_AHEAD(panels)) ahead += w->stream;
                    if (ahead >= w->end) ahead += w->further;
                    UNROLL for (int line = 0; line < (panels - p > 1 ? 2 : 1) * TWO_TILES / 2; line += 64) __builtin_prefetch(ahead + line);
                }
                decode_tile(stream + p % 2 * CODED_BYTES, i * GROUPS_OF_TILE, uppers, w->plains + p, tiles[i % 2][p]);
            }
        }
        FENCE;
        if (i > 0) {
            add_tiles(x, x_stride, (const char(*)[TILE_BYTES])tiles[(i - 1) % 2], halves, panels);
            x += 64;
        }
        FENCE;
    }
}

#define SUM_CODED(HALVES, PANELS) \
    if (halves == HALVES && panels == PANELS) sum_coded(&those, x, x_stride, count, uppers, HALVES, PANELS);

/* Codes: `rows` of at most 32. */
static void multiply_coded(const Linear *w, int first, int last, const Activations *a, int row, int rows, float *y, int stride, int add,
                           const Next *next) {
    Sums sums;
    CodedPanels those = {.end = coded_panel(w, (last + 1) / 2 * 2), .stream = STREAM_BYTES(w)};
    if (next) those.further = panel_start(next) - those.end;
    const u8v4 uppers = repeated_bytes(w->scale);
    const size_t x_stride = (size_t)a->stride * sizeof(uint16_t);
    const char *x = (const char *)a->data + row * x_stride;
    const int count = w->k_padded / (GROUPS_OF_TILE * CODED_INPUTS), halves = rows > TILE_ROWS ? 2 : 1;
    const int most = halves == 1 && those.stream >= LEAST_OF_TWO_STREAMS ? 4 : 2;
    for (int panel = first, panels; panel < last; panel += panels) {
        panels = last - panel < 4 ? 2 : most;
        if (panel % 2 || panel + 1 == last) panels = 1; /* a pair begins with an even one */
        those.groups = coded_panel(w, panel);
        for (int p = 0; p < panels; p++) those.plains[p] = first_plain(w, panel + p);
        SUM_CODED(1, 1) SUM_CODED(1, 2) SUM_CODED(1, 4) SUM_CODED(2, 1) SUM_CODED(2, 2)
        store_sums(sums);
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < panels; p++) {
                const int32_t *sum = halves > 1 ? sums[r / TILE_ROWS * 2 + p][r % TILE_ROWS] : sums[p][r];
                finish(w, panel + p, load((const float *)sum), y + (size_t)(row + r) * stride, add);
            }
    }
}

/* More than 64 rows: tiles are put together once for up to so many of them, some tiles at a time, while sums wait in memory. */
#define LEAST_MANY_ROWS 65
#define MANY_ROWS 128
#define CHUNK 8 /* tiles of a panel */

/* sums += those of up to 32 rows by up to two panels over `count` tiles of inputs; fetches some lines along with each. */
INLINE void add_chunk(Sums sums, const char weights[][2][TILE_BYTES], const char *x, size_t x_stride, int count, const char *ahead,
                      int lines, const int halves, const int panels) {
    FENCE;
    _tile_loadd(0, sums[0], 64);
    if (panels > 1) _tile_loadd(1, sums[1], 64);
    if (halves > 1) _tile_loadd(2, sums[2], 64);
    if (panels > 1 && halves > 1) _tile_loadd(3, sums[3], 64);
    for (int i = 0; i < count; i++, x += 64) {
        add_tiles(x, x_stride, weights[i], halves, panels);
        for (int line = 0; line < lines; line++, ahead += 64) __builtin_prefetch(ahead);
    }
    store_sums(sums);
}

#define ADD_CHUNK(HALVES, PANELS)              \
    if (halves == HALVES && panels == PANELS) \
        add_chunk(sums[b], weights, x + i * 64, x_stride, some, ahead, lines, HALVES, PANELS);

/* Codes: `rows` of at most MANY_ROWS. Tiles are whole, for other shapes in between would take longer: rows behind the last one,
 * for which there is room where rows of floats fit, are summed up as well and left. */
static void multiply_coded_many(const Linear *w, int first, int last, const Activations *a, int row, int rows, float *y, int stride,
                                int add, const Next *next) {
    Sums sums[MANY_ROWS / (2 * TILE_ROWS)];
    char weights[CHUNK][2][TILE_BYTES] __attribute__((aligned(64)));
    const u8v4 uppers = repeated_bytes(w->scale);
    const size_t x_stride = (size_t)a->stride * sizeof(uint16_t);
    const int count = w->k_padded / (GROUPS_OF_TILE * CODED_INPUTS), blocks = (rows + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS);
    const char *end = coded_panel(w, (last + 1) / 2 * 2);
    for (int panel = first, panels; panel < last; panel += panels) {
        panels = panel % 2 || panel + 1 == last ? 1 : 2; /* a pair begins with an even one */
        const char *groups = coded_panel(w, panel);
        Plain plains[2];
        for (int p = 0; p < panels; p++) plains[p] = first_plain(w, panel + p);
        memset(sums, 0, sizeof sums[0] * blocks);
        for (int i = 0, some; i < count; i += some) {
            some = count - i < CHUNK ? count - i : CHUNK;
            for (int j = 0; j < some; j++)
                for (int p = 0; p < panels; p++)
                    decode_tile(groups + (size_t)(i + j) * TWO_TILES + p * CODED_BYTES, (i + j) * GROUPS_OF_TILE, uppers, plains + p,
                                weights[j][p]);
            const char *ahead = groups + (size_t)(i + some) * TWO_TILES;
            if (ahead >= end) ahead = next ? panel_start(next) : groups;
            const int lines = (CHUNK * TWO_TILES / 64 + blocks * some - 1) / (blocks * some);
            for (int b = 0; b < blocks; b++, ahead += (size_t)lines * some * 64) {
                const int from = 2 * TILE_ROWS * b, halves = rows - from > TILE_ROWS ? 2 : 1;
                const char *x = (const char *)a->data + (row + from) * x_stride;
                ADD_CHUNK(1, 1) ADD_CHUNK(1, 2) ADD_CHUNK(2, 1) ADD_CHUNK(2, 2)
            }
        }
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < panels; p++) {
                const int32_t *sum = sums[r / (2 * TILE_ROWS)][r / TILE_ROWS % 2 * 2 + p][r % TILE_ROWS];
                finish(w, panel + p, load((const float *)sum), y + (size_t)(row + r) * stride, add);
            }
    }
}

/* One group of 32 inputs of a panel at 4 bits as signed bytes: four inputs of 16 outputs in each line. */
INLINE void unpack_group(const uint8_t *packed, __m512i bytes[8]) {
    const __m512i nibble = _mm512_set1_epi8(0x0f), middle = _mm512_set1_epi8(8);
    UNROLL for (int i = 0; i < 4; i++) {
        __m512i both = _mm512_loadu_si512(packed + 64 * i);
        bytes[2 * i] = _mm512_sub_epi8(_mm512_and_si512(both, nibble), middle);
        bytes[2 * i + 1] = _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), nibble), middle);
    }
}

#define BATCH 8 /* groups that go through each stage together, so that no stage waits for the one before */

#define GROUP_PRODUCT(SUM) \
    { _tile_zero(SUM); _tile_loadd(4, x + 32 * g, a->stride); _tile_loadd(6, bytes[g - start], 64); _tile_dpbssd(SUM, 4, 6); \
      _tile_stored(SUM, sums[g - start], 64); g++; }

/* 4 bits: `rows` of at most ROWS. Sums of a group are exact, and groups add up in ascending order as in the vector kernel. */
INLINE void multiply_groups(const Linear *w, int first, int last, const Activations *a, int row, int rows, float *y, int stride,
                            int add, const int ROWS) {
    const int groups = w->k_padded / 32;
    const int8_t *x = (const int8_t *)a->data + (size_t)row * a->stride;
    int32_t sums[BATCH][TILE_ROWS][LANES] __attribute__((aligned(64)));
    __m512i bytes[BATCH][8];
    for (int panel = first; panel < last; panel++) {
        const uint8_t *packed = (const uint8_t *)w->weight + (size_t)panel * groups * 256;
        const uint16_t *scales = (const uint16_t *)w->scale + (size_t)panel * groups * LANES;
        f32v total[TILE_ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) total[r] = splat(0);
        for (int start = 0; start < groups; start += BATCH) {
            int end = groups - start < BATCH ? groups : start + BATCH, g;
            for (g = start; g < end; g++) {
                unpack_group(packed + (size_t)g * 256, bytes[g - start]);
                UNROLL for (int line = 0; line < 256; line += 64)
                    _mm_prefetch((const char *)packed + (size_t)g * 256 + AHEAD + line, _MM_HINT_T0);
            }
            FENCE;
            for (g = start; g + 3 < end;) { GROUP_PRODUCT(0) GROUP_PRODUCT(1) GROUP_PRODUCT(2) GROUP_PRODUCT(3) }
            while (g < end) GROUP_PRODUCT(0)
            FENCE;
            for (g = start; g < end; g++) {
                f32v scale = load_bf16(scales + (size_t)g * LANES);
                UNROLL for (int r = 0; r < ROWS; r++)
                    total[r] += __builtin_convertvector(load_i32(sums[g - start][r]), f32v) * scale;
            }
        }
        UNROLL for (int r = 0; r < ROWS; r++)
            if (r < rows) finish(w, panel, total[r] * splat(a->scales[row + r]), y + (size_t)(row + r) * stride, add);
    }
}

static void multiply_int4(const Linear *w, int first, int last, const Activations *a, int row, int rows, float *y, int stride, int add) {
    if (rows <= 8) multiply_groups(w, first, last, a, row, rows, y, stride, add, 8);
    else multiply_groups(w, first, last, a, row, rows, y, stride, add, TILE_ROWS);
}

void multiply_tiles(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add,
                    const Next *next) {
    int low = w->kind == KIND_INT4, many = w->kind == KIND_CODED && rows >= LEAST_MANY_ROWS;
    int most = low ? TILE_ROWS : many ? MANY_ROWS : 2 * TILE_ROWS;
    int step = rows > most ? SECTION_WEIGHTS / (w->k_padded * LANES) + 2 : last - first;
    for (int panel = first, end; panel < last; panel = end) {
        end = panel + step < last ? (panel + step) / 2 * 2 : last; /* codes come in pairs of panels */
        for (int row = 0; row < rows; row += most) {
            int count = rows - row < most ? rows - row : most;
            if (many) {
                configure(2 * TILE_ROWS, 0);
                multiply_coded_many(w, panel, end, a, row, count, y, stride, add, end == last ? next : 0);
                continue;
            }
            configure(count, low);
            FENCE;
            if (w->kind == KIND_CODED) multiply_coded(w, panel, end, a, row, count, y, stride, add, end == last ? next : 0);
            else (low ? multiply_int4 : multiply_wide)(w, panel, end, a, row, count, y, stride, add);
        }
    }
}

#else

int tiles_serve(int kind, int rows) { return (void)kind, (void)rows, 0; }
void multiply_tiles(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add,
                    const Next *next) {
    (void)w, (void)first, (void)last, (void)a, (void)rows, (void)y, (void)stride, (void)add, (void)next;
}
void tiles_configure(int rows) { (void)rows; }
void tiles_release(void) {}

#endif
