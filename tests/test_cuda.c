/* test_cuda.c - the CUDA device with whole nets, against the CPU device: losses, every gradient, every updated weight
 * and every moving average, for each kind of pooling, each kernel size, each optimiser, with and without normalisation,
 * residual units, first_conv and a second dense layer, through full and last smaller batches; networks drawn from the
 * original's space; bf16 against fp32; the same bits twice, with and without weight gradients beside the chain, and in
 * a profile; and what happens when memory or the device is gone.
 *
 * Linked with layers.cu as C++ (cuda_host.h) it needs no GPU; linked with nvcc's object it runs on one, where it also
 * trains longer (see main). `--draws FROM TO` compares these draws alone. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../config.h"
#include "../net.h"
#include "check.h"
#include "witness.h"

/* fp32 on both sides: sums in other orders. Gradients and weights as the norm of the difference over the norm; after
 * an update Nadam and Adam have made steps as large as the learning rate, whichever way a gradient near 0 was rounded:
 * weights are compared on that scale, without those whose gradient is below NO_SIGN of the tensor's. */
#define FP32_LOSS 2e-5
#define FP32_GRADIENT 2e-4
#define FP32_STEP 1e-4
#define NO_SIGN 1e-3
/* bf16: maps are rounded to 8 bits, gradients pass through some 20 layers; those of biases and betas are sums over all
 * pixels in which much cancels, and a rounded map flips a relu here and there. */
#define BF16_LOSS 0.01
#define BF16_GRADIENT 0.25
#define BF16_VECTOR 0.75
/* Behind a dozen convolutions, six images' gradients hang on relus that turn with a map's last bit. */
#define BF16_DRAW 0.7

#ifdef TEST_GPU
int cuda_host_backwards, cuda_host_late, cuda_host_lost, cuda_host_other_wgmma, cuda_host_devices, cuda_host_no_cublas,
    cuda_host_unrecorded, cuda_host_free_fails; /* without effect there */
long cuda_host_malloc_fails, cuda_host_unfreed, cuda_host_captures;
void (*cuda_host_recording)(void);
#else
extern int cuda_host_backwards, cuda_host_late, cuda_host_lost, cuda_host_other_wgmma, cuda_host_devices,
    cuda_host_no_cublas, cuda_host_unrecorded, cuda_host_free_fails;
extern long cuda_host_malloc_fails, cuda_host_unfreed, cuda_host_captures;
extern void (*cuda_host_recording)(void);
#endif

enum { SIDE = 16, SIDE_DRAWS = 32, IMAGES = 9, BATCH = 6 };
static struct device *cpu, *fp32, *bf16;
static struct images images;
static double worst_loss, worst_gradient, worst_step, worst_bf16;

static struct net_config base(void) {
    struct net_config c;
    struct document doc;
    struct error e;
    const char *text =
        "{'lr_rate_mult': 1.0, 'l2_weight_reg_mult': 1.0, 'batch_size': 6, 'optimizer': 'Nadam', "
        "'coarse_labels_weight': 0.2, 'conv_dropout_drop_proba': 0.2, 'fc_dropout_drop_proba': 0.3, 'use_BN': True, "
        "'first_conv': None, 'residual': None, 'conv_hiddn_units_mult': 0.25, 'conv_kernel_size': 3, "
        "'res_conv_kernel_size': 3, 'pooling_type': 'max', 'conv_pool_res_start_idx': 0, 'nb_conv_pool_layers': 2, "
        "'fc_units_1_mult': 0.05, 'one_more_fc': None, 'activation': 'elu'}";
    memset(&c, 0, sizeof c);
    CHECK(value_parse(&doc, text, strlen(text), "base", &e) == OK && config_read(&c, doc.root, "base", &e) == OK, "%s",
          e.text);
    document_free(&doc);
    return c;
}

struct trained {
    struct net *net;
    struct net_images set;
    struct net_metrics epoch[2], judge[2];
};

