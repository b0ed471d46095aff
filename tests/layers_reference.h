/* layers_reference.h - the operations of layers.h as loops in double, written from its comments and nothing else; slow.
 * Beside each number stands the magnitude of the sum that it is: what rounding in float is measured against.
 * Gradients are proved against differences of the forward functions (test_layers.c). */
#ifndef LAYERS_REFERENCE_H
#define LAYERS_REFERENCE_H
#include <math.h>
#include <string.h>

#include "../layers.h"
#include "../philox.h"

struct reals { /* numbers, and the magnitudes of the sums that they are */
    double *v, *m;
};

struct tensor { /* [n][h][w][c], c as stored */
    int n, h, w, c;
    struct reals at;
};

static long count(const struct tensor *t) { return (long)t->n * t->h * t->w * t->c; }
static long place(const struct tensor *t, int i, int y, int x, int c) {
    return (((long)i * t->h + y) * t->w + x) * t->c + c;
}
static double act_of(enum activation a, double x) {
    if (a == ACT_RELU) return x > 0 ? x : 0;
    if (a == ACT_ELU) return x > 0 ? x : expm1(x);
    return x;
}
static double slope_of(enum activation a, double y) { /* from the output */
    if (a == ACT_RELU) return y > 0;
    if (a == ACT_ELU) return y > 0 ? 1 : y + 1;
    return 1;
}

/* What dropout multiplies pixel p, channel c of a map (of which stride and first count) with. */
static double drop_factor(const struct drop *d, const struct map *m, const struct step *s, long p, int c) {
    const uint64_t e = (uint64_t)p * (uint64_t)m->stride + (uint64_t)(m->first + c);
    const uint32_t counter[4] = {(uint32_t)(e / 8), s->step, s->epoch, 0};
    uint32_t words[4];
    if (d->threshold == 0) return 1;
    philox(d->key, counter, words);
    const uint32_t word = words[(e % 8) / 2], bits = e % 2 == 0 ? word % 65536 : word / 65536;
    return bits >= d->threshold ? 65536.0 / (65536.0 - d->threshold) : 0;
}

static void ref_dropout(const struct drop *d, const struct map *m, const struct step *s, struct tensor *t) {
    for (long i = 0; i < count(t); i++) {
        const double f = drop_factor(d, m, s, i / t->c, (int)(i % t->c));
        t->at.v[i] *= f;
        t->at.m[i] *= f;
    }
}

static void copy(struct tensor *to, const struct tensor *from) {
    memcpy(to->at.v, from->at.v, (size_t)count(to) * sizeof(double));
    memcpy(to->at.m, from->at.m, (size_t)count(to) * sizeof(double));
}

static void put(struct reals *r, long i, double v, double m) {
    r->v[i] = v;
    r->m[i] = m;
}
static void add_to(struct reals *r, long i, double term) {
    r->v[i] += term;
    r->m[i] += fabs(term);
}

struct taps {
    int k, stride, pad;
};

static long weight_place(const struct taps *t, int r, int q, int ci, int co, int in, int out) {
    return (((long)r * t->k + q) * in + ci) * out + co;
}

/* v = act(conv + bias) + add. */
static void ref_conv(struct taps t, enum activation act, const struct tensor *in, const double *w, const double *bias,
                     const struct tensor *add, struct tensor *v) {
    for (int i = 0; i < v->n; i++) {
        for (int y = 0; y < v->h; y++) {
            for (int x = 0; x < v->w; x++) {
                for (int c = 0; c < v->c; c++) {
                    double sum = bias != NULL ? bias[c] : 0, m = fabs(sum);
                    for (int r = 0; r < t.k; r++) {
                        for (int q = 0; q < t.k; q++) {
                            const int iy = y * t.stride - t.pad + r, ix = x * t.stride - t.pad + q;
                            if (iy < 0 || iy >= in->h || ix < 0 || ix >= in->w) continue;
                            for (int ci = 0; ci < in->c; ci++) {
                                const double term =
                                    in->at.v[place(in, i, iy, ix, ci)] * w[weight_place(&t, r, q, ci, c, in->c, v->c)];
                                sum += term;
                                m += fabs(term);
                            }
                        }
                    }
                    put(&v->at, place(v, i, y, x, c), act_of(act, sum), m);
                    if (add != NULL) add_to(&v->at, place(v, i, y, x, c), add->at.v[place(add, i, y, x, c)]);
                }
            }
        }
    }
}

