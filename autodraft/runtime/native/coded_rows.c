/* Coded weights and more rows than narrow registers have sums for beside what decoding needs.
 *
 * Some groups of both panels of a stream, which memory thus brings in one piece, are decoded into the first cache, and all
 * rows have their turn over them; sums wait in memory meanwhile. Panel by panel half of what is read would be the other
 * panel's, and with each block of rows all would be decoded again. Inputs of a block of rows lie beside each other, [inputs][rows]:
 * rows for themselves would push each other, and the weights, out of the cache. The sums are those of kernel_coded, to the bit. */
#include "coded_rows.h"

#include "coded.h"

#if defined(LOOKS_UP) && WIDTH < 16
#define LEAST_ROWS 3
#define BLOCK_ROWS 5 /* sums of one panel, its weights and an input in 16 registers */
#define CHUNK 32     /* groups; their weights are a quarter of the first cache */
#define GROUP_PAIRS (CODED_INPUTS / 2)

typedef float Sums[LANES];

int coded_rows_serve(int kind, int rows) { return kind == KIND_CODED && rows >= LEAST_ROWS; }

/* Groups [g, end) of a panel, as they were, to `weights`; the panel's next plain group behind them. */
static Plain decode_groups(const char *panel, Plain plain, int g, int end, u8v4 uppers, char *weights) {
    for (; g < end; g++, weights += PLAIN_BYTES) {
        if (g == *plain.stop) {
            memcpy(weights, plain.plain, PLAIN_BYTES);
            plain = next_plain(plain.stop + 1, plain.plain + PLAIN_BYTES);
            continue;
        }
        UNROLL for (int h = 0; h < 2; h++) UNROLL for (int v = 0; v < PARTS; v++) {
            u32v pairs[2];
            decode(panel + (size_t)g * GROUPS_BYTES, h, v, uppers, pairs, pairs + 1);
            UNROLL for (int j = 0; j < 2; j++) memcpy(weights + (2 * h + j) * CODED_HALF + v * sizeof *pairs, pairs + j, sizeof *pairs);
        }
    }
    return plain;
}

/* sums += the products of ROWS rows with pairs of weights; with each pair some line from `fetched` on, by `advance`. */
INLINE void add_chunk(const char *weights, int pairs, const char *fetched, int advance, const float *x, Sums *sums, const int ROWS) {
    f32v acc[BLOCK_ROWS][MOST_VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < PARTS; v++) acc[r][v] = load(sums[r] + v * WIDTH);
    for (int i = 0; i < pairs; i++, fetched += advance) {
        f32v wv[2][PARTS];
        __builtin_prefetch(fetched);
        UNROLL for (int v = 0; v < PARTS; v++) {
            u32v both = load_pairs(weights + (size_t)i * CODED_HALF + v * sizeof both);
            wv[0][v] = (f32v)(both << 16), wv[1][v] = (f32v)(both & 0xffff0000u);
        }
        UNROLL for (int j = 0; j < 2; j++, x += ROWS) UNROLL for (int r = 0; r < ROWS; r++) {
            f32v xv = splat(x[r]);
            UNROLL for (int v = 0; v < PARTS; v++) acc[r][v] += xv * wv[j][v];
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < PARTS; v++) store(sums[r] + v * WIDTH, acc[r][v]);
}

#define FOR_ROWS(ROWS)                                                                                                              \
    static __attribute__((noinline)) void add_chunk_##ROWS(const char *weights, int pairs, const char *fetched, int advance,         \
                                                           const float *x, Sums *sums) {                                            \
        add_chunk(weights, pairs, fetched, advance, x, sums, ROWS);                                                                 \
    }
FOR_ROWS(3)
FOR_ROWS(4)
FOR_ROWS(5)
/* By number of rows; more than five are shared out evenly, so that no block has fewer than three. */
static void (*const adders[])(const char *, int, const char *, int, const float *, Sums *) = {
    0, 0, 0, add_chunk_3, add_chunk_4, add_chunk_5};

static int blocks_of(int rows) { return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

void prepare_coded_rows(const float *x, int k_padded, int rows, int row, int end, int stride, int first, int last, int behind, float *to) {
    float rounded[WIDTH];
    for (int block = 0, blocks = blocks_of(rows); block < blocks; block++) {
        int start = rows * block / blocks, count = rows * (block + 1) / blocks - start;
        for (int r = start > row ? start : row; r < start + count && r < end; r++) {
            const float *from = x + (size_t)r * stride;
            float *place = to + (size_t)start * k_padded + (r - start);
            int i = first;
            for (; i + WIDTH <= last; i += WIDTH) {
                store_operands(rounded, load(from + i));
                for (int lane = 0; lane < WIDTH; lane++) place[(size_t)(i + lane) * count] = rounded[lane];
            }
            for (; i < last; i++) place[(size_t)i * count] = to_operand(from[i]);
            for (; i < behind; i++) place[(size_t)i * count] = 0;
        }
    }
}

void multiply_coded_rows(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add) {
    const int groups = w->k_padded / CODED_INPUTS, blocks = blocks_of(rows);
    const u8v4 uppers = repeated_bytes(w->scale);
    char weights[CHUNK * PLAIN_BYTES] __attribute__((aligned(64)));
    Sums sums[2][rows];
    for (int panel = first, panels; panel < last; panel += panels) {
        panels = panel % 2 || panel + 1 == last ? 1 : 2; /* a pair begins with an even one */
        const int advance = GROUPS_BYTES / GROUP_PAIRS / (panels * blocks);
        Plain plains[2] = {first_plain(w, panel), first_plain(w, panel + panels - 1)};
        memset(sums, 0, sizeof sums);
        for (int g = 0; g < groups; g += CHUNK) {
            const int end = g + CHUNK < groups ? g + CHUNK : groups, pairs = GROUP_PAIRS * (end - g);
            const char *fetched = coded_panel(w, panel) + (size_t)(g + CHUNK) * GROUPS_BYTES;
            for (int p = 0; p < panels; p++) {
                plains[p] = decode_groups(coded_panel(w, panel + p), plains[p], g, end, uppers, weights);
                for (int block = 0; block < blocks; block++, fetched += pairs * advance) {
                    int row = rows * block / blocks, count = rows * (block + 1) / blocks - row;
                    const float *x = (const float *)a->data + (size_t)row * w->k_padded + (size_t)CODED_INPUTS * g * count;
                    adders[count](weights, pairs, fetched, advance, x, sums[p] + row);
                }
            }
        }
        for (int p = 0; p < panels; p++) for (int r = 0; r < rows; r++) for (int v = 0; v < PARTS; v++)
            finish(w, (panel + p) * PARTS + v, load(sums[p][r] + v * WIDTH), y + (size_t)r * stride, add);
    }
}

#else

int coded_rows_serve(int kind, int rows) { return (void)kind, (void)rows, 0; }
void prepare_coded_rows(const float *x, int k_padded, int rows, int row, int end, int stride, int first, int last, int behind, float *to) {
    (void)x, (void)k_padded, (void)rows, (void)row, (void)end, (void)stride, (void)first, (void)last, (void)behind, (void)to;
}
void multiply_coded_rows(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add) {
    (void)w, (void)first, (void)last, (void)a, (void)rows, (void)y, (void)stride, (void)add;
}

#endif