/* Builds a net and trains it for `epochs` epochs of a full and a smaller batch. */
static int train(struct trained *t, const struct net_config *c, struct device *d, int epochs, struct error *e) {
    const struct net_options options = {.seed = 3, .trial = 1, .fine = 100, .coarse = 20};
    memset(t, 0, sizeof *t);
    int failed = net_images_load(&t->set, &images, d, e);
    if (!failed) failed = net_build(&t->net, c, &options, d, &t->set, &t->set, e);
    for (int i = 0; i < epochs && !failed; i++) {
        failed = net_train_epoch(t->net, i, &t->epoch[i], NULL, NULL, e);
        if (!failed) failed = net_judge(t->net, &t->judge[i], NULL, NULL, e);
    }
    return failed;
}

static void trained_free(struct trained *t, struct device *d) {
    net_free(t->net);
    net_images_unload(&t->set, d);
}

static double relative(double a, double b) { return fabs(a - b) / (fabs(b) > 1e-6 ? fabs(b) : 1e-6); }

static double metrics_deviation(const struct net_metrics *a, const struct net_metrics *b) {
    const double d[3] = {relative(a->loss, b->loss), relative(a->fine_loss, b->fine_loss),
                         relative(a->coarse_loss, b->coarse_loss)};
    double most = 0;
    for (int i = 0; i < 3; i++) most = d[i] > most || isnan(d[i]) ? d[i] : most;
    return most;
}

static float *read_tensor(struct net *net, int i, enum net_kind kind) {
    const struct net_tensor t = net_get_tensor(net, i);
    float *x = mem_zero(t.n, sizeof *x);
    struct error e = {0};
    CHECK(x != NULL && net_read_tensor(net, i, kind, x, &e) == OK, "%s: %s", t.name, e.text);
    return x;
}

static double norm(const float *x, size_t n) {
    double squares = 0;
    for (size_t k = 0; k < n; k++) squares += (double)x[k] * (double)x[k];
    return sqrt(squares);
}

/* |a - b| / |b| of a tensor: NaN counts as infinite. */
static double tensor_deviation(struct net *a, struct net *b, int i, enum net_kind kind) {
    const size_t n = net_get_tensor(b, i).n;
    float *x = read_tensor(a, i, kind), *y = read_tensor(b, i, kind);
    const double size = norm(y, n);
    for (size_t k = 0; k < n; k++) x[k] -= y[k];
    const double difference = norm(x, n);
    mem_free(x);
    mem_free(y);
    if (isnan(difference)) return HUGE_VAL;
    return size > 0 ? difference / size : difference > 0 ? HUGE_VAL : 0;
}

/* The root mean square of what an update of step size `rate` made otherwise, in steps. */
static double step_deviation(struct net *a, struct net *b, int i, double rate, double l2) {
    const struct net_tensor t = net_get_tensor(b, i);
    float *x = read_tensor(a, i, NET_VALUE), *y = read_tensor(b, i, NET_VALUE);
    float *g = t.moving ? NULL : read_tensor(b, i, NET_GRADIENT);
    double difference = 0, least = 0;
    size_t n = 0;
    for (size_t k = 0; k < t.n && g != NULL && t.dims > 1; k++) g[k] += (float)(2 * l2 * (double)y[k]);
    if (g != NULL) least = NO_SIGN * norm(g, t.n) / sqrt((double)t.n);
    for (size_t k = 0; k < t.n; k++) {
        if (g != NULL && fabs((double)g[k]) < least) continue;
        difference += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
        n++;
    }
    CHECK(n >= t.n / 2, "%s: only %zu of %zu weights compared", t.name, n, t.n); /* behind a relu many are 0 */
    mem_free(g);
    mem_free(x);
    mem_free(y);
    if (isnan(difference)) return HUGE_VAL;
    return n > 0 ? sqrt(difference / (double)n) / rate : 0;
}

/* is_draw: of biases and betas, in whose sums most may cancel, a digit fewer counts, and in bf16 none does; so of
 * updates, where a gradient is small beside what it has been. */
