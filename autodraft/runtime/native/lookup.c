/* The text is searched from its end, which takes microseconds where it has thousands of tokens; a cycle takes more. */
#include "lookup.h"

/* After the last `agreeing` tokens: where the token that follows them stands, and how many are known to agree. */
typedef struct {
    int position, agreeing;
} Match;

/* The longest match of up to `longest` tokens; of several the last one that `tokens` tokens follow, else the one that most do. */
static Match match(const int32_t *text, int length, int longest, int tokens) {
    const int32_t *last = text + length - 1;
    Match best = {0, 0};
    for (int position = length - 1, enough = 0; position > 0 && !(enough && best.agreeing == longest); position--) {
        const int32_t *before = text + position - 1;
        if (*before != *last) continue;
        int agreeing = 1;
        while (agreeing < longest && agreeing < position && before[-agreeing] == last[-agreeing]) agreeing++;
        if (agreeing < best.agreeing || (agreeing == best.agreeing && enough)) continue;
        best = (Match){position, agreeing};
        enough = length - position >= tokens;
    }
    return best;
}

int find_continuation(const Lookup *how, const int32_t *text, int length, int most, int32_t *found) {
    const int longest = length < how->max_ngram ? length : how->max_ngram;
    const Match root = match(text, length, longest, how->tokens);
    Match here = root;
    int count = 0;
    for (; count < most && here.agreeing >= how->min_ngram; count++) {
        found[count] = text[here.position];
        int agreeing = here.agreeing < how->max_ngram ? here.agreeing + 1 : how->max_ngram;
        if (here.position + 1 < length) here = (Match){here.position + 1, agreeing};
        else here = here.agreeing + 1 >= how->max_ngram ? root : match(text, length, agreeing, how->tokens);
    }
    return count;
}
