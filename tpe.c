/* tpe.c - hyperopt's TPE: for each label by itself, the observations of the few best trials make a density l, those
 * of all the others a density g; of 24 candidates drawn from l the one with the largest l / g is the next value. And
 * the same for whole points.
 *
 * The file has three parts. First the plain ones, written as tpe.py has them (tpe_parzen, tpe_lpdf, ...): they fit
 * and score the small group l, and are what the tests hold the rest against. Then the history (`struct label`) and the
 * fast form of g (`struct sum`), which has nearly all the observations and must not cost a sort and 24 exponentials
 * for each of them. Last, whole points, from the same history.
 *
 * Invariants: in a label, `trial[i]` is the trial of its i-th observation in time, ascending; `sorted[0 .. n_sorted)`
 * is in the order of (value, time) and the rest of `sorted` in the order of time, as tpe_add put it there. Equal
 * values thus keep the order of time everywhere, as with a stable sort. */
#include "tpe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-12 /* tpe.py's */
#define SQRT_2 1.41421356237309504880
#define SQRT_2PI 2.50662827463100050242

const struct tpe_options tpe_defaults = {
    .n_startup_jobs = 20, .n_EI_candidates = 24, .gamma = 0.25, .prior_weight = 1, .linear_forgetting = 25};
/* Chosen on the functions of tests/bench_search.py. */
const struct tpe_options tpe_joint = {.n_startup_jobs = 10,
                                      .n_EI_candidates = 24,
                                      .gamma = 0.06,
                                      .prior_weight = 1.5,
                                      .linear_forgetting = 25,
                                      .joint = 1};

/* ======== the parts ======== */

/* The weights of n observations in time order: a ramp from 1/n up to 1, which rank `full` and the later ones have. */
struct ramp {
    int full;
    double start, step;
};

static struct ramp ramp_make(int n, int lf) {
    struct ramp r = {0, 1, 0};
    const int m = n - lf;
    if (m <= 0) return r;
    r.start = 1.0 / n;
    r.step = m > 1 ? (1 - r.start) / (m - 1) : 0;
    r.full = m > 1 ? m - 1 : 1;
    return r;
}

static double ramp_weight(const struct ramp *r, int rank) { return rank < r->full ? rank * r->step + r->start : 1; }

void tpe_forgetting_weights(int n, int lf, double *w) {
    const struct ramp r = ramp_make(n, lf);
    for (int i = 0; i < n; i++) w[i] = ramp_weight(&r, i);
}

/* Where the prior stands among n sorted observations. One observation has its own rule in tpe.py: it goes before a
 * prior of the same mu, while several go behind. */