static void compare(const char *name, const struct net_config *c, int is_draw) {
    struct trained a, b, h;
    struct error e = {0};
    const double learning_rate = 0.001 * c->lr_rate_mult, l2 = 0.0007 * c->l2_weight_reg_mult;
    /* The first batch alone: gradients; then, from the beginning again, two epochs. */
    CHECK(train(&a, c, cpu, 0, &e) == OK && train(&b, c, fp32, 0, &e) == OK && train(&h, c, bf16, 0, &e) == OK,
          "%s: %s", name, e.text);
    if (e.kind) return;
    uint32_t order[BATCH];
    struct net_metrics m[3];
    for (uint32_t i = 0; i < BATCH; i++) order[i] = IMAGES - 1 - i;
    CHECK(net_train_step(a.net, order, BATCH, &m[0], &e) == OK &&
              net_train_step(b.net, order, BATCH, &m[1], &e) == OK &&
              net_train_step(h.net, order, BATCH, &m[2], &e) == OK,
          "%s: %s", name, e.text);
    for (int i = 0; i < net_n_tensors(a.net); i++) {
        const struct net_tensor t = net_get_tensor(a.net, i);
        const double g = t.moving ? 0 : tensor_deviation(b.net, a.net, i, NET_GRADIENT);
        const double w = step_deviation(b.net, a.net, i, t.moving ? 1 : learning_rate, l2);
        const double g16 = t.moving ? 0 : tensor_deviation(h.net, a.net, i, NET_GRADIENT);
        CHECK(g <= (is_draw && t.dims == 1 ? 10 : 1) * FP32_GRADIENT, "%s: fp32: gradient of %s: %g", name, t.name, g);
        CHECK(w <= (is_draw ? 10 : 1) * FP32_STEP, "%s: fp32: %s after an update: %g of a step", name, t.name, w);
        CHECK(g16 <= (is_draw      ? BF16_DRAW
                      : t.dims > 1 ? BF16_GRADIENT
                                   : BF16_VECTOR) ||
                  (is_draw && t.dims == 1),
              "%s: bf16: gradient of %s: %g", name, t.name, g16);
        worst_gradient = g > worst_gradient ? g : worst_gradient;
        worst_step = w > worst_step ? w : worst_step;
        if (t.dims > 1 && !is_draw) worst_bf16 = g16 > worst_bf16 ? g16 : worst_bf16;
    }
    CHECK(metrics_deviation(&m[1], &m[0]) <= FP32_LOSS, "%s: fp32: loss %.9g, not %.9g", name, m[1].loss, m[0].loss);
    CHECK(metrics_deviation(&m[2], &m[0]) <= BF16_LOSS, "%s: bf16: loss %.9g, not %.9g", name, m[2].loss, m[0].loss);
    trained_free(&a, cpu);
    trained_free(&b, fp32);
    trained_free(&h, bf16);

    /* A second epoch: it runs what was recorded when the first had shown the device each batch size. */
    CHECK(train(&a, c, cpu, 2, &e) == OK && train(&b, c, fp32, 2, &e) == OK && train(&h, c, bf16, 2, &e) == OK,
          "%s: %s", name, e.text);
    double loss = 0;
    for (int i = 0; i < 2; i++) {
        loss = fmax(loss, metrics_deviation(&b.epoch[i], &a.epoch[i]));
        loss = fmax(loss, metrics_deviation(&b.judge[i], &a.judge[i]));
    }
    CHECK(loss <= 10 * FP32_LOSS, "%s: fp32: two epochs: loss %.9g, not %.9g; judged %.9g, not %.9g", name,
          b.epoch[0].loss, a.epoch[0].loss, b.judge[0].loss, a.judge[0].loss);
    CHECK(b.epoch[0].fine_accuracy == a.epoch[0].fine_accuracy, "%s: fp32: other hits", name);
    CHECK(fmax(metrics_deviation(&h.epoch[0], &a.epoch[0]), metrics_deviation(&h.judge[0], &a.judge[0])) <= BF16_LOSS,
          "%s: bf16: an epoch: loss %.9g, not %.9g; judged %.9g, not %.9g", name, h.epoch[0].loss, a.epoch[0].loss,
          h.judge[0].loss, a.judge[0].loss);
    worst_loss = loss > worst_loss ? loss : worst_loss;
    trained_free(&a, cpu);
    trained_free(&b, fp32);
    trained_free(&h, bf16);
}

