#ifndef AUTODRAFT_ATTENTION_TILES_H
#define AUTODRAFT_ATTENTION_TILES_H
#include "attention.h"

/* Whether attention over 16-bit keys of this width runs on tiles here: for any number of queries, or for none. */
int attention_tiles_serve(int dim);

/* The contract of `attend`, for 16 bits. */
void attend_tiles(const Query *queries, int count, const void *keys, const void *values, int dim, int start, uint16_t *tails,
                  int tail_stride);

#endif
