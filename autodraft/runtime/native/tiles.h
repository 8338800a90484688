#ifndef AUTODRAFT_TILES_H
#define AUTODRAFT_TILES_H
#include "linear.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__linux__)
#define AUTODRAFT_TILES
/* The intrinsics do not tell the compiler which memory they touch. */
#define FENCE __asm__ volatile("" ::: "memory")
#endif

/* Whether products of this kind with so many rows run on tiles here. 16 bits: for any number or for none, because a
 * row of a tile is rounded otherwise than a row of a vector, and a row must not depend on how many others there are. */
int tiles_serve(int kind, int rows);

/* The same contract as `multiply`. */
void multiply_tiles(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add,
                    const Next *next);

/* Tiles 0..3 (sums) and 4, 5 (inputs) for up to 16 rows, or 0, 1, 4 and 2, 3, 5 for the two halves of up to 32; 6 and 7 are
 * whole. 64 bytes each. */
void tiles_configure(int rows);

/* To be called by every thread when it is done with products for a while: idle tiles cost at context switches. */
void tiles_release(void);

#endif
