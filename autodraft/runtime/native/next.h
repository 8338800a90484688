/* Where what a thread multiplies next begins. */
#ifndef AUTODRAFT_NEXT_H
#define AUTODRAFT_NEXT_H
#include "coded.h"
#include "linear.h"

static inline const char *panel_start(const Next *next) {
    const Linear *w = next->linear;
    static const uint8_t bits[] = {[KIND_F32] = 32, [KIND_BF16] = 16, [KIND_F16] = 16, [KIND_INT8] = 8,
                                   [KIND_INT4] = 4, [KIND_PLANES] = 8, [KIND_UPPER] = 8};
#ifdef LOOKS_UP
    if (w->kind == KIND_CODED) return coded_panel(w, next->panel);
#endif
    return (const char *)w->weight + (size_t)w->k_padded * LANES * bits[w->kind] / 8 * next->panel;
}

#endif
