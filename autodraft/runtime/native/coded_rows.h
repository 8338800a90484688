#ifndef AUTODRAFT_CODED_ROWS_H
#define AUTODRAFT_CODED_ROWS_H
#include "linear.h"

/* Whether products of this kind with so many rows are made from weights that were put together in memory before. */
int coded_rows_serve(int kind, int rows);

/* Inputs [first, last) of rows [row, end), of `rows` in all, as `multiply_coded_rows` takes them, and zeros up to `behind`. */
void prepare_coded_rows(const float *x, int k_padded, int rows, int row, int end, int stride, int first, int last, int behind, float *to);

/* The same contract as `multiply`, but for what is next: weights are fetched straight on. */
void multiply_coded_rows(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add);

#endif