static void ref_statistics(const struct tensor *v, struct reals mean, struct reals variance) {
    const long pixels = count(v) / v->c;
    for (int c = 0; c < v->c; c++) {
        put(&mean, c, 0, 0);
        put(&variance, c, 0, 0);
        for (long p = 0; p < pixels; p++) {
            mean.v[c] += v->at.v[p * v->c + c] / (double)pixels;
            mean.m[c] += v->at.m[p * v->c + c] / (double)pixels;
        }
        for (long p = 0; p < pixels; p++) {
            const double d = v->at.v[p * v->c + c] - mean.v[c];
            variance.v[c] += d * d / (double)pixels;
            variance.m[c] += (d * d + 2 * fabs(d) * v->at.m[p * v->c + c]) / (double)pixels;
        }
    }
}

/* The gradient of `in`: each output hands each tap its share. */
static void ref_conv_data(struct taps t, const struct tensor *g, const double *w, struct tensor *v) {
    memset(v->at.v, 0, (size_t)count(v) * sizeof(double));
    memset(v->at.m, 0, (size_t)count(v) * sizeof(double));
    for (int i = 0; i < g->n; i++) {
        for (int y = 0; y < g->h; y++) {
            for (int x = 0; x < g->w; x++) {
                for (int r = 0; r < t.k; r++) {
                    for (int q = 0; q < t.k; q++) {
                        const int iy = y * t.stride - t.pad + r, ix = x * t.stride - t.pad + q;
                        if (iy < 0 || iy >= v->h || ix < 0 || ix >= v->w) continue;
                        for (int ci = 0; ci < v->c; ci++) {
                            for (int co = 0; co < g->c; co++) {
                                add_to(&v->at, place(v, i, iy, ix, ci),
                                       g->at.v[place(g, i, y, x, co)] * w[weight_place(&t, r, q, ci, co, v->c, g->c)]);
                            }
                        }
                    }
                }
            }
        }
    }
}

static void ref_conv_weight(struct taps t, const struct tensor *in, const struct tensor *g, struct reals weight,
                            struct reals bias) {
    for (long i = 0; i < (long)t.k * t.k * in->c * g->c; i++) put(&weight, i, 0, 0);
    for (int c = 0; c < g->c && bias.v != NULL; c++) put(&bias, c, 0, 0);
    for (int i = 0; i < g->n; i++) {
        for (int y = 0; y < g->h; y++) {
            for (int x = 0; x < g->w; x++) {
                for (int co = 0; co < g->c && bias.v != NULL; co++) add_to(&bias, co, g->at.v[place(g, i, y, x, co)]);
                for (int r = 0; r < t.k; r++) {
                    for (int q = 0; q < t.k; q++) {
                        const int iy = y * t.stride - t.pad + r, ix = x * t.stride - t.pad + q;
                        if (iy < 0 || iy >= in->h || ix < 0 || ix >= in->w) continue;
                        for (int ci = 0; ci < in->c; ci++) {
                            for (int co = 0; co < g->c; co++) {
                                add_to(&weight, weight_place(&t, r, q, ci, co, in->c, g->c),
                                       in->at.v[place(in, i, iy, ix, ci)] * g->at.v[place(g, i, y, x, co)]);
                            }
                        }
                    }
                }
            }
        }
    }
}

static void ref_slope(enum activation act, const struct tensor *y, double scale, struct tensor *v) {
    for (long i = 0; i < count(v) && act != ACT_LINEAR; i++) {
        const double f = slope_of(act, y->at.v[i] * scale);
        v->at.v[i] *= f;
        v->at.m[i] *= fabs(f) + 1; /* y + 1 is itself a sum */
    }
}

/* Normalisation: per channel, in double. */
struct ref_bn {
    int c, links;
    double *gamma[2], *beta[2];
    struct reals moving_mean[2], moving_variance[2], mean, variance, scale, shift, sum_g, sum_gx, a, b, k, dgamma[2],
        dbeta[2];
};

