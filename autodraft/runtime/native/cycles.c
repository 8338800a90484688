/* Cycles of drafting and verification one after the other, where what to draft does not depend on what was accepted: what a
 * decoder does in them, without the host in between, which takes longer than a small model's step and empties caches.
 * Knows nothing of what drafts are. */
#include <string.h>

#include "clock.h"
#include "forward.h"
#include "lookup.h"

/* What is drafted: what is found in the text, else a chain of the draft's own. */
typedef struct {
    Lookup lookup;
    const Plan *plan; /* or NULL */
    int32_t longest;  /* of the draft's chains */
} Drafting;

/* When no further cycle begins: after so many tokens, cycles or seconds, or once `lost_s` more have passed than plain decoding
 * takes, `token_s` a token. `room`: tokens that may be committed at all. */
typedef struct {
    int32_t room, tokens, cycles;
    float seconds, token_s, lost_s;
} Bounds;

typedef struct {
    int32_t looked_up /* rather than drafted by a model */, drafted, committed;
    float draft_s, verify_s;
} Cycle;

static float seconds(int64_t from_ns, int64_t to_ns) { return (to_ns - from_ns) * 1e-9f; }

/* Goes on after text[0 .. length - 1], whose last token is in no cache yet; what is committed is appended. Row i of the noise
 * belongs to text[length + i]. The last cycle is one that committed one of the last tokens, or the last within bounds.
 * `logits` has room for one row more than the longest chain, looked up or drafted, has tokens; `cycles` for bounds->cycles.
 * Returns the number of cycles, or -1 without memory. */
int run_cycles(const Model *m, const Plan *target, const Drafting *drafting, const Cache *cache, Workspace *ws, int width, int32_t *text,
               int length, const Bounds *bounds, float *logits, const Choosing *how, const Stopping *stop, Cycle *cycles) {
    const int n = 1 + (drafting->lookup.tokens > drafting->longest ? drafting->lookup.tokens : drafting->longest);
    int32_t slots[n], zeros[n], numbers[n + 1], fed[n], choices[n], scratch[ROWS_MEMORY(1)];
    float probabilities[n];
    const int asks = stop->threshold > 0 || stop->acceptance;
    for (int i = 0; i <= n; i++) numbers[i] = i;
    memset(zeros, 0, sizeof zeros);
    const int64_t started = now_ns();
    int64_t before = started;
    int done = 0, count = 0;
    for (int ended = 0; !ended && done < bounds->room;) {
        const Choosing here = {how->temperature, how->noise ? how->noise + (size_t)done * m->vocab : 0, 1};
        const int first = length + done - 1, most = bounds->room - done - 1;
        int drafted = 0, looked_up = 0;
        fed[0] = text[first];
        if (drafting->lookup.tokens) {
            drafted = find_continuation(&drafting->lookup, text, first + 1, drafting->lookup.tokens < most ? drafting->lookup.tokens : most, fed + 1);
            looked_up = drafted > 0;
        }
        if (!drafted && drafting->plan && most > 0) {
            int chain = drafting->longest < most ? drafting->longest : most;
            drafted = draft_chain(m, drafting->plan, 0, cache, ws, width, fed, 1, first, chain, logits, &here, stop, scratch, fed + 1, asks ? probabilities : 0);
            if (drafted < 0) return -1;
        }
        const int64_t between = now_ns();
        for (int i = 0; i <= drafted; i++) slots[i] = first + i;
        const Rows rows = {drafted + 1, fed, slots, slots, zeros, slots, numbers, slots};
        if (review(m, target, 0, cache, &rows, ws, width, slots[drafted] + 1, logits, &here, here.noise ? numbers : 0, choices, 0)) return -1;
        int committed = 0;
        do {
            text[first + 1 + committed] = choices[committed];
            ended |= is_last(stop, choices[committed]);
            committed++;
        } while (committed <= drafted && choices[committed - 1] == fed[committed]);
        done += committed;
        const int64_t after = now_ns();
        const float took = seconds(started, after);
        cycles[count++] = (Cycle){looked_up, drafted, committed, seconds(before, between), seconds(between, after)};
        before = after;
        ended |= count == bounds->cycles || done >= bounds->tokens || took >= bounds->seconds || took > bounds->token_s * done + bounds->lost_s;
    }
    return count;
}
