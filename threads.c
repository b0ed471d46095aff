/* threads.c - the threads of the CPU device. Tasks of a job are handed out one by one, from a counter under the mutex:
 * a task is some 100 microseconds of work, so the lock costs nothing that shows. */
#define _GNU_SOURCE
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

struct worker {
    struct threads *threads;
    int index;
    pthread_t thread;
};

struct threads {
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    struct worker *workers; /* [threads]; the first is the caller and has no thread of its own */
    int threads, closing;
    unsigned job; /* counts jobs: a waiting worker wakes when it changes */
    int n, next, busy;
    threads_task *task;
    void *context;
};

static int cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set); /* what a batch system gave us */
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* Takes tasks until none is left. Called and left with the mutex held. */
static void take_tasks(struct threads *p, int worker) {
    while (p->next < p->n) {
        const int task = p->next++;
        p->busy++;
        pthread_mutex_unlock(&p->mutex);
        p->task(p->context, task, worker);
        pthread_mutex_lock(&p->mutex);
        p->busy--;
    }
    if (p->busy == 0) pthread_cond_signal(&p->done);
}

static void *worker_main(void *argument) {
    const struct worker *w = argument;
    struct threads *p = w->threads;
    unsigned seen = 0;
    pthread_mutex_lock(&p->mutex);
    while (!p->closing) {
        if (p->job == seen) {
            pthread_cond_wait(&p->work, &p->mutex);
            continue;
        }
        seen = p->job;
        take_tasks(p, w->index);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

int threads_open(struct threads **out, int threads, struct error *e) {
    struct threads *p = mem_zero(1, sizeof *p);
    *out = NULL;
    if (threads <= 0) threads = cores();
    if (p != NULL) p->workers = mem_zero((size_t)threads, sizeof *p->workers);
    if (p == NULL || p->workers == NULL) {
        mem_free(p);
        return error_memory(e, (size_t)threads * sizeof *p->workers, "the threads");
    }
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    p->threads = 1;
    for (int i = 1; i < threads; i++) {
        struct worker *w = &p->workers[i];
        w->threads = p;
        w->index = i;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) break;
        p->threads++;
    }
    *out = p;
    return OK;
}

int threads_count(const struct threads *p) { return p->threads; }

void threads_run(struct threads *p, int n, threads_task *task, void *context) {
    if (p->threads == 1 || n <= 1) {
        for (int i = 0; i < n; i++) task(context, i, 0);
        return;
    }
    pthread_mutex_lock(&p->mutex);
    p->task = task;
    p->context = context;
    p->n = n;
    p->next = 0;
    p->job++;
    pthread_cond_broadcast(&p->work);
    take_tasks(p, 0);
    while (p->busy > 0) pthread_cond_wait(&p->done, &p->mutex);
    p->n = p->next = 0;
    pthread_mutex_unlock(&p->mutex);
}

void threads_close(struct threads *p) {
    if (p == NULL) return;
    pthread_mutex_lock(&p->mutex);
    p->closing = 1;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 1; i < p->threads; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->mutex);
    mem_free(p->workers);
    mem_free(p);
}