static void ref_bn(struct ref_bn *b, int training) {
    const double eps = (double)BN_EPSILON, keep = 0.99;
    for (int c = 0; c < b->c; c++) {
        double mean = b->mean.v[c], variance = b->variance.v[c], scale = 1, shift = 0, m = 0;
        for (int l = 0; l < b->links; l++) {
            const double gamma = b->gamma[l][c], beta = b->beta[l][c];
            double *mm = &b->moving_mean[l].v[c], *mv = &b->moving_variance[l].v[c];
            if (training) {
                b->moving_mean[l].m[c] = keep * fabs(*mm) + (1 - keep) * fabs(mean);
                b->moving_variance[l].m[c] = keep * *mv + (1 - keep) * variance;
                *mm = keep * *mm + (1 - keep) * mean;
                *mv = keep * *mv + (1 - keep) * variance;
            } else {
                mean = *mm;
                variance = *mv;
            }
            const double deviation = sqrt(variance + eps);
            shift = (shift - mean) / deviation * gamma + beta;
            m = (m + fabs(mean)) / deviation * fabs(gamma) + fabs(beta);
            scale = scale / deviation * gamma;
            mean = beta;
            variance = gamma * gamma * variance / (variance + eps);
        }
        put(&b->scale, c, scale, fabs(scale));
        put(&b->shift, c, shift, m);
    }
}

static void ref_bn_gradient(struct ref_bn *b, double n) {
    const double eps = (double)BN_EPSILON;
    for (int c = 0; c < b->c; c++) {
        const double r = 1 / sqrt(b->variance.v[c] + eps), s0 = b->sum_g.v[c], s1 = r * b->sum_gx.v[c],
                     g1 = b->gamma[0][c];
        double of_g = 0, of_one = 0, of_xhat = 0, of_xhat_m = 0; /* dx = of_g g + of_one + of_xhat xhat */
        if (b->links == 1) {
            put(&b->dbeta[0], c, s0, fabs(s0));
            put(&b->dgamma[0], c, s1, fabs(s1));
            of_g = g1 * r;
            of_one = -g1 * r * s0 / n;
            of_xhat = -g1 * r * s1 / n;
            of_xhat_m = fabs(of_xhat);
        } else {
            const double v2 = g1 * g1 * b->variance.v[c] * r * r, r2 = 1 / sqrt(v2 + eps), g2 = b->gamma[1][c];
            const double dgamma1 = g2 * r2 * s1 * eps * r2 * r2, dgamma2 = g1 * r2 * s1;
            put(&b->dbeta[1], c, s0, fabs(s0));
            put(&b->dgamma[1], c, dgamma2, fabs(dgamma2));
            put(&b->dbeta[0], c, 0, 0);
            put(&b->dgamma[0], c, dgamma1, fabs(dgamma1));
            of_g = g1 * r * g2 * r2;
            of_one = -of_g * s0 / n;
            const double first = -of_g * g1 * g1 * r2 * r2 * s1 / n, second = -g1 * r * dgamma1 / n;
            of_xhat = first + second;
            of_xhat_m = fabs(first) + fabs(second);
        }
        put(&b->a, c, of_g, fabs(of_g)); /* xhat = (x - mean) r */
        put(&b->b, c, of_xhat * r, of_xhat_m * r);
        put(&b->k, c, of_one - of_xhat * r * b->mean.v[c], fabs(of_one) + of_xhat_m * r * fabs(b->mean.v[c]));
    }
}

/* Output pixel (y, x) of a pool takes the inputs (2y - pad + r, 2x - pad + q) that exist, 0 <= r, q < size. */
static int pool_size(enum pool p) { return p == POOL_NONE ? 1 : p == POOL_MAX3 ? 3 : 2; }
static int pool_out(enum pool p, int in) { return p == POOL_NONE ? in : p == POOL_MAX3 ? (in + 1) / 2 : in / 2; }
static int pool_in(enum pool p, int pad, int out, int r) {
    return p == POOL_NONE ? out : 2 * out - (p == POOL_MAX3 ? pad : 0) + r;
}

