#ifndef AUTODRAFT_ATTENTION_H
#define AUTODRAFT_ATTENTION_H
#include "engine.h"
#include "vec.h"

#define MAX_GROUP 64 /* query heads per KV head */

/* q [group][head_dim], already scaled; keys and values of one head; out [group][head_dim].
 * scores: [group][stride] floats of scratch, stride >= keys + 48. */
void attend(const float *q, int group, const void *keys, const void *values, int dtype, int head_dim, int start, int prefix,
            const int32_t *path, int num_path, float *scores, int stride, float *out);

#endif