static void test_nets(void) {
    struct net_config c = base();
    compare("max, k 3, BN, Nadam", &c, 0);
    c.pooling = POOLING_AVG;
    c.conv_kernel = 2;
    c.activation = ACT_RELU;
    c.optimizer = OPT_ADAM;
    c.residual = 2;
    c.res_kernel = 4;
    compare("avg, k 2, BN, residual 2 of k 4, relu, Adam", &c, 0);
    c = base();
    c.pooling = POOLING_ALL_CONV;
    c.conv_kernel = 4;
    c.use_bn = 0;
    c.first_conv = 3;
    c.one_more_fc = 0.05;
    c.optimizer = OPT_RMSPROP;
    compare("all_conv, k 4, no BN, first_conv, one_more_fc, RMSprop", &c, 0);
    c = base();
    c.pooling = POOLING_INCEPTION;
    c.conv_kernel = 1;
    c.residual = 2;
    c.res_kernel = 2;
    c.first_conv = 4;
    c.softmax = 1;
    compare("inception, k 1, BN, residual 2 of k 2, softmax", &c, 0);
    c = base();
    c.pooling = POOLING_INCEPTION;
    c.use_bn = 0;
    c.residual = 1;
    c.residual_start = 1;
    c.activation = ACT_RELU;
    compare("inception, k 3, no BN, residual in block 2, relu", &c, 0);
}

static int make_images(int side) {
    struct rng rng = rng_make(7, 0, RNG_SYNTHETIC);
    mem_free(images.pixels);
    mem_free(images.fine);
    mem_free(images.coarse);
    images = (struct images){.n = IMAGES, .h = side, .w = side, .c = 3};
    images.pixels = mem_alloc((size_t)(IMAGES * side * side * 3));
    images.fine = mem_alloc(IMAGES);
    images.coarse = mem_alloc(IMAGES);
    if (images.pixels == NULL || images.fine == NULL || images.coarse == NULL) return 0;
    for (int i = 0; i < IMAGES * side * side * 3; i++) images.pixels[i] = (uint8_t)rng_below(&rng, 256);
    for (int i = 0; i < IMAGES; i++) {
        images.fine[i] = (uint8_t)rng_below(&rng, 100);
        images.coarse[i] = (uint8_t)(images.fine[i] / 5);
    }
    return 1;
}

/* What a search meets: networks drawn from the original's space, only narrower. */
static void test_draws(int from, int to) {
    static const double widths[] = {0.1, 0.2, 0.3, 0.45, 0.7};
    struct space *space = NULL;
    struct error e = {0};
    CHECK(make_images(SIDE_DRAWS) && space_parse(&space, space_seed, strlen(space_seed), "the space", &e) == OK, "%s",
          e.text);
    if (space == NULL) return;
    double *values = mem_zero((size_t)space->n_params, sizeof *values);
    for (int i = from; i < to && values != NULL; i++) {
        struct rng rng = rng_make(77, (uint32_t)i, RNG_SUGGEST);
        struct document doc = {0};
        struct net_config c;
        char name[24];
        snprintf(name, sizeof name, "draw %d", i);
        space_draw(space, &rng, values);
        CHECK(space_config(space, values, &doc, &e) == OK && config_read(&c, doc.root, name, &e) == OK, "%s", e.text);
        document_free(&doc);
        if (e.kind) break;
        config_scale(&c, widths[i % 5]);
        c.batch_size = BATCH;
        c.fc_units_1_mult *= 0.2;
        c.one_more_fc *= 0.2;
        compare(name, &c, 1);
    }
    mem_free(values);
    space_free(space);
    CHECK(make_images(SIDE), "no memory");
}

/* Do they have the same losses and weights? */
static void same_bits(const struct trained *a, const struct trained *b, const char *name) {
    CHECK(memcmp(a->epoch, b->epoch, sizeof a->epoch) == 0 && memcmp(a->judge, b->judge, sizeof a->judge) == 0,
          "%s: other losses", name);
    for (int i = 0; i < net_n_tensors(a->net); i++) {
        CHECK(tensor_deviation(a->net, b->net, i, NET_VALUE) == 0, "%s: other bits in %s", name,
              net_get_tensor(a->net, i).name);
    }
}