static double normalised(const struct ref_bn *b, const struct tensor *in, long at, double *m) {
    const int c = (int)(at % in->c);
    if (b == NULL) {
        *m = fabs(in->at.v[at]);
        return in->at.v[at];
    }
    *m = fabs(b->scale.v[c] * in->at.v[at]) + fabs(b->shift.v[c]);
    return b->scale.v[c] * in->at.v[at] + b->shift.v[c];
}

/* The inputs of an output pixel's channel: how many there are. */
static int pool_window(enum pool pool, int pad, const struct tensor *in, int i, int y, int x, int c, long at[9]) {
    int n = 0;
    for (int r = 0; r < pool_size(pool); r++) {
        for (int q = 0; q < pool_size(pool); q++) {
            const int iy = pool_in(pool, pad, y, r), ix = pool_in(pool, pad, x, q);
            if (iy >= 0 && iy < in->h && ix >= 0 && ix < in->w) at[n++] = place(in, i, iy, ix, c);
        }
    }
    return n;
}

static void ref_apply(enum pool pool, int pad, const struct ref_bn *b, const struct tensor *in, struct tensor *v) {
    for (long o = 0; o < count(v); o++) {
        const int c = (int)(o % v->c), x = (int)(o / v->c % v->w), y = (int)(o / v->c / v->w % v->h),
                  i = (int)(o / v->c / v->w / v->h);
        long at[9];
        const int n = pool_window(pool, pad, in, i, y, x, c, at);
        double sum = 0, sum_m = 0, most = -HUGE_VAL;
        for (int k = 0; k < n; k++) {
            double m = 0;
            const double z = normalised(b, in, at[k], &m);
            sum += z;
            sum_m = pool == POOL_AVG2 || m > sum_m ? m + (pool == POOL_AVG2 ? sum_m : 0) : sum_m;
            most = z > most ? z : most;
        }
        if (pool == POOL_AVG2) {
            put(&v->at, o, sum / 4, sum_m / 4);
        } else {
            put(&v->at, o, most, sum_m);
        }
    }
}

static void ref_route(enum pool pool, int pad, const struct ref_bn *b, const struct tensor *in, const struct tensor *g,
                      struct tensor *routed) {
    memset(routed->at.v, 0, (size_t)count(routed) * sizeof(double));
    memset(routed->at.m, 0, (size_t)count(routed) * sizeof(double));
    for (long o = 0; o < count(g); o++) {
        const int c = (int)(o % g->c), x = (int)(o / g->c % g->w), y = (int)(o / g->c / g->w % g->h),
                  i = (int)(o / g->c / g->w / g->h);
        long at[9];
        const int n = pool_window(pool, pad, in, i, y, x, c, at);
        int best = 0;
        for (int k = 0; k < n; k++) {
            double m;
            if (pool == POOL_AVG2) add_to(&routed->at, at[k], g->at.v[o] / 4);
            if (normalised(b, in, at[k], &m) > normalised(b, in, at[best], &m)) best = k;
        }
        if (pool != POOL_AVG2) add_to(&routed->at, at[best], g->at.v[o]);
    }
}

static void ref_sums(struct ref_bn *b, const struct tensor *g, const struct tensor *x) {
    for (int c = 0; c < b->c; c++) {
        put(&b->sum_g, c, 0, 0);
        put(&b->sum_gx, c, 0, 0);
    }
    for (long i = 0; i < count(g); i++) {
        const int c = (int)(i % g->c);
        b->sum_g.v[c] += g->at.v[i];
        b->sum_g.m[c] += g->at.m[i];
        b->sum_gx.v[c] += g->at.v[i] * (x->at.v[i] - b->mean.v[c]);
        b->sum_gx.m[c] += g->at.m[i] * (fabs(x->at.v[i]) + fabs(b->mean.v[c]));
    }
}

