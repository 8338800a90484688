/* Prompt lookup: what followed the last tokens of a text where they stood before. Knows nothing of models. */
#ifndef AUTODRAFT_LOOKUP_H
#define AUTODRAFT_LOOKUP_H
#include <stdint.h>

/* As autodraft/cascade.py has it; tokens = 0: nothing is looked up. */
typedef struct {
    int32_t tokens, max_ngram, min_ngram;
} Lookup;

/* The tokens that autodraft/decoding/sources/prompt_lookup.py would propose one after the other, `most` of them at most, to
 * `found`; how many there are. */
int find_continuation(const Lookup *how, const int32_t *text, int length, int most, int32_t *found);

#endif