/* The same steps twice, and with the warps' turns the other way round: the same bits. */
static void test_bits(void) {
    struct net_config c = base();
    struct device *devices[] = {fp32, bf16};
    c.pooling = POOLING_ALL_CONV;
    c.residual = 1;
    for (int k = 0; k < 2; k++) {
        struct trained a, b;
        struct error e = {0};
        CHECK(train(&a, &c, devices[k], 2, &e) == OK, "%s", e.text);
        cuda_host_backwards = 1;
        CHECK(train(&b, &c, devices[k], 2, &e) == OK, "%s", e.text);
        cuda_host_backwards = 0;
        same_bits(&a, &b, devices[k]->about);
        trained_free(&a, devices[k]);
        trained_free(&b, devices[k]);
    }
}

/* Weight gradients that are as far behind the chain as they may be, or as far before it as they can, and those in the
 * chain: the same bits, first launched one by one, in the second epoch from what was recorded. */
static void test_beside(void) {
    struct net_config c = base();
    c.residual = 2;
    c.res_kernel = 2;
    c.conv_dropout = 0;
    for (int full = 0; full < 2; full++) {
        struct device *in_order, *beside = full ? fp32 : bf16;
        struct trained a, b;
        struct error e = {0};
        char name[80];
        c.pooling = full ? POOLING_INCEPTION : POOLING_ALL_CONV;
        c.use_bn = !full;
        CHECK(device_cuda(&in_order, 0, full, CUDA_WITHOUT_BESIDE | CUDA_WITHOUT_EARLY, &e) == OK &&
                  train(&a, &c, in_order, 2, &e) == OK,
              "%s", e.text);
        CHECK(in_order->beside == 0 && beside->beside > 0, "weight gradients beside %d, %d", in_order->beside,
              beside->beside);
        for (cuda_host_late = 0; cuda_host_late < 2; cuda_host_late++) {
            snprintf(name, sizeof name, "%s, weight gradients %s", full ? "fp32" : "bf16",
                     cuda_host_late ? "late" : "soon");
            CHECK(train(&b, &c, beside, 2, &e) == OK, "%s: %s", name, e.text);
            same_bits(&a, &b, name);
            trained_free(&b, beside);
        }
        cuda_host_late = 0;
        trained_free(&a, in_order);
        in_order->close(in_order);
    }
}

/* A profile runs its program once to warm up and once to time it, with all in the chain: two steps like others. */
static void test_profile(void) {
    enum { SOME = IMAGES / 3 };
    struct net_config c = base();
    struct witness w[2] = {witness_of(bf16), witness_of(bf16)};
    struct trained t[2];
    uint32_t order[SOME] = {4, 0, 7};
    struct net_metrics m;
    struct error e = {0};
    for (int k = 0; k < 2; k++) {
        CHECK(train(&t[k], &c, &w[k].device, 1, &e) == OK && net_train_step(t[k].net, order, SOME, &m, &e) == OK, "%s",
              e.text);
        const struct program *p = w[k].program;
        double *seconds = mem_zero((size_t)p->n_ops, sizeof *seconds);
        if (k == 0) {
            CHECK(bf16->run(bf16, p, SOME, &e) == OK && bf16->run(bf16, p, SOME, &e) == OK, "%s", e.text);
        } else {
            CHECK(bf16->profile(bf16, p, SOME, seconds, &e) == OK, "%s", e.text);
            for (int i = 0; i < p->n_ops; i++)
                CHECK(p->ops[i].kind != OP_CONV_WEIGHT || seconds[i] > 0, "%s: no time", p->ops[i].layer);
        }
        mem_free(seconds);
    }
    same_bits(&t[0], &t[1], "a profile");
    for (int k = 0; k < 2; k++) trained_free(&t[k], &w[k].device);
}

