/* The sub-layers of a plan over some rows. Knows nothing of policies, routes or trees.
 *
 * A matrix product is split by output panels, attention by KV heads. Norms and activation conversions are repeated by
 * every thread in memory of its own, which is cheaper than a barrier at the few rows that decoding has. */
#include "blocks.h"
#include "norms.h"

#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define LARGE_PAGE ((size_t)2 << 20)

Workspace *workspace_new(int threads) {
    Workspace *ws = (Workspace *)calloc(1, sizeof(Workspace));
    if (ws && threads > 1) ws->pool = pool_new(threads);
    return ws;
}
void workspace_free(Workspace *ws) {
    if (!ws) return;
    pool_free(ws->pool);
    free(ws->memory);
    free(ws);
}

static size_t round64(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* At least so much memory, its size in `bytes`; in one page where the system has such: small ones that happen to share sets of
 * the second-level cache make every step of a process some percent slower. */
static char *allocate(size_t *bytes) {
    *bytes = (*bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    char *memory = (char *)aligned_alloc(LARGE_PAGE, *bytes);
#ifdef MADV_HUGEPAGE
    if (memory) madvise(memory, *bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

int reserve(Workspace *ws, const Model *m, int rows, int keys, int width, int threads) {
    int group = m->num_heads / m->num_kv_heads, queries = rows * group < MAX_QUERIES ? rows * group : MAX_QUERIES;
    keys = (keys + LANES - 1) / LANES * LANES; /* scores of every query begin at a line of the cache */
    size_t outputs = m->norms->mlp_norm_behind ? round64(sizeof(float) * m->hidden) : 0;
    size_t per_row = round64(sizeof(float) * m->hidden) + 5 * round64(sizeof(float) * width) + outputs;
    size_t private_bytes = round64(sizeof(float) * rows * m->hidden) + round64(sizeof(float) * (size_t)rows * width) +
                           round64(sizeof(float) * rows) + round64(sizeof(int32_t) * (size_t)rows * (width / 32 + 1)) +
                           sizeof(Query) * MAX_QUERIES +
                           round64(sizeof(float) * (size_t)queries * (keys + 2 * SCORE_MARGIN)) +
                           round64(sizeof(uint16_t) * TAIL_QUERIES * (keys + TAIL_MARGIN)) +
                           (m->joint_qk_norm ? round64(2 * sizeof(float) * rows) : 0);
    size_t bytes = per_row * rows + private_bytes * threads + 4096;
    if (bytes > ws->memory_bytes) {
        free(ws->memory);
        ws->memory_bytes = 0;
        bytes += bytes / 4;
        ws->memory = allocate(&bytes);
        if (!ws->memory) return -1;
        ws->memory_bytes = bytes;
    }
    char *p = ws->memory;
    ws->x = (float *)p, p += round64(sizeof(float) * m->hidden) * rows;
    ws->projected = (float *)p, p += round64(sizeof(float) * width) * rows;
    ws->wide = (float *)p, p += round64(sizeof(float) * width) * rows;
    ws->mixed = (float *)p, p += round64(sizeof(float) * width) * rows;
    ws->hidden = (float *)p, p += round64(sizeof(float) * width) * rows;
    ws->operands = p, p += round64(sizeof(float) * width) * rows;
    ws->outputs = (float *)p, p += outputs * rows;
    ws->shared_floats = (size_t)(p - ws->memory);
    ws->rows = rows, ws->keys = keys, ws->width = width, ws->private_bytes = private_bytes;
    return 0;
}

Private private_of(Workspace *ws, const Model *m, int thread) {
    char *p = ws->memory + ws->shared_floats + ws->private_bytes * thread;
    Private mine;
    mine.normed = (float *)p, p += round64(sizeof(float) * (size_t)ws->rows * m->hidden);
    mine.activations.data = p, p += round64(sizeof(float) * (size_t)ws->rows * ws->width);
    mine.activations.scales = (float *)p, p += round64(sizeof(float) * ws->rows);
    mine.activations.corrections = (int32_t *)p, p += round64(sizeof(int32_t) * (size_t)ws->rows * (ws->width / 32 + 1));
    mine.queries = (Query *)p, p += sizeof(Query) * MAX_QUERIES;
    mine.scales = (float *)p, p += m->joint_qk_norm ? round64(2 * sizeof(float) * ws->rows) : 0;
    mine.scores = (float *)p;
    mine.tails = (uint16_t *)(ws->memory + ws->shared_floats + ws->private_bytes * (thread + 1)) - TAIL_QUERIES * (ws->keys + TAIL_MARGIN);
    return mine;
}

const float *norm_rows(const Call *c, const float *weight, const float *bias, Private *mine) {
    int n = c->m->hidden;
    if (!weight) return c->ws->x;
    for (int r = 0; r < c->rows->n; r++) norm_row(c->m, c->ws->x + (size_t)r * n, weight, bias, n, mine->normed + (size_t)r * n);
    return mine->normed;
}

/* Adds a sub-layer's outputs to the stream through the norm behind it; each thread some channels of all rows. */
static void add_normed(const Call *c, const float *weight, int thread) {
    int first, last, n = c->m->hidden;
    float mean;
    share(n / LANES, thread, c->threads, &first, &last);
    for (int r = 0; r < c->rows->n; r++) {
        const float *y = c->ws->outputs + (size_t)r * n;
        float *x = c->ws->x + (size_t)r * n;
        f32v inverse = moments(c->m, y, n, &mean);
        for (int i = first * LANES; i < last * LANES; i += WIDTH) store(x + i, load(x + i) + load(y + i) * inverse * load(weight + i));
    }
    pool_barrier(c->ws->pool);
}

/* Numbers of one head beside each other in `projected`: its queries, its key and its value. */
static int head_width(const Model *m) { return (m->num_heads / m->num_kv_heads + 2) * m->head_dim; }

static void share_panels(const Call *c, const Linear *w, int thread, int *first, int *last) {
    share((w->n + LANES - 1) / LANES, thread, c->threads, first, last);
}

/* Whether a thread multiplies what belongs to some of the heads, and then needs nothing but what it makes itself. */
static int by_head(const Call *c, const Segment *s) { return c->keys_only || s->channels % c->threads == 0; }

/* The first that a thread multiplies of a matrix, of a segment's in-projection, and of what comes behind a segment. */
static Next begin_matrix(const Call *c, const Linear *w, int thread) {
    int first, last;
    share_panels(c, w, thread, &first, &last);
    return (Next){w, first};
}
static Next begin_segment(const Call *c, const Segment *s, int sub_layer, int thread) {
    int first, last, attends = sub_layer % 2 == 0;
    if (attends && !by_head(c, s)) return begin_matrix(c, &s->in, thread);
    share(attends ? s->channels : s->channels / LANES, thread, c->threads, &first, &last);
    return (Next){&s->in, first * (attends ? head_width(c->m) / LANES : c->m->gated ? 2 : 1)};
}
/* The last in `next`, as if no row were routed elsewhere; NULL where nothing comes. */
static const Next *begin_behind(const Call *c, int sub_layer, int segment, int thread, Next *next) {
    for (segment++; sub_layer < c->last; sub_layer++, segment = 0) {
        const BlockPlan *plan = c->plan->blocks + sub_layer / 2;
        if (segment < (sub_layer % 2 ? plan->num_mlp : plan->num_attention))
            return *next = begin_segment(c, (sub_layer % 2 ? plan->mlp : plan->attention) + segment, sub_layer, thread), next;
    }
    return c->logits ? *next = begin_matrix(c, &c->plan->head, thread), next : 0;
}

void product(const Call *c, const Linear *w, const float *x, int stride, float *y, int y_stride, int add, int thread,
             Private *mine, const Next *next) {
    int first, last;
    share_panels(c, w, thread, &first, &last);
    prepare(w, x, c->rows->n, stride, &mine->activations);
    multiply(w, first, last, &mine->activations, c->rows->n, y, y_stride, add, next);
}

/* A thread's own columns of rows [row, end) of x for the output projection `w`, which all threads are going to read. */
static void leave_operands(const Call *c, const Linear *w, const float *x, int row, int end, int first, int last) {
    Activations shared = {c->ws->operands, 0, 0, 0};
    last = last < w->k ? last : w->k; /* neurons come in whole panels, what they are multiplied with need not */
    if (first < last && prepares_columns(w)) prepare_columns(w, x, c->rows->n, row, end, c->ws->width, first, last, &shared);
}

/* Adds an output projection to y: of what threads have left, or of x where whole rows have to be looked at first. */
static void project_back(const Call *c, const Linear *w, const float *x, float *y, int add, int thread, Private *mine,
                         const Next *next) {
    if (!prepares_columns(w)) {
        product(c, w, x, c->ws->width, y, c->m->hidden, add, thread, mine, next);
        return;
    }
    Activations shared = {c->ws->operands, w->k_padded, 0, 0};
    int first, last;
    share_panels(c, w, thread, &first, &last);
    multiply(w, first, last, &shared, c->rows->n, y, c->m->hidden, add, next);
}

/* Queries, keys and values of some of the segment's heads, or keys and values alone. */
static void project_heads(const Call *c, const Segment *s, const float *normed, int first, int last, Private *mine, const Next *next) {
    const Model *m = c->m;
    int panels = head_width(m) / LANES, skipped = c->keys_only ? panels - 2 * m->head_dim / LANES : 0;
    prepare(&s->in, normed, c->rows->n, m->hidden, &mine->activations);
    for (int head = first; head < last;) { /* at once where nothing lies between them */
        int end = skipped ? head + 1 : last;
        multiply(&s->in, head * panels + skipped, end * panels, &mine->activations, c->rows->n, c->ws->projected, c->ws->width, 0, next);
        head = end;
    }
}

static void rotate(const Model *m, int block, float *x, int position) {
    if (m->rotations[block] < 0) return;
    int half = m->rotary_dim / 2;
    size_t row = (size_t)m->rotations[block] * m->table_rows + position;
    const float *cosine = m->cosine + row * half, *sine = m->sine + row * half;
    int i = 0;
    for (; i < half && m->rotates_pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosine[i] - b * sine[i];
        x[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
    for (; i + WIDTH <= half; i += WIDTH) {
        f32v a = load(x + i), b = load(x + i + half), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(x + i + half, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void write_cache(const Call *c, int block, int head, int slot, const float *key, const float *value) {
    const Model *m = c->m;
    int dim = m->head_dim;
    size_t base = ((size_t)block * m->num_kv_heads + head) * c->cache->slots * dim;
    if (m->dtype == KIND_BF16) {
        uint16_t *keys = (uint16_t *)c->cache->keys + base, *values = (uint16_t *)c->cache->values + base;
        for (int d = 0; d < dim; d += WIDTH) {
            uint16_t half[WIDTH];
            store_bf16(half, load(key + d));
            uint16_t *to = keys + key_index(KIND_BF16, dim, slot, d); /* two channels side by side, the next two a line on */
            for (int i = 0; i < WIDTH / 2; i++) memcpy(to + i * 2 * LANES, half + 2 * i, 4);
            store_alternate(values + value_index(KIND_BF16, dim, slot, d), load(value + d), slot % 2);
        }
    } else {
        float *keys = (float *)c->cache->keys + base, *values = (float *)c->cache->values + base;
        for (int d = 0; d < dim; d++) keys[key_index(KIND_F32, dim, slot, d)] = key[d];
        for (int d = 0; d < dim; d++) values[value_index(KIND_F32, dim, slot, d)] = value[d];
    }
}

/* What divides queries and keys of each row, of all heads of a segment as one vector. */
static void scale_jointly(const Call *c, const Segment *s, float *scales) {
    const Model *m = c->m;
    int queries = (m->num_heads / m->num_kv_heads) * m->head_dim;
    for (int row = 0; row < c->rows->n; row++, scales += 2) {
        f32v of_queries = splat(0), of_keys = splat(0);
        for (int local = 0; local < s->channels; local++) {
            const float *q = c->ws->projected + (size_t)row * c->ws->width + (size_t)local * head_width(m);
            for (int i = 0; i < queries && !c->keys_only; i += WIDTH) of_queries += load(q + i) * load(q + i);
            for (int i = queries; i < queries + m->head_dim; i += WIDTH) of_keys += load(q + i) * load(q + i);
        }
        scales[0] = inverse_root(m, of_queries, s->channels * queries);
        scales[1] = inverse_root(m, of_keys, s->channels * m->head_dim);
    }
}

static void norm_head(const Model *m, float *head, const float *weight, int number, const float *joint_scale) {
    if (!weight) return;
    if (!m->joint_qk_norm) {
        norm_row(m, head, weight, 0, m->head_dim, head);
        return;
    }
    weight += (size_t)number * m->head_dim;
    for (int i = 0; i < m->head_dim; i += WIDTH) store(head + i, load(head + i) * splat(*joint_scale) * load(weight + i));
}

/* A query or a key as attention takes it: normed and rotated, in the order of the family. */
static void place(const Model *m, int block, float *head, const float *weight, int number, const float *joint_scale, int position) {
    if (m->norms_rotated) rotate(m, block, head, position);
    norm_head(m, head, weight, number, joint_scale);
    if (!m->norms_rotated) rotate(m, block, head, position);
}

/* Norms, rotation and caching of one (row, head); `local` counts the segment's own heads. */
static void place_head(const Call *c, int block, const Segment *s, int row, int local, const Private *mine) {
    const Model *m = c->m;
    const BlockNorms *norms = m->norms + block;
    int group = m->num_heads / m->num_kv_heads, dim = m->head_dim, position = c->rows->positions[row];
    float *q = c->ws->projected + (size_t)row * c->ws->width + (size_t)local * head_width(m), *k = q + group * dim, *v = k + dim;
    for (int g = 0; g < group && !c->keys_only; g++) {
        float *head = q + (size_t)g * dim;
        place(m, block, head, norms->query_norm, s->kv_heads[local] * group + g, mine->scales + 2 * row, position);
        if (m->query_scale != 1)
            for (int i = 0; i < dim; i += WIDTH) store(head + i, load(head + i) * splat(m->query_scale));
    }
    place(m, block, k, norms->key_norm, s->kv_heads[local], mine->scales + 2 * row + 1, position);
    write_cache(c, block, s->kv_heads[local], c->rows->slots[row], k, v);
}

/* Keys of a row's prefix that lie behind the block's window. */
static int hidden_keys(const Call *c, int block, int row) {
    int behind = c->rows->positions[row] + 1 - c->m->window, prefix = c->rows->prefix_lengths[row];
    if (!c->m->windowed[block] || behind < 0) return 0;
    return behind < prefix ? behind : prefix;
}

/* Rows [first, last) of one head, in runs of rows whose prefixes start alike; keys that none of a run sees are left out. */
static void attend_head(const Call *c, int block, const Segment *s, int first, int last, int local, Private *mine) {
    const Model *m = c->m;
    const Rows *rows = c->rows;
    int group = m->num_heads / m->num_kv_heads, dim = m->head_dim, size = m->dtype == KIND_BF16 ? 2 : 4;
    size_t base = ((size_t)block * m->num_kv_heads + s->kv_heads[local]) * c->cache->slots * dim * size;
    int row = first;
    while (row < last) {
        int count = 0, start = rows->prefix_starts[row], skipped = INT32_MAX;
        for (int r = row; r < last && rows->prefix_starts[r] == start && (r - row + 1) * group <= MAX_QUERIES; r++) {
            int hidden = hidden_keys(c, block, r);
            skipped = hidden < skipped ? hidden : skipped;
        }
        for (; row < last && rows->prefix_starts[row] == start && count + group <= MAX_QUERIES; row++)
            for (int g = 0; g < group; g++, count++) {
                size_t start_of_row = (size_t)row * c->ws->width, at = start_of_row + (size_t)(local * group + g) * dim;
                mine->queries[count] = (Query){c->ws->projected + start_of_row + (size_t)local * head_width(m) + (size_t)g * dim,
                                               mine->scores + (size_t)count * (c->ws->keys + 2 * SCORE_MARGIN) + SCORE_MARGIN,
                                               c->ws->mixed + at,
                                               rows->path_slots + rows->path_offsets[row],
                                               rows->prefix_lengths[row] - skipped,
                                               rows->path_offsets[row + 1] - rows->path_offsets[row],
                                               hidden_keys(c, block, row) - skipped,
                                               m->score_cap};
            }
        attend(mine->queries, count, (char *)c->cache->keys + base, (char *)c->cache->values + base, m->dtype, dim,
               start + skipped, mine->tails, c->ws->keys + TAIL_MARGIN);
    }
}

void attention(const Call *c, int block, int thread, Private *mine) {
    const BlockPlan *plan = c->plan->blocks + block;
    const BlockNorms *norms = c->m->norms + block;
    Workspace *ws = c->ws;
    const float *behind_it = norms->attention_norm_behind, *normed = ws->x;
    int n = c->rows->n, first, last;
    if (plan->num_attention) normed = norm_rows(c, norms->attention_norm, norms->attention_norm_bias, mine);
    for (int i = 0; i < plan->num_attention; i++) {
        const Segment *s = plan->attention + i;
        const Next out = begin_matrix(c, &s->out, thread);
        Next behind;
        int heads = by_head(c, s);
        share(heads ? s->channels : s->channels * n, thread, c->threads, &first, &last);
        if (heads) {
            project_heads(c, s, normed, first, last, mine, c->keys_only ? 0 : &out);
            first *= n, last *= n;
        } else {
            product(c, &s->in, normed, c->m->hidden, ws->projected, ws->width, 0, thread, mine, &out);
            pool_barrier(ws->pool);
        }
        if (c->m->joint_qk_norm) {
            if (heads) pool_barrier(ws->pool);
            scale_jointly(c, s, mine->scales);
            pool_barrier(ws->pool);
        }
        for (int item = first; item < last; item++) place_head(c, block, s, item % n, item / n, mine);
        if (!heads || c->keys_only) pool_barrier(ws->pool);
        if (c->keys_only) continue;
        for (int item = first; item < last;) { /* items run over rows first: the rows of a head go together */
            int end = item - item % n + n;
            end = end < last ? end : last;
            int row = item % n, local = item / n, channels = s->out.k / s->channels;
            attend_head(c, block, s, row, row + end - item, local, mine);
            leave_operands(c, &s->out, ws->mixed, row, row + end - item, local * channels, (local + 1) * channels);
            item = end;
        }
        pool_barrier(ws->pool);
        project_back(c, &s->out, ws->mixed, behind_it ? ws->outputs : ws->x, !behind_it || i, thread, mine,
                     begin_behind(c, 2 * block, i, thread, &behind));
        pool_barrier(ws->pool);
    }
    if (behind_it && plan->num_attention && !c->keys_only) add_normed(c, behind_it, thread);
}

static f32v activate(const Model *m, f32v v) {
    if (m->activation == 0) return v / (splat(1.0f) + exp_each(-v));
    if (m->activation == 1) return max_each(v, splat(0));
    if (m->activation == 4) return max_each(v, splat(0)) * max_each(v, splat(0));
    if (m->activation == 3) { /* 1 + tanh(u) = 2 / (1 + exp(-2 u)) */
        f32v twice = splat(1.5957691f) * (v + splat(0.044715f) * v * v * v);
        return v / (splat(1.0f) + exp_each(-twice));
    }
    for (int i = 0; i < WIDTH; i++) v[i] = 0.5f * v[i] * (1.0f + erff(v[i] * 0.70710678f));
    return v;
}

void mlp(const Call *c, int block, int thread, Private *mine) {
    const BlockPlan *plan = c->plan->blocks + block;
    const BlockNorms *norms = c->m->norms + block;
    const Model *m = c->m;
    Workspace *ws = c->ws;
    const float *behind_it = norms->mlp_norm_behind, *normed = ws->x;
    int first, last, wide = m->gated ? 2 : 1;
    if (plan->num_mlp) normed = norm_rows(c, norms->mlp_norm, norms->mlp_norm_bias, mine);
    for (int i = 0; i < plan->num_mlp; i++) {
        const Segment *s = plan->mlp + i;
        const Next out = begin_matrix(c, &s->out, thread);
        Next behind;
        share(s->channels / LANES, thread, c->threads, &first, &last);
        prepare(&s->in, normed, c->rows->n, m->hidden, &mine->activations);
        multiply(&s->in, first * wide, last * wide, &mine->activations, c->rows->n, ws->wide, ws->width, 0, &out);
        for (int r = 0; r < c->rows->n; r++) {
            const float *in = ws->wide + (size_t)r * ws->width;
            float *hidden = ws->hidden + (size_t)r * ws->width;
            for (int panel = first; panel < last; panel++)
                for (int i = 0; i < LANES; i += WIDTH) {
                    f32v v = activate(m, load(in + (size_t)panel * wide * LANES + i));
                    store(hidden + (size_t)panel * LANES + i, m->gated ? v * load(in + (size_t)(panel * 2 + 1) * LANES + i) : v);
                }
        }
        leave_operands(c, &s->out, ws->hidden, 0, c->rows->n, first * LANES, last * LANES);
        pool_barrier(ws->pool);
        project_back(c, &s->out, ws->hidden, behind_it ? ws->outputs : ws->x, !behind_it || i, thread, mine,
                     begin_behind(c, 2 * block + 1, i, thread, &behind));
        pool_barrier(ws->pool);
    }
    if (behind_it && plan->num_mlp) add_normed(c, behind_it, thread);
}

void cap_logits(const Call *c, int thread) {
    int first, last, stride = (c->m->vocab + LANES - 1) / LANES * LANES;
    share_panels(c, &c->plan->head, thread, &first, &last);
    for (int r = 0; r < c->rows->n && c->m->logit_cap; r++) {
        float *logits = c->logits + (size_t)r * stride;
        for (int i = first * LANES; i < last * LANES; i += WIDTH) store(logits + i, cap_each(load(logits + i), c->m->logit_cap));
    }
}

void embed(const Call *c, int thread) {
    const Model *m = c->m;
    int first, last, n = m->hidden;
    share(c->rows->n * (n / WIDTH), thread, c->threads, &first, &last);
    for (int item = first; item < last; item++) {
        int row = item / (n / WIDTH), at = item % (n / WIDTH) * WIDTH;
        size_t token = (size_t)c->rows->tokens[row] * n + at, position = (size_t)c->rows->positions[row] * n + at;
        int half = m->dtype == KIND_BF16;
        f32v v = half ? load_bf16((const uint16_t *)m->embedding + token) : load((const float *)m->embedding + token);
        v *= splat(m->embedding_scale);
        if (m->positions) v += half ? load_bf16((const uint16_t *)m->positions + position) : load((const float *)m->positions + position);
        store(c->ws->x + (size_t)row * n + at, v);
    }
}
