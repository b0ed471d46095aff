/* step_cost.h - what the operations of a step must move and multiply, from their shapes, and what the kernels of
 * layers_kernels.cuh and layers_window.cuh do. For bench.c.
 *
 * maps: bytes of each map that an operation touches, once: its floor in device memory. fetch: what the blocks fetch
 * into shared memory through the caches, every tile's operands; shared: bytes into shared memory and, by every warp
 * that wants them, out of it. macs: useful multiply-adds; mma: with the padding of tiles. */
#ifndef STEP_COST_H
#define STEP_COST_H
#include "../layers.h"

/* What a machine can do at the most: bytes a second from memory, fetched by blocks through the caches, and through
 * shared memory; flops a second; and the least time between two kernels that wait for one another. */
struct ceilings {
    double memory, fetch, shared, flops, launch;
};

struct cost {
    double maps, fetch, shared, macs, mma;
    int kernels;
};

static void cost_add(struct cost *to, const struct cost *c) {
    to->maps += c->maps;
    to->fetch += c->fetch;
    to->shared += c->shared;
    to->macs += c->macs;
    to->mma += c->mma;
    to->kernels += c->kernels;
}

static double bytes_of(const struct map *m, int n) {
    return m->at == NULL ? 0 : (double)n * m->h * m->w * map_stored(m) * (m->wide ? 4 : 2);
}
static double real_of(const struct map *m) { return (double)m->parts * m->width; }

enum { MULTIPROCESSORS = 132 }; /* an H200's */

/* The tile widths of layers.cu. */
static int tile_columns(int columns) {
    static const int widths[] = {128, 96, 80, 64, 48, 32};
    int best = 0, least = 1 << 30;
    for (int i = 0; i < 6; i++) {
        const int cost = (columns + widths[i] - 1) / widths[i] * (widths[i] + 24);
        if (cost < least) {
            best = widths[i];
            least = cost;
        }
    }
    return best;
}
static double up(double n, double to) { return (double)(long)((n + to - 1) / to) * to; }

/* rows x columns results, each a sum `deep` long, in tiles of 128 x bn and slabs of 32. */
static void product_cost(struct cost *c, double rows, int columns, double deep) {
    const int bn = tile_columns(columns);
    const double tiles = up(rows, 128) / 128 * up(columns, bn) / bn;
    c->fetch += tiles * up(deep, 32) * (128 + bn) * 2;
    c->shared += tiles * up(deep, 32) * (128 + bn + 128 * (bn == 128 ? 2 : 1) + 4 * bn) * 2;
    c->mma += tiles * 128 * bn * up(deep, 32);
}

/* What window_weight does of the weight gradient of a layer of stride 1, as layers.cu decides it; 0 where it does not. */
static int window_weight_cost(struct cost *c, const struct op_conv_weight *o, int n) {
#ifdef NO_WINDOWS
    return 0;
#endif
    const struct map *g = &o->out_gradient;
    if (o->stride != 1 || g->h != o->in.h || g->w != o->in.w || g->h % 8 != 0 || g->w % 8 != 0) return 0;
    const int bn = tile_columns(map_stored(g)), taps = o->k * o->k, eights = map_stored(&o->in) / 8 * taps;
    const int rows_most = 8 * (bn == 32 ? 8 : bn == 48 || bn == 96 ? 6 : bn == 64 || bn == 128 ? 5 : 4);
    const int groups = (eights + rows_most - 1) / rows_most, each = (eights + groups - 1) / groups;
    const int w = g->w % 16 == 0 ? 16 : 8, h = 8, per = 128 / (w * h);
    const double tiles = up(n, per) / per * (g->w / w) * (g->h / h), columns = up(map_stored(g), bn) / bn;
    for (int begin = 0; begin < eights; begin += each) {
        const int end = begin + each < eights ? begin + each : eights;
        const double chunks = (end - 1) / taps - begin / taps + 1;
        const double in = per * (w + o->k - 1) * (h + o->k - 1) * chunks * 16 + 128.0 * bn * 2;
        c->fetch += tiles * columns * in;
        /* Each warp reads its own rows, and all the columns of its side. */
        c->shared += tiles * columns * (in + 128.0 * 2 * ((end - begin) * 8 * (bn > 80 ? 2 : 1) + 4 * bn));
        c->mma += tiles * columns * 128 * up(end - begin, 2) * 8 * bn;
    }
    return 1;
}

/* What window_product does of a convolution of stride 1 on maps whose sides are multiples of eight, as layers.cu
 * decides it: 0 where it does not. */