/* v = (a * routed + b * x + c) * act'(x), in place of routed. */
static void ref_apply_gradient(const struct ref_bn *b, enum activation act, const struct tensor *x, struct tensor *v) {
    for (long i = 0; i < count(v) && b != NULL; i++) {
        const int c = (int)(i % v->c);
        v->at.v[i] = b->a.v[c] * v->at.v[i] + b->b.v[c] * x->at.v[i] + b->k.v[c];
        v->at.m[i] = fabs(b->a.v[c]) * v->at.m[i] + fabs(b->b.v[c] * x->at.v[i]) + fabs(b->k.v[c]);
    }
    ref_slope(act, x, 1, v);
}

/* One head of one image; gradient NULL: not wanted. */
static double ref_head(const double *z, int classes, int label, int softmax, double weight, struct reals gradient,
                       int *hit) {
    double p[256] = {0}, sum = 0, most = -HUGE_VAL;
    int best = 0;
    for (int i = 0; i < classes; i++) most = z[i] > most ? z[i] : most;
    for (int i = 0; i < classes; i++) {
        p[i] = softmax ? exp(z[i] - most) : 1 / (1 + exp(-z[i]));
        sum += p[i];
    }
    for (int i = 0; i < classes; i++) best = p[i] / sum > p[best] / sum ? i : best;
    *hit = best == label && !isnan(sum);
    double q = p[label] / sum;
    const int clipped = !softmax && (q < 1e-7 || q > 1 - 1e-7);
    for (int i = 0; i < classes && gradient.v != NULL; i++) {
        const double dq = softmax ? p[i] / sum - (i == label) : p[i] * (1 - p[i]) * (1 / sum - (i == label) / p[i]);
        put(&gradient, i, clipped ? 0 : weight * dq, clipped ? 0 : weight * (p[i] / sum + (i == label)));
    }
    if (clipped) q = q < 0.5 ? 1e-7 : 1 - 1e-7;
    return softmax ? most + log(sum) - z[label] : -log(q);
}

static double ref_mu(double t) { return 0.9 * (1 - 0.5 * pow(0.96, 0.004 * t)); }

struct ref_optimiser {
    long n, n_decayed;
    struct reals w, m, v; /* m.m: what m sums up, without signs: where g cancels, the rounding of its terms stays */
    double product;
    int t;
};

/* One update; returns the sum of squares of the decayed before it. */
static double ref_optimise(struct ref_optimiser *o, enum optimiser kind, double lr, double l2, const float *gradient) {
    const double t = ++o->t, mu = ref_mu(t), mu_next = ref_mu(t + 1), eps = 1e-8,
                 keep = kind == OPT_RMSPROP ? 0.9 : 0.999;
    double squares = 0;
    o->product *= mu;
    for (long i = 0; i < o->n; i++) {
        double *w = &o->w.v[i], *m = &o->m.v[i], *v = &o->v.v[i];
        const double decay = i < o->n_decayed ? 2 * l2 * *w : 0, g = (double)gradient[i] + decay;
        const double g_m = fabs((double)gradient[i]) + (i < o->n_decayed ? 2 * l2 * o->w.m[i] : 0);
        double numerator = g, numerator_m = g_m, rate = lr, root = 1;
        if (i < o->n_decayed) squares += *w * *w;
        *v = keep * *v + (1 - keep) * g * g;
        o->v.m[i] = keep * o->v.m[i] + (1 - keep) * g_m * g_m;
        if (kind != OPT_RMSPROP) {
            *m = 0.9 * *m + 0.1 * g;
            o->m.m[i] = 0.9 * o->m.m[i] + 0.1 * g_m;
            numerator = *m;
            numerator_m = o->m.m[i];
        }
        if (kind == OPT_ADAM) rate = lr * sqrt(1 - pow(0.999, t)) / (1 - pow(0.9, t));
        if (kind == OPT_NADAM) {
            numerator = (1 - mu) * (g / (1 - o->product)) + mu_next * (*m / (1 - o->product * mu_next));
            numerator_m = (1 - mu) * (g_m / (1 - o->product)) + mu_next * (o->m.m[i] / (1 - o->product * mu_next));
            root = 1 - pow(0.999, t);
        }
        const double deviation = sqrt(*v / root) + eps, update = rate * numerator / deviation;
        *w -= update;
        o->w.m[i] += rate * numerator_m / deviation + fabs(update) * (*v > 0 ? o->v.m[i] / *v : 0);
    }
    return squares;
}
#endif
