/* worker.c - heartbeats. A worker's name is HOST.BOOT.PID.START.INDEX.NONCE: a checksum of the boot's id and of the pid
 * namespace (a container on the same machine counts its processes anew), the process, the clock tick at which it
 * started (a pid is used again, the pair is not), which of the process's workers it is, and some bits that make it
 * unique where /proc is missing. Its file holds u64 count, f64 interval. */
#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct worker {
    char name[WORKER_NAME];
    char *path;
    int file;
    double heartbeat;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t ends;
    int started, end;
};

struct beat {
    uint64_t count;
    double interval;
};

/* ---- this machine and its processes ---- */

/* The first line of a small file, without its end; "" where it cannot be read. */
static void read_line(const char *path, char *line, size_t room) {
    FILE *f = fopen(path, "re");
    line[0] = '\0';
    if (f == NULL) return;
    if (fgets(line, (int)room, f) == NULL) line[0] = '\0';
    line[strcspn(line, "\n")] = '\0';
    fclose(f);
}

static void machine(char *host, size_t host_room, char boot[9]) {
    char id[64], pids[64];
    if (gethostname(host, host_room) != 0) snprintf(host, host_room, "unknown");
    host[host_room - 1] = '\0';
    for (char *c = host; *c != '\0'; c++) { /* it becomes part of a file's name, and of one with dots between parts */
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '-')) *c = '_';
    }
    read_line("/proc/sys/kernel/random/boot_id", id, sizeof id);
    const ssize_t n = readlink("/proc/self/ns/pid", pids, sizeof pids);
    uint32_t crc = crc32c(0, id, strlen(id));
    if (n > 0) crc = crc32c(crc, pids, (size_t)n);
    snprintf(boot, 9, "%08x", crc);
}

/* When a process started, in clock ticks since the boot; 0 where there is none, or no /proc. */
static unsigned long long started_at(long pid) {
    char path[64], line[1024];
    unsigned long long ticks = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    read_line(path, line, sizeof line);
    const char *at = strrchr(line, ')'); /* the command's name may hold anything */
    if (at == NULL || at[1] == '\0' || at[2] == 'Z') return 0;
    /* Field 22, where the state behind the name is field 3. */
    if (sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) != 1)
        return 0;
    return ticks;
}

/* ---- this worker ---- */

static int beat(struct worker *w, uint64_t count) {
    const struct beat b = {count, w->heartbeat};
    if (pwrite(w->file, &b, sizeof b, 0) != (ssize_t)sizeof b) return 0;
    return fsync(w->file) == 0;
}