struct window {
    double tiles;
    int log_w, log_h, per, columns; /* of a tile */
};
static int window_of(struct window *w, int k, int stride, const struct map *to, int columns, int n) {
#ifdef NO_WINDOWS
    return 0;
#endif
    if (k == 1 || stride != 1 || to->h % 8 != 0 || to->w % 8 != 0) return 0;
    w->log_w = to->w % 16 == 0 ? 4 : 3;
    w->log_h = to->h % 16 == 0 ? 4 : 3;
    w->per = 256 >> (w->log_w + w->log_h);
    const int tiles = (n + w->per - 1) / w->per * (to->w >> w->log_w) * (to->h >> w->log_h);
    if ((to->w >> w->log_w) * (to->h >> w->log_h) > 1 && n % w->per != 0) return 0;
    static const int widths[] = {128, 96, 80, 64, 48, 32};
    long least = 1L << 60;
    for (int i = 0; i < 6; i++) {
        const int blocks = tiles * ((columns + widths[i] - 1) / widths[i]);
        const long cost = (long)((blocks + MULTIPROCESSORS - 1) / MULTIPROCESSORS) * (widths[i] + 24);
        if (cost < least) {
            w->columns = widths[i];
            least = cost;
        }
    }
    w->tiles = tiles * up(columns, w->columns) / w->columns;
    return 1;
}
/* One source of it: `stored` channels through k x k taps, in groups of at most 5 eights. */
static void window_cost(struct cost *c, const struct window *w, int k, int stored) {
    const int chunks = stored / 8, groups = (chunks + 4) / 5, each = (chunks + groups - 1) / groups;
    double slabs = 0;
    for (int left = chunks; left > 0; left -= each) slabs += up(k * k * (left < each ? left : each), 4) / 4;
    const double in = w->tiles * (w->per * ((1 << w->log_w) + k - 1) * ((1 << w->log_h) + k - 1) * stored * 2.0 +
                                  slabs * 32 * w->columns * 2);
    c->fetch += in;
    c->shared += in + w->tiles * slabs * 32 * (256 * (w->columns > 80 ? 2 : 1) + 4 * w->columns) * 2;
    c->mma += w->tiles * 256 * w->columns * slabs * 32;
}

/* Is `l` the 1x1 convolution that the result of the one before is added to, so that one kernel makes both? */
static int is_second(const struct op *before, const struct op *l, int n) {
    const struct op_conv *o = &before->conv, *s = &l->conv;
    struct window w;
    return before->kind == OP_CONV && l->kind == OP_CONV && s->k == 1 && s->stride == 1 && s->act == ACT_LINEAR &&
           o->out.at != NULL && s->add.at == o->out.at && o->dropped.at == NULL && o->add.at == NULL && o->bn == NULL &&
           window_of(&w, o->k, o->stride, &o->out, map_stored(&o->out), n);
}

/* Of the i-th operation. */
static struct cost cost_of(const struct program *program, int i, int n) {
    const struct op *op = &program->ops[i];
    const struct parameters *p = program->parameters;
    struct cost c = {.kernels = 1};
    struct window w;
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
            c.kernels = o->bn != NULL ? 2 : 1;
            if (i > 0 && is_second(op - 1, op, n)) { /* its kernel is the one before's, whose result stays there */
                window_of(&w, op[-1].conv.k, 1, to, map_stored(to), n);
                window_cost(&c, &w, 1, map_stored(&o->in));
                c.maps -= bytes_of(&o->add, n);
                c.kernels--;
            } else if (window_of(&w, o->k, o->stride, to, map_stored(to), n)) {
                window_cost(&c, &w, o->k, map_stored(&o->in));
            } else {
                product_cost(&c, (double)n * to->h * to->w, map_stored(to), taps * map_stored(&o->in));
            }
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
            if (window_of(&w, o->k, o->stride, &o->gradient, map_stored(&o->gradient), n)) {
                window_cost(&c, &w, o->k, map_stored(&o->out_gradient));
            } else {
                product_cost(&c, (double)n * o->gradient.h * o->gradient.w, map_stored(&o->gradient),
                             taps * map_stored(&o->out_gradient) / (o->stride * o->stride));
            }
            c.kernels = o->bn != NULL ? 2 : 1;
            break;
        }
        case OP_CONV_WEIGHT: {
            const struct op_conv_weight *o = &op->conv_weight;
            const double rows = o->k * o->k * map_stored(&o->in);
            const double pixels = (double)n * o->out_gradient.h * o->out_gradient.w;
            c.maps = bytes_of(&o->in, n) + bytes_of(&o->out_gradient, n) + rows * map_stored(&o->out_gradient) * 4;
            c.macs = pixels * o->k * o->k * real_of(&o->in) * real_of(&o->out_gradient);
            if (!window_weight_cost(&c, o, n)) product_cost(&c, rows, map_stored(&o->out_gradient), pixels);
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

/* No kernel can be faster than its tightest ceiling. */
static double seconds_of(const struct cost *c, const struct ceilings *at) {
    double s = c->maps / at->memory;
    if (c->fetch / at->fetch > s) s = c->fetch / at->fetch;
    if (c->shared / at->shared > s) s = c->shared / at->shared;
    if (2 * c->mma / at->flops > s) s = 2 * c->mma / at->flops;
    return s + c->kernels * at->launch;
}
#endif
