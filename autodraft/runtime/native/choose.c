/* The most probable tokens of a row of logits. Knows nothing of models. */
#include "choose.h"

#include "vec.h"

/* logits[i .. i + WIDTH) as compared; only whole vectors. A quotient is rounded before the noise is added, as it is where the
 * target's own choices are made: a product with 1 / temperature would be fused with the sum. */
INLINE f32v scores_at(const float *logits, const float *noise, float temperature, int i) {
    return noise ? load(logits + i) / splat(temperature) + load(noise + i) : load(logits + i);
}

INLINE float score_at(const float *logits, const float *noise, float temperature, int i) {
    return noise ? logits[i] / temperature + noise[i] : logits[i];
}

/* Keep tokens and scores sorted, best first, earlier tokens first among equals. */
static void insert(int32_t *tokens, float *scores, int top, int token, float score) {
    int at = top - 1;
    for (; at > 0 && score > scores[at - 1]; at--) {
        scores[at] = scores[at - 1];
        tokens[at] = tokens[at - 1];
    }
    scores[at] = score;
    tokens[at] = token;
}

static void find_best(const float *logits, int vocab, const Choosing *how, const float *noise, int32_t *tokens, float *best) {
    const float temperature = how->temperature;
    const int top = how->top, whole = vocab / WIDTH * WIDTH;
    for (int j = 0; j < top; j++) tokens[j] = 0, best[j] = -INFINITY;
    for (int i = 0; i < whole; i += WIDTH) {
        f32v score = scores_at(logits, noise, temperature, i);
        if (!any_lane(score > splat(best[top - 1]))) continue;
        for (int lane = 0; lane < WIDTH; lane++)
            if (score[lane] > best[top - 1]) insert(tokens, best, top, i + lane, score[lane]);
    }
    for (int i = whole; i < vocab; i++) {
        float score = score_at(logits, noise, temperature, i);
        if (score > best[top - 1]) insert(tokens, best, top, i, score);
    }
}

void choose(const float *logits, int vocab, const Choosing *how, int noise_row, int32_t *tokens, float *probabilities) {
    const float *noise = how->noise ? how->noise + (size_t)noise_row * vocab : 0;
    const float temperature = how->temperature;
    const int top = how->top, whole = vocab / WIDTH * WIDTH;
    float *best = probabilities;
    find_best(logits, vocab, how, noise, tokens, best);
    f32v sums = splat(0), highest = splat(best[0]);
    for (int i = 0; i < whole; i += WIDTH) sums += exp_each(scores_at(logits, noise, temperature, i) - highest);
    float total = lane_sum(sums);
    for (int i = whole; i < vocab; i++) total += expf(score_at(logits, noise, temperature, i) - best[0]);
    for (int j = top - 1; j >= 0; j--) probabilities[j] = expf(best[j] - best[0]) / total; /* best[0] goes last */
}

int32_t choose_token(const float *logits, int vocab, const Choosing *how, int noise_row) {
    Choosing one = {how->temperature, 0, 1};
    int32_t token;
    float best;
    find_best(logits, vocab, &one, how->noise ? how->noise + (size_t)noise_row * vocab : 0, &token, &best);
    return token;
}

void choose_tokens(const float *logits, int vocab, int top, int32_t *tokens, float *scratch) {
    Choosing how = {1.0f, 0, top};
    find_best(logits, vocab, &how, 0, tokens, scratch);
}

int is_last(const Stopping *stop, int32_t token) {
    for (int i = 0; i < stop->num_last_tokens; i++)
        if (token == stop->last_tokens[i]) return 1;
    return 0;
}
