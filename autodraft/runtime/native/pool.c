/* A team of threads that meets tens of times per step. Knows nothing of what it computes.
 *
 * Waiting is spinning for a while, then sleeping: on an idle machine nobody ever sleeps in a step, and on a busy
 * one the thread that is waited for gets the core. (OpenMP runtimes spin for milliseconds or not at all.) */
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#else
#include <sched.h>
#endif
#ifdef __x86_64__
#include <immintrin.h>
#endif

/* A pause instruction takes 40 cycles on one processor and 140 on another: time is counted, not pauses. */
#define SPIN_NS 200000
#define SPIN_BETWEEN_JOBS_NS 500000 /* as long as a scheduler thinks between two forward passes */
#define PAUSES_PER_LOOK 64

typedef struct {
    Pool *pool;
    int thread, started_at;
} Seat;

struct Pool {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int phase;    /* counts barriers */
    _Alignas(64) atomic_int started;  /* counts jobs */
    _Alignas(64) atomic_int sleepers;
    int wanted, threads, stopping;
    pid_t process;
    void (*job)(void *, int);
    void *argument;
    pthread_t *workers;
    Seat *seats;
};

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void wait_for_change(Pool *pool, atomic_int *word, int old, int64_t spin_ns) {
    int64_t until = 0;
    for (int spins = 1; atomic_load_explicit(word, memory_order_acquire) == old; spins++) {
        if (spins == PAUSES_PER_LOOK) until = now_ns() + spin_ns;
        if (spins % PAUSES_PER_LOOK || now_ns() < until) {
#ifdef __x86_64__
            _mm_pause();
#endif
            continue;
        }
#ifdef __linux__
        atomic_fetch_add(&pool->sleepers, 1);
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, 0, 0, 0);
        atomic_fetch_sub(&pool->sleepers, 1);
#else
        sched_yield();
#endif
    }
}

static void change(Pool *pool, atomic_int *word) {
    atomic_fetch_add(word, 1);
#ifdef __linux__
    if (atomic_load(&pool->sleepers)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, pool->threads, 0, 0, 0);
#endif
}

void pool_barrier(Pool *pool) {
    if (!pool || pool->threads == 1) return;
    int phase = atomic_load(&pool->phase);
    if (atomic_fetch_add(&pool->arrived, 1) == pool->threads - 1) {
        atomic_store(&pool->arrived, 0);
        change(pool, &pool->phase);
    } else {
        wait_for_change(pool, &pool->phase, phase, SPIN_NS);
    }
}

static void *work(void *argument) {
    Seat *seat = (Seat *)argument;
    Pool *pool = seat->pool;
    for (int seen = seat->started_at;; seen++) {
        wait_for_change(pool, &pool->started, seen, SPIN_BETWEEN_JOBS_NS);
        if (pool->stopping) return 0;
        pool->job(pool->argument, seat->thread);
        pool_barrier(pool);
    }
}

static void start_workers(Pool *pool) {
    pool->process = getpid();
    pool->threads = pool->wanted;
    atomic_store(&pool->arrived, 0);
    atomic_store(&pool->sleepers, 0);
    for (int i = 1; i < pool->wanted; i++) {
        pool->seats[i] = (Seat){pool, i, atomic_load(&pool->started)};
        if (pthread_create(&pool->workers[i], 0, work, &pool->seats[i])) {
            pool->threads = i;
            return;
        }
    }
}

int pool_threads(Pool *pool) {
    if (!pool) return 1;
    if (pool->process != getpid()) start_workers(pool); /* first use, or a forked child, which inherits no threads */
    return pool->threads;
}

void pool_run(Pool *pool, void (*job)(void *, int), void *argument) {
    if (pool_threads(pool) == 1) {
        job(argument, 0);
        return;
    }
    pool->job = job;
    pool->argument = argument;
    change(pool, &pool->started);
    job(argument, 0);
    pool_barrier(pool);
}

Pool *pool_new(int threads) {
    Pool *pool = (Pool *)aligned_alloc(64, (sizeof(Pool) + 63) / 64 * 64);
    if (!pool) return 0;
    memset(pool, 0, sizeof *pool);
    pool->wanted = threads;
    pool->workers = (pthread_t *)calloc(threads, sizeof *pool->workers);
    pool->seats = (Seat *)calloc(threads, sizeof *pool->seats);
    if (pool->workers && pool->seats) return pool;
    pool_free(pool);
    return 0;
}

void pool_free(Pool *pool) {
    if (!pool) return;
    if (pool->process == getpid() && pool->threads > 1) {
        pool->stopping = 1;
        change(pool, &pool->started);
        for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i], 0);
    }
    free(pool->workers);
    free(pool->seats);
    free(pool);
}
