/* What a forward pass is made of: its memory, and the sub-layers that all threads walk through together. */
#ifndef AUTODRAFT_BLOCKS_H
#define AUTODRAFT_BLOCKS_H
#include <stddef.h>

#include "attention.h"
#include "linear.h"
#include "pool.h"

typedef struct {
    float *normed;
    Activations activations;
    Query *queries;
    float *scores;
    uint16_t *tails;
    float *scales; /* [rows][2]: of queries and of keys that are normed as one vector */
} Private;

#define MAX_QUERIES 64

typedef struct {
    int rows, keys;
    size_t width, shared_floats, private_bytes;
    char *memory;
    size_t memory_bytes;
    float *x;
    /* Of attention and of MLP: what a thread writes and reads back in one is nobody else's in the other. */
    float *projected, *mixed, *wide, *hidden;
    float *outputs; /* of a sub-layer, where there is a norm behind it */
    void *operands; /* what output projections multiply, where threads convert each their own part */
    Pool *pool;
} Workspace;

typedef struct {
    const Model *m;
    const Plan *plan;
    const Cache *cache;
    const Rows *rows;
    Workspace *ws;
    float *logits, *taps;
    int threads;
    float *stream;   /* NULL: start from the embeddings; else [n][hidden], read before the first sub-layer, written after the last */
    int first, last; /* sub-layers that run */
    int keys_only;   /* attention writes its keys and values and adds nothing */
    const Routing *routing; /* NULL: every row runs the sub-layers first .. last - 1 */
} Call;

/* Room for a call; width: the widest activation of the plan, in channels. Returns 0, or -1 without memory. */
int reserve(Workspace *ws, const Model *m, int rows, int keys, int width, int threads);

/* What belongs to one thread, in the memory that was reserved. */
Private private_of(Workspace *ws, const Model *m, int thread);

/* Thread's part of `count` things. */
INLINE void share(int count, int thread, int threads, int *first, int *last) {
    *first = (int)((int64_t)count * thread / threads);
    *last = (int)((int64_t)count * (thread + 1) / threads);
}

/* Embeddings of the rows to the workspace's x. No barrier. */
void embed(const Call *c, int thread);

/* Norms of x's rows, in `mine->normed`; x itself without a weight. y = or += W x of all rows, before what is next. No barrier. */
const float *norm_rows(const Call *c, const float *weight, const float *bias, Private *mine);
void product(const Call *c, const Linear *w, const float *x, int stride, float *y, int y_stride, int add, int thread,
             Private *mine, const Next *next);

/* Where the model caps its logits, those that a thread has just multiplied. No barrier. */
void cap_logits(const Call *c, int thread);

/* A sub-layer of the plan over x; both end with a barrier where they change anything. */
void attention(const Call *c, int block, int thread, Private *mine);
void mlp(const Call *c, int block, int thread, Private *mine);

#endif
