/* tpe.h - the next point to try, from the history of trials: hyperopt's Tree-structured Parzen Estimator
 * (Bergstra, Bardenet, Bengio, Kegl: "Algorithms for hyper-parameter optimization", NIPS 2011, as hyperopt 0.3.0's
 * tpe.py computes it).
 *
 * Or, with `joint`, the same two densities over whole points: hyperopt looks at each label as if there were no other,
 * and so cannot know that a small learning rate goes with few units. A trial is then one kernel in all labels at once
 * (as in Falkner, Klein, Hutter: "BOHB", ICML 2018, section 3.2; with kernels much like hyperopt's, see tpe.c).
 *
 * A `struct tpe` keeps, for each label, its observations sorted by value, so that a suggestion over n trials is
 * O(labels * n) with no sort (joint: O(candidates * labels * n)); trials are added in the order of their numbers
 * (hyperopt's tid). */
#ifndef TPE_H
#define TPE_H
#include "space.h"

struct tpe_options {
    int n_startup_jobs;    /* 20: so many trials before the model is used; joint: 10 */
    int n_EI_candidates;   /* 24 */
    double gamma;          /* 0.25: n_below = min(ceil(gamma * sqrt(n)), linear_forgetting); joint: gamma * n, 0.06 */
    double prior_weight;   /* 1; joint: 1.5 */
    int linear_forgetting; /* 25: LF, the newest trials that keep full weight, and the cap of n_below */
    int joint;             /* 0: each label by itself, as hyperopt; 1: whole points */
};
extern const struct tpe_options tpe_defaults, tpe_joint; /* hyperopt's; and those that suit whole points */

struct tpe; /* opaque */
int tpe_open(struct tpe **, const struct space *, const struct tpe_options *, struct error *);
void tpe_close(struct tpe *);
/* One more trial. loss: lower is better; +inf for a failed or a running one (it counts, in the "above" group);
 * NaN: the trial is dropped, as hyperopt drops it. values: n_params numbers, NaN for the inactive. */
int tpe_add(struct tpe *, double loss, const double *values, struct error *);
int tpe_count(const struct tpe *); /* trials kept */
/* Forgets all but the first n of the trials kept: for running ones, which count only for the next suggestion. */
void tpe_rewind(struct tpe *, int n);
/* Sorts what has been added: a suggestion does that first, which after very many new trials (a log that was opened)
 * takes longer than all else of it. */
void tpe_sort(struct tpe *);
/* The next point: values[n_params]. Prior draws while tpe_count < n_startup_jobs. Does not change *t's history. */
int tpe_suggest(struct tpe *, struct rng *, double *values, struct error *);

/* ---- the parts, for the tests against hyperopt ---- */
/* linear_forgetting_weights (tpe.py:374): w[n]. */
void tpe_forgetting_weights(int n, int lf, double *w);
struct tpe_mixture {
    int n; /* components, sorted by mu */
    double *weight, *mu, *sigma;
};
/* adaptive_parzen_normal (tpe.py:393): obs[n] in time order; the mixture's arrays must have room for n + 1. */
void tpe_parzen(const double *obs, int n, double prior_weight, double prior_mu, double prior_sigma, int lf,
                struct tpe_mixture *out);
/* GMM1_lpdf / LGMM1_lpdf (tpe.py:109, 259). low, high: -inf, +inf where there are none; q 0 where there is none;
 * log_scale: LGMM1 (low, high in log space, x natural). *p_accept, if not NULL, gets the mass within the bounds. */
void tpe_lpdf(const struct tpe_mixture *, double low, double high, double q, int log_scale, const double *x, int n,
              double *out, double *p_accept);
double tpe_sample(const struct tpe_mixture *, double low, double high, double q, int log_scale, struct rng *);
/* Categorical posterior (tpe.py:570): obs are 0-based categories in time order; prior NULL for choice and randint. */
void tpe_categorical(const int *obs, int n, int n_options, const double *prior, double prior_weight, int lf, double *p);
/* The split (tpe.py:616): below[i] = 1 for the n_below best of losses[n] (ties: the earlier one). Returns n_below,
 * or -1 when there is no memory. */
int tpe_split(const double *losses, int n, double gamma, int lf, unsigned char *below);
/* What tpe_suggest scores candidates with: log l and log g of x[n] for label i, given the history so far (categories:
 * x is the 0-based option). For tests and for the conformance scripts. */
int tpe_score(struct tpe *, int param, const double *x, int n, double *log_l, double *log_g, struct error *);
/* The same of a whole point of the space, values[n_params], by a `joint` one. Densities are over the scale of the
 * mixtures (log x for the log kinds; the probability of a value for the quantised and the categorical). */
int tpe_score_point(struct tpe *, const double *values, double *log_l, double *log_g, struct error *);
#endif
