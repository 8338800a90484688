#ifndef AUTODRAFT_ATTENTION_H
#define AUTODRAFT_ATTENTION_H
#include "engine.h"
#include "vec.h"

/* One query head of one row: it sees `prefix` keys from the common start on, then the path. */
typedef struct {
    const float *query;  /* [head_dim], already scaled */
    float *scores;       /* scratch for all its keys, with SCORE_MARGIN floats to spare on either side */
    float *out;          /* [head_dim] */
    const int32_t *path;
    int32_t prefix, num_path;
} Query;

#define SCORE_MARGIN 32

/* Queries of one KV head whose prefixes start at the same slot; keys and values are that head's. */
void attend(const Query *queries, int count, const void *keys, const void *values, int dtype, int head_dim, int start);

#endif