/* Weights that the host writes reach the bf16 copy that the kernels read. */
static void test_written_weights(void) {
    struct net_config c = base();
    struct trained a, b;
    struct error e = {0};
    CHECK(train(&a, &c, bf16, 1, &e) == OK && train(&b, &c, bf16, 0, &e) == OK, "%s", e.text);
    for (int i = 0; i < net_n_tensors(a.net); i++) {
        const struct net_tensor t = net_get_tensor(a.net, i);
        float *x = mem_alloc(t.n * sizeof *x);
        CHECK(x != NULL && net_read_tensor(a.net, i, NET_VALUE, x, &e) == OK &&
                  net_write_tensor(b.net, i, NET_VALUE, x, &e) == OK,
              "%s", t.name);
        mem_free(x);
    }
    CHECK(net_judge(b.net, &b.judge[0], NULL, NULL, &e) == OK, "%s", e.text);
    CHECK(memcmp(&a.judge[0], &b.judge[0], sizeof a.judge[0]) == 0, "loaded weights: loss %.9g, not %.9g",
          b.judge[0].loss, a.judge[0].loss);
    trained_free(&a, bf16);
    trained_free(&b, bf16);
}

/* Each allocation fails in turn: a failed trial, no leak, and the device goes on with the next. */
static void test_memory(void) {
    struct net_config c = base();
    struct trained t;
    struct error e = {0};
    long n = 0;
    for (int failed = 1; failed && n < 60;) {
        cuda_host_malloc_fails = ++n;
        failed = train(&t, &c, bf16, 1, &e);
        cuda_host_malloc_fails = 0;
        CHECK(failed == OK || (failed == ERROR_TRIAL && strstr(e.text, "out of GPU memory") != NULL),
              "allocation %ld: error %d: %s", n, failed, e.text);
        trained_free(&t, bf16);
    }
    CHECK(n > 8 && n < 60, "%ld allocations", n);
    /* What fails when memory is given back is not taken for a failure of the next trial. */
    CHECK(train(&t, &c, bf16, 0, &e) == OK, "%s", e.text);
    cuda_host_free_fails = 1;
    trained_free(&t, bf16);
    cuda_host_free_fails = 0;
    CHECK(train(&t, &c, bf16, 1, &e) == OK && isfinite(t.epoch[0].loss), "after it: %s", e.text);
    trained_free(&t, bf16);
}

static void test_lost(void) {
    struct net_config c = base();
    struct device *d;
    struct trained t;
    struct error e = {0};
    CHECK(device_cuda(&d, 0, 0, CUDA_WITHOUT_WGMMA, &e) == OK, "%s", e.text);
    CHECK(train(&t, &c, d, 0, &e) == OK, "%s", e.text);
    cuda_host_lost = 1;
    CHECK(net_train_epoch(t.net, 0, &t.epoch[0], NULL, NULL, &e) == ERROR_ENVIRONMENT && strstr(e.text, "GPU") != NULL,
          "lost: %s", e.text);
    trained_free(&t, d);
    d->close(d);
    cuda_host_lost = 0;
}

/* A wgmma that is not what it is taken for is left alone, and the device says so. */
static void test_other_wgmma(void) {
    struct net_config c = base();
    struct device *d;
    struct trained t, with;
    struct error e = {0};
    CHECK(device_cuda(&d, 0, 0, 0, &e) == OK && strstr(d->about, "without wgmma") == NULL, "%s", d->about);
    d->close(d);
    cuda_host_other_wgmma = 1;
    CHECK(device_cuda(&d, 0, 0, 0, &e) == OK && strstr(d->about, "without wgmma") != NULL, "%s", d->about);
    cuda_host_other_wgmma = 0;
    CHECK(train(&t, &c, d, 1, &e) == OK && train(&with, &c, bf16, 1, &e) == OK, "without wgmma: %s", e.text);
    CHECK(metrics_deviation(&t.epoch[0], &with.epoch[0]) < BF16_LOSS, "without wgmma: a loss of %g, with it %g",
          t.epoch[0].loss, with.epoch[0].loss);
    trained_free(&t, d);
    trained_free(&with, bf16);
    d->close(d);
}

