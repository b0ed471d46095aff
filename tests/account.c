/* account.c - what a training step must move and multiply, operation by operation, and what the CUDA kernels do:
 *
 *   account [CONFIG.json]...      (a result file, or a configuration; none: the published best)
 *
 * It builds the net on a device that computes nothing, takes the program it is given to run, and counts from the
 * shapes: `maps`, the bytes of each map that an operation touches, once (its floor in device memory); `fetch`, what the
 * blocks of layers.cu fetch into shared memory through the caches, every tile's operands; `mma`, multiply-adds with the
 * padding of tiles, beside the useful ones. From these and the ceilings below, the time that each kernel cannot go
 * under. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../config.h"
#include "../net.h"

/* An H200: bytes a second from device memory and from the second-level cache (mostly read), dense bf16 flops a second
 * of mma.sync, and the least time between two kernels that wait for one another. */
static const double memory_rate = 4.3e12, fetch_rate = 6e12, mma_rate = 5e14, launch = 1.5e-6;

static struct program taken;
static struct op *taken_ops;

static int fake_alloc(struct device *d, size_t bytes, void **out, struct error *e) {
    (void)d;
    *out = mem_zero(bytes + 1, 1);
    return *out != NULL ? OK : error_memory(e, bytes, "the net");
}
static void fake_release(struct device *d, void *p) {
    (void)d;
    mem_free(p);
}
static int fake_copy(struct device *d, void *to, const void *from, size_t bytes, struct error *e) {
    (void)d;
    (void)e;
    memcpy(to, from, bytes);
    return OK;
}
static int fake_run(struct device *d, const struct program *p, int n, struct error *e) {
    (void)d;
    (void)n;
    (void)e;
    taken = *p;
    taken_ops = realloc(taken_ops, (size_t)p->n_ops * sizeof *taken_ops);
    if (taken_ops == NULL) exit(1);
    memcpy(taken_ops, p->ops, (size_t)p->n_ops * sizeof *taken_ops);
    return OK;
}
static int fake_wait(struct device *d, struct error *e) {
    (void)d;
    (void)e;
    return OK;
}

struct cost {
    double maps, fetch, macs, mma;
    int kernels;
};

static double bytes_of(const struct map *m, int n) {
    return m->at == NULL ? 0 : (double)n * m->h * m->w * map_stored(m) * (m->wide ? 4 : 2);
}
static double real_of(const struct map *m) { return (double)m->parts * m->width; }

/* The tile widths of layers.cu. */
static int tile_columns(int columns) {
    int best = 128, least = 1 << 30;
    for (int bn = 128; bn >= 32; bn /= 2) {
        const int c = (columns + bn - 1) / bn * (bn + 32);
        if (c < least) best = bn, least = c;
    }
    return best;
}
static double up(double n, double to) { return (double)(long)((n + to - 1) / to) * to; }

/* rows x columns results, each a sum `deep` long, in tiles of 128 x bn and slabs of 32. */
static void product_cost(struct cost *c, double rows, int columns, double deep) {
    const int bn = tile_columns(columns);
    const double tiles = up(rows, 128) / 128 * up(columns, bn) / bn;
    c->fetch += tiles * up(deep, 32) * (128 + bn) * 2;
    c->mma += tiles * 128 * bn * up(deep, 32);
}

