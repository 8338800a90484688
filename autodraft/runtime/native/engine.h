/* Types shared with Python (autodraft/runtime/native_binding.py mirrors them field by field). */
#ifndef AUTODRAFT_ENGINE_H
#define AUTODRAFT_ENGINE_H
#include <stdint.h>

enum { KIND_F32 = 0, KIND_BF16 = 1, KIND_INT8 = 2, KIND_INT4 = 3, KIND_F16 = 4, KIND_PLANES = 5, KIND_UPPER = 6, KIND_CODED = 7 };

#define CODED_INPUTS 8
#define CODED_BYTES 192
#define PLAIN_BYTES 256

/* One packed matrix, y[n] = W[n][k] x[k] + bias. Outputs come in panels of 16 (n padded with zeros):
 *   F32   [n/16][k][16], and F16, whose products are those of F32
 *   PLANES  two [n/16][k][16] of bytes that are one matrix of F16 (autodraft/runtime/byte_planes.py), with an even k;
 *   UPPER   the first of them alone
 *   BF16  [n/16][k/2][16][2]
 *   CODED   BF16 in fewer bytes (autodraft/runtime/coded_weights.py): [n/32][k/8][2] groups of 128 lower bytes and 128 codes;
 *           in `scale` 16 upper bytes by code; in `lower` groups as they were, [k/8 of BF16]; in `sum`, for each panel, where the
 *           list of its groups that stand there begins, and these lists, each ended by a number that no group has
 *   INT8  [n/16][k/4][16][4], float scale [n], sum [n] = 128 * sum of the row
 *   INT4  [n/16][k/8][16][4] bytes, low nibbles = inputs 0..3, high = 4..7; bf16 scale [n/16][k/32][16] */
typedef struct {
    int32_t kind, n, k, k_padded;
    int32_t cached; /* CODED only: it is expected to lie in a cache of the processor */
    const void *weight;
    const void *lower; /* PLANES and CODED only */
    const void *scale;
    const int32_t *sum;
    const float *bias;
} Linear;

/* A matrix [n][k] of F32, F16 or BF16, to be packed. */
typedef struct {
    const void *rows;
    int32_t kind, n, k, k_padded;
} Source;

typedef struct {
    int32_t channels;           /* KV heads, or neurons padded to 16 */
    const int32_t *kv_heads;    /* attention only */
    Linear in, out;             /* {q,k,v} by KV head, and {o}; {gate,up} interleaved by panel, or {up}, and {down} */
} Segment;

typedef struct {
    int32_t num_attention, num_mlp;
    const Segment *attention, *mlp;
} BlockPlan;

typedef struct {
    const BlockPlan *blocks;
    Linear head;
} Plan;

typedef struct {
    const float *attention_norm, *attention_norm_bias; /* each NULL where there is none */
    const float *query_norm, *key_norm; /* [head_dim], or of all heads where those are normed as one vector */
    const float *mlp_norm, *mlp_norm_bias;
    const float *attention_norm_behind, *mlp_norm_behind; /* of what a sub-layer adds */
} BlockNorms;

typedef struct {
    int32_t num_blocks, hidden, num_heads, num_kv_heads, head_dim, vocab;
    int32_t layer_norm, activation /* 0 silu, 1 relu, 2 gelu, 3 gelu by tanh, 4 squared relu */, gated, dtype /* KIND_F32 or KIND_BF16 */;
    int32_t joint_qk_norm;      /* queries of all heads of a segment are normed as one vector, and so are keys */
    int32_t norms_rotated;      /* heads are rotated before they are normed */
    int32_t rotary_dim;         /* leading channels of a head that are rotated */
    int32_t rotates_pairs;      /* channels 2i and 2i + 1 together, not i and i + rotary_dim / 2 */
    float norm_eps, embedding_scale, query_scale /* beside 1 / sqrt(head_dim) */;
    float score_cap, logit_cap; /* approached through a tanh; 0: none */
    const void *embedding;      /* [vocab][hidden] in dtype */
    const void *positions;      /* [positions][hidden] in dtype, or NULL */
    const float *cosine, *sine; /* [rotations][table_rows][rotary_dim / 2], or NULL */
    int32_t table_rows, window; /* keys that a query of a windowed block sees at most */
    const int8_t *rotations;    /* [blocks]: by which tables its heads are rotated; -1: not */
    const uint8_t *windowed;    /* [blocks] */
    const BlockNorms *norms;
    const float *final_norm, *final_norm_bias;
} Model;

/* Keys and values [block][kv_head] in the model's dtype, each head as attention.h says; slots in multiples of 32. */
typedef struct {
    void *keys, *values;
    int32_t slots;
} Cache;

typedef struct {
    int32_t n;
    const int32_t *tokens, *positions, *slots, *prefix_starts, *prefix_lengths, *path_offsets, *path_slots;
} Rows;

/* For each of nodes + 1 states a network of one hidden layer on the stream divided by its root mean square; units and
 * places (destinations) are padded to multiples of 16, impossible destinations have a bias of -inf. */
typedef struct {
    int32_t nodes, width /* sub-layers of a node */, most_runs, goes_back, units, places;
    const float *in, *in_bias;   /* [states][hidden][units], [states][units] */
    const float *out, *out_bias; /* [states][units][places], [states][places] */
} Router;

typedef struct {
    const Router *router;
    int32_t projected;         /* a passing row leaves keys and values made of its stream; else none */
    int32_t committed;         /* slots below it hold the target's keys of all blocks */
    uint8_t *written;          /* [threads][slots][blocks], kept from call to call */
    float *streams;            /* [n][hidden], scratch */
    int32_t *notes;            /* [threads][10 * (n + 1) + all paths], scratch */
    int64_t written_stride, notes_stride; /* from thread to thread */
} Routing;

#endif
