/* layers_differences.h - the slow reference proved by central differences: small nets of its own forward loops, whose
 * slopes its backward loops must give. Part of test_layers.c, which includes it behind its scenes. */
#ifndef LAYERS_DIFFERENCES_H
#define LAYERS_DIFFERENCES_H

/* A small net of the reference's own: u -> act -> (statistics, normalisation) -> pool -> dropout -> convolution of
 * stride 2 -> a weighted sum, the loss. */
struct chain {
    struct scene *s;
    enum activation act;
    enum pool pool;
    int pad, links; /* links 0: no normalisation */
    struct ref_bn bn;
    struct drop drop;
    struct taps taps;
    double *w;
    struct map layout;
    struct tensor u, x, z, d, out, weights;
};

static double chain_forward(struct chain *c) {
    double loss = 0;
    for (long i = 0; i < count(&c->u); i++) c->x.at.v[i] = act_of(c->act, c->u.at.v[i]);
    if (c->links > 0) {
        ref_statistics(&c->x, c->bn.mean, c->bn.variance);
        ref_bn(&c->bn, 1);
    }
    ref_apply(c->pool, c->pad, c->links > 0 ? &c->bn : NULL, &c->x, &c->z);
    copy(&c->d, &c->z);
    ref_dropout(&c->drop, &c->layout, &c->s->step, &c->d);
    ref_conv(c->taps, ACT_LINEAR, &c->d, c->w, NULL, NULL, &c->out);
    for (long i = 0; i < count(&c->out); i++) loss += c->out.at.v[i] * c->weights.at.v[i];
    return loss;
}

static void randomise(double *v, long n) {
    for (long i = 0; i < n; i++) v[i] = rng_normal(&rng);
}

typedef double loss_function(void *);
static double chain_loss(void *c) { return chain_forward(c); }

static void check_slope(const char *what, loss_function *f, void *context, double *at, double want) {
    const double before = *at, h = 1e-5;
    *at = before + h;
    const double above = f(context);
    *at = before - h;
    const double below = f(context);
    *at = before;
    CHECK(check_close((above - below) / (2 * h), want, 2e-6), "%s: %.10g, not %.10g", what, want,
          (above - below) / (2 * h));
}

static void differences_chain(enum activation act, enum pool pool, int links, int h, int w) {
    struct scene s;
    scene_open(&s, "differences");
    const int n = 2, channels = 8, oh = pool_out(pool, h), ow = pool_out(pool, w);
    struct chain c = {.s = &s, .act = act, .pool = pool, .links = links, .drop = some_drop};
    c.pad = pool == POOL_MAX3 ? same_pad(h, 3, 2) : 0;
    c.taps = (struct taps){3, 2, same_pad(oh, 3, 2)};
    c.layout = (struct map){.stride = 24, .first = 8};
    c.u = tensor_new(&s, n, h, w, channels);
    c.x = tensor_like(&s, &c.u);
    c.z = tensor_new(&s, n, oh, ow, channels);
    c.d = tensor_like(&s, &c.z);
    c.out = tensor_new(&s, n, out_size(oh, 2), out_size(ow, 2), 8);
    c.weights = tensor_like(&s, &c.out);
    c.w = doubles(&s, 9L * channels * 8);
    c.bn = ref_bn_new(&s, channels, links > 0 ? links : 1);
    randomise(c.u.at.v, count(&c.u));
    randomise(c.weights.at.v, count(&c.weights));
    randomise(c.w, 9L * channels * 8);
    for (int l = 0; l < links; l++) {
        randomise(c.bn.gamma[l], channels);
        randomise(c.bn.beta[l], channels);
    }
    /* Small gammas, so that the epsilon under the second root counts. */
    for (int k = 0; k < channels && links == 2; k++) c.bn.gamma[0][k] *= 0.1;
    chain_forward(&c);
    struct tensor dz = tensor_like(&s, &c.z), du = tensor_like(&s, &c.u);
    struct reals dw = reals(&s, 9L * channels * 8);
    ref_conv_data(c.taps, &c.weights, c.w, &dz);
    ref_dropout(&c.drop, &c.layout, &s.step, &dz);
    ref_conv_weight(c.taps, &c.d, &c.weights, dw, (struct reals){NULL, NULL});
    ref_route(pool, c.pad, links > 0 ? &c.bn : NULL, &c.x, &dz, &du);
    if (links > 0) {
        ref_sums(&c.bn, &du, &c.x);
        ref_bn_gradient(&c.bn, (double)n * h * w);
    }
    ref_apply_gradient(links > 0 ? &c.bn : NULL, act, &c.x, &du);
    for (long i = 0; i < count(&c.u); i += 5) check_slope("du", chain_loss, &c, &c.u.at.v[i], du.at.v[i]);
    for (long i = 0; i < 9L * channels * 8; i += 23) check_slope("dw", chain_loss, &c, &c.w[i], dw.v[i]);
    for (int l = 0; l < links; l++) {
        for (int k = 0; k < channels; k++) {
            check_slope("dgamma", chain_loss, &c, &c.bn.gamma[l][k], c.bn.dgamma[l].v[k]);
            check_slope("dbeta", chain_loss, &c, &c.bn.beta[l][k], c.bn.dbeta[l].v[k]);
        }
    }
    scene_close(&s);
}

