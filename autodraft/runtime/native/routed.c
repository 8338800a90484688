/* A pass in which every row takes its own route through a plan's sub-layers. Knows nothing of drafting.
 *
 * Rows that stand before the same node run it together, the lowest node first. Every thread decides for itself where all
 * rows go and what they see, which is a few small products; so nothing but the streams is shared, and a pass over a single
 * row has no more barriers than its sub-layers. A row is given the keys of committed slots in every block, and of the
 * slots behind them those that hold this draft's key of the block. */
#include "routed.h"

#define MAX_UNITS 1024

/* One thread's walk. Lists of rows are row numbers of the whole call. */
typedef struct {
    const Call *whole;
    Call part; /* over the rows that run now */
    Rows rows;
    const Routing *how;
    Private *mine;
    int thread;
    uint8_t *written;   /* [slots][blocks]: whether a slot holds this draft's key of a block */
    float *stream;      /* [n][hidden] */
    int32_t *at, *runs; /* [n]: the node that a row stands before, nodes that it has run */
    int32_t *group, *passing;
    int32_t *positions, *slots, *starts, *lengths, *offsets, *paths; /* of `rows` */
} Walk;

static uint8_t *written(const Walk *w, int slot, int block) {
    return w->written + (size_t)slot * w->whole->m->num_blocks + block;
}

static Walk begin(const Call *c, int thread, Private *mine) {
    const Routing *how = c->routing;
    int n = c->rows->n;
    int32_t *p = how->notes + (size_t)how->notes_stride * thread;
    Walk w = {.whole = c, .part = *c, .how = how, .mine = mine, .thread = thread};
    w.written = how->written + (size_t)how->written_stride * thread;
    w.stream = n == 1 ? c->ws->x : how->streams; /* a single row never has to move */
    int32_t **lists[] = {&w.at, &w.runs, &w.group, &w.passing, &w.positions, &w.slots, &w.starts, &w.lengths, &w.offsets, &w.paths};
    for (int i = 0; i < 10; i++) *lists[i] = p + (size_t)i * (n + 1);
    w.rows = (Rows){0, c->rows->tokens, w.positions, w.slots, w.starts, w.lengths, w.offsets, w.paths};
    for (int r = 0; r < n; r++) {
        memset(written(&w, c->rows->slots[r], 0), 0, c->m->num_blocks);
        w.at[r] = how->router->nodes, w.runs[r] = 0;
    }
    return w;
}

/* Whole rows between the streams and x, where a call over several rows needs its own together. */
static void move(const Walk *w, const int32_t *list, int count, int to_x) {
    const Call *c = w->whole;
    int first, last, n = c->m->hidden;
    if (c->rows->n == 1) return;
    share(count, w->thread, c->threads, &first, &last);
    for (int i = first; i < last; i++) {
        float *stream = w->stream + (size_t)list[i] * n, *x = c->ws->x + (size_t)i * n;
        memcpy(to_x ? x : stream, to_x ? stream : x, sizeof(float) * n);
    }
    pool_barrier(c->ws->pool);
}

static int path_of(const Walk *w, int row, int block, int32_t *path) {
    const Rows *rows = w->whole->rows;
    int start = rows->prefix_starts[row], end = start + rows->prefix_lengths[row], count = 0;
    for (int slot = start > w->how->committed ? start : w->how->committed; slot < end; slot++)
        if (*written(w, slot, block)) path[count++] = slot;
    for (int i = rows->path_offsets[row]; i < rows->path_offsets[row + 1] - 1; i++)
        if (*written(w, rows->path_slots[i], block)) path[count++] = rows->path_slots[i];
    path[count++] = rows->slots[row];
    return count;
}

/* The rows of a list are the ones that run now, and they leave a key of `block`. */
static void take(Walk *w, const int32_t *list, int count, int block) {
    const Rows *rows = w->whole->rows;
    for (int i = 0; i < count; i++) *written(w, rows->slots[list[i]], block) = 1;
    w->offsets[0] = 0;
    for (int i = 0; i < count; i++) {
        int row = list[i], start = rows->prefix_starts[row], committed = w->how->committed - start;
        w->positions[i] = rows->positions[row], w->slots[i] = rows->slots[row], w->starts[i] = start;
        w->lengths[i] = rows->prefix_lengths[row] < committed ? rows->prefix_lengths[row] : committed > 0 ? committed : 0;
        w->offsets[i + 1] = w->offsets[i] + path_of(w, row, block, w->paths + w->offsets[i]);
    }
}

