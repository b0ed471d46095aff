/* threads.h - threads that share out the tasks of one job at a time. */
#ifndef THREADS_H
#define THREADS_H
#include "base.h"

struct threads;
/* One task; worker: 0 .. threads - 1, for scratch memory that a task has to itself. */
typedef void threads_task(void *context, int task, int worker);

/* threads 0: one a core that this process may use. Fewer are taken where no more can be started. */
int threads_open(struct threads **, int threads, struct error *);
int threads_count(const struct threads *);
/* Runs tasks 0 .. n - 1, in no certain order, the caller helping; returns when all are done. Results must not depend
 * on which worker runs a task. */
void threads_run(struct threads *, int n, threads_task *, void *context);
void threads_close(struct threads *);
#endif
