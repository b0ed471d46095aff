/* bench_liar.c - should trials under way count for the next suggestion? Eight workers on a search, simulated: each
 * takes a point, is busy for a random while, and tells its loss. The points of the others count not at all (as hyperopt
 * has it), or as trials in the group of the bad (a constant liar that lies with the worst). Prints, for each function,
 * the median over seeds of the best loss found, above the least there is, after 50, 100 and 200 trials, and in how many
 * of the seeds the liar's is the lower one after 200. One worker alone stands beside them. `bench_liar [SEEDS [joint]]`
 * (100; joint: whole points instead of one hyperparameter after the other). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tpe.h"

enum { WORKERS = 8, TRIALS = 200, CUTS = 3, MOST_PARAMS = 16 };
static const int cuts[CUTS] = {50, 100, 200};

static double value(const struct space *s, const char *label, const double *v) { return v[space_find(s, label)]; }

static double branin(const struct space *s, const double *v) {
    const double x = value(s, "x", v), y = value(s, "y", v), pi = 3.14159265358979;
    const double a = y - 5.1 / (4 * pi * pi) * x * x + 5 / pi * x - 6;
    return a * a + 10 * (1 - 1 / (8 * pi)) * cos(x) + 10 - 0.39788735772973816;
}
static double sphere(const struct space *s, const double *v) {
    double sum = 0;
    for (int i = 0; i < s->n_params; i++) sum += pow(log10(v[i]) + 2, 2);
    return sum;
}
static double hartmann6(const struct space *s, const double *v) {
    static const double a[4] = {1, 1.2, 3, 3.2};
    static const double w[4][6] = {
        {10, 3, 17, 3.5, 1.7, 8}, {0.05, 10, 17, 0.1, 8, 14}, {3, 3.5, 1.7, 10, 17, 8}, {17, 8, 0.05, 10, 0.1, 14}};
    static const double p[4][6] = {{.1312, .1696, .5569, .0124, .8283, .5886},
                                   {.2329, .4135, .8307, .3736, .1004, .9991},
                                   {.2348, .1451, .3522, .2883, .3047, .6650},
                                   {.4047, .8828, .8732, .5743, .1091, .0381}};
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        double e = 0;
        for (int k = 0; k < 6; k++) e += w[i][k] * pow(v[k] - p[i][k], 2);
        sum -= a[i] * exp(-e);
    }
    (void)s;
    return sum + 3.32236801141551;
}
static double mixture(const struct space *s, const double *v) { /* which branch is best is to be found, too */
    if (value(s, "kind", v) == 0) return 1 + pow(value(s, "a", v) - 2, 2);
    if (value(s, "kind", v) == 1) return pow(log(value(s, "b", v)) + 1, 2) + 0.1 * fabs(value(s, "c", v) - 5);
    return 2;
}

static const struct problem {
    const char *name, *space;
    double (*loss)(const struct space *, const double *);
} problems[] = {
    {"Branin", "{'x': hp.uniform('x', -5, 10), 'y': hp.uniform('y', 0, 15)}", branin},
    {"Hartmann-6",
     "{'a': hp.uniform('a', 0, 1), 'b': hp.uniform('b', 0, 1), 'c': hp.uniform('c', 0, 1), 'd': hp.uniform('d', 0, 1), "
     "'e': hp.uniform('e', 0, 1), 'f': hp.uniform('f', 0, 1)}",
     hartmann6},
    {"sphere, log space",
     "{'a': hp.loguniform('a', -12, 2), 'b': hp.loguniform('b', -12, 2), 'c': hp.loguniform('c', -12, 2), "
     "'d': hp.loguniform('d', -12, 2)}",
     sphere},
    {"conditional mixture",
     "{'k': hp.choice('kind', [{'a': hp.normal('a', 0, 2)}, {'b': hp.lognormal('b', 0, 1), "
     "'c': hp.quniform('c', 0, 10, 1)}, 'none'])}",
     mixture}};

