/* The forward pass of a plan over some rows, or a part of it, and the greedy draft loop. Knows nothing of policies or trees.
 *
 * All threads walk through all blocks together. */
#include "forward.h"

#include "tiles.h"

static void tap(const Call *c, int sub_layer, int thread) {
    if (!c->taps || thread) return;
    size_t count = (size_t)c->rows->n * c->m->hidden;
    memcpy(c->taps + count * sub_layer, c->ws->x, sizeof(float) * count);
}

/* Between the caller's stream and ours; each thread its share. */
static void transfer(const Call *c, int thread, float *to, const float *from) {
    int first, last;
    share(c->rows->n * c->m->hidden, thread, c->threads, &first, &last);
    memcpy(to + first, from + first, sizeof(float) * (last - first));
}

static void run_sub_layers(const Call *c, int thread, Private *mine) {
    for (int sub_layer = c->first; sub_layer < c->last; sub_layer++) {
        tap(c, sub_layer, thread);
        if (c->taps) pool_barrier(c->ws->pool);
        (sub_layer % 2 ? mlp : attention)(c, sub_layer / 2, thread, mine);
    }
    tap(c, c->last, thread);
}

static void run(const Call *c, int thread) {
    Private mine = private_of(c->ws, c->m, thread);
    const Model *m = c->m;
    if (c->stream) transfer(c, thread, c->ws->x, c->stream);
    else embed(c, thread);
    pool_barrier(c->ws->pool);
    if (c->routing) walk_routes(c, thread, &mine);
    else run_sub_layers(c, thread, &mine);
    if (c->stream) transfer(c, thread, c->stream, c->ws->x);
    if (c->logits) {
        const float *normed = norm_rows(c, m->final_norm, m->final_norm_bias, &mine);
        product(c, &c->plan->head, normed, m->hidden, c->logits, (m->vocab + LANES - 1) / LANES * LANES, 0, thread, &mine, 0);
        cap_logits(c, thread);
    }
    tiles_release();
}

static void run_on(void *call, int thread) { run((const Call *)call, thread); }

/* logits: [n][vocab padded to 16] or NULL; taps: [2 * blocks + 1][n][hidden] or NULL. With `stream` [n][hidden], sub-layers
 * first .. last - 1 are run on it in place instead of the whole model; with `keys_only` for what attention writes alone.
 * With `routing`, rows run what their routes take them through. Returns 0, or -1 without memory. */
int forward(const Model *m, const Plan *plan, const Routing *routing, const Cache *cache, const Rows *rows, Workspace *ws,
            int width, int keys, float *logits, float *taps, float *stream, int first, int last, int keys_only) {
    int threads = pool_threads(ws->pool);
    if (reserve(ws, m, rows->n, keys, width, threads)) return -1;
    Call call = {m, plan, cache, rows, ws, logits, taps, threads, stream, first, last, keys_only, routing};
    pool_run(ws->pool, run_on, &call);
    return 0;
}

/* The best tokens of each row, rows shared among the threads. */
typedef struct {
    const Call *call;
    const Choosing *how;
    const int32_t *noise_rows; /* or NULL where there is no noise */
    int32_t *tokens;
    float *probabilities; /* or NULL: the best tokens alone */
} Review;

static void review_on(void *argument, int thread) {
    const Review *review = (const Review *)argument;
    const Call *c = review->call;
    int first, last, vocab = c->m->vocab, stride = (vocab + LANES - 1) / LANES * LANES, top = review->how->top;
    run(c, thread);
    pool_barrier(c->ws->pool);
    share(c->rows->n, thread, c->threads, &first, &last);
    for (int r = first; r < last; r++) {
        const float *logits = c->logits + (size_t)r * stride;
        int noise_row = review->noise_rows ? review->noise_rows[r] : 0;
        if (review->probabilities)
            choose(logits, vocab, review->how, noise_row, review->tokens + r * top, review->probabilities + r * top);
        else
            review->tokens[r] = choose_token(logits, vocab, review->how, noise_row);
    }
}

/* A forward pass and the best tokens after each row: tokens and probabilities [n][top], or the single best tokens [n] and no
 * probabilities, where those are NULL. Returns 0, or -1 without memory. */
int review(const Model *m, const Plan *plan, const Routing *routing, const Cache *cache, const Rows *rows, Workspace *ws,
           int width, int keys, float *logits, const Choosing *how, const int32_t *noise_rows, int32_t *tokens, float *probabilities) {
    int threads = pool_threads(ws->pool);
    if (reserve(ws, m, rows->n, keys, width, threads)) return -1;
    Call call = {m, plan, cache, rows, ws, logits, 0, threads, 0, 0, 2 * m->num_blocks, 0, routing};
    Review argument = {&call, how, noise_rows, tokens, probabilities};
    pool_run(ws->pool, review_on, &argument);
    return 0;
}

static int ends(const Stopping *stop, int32_t token, float probability, float *reach) {
    if (is_last(stop, token)) return 1;
    if (probability < stop->threshold) return 1;
    if (!stop->acceptance) return 0;
    int bin = (int)(probability * probability * ACCEPTANCE_BINS);
    *reach *= stop->acceptance[bin < ACCEPTANCE_BINS ? bin : ACCEPTANCE_BINS - 1];
    return *reach < stop->least;
}

/* Greedy chain: `fed` tokens are run at slots and positions `first`.., then up to `count` tokens are drafted, each with
 * its alternatives: tokens and probabilities [count][top], or NULL where only tokens are wanted and `stop` asks for no more,
 * one for each. Noise row i belongs to the i-th drafted token. `logits` has room for `fed` rows, `rows_memory` for
 * ROWS_MEMORY(fed) numbers. Returns the number drafted, or -1 without memory. */
int draft_chain(const Model *m, const Plan *plan, const Routing *routing, const Cache *cache, Workspace *ws, int width,
                const int32_t *fed, int num_fed, int first, int count, float *logits, const Choosing *how, const Stopping *stop,
                int32_t *rows_memory, int32_t *tokens, float *probabilities) {
    int n = num_fed, stride = (m->vocab + LANES - 1) / LANES * LANES;
    int32_t *positions = rows_memory, *starts = positions + n, *offsets = starts + n;
    float reach = stop->reach;
    for (int i = 0; i < n; i++) positions[i] = first + i, starts[i] = 0, offsets[i] = i;
    offsets[n] = n;
    Rows rows = {n, fed, positions, positions, starts, positions, offsets, positions};
    for (int i = 0; i < count; i++) {
        int last = positions[rows.n - 1];
        if (forward(m, plan, routing, cache, &rows, ws, width, last + 1, logits, 0, 0, 0, 2 * m->num_blocks, 0)) return -1;
        const float *after = logits + (size_t)(rows.n - 1) * stride;
        int32_t *chosen = tokens + i * how->top;
        if (probabilities) choose(after, m->vocab, how, i, chosen, probabilities + i * how->top);
        else *chosen = choose_token(after, m->vocab, how, i);
        if (ends(stop, *chosen, probabilities ? probabilities[i * how->top] : 1, &reach)) return i + 1;
        rows.n = 1, rows.tokens = chosen, positions[0] = last + 1;
    }
    return count;
}

/* The best tokens of rows of logits that are there already: [rows][top]; `scratch` [top]. */
void choose_rows(const float *logits, int rows, int stride, int vocab, int top, int32_t *tokens, float *scratch) {
    for (int r = 0; r < rows; r++) choose_tokens(logits + (size_t)r * stride, vocab, top, tokens + r * top, scratch);
}
