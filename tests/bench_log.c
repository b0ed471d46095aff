/* bench_log.c - a log of very many trials: how long it takes to open, how much memory it and TPE take, and how long the
 * next suggestion takes. `bench_log [TRIALS [FOLDER]]` (100,000, in /dev/shm: the log is written through log_append,
 * whose fsyncs a disk would make the longest part). The trials are draws of the original's space, each with its claim.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../checkpoint.h"
#include "../tpe.h"

static void check(int failed, const struct error *e) {
    if (!failed) return;
    fprintf(stderr, "bench_log: %s\n", e->text);
    exit(1);
}

int main(int argc, char **argv) {
    const int n = argc > 1 ? atoi(argv[1]) : 100000;
    char folder[300], notice[400], path[400];
    struct space *space;
    struct log *log;
    struct tpe *tpe;
    struct error e;
    struct rusage after;
    snprintf(folder, sizeof folder, "%s/parzen-bench-log", argc > 2 ? argv[2] : "/dev/shm");
    snprintf(path, sizeof path, "%s/trials.log", folder);
    check(space_parse(&space, space_seed, strlen(space_seed), "the built-in space", &e), &e);
    double *values = mem_zero((size_t)space->n_params, sizeof *values);
    if (values == NULL) return 1;
    const struct log_header header = {.seed = 1, .space = space->text, .settings = "{}"};
    if (fork() == 0) { /* in a process of its own, so that its memory is not counted */
        check(log_open(&log, folder, &header, 1, notice, sizeof notice, &e), &e);
        struct rng rng = rng_make(1, 0, RNG_SYNTHETIC);
        for (int i = 0; i < n; i++) {
            char name[40];
            space_draw(space, &rng, values);
            snprintf(name, sizeof name, "model_%.6f_%05x", rng_uniform(&rng), (unsigned)i & 0xfffff);
            const struct claim c = {
                .number = (uint32_t)i, .attempt = 1, .worker = "host.12345678.1.1.0.1", .values = values};
            const struct trial t = {.number = (uint32_t)i,
                                    .loss = -rng_uniform(&rng),
                                    .epochs = 100,
                                    .name = name,
                                    .reason = "",
                                    .values = values};
            check(log_take(log, &c, space->n_params, &e), &e);
            check(log_append(log, &t, space->n_params, &e), &e);
        }
        log_close(log);
        exit(0);
    }
    int status = 0;
    if (wait4(-1, &status, 0, NULL) < 0 || status != 0) return 1;
    double start = clock_seconds();
    check(log_open(&log, folder, NULL, 1, notice, sizeof notice, &e), &e);
    const double opened = clock_seconds() - start;
    check(tpe_open(&tpe, space, NULL, &e), &e);
    start = clock_seconds();
    for (int i = 0; i < log_count(log); i++)
        check(tpe_add(tpe, log_trial(log, i)->loss, log_trial(log, i)->values, &e), &e);
    tpe_sort(tpe);
    const double told = clock_seconds() - start;
    struct rng rng = rng_make(1, (uint32_t)n, RNG_SUGGEST);
    start = clock_seconds();
    check(tpe_suggest(tpe, &rng, values, &e), &e); /* the working room is made */
    const double first = clock_seconds() - start;
    enum { SUGGESTIONS = 11 };
    double times[SUGGESTIONS];
    for (int i = 0; i < SUGGESTIONS; i++) { /* with eight trials under way, as a worker among nine has it */
        start = clock_seconds();
        const int kept = tpe_count(tpe);
        for (int k = 0; k < 8; k++) check(tpe_add(tpe, 1e308, log_trial(log, k)->values, &e), &e);
        check(tpe_suggest(tpe, &rng, values, &e), &e);
        tpe_rewind(tpe, kept);
        times[i] = clock_seconds() - start;
        for (int k = i; k > 0 && times[k] < times[k - 1]; k--) {
            const double t = times[k];
            times[k] = times[k - 1];
            times[k - 1] = t;
        }
    }
    getrusage(RUSAGE_SELF, &after);
    printf(
        "%d trials: opened in %.3f s, told to TPE in %.3f s, first suggestion %.1f ms, then %.1f ms with 8 under way "
        "(median); %.0f MB\n",
        log_count(log), opened, told, 1e3 * first, 1e3 * times[SUGGESTIONS / 2], (double)after.ru_maxrss / 1024);
    tpe_close(tpe);
    log_close(log);
    space_free(space);
    mem_free(values);
    unlink(path);
    rmdir(folder);
    return 0;
}
