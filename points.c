/* points.c - the points of a space: draws from the prior, its corners, what lies in it, the configuration that a point
 * stands for, and the point that stands for a configuration. */
#include "space.h"

#include <math.h>
#include <string.h>

int space_active(const struct space *s, int i, const double *values) {
    const struct param *p = &s->params[i];
    if (p->parent < 0) return 1;
    return space_active(s, p->parent, values) && values[p->parent] == p->option;
}

int space_find(const struct space *s, const char *label) {
    for (int i = 0; i < s->n_params; i++) {
        if (strcmp(s->params[i].label, label) == 0) return i;
    }
    return -1;
}

/* The number that a draw makes of u, uniform in [0, 1), or of z, a standard normal. */
static double number_of(const struct param *p, double u, double z) {
    double x = 0;
    switch (p->dist) {
        case DIST_UNIFORM:
        case DIST_QUNIFORM:
        case DIST_UNIFORMINT: x = p->low + (p->high - p->low) * u; break;
        case DIST_LOGUNIFORM:
        case DIST_QLOGUNIFORM: x = exp(p->low + (p->high - p->low) * u); break;
        case DIST_NORMAL:
        case DIST_QNORMAL: x = p->mu + p->sigma * z; break;
        case DIST_LOGNORMAL:
        case DIST_QLOGNORMAL: x = exp(p->mu + p->sigma * z); break;
        case DIST_RANDINT:
        case DIST_CHOICE:
        case DIST_PCHOICE: break; /* draw() has them */
    }
    return p->q > 0 ? nearbyint(x / p->q) * p->q : x; /* half to even, as numpy's round */
}

static double draw(const struct param *p, struct rng *rng) {
    if (p->dist == DIST_RANDINT) return p->low + rng_below(rng, (uint32_t)p->n_options);
    if (p->dist == DIST_CHOICE) return rng_below(rng, (uint32_t)p->n_options);
    if (p->dist == DIST_PCHOICE) {
        const double u = rng_uniform(rng);
        double sum = 0;
        int last = 0;
        for (int i = 0; i < p->n_options; i++) {
            sum += p->p[i];
            if (p->p[i] > 0) last = i; /* rounding may leave u behind the sum */
            if (u < sum) return i;
        }
        return last;
    }
    return param_is_normal(p) ? number_of(p, 0, rng_normal(rng)) : number_of(p, rng_uniform(rng), 0);
}

void space_draw(const struct space *s, struct rng *rng, double *values) {
    for (int i = 0; i < s->n_params; i++)
        values[i] = space_active(s, i, values) ? draw(&s->params[i], rng) : (double)NAN;
}

static double extreme(const struct param *p, int k) {
    const double hair = 1e-12; /* a bound itself may round to what no draw does: 0 of quniform(0.5, 4.5, 1) */
    if (p->options != NULL) return k;
    if (p->dist == DIST_RANDINT) return k == 0 ? p->low : p->high - 1;
    return number_of(p, k == 0 ? hair : 1 - hair, 0);
}

int space_extreme(const struct space *s, int i, int k, double *values) {
    const struct param *p = i >= 0 ? &s->params[i] : NULL;
    if (k >= (p == NULL || param_is_normal(p) ? 1 : p->options != NULL ? p->n_options : 2)) return 0;
    for (int j = 0; j < s->n_params; j++) values[j] = extreme(&s->params[j], j == i ? k : 0);
    for (; p != NULL && p->parent >= 0; p = &s->params[p->parent]) values[p->parent] = p->option;
    for (int j = 0; j < s->n_params; j++) {
        if (!space_active(s, j, values)) values[j] = (double)NAN;
    }
    return 1;
}

