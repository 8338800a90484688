/* A team of threads that meets tens of times per step. Knows nothing of what it computes.
 *
 * Waiting is spinning for a while, then sleeping: on an idle machine nobody ever sleeps in a step, and on a busy
 * one the thread that is waited for gets the core. (OpenMP runtimes spin for milliseconds or not at all.) */
#include "clock.h"
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
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
    int thread;
    unsigned long long started_at;
} Seat;

struct Pool {
    _Alignas(64) atomic_ullong arrivals; /* at barriers, of all threads together */
    _Alignas(64) atomic_ullong started;  /* jobs */
    _Alignas(64) atomic_uint sleepers;
    int wanted, threads, stopping;
    pid_t process;
    void (*job)(void *, int);
    void *argument;
    pthread_t *workers;
    Seat *seats;
};

#ifdef __linux__
/* Calls that put threads to sleep look at 32 bits, the lower ones of a count: all processors here have them first. */
static void futex(atomic_ullong *count, int what, unsigned value) { syscall(SYS_futex, count, what, value, 0, 0, 0); }
#endif

/* Waits until a count has come to `wanted`. */
static void wait_for(Pool *pool, atomic_ullong *count, unsigned long long wanted, int64_t spin_ns) {
    int64_t until = 0;
    unsigned long long now;
    for (int spins = 1; (now = atomic_load_explicit(count, memory_order_acquire)) < wanted; spins++) {
        if (spins == PAUSES_PER_LOOK) until = now_ns() + spin_ns;
        if (spins % PAUSES_PER_LOOK || now_ns() < until) {
#ifdef __x86_64__
            _mm_pause();
#endif
            continue;
        }
#ifdef __linux__
        atomic_fetch_add(&pool->sleepers, 1);
        futex(count, FUTEX_WAIT_PRIVATE, (unsigned)now);
        atomic_fetch_sub(&pool->sleepers, 1);
#else
        sched_yield();
#endif
    }
}

static void wake(Pool *pool, atomic_ullong *count) {
#ifdef __linux__
    if (atomic_load(&pool->sleepers)) futex(count, FUTEX_WAKE_PRIVATE, pool->threads);
#else
    (void)pool, (void)count;
#endif
}

void pool_barrier(Pool *pool) {
    if (!pool || pool->threads == 1) return;
    /* One change of one line: each that moves from core to core takes a tenth of a microsecond or more. */
    unsigned long long before = atomic_fetch_add(&pool->arrivals, 1), wanted = (before / pool->threads + 1) * pool->threads;
    if (before + 1 == wanted) wake(pool, &pool->arrivals);
    else wait_for(pool, &pool->arrivals, wanted, SPIN_NS);
}

static void start(Pool *pool) {
    atomic_fetch_add(&pool->started, 1);
    wake(pool, &pool->started);
}

static void *work(void *argument) {
    Seat *seat = (Seat *)argument;
    Pool *pool = seat->pool;
    for (unsigned long long seen = seat->started_at;; seen++) {
        wait_for(pool, &pool->started, seen + 1, SPIN_BETWEEN_JOBS_NS);
        if (pool->stopping) return 0;
        pool->job(pool->argument, seat->thread);
        pool_barrier(pool);
    }
}

static void start_workers(Pool *pool) {
    pool->process = getpid();
    pool->threads = pool->wanted;
    atomic_store(&pool->arrivals, 0);
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
    start(pool);
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
        start(pool);
        for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i], 0);
    }
    free(pool->workers);
    free(pool->seats);
    free(pool);
}