static int prior_position(const double *sorted, int n, double prior_mu) {
    if (n == 1) return prior_mu < sorted[0] ? 0 : 1;
    int low = 0, high = n;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (sorted[middle] < prior_mu)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The least sigma of a mixture of n observations and the prior. */
static double least_sigma(int n, double prior_sigma) { return prior_sigma / (n + 2.0 < 100 ? n + 2.0 : 100); }

/* The width of a component, which is not the prior, of a mixture of n observations: the larger of the gaps to its
 * neighbours, clipped. Where there is no neighbour, left or right is mu itself: a gap of 0. */
static double component_sigma(double left, double mu, double right, int n, double least, double prior_sigma) {
    const double gap = mu - left > right - mu ? mu - left : right - mu;
    const double sigma = n == 1 ? 0.5 * prior_sigma : gap;
    return sigma < least ? least : sigma > prior_sigma ? prior_sigma : sigma;
}

static void insert_at(double *a, int n, int at, double x) {
    memmove(a + at + 1, a + at, (size_t)(n - at) * sizeof *a);
    a[at] = x;
}

void tpe_parzen(const double *obs, int n, double prior_weight, double prior_mu, double prior_sigma, int lf,
                struct tpe_mixture *out) {
    double *mu = out->mu, *weight = out->weight;
    const struct ramp ramp = ramp_make(n, lf > 0 ? lf : n);
    for (int i = 0; i < n; i++) {
        int at = i;
        while (at > 0 && mu[at - 1] > obs[i]) at--;
        insert_at(mu, i, at, obs[i]);
        insert_at(weight, i, at, ramp_weight(&ramp, i));
    }
    const int prior = prior_position(mu, n, prior_mu);
    insert_at(mu, n, prior, prior_mu);
    insert_at(weight, n, prior, prior_weight);
    out->n = n + 1;

    double total = 0;
    const double least = least_sigma(n, prior_sigma);
    for (int i = 0; i <= n; i++) {
        const double left = mu[i > 0 ? i - 1 : i], right = mu[i < n ? i + 1 : i];
        total += weight[i];
        out->sigma[i] = i == prior ? prior_sigma : component_sigma(left, mu[i], right, n, least, prior_sigma);
    }
    for (int i = 0; i <= n; i++) weight[i] /= total;
}

static double normal_cdf(double x, double mu, double sigma) {
    return 0.5 * (1 + erf((x - mu) / fmax(SQRT_2 * sigma, EPS)));
}

/* The bin that rounding to a multiple of q maps to x, cut to the bounds, as two points on the scale of mu. */
static void bin_of(double x, double low, double high, double q, int log_scale, double *from, double *to) {
    if (log_scale) {
        const double least = isfinite(low) ? exp(low) : 0;
        double a = fmax(0, fmax(x - q / 2, least)), b = x + q / 2;
        if (isfinite(high)) b = fmin(b, exp(high));
        *from = log(fmax(a, EPS));
        *to = log(fmax(b, EPS));
    } else {
        *from = fmax(x - q / 2, low);
        *to = fmin(x + q / 2, high);
    }
}

static int bounded(double low, double high) { return isfinite(low) || isfinite(high); }

void tpe_lpdf(const struct tpe_mixture *m, double low, double high, double q, int log_scale, const double *x, int n,
              double *out, double *p_accept) {
    double accept = 1;
    if (bounded(low, high)) {
        accept = 0;
        for (int k = 0; k < m->n; k++) {
            accept += m->weight[k] * (normal_cdf(high, m->mu[k], m->sigma[k]) - normal_cdf(low, m->mu[k], m->sigma[k]));
        }
    }
    if (p_accept) *p_accept = accept;

    for (int i = 0; i < n; i++) {
        if (q > 0) {
            double from, to, mass = 0;
            bin_of(x[i], low, high, q, log_scale, &from, &to);
            for (int k = 0; k < m->n; k++) {
                mass += m->weight[k] * normal_cdf(to, m->mu[k], m->sigma[k]);
                mass -= m->weight[k] * normal_cdf(from, m->mu[k], m->sigma[k]);
            }
            out[i] = log(mass) - log(accept);
            continue;
        }
        /* log of the sum of exp(term), shifted by the largest term so that far tails do not vanish */
        const double y = log_scale ? log(x[i]) : x[i];
        double most = -INFINITY, sum = 0;
        for (int pass = 0; pass < 2; pass++) {
            for (int k = 0; k < m->n; k++) {
                const double t = (y - m->mu[k]) / fmax(m->sigma[k], EPS);
                const double term = -0.5 * t * t + log(m->weight[k] / (SQRT_2PI * m->sigma[k]));
                if (pass == 0)
                    most = fmax(most, term);
                else
                    sum += exp(term - most);
            }
        }
        /* tpe.py's LGMM1_lpdf leaves p_accept out; so must this, to give its numbers */
        out[i] = log(sum) + most - (log_scale ? y : log(accept));
    }
}

double tpe_sample(const struct tpe_mixture *m, double low, double high, double q, int log_scale, struct rng *rng) {
    double x = 0;
    /* Component and value are drawn afresh on each rejection: the law is the whole mixture, truncated. The mixtures
     * of tpe_suggest have at least a third of their mass within the bounds, for every component has its mu there
     * and sigma at most the range. For others: a mixture that has missed 10,000 times lies outside, and what it has
     * within crowds at the bound it is nearest to. */
    for (int tries = 0; tries < 10000; tries++) {
        const double u = rng_uniform(rng);
        double sum = 0;
        int k = 0;
        for (; k < m->n - 1; k++) {
            sum += m->weight[k];
            if (u < sum) break;
        }
        x = m->mu[k] + m->sigma[k] * rng_normal(rng);
        if (x >= low && x < high) break;
    }
    if (!(x < high)) x = nextafter(high, -INFINITY);
    if (!(x >= low)) x = low;
    if (log_scale) x = exp(x);
    if (q > 0) x = nearbyint(x / q) * q + 0.0; /* half to even; + 0.0 makes -0 a plain 0 */
    return x;
}

void tpe_categorical(const int *obs, int n, int n_options, const double *prior, double prior_weight, int lf,
                     double *p) {
    const struct ramp ramp = ramp_make(n, lf);
    double total = 0;
    for (int c = 0; c < n_options; c++) p[c] = prior ? n_options * prior_weight * prior[c] : prior_weight;
    for (int i = 0; i < n; i++) p[obs[i]] += ramp_weight(&ramp, i);
    for (int c = 0; c < n_options; c++) total += p[c];
    for (int c = 0; c < n_options; c++) p[c] /= total;
}

/* share: of the n trials, how many make the below group, before rounding up. */
static int below_count(int n, double share, int lf) {
    const double wanted = ceil(share);
    const int most = n < lf ? n : lf;
    return wanted < most ? (int)wanted : most;
}

/* The k best of losses[n], as indexes in ascending order. O(n) but for the few that enter the list. */
static void best_trials(const double *losses, int n, int k, int *best) {
    int count = 0;
    for (int i = 0; i < n && k > 0; i++) {
        if (count == k && !(losses[i] < losses[best[k - 1]])) continue;
        int at = count < k ? count++ : k - 1;
        for (; at > 0 && losses[i] < losses[best[at - 1]]; at--) best[at] = best[at - 1];
        best[at] = i;
    }
    for (int i = 1; i < k; i++) { /* into the order of time; k is small */
        const int trial = best[i];
        int at = i;
        for (; at > 0 && best[at - 1] > trial; at--) best[at] = best[at - 1];
        best[at] = trial;
    }
}

int tpe_split(const double *losses, int n, double gamma, int lf, unsigned char *below) {
    const int k = below_count(n, gamma * sqrt(n), lf);
    int *best = mem_alloc(((size_t)k + 1) * sizeof *best);
    if (!best) return -1;
    best_trials(losses, n, k, best);
    memset(below, 0, (size_t)n);
    for (int i = 0; i < k; i++) below[best[i]] = 1;
    mem_free(best);
    return k;
}

/* ======== g: a sum of very many normal kernels ======== */

/* A mixture of n components has most of them at the least sigma (the prior's / 100), for its gaps are small: these
 * are the narrow ones, and the others, the prior among them, the wide. Of wide ones there are but a few hundred
 * however long the history (each has a gap of more than the least sigma beside it), and each is evaluated as it
 * stands. Narrow ones of the same mu (quantised parameters) are one, with their weights added. Neighbours within
 * CELL sigmas then share a cell, and are summed in one go (the fast Gauss transform, Greengard and Strain 1991):
 * with t the distance of x from the cell's centre, d that of a component from it, in sigmas,
 *     exp(-(t - d)^2 / 2) = exp(-t^2 / 2) * sum_j He_j(t) d^j / j!
 *     Phi(t - d)          = Phi(t) - phi(t) * sum_{j > 0} He_{j-1}(t) d^j / j!
 * so that a cell needs only its moments sum_k w_k d_k^j / j!. |d| <= CELL / 2 = 1/8, and the terms fall as
 * (|t| / 8)^j / j!: ORDER = 16 of them leave less than 1e-11 of the cell's own part at |t| = REACH = 11, 1e-14 where
 * |t| <= 8 (and the part itself is by then small). Beyond REACH, and for cells of few components, each component is
 * evaluated as it stands, too. */
#define CELL 0.25
#define ORDER 16
#define REACH 11.0
#define FEW 8
/* Terms of the density below exp(-NEGLIGIBLE) of the largest are left out. Weights lie between 1/n and 1 and sigmas
 * within a factor of 100, so that n = 1e5 such terms are less than 1e5 * 1e5 * 100 * 9e-27 = 1e-14 of the sum. */
#define NEGLIGIBLE 60.0
/* erf(x) is 1 in double precision from 5.93 on; with the cell's half width added, Phi is 1 at t = 9. */
#define SATURATED 9.0

struct cell {
    double centre, mass;
    int first, n; /* its narrow components */
    double moment[ORDER];
};

struct sum {
    double total; /* the weights' sum */
    double sigma; /* of the narrow components */
    int n_narrow, n_wide, n_cells, cell_room;
    double *narrow_mu, *narrow_weight;                           /* ascending mu */
    double *wide_mu, *wide_weight, *wide_sigma, *wide_per_sigma; /* the last: 1 / max(sigma, EPS) */
    struct cell *cells;
};

static void cell_moments(const struct sum *s, struct cell *cell) {
    double moment[ORDER] = {0};
    for (int k = cell->first; k < cell->first + cell->n; k++) {
        const double d = (s->narrow_mu[k] - cell->centre) / s->sigma, d2 = d * d;
        double even = s->narrow_weight[k], odd = even * d;
        for (int j = 0; j < ORDER; j += 2) {
            moment[j] += even;
            moment[j + 1] += odd;
            even *= d2;
            odd *= d2;
        }
    }
    double factorial = 1;
    for (int j = 0; j < ORDER; j++) {
        cell->moment[j] = moment[j] / factorial;
        factorial *= j + 1;
    }
}

/* Makes *s of n observations, sorted, in narrow_mu and narrow_weight, which have room for n + 1. */
static int sum_fit(struct sum *s, int n, double prior_weight, double prior_mu, double prior_sigma, struct error *e) {
    double *mu = s->narrow_mu, *weight = s->narrow_weight;
    const int prior = prior_position(mu, n, prior_mu);
    insert_at(mu, n, prior, prior_mu);
    insert_at(weight, n, prior, prior_weight);

    s->sigma = least_sigma(n, prior_sigma);
    s->n_narrow = s->n_wide = s->n_cells = 0;
    s->total = 0;
    double left = mu[0];
    for (int i = 0; i <= n; i++) { /* narrow ones move down in place: n_narrow <= i, so none is overwritten unread */
        const double x = mu[i], w = weight[i];
        const double right = mu[i < n ? i + 1 : i];
        const double sigma = i == prior ? prior_sigma : component_sigma(left, x, right, n, s->sigma, prior_sigma);
        left = x;
        s->total += w;
        if (i == prior || sigma > s->sigma || s->sigma < 2 * EPS) {
            s->wide_mu[s->n_wide] = x;
            s->wide_sigma[s->n_wide] = sigma;
            s->wide_per_sigma[s->n_wide] = 1 / fmax(sigma, EPS);
            s->wide_weight[s->n_wide++] = w;
        } else if (s->n_narrow > 0 && mu[s->n_narrow - 1] == x) {
            weight[s->n_narrow - 1] += w;
        } else {
            mu[s->n_narrow] = x;
            weight[s->n_narrow++] = w;
        }
    }

    for (int first = 0, last; first < s->n_narrow; first = last) {
        const double end = mu[first] + CELL * s->sigma;
        double mass = 0;
        for (last = first; last < s->n_narrow && mu[last] <= end; last++) mass += weight[last];
        if (last == first) mass = weight[last++]; /* a NaN, from numbers too large: never an endless loop */
        if (s->n_cells == s->cell_room) {
            const int room = s->cell_room * 2 + 64;
            const size_t bytes = (size_t)room * sizeof *s->cells;
            struct cell *cells = mem_grow(s->cells, bytes);
            if (!cells) return error_memory(e, bytes, "TPE");
            s->cells = cells;
            s->cell_room = room;
        }
        struct cell *cell = &s->cells[s->n_cells++];
        cell->centre = mu[first] + 0.5 * CELL * s->sigma;
        cell->mass = mass;
        cell->first = first;
        cell->n = last - first;
        if (cell->n > FEW) cell_moments(s, cell);
    }
    return OK;
}

/* Half the square of the distance, in sigmas, from y to the nearest point of a cell. */
static double cell_exponent(const struct cell *cell, double y, double per_sigma) {
    const double t = fabs(y - cell->centre) * per_sigma - 0.5 * CELL;
    return t > 0 ? 0.5 * t * t : 0;
}

/* The log of the density at y. As in tpe_lpdf, exponents are taken relative to the least. */
static double sum_log_density(const struct sum *s, double y) {
    const double per_sigma = 1 / s->sigma;
    double least = INFINITY;
    for (int k = 0; k < s->n_wide; k++) {
        const double t = (y - s->wide_mu[k]) * s->wide_per_sigma[k], exponent = 0.5 * t * t;
        if (exponent < least) least = exponent;
    }
    for (int c = 0; c < s->n_cells; c++) {
        const double exponent = cell_exponent(&s->cells[c], y, per_sigma);
        if (exponent < least) least = exponent;
    }

    double wide = 0, narrow = 0;
    for (int k = 0; k < s->n_wide; k++) {
        const double t = (y - s->wide_mu[k]) * s->wide_per_sigma[k], exponent = 0.5 * t * t - least;
        if (exponent < NEGLIGIBLE) wide += s->wide_weight[k] / s->wide_sigma[k] * exp(-exponent);
    }
    for (int c = 0; c < s->n_cells; c++) {
        const struct cell *cell = &s->cells[c];
        if (cell_exponent(cell, y, per_sigma) - least > NEGLIGIBLE) continue;
        const double t = (y - cell->centre) * per_sigma;
        if (cell->n <= FEW || fabs(t) > REACH) {
            for (int k = cell->first; k < cell->first + cell->n; k++) {
                const double tk = (y - s->narrow_mu[k]) * per_sigma;
                narrow += s->narrow_weight[k] * exp(least - 0.5 * tk * tk);
            }
        } else {
            double he = 1, before = 0, series = 0; /* He_j, He_{j-1} */
            for (int j = 0; j < ORDER; j++) {
                series += cell->moment[j] * he;
                const double next = t * he - j * before;
                before = he;
                he = next;
            }
            narrow += series * exp(least - 0.5 * t * t);
        }
    }
    return log((wide + narrow * per_sigma) / (SQRT_2PI * s->total)) - least;
}

/* A cell's mass below y, that is t = (y - centre) / sigma. */
static double cell_cdf(const struct sum *s, const struct cell *cell, double y) {
    const double t = (y - cell->centre) / s->sigma;
    if (t >= SATURATED) return cell->mass;
    if (t <= -SATURATED) return 0;
    double sum = 0;
    if (cell->n <= FEW) {
        for (int k = cell->first; k < cell->first + cell->n; k++) {
            sum += s->narrow_weight[k] * normal_cdf(y, s->narrow_mu[k], s->sigma);
        }
        return sum;
    }
    double he = 1, before = 0;
    for (int j = 1; j < ORDER; j++) {
        sum += cell->moment[j] * he;
        const double next = t * he - (j - 1) * before;
        before = he;
        he = next;
    }
    return cell->mass * 0.5 * (1 + erf(t / SQRT_2)) - sum * exp(-0.5 * t * t) / SQRT_2PI;
}

/* The mass between two points. A component that has both on the same side, far away, adds the difference of two ones
 * or two zeros. */
static double sum_mass(const struct sum *s, double from, double to) {
    double mass = 0;
    for (int k = 0; k < s->n_wide; k++) {
        const double mu = s->wide_mu[k], sigma = s->wide_sigma[k], far = SATURATED * fmax(sigma, EPS);
        if (from - mu > far || mu - to > far) continue;
        mass += s->wide_weight[k] * (normal_cdf(to, mu, sigma) - normal_cdf(from, mu, sigma));
    }
    for (int c = 0; c < s->n_cells; c++) {
        const struct cell *cell = &s->cells[c];
        if (from - cell->centre > SATURATED * s->sigma || cell->centre - to > SATURATED * s->sigma) continue;
        const double part = cell_cdf(s, cell, to) - cell_cdf(s, cell, from);
        if (part > 0 || to < from) mass += part; /* no rounding below 0: its log would be a NaN, which wins */
    }
    return mass / s->total;
}

/* tpe_lpdf of a sum. Quantised candidates repeat: each value is worked out once. */
static void sum_lpdf(const struct sum *s, double low, double high, double q, int log_scale, const double *x, int n,
                     double *out) {
    /* the one case for which p_accept is not asked is LGMM1's without q */
    const double accept = bounded(low, high) && (q > 0 || !log_scale) ? sum_mass(s, low, high) : 1;
    for (int i = 0; i < n; i++) {
        int same = i;
        if (q > 0 && n <= 1000) {
            for (same = 0; same < i && x[same] != x[i];) same++;
        }
        if (same < i) {
            out[i] = out[same];
        } else if (q > 0) {
            double from, to;
            bin_of(x[i], low, high, q, log_scale, &from, &to);
            out[i] = log(sum_mass(s, from, to)) - log(accept);
        } else if (log_scale) {
            const double y = log(x[i]);
            out[i] = sum_log_density(s, y) - y;
        } else {
            out[i] = sum_log_density(s, x[i]) - log(accept);
        }
    }
}

/* ======== the history ======== */

struct observation {
    double x;      /* on the scale of the mixture */
    uint32_t when; /* the how many-th observation of its label */
};

struct label {
    const struct param *param;
    int categorical; /* choice, pchoice, randint: `option` is used; else `sorted` */
    int log_scale;
    double low, high; /* -inf, +inf where there are none; log space for the log kinds */
    double prior_mu, prior_sigma;
    int n, n_sorted, room;
    uint32_t *trial;
    struct observation *sorted;
    int32_t *option;
};

/* ---- whole points (see the last part): a component in one label; the prior's, where the trial lacks the label ---- */
struct kernel {
    double mu, sigma; /* a category: the option, and 0 for the prior */
    double norm;      /* what is added to the log: of the part cut off, and of 1 / (sigma sqrt(2 pi)) without q */
};

struct group {
    int n;                  /* components but the prior */
    double *log_weight;     /* n + 1 */
    struct kernel *kernels; /* [n_params][n + 1] */
};

struct points {
    struct group l, g;
    int *place; /* each trial's rank in its group; -1 - rank in the below group */
    int *who;   /* of one label, in the order of its values: the ranks, and the values */
    double *mu;
    double *point; /* a candidate */
    double *terms; /* a component's log of its part of a density */
};

struct tpe {
    const struct space *space;
    struct tpe_options options;
    struct label *labels; /* one for each parameter */
    int n, room;
    double *loss;

    /* Working room of a suggestion. */
    double *counts;                     /* as many as the most options; all zero between uses */
    double *candidates, *log_l, *log_g; /* n_EI_candidates */
    int work_room;                      /* trials that the following are for */
    int *best, n_best;                  /* the below group's trials, ascending */
    int *below;                         /* those of its observations of one label, as `when` */
    double *ramp, *below_x;             /* a weight for each `when`; the below values in time order */
    struct tpe_mixture l;
    struct sum g;
    struct points *points; /* joint: room for these */
};

/* More than this many trials behind the sorted ones (a history being loaded): one sort is faster than insertions. */
enum { INSERTIONS = 64 };

static void label_open(struct label *l, const struct param *p) {
    l->param = p;
    l->low = -INFINITY;
    l->high = INFINITY;
    switch (p->dist) {
        case DIST_LOGUNIFORM:
        case DIST_QLOGUNIFORM: l->log_scale = 1; /* fall through */
        case DIST_UNIFORM:
        case DIST_QUNIFORM:
        case DIST_UNIFORMINT:
            l->low = p->low;
            l->high = p->high;
            l->prior_mu = 0.5 * (p->high + p->low);
            l->prior_sigma = p->high - p->low;
            break;
        case DIST_LOGNORMAL:
        case DIST_QLOGNORMAL: l->log_scale = 1; /* fall through */
        case DIST_NORMAL:
        case DIST_QNORMAL:
            l->prior_mu = p->mu;
            l->prior_sigma = p->sigma;
            break;
        case DIST_RANDINT:
        case DIST_CHOICE:
        case DIST_PCHOICE: l->categorical = 1; break;
    }
}

static void points_free(struct points *p) {
    if (!p) return;
    mem_free(p->l.log_weight);
    mem_free(p->l.kernels);
    mem_free(p->g.log_weight);
    mem_free(p->g.kernels);
    mem_free(p->place);
    mem_free(p->who);
    mem_free(p->mu);
    mem_free(p->point);
    mem_free(p->terms);
    mem_free(p);
}

int tpe_open(struct tpe **out, const struct space *space, const struct tpe_options *options, struct error *e) {
    const struct tpe_options o = options ? *options : tpe_defaults;
    *out = NULL;
    if (o.n_startup_jobs < 0 || o.n_EI_candidates < 1 || o.n_EI_candidates > 1000000 || !(o.gamma > 0) ||
        !(o.prior_weight > 0) || !isfinite(o.prior_weight) || o.linear_forgetting < 1) {
        return error_set(e, ERROR_USER,
                         "TPE: an option is out of range (candidates from 1, gamma > 0, prior weight > 0, linear "
                         "forgetting from 1)");
    }
    struct tpe *t = mem_zero(1, sizeof *t);
    if (!t) return error_memory(e, sizeof *t, "TPE");
    t->space = space;
    t->options = o;
    const size_t n_params = (size_t)space->n_params, n_candidates = (size_t)o.n_EI_candidates;
    int most = 1;
    for (int i = 0; i < space->n_params; i++) {
        if (space->params[i].n_options > most) most = space->params[i].n_options;
    }
    t->labels = mem_zero(n_params + 1, sizeof *t->labels);
    t->counts = mem_zero((size_t)most, sizeof *t->counts);
    t->candidates = mem_zero(3 * n_candidates, sizeof *t->candidates);
    if (o.joint) t->points = mem_zero(1, sizeof *t->points);
    if (t->points) t->points->point = mem_zero(n_params + 1, sizeof *t->points->point);
    if (!t->labels || !t->counts || !t->candidates || (o.joint && (!t->points || !t->points->point))) {
        tpe_close(t);
        return error_memory(e, (size_t)most * sizeof *t->counts + n_params * sizeof *t->labels, "TPE");
    }
    t->log_l = t->candidates + n_candidates;
    t->log_g = t->log_l + n_candidates;
    for (int i = 0; i < space->n_params; i++) label_open(&t->labels[i], &space->params[i]);
    *out = t;
    return OK;
}

void tpe_close(struct tpe *t) {
    if (!t) return;
    for (int i = 0; t->labels && i < t->space->n_params; i++) {
        mem_free(t->labels[i].trial);
        mem_free(t->labels[i].sorted);
        mem_free(t->labels[i].option);
    }
    mem_free(t->labels);
    mem_free(t->loss);
    mem_free(t->counts);
    mem_free(t->candidates);
    mem_free(t->best);
    mem_free(t->ramp);
    mem_free(t->g.cells);
    points_free(t->points);
    mem_free(t);
}

int tpe_count(const struct tpe *t) { return t->n; }

static int grow(void *array, size_t bytes, struct error *e) {
    void *old, *new;
    memcpy(&old, array, sizeof old);
    new = mem_grow(old, bytes);
    if (!new) return error_memory(e, bytes, "the history of trials");
    memcpy(array, &new, sizeof new);
    return OK;
}

static int label_reserve(struct label *l, struct error *e) {
    if (l->n < l->room) return OK;
    const int room = l->room + l->room / 2 + 32;
    int status = grow(&l->trial, (size_t)room * sizeof *l->trial, e);
    if (!status && l->categorical) status = grow(&l->option, (size_t)room * sizeof *l->option, e);
    if (!status && !l->categorical) status = grow(&l->sorted, (size_t)room * sizeof *l->sorted, e);
    if (!status) l->room = room;
    return status;
}

/* The value on the scale of the mixture, or the 0-based option; NaN when it cannot be of this parameter. */
static double label_transform(const struct label *l, double x) {
    const struct param *p = l->param;
    if (l->categorical) {
        const double option = p->dist == DIST_RANDINT ? x - p->low : x;
        return option >= 0 && option < p->n_options && floor(option) == option ? option : NAN;
    }
    if (!isfinite(x)) return NAN;
    switch (p->dist) {
        case DIST_LOGUNIFORM:
        case DIST_LOGNORMAL: return x > 0 ? log(x) : NAN;
        case DIST_QLOGUNIFORM: return log(fmax(x, fmax(EPS, exp(p->low))));
        case DIST_QLOGNORMAL: return log(fmax(x, EPS));
        default: return x;
    }
}

int tpe_add(struct tpe *t, double loss, const double *values, struct error *e) {
    if (isnan(loss)) return OK;
    if (t->n == INT32_MAX / 4) return error_set(e, ERROR_USER, "TPE: too many trials");
    if (t->n == t->room) {
        const int room = t->room + t->room / 2 + 32;
        const int status = grow(&t->loss, (size_t)room * sizeof *t->loss, e);
        if (status) return status;
        t->room = room;
    }
    for (int i = 0; i < t->space->n_params; i++) { /* all that can fail, before anything changes */
        struct label *l = &t->labels[i];
        if (isnan(values[i])) continue;
        if (isnan(label_transform(l, values[i]))) {
            return error_set(e, ERROR_USER, "TPE: %g is not a value of '%s' (%s)", values[i], l->param->label,
                             distribution_names[l->param->dist]);
        }
        const int status = label_reserve(l, e);
        if (status) return status;
    }
    for (int i = 0; i < t->space->n_params; i++) {
        struct label *l = &t->labels[i];
        if (isnan(values[i])) continue;
        const double x = label_transform(l, values[i]);
        if (l->categorical)
            l->option[l->n] = (int32_t)x;
        else
            l->sorted[l->n] = (struct observation){x, (uint32_t)l->n};
        l->trial[l->n++] = (uint32_t)t->n;
    }
    t->loss[t->n++] = loss;
    return OK;
}

void tpe_rewind(struct tpe *t, int n) {
    if (n >= t->n) return;
    t->n = n < 0 ? 0 : n;
    for (int i = 0; i < t->space->n_params; i++) {
        struct label *l = &t->labels[i];
        int keep = l->n, kept = 0, kept_sorted = 0;
        while (keep > 0 && l->trial[keep - 1] >= (uint32_t)t->n) keep--;
        for (int k = 0; k < l->n && !l->categorical; k++) {
            if (k == l->n_sorted) kept_sorted = kept;
            if (l->sorted[k].when < (uint32_t)keep) l->sorted[kept++] = l->sorted[k];
        }
        l->n_sorted = l->n_sorted >= l->n ? keep : kept_sorted;
        l->n = keep;
    }
}

static int compare_observations(const void *a, const void *b) {
    const struct observation *p = a, *q = b;
    if (p->x != q->x) return p->x < q->x ? -1 : 1;
    return p->when < q->when ? -1 : p->when > q->when;
}

static void label_sort(struct label *l) {
    if (l->categorical) return;
    if (l->n - l->n_sorted > INSERTIONS) {
        qsort(l->sorted, (size_t)l->n, sizeof *l->sorted, compare_observations);
        l->n_sorted = l->n;
    }
    for (; l->n_sorted < l->n; l->n_sorted++) {
        const struct observation new = l->sorted[l->n_sorted];
        int low = 0, high = l->n_sorted; /* behind its equals */
        while (low < high) {
            const int middle = low + (high - low) / 2;
            if (l->sorted[middle].x <= new.x)
                low = middle + 1;
            else
                high = middle;
        }
        memmove(&l->sorted[low + 1], &l->sorted[low], (size_t)(l->n_sorted - low) * sizeof new);
        l->sorted[low] = new;
    }
}

void tpe_sort(struct tpe *t) {
    for (int i = 0; i < t->space->n_params; i++) label_sort(&t->labels[i]);
}

/* ======== a suggestion ======== */

/* Room for whole points of so many trials. */
static int points_reserve(struct tpe *t, int room, struct error *e) {
    struct points *p = t->points;
    const size_t each = (size_t)room + 1, labels = (size_t)t->space->n_params + 1;
    const size_t few = (size_t)t->options.linear_forgetting < each ? (size_t)t->options.linear_forgetting + 1 : each;
    int status = grow(&p->place, each * sizeof *p->place, e);
    if (!status) status = grow(&p->who, each * sizeof *p->who, e);
    if (!status) status = grow(&p->mu, each * sizeof *p->mu, e);
    if (!status) status = grow(&p->terms, each * sizeof *p->terms, e);
    if (!status) status = grow(&p->l.log_weight, few * sizeof *p->l.log_weight, e);
    if (!status) status = grow(&p->g.log_weight, each * sizeof *p->g.log_weight, e);
    if (!status) status = grow(&p->l.kernels, labels * few * sizeof *p->l.kernels, e);
    if (!status) status = grow(&p->g.kernels, labels * each * sizeof *p->g.kernels, e);
    return status;
}

/* Room for the work on t->n trials, and the split. */
static int prepare(struct tpe *t, struct error *e) {
    if (t->work_room <= t->n) { /* 0: no room yet, or no memory the last time */
        const int room = t->n + t->n / 2 + 32;
        const size_t each = (size_t)room + 1; /* + 1: the prior */
        enum { ARRAYS = 11 };
        t->work_room = 0;
        int status = grow(&t->best, 2 * each * sizeof *t->best, e);
        if (!status) status = grow(&t->ramp, ARRAYS * each * sizeof *t->ramp, e);
        if (status) return status;
        double *p = t->ramp;
        double **const arrays[ARRAYS] = {&t->ramp,          &t->below_x,      &t->l.weight,        &t->l.mu,
                                         &t->l.sigma,       &t->g.narrow_mu,  &t->g.narrow_weight, &t->g.wide_mu,
                                         &t->g.wide_weight, &t->g.wide_sigma, &t->g.wide_per_sigma};
        for (int i = 0; i < ARRAYS; i++, p += each) *arrays[i] = p;
        t->below = t->best + each;
        status = t->options.joint ? points_reserve(t, room, e) : OK;
        if (status) return status;
        t->work_room = room;
    }
    t->n_best =
        below_count(t->n, t->options.gamma * (t->options.joint ? t->n : sqrt(t->n)), t->options.linear_forgetting);
    best_trials(t->loss, t->n, t->n_best, t->best);
    return OK;
}

/* Which of the label's observations are below: t->below[], ascending. Returns how many. */
static int below_observations(const struct tpe *t, const struct label *l) {
    int count = 0;
    for (int i = 0; i < t->n_best; i++) {
        const uint32_t trial = (uint32_t)t->best[i];
        int low = 0, high = l->n;
        while (low < high) {
            const int middle = low + (high - low) / 2;
            if (l->trial[middle] < trial)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < l->n && l->trial[low] == trial) t->below[count++] = low;
    }
    return count;
}

/* Fits t->l and t->g to the label's history. */
static int fit_numeric(struct tpe *t, struct label *l, struct error *e) {
    label_sort(l);
    const int n_below = below_observations(t, l), n_above = l->n - n_below;

    /* A weight for each observation of the above group; one of the below group has instead -1 - its place there. */
    const struct ramp ramp = ramp_make(n_above, t->options.linear_forgetting);
    for (int i = 0, k = 0; i < l->n; i++) {
        const int is_below = k < n_below && t->below[k] == i;
        t->ramp[i] = is_below ? -1.0 - k : ramp_weight(&ramp, i - k);
        k += is_below;
    }
    int n = 0;
    for (int i = 0; i < l->n; i++) {
        const double weight = t->ramp[l->sorted[i].when];
        if (weight < 0) {
            t->below_x[(int)(-1 - weight)] = l->sorted[i].x;
        } else {
            t->g.narrow_mu[n] = l->sorted[i].x;
            t->g.narrow_weight[n++] = weight;
        }
    }
    tpe_parzen(t->below_x, n_below, t->options.prior_weight, l->prior_mu, l->prior_sigma, t->options.linear_forgetting,
               &t->l);
    return sum_fit(&t->g, n_above, t->options.prior_weight, l->prior_mu, l->prior_sigma, e);
}

static void score_numeric(const struct tpe *t, const struct label *l, const double *x, int n, double *log_l,
                          double *log_g) {
    const double q = l->param->q;
    tpe_lpdf(&t->l, l->low, l->high, q, l->log_scale, x, n, log_l, NULL);
    sum_lpdf(&t->g, l->low, l->high, q, l->log_scale, x, n, log_g);
}

/* The categorical posterior of one group at the options x[n], without going through all the options: a randint may
 * have a million. */
static void score_group(struct tpe *t, const struct label *l, int n_below, int above, const double *x, int n,
                        double *out) {
    const struct param *p = l->param;
    const int n_group = above ? l->n - n_below : n_below;
    const struct ramp ramp = ramp_make(n_group, t->options.linear_forgetting);
    double total = 0;
    if (above) {
        for (int i = 0, k = 0; i < l->n; i++) {
            if (k < n_below && t->below[k] == i) {
                k++;
                continue;
            }
            const double weight = ramp_weight(&ramp, i - k);
            t->counts[l->option[i]] += weight;
            total += weight;
        }
    } else {
        for (int k = 0; k < n_below; k++) {
            const double weight = ramp_weight(&ramp, k);
            t->counts[l->option[t->below[k]]] += weight;
            total += weight;
        }
    }
    const double all = p->n_options * t->options.prior_weight;
    total += all; /* the probabilities of a pchoice add up to 1 */
    for (int i = 0; i < n; i++) {
        if (!(x[i] >= 0 && x[i] < p->n_options)) {
            out[i] = NAN;
            continue;
        }
        const int option = (int)x[i];
        const double prior = p->dist == DIST_PCHOICE ? all * p->p[option] : t->options.prior_weight;
        out[i] = log((t->counts[option] + prior) / total);
    }
    if (p->n_options <= l->n) {
        memset(t->counts, 0, (size_t)p->n_options * sizeof *t->counts);
    } else {
        for (int i = 0; i < l->n; i++) t->counts[l->option[i]] = 0;
    }
}

/* A draw from the prior. */
static int prior_option(const struct param *p, struct rng *rng) {
    if (p->dist != DIST_PCHOICE) return (int)rng_below(rng, (uint32_t)p->n_options);
    double u = rng_uniform(rng);
    int option = 0;
    for (int c = 0; c < p->n_options && u >= 0; c++) {
        if (p->p[c] > 0) option = c;
        u -= p->p[c];
    }
    return option;
}

/* A draw from the below group's posterior: one of its observations by weight, or a draw from the prior. */
static int draw_option(const struct tpe *t, const struct label *l, int n_below, struct rng *rng) {
    const struct param *p = l->param;
    const struct ramp ramp = ramp_make(n_below, t->options.linear_forgetting);
    double total = p->n_options * t->options.prior_weight;
    for (int k = 0; k < n_below; k++) total += ramp_weight(&ramp, k);
    double u = rng_uniform(rng) * total;
    for (int k = 0; k < n_below; k++) {
        u -= ramp_weight(&ramp, k);
        if (u < 0) return l->option[t->below[k]];
    }
    return prior_option(p, rng);
}

/* numpy's argmax: the first of the largest, and a NaN is larger than all. */
static int best_candidate(const double *log_l, const double *log_g, int n) {
    int best = 0;
    double most = -INFINITY;
    for (int i = 0; i < n; i++) {
        const double score = log_l[i] - log_g[i];
        if (isnan(score)) return i;
        if (score > most) {
            most = score;
            best = i;
        }
    }
    return best;
}

static int suggest_label(struct tpe *t, struct label *l, struct rng *rng, double *value, struct error *e) {
    const int n = t->options.n_EI_candidates;
    const struct param *p = l->param;
    if (l->categorical) {
        const int n_below = below_observations(t, l);
        for (int i = 0; i < n; i++) t->candidates[i] = draw_option(t, l, n_below, rng);
        score_group(t, l, n_below, 0, t->candidates, n, t->log_l);
        score_group(t, l, n_below, 1, t->candidates, n, t->log_g);
    } else {
        const int status = fit_numeric(t, l, e);
        if (status) return status;
        for (int i = 0; i < n; i++) {
            t->candidates[i] = tpe_sample(&t->l, l->low, l->high, p->q, l->log_scale, rng);
        }
        score_numeric(t, l, t->candidates, n, t->log_l, t->log_g);
    }
    *value = t->candidates[best_candidate(t->log_l, t->log_g, n)];
    if (p->dist == DIST_RANDINT) *value += p->low;
    return OK;
}

/* ======== whole points ======== */

/* Each trial of a group is a product of kernels, one a label, and the prior is one more:
 *     l(x) = sum_k w_k prod_i K_ki(x_i),    i: the labels that are active in x,
 * with the weights w of the group's trials in time, as for a single label. A number's kernel is a normal about the
 * trial's value, cut off at the bounds; its width is hyperopt's, only the least width is half of it. A category's keeps
 * 1 - s for the trial's own option, and spreads s = K / (K + n), of K options and a group of n trials, over all of them
 * as the prior has it. A label that was inactive in a trial has the prior for its kernel there: the trial says nothing
 * about it. So conditional labels need no treatment of their own. */

/* Below this a probability counts as this: no log of 0. */
#define LEAST_MASS 1e-300

static struct kernel kernel_make(const struct label *l, double mu, double sigma) {
    const double accept = bounded(l->low, l->high) ? normal_cdf(l->high, mu, sigma) - normal_cdf(l->low, mu, sigma) : 1;
    return (struct kernel){mu, sigma, -log(fmax(accept, LEAST_MASS)) - (l->param->q > 0 ? 0 : log(SQRT_2PI * sigma))};
}

static struct kernel *kernels_of(const struct group *group, int label) {
    return group->kernels + (size_t)label * ((size_t)group->n + 1);
}

/* Fits a group's kernels in one label. Widths come of the label's own observations, in their order, and the prior's
 * mean. */
static void fit_kernels(struct tpe *t, int label, int above, struct group *group) {
    struct points *p = t->points;
    struct label *l = &t->labels[label];
    struct kernel *kernels = kernels_of(group, label);
    struct kernel prior = {0};
    int n = 0;
    if (!l->categorical) prior = kernel_make(l, l->prior_mu, l->prior_sigma);
    for (int k = 0; k <= group->n; k++) kernels[k] = prior;
    label_sort(l);
    for (int i = 0; i < l->n; i++) {
        const int place = p->place[l->trial[l->categorical ? (uint32_t)i : l->sorted[i].when]];
        if ((place >= 0) != above) continue;
        const int rank = above ? place : -1 - place;
        if (l->categorical) {
            kernels[rank] = (struct kernel){l->option[i], 1, 0};
        } else {
            p->who[n] = rank;
            p->mu[n++] = fmin(fmax(l->sorted[i].x, l->low), l->high); /* rounding to q may leave the bounds */
        }
    }
    const int at = prior_position(p->mu, n, l->prior_mu);
    const double least = 0.5 * least_sigma(n, l->prior_sigma);
    for (int k = 0; k < n; k++) {
        const double mu = p->mu[k];
        const double left = k == at ? l->prior_mu : k > 0 ? p->mu[k - 1] : mu;
        const double right = k == at - 1 ? l->prior_mu : k < n - 1 ? p->mu[k + 1] : mu;
        kernels[p->who[k]] = kernel_make(l, mu, component_sigma(left, mu, right, n, least, l->prior_sigma));
    }
}

static void fit_group(struct tpe *t, int above, struct group *group) {
    const struct ramp ramp = ramp_make(group->n, t->options.linear_forgetting);
    double total = t->options.prior_weight;
    for (int k = 0; k < group->n; k++) total += ramp_weight(&ramp, k);
    for (int k = 0; k < group->n; k++) group->log_weight[k] = log(ramp_weight(&ramp, k) / total);
    group->log_weight[group->n] = log(t->options.prior_weight / total);
    for (int i = 0; i < t->space->n_params; i++) fit_kernels(t, i, above, group);
}

static int fit_points(struct tpe *t, struct error *e) {
    const int status = prepare(t, e);
    if (status) return status;
    struct points *p = t->points;
    for (int i = 0, k = 0; i < t->n; i++) {
        const int is_below = k < t->n_best && t->best[k] == i;
        p->place[i] = is_below ? -1 - k : i - k;
        k += is_below;
    }
    p->l.n = t->n_best;
    p->g.n = t->n - t->n_best;
    fit_group(t, 0, &p->l);
    fit_group(t, 1, &p->g);
    return OK;
}

/* What a category's kernel spreads over all the options. */
static double spread_of(const struct param *p, const struct group *group) {
    return p->n_options / ((double)p->n_options + group->n);
}

/* A normal's mass between two points, precise in the far tails: there the other labels decide. */
static double mass_between(double from, double to, double mu, double sigma) {
    const double a = (from - mu) / (SQRT_2 * sigma), b = (to - mu) / (SQRT_2 * sigma);
    return a > 0 ? 0.5 * (erfc(a) - erfc(b)) : 0.5 * (erfc(-b) - erfc(-a));
}

/* Adds the log of each component's kernel of a label at x. */
static void add_terms(const struct label *l, const struct group *group, const struct kernel *kernels, double x,
                      double *terms) {
    const struct param *p = l->param;
    if (l->categorical) {
        const double option = label_transform(l, x);
        const double prior = p->dist == DIST_PCHOICE ? p->p[(int)option] : 1.0 / p->n_options;
        const double spread = spread_of(p, group), of_prior = log(fmax(prior, LEAST_MASS));
        const double other = log(fmax(spread * prior, LEAST_MASS)), own = log(1 - spread + spread * prior);
        for (int k = 0; k <= group->n; k++) {
            terms[k] += !(kernels[k].sigma > 0) ? of_prior : kernels[k].mu == option ? own : other;
        }
    } else if (p->q > 0) {
        double from, to;
        bin_of(x, l->low, l->high, p->q, l->log_scale, &from, &to);
        for (int k = 0; k <= group->n; k++) {
            terms[k] +=
                log(fmax(mass_between(from, to, kernels[k].mu, kernels[k].sigma), LEAST_MASS)) + kernels[k].norm;
        }
    } else {
        const double y = l->log_scale ? log(x) : x;
        for (int k = 0; k <= group->n; k++) {
            const double d = (y - kernels[k].mu) / kernels[k].sigma;
            terms[k] += kernels[k].norm - 0.5 * d * d;
        }
    }
}

/* The log of a group's density at a point. */
static double score_point(const struct tpe *t, const struct group *group, const double *values) {
    double *terms = t->points->terms, most = -INFINITY, sum = 0;
    memcpy(terms, group->log_weight, ((size_t)group->n + 1) * sizeof *terms);
    for (int i = 0; i < t->space->n_params; i++) {
        if (isnan(values[i])) continue;
        add_terms(&t->labels[i], group, kernels_of(group, i), values[i], terms);
    }
    for (int k = 0; k <= group->n; k++) most = fmax(most, terms[k]);
    for (int k = 0; k <= group->n; k++) sum += exp(terms[k] - most);
    return most + log(sum);
}

/* A draw from a group's density: from one component, parents before children. */
static void draw_point(const struct tpe *t, const struct group *group, struct rng *rng, double *values) {
    double u = rng_uniform(rng), one = 1;
    int k = 0;
    for (; k < group->n; k++) {
        u -= exp(group->log_weight[k]);
        if (u < 0) break;
    }
    for (int i = 0; i < t->space->n_params; i++) {
        const struct label *l = &t->labels[i];
        const struct param *p = l->param;
        struct kernel kernel = kernels_of(group, i)[k];
        values[i] = NAN;
        if (!space_active(t->space, i, values)) continue;
        if (l->categorical) {
            const int own = kernel.sigma > 0 && rng_uniform(rng) >= spread_of(p, group);
            values[i] = own ? kernel.mu : prior_option(p, rng);
            if (p->dist == DIST_RANDINT) values[i] += p->low;
        } else {
            const struct tpe_mixture mixture = {1, &one, &kernel.mu, &kernel.sigma};
            values[i] = tpe_sample(&mixture, l->low, l->high, p->q, l->log_scale, rng);
        }
    }
}

static int suggest_point(struct tpe *t, struct rng *rng, double *values, struct error *e) {
    const int status = fit_points(t, e);
    if (status) return status;
    double most = 0;
    for (int c = 0; c < t->options.n_EI_candidates; c++) {
        double *const point = t->points->point;
        draw_point(t, &t->points->l, rng, point);
        const double score = score_point(t, &t->points->l, point) - score_point(t, &t->points->g, point);
        if (c > 0 && score <= most) continue; /* the first of the largest */
        most = score;
        memcpy(values, point, (size_t)t->space->n_params * sizeof *values);
    }
    return OK;
}

int tpe_score_point(struct tpe *t, const double *values, double *log_l, double *log_g, struct error *e) {
    int status = space_check(t->space, values, e);
    if (!status) status = fit_points(t, e);
    if (status) return status;
    *log_l = score_point(t, &t->points->l, values);
    *log_g = score_point(t, &t->points->g, values);
    return OK;
}

int tpe_suggest(struct tpe *t, struct rng *rng, double *values, struct error *e) {
    if (t->n < t->options.n_startup_jobs) {
        space_draw(t->space, rng, values);
        return OK;
    }
    if (t->options.joint) return suggest_point(t, rng, values, e);
    int status = prepare(t, e);
    for (int i = 0; !status && i < t->space->n_params; i++) {
        values[i] = NAN;
        if (space_active(t->space, i, values)) status = suggest_label(t, &t->labels[i], rng, &values[i], e);
    }
    return status;
}

int tpe_score(struct tpe *t, int param, const double *x, int n, double *log_l, double *log_g, struct error *e) {
    struct label *l = &t->labels[param];
    int status = prepare(t, e);
    if (status) return status;
    if (l->categorical) {
        const int n_below = below_observations(t, l);
        score_group(t, l, n_below, 0, x, n, log_l);
        score_group(t, l, n_below, 1, x, n, log_g);
        return OK;
    }
    status = fit_numeric(t, l, e);
    if (!status) score_numeric(t, l, x, n, log_l, log_g);
    return status;
}