/* Quantised values may lie up to q / 2 outside the bounds, and rounding a little outside the others. */
static int in_domain(const struct param *p, double x) {
    double low = p->low, high = p->high;
    if (!isfinite(x)) return 0;
    if (p->q > 0 && fabs(x - nearbyint(x / p->q) * p->q) > 1e-6 * p->q + 1e-9 * fabs(x)) return 0;
    switch (p->dist) {
        case DIST_CHOICE:
        case DIST_PCHOICE: return x == floor(x) && x >= 0 && x < p->n_options;
        case DIST_RANDINT: return x == floor(x) && x >= low && x < high;
        case DIST_NORMAL:
        case DIST_QNORMAL: return 1;
        case DIST_LOGNORMAL: return x > 0;
        case DIST_QLOGNORMAL: return x >= 0;
        case DIST_LOGUNIFORM: /* by a factor, not a sum: never 0, whose logarithm is none */
            return x >= exp(low) * (1 - 1e-9) && x <= exp(high) * (1 + 1e-9);
        case DIST_QLOGUNIFORM:
            low = exp(low);
            high = exp(high);
            if (x < 0) return 0;
            break;
        case DIST_UNIFORMINT:
            if (x != floor(x)) return 0;
            break;
        case DIST_UNIFORM:
        case DIST_QUNIFORM: break;
    }
    const double slack = p->q / 2 + 1e-9 * fmax(fabs(low), fabs(high));
    return x >= low - slack && x <= high + slack;
}

int space_check(const struct space *s, const double *values, struct error *e) {
    for (int i = 0; i < s->n_params; i++) {
        const int active = space_active(s, i, values);
        if (active != !isnan(values[i])) {
            return error_set(e, ERROR_USER, "'%s' has %s where its choice %s it", s->params[i].label,
                             active ? "no value" : "a value", active ? "needs" : "leaves out");
        }
        if (active && !in_domain(&s->params[i], values[i])) {
            return error_set(e, ERROR_USER, "'%s' cannot be %.17g", s->params[i].label, values[i]);
        }
    }
    return OK;
}

static struct value *config_of(const struct space *s, const struct value *v, const double *values, struct arena *a) {
    struct value *out = arena_alloc(a, sizeof *out);
    if (out == NULL) return NULL;
    if (v->kind == VALUE_PARAM) {
        const struct param *p = &s->params[v->integer];
        const double x = values[v->integer];
        if (p->dist == DIST_CHOICE || p->dist == DIST_PCHOICE) return config_of(s, p->options[(int)x], values, a);
        const int whole = p->dist == DIST_RANDINT || p->dist == DIST_UNIFORMINT;
        out->line = v->line;
        out->column = v->column;
        out->kind = whole ? VALUE_INT : VALUE_FLOAT;
        out->integer = whole ? (int64_t)x : 0;
        out->number = whole ? (double)out->integer : x; /* no -0 */
        return out;
    }
    if (v->kind == VALUE_CUT) {
        out = config_of(s, v->items[0], values, a);
        return out != NULL ? value_cut(out) : NULL;
    }
    *out = *v;
    if (v->n == 0) return out;
    out->items = arena_alloc(a, (size_t)v->n * sizeof *out->items);
    out->keys = v->kind == VALUE_DICT ? arena_alloc(a, (size_t)v->n * sizeof *out->keys) : NULL;
    if (out->items == NULL || (v->kind == VALUE_DICT && out->keys == NULL)) return NULL;
    for (int i = 0; i < v->n; i++) {
        out->items[i] = config_of(s, v->items[i], values, a);
        if (out->items[i] == NULL) return NULL;
        if (out->keys != NULL && (out->keys[i] = arena_string(a, v->keys[i], strlen(v->keys[i]))) == NULL) return NULL;
    }
    return out;
}

/* The strings of a copied tree must be its own, too. */
static int own_strings(struct value *v, struct arena *a) {
    if (v->kind == VALUE_STRING && (v->string = arena_string(a, v->string, strlen(v->string))) == NULL) return 0;
    for (int i = 0; i < v->n; i++) {
        if (!own_strings(v->items[i], a)) return 0;
    }
    return 1;
}

int space_config(const struct space *s, const double *values, struct document *doc, struct error *e) {
    memset(doc, 0, sizeof *doc);
    const int failed = space_check(s, values, e);
    if (failed) return failed;
    doc->root = config_of(s, s->doc.root, values, &doc->arena);
    if (doc->root == NULL || !own_strings(doc->root, &doc->arena)) {
        document_free(doc);
        return error_memory(e, sizeof *doc->root, "a configuration");
    }
    return OK;
}

/* ---- and back ---- */

