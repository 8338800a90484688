#ifndef AUTODRAFT_POOL_H
#define AUTODRAFT_POOL_H

/* A fixed team of threads, the caller among them. NULL stands for a team of one. */
typedef struct Pool Pool;

Pool *pool_new(int threads);
void pool_free(Pool *pool);

/* How many threads the next pool_run has (fewer than asked for where they could not be made). */
int pool_threads(Pool *pool);

/* Run job(argument, thread) on all threads and return when all are done. One caller at a time. */
void pool_run(Pool *pool, void (*job)(void *, int), void *argument);

/* Inside a job: wait for all threads of the team. */
void pool_barrier(Pool *pool);

#endif