struct busy {
    double until, loss, values[MOST_PARAMS];
    int works;
};

static void check(int failed, const struct error *e) {
    if (!failed) return;
    fprintf(stderr, "bench_liar: %s\n", e->text);
    exit(1);
}

static void simulate(const struct problem *p, const struct tpe_options *options, int workers, int liar, uint64_t seed,
                     double best[CUTS]) {
    struct busy busy[WORKERS];
    struct space *space;
    struct tpe *tpe;
    struct error e;
    struct rng times = rng_make(seed, 1000000, RNG_SYNTHETIC);
    double least = HUGE_VAL, now = 0;
    int begun = 0, done = 0, cut = 0;
    check(space_parse(&space, p->space, strlen(p->space), p->name, &e), &e);
    check(tpe_open(&tpe, space, options, &e), &e);
    memset(busy, 0, sizeof busy);
    while (done < TRIALS) {
        for (int w = 0; w < workers && begun < TRIALS; w++) {
            if (busy[w].works) continue;
            struct rng rng = rng_make(seed, (uint32_t)begun++, RNG_SUGGEST);
            const int kept = tpe_count(tpe);
            for (int k = 0; k < workers && liar; k++) {
                if (busy[k].works) check(tpe_add(tpe, INFINITY, busy[k].values, &e), &e);
            }
            check(tpe_suggest(tpe, &rng, busy[w].values, &e), &e);
            tpe_rewind(tpe, kept);
            busy[w].works = 1;
            busy[w].loss = p->loss(space, busy[w].values);
            busy[w].until = now + exp(0.5 * rng_normal(&times)); /* some take three times as long as others */
        }
        int first = 0;
        for (int w = 1; w < workers; w++) {
            if (busy[w].works && (!busy[first].works || busy[w].until < busy[first].until)) first = w;
        }
        now = busy[first].until;
        busy[first].works = 0;
        check(tpe_add(tpe, busy[first].loss, busy[first].values, &e), &e);
        if (busy[first].loss < least) least = busy[first].loss;
        if (++done == cuts[cut]) best[cut++] = least;
    }
    tpe_close(tpe);
    space_free(space);
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static const char *const names[3] = {"1 worker", "8, ignored", "8, liar"};
    const int seeds = argc > 1 ? atoi(argv[1]) : 100;
    const struct tpe_options *options = argc > 2 ? &tpe_joint : &tpe_defaults;
    if (seeds < 1 || seeds > 10000 || (argc > 2 && strcmp(argv[2], "joint") != 0)) return 2;
    double(*best)[3][CUTS] = malloc((size_t)seeds * sizeof *best), *sorted = malloc((size_t)seeds * sizeof *sorted);
    if (best == NULL || sorted == NULL) return 1;
    printf("%-20s %-12s %10s %10s %10s\n", "function", "workers", "50 trials", "100", "200");
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        int lower = 0, equal = 0;
        for (int s = 0; s < seeds; s++) {
            for (int k = 0; k < 3; k++)
                simulate(&problems[i], options, k == 0 ? 1 : WORKERS, k == 2, (uint64_t)s + 1, best[s][k]);
            lower += best[s][2][2] < best[s][1][2];
            equal += best[s][2][2] == best[s][1][2];
        }
        for (int k = 0; k < 3; k++) {
            printf("%-20s %-12s", k == 0 ? problems[i].name : "", names[k]);
            for (int c = 0; c < CUTS; c++) {
                for (int s = 0; s < seeds; s++) sorted[s] = best[s][k][c];
                qsort(sorted, (size_t)seeds, sizeof *sorted, by_size);
                printf(" %10.4g", 0.5 * (sorted[(seeds - 1) / 2] + sorted[seeds / 2]));
            }
            if (k == 2) printf("   lower than ignored in %d of %d seeds", lower, seeds - equal);
            printf("\n");
        }
    }
    free(best);
    free(sorted);
    return 0;
}