static struct cost cost_of(const struct op *op, const struct parameters *p, int n) {
    struct cost c = {.kernels = 1};
    switch (op->kind) {
        case OP_BATCH:
            c.maps = bytes_of(&op->batch.out, n) + (double)n * op->batch.out.h * op->batch.out.w * op->batch.c;
            break;
        case OP_CONV: {
            const struct op_conv *o = &op->conv;
            const struct map *to = o->out.at != NULL ? &o->out : &o->dropped;
            const double taps = o->k * o->k;
            c.maps = bytes_of(&o->in, n) + bytes_of(&o->add, n) + bytes_of(&o->out, n) + bytes_of(&o->dropped, n) +
                     taps * map_stored(&o->in) * map_stored(to) * 2;
            c.macs = (double)n * to->h * to->w * taps * real_of(&o->in) * real_of(to);
            product_cost(&c, (double)n * to->h * to->w, map_stored(to), taps * map_stored(&o->in));
            c.kernels = o->bn != NULL ? 2 : 1;
            break;
        }
        case OP_CONV_DATA: {
            const struct op_conv_data *o = &op->conv_data;
            const double taps = o->k * o->k;
            c.maps = bytes_of(&o->out_gradient, n) + bytes_of(&o->add, n) + bytes_of(&o->gradient, n) +
                     bytes_of(&o->branch, n) + bytes_of(&o->y, n) + bytes_of(&o->branch_y, n) + bytes_of(&o->bn_x, n) +
                     taps * map_stored(&o->gradient) * map_stored(&o->out_gradient) * 2;
            c.macs = (double)n * o->out_gradient.h * o->out_gradient.w * taps * real_of(&o->gradient) *
                     real_of(&o->out_gradient);
            product_cost(&c, (double)n * o->gradient.h * o->gradient.w, map_stored(&o->gradient),
                         taps * map_stored(&o->out_gradient) / (o->stride * o->stride));
            c.kernels = o->bn != NULL ? 2 : 1;
            break;
        }
        case OP_CONV_WEIGHT: {
            const struct op_conv_weight *o = &op->conv_weight;
            const double rows = o->k * o->k * map_stored(&o->in);
            const double pixels = (double)n * o->out_gradient.h * o->out_gradient.w;
            c.maps = bytes_of(&o->in, n) + bytes_of(&o->out_gradient, n) + rows * map_stored(&o->out_gradient) * 4;
            c.macs = pixels * o->k * o->k * real_of(&o->in) * real_of(&o->out_gradient);
            product_cost(&c, rows, map_stored(&o->out_gradient), pixels);
            c.kernels = 2;
            break;
        }
        case OP_APPLY: {
            const struct op_apply *o = &op->apply;
            c.maps = bytes_of(&o->in, n) + bytes_of(&o->out, n) + bytes_of(&o->dropped, n);
            break;
        }
        case OP_SUMS: c.maps = bytes_of(&op->sums.x, n) + bytes_of(&op->sums.out_gradient, n); break;
        case OP_APPLY_GRADIENT: {
            const struct op_apply_gradient *o = &op->apply_gradient;
            c.maps = bytes_of(&o->x, n) + bytes_of(&o->out_gradient, n) + bytes_of(&o->gradient, n) +
                     bytes_of(&o->branch, n) + bytes_of(&o->branch_y, n);
            break;
        }
        case OP_OPTIMISE:
            c.maps = (double)p->n * 4 * (p->first_moment != NULL ? 7 : 5) + (double)p->n_decayed * 2;
            break;
        case OP_LOSS:
            c.maps = bytes_of(&op->loss.logits, n) * 2;
            c.kernels = 2;
            break;
        case OP_BN:
        case OP_BN_GRADIENT:
        case OP_PENALTY:
        case OP_NEXT: c.kernels = 0; break; /* ride along */
    }
    return c;
}

static double seconds_of(const struct cost *c) {
    double s = c->maps / memory_rate;
    if (c->fetch / fetch_rate > s) s = c->fetch / fetch_rate;
    if (2 * c->mma / mma_rate > s) s = 2 * c->mma / mma_rate;
    return s + c->kernels * launch;
}

