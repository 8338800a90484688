/* Time as it passes. */
#ifndef AUTODRAFT_CLOCK_H
#define AUTODRAFT_CLOCK_H
#include <stdint.h>
#include <time.h>

static inline int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

#endif
