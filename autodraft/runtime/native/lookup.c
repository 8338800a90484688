/* The text is searched from its end, which takes microseconds where it has thousands of tokens; a cycle takes more. */
#include "lookup.h"

#include <string.h>

/* After the last `agreeing` tokens: where the token that follows them stands, and how many are known to agree. */
typedef struct {
    int position, agreeing;
} Match;

/* Where what follows the last `ngram` tokens of the text begins: the last such place that `tokens` tokens follow, else the one
 * that most do; 0 where there is none. */
static int find(const int32_t *text, int length, int ngram, int tokens) {
    const int32_t last = text[length - 1];
    int found = 0;
    for (int end = length - 1; end >= ngram; end--) {
        if (text[end - 1] != last || memcmp(text + end - ngram, text + length - ngram, sizeof *text * ngram)) continue;
        found = end;
        if (length - end >= tokens) break;
    }
    return found;
}

static Match match(const Lookup *how, const int32_t *text, int length, int longest) {
    for (int ngram = longest; ngram > 0; ngram--) {
        int position = find(text, length, ngram, how->tokens);
        if (position) return (Match){position, ngram};
    }
    return (Match){0, 0};
}

int find_continuation(const Lookup *how, const int32_t *text, int length, int most, int32_t *found) {
    const int longest = length < how->max_ngram ? length : how->max_ngram;
    const Match root = match(how, text, length, longest);
    Match here = root;
    int count = 0;
    for (; count < most && here.agreeing >= how->min_ngram; count++) {
        found[count] = text[here.position];
        int agreeing = here.agreeing < how->max_ngram ? here.agreeing + 1 : how->max_ngram;
        if (here.position + 1 < length) here = (Match){here.position + 1, agreeing};
        else here = here.agreeing + 1 >= how->max_ngram ? root : match(how, text, length, agreeing);
    }
    return count;
}
