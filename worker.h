/* worker.h - a process that works on a search, as the others see it: its name, its heartbeat, and whether it is alive.
 *
 * Each worker keeps a file FOLDER/workers/NAME with a counter that a thread raises every `heartbeat` seconds. Another
 * worker holds it dead when the counter has stood still for WORKER_BEATS of those intervals, measured with its own
 * monotonic clock: no two clocks are compared, so wall clocks may differ and jump. On the same machine (the same boot,
 * and the same container on it) a process that is gone is dead at once. */
#ifndef WORKER_H
#define WORKER_H
#include "base.h"

enum { WORKER_BEATS = 6, WORKER_NAME = 160, WORKER_SLOWEST = 3600 /* seconds between beats, at most */ };

struct worker;   /* opaque: this one */
struct watchers; /* opaque: what this one has seen of others */

/* Makes the file, and starts the thread. index: of several in one process. */
int worker_open(struct worker **, const char *folder, int index, double heartbeat, struct error *);
void worker_close(struct worker *); /* ends the thread, removes the file */
const char *worker_name(const struct worker *);

int watchers_open(struct watchers **, const char *folder, struct error *);
void watchers_close(struct watchers *);
/* Is the worker of this name alive, as far as is known? The first look at one on another machine, or one that is only
 * stopped, says yes: it takes some heartbeats to tell. */
int watchers_alive(struct watchers *, const char *name);
/* Removes what a dead worker has left. */
void watchers_bury(struct watchers *, const char *name);
#endif