static int account(const char *name, const char *text, int each) {
    struct device fake = {.name = "none",
                          .element = 2,
                          .alloc = fake_alloc,
                          .release = fake_release,
                          .write = fake_copy,
                          .read = fake_copy,
                          .run = fake_run,
                          .wait = fake_wait};
    struct document doc;
    struct error e;
    struct net_config config;
    struct net *net = NULL;
    struct net_metrics metrics;
    int failed = value_parse(&doc, text, strlen(text), name, &e);
    if (failed) return failed;
    const struct value *space = value_get(doc.root, "space");
    failed = config_read(&config, space != NULL ? space : doc.root, name, &e);
    if (!failed) {
        static uint8_t pixels[4096 * 3072], labels[4096];
        struct net_images images = {
            .n = config.batch_size, .h = 32, .w = 32, .c = 3, .pixels = pixels, .fine = labels, .coarse = labels};
        const struct net_options options = {.seed = 1, .fine = 100, .coarse = 20};
        if (config.batch_size > 4096) return error_set(&e, ERROR_USER, "a batch of more than 4096");
        failed = net_build(&net, &config, &options, &fake, &images, NULL, &e);
        if (!failed) failed = net_train_epoch(net, 0, &metrics, NULL, NULL, &e);
    }
    if (failed) {
        fprintf(stderr, "account: %s\n", e.text);
        return failed;
    }
    const int n = config.batch_size;
    static const char *const kinds[] = {
        "batch",           "conv", "bn",          "apply",          "loss",     "data gradient",
        "weight gradient", "sums", "bn gradient", "apply gradient", "optimise", "next"};
    struct cost by_kind[OP_NEXT + 1] = {{0}}, total = {0};
    double times[OP_NEXT + 1] = {0}, time = 0;
    printf("\n%s: batch %d, %zu parameters\n", name, n, net_get_size(net).parameters);
    printf("%-16s %-24s %8s %8s %8s %8s %8s\n", "operation", "layer", "maps MB", "fetch MB", "GFLOP", "mma", "us");
    for (int i = 0; i < taken.n_ops; i++) {
        const struct cost c = cost_of(&taken_ops[i], taken.parameters, n);
        const enum op_kind k = taken_ops[i].kind;
        const double s = seconds_of(&c);
        if (each && c.kernels > 0)
            printf("%-16s %-24s %8.1f %8.1f %8.2f %8.2f %8.1f\n", kinds[k], taken_ops[i].layer, c.maps / 1e6,
                   c.fetch / 1e6, 2e-9 * c.macs, 2e-9 * c.mma, 1e6 * s);
        by_kind[k].maps += c.maps, by_kind[k].fetch += c.fetch, by_kind[k].macs += c.macs, by_kind[k].mma += c.mma;
        by_kind[k].kernels += c.kernels;
        times[k] += s;
    }
    printf("%-16s %-24s\n", "by kind", "kernels");
    for (int k = 0; k <= OP_NEXT; k++) {
        const struct cost *c = &by_kind[k];
        total.maps += c->maps, total.fetch += c->fetch, total.macs += c->macs, total.mma += c->mma;
        total.kernels += c->kernels;
        time += times[k];
        if (c->kernels > 0)
            printf("%-16s %-24d %8.1f %8.1f %8.2f %8.2f %8.1f\n", kinds[k], c->kernels, c->maps / 1e6, c->fetch / 1e6,
                   2e-9 * c->macs, 2e-9 * c->mma, 1e6 * times[k]);
    }
    printf("%-16s %-24d %8.1f %8.1f %8.2f %8.2f %8.1f  = %.3f s an epoch of 50,000\n", "all", total.kernels,
           total.maps / 1e6, total.fetch / 1e6, 2e-9 * total.macs, 2e-9 * total.mma, 1e6 * time, time * 50000 / n);
    net_free(net);
    document_free(&doc);
    return OK;
}

int main(int argc, char **argv) {
    int failed = 0, each = 1, files = 0;
    for (int i = 1; i < argc; i++) {
        char *text;
        size_t n;
        struct error e;
        if (strcmp(argv[i], "--short") == 0) {
            each = 0;
            continue;
        }
        files++;
        if (file_read(argv[i], 1 << 24, &text, &n, &e) != OK) {
            fprintf(stderr, "account: %s\n", e.text);
            return 2;
        }
        failed |= account(argv[i], text, each);
        mem_free(text);
    }
    if (files == 0) fprintf(stderr, "usage: account [--short] CONFIG.json...\n");
    free(taken_ops);
    return failed || files == 0 ? 2 : 0;
}
