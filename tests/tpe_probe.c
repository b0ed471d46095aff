/* tpe_probe.c - tpe.c and space.c as a program that a script can ask: what the conformance and speed scripts in
 * Python hold against hyperopt. Everything in and out is JSON.
 *
 *   tpe_probe score FILE            a file {"cases": [{"space", "history", "candidates"}, ...]}: one line for each case
 *   tpe_probe draw SPACE N SEED     N prior draws, a line {label: value} each
 *   tpe_probe minimise SPACE SEED [joint]
 *                                   prints a point {label: value}, reads its loss, and so on to the end of the input
 *   tpe_probe bench N...            ms per suggestion over the built-in space with N trials; joint_ms: whole points
 *
 * A history is a list of [loss, {label: value}], the loss null for a failed trial. Values are those of a point
 * (space.h): a choice's 0-based option. Candidates are what tpe_score takes: 0-based for a randint too. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../space.h"
#include "../tpe.h"

enum { BENCH_REPEATS = 21, MOST_BYTES = 1 << 28 };

static void die(const char *what) {
    fprintf(stderr, "tpe_probe: %s\n", what);
    exit(1);
}

/* Memory of one case, released together. */
static struct arena memory;

static void *room(int n, size_t bytes) {
    void *p = arena_alloc(&memory, (size_t)n * bytes + 1);
    if (!p) die("out of memory");
    return p;
}

static double number(const struct value *v, double absent) {
    if (!v || v->kind == VALUE_NONE) return absent;
    if (v->kind != VALUE_INT && v->kind != VALUE_FLOAT) die("a number is wanted");
    return v->number;
}

static int integer(const char *s) {
    char *end;
    const long x = strtol(s, &end, 10);
    if (*end || end == s || x < 0 || x > 100000000) die("a count is wanted");
    return (int)x;
}

/* ---- out ---- */

static void add_doubles(struct text *t, const char *name, const double *x, int n) {
    text_add(t, "\"%s\": [", name);
    for (int i = 0; i < n; i++) {
        if (i) text_add(t, ", ");
        text_add_double(t, x[i]);
    }
    text_add(t, "]");
}

static void add_point(struct text *t, const struct space *space, const double *values) {
    const char *separator = "{";
    for (int i = 0; i < space->n_params; i++) {
        if (isnan(values[i])) continue;
        text_add(t, "%s", separator);
        text_add_json_string(t, space->params[i].label);
        text_add(t, ": ");
        text_add_double(t, values[i]);
        separator = ", ";
    }
    text_add(t, *separator == '{' ? "{}" : "}");
}

static void print_line(struct text *t) {
    if (t->failed) die("out of memory");
    if (printf("%s\n", t->s) < 0 || fflush(stdout)) die("cannot write");
    text_free(t);
    *t = (struct text){0};
}

/* ---- score ---- */

struct history {
    int n; /* trials kept: those of no NaN loss */
    double *loss, **values;
};

static struct history history_read(const struct value *list, const struct space *space) {
    struct history h = {0};
    if (!list || list->kind != VALUE_LIST) die("no history");
    h.loss = room(list->n, sizeof *h.loss);
    h.values = room(list->n, sizeof *h.values);
    for (int i = 0; i < list->n; i++) {
        const struct value *trial = list->items[i];
        if (trial->kind != VALUE_LIST || trial->n != 2) die("a trial is [loss, {label: value}]");
        double *values = room(space->n_params, sizeof *values);
        for (int k = 0; k < space->n_params; k++) {
            values[k] = number(value_get(trial->items[1], space->params[k].label), NAN);
        }
        struct error e = {0};
        if (space_check(space, values, &e)) die(e.text);
        const double loss = number(trial->items[0], INFINITY);
        if (isnan(loss)) continue;
        h.loss[h.n] = loss;
        h.values[h.n++] = values;
    }
    return h;
}

static double on_mixture_scale(const struct param *p, double x) {
    switch (p->dist) {
        case DIST_LOGUNIFORM:
        case DIST_LOGNORMAL: return log(x);
        case DIST_QLOGUNIFORM: return log(fmax(x, fmax(1e-12, exp(p->low))));
        case DIST_QLOGNORMAL: return log(fmax(x, 1e-12));
        default: return x;
    }
}

