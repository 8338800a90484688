/* Forward passes over some rows, and what is chosen after them (forward.c). Knows nothing of policies or trees. */
#ifndef AUTODRAFT_FORWARD_H
#define AUTODRAFT_FORWARD_H
#include "blocks.h"
#include "choose.h"
#include "routed.h"

int review(const Model *m, const Plan *plan, const Routing *routing, const Cache *cache, const Rows *rows, Workspace *ws,
           int width, int keys, float *logits, const Choosing *how, const int32_t *noise_rows, int32_t *tokens, float *probabilities);

#define ROWS_MEMORY(FED) (3 * (FED) + 1) /* numbers that draft_chain needs for so many fed tokens */

int draft_chain(const Model *m, const Plan *plan, const Routing *routing, const Cache *cache, Workspace *ws, int width,
                const int32_t *fed, int num_fed, int first, int count, float *logits, const Choosing *how, const Stopping *stop,
                int32_t *rows_memory, int32_t *tokens, float *probabilities);

#endif