static void visit(Walk *w, int node, int count) {
    int width = w->how->router->width;
    w->rows.n = count, w->part.rows = &w->rows;
    move(w, w->group, count, 1);
    for (int s = node * width; s < (node + 1) * width; s++) {
        if (s % 2 == 0) take(w, w->group, count, s / 2);
        (s % 2 ? mlp : attention)(&w->part, s / 2, w->thread, w->mine);
    }
    move(w, w->group, count, 0);
    for (int i = 0; i < count; i++) w->runs[w->group[i]]++;
}

/* The likeliest destination of one stream. */
static int destination(const Router *router, int state, const float *x, int n) {
    int units = router->units, places = router->places, best = 0;
    float inner[MAX_UNITS];
    f32v squares = splat(0);
    for (int i = 0; i < n; i += WIDTH) squares += load(x + i) * load(x + i);
    f32v inverse = splat(1.0f / sqrtf(lane_sum(squares) / n + 1e-6f));
    const float *in = router->in + (size_t)state * n * units, *out = router->out + (size_t)state * units * places;
    for (int u = 0; u < units; u += WIDTH) {
        f32v sums[4] = {splat(0), splat(0), splat(0), splat(0)}; /* four chains hide the latency of each */
        for (int i = 0; i < n; i += 4)
            for (int j = 0; j < 4; j++) sums[j] += splat(x[i + j]) * load(in + (size_t)(i + j) * units + u);
        f32v sum = (sums[0] + sums[1] + sums[2] + sums[3]) * inverse + load(router->in_bias + (size_t)state * units + u);
        store(inner + u, max_each(sum, splat(0)));
    }
    float highest = -INFINITY;
    for (int place = 0; place < places; place += WIDTH) {
        f32v odds = load(router->out_bias + (size_t)state * places + place);
        for (int u = 0; u < units; u++) odds += splat(inner[u]) * load(out + (size_t)u * places + place);
        for (int i = 0; i < WIDTH; i++)
            if (odds[i] > highest) highest = odds[i], best = place + i;
    }
    return best;
}

/* Keys and values that passing rows of the group leave in the blocks from `node` on. */
static void project(Walk *w, int node, int count) {
    int last = node, width = w->how->router->width;
    for (int i = 0; i < count; i++) last = w->at[w->group[i]] > last ? w->at[w->group[i]] : last;
    for (; node < last; node++) {
        int block = node * width / 2, passing = 0;
        if (node * width % 2) continue;
        for (int i = 0; i < count; i++) {
            int row = w->group[i];
            if (w->at[row] > node && !*written(w, w->whole->rows->slots[row], block)) w->passing[passing++] = row;
        }
        if (!passing) continue;
        Call keys = w->part;
        keys.keys_only = 1, keys.rows = &w->rows, w->rows.n = passing;
        move(w, w->passing, passing, 1);
        take(w, w->passing, passing, block);
        attention(&keys, block, w->thread, w->mine);
    }
}

/* Send the group on from a state; a row that has run the most nodes that a route may have goes to the output. */
static void send(Walk *w, int state, int count) {
    const Router *router = w->how->router;
    int n = w->whole->m->hidden;
    for (int i = 0; i < count; i++) {
        int row = w->group[i];
        w->at[row] = w->runs[row] < router->most_runs ? destination(router, state, w->stream + (size_t)row * n, n) : router->nodes;
    }
    if (w->how->projected) project(w, state, count);
}

/* Rows that can be walked together: all, or, where routes go back and write keys that no later row may see too early, those
 * of the next depth. Returns how many. */
static int next_level(Walk *w, int *depth) {
    const Rows *rows = w->whole->rows;
    int next = INT32_MAX, count = 0;
    for (int r = 0; r < rows->n; r++) {
        int own = w->how->router->goes_back ? rows->path_offsets[r + 1] - rows->path_offsets[r] + rows->prefix_lengths[r] : 0;
        if (own > *depth && own < next) next = own, count = 0;
        if (own == next) w->group[count++] = r;
    }
    *depth = next;
    return count;
}

void walk_routes(const Call *c, int thread, Private *mine) {
    Walk w = begin(c, thread, mine);
    int n = c->rows->n, nodes = w.how->router->nodes, depth = -1, count;
    for (int r = 0; r < n; r++) w.passing[r] = r;
    if (n > 1) move(&w, w.passing, n, 0); /* the embeddings */
    while ((count = next_level(&w, &depth))) {
        send(&w, 0, count);
        for (int node;;) {
            node = nodes, count = 0;
            for (int r = 0; r < n; r++) {
                if (w.at[r] < node) node = w.at[r], count = 0;
                if (w.at[r] == node && node < nodes) w.group[count++] = r;
            }
            if (node == nodes) break;
            visit(&w, node, count);
            send(&w, node + 1, count);
        }
    }
    for (int r = 0; r < n; r++) w.passing[r] = r;
    move(&w, w.passing, n, 1);
}