/* The observations of one group, and its posterior. */
static void add_group(struct text *t, const struct history *h, const struct space *space, int param,
                      const unsigned char *in_group, int wanted) {
    const struct param *p = &space->params[param];
    const int lf = tpe_defaults.linear_forgetting;
    double *obs = room(h->n, sizeof *obs);
    int n = 0;
    for (int i = 0; i < h->n; i++) {
        if (in_group[i] == wanted && !isnan(h->values[i][param])) obs[n++] = h->values[i][param];
    }
    text_add(t, "{");
    add_doubles(t, "observations", obs, n);
    text_add(t, ", ");
    if (p->n_options) {
        int *category = room(n, sizeof *category);
        for (int i = 0; i < n; i++) category[i] = (int)(obs[i] - (p->dist == DIST_RANDINT ? p->low : 0));
        double *probability = room(p->n_options, sizeof *probability);
        tpe_categorical(category, n, p->n_options, p->p, tpe_defaults.prior_weight, lf, probability);
        add_doubles(t, "p", probability, p->n_options);
    } else {
        const int is_normal = p->dist >= DIST_NORMAL && p->dist <= DIST_QLOGNORMAL;
        struct tpe_mixture m = {0, room(n + 1, sizeof(double)), room(n + 1, sizeof(double)),
                                room(n + 1, sizeof(double))};
        for (int i = 0; i < n; i++) obs[i] = on_mixture_scale(p, obs[i]);
        tpe_parzen(obs, n, tpe_defaults.prior_weight, is_normal ? p->mu : 0.5 * (p->low + p->high),
                   is_normal ? p->sigma : p->high - p->low, lf, &m);
        add_doubles(t, "weights", m.weight, m.n);
        text_add(t, ", ");
        add_doubles(t, "mus", m.mu, m.n);
        text_add(t, ", ");
        add_doubles(t, "sigmas", m.sigma, m.n);
    }
    text_add(t, "}");
}

static void score_case(const struct value *c) {
    struct error e = {0};
    struct space *space = NULL;
    struct tpe *tpe = NULL;
    const struct value *text = value_get(c, "space"), *candidates = value_get(c, "candidates");
    if (!text || text->kind != VALUE_STRING) die("no space");
    if (space_parse(&space, text->string, strlen(text->string), "space", &e)) die(e.text);
    if (tpe_open(&tpe, space, &tpe_defaults, &e)) die(e.text);
    const struct history h = history_read(value_get(c, "history"), space);
    for (int i = 0; i < h.n; i++) {
        if (tpe_add(tpe, h.loss[i], h.values[i], &e)) die(e.text);
    }
    unsigned char *below = room(h.n, 1);
    const int n_below = tpe_split(h.loss, h.n, tpe_defaults.gamma, tpe_defaults.linear_forgetting, below);

    struct text out = {0};
    text_add(&out, "{\"n\": %d, \"n_below\": %d, \"labels\": {", tpe_count(tpe), n_below);
    for (int i = 0; i < space->n_params; i++) {
        text_add(&out, i ? ", " : "");
        text_add_json_string(&out, space->params[i].label);
        text_add(&out, ": {\"distribution\": \"%s\", \"below\": ", distribution_names[space->params[i].dist]);
        add_group(&out, &h, space, i, below, 1);
        text_add(&out, ", \"above\": ");
        add_group(&out, &h, space, i, below, 0);

        const struct value *list = value_get(candidates, space->params[i].label);
        const int n = list && list->kind == VALUE_LIST ? list->n : 0;
        double *x = room(n, sizeof *x), *log_l = room(n, sizeof *x), *log_g = room(n, sizeof *x);
        for (int k = 0; k < n; k++) x[k] = number(list->items[k], NAN);
        if (n && tpe_score(tpe, i, x, n, log_l, log_g, &e)) die(e.text);
        text_add(&out, ", ");
        add_doubles(&out, "log_l", log_l, n);
        text_add(&out, ", ");
        add_doubles(&out, "log_g", log_g, n);
        text_add(&out, "}");
    }
    text_add(&out, "}}");
    print_line(&out);
    tpe_close(tpe);
    space_free(space);
    arena_free(&memory);
    memory = (struct arena){0};
}

static void score(const char *path) {
    struct error e = {0};
    struct document doc = {0};
    char *bytes;
    size_t n;
    if (file_read(path, MOST_BYTES, &bytes, &n, &e) || value_parse(&doc, bytes, n, path, &e)) die(e.text);
    const struct value *cases = value_get(doc.root, "cases");
    if (!cases || cases->kind != VALUE_LIST) die("no cases");
    for (int i = 0; i < cases->n; i++) score_case(cases->items[i]);
    document_free(&doc);
    mem_free(bytes);
}

