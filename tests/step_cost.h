/* step_cost.h - what the operations of a step must move and multiply, from their shapes, and what the kernels of
 * layers_kernels.cuh do. For bench.c.
 *
 * maps: bytes of each map that an operation touches, once: its floor in device memory. fetch: what the blocks fetch
 * into shared memory through the caches, every tile's operands. macs: useful multiply-adds; mma: with the padding of
 * tiles. */
#ifndef STEP_COST_H
#define STEP_COST_H
#include "../layers.h"

/* What a machine can do at the most: bytes a second from memory, and fetched by blocks through the caches; flops a
 * second; and the least time between two kernels that wait for one another. */
struct ceilings {
    double memory, fetch, flops, launch;
};

struct cost {
    double maps, fetch, macs, mma;
    int kernels;
};

static void cost_add(struct cost *to, const struct cost *c) {
    to->maps += c->maps;
    to->fetch += c->fetch;
    to->macs += c->macs;
    to->mma += c->mma;
    to->kernels += c->kernels;
}

static double bytes_of(const struct map *m, int n) {
    return m->at == NULL ? 0 : (double)n * m->h * m->w * map_stored(m) * (m->wide ? 4 : 2);
}
static double real_of(const struct map *m) { return (double)m->parts * m->width; }

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

/* No kernel can be faster than its tightest ceiling. */
static double seconds_of(const struct cost *c, const struct ceilings *at) {
    double s = c->maps / at->memory;
    if (c->fetch / at->fetch > s) s = c->fetch / at->fetch;
    if (2 * c->mma / at->flops > s) s = 2 * c->mma / at->flops;
    return s + c->kernels * at->launch;
}
#endif