static int is_real(const struct value *v) { return v->kind == VALUE_INT || v->kind == VALUE_FLOAT; }

/* The value of p that stands as `number` in a configuration, behind int() if cut; NaN where there is none. */
static double value_of(const struct param *p, double number, int cut) {
    const double tries[] = {number, p->q > 0 ? ceil(number / p->q) * p->q : extreme(p, 0),
                            p->q > 0 ? floor(number / p->q) * p->q : extreme(p, 1)};
    for (int i = 0; i < (cut ? 3 : 1); i++) {
        if (in_domain(p, tries[i]) && (cut ? trunc(tries[i]) : tries[i]) == number) return tries[i];
    }
    return (double)NAN;
}

/* Is c a configuration of the space's value v? Gives the parameters in it their values, and some others, too. Numbers
 * count by what they are worth, and tuples are lists: JSON has 3 for 3.0 and no tuples. */
static int match(const struct space *s, const struct value *v, const struct value *c, int cut, double *values) {
    if (v->kind == VALUE_CUT) return match(s, v->items[0], c, 1, values);
    if (v->kind == VALUE_PARAM) {
        const struct param *p = &s->params[v->integer];
        double x = (double)NAN;
        for (int i = 0; p->options != NULL && i < p->n_options && isnan(x); i++) {
            if (match(s, p->options[i], c, cut, values)) x = i;
        }
        if (p->options == NULL && is_real(c)) x = value_of(p, c->number, cut);
        values[v->integer] = x;
        return !isnan(x);
    }
    if (is_real(v) || (cut && v->kind == VALUE_BOOL)) {
        const double number = v->kind == VALUE_BOOL ? (double)v->integer : v->number;
        return is_real(c) && ((cut ? trunc(number) : number) == c->number || (isnan(number) && isnan(c->number)));
    }
    const int list = v->kind == VALUE_LIST || v->kind == VALUE_TUPLE;
    if (list ? c->kind != VALUE_LIST && c->kind != VALUE_TUPLE : v->kind != c->kind) return 0;
    if (v->n != c->n || (v->kind == VALUE_BOOL && v->integer != c->integer)) return 0;
    if (v->kind == VALUE_STRING && strcmp(v->string, c->string) != 0) return 0;
    for (int i = 0; i < v->n; i++) {
        const struct value *item = v->kind == VALUE_DICT ? value_get(c, v->keys[i]) : c->items[i];
        if (item == NULL || !match(s, v->items[i], item, 0, values)) return 0;
    }
    return 1;
}

/* Which key of a configuration is none of the space's? */
static int tell_difference(const struct space *s, const struct value *c, const char *file, double *values,
                           struct error *e) {
    const struct value *v = s->doc.root;
    for (int i = 0; v->kind == VALUE_DICT && c->kind == VALUE_DICT && i < v->n; i++) {
        const struct value *item = value_get(c, v->keys[i]);
        if (item == NULL)
            return error_set(e, ERROR_USER, "%s: '%.100s' is missing; the space has it", file, v->keys[i]);
        if (!match(s, v->items[i], item, 0, values))
            return error_set(e, ERROR_USER, "%s:%d:%d: the space has no such '%.100s'", file, item->line, item->column,
                             v->keys[i]);
    }
    for (int i = 0; v->kind == VALUE_DICT && c->kind == VALUE_DICT && i < c->n; i++) {
        if (value_get(v, c->keys[i]) == NULL)
            return error_set(e, ERROR_USER, "%s:%d:%d: '%.100s' is not in the space", file, c->items[i]->line,
                             c->items[i]->column, c->keys[i]);
    }
    return error_set(e, ERROR_USER, "%s:%d:%d: this is no configuration of the space", file, c->line, c->column);
}

int space_point(const struct space *s, const struct value *config, const char *file, double *values, struct error *e) {
    for (int i = 0; i < s->n_params; i++) values[i] = (double)NAN;
    if (!match(s, s->doc.root, config, 0, values)) return tell_difference(s, config, file, values, e);
    for (int i = 0; i < s->n_params; i++) {
        if (!space_active(s, i, values)) values[i] = (double)NAN;
    }
    return space_check(s, values, e);
}