/* The one line that says what is missing. */
static void test_missing(void) {
    struct device *d;
    struct error e = {0};
    cuda_host_devices = 0;
    CHECK(device_cuda(&d, 0, 0, 0, &e) == ERROR_ENVIRONMENT && d == NULL && strstr(e.text, "no GPU") != NULL, "%s",
          e.text);
    cuda_host_devices = -1;
    CHECK(device_cuda(&d, 0, 0, 0, &e) == ERROR_ENVIRONMENT && strstr(e.text, "driver") != NULL, "%s", e.text);
    cuda_host_devices = 1;
    CHECK(device_cuda(&d, 1, 0, 0, &e) == ERROR_ENVIRONMENT && strstr(e.text, "no GPU 1") != NULL, "%s", e.text);
}

/* Without cuBLAS its own kernels make the dense layers; not where it is only short of memory, for that is a matter of
 * the moment, and they round otherwise. */
static void test_no_cublas(void) {
    struct net_config c = base();
    struct device *d;
    struct trained t;
    struct error e = {0};
    for (cuda_host_no_cublas = 1; cuda_host_no_cublas < 3; cuda_host_no_cublas++) {
        CHECK(device_cuda(&d, 0, 0, CUDA_WITHOUT_WGMMA, &e) == OK && strstr(d->about, "without cuBLAS") != NULL, "%s",
              e.text);
        CHECK(train(&t, &c, d, 1, &e) == OK && isfinite(t.epoch[0].loss), "without cuBLAS: %s", e.text);
        trained_free(&t, d);
        d->close(d);
    }
    CHECK(device_cuda(&d, 0, 0, CUDA_WITHOUT_WGMMA, &e) == ERROR_ENVIRONMENT &&
              strstr(e.text, "out of GPU memory for cuBLAS") != NULL,
          "no memory for cuBLAS: %s", e.text);
    cuda_host_no_cublas = 0;
}

/* Steps that cannot be captured, from the device's beginning or later, make the same, and the device says so. */
static void test_unrecorded(void) {
    static const char *const said[] = {"", ", without graphs", ", without early kernels", ", without early kernels"};
    struct net_config c = base();
    struct device *d;
    struct trained a, b;
    struct error e = {0};
    CHECK(train(&a, &c, bf16, 2, &e) == OK, "%s", e.text);
    for (int how = 1; how < 4; how++) {
        cuda_host_unrecorded = how;
        CHECK(device_cuda(&d, 0, 0, 0, &e) == OK && strstr(d->about, said[how]) != NULL, "%s", d->about);
        CHECK(train(&b, &c, d, 2, &e) == OK, "%s: %s", said[how], e.text);
        cuda_host_unrecorded = 0;
        same_bits(&a, &b, said[how]);
        trained_free(&b, d);
        d->close(d);
    }
    /* The first epoch shows the device each batch size, and the second would record two of training and three of
     * judging: two that fail are no reason to give up; a third is, and then no other is tried. */
    CHECK(device_cuda(&d, 0, 0, 0, &e) == OK, "%s", e.text);
    for (int turn = 0; turn < 3; turn++) {
        static const int captures[] = {5, 3, 0};
        CHECK(train(&b, &c, d, 1, &e) == OK, "%s", e.text);
        cuda_host_captures = 0;
        cuda_host_unrecorded = 1;
        CHECK(net_train_epoch(b.net, 1, &b.epoch[1], NULL, NULL, &e) == OK, "%s", e.text);
        cuda_host_unrecorded = turn > 0;
        CHECK(net_judge(b.net, &b.judge[1], NULL, NULL, &e) == OK, "%s", e.text);
        cuda_host_unrecorded = 0;
        CHECK(cuda_host_captures == captures[turn], "%ld captures, not %d", cuda_host_captures, captures[turn]);
        CHECK((strstr(d->about, "without graphs") != NULL) == (turn > 0), "%s", d->about);
        same_bits(&a, &b, "steps that are not recorded");
        trained_free(&b, d);
    }
    d->close(d);
    trained_free(&a, bf16);
}