/* A beat that cannot be written (a full disk, a server that is away) is left out: it is the others' matter. */
static void *beats(void *context) {
    struct worker *w = context;
    pthread_mutex_lock(&w->mutex);
    for (uint64_t count = 2; !w->end; count++) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        const double whole = (double)(long)w->heartbeat;
        until.tv_sec += (time_t)whole;
        until.tv_nsec += (long)((w->heartbeat - whole) * 1e9);
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        while (!w->end && pthread_cond_timedwait(&w->ends, &w->mutex, &until) == 0) continue;
        pthread_mutex_unlock(&w->mutex);
        beat(w, count);
        pthread_mutex_lock(&w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static int start_thread(struct worker *w, struct error *e) {
    pthread_condattr_t attributes;
    sigset_t all, was;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->ends, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all); /* signals are for the main thread, whose calls they interrupt */
    pthread_sigmask(SIG_SETMASK, &all, &was);
    const int why = pthread_create(&w->thread, NULL, beats, w);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    if (why != 0) return error_set(e, ERROR_ENVIRONMENT, "no thread for the heartbeat: %s", strerror(why));
    w->started = 1;
    return OK;
}

int worker_open(struct worker **out, const char *folder, int index, double heartbeat, struct error *e) {
    struct worker *w = mem_zero(1, sizeof *w);
    struct text path = {0};
    char host[64], boot[9];
    struct timespec now;
    *out = NULL;
    if (w == NULL) return error_memory(e, sizeof *w, "a worker");
    w->file = -1;
    w->heartbeat = heartbeat;
    machine(host, sizeof host, boot);
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(w->name, sizeof w->name, "%s.%s.%ld.%llu.%d.%08lx", host, boot, (long)getpid(), started_at((long)getpid()),
             index, (unsigned long)(now.tv_nsec ^ now.tv_sec << 10) & 0xffffffffUL);
    text_add(&path, "%s/workers", folder);
    int failed = path.failed ? error_memory(e, path.n, "a path") : folder_make(path.s, e);
    text_add(&path, "/%s", w->name);
    if (!failed && path.failed) failed = error_memory(e, path.n, "a path");
    w->path = path.s;
    if (!failed) {
        w->file = open(w->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (w->file < 0 || !beat(w, 1))
            failed = error_set(e, ERROR_ENVIRONMENT, "%s: cannot be written: %s", w->path, strerror(errno));
    }
    if (!failed) failed = start_thread(w, e);
    if (failed) {
        worker_close(w);
    } else {
        *out = w;
    }
    return failed;
}

void worker_close(struct worker *w) {
    if (w == NULL) return;
    if (w->started) {
        pthread_mutex_lock(&w->mutex);
        w->end = 1;
        pthread_cond_signal(&w->ends);
        pthread_mutex_unlock(&w->mutex);
        pthread_join(w->thread, NULL);
        pthread_cond_destroy(&w->ends);
        pthread_mutex_destroy(&w->mutex);
    }
    if (w->file >= 0) {
        close(w->file);
        unlink(w->path);
    }
    mem_free(w->path);
    mem_free(w);
}

const char *worker_name(const struct worker *w) { return w->name; }

/* ---- the others ---- */

struct watched {
    char name[WORKER_NAME];
    uint64_t count;
    double since; /* when the count was first seen, on this worker's clock */
};
struct watchers {
    char *folder;
    char host[64], boot[9];
    int n, room;
    struct watched *all;
};

int watchers_open(struct watchers **out, const char *folder, struct error *e) {
    struct watchers *w = mem_zero(1, sizeof *w);
    *out = NULL;
    if (w != NULL) w->folder = mem_string(folder);
    if (w == NULL || w->folder == NULL) {
        mem_free(w);
        return error_memory(e, sizeof *w, "the other workers");
    }
    machine(w->host, sizeof w->host, w->boot);
    *out = w;
    return OK;
}

void watchers_close(struct watchers *w) {
    if (w == NULL) return;
    mem_free(w->folder);
    mem_free(w->all);
    mem_free(w);
}

/* A name is a file's name, and nothing else: it comes out of a log. */
static int path_of(const struct watchers *w, const char *name, char *path, size_t room) {
    if (strchr(name, '/') != NULL || name[0] == '.' || name[0] == '\0' || strlen(name) >= WORKER_NAME) return 0;
    return (size_t)snprintf(path, room, "%s/workers/%s", w->folder, name) < room;
}

static struct watched *watched_find(struct watchers *w, const char *name) {
    for (int i = 0; i < w->n; i++) {
        if (strcmp(w->all[i].name, name) == 0) return &w->all[i];
    }
    if (w->n == w->room) {
        const int room = w->room == 0 ? 16 : 2 * w->room;
        struct watched *all = mem_grow(w->all, (size_t)room * sizeof *all);
        if (all == NULL) return NULL;
        w->all = all;
        w->room = room;
    }
    struct watched *new = &w->all[w->n++];
    memset(new, 0, sizeof *new);
    snprintf(new->name, sizeof new->name, "%s", name);
    new->since = -1;
    return new;
}

int watchers_alive(struct watchers *w, const char *name) {
    char path[4200], host[64], boot[16];
    struct beat b = {0, 0};
    long pid;
    unsigned long long ticks;
    if (!path_of(w, name, path, sizeof path)) return 0;
    const int here = sscanf(name, "%63[^.].%15[^.].%ld.%llu.", host, boot, &pid, &ticks) == 4 &&
                     strcmp(host, w->host) == 0 && strcmp(boot, w->boot) == 0;
    if (here && ticks > 0 && started_at(pid) != ticks) return 0;
    struct watched *seen = watched_find(w, name);
    if (seen == NULL) return 1; /* no memory: later */
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (pread(file, &b, sizeof b, 0) != (ssize_t)sizeof b) b = (struct beat){0, 0};
        close(file);
    }
    const double now = clock_seconds(), interval = b.interval > 0 && b.interval <= WORKER_SLOWEST ? b.interval : 5;
    if (seen->since < 0 || seen->count != b.count) {
        seen->count = b.count;
        seen->since = now;
    }
    return now - seen->since < WORKER_BEATS * interval;
}

void watchers_bury(struct watchers *w, const char *name) {
    char path[4200];
    if (path_of(w, name, path, sizeof path)) (void)unlink(path);
}
