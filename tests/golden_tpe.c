/* golden_tpe.c - holds tpe.c against hyperopt's own numbers: `golden_tpe DIR` replays every JSON file of a folder.
 *
 * A file is told by what is in it, a case of a list by its own shape, so that other files of the same formats do. One
 * check for each array of numbers. What is not known is reported, and fails unless it is a whole file. Tolerances:
 * 1e-12 for weights, mus, sigmas and probabilities; 1e-10 for log densities, 1e-9 for those of quantised parameters
 * (their rounding grows as 1 / mass); draws are compared within 5 standard errors.
 * Not replayed: `numpy_default_sort`, what hyperopt gives with numpy's unstable sort (tpe.c's sort is stable), and
 * the texts (meta, notes). */
#include <dirent.h>
#include <stdlib.h>

#include "../space.h"
#include "../tpe.h"
#include "check.h"

enum { SAMPLES = 200000 };

/* Everything read of a file, released together with it. */
static struct arena memory;
static const char *file_name, *case_name;

static void *room(size_t n, size_t bytes) {
    void *p = arena_alloc(&memory, n * bytes + 1);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static const struct value *get(const struct value *v, const char *key) {
    const struct value *found = v ? value_get(v, key) : NULL;
    return found && found->kind != VALUE_NONE ? found : NULL;
}

/* A number, also as 'inf', '-inf', 'nan'; `absent` for None and what is not there. */
static double number(const struct value *v, double absent) {
    if (!v || v->kind == VALUE_NONE) return absent;
    if (v->kind == VALUE_STRING) {
        if (!strcmp(v->string, "inf")) return INFINITY;
        if (!strcmp(v->string, "-inf")) return -INFINITY;
        return NAN;
    }
    if (v->kind == VALUE_BOOL) return (double)v->integer;
    return v->kind == VALUE_INT || v->kind == VALUE_FLOAT ? v->number : NAN;
}

static double field(const struct value *v, const char *key, double absent) { return number(get(v, key), absent); }

struct numbers {
    int n; /* -1: not there */
    double *x;
};

static int is_list(const struct value *v) { return v && (v->kind == VALUE_LIST || v->kind == VALUE_TUPLE); }

static struct numbers list_of(const struct value *v) {
    struct numbers out = {-1, NULL};
    if (!is_list(v)) return out;
    out.n = v->n;
    out.x = room((size_t)v->n, sizeof *out.x);
    for (int i = 0; i < v->n; i++) out.x[i] = number(v->items[i], NAN);
    return out;
}

static struct numbers list_at(const struct value *v, const char *key) { return list_of(get(v, key)); }

/* Is a log mass a what b should be? Its absolute error is some 1e-16 / mass. */
static int log_mass_close(double a, double b) {
    if (a == b || (isnan(a) && isnan(b))) return 1;
    if (b < -34) return a < -32 || isnan(a);
    return fabs(a - b) <= 1e-9 + 1e-15 * exp(-b);
}

enum tolerance { EXACT, PARAMETERS, DENSITY, MASS };

static int number_close(double a, double b, enum tolerance tolerance) {
    switch (tolerance) {
        case EXACT: return a == b;
        case PARAMETERS: return check_close(a, b, 1e-12);
        case DENSITY: return check_close(a, b, 1e-10) || (isnan(a) && isnan(b));
        case MASS: return log_mass_close(a, b);
    }
    return 0;
}

/* One check for an array. */
static void same(const char *what, const double *ours, int n, struct numbers theirs, enum tolerance tolerance) {
    int bad = theirs.n == n ? 0 : 1, first = -1;
    for (int i = 0; !bad && i < n; i++) {
        if (!number_close(ours[i], theirs.x[i], tolerance)) {
            bad++;
            first = i;
        }
    }
    CHECK(!bad, "%s: %s: %s: %d of %d numbers; at %d: %.17g, should be %.17g", file_name, case_name, what, n, theirs.n,
          first, first >= 0 ? ours[first] : 0, first >= 0 ? theirs.x[first] : 0);
}

static struct tpe_mixture mixture_room(int n) {
    struct tpe_mixture m = {0, room((size_t)n + 1, sizeof(double)), room((size_t)n + 1, sizeof(double)),
                            room((size_t)n + 1, sizeof(double))};
    return m;
}

static int mixture_read(const struct value *in, struct tpe_mixture *m) {
    const struct numbers weight = list_at(in, "weights"), mu = list_at(in, "mus"), sigma = list_at(in, "sigmas");
    *m = (struct tpe_mixture){mu.n, weight.x, mu.x, sigma.x};
    return mu.n > 0 && weight.n == mu.n && sigma.n == mu.n;
}

static void same_mixture(const struct tpe_mixture *m, const struct value *out, const char *group) {
    char what[64];
    snprintf(what, sizeof what, "%s weights", group);
    same(what, m->weight, m->n, list_at(out, "weights"), PARAMETERS);
    snprintf(what, sizeof what, "%s mus", group);
    same(what, m->mu, m->n, list_at(out, "mus"), PARAMETERS);
    snprintf(what, sizeof what, "%s sigmas", group);
    same(what, m->sigma, m->n, list_at(out, "sigmas"), PARAMETERS);
}

/* ---- the lists of cases ---- */

static void forgetting_case(const struct value *c) {
    const int n = (int)field(get(c, "in"), "N", 0);
    double *w = room((size_t)n, sizeof *w);
    tpe_forgetting_weights(n, (int)field(get(c, "in"), "LF", 25), w);
    same("weights", w, n, list_at(c, "out"), PARAMETERS);
}

static void parzen_case(const struct value *c) {
    const struct value *in = get(c, "in");
    const struct numbers obs = list_at(in, "obs_in_time_order");
    if (obs.n < 0) return;
    struct tpe_mixture m = mixture_room(obs.n);
    tpe_parzen(obs.x, obs.n, field(in, "prior_weight", 1), field(in, "prior_mu", NAN), field(in, "prior_sigma", NAN),
               (int)field(in, "LF", 25), &m);
    same_mixture(&m, get(c, "out"), "mixture");
}

static void categorical_case(const struct value *c) {
    const struct value *in = get(c, "in");
    const struct numbers obs = list_at(in, "obs_in_time_order"), prior = list_at(in, "p");
    const double low = get(in, "high") ? field(in, "low", 0) : 0;
    const double n_options = prior.n > 0 ? prior.n : get(in, "high") ? field(in, "high", 0) - low : field(in, "low", 0);
    int *category = room((size_t)(obs.n > 0 ? obs.n : 0), sizeof *category), good = obs.n >= 0 && n_options >= 1;
    for (int i = 0; i < obs.n; i++) {
        category[i] = (int)(obs.x[i] - low);
        good = good && category[i] >= 0 && category[i] < n_options;
    }
    CHECK(good, "%s: %s: not a case of a categorical posterior", file_name, case_name);
    if (!good) return;
    double *p = room((size_t)n_options, sizeof *p);
    tpe_categorical(category, obs.n, (int)n_options, prior.n > 0 ? prior.x : NULL, field(in, "prior_weight", 1),
                    (int)field(in, "LF", 25), p);
    same("p", p, (int)n_options, list_at(get(c, "out"), "p"), PARAMETERS);
    for (int i = 0; i < (int)n_options; i++) p[i] = log(p[i]);
    same("log_p", p, (int)n_options, list_at(get(c, "out"), "log_p"), PARAMETERS);
}

static int position(const struct numbers *list, double x) {
    for (int i = 0; i < list->n; i++) {
        if (list->x[i] == x) return i;
    }
    return -1;
}

static void split_case(const struct value *c) {
    const struct value *in = get(c, "in"), *out = get(c, "out");
    const struct numbers tids = list_at(in, "l_tids"), losses = list_at(in, "losses");
    const struct numbers o_tids = list_at(in, "o_tids"), o_vals = list_at(in, "o_vals");
    const int good = tids.n >= 0 && losses.n == tids.n && o_vals.n >= 0 && o_vals.n == o_tids.n;
    CHECK(good, "%s: %s: not a case of a split", file_name, case_name);
    if (!good) return;
    unsigned char *below = room((size_t)losses.n, 1);
    const int n_below = tpe_split(losses.x, losses.n, field(in, "gamma", 0.25), (int)field(in, "gamma_cap", 25), below);
    CHECK(n_below == (int)field(c, "n_below", -1), "%s: %s: n_below %d", file_name, case_name, n_below);

    double *values[2], *below_tids = room((size_t)o_vals.n, sizeof(double)); /* of those with an observation */
    int n[2] = {0, 0};
    for (int group = 0; group < 2; group++) values[group] = room((size_t)o_vals.n, sizeof(double));
    for (int i = 0; i < o_vals.n; i++) {
        const int trial = position(&tids, o_tids.x[i]), group = trial >= 0 && below[trial] ? 0 : 1;
        if (group == 0) below_tids[n[0]] = o_tids.x[i];
        values[group][n[group]++] = o_vals.x[i];
    }
    same("below", values[0], n[0], list_at(out, "below"), EXACT);
    same("above", values[1], n[1], list_at(out, "above"), EXACT);
    if (get(out, "below_tids")) same("below_tids", below_tids, n[0], list_at(out, "below_tids"), EXACT);
}

static void lpdf_case(const struct value *c, int log_scale) {
    const struct value *in = get(c, "in");
    struct tpe_mixture m;
    const struct numbers x = list_at(in, "samples");
    const int good = mixture_read(in, &m) && x.n >= 0;
    CHECK(good, "%s: %s: not a case of a log density", file_name, case_name);
    if (!good) return;
    const double q = field(in, "q", 0);
    double accept, *out = room((size_t)x.n, sizeof *out);
    tpe_lpdf(&m, field(in, "low", -INFINITY), field(in, "high", INFINITY), q, log_scale, x.x, x.n, out, &accept);
    same("log density", out, x.n, list_at(c, "out"), q > 0 ? MASS : DENSITY);
    if (get(c, "p_accept")) {
        CHECK(check_close(accept, field(c, "p_accept", NAN), 1e-12), "%s: %s: p_accept %.17g", file_name, case_name,
              accept);
    }
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* How many of the sorted x[n] are less than v, or at most v. */
static int count_upto(const double *x, int n, double v, int or_equal) {
    int low = 0, high = n;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (x[middle] < v || (or_equal && x[middle] == v))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Draws of ours against a summary of hyperopt's draws. */
static void sampling_case(const struct value *c) {
    const struct value *in = get(c, "in"), *frequencies = get(c, "frequencies");
    struct tpe_mixture m;
    const double n = field(c, "n", 0), low = field(in, "low", -INFINITY), high = field(in, "high", INFINITY);
    const int good = mixture_read(in, &m) && n > 0, log_scale = get(c, "fn") && !strcmp(get(c, "fn")->string, "LGMM1");
    CHECK(good, "%s: %s: not a case of draws", file_name, case_name);
    if (!good) return;
    const double q = field(in, "q", 0), noise = 1 / n + 1.0 / SAMPLES;
    double *x = room(SAMPLES, sizeof *x), mean = 0, m2 = 0, m4 = 0;
    struct rng rng = rng_make(20260101, 0, RNG_SUGGEST);
    for (int i = 0; i < SAMPLES; i++) {
        x[i] = tpe_sample(&m, low, high, q, log_scale, &rng);
        mean += x[i] / SAMPLES;
    }
    for (int i = 0; i < SAMPLES; i++) {
        const double d = (x[i] - mean) * (x[i] - mean);
        m2 += d / SAMPLES;
        m4 += d * d / SAMPLES;
    }
    qsort(x, SAMPLES, sizeof *x, compare_doubles);
    const double deviation = sqrt(m2);
    CHECK(fabs(mean - field(c, "mean", NAN)) <= 5 * deviation * sqrt(noise), "%s: %s: mean %g", file_name, case_name,
          mean);
    CHECK(fabs(deviation - field(c, "std", NAN)) <= 5 * 0.5 / deviation * sqrt((m4 - m2 * m2) * noise),
          "%s: %s: deviation %g", file_name, case_name, deviation);
    /* Of two samples of the same law, what lies beyond the other's extreme is few. */
    const double ratio = SAMPLES / n > 1 ? SAMPLES / n : 1;
    CHECK(count_upto(x, SAMPLES, field(c, "min", NAN), 0) <= 20 * ratio &&
              SAMPLES - count_upto(x, SAMPLES, field(c, "max", NAN), 1) <= 20 * ratio,
          "%s: %s: from %g to %g", file_name, case_name, x[0], x[SAMPLES - 1]);
    if (!(q > 0)) {
        CHECK(x[0] >= (log_scale ? exp(low) * (1 - 1e-15) : low) && x[SAMPLES - 1] <= (log_scale ? exp(high) : high),
              "%s: %s: out of bounds: from %g to %g", file_name, case_name, x[0], x[SAMPLES - 1]);
    }
    const struct numbers p = list_at(c, "quantile_p"), quantile = list_at(c, "quantiles");
    for (int i = 0; i < p.n && i < quantile.n; i++) {
        const double slack = 5 * sqrt(p.x[i] * (1 - p.x[i]) * noise) + 1 / n;
        CHECK((double)count_upto(x, SAMPLES, quantile.x[i], 0) / SAMPLES <= p.x[i] + slack &&
                  (double)count_upto(x, SAMPLES, quantile.x[i], 1) / SAMPLES >= p.x[i] - slack,
              "%s: %s: quantile %g", file_name, case_name, p.x[i]);
    }
    double listed = 0;
    for (int i = 0; is_list(frequencies) && i < frequencies->n; i++) {
        const struct numbers pair = list_of(frequencies->items[i]);
        if (pair.n != 2) continue;
        const double lower = count_upto(x, SAMPLES, pair.x[0] - 1e-9, 0);
        const double ours = (count_upto(x, SAMPLES, pair.x[0] + 1e-9, 0) - lower) / SAMPLES, theirs = pair.x[1] / n;
        const double both = (ours + theirs) / 2;
        listed += ours;
        CHECK(fabs(ours - theirs) <= 5 * sqrt(both * noise) + 5 / n, "%s: %s: %g: frequency %g, should be %g",
              file_name, case_name, pair.x[0], ours, theirs);
    }
    if (is_list(frequencies) && field(c, "n", 0) > 0) {
        CHECK(listed > 1 - 100 / n, "%s: %s: %g of the draws are values hyperopt does not draw", file_name, case_name,
              1 - listed);
    }
}

static void one_case(const struct value *c, const char *function) {
    const struct value *in = get(c, "in");
    const struct value *name = get(c, "name");
    char text[64];
    snprintf(text, sizeof text, "line %d", c->line);
    case_name = name && name->kind == VALUE_STRING ? name->string : text;
    if (get(c, "fn") && get(c, "quantiles"))
        sampling_case(c);
    else if (get(in, "N"))
        forgetting_case(c);
    else if (get(in, "prior_mu"))
        parzen_case(c);
    else if (get(in, "kind"))
        categorical_case(c);
    else if (get(in, "losses"))
        split_case(c);
    else if (get(in, "samples"))
        lpdf_case(c, !strcmp(function, "LGMM1"));
    else
        CHECK(0, "%s: %s: a case of no known shape", file_name, case_name);
}

/* ---- suggest_*: whole histories ---- */

/* The i-th argument of a distribution, or the one of that name. */
static const struct value *argument(const struct value *label, int i, const char *name) {
    const struct value *args = get(label, "args"), *named = get(get(label, "kwargs"), name);
    if (named) return named;
    return is_list(args) && i < args->n ? args->items[i] : NULL;
}

static int dist_read(struct param *p, const struct value *label) {
    const struct value *dist = get(label, "dist"), *probabilities = argument(label, 0, "p");
    if (!dist || dist->kind != VALUE_STRING) return 0;
    const char *name = dist->string;
    const double a = number(argument(label, 0, "low"), NAN), b = number(argument(label, 1, "high"), NAN);
    if (!strcmp(name, "categorical") || !strcmp(name, "pchoice")) {
        if (is_list(probabilities) && probabilities->n == 1 && is_list(probabilities->items[0]))
            probabilities = probabilities->items[0];
        if (!is_list(probabilities)) probabilities = get(label, "args");
        const struct numbers list = list_of(probabilities);
        p->dist = DIST_PCHOICE;
        p->n_options = list.n;
        p->p = list.x;
        return list.n > 0;
    }
    if (!strcmp(name, "randint") || !strcmp(name, "choice")) {
        const double upper = field(get(label, "kwargs"), "upper", a);
        p->dist = isnan(b) ? DIST_CHOICE : DIST_RANDINT;
        p->low = isnan(b) ? 0 : a;
        p->high = isnan(b) ? upper : b;
        p->n_options = p->high - p->low >= 1 && p->high - p->low <= 1e6 ? (int)(p->high - p->low) : 0;
        return p->n_options > 0;
    }
    static const enum distribution numeric[] = {DIST_UNIFORM,     DIST_QUNIFORM,   DIST_LOGUNIFORM,
                                                DIST_QLOGUNIFORM, DIST_NORMAL,     DIST_QNORMAL,
                                                DIST_LOGNORMAL,   DIST_QLOGNORMAL, DIST_UNIFORMINT};
    static const char *const names[] = {"uniform", "quniform",  "loguniform", "qloguniform", "normal",
                                        "qnormal", "lognormal", "qlognormal", "uniformint"};
    for (int i = 0; i < 9; i++) {
        if (strcmp(name, names[i])) continue;
        p->dist = numeric[i];
        p->low = a;
        p->high = b;
        p->mu = number(argument(label, 0, "mu"), NAN);
        p->sigma = number(argument(label, 1, "sigma"), NAN);
        if (name[0] == 'q') p->q = number(argument(label, 2, "q"), NAN);
        if (p->dist == DIST_UNIFORMINT) p->q = 1;
        const int is_normal = p->dist >= DIST_NORMAL && p->dist <= DIST_QLOGNORMAL;
        return (is_normal ? p->sigma > 0 : p->high > p->low) && !isnan(p->q);
    }
    return 0;
}

struct replay {
    const struct value *labels, *root;
    struct space space;
    const struct value **label; /* of each parameter */
    struct tpe *tpe;
    int n; /* trials kept */
    double *loss, *tid;
    const struct value **values; /* their vals */
    unsigned char *below;
};

/* The space of a file's labels, parents before children. */
static int space_of(struct replay *r) {
    const int n = r->labels->n;
    r->space.params = room((size_t)n, sizeof *r->space.params);
    r->label = room((size_t)n, sizeof *r->label);
    unsigned char *done = room((size_t)n, 1);
    for (int round = 0; round < n && r->space.n_params < n; round++) {
        for (int i = 0; i < n; i++) {
            const struct value *label = r->labels->items[i], *condition = get(label, "condition");
            struct param *p = &r->space.params[r->space.n_params];
            if (done[i]) continue;
            *p = (struct param){.label = r->labels->keys[i], .parent = -1};
            if (is_list(condition) && condition->n == 2 && condition->items[0]->kind == VALUE_STRING) {
                for (int k = 0; k < r->space.n_params; k++) {
                    if (!strcmp(r->space.params[k].label, condition->items[0]->string)) p->parent = k;
                }
                if (p->parent < 0) continue; /* later */
                p->option = (int)number(condition->items[1], -1);
            } else if (condition) {
                return 0;
            }
            if (!dist_read(p, label)) return 0;
            r->label[r->space.n_params++] = label;
            done[i] = 1;
        }
    }
    return r->space.n_params == n;
}

static int history_of(struct replay *r, struct error *e) {
    const struct value *history = get(r->root, "history");
    double *values = room((size_t)r->space.n_params, sizeof *values);
    r->loss = room((size_t)history->n, sizeof *r->loss);
    r->tid = room((size_t)history->n, sizeof *r->tid);
    r->values = room((size_t)history->n, sizeof *r->values);
    r->below = room((size_t)history->n, 1);
    for (int i = 0; i < history->n; i++) {
        const struct value *trial = history->items[i], *treatment = get(trial, "treatment"), *vals = get(trial, "vals");
        const double loss = field(trial, "loss", INFINITY);
        /* Of the dropped ones, tpe_add drops the NaN; those whose objective raised never come to it. */
        if (treatment && treatment->kind == VALUE_STRING && strstr(treatment->string, "dropped") && !isnan(loss)) {
            continue;
        }
        for (int k = 0; k < r->space.n_params; k++) {
            const struct value *v = get(vals, r->space.params[k].label);
            if (is_list(v)) v = v->n ? v->items[0] : NULL; /* as hyperopt's misc.vals has them */
            values[k] = number(v, NAN);
        }
        const int status = tpe_add(r->tpe, loss, values, e);
        if (status) return status;
        if (isnan(loss)) continue;
        r->loss[r->n] = loss;
        r->tid[r->n] = field(trial, "tid", i);
        r->values[r->n++] = vals;
    }
    return OK;
}

/* log l, log g and what follows from them, for the candidates of a label or of its step in the trace. */
static void scores(struct replay *r, int param, const struct value *v) {
    const struct param *p = &r->space.params[param];
    const struct numbers x = list_at(v, "candidates");
    struct error e = {0};
    if (x.n < 1) {
        CHECK(x.n == 0, "%s: %s: no candidates", file_name, case_name);
        return;
    }
    double *log_l = room((size_t)x.n, sizeof(double)), *log_g = room((size_t)x.n, sizeof(double));
    const int status = tpe_score(r->tpe, param, x.x, x.n, log_l, log_g, &e);
    CHECK(!status, "%s: %s: %s", file_name, case_name, e.text);
    if (status) return;
    const enum tolerance tolerance = p->q > 0 ? MASS : DENSITY;
    same("log_l", log_l, x.n, list_at(v, "log_l"), tolerance);
    same("log_g", log_g, x.n, list_at(v, "log_g"), tolerance);

    double most = -INFINITY;
    for (int i = 0; i < x.n; i++) {
        log_l[i] -= log_g[i];
        if (log_l[i] > most) most = log_l[i];
    }
    const struct numbers score = list_at(v, "score");
    if (score.n >= 0) same("score", log_l, x.n, score, tolerance == MASS ? MASS : DENSITY);
    const int best = (int)field(v, "argmax", -1);
    const int good =
        best >= 0 && best < x.n && (isnan(log_l[best]) || log_l[best] == most || fabs(log_l[best] - most) <= 1e-9);
    CHECK(good, "%s: %s: argmax %d", file_name, case_name, best);
    if (get(v, "chosen") && good) {
        const double offset = field(get(get(r->labels, p->label), "posterior"), "offset", 0);
        const double chosen = field(v, "chosen", NAN);
        CHECK(chosen == x.x[best] || chosen == x.x[best] + offset, "%s: %s: chosen %g", file_name, case_name, chosen);
    }
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

/* One label: its observations in the two groups, the two fits, and the scored candidates. */
static void label_case(struct replay *r, int param, const struct tpe_options *options) {
    const struct param *p = &r->space.params[param];
    const struct value *label = r->label[param], *posterior = get(label, "posterior");
    const char *const groups[2] = {"below", "above"}, *const observed[2] = {"below_obs", "above_obs"};
    case_name = p->label;
    for (int group = 0; group < 2; group++) {
        double *obs = room((size_t)r->n, sizeof *obs);
        int n = 0;
        for (int i = 0; i < r->n; i++) {
            const struct value *v = get(r->values[i], p->label);
            if (is_list(v)) v = v->n ? v->items[0] : NULL;
            if (v && r->below[i] == !group) obs[n++] = number(v, NAN);
        }
        if (get(label, observed[group])) same(observed[group], obs, n, list_at(label, observed[group]), EXACT);
        const double expected = field(label, group ? "n_above_obs" : "n_below_obs", n);
        CHECK(expected == n, "%s: %s: %d observations %s", file_name, case_name, n, groups[group]);

        const struct value *fit = get(posterior, groups[group]);
        if (p->n_options) {
            int *category = room((size_t)n, sizeof *category);
            for (int i = 0; i < n; i++) category[i] = (int)(obs[i] - p->low);
            double *probability = room((size_t)p->n_options, sizeof *probability);
            tpe_categorical(category, n, p->n_options, p->p, options->prior_weight, options->linear_forgetting,
                            probability);
            same(group ? "above p" : "below p", probability, p->n_options, list_at(fit, "p"), PARAMETERS);
        } else {
            const int is_normal = p->dist >= DIST_NORMAL && p->dist <= DIST_QLOGNORMAL;
            for (int i = 0; i < n; i++) obs[i] = on_mixture_scale(p, obs[i]);
            struct tpe_mixture m = mixture_room(n);
            tpe_parzen(obs, n, options->prior_weight, is_normal ? p->mu : 0.5 * (p->low + p->high),
                       is_normal ? p->sigma : p->high - p->low, options->linear_forgetting, &m);
            same_mixture(&m, fit, groups[group]);
        }
    }
    scores(r, param, label);
}

static void trace_case(struct replay *r, const struct value *trace) {
    const struct value *output = get(r->root, "suggest_output_same_seed");
    double *chosen = room((size_t)r->space.n_params, sizeof *chosen);
    for (int i = 0; i < r->space.n_params; i++) {
        const struct value *step = get(trace, r->space.params[i].label);
        case_name = r->space.params[i].label;
        CHECK(step, "%s: %s: not in suggest_trace", file_name, case_name);
        if (!step) continue;
        const int active = field(step, "active", 1) != 0;
        chosen[i] = active ? field(step, "chosen", NAN) : NAN;
        CHECK(space_active(&r->space, i, chosen) == active, "%s: %s: active in the trace: %d", file_name, case_name,
              active);
        if (!active) continue;
        scores(r, i, step);
        if (output) {
            const double offset = field(get(r->label[i], "posterior"), "offset", 0);
            const double value = field(output, case_name, NAN);
            CHECK(value == chosen[i] || value == chosen[i] + offset, "%s: %s: the output is %g", file_name, case_name,
                  value);
        }
    }
}

static void suggest_file(const struct value *root) {
    struct replay r = {.root = root, .labels = get(root, "labels")};
    struct error e = {0};
    struct tpe_options options = tpe_defaults;
    const struct value *settings = get(root, "settings");
    options.gamma = field(settings, "gamma", options.gamma);
    options.prior_weight = field(settings, "prior_weight", options.prior_weight);
    options.linear_forgetting = (int)field(settings, "LF", options.linear_forgetting);
    options.n_EI_candidates = (int)field(settings, "n_EI_candidates", options.n_EI_candidates);
    options.n_startup_jobs = (int)field(settings, "n_startup_jobs", options.n_startup_jobs);

    case_name = "labels";
    const int good = is_list(get(root, "history")) && r.labels->kind == VALUE_DICT && space_of(&r) &&
                     !tpe_open(&r.tpe, &r.space, &options, &e);
    CHECK(good, "%s: its labels make no space %s", file_name, e.text);
    if (!good) return;
    case_name = "history";
    const int status = history_of(&r, &e);
    CHECK(!status, "%s: %s", file_name, e.text);
    const int n_below = tpe_split(r.loss, r.n, options.gamma, options.linear_forgetting, r.below);
    CHECK(tpe_count(r.tpe) == (int)field(root, "n_trials_used", r.n) && tpe_count(r.tpe) == r.n, "%s: %d trials used",
          file_name, tpe_count(r.tpe));
    CHECK(n_below == (int)field(root, "n_below", n_below), "%s: n_below %d", file_name, n_below);
    double *tids = room((size_t)n_below, sizeof *tids);
    for (int i = 0, k = 0; i < r.n; i++) {
        if (r.below[i]) tids[k++] = r.tid[i];
    }
    if (get(root, "below_tids")) same("below_tids", tids, n_below, list_at(root, "below_tids"), EXACT);

    for (int i = 0; !status && i < r.space.n_params; i++) label_case(&r, i, &options);
    if (!status && get(root, "suggest_trace")) trace_case(&r, get(root, "suggest_trace"));

    case_name = "a suggestion";
    double *values = room((size_t)r.space.n_params, sizeof *values);
    struct rng rng = rng_make(1, 0, RNG_SUGGEST);
    int active_where_due = !tpe_suggest(r.tpe, &rng, values, &e);
    for (int i = 0; i < r.space.n_params; i++) {
        active_where_due = active_where_due && isfinite(values[i]) == (space_active(&r.space, i, values) != 0);
    }
    CHECK(active_where_due, "%s: %s: %s", file_name, case_name, e.text);
    tpe_close(r.tpe);
}

static void file_replay(const struct value *root) {
    static const char *const lists[] = {"cases", "GMM1", "LGMM1"};
    int known = 0;
    if (get(root, "history") && get(root, "labels")) {
        suggest_file(root);
        known = 1;
    }
    for (int i = 0; i < 3; i++) {
        const struct value *list = get(root, lists[i]);
        if (!is_list(list)) continue;
        known = 1;
        for (int k = 0; k < list->n; k++) one_case(list->items[k], lists[i]);
    }
    if (!known) printf("%s: skipped: it has neither cases nor a history\n", file_name);
}

static int is_json(const struct dirent *d) {
    const size_t n = strlen(d->d_name);
    return n > 5 && !strcmp(d->d_name + n - 5, ".json");
}

int main(int argc, char **argv) {
    struct dirent **names;
    if (argc != 2) {
        fprintf(stderr, "usage: golden_tpe DIR\n");
        return 2;
    }
    const int n = scandir(argv[1], &names, is_json, alphasort);
    CHECK(n > 0, "%s: no .json files there", argv[1]);
    for (int i = 0; i < n; i++) {
        char path[4096], *bytes = NULL;
        size_t length = 0;
        struct error e = {0};
        struct document doc = {0};
        const int before = check_passed, failed = check_failed;
        file_name = names[i]->d_name;
        snprintf(path, sizeof path, "%s/%s", argv[1], file_name);
        int status = file_read(path, (size_t)1 << 28, &bytes, &length, &e);
        if (!status) status = value_parse(&doc, bytes, length, path, &e);
        CHECK(!status, "%s", e.text);
        if (!status) {
            file_replay(doc.root);
            document_free(&doc);
        }
        printf("%-40s %5d passed, %d failed\n", file_name, check_passed - before, check_failed - failed);
        mem_free(bytes);
        arena_free(&memory);
        memory = (struct arena){0};
        free(names[i]);
    }
    if (n >= 0) free(names);
    return check_done();
}
