#ifndef AUTODRAFT_LINEAR_H
#define AUTODRAFT_LINEAR_H
#include "engine.h"
#include "vec.h"

/* Rows in the form a kernel wants; buffers belong to the caller. */
typedef struct {
    void *data;          /* [rows][k_padded] in float, bf16 or bytes */
    int stride;
    float *scales;       /* [rows], low bits only */
    int32_t *corrections; /* [rows][k_padded / 32], -8 times the sum of a group, 4 bits only */
} Activations;

/* What a thread multiplies next: a matrix, from some panel on. */
typedef struct {
    const Linear *linear;
    int panel;
} Next;

/* Convert `rows` rows of x (stride floats apart) for the kernel of `w`. */
void prepare(const Linear *w, const float *x, int rows, int stride, Activations *a);

/* Whether every input is converted by itself; whole numbers depend on the largest one of their row. */
int prepares_columns(const Linear *w);

/* The same for inputs [first, last) of rows [row, end) of all `rows`, where every input is converted by itself. */
void prepare_columns(const Linear *w, const float *x, int rows, int row, int end, int stride, int first, int last, Activations *a);

/* y[row][16 * first .. 16 * last) = or += W x (+ bias); y has room for whole panels. The weights of what is `next`
 * (NULL: nobody knows) are fetched along with the last ones, by kernels that fetch where memory or a far cache is waited for. */
void multiply(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add, const Next *next);

/* Whether KIND_CODED can be multiplied here. */
int reads_codes(void);

/* And whether that is worth it out of a cache that several cores share, too: with wide vectors they are looked up while it is
 * waited for, and only without products of pairs do many rows take a little longer. */
int reads_codes_at_once(void);

/* The end of every kernel: a vector of outputs of one row, with bias, stored or added. */
INLINE void finish(const Linear *w, int vector, f32v v, float *y, int add) {
    int first = vector * WIDTH;
    if (w->bias) v += load(w->bias + first);
    if (add) v += load(y + first);
    store(y + first, v);
}

#endif
