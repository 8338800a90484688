#ifndef AUTODRAFT_TILES_H
#define AUTODRAFT_TILES_H
#include "linear.h"

/* Whether products of this kind with so many rows run on tiles here. 16 bits: for any number or for none, because a
 * row of a tile is rounded otherwise than a row of a vector, and a row must not depend on how many others there are. */
int tiles_serve(int kind, int rows);

/* The same contract as `multiply`. */
void multiply_tiles(const Linear *w, int first, int last, const Activations *a, int rows, float *y, int stride, int add);

/* To be called by every thread when it is done with products for a while: idle tiles cost at context switches. */
void tiles_release(void);

#endif