/* Two convolutions, the first with bias, activation, residual sum and dropout: as OP_CONV_DATA undoes them. */
struct pair {
    struct scene *s;
    enum activation act;
    struct taps first, second;
    struct drop drop;
    struct map layout;
    int with_add;
    double *w1, *w2, *bias;
    struct tensor in, add, branch, v, d, out, weights;
};

static double pair_loss(void *context) {
    struct pair *p = context;
    double loss = 0;
    ref_conv(p->first, p->act, &p->in, p->w1, p->bias, NULL, &p->branch);
    ref_conv(p->first, p->act, &p->in, p->w1, p->bias, p->with_add ? &p->add : NULL, &p->v);
    copy(&p->d, &p->v);
    ref_dropout(&p->drop, &p->layout, &p->s->step, &p->d);
    ref_conv(p->second, ACT_LINEAR, &p->d, p->w2, NULL, NULL, &p->out);
    for (long i = 0; i < count(&p->out); i++) loss += p->out.at.v[i] * p->weights.at.v[i];
    return loss;
}

static void differences_pair(enum activation act, int with_add, int k1, int stride1, int k2, int stride2) {
    struct scene s;
    scene_open(&s, "differences");
    const int n = 2, size = 6, c = 8, middle = out_size(size, stride1), end = out_size(middle, stride2);
    struct pair p = {.s = &s, .act = act, .with_add = with_add, .drop = some_drop, .layout = {.stride = 8}};
    p.first = (struct taps){k1, stride1, same_pad(size, k1, stride1)};
    p.second = (struct taps){k2, stride2, same_pad(middle, k2, stride2)};
    p.in = tensor_new(&s, n, size, size, c);
    p.add = tensor_new(&s, n, middle, middle, c);
    p.branch = tensor_like(&s, &p.add);
    p.v = tensor_like(&s, &p.add);
    p.d = tensor_like(&s, &p.add);
    p.out = tensor_new(&s, n, end, end, c);
    p.weights = tensor_like(&s, &p.out);
    const long n1 = (long)k1 * k1 * c * c, n2 = (long)k2 * k2 * c * c;
    p.w1 = doubles(&s, n1);
    p.w2 = doubles(&s, n2);
    p.bias = doubles(&s, c);
    randomise(p.in.at.v, count(&p.in));
    randomise(p.add.at.v, count(&p.add));
    randomise(p.weights.at.v, count(&p.weights));
    randomise(p.w1, n1);
    randomise(p.w2, n2);
    randomise(p.bias, c);
    for (long i = 0; i < n1; i++) p.w1[i] *= 0.2;
    pair_loss(&p);
    struct tensor dv = tensor_like(&s, &p.v), db = tensor_like(&s, &p.v), din = tensor_like(&s, &p.in);
    struct reals dw1 = reals(&s, n1), dbias = reals(&s, c);
    ref_conv_data(p.second, &p.weights, p.w2, &dv);
    ref_dropout(&p.drop, &p.layout, &s.step, &dv);
    copy(&db, &dv);
    if (with_add) {
        ref_slope(act, &p.branch, 1, &db);
    } else { /* from the dropped map, as y_scale is for */
        ref_slope(act, &p.d, (65536.0 - some_drop.threshold) / 65536.0, &db);
    }
    ref_conv_weight(p.first, &p.in, &db, dw1, dbias);
    ref_conv_data(p.first, &db, p.w1, &din);
    for (long i = 0; i < count(&p.in); i += 7) check_slope("din", pair_loss, &p, &p.in.at.v[i], din.at.v[i]);
    for (long i = 0; i < count(&p.add) && with_add; i += 7) {
        check_slope("dadd", pair_loss, &p, &p.add.at.v[i], dv.at.v[i]);
    }
    for (long i = 0; i < n1; i += 11) check_slope("dw", pair_loss, &p, &p.w1[i], dw1.v[i]);
    for (int i = 0; i < c; i++) check_slope("dbias", pair_loss, &p, &p.bias[i], dbias.v[i]);
    scene_close(&s);
}

struct head {
    double z[20];
    int classes, label, softmax;
};
static double head_loss(void *context) {
    const struct head *h = context;
    int hit;
    return 0.7 * ref_head(h->z, h->classes, h->label, h->softmax, 0.7, (struct reals){NULL, NULL}, &hit);
}

static void test_differences(void) {
    for (int softmax = 0; softmax < 2; softmax++) {
        for (int clip = 0; clip < 2; clip++) {
            struct head h = {.classes = 20, .label = 7, .softmax = softmax};
            double v[20], m[20];
            int hit;
            randomise(h.z, 20);
            if (clip) h.z[7] = -40;
            ref_head(h.z, 20, 7, softmax, 0.7, (struct reals){v, m}, &hit);
            for (int i = 0; i < 20; i++) check_slope("dz", head_loss, &h, &h.z[i], v[i]);
        }
    }
    for (enum activation act = ACT_LINEAR; act <= ACT_ELU; act++) {
        for (int add = 0; add < 2; add++) {
            differences_pair(act, add, 3, 1, 2, 1);
            differences_pair(act, add, 4, 2, 3, 2);
            differences_pair(act, add, 1, 1, 4, 2);
        }
        for (enum pool pool = POOL_NONE; pool <= POOL_MAX3; pool++) {
            for (int links = 0; links <= 2; links++) {
                differences_chain(act, pool, links, 4, 6);
                differences_chain(act, pool, links, 5, 7);
            }
        }
    }
}
#endif
