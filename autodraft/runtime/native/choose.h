#ifndef AUTODRAFT_CHOOSE_H
#define AUTODRAFT_CHOOSE_H
#include <stdint.h>

#define ACCEPTANCE_BINS 16

/* How the most probable tokens of a row are found: by logit, or logit / temperature + noise. */
typedef struct {
    float temperature; /* where there is noise */
    const float *noise; /* [positions][vocab], or NULL */
    int32_t top;        /* tokens wanted per row, best first */
} Choosing;

/* When a draft chain ends (the token that ends it is kept): after one of `last_tokens`, after a token of probability
 * below `threshold`, or, where `acceptance` is given, once reach, multiplied by acceptance[bin of the probability] at each
 * token, is below `least`. */
typedef struct {
    float threshold;
    const float *acceptance; /* [ACCEPTANCE_BINS] by the square of the probability, or NULL */
    float reach, least;
    const int32_t *last_tokens; /* [num_last_tokens] */
    int32_t num_last_tokens;
} Stopping;

/* Whether it is one of the last tokens. */
int is_last(const Stopping *stop, int32_t token);

/* The `top` best tokens of one row and their probabilities in softmax(logits) or softmax(logits / temperature + noise). */
void choose(const float *logits, int vocab, const Choosing *how, int noise_row, int32_t *tokens, float *probabilities);

/* The best token of one row alone. */
int32_t choose_token(const float *logits, int vocab, const Choosing *how, int noise_row);

/* The `top` largest of one row alone; `scratch` [top]. */
void choose_tokens(const float *logits, int vocab, int top, int32_t *tokens, float *scratch);

#endif