/* Another thread's device gives memory back while a step is recorded: it waits until that is done. */
static struct device *other;
static void *held;
static pthread_t giving;
static void *give_back(void *context) {
    (void)context;
    other->release(other, held);
    other->close(other);
    return NULL;
}
static void give_back_now(void) {
    const struct timespec pause = {0, 50000000};
    cuda_host_recording = NULL;
    CHECK(pthread_create(&giving, NULL, give_back, NULL) == 0, "no thread");
    nanosleep(&pause, NULL);
}
static void test_jobs(void) {
    struct net_config c = base();
    struct trained t;
    struct error e = {0};
    CHECK(device_cuda(&other, 0, 0, CUDA_WITHOUT_WGMMA, &e) == OK && other->alloc(other, 64, &held, &e) == OK, "%s",
          e.text);
    cuda_host_recording = give_back_now;
    CHECK(train(&t, &c, bf16, 2, &e) == OK, "%s", e.text);
    CHECK(cuda_host_recording == NULL && pthread_join(giving, NULL) == 0, "no step was recorded");
    CHECK(cuda_host_unfreed == 0, "%ld times memory was given back while a step was recorded", cuda_host_unfreed);
    trained_free(&t, bf16);
}

/* On a GPU: 500 steps in bf16 and in fp32, from the same weights with the same batches. */
static void test_long(void) {
    enum { EPOCHS = 250 }; /* two batches each */
    struct net_config c = base();
    struct device *devices[] = {fp32, bf16};
    double last[2] = {0, 0}, first[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        struct trained t;
        struct error e = {0};
        CHECK(train(&t, &c, devices[k], 0, &e) == OK, "%s", e.text);
        for (int i = 0; i < EPOCHS; i++) {
            struct net_metrics m;
            CHECK(net_train_epoch(t.net, i, &m, NULL, NULL, &e) == OK && isfinite(m.loss), "epoch %d: %s", i, e.text);
            if (i < 10) first[k] += m.loss / 10;
            if (i >= EPOCHS - 10) last[k] += m.loss / 10;
        }
        trained_free(&t, devices[k]);
    }
    printf("500 steps: fp32 from %.4f to %.4f, bf16 from %.4f to %.4f\n", first[0], last[0], first[1], last[1]);
    CHECK(last[0] < 0.8 * first[0] && last[1] < 0.8 * first[1], "it does not learn");
    CHECK(fabs(last[1] - last[0]) < 0.1 * first[0], "bf16 learns otherwise than fp32");
}

int main(int argc, char **argv) {
    struct error e = {0};
    const int on_gpu = argc > 1 && strcmp(argv[1], "--gpu") == 0;
    const int small = argc > 1 && strcmp(argv[1], "--small") == 0; /* under a checker that makes it slow */
    const int draws = argc > 3 && strcmp(argv[1], "--draws") == 0;
    unsigned without = 0;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what it has found is there, too, if a kernel hangs */
    if (!make_images(SIDE)) return 1;
    CHECK(device_cpu(&cpu, 2, NULL, &e) == OK && device_cuda_without(&without, getenv("PARZEN_WITHOUT"), &e) == OK &&
              device_cuda(&fp32, 0, 1, without, &e) == OK && device_cuda(&bf16, 0, 0, without, &e) == OK,
          "%s", e.text);
    if (bf16 == NULL) return check_done();
    printf("%s\n", bf16->about);
#ifdef TEST_GPU /* what does not work there is left out, and then nothing of it is tested */
    CHECK(without != 0 || strstr(bf16->about, "without") == NULL, "%s", bf16->about);
#endif
    if (draws) {
        test_draws(atoi(argv[2]), atoi(argv[3]));
    } else {
        test_written_weights();
    }
    if (!small && !draws) {
        test_nets();
        test_draws(on_gpu ? 0 : 1, on_gpu ? 20 : 3);
        test_bits();
        test_beside();
        test_profile();
    }
    if (on_gpu) {
        test_long();
    } else if (!small && !draws) {
        test_memory();
        test_lost();
        test_missing();
        test_other_wgmma();
        test_no_cublas();
        test_unrecorded();
        test_jobs();
    }
    printf(
        "the largest deviations from the CPU: fp32 loss %.1e, gradient %.1e, update %.1e of a step; bf16 gradient "
        "%.1e\n",
        worst_loss, worst_gradient, worst_step, worst_bf16);
    cpu->close(cpu);
    fp32->close(fp32);
    bf16->close(bf16);
    mem_free(images.pixels);
    mem_free(images.fine);
    mem_free(images.coarse);
    return check_done();
}