/* ---- the others ---- */

static void draw(const struct space *space, int n, int seed) {
    double *values = room(space->n_params, sizeof *values);
    struct rng rng = rng_make((uint64_t)seed, 0, RNG_SUGGEST);
    for (int i = 0; i < n; i++) {
        struct text out = {0};
        space_draw(space, &rng, values);
        add_point(&out, space, values);
        print_line(&out);
    }
}

static void minimise(const struct space *space, int seed, const struct tpe_options *options) {
    struct error e = {0};
    struct tpe *tpe = NULL;
    double *values = room(space->n_params, sizeof *values), loss;
    if (tpe_open(&tpe, space, options, &e)) die(e.text);
    for (uint32_t trial = 0;; trial++) {
        struct text out = {0};
        struct rng rng = rng_make((uint64_t)seed, trial, RNG_SUGGEST); /* one stream a trial, as the search has it */
        if (tpe_suggest(tpe, &rng, values, &e)) die(e.text);
        add_point(&out, space, values);
        print_line(&out);
        if (scanf("%lf", &loss) != 1) break;
        if (tpe_add(tpe, loss, values, &e)) die(e.text);
    }
    tpe_close(tpe);
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The median time to take in one more trial and suggest the next, with n trials known. The first suggestion, which
 * sorts them all, is not the one timed: a search pays for it once. */
static double median_ms(const struct space *space, int n, const struct tpe_options *options) {
    struct error e = {0};
    double ms[BENCH_REPEATS];
    double *values = room(space->n_params, sizeof *values), *next = room(space->n_params, sizeof *next);
    for (int repeat = 0; repeat < BENCH_REPEATS; repeat++) {
        struct tpe *tpe = NULL;
        struct rng rng = rng_make(1, (uint32_t)repeat, RNG_SUGGEST);
        if (tpe_open(&tpe, space, options, &e)) die(e.text);
        for (int i = 0; i < n; i++) {
            space_draw(space, &rng, values);
            if (i == n - 1) {
                if (tpe_suggest(tpe, &rng, next, &e)) die(e.text);
                ms[repeat] = clock_seconds();
            }
            if (tpe_add(tpe, rng_normal(&rng), values, &e)) die(e.text);
        }
        if (tpe_suggest(tpe, &rng, next, &e)) die(e.text);
        ms[repeat] = (clock_seconds() - ms[repeat]) * 1e3;
        tpe_close(tpe);
    }
    qsort(ms, BENCH_REPEATS, sizeof *ms, compare_doubles);
    return ms[BENCH_REPEATS / 2];
}

static void bench(int n) {
    struct error e = {0};
    struct space *space = NULL;
    if (n < 1) die("a count of trials is wanted");
    if (space_parse(&space, space_seed, strlen(space_seed), "space", &e)) die(e.text);
    printf("{\"trials\": %d, \"ms\": %.6g, \"joint_ms\": %.6g}\n", n, median_ms(space, n, &tpe_defaults),
           median_ms(space, n, &tpe_joint));
    space_free(space);
}

int main(int argc, char **argv) {
    const char *mode = argc > 2 ? argv[1] : "";
    struct error e = {0};
    struct space *space = NULL;
    if (!strcmp(mode, "score") && argc == 3) {
        score(argv[2]);
    } else if (!strcmp(mode, "draw") && argc == 5) {
        if (space_read(&space, argv[2], &e)) die(e.text);
        draw(space, integer(argv[3]), integer(argv[4]));
    } else if (!strcmp(mode, "minimise") && (argc == 4 || (argc == 5 && !strcmp(argv[4], "joint")))) {
        if (space_read(&space, argv[2], &e)) die(e.text);
        minimise(space, integer(argv[3]), argc == 5 ? &tpe_joint : &tpe_defaults);
    } else if (!strcmp(mode, "bench")) {
        for (int i = 2; i < argc; i++) bench(integer(argv[i]));
    } else {
        fprintf(stderr, "usage: tpe_probe score FILE | draw SPACE N SEED | minimise SPACE SEED [joint] | bench N...\n");
        return 2;
    }
    space_free(space);
    arena_free(&memory);
    return 0;
}
