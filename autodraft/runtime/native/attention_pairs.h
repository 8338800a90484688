#ifndef AUTODRAFT_ATTENTION_PAIRS_H
#define AUTODRAFT_ATTENTION_PAIRS_H
#include "attention.h"

/* Whether attention over 16-bit keys of this width runs on products of pairs here. */
int attention_pairs_serve(int dim);

/* The contract of `attend`, for 16 bits. */
void attend_pairs(const Query *queries, int count, const void *keys, const void *values, int dim, int start, uint16_t *tails,
                  int tail_stride);

#endif
