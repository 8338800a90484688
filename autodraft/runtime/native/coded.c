/* Makes what coded.h reads. */
#include "coded.h"

/* How often each upper byte occurs in `n` weights; n is even. */
void count_uppers(const uint16_t *weights, int64_t n, int64_t counts[256]) {
    int64_t others[256] = {0}; /* equal bytes follow each other: two sums wait for each other half as often */
    memset(counts, 0, sizeof others);
    for (int64_t i = 0; i < n; i += 2) counts[weights[i] >> 8]++, others[weights[i + 1] >> 8]++;
    for (int byte = 0; byte < 256; byte++) counts[byte] += others[byte];
}

/* Panels [first, last) of BF16 as CODED into `groups`, with the code of each upper byte, above 15 if it has none; `plain`
 * [panels][number]: whether a group has such bytes. */
void code_panels(const uint16_t *weights, int first, int last, int number, const uint8_t code_of[256], uint8_t *groups, uint8_t *plain) {
    for (int panel = first; panel < last; panel++)
        for (int g = 0; g < number; g++) {
            const uint16_t *from = weights + ((size_t)panel * number + g) * (PLAIN_BYTES / 2);
            uint8_t *to = groups + (((size_t)(panel / 2) * number + g) * 2 + panel % 2) * CODED_BYTES, seen = 0;
            for (int lane = 0; lane < 4; lane++) for (int pair = 0; pair < 2; pair++) for (int i = 0; i < 8; i++) {
                const int place = 16 * lane + 8 * pair + i, source = 32 * pair + 8 * lane + i;
                const uint16_t low = from[source], high = from[CODED_HALF + source];
                const uint8_t low_code = code_of[low >> 8], high_code = code_of[high >> 8];
                to[place] = (uint8_t)low, to[CODED_HALF + place] = (uint8_t)high;
                to[2 * CODED_HALF + place] = (uint8_t)(low_code | high_code << 4);
                seen |= low_code | high_code;
            }
            plain[(size_t)panel * number + g] = seen > 15;
        }
}
