/* step_cost.h - what the operations of a step must move and multiply, from their shapes, and what the kernels of
 * layers_product.cuh and layers_window.cuh do. For bench.c.
 *
 * maps: bytes of each map that an operation touches, once. memory: of these, what goes to and from memory behind the
 * second-level cache (step_cache.h), and all of an optimiser's. fetch: what the blocks fetch
 * into shared memory through the caches, every tile's operands; shared: bytes into shared memory and, by every warp
 * that wants them, out of it. macs: useful multiply-adds; mma, wgmma: with the padding of tiles, by mma.sync and by
 * Hopper's own instruction. partials: sums of parts of a
 * weight gradient, written when the parts are done and then read to be added up: through the second-level cache.
 *
 * How the products are made: by taps, every one of which fetches its operands (fp32, and whatever does not suit
 * windows); by windows; those of a residual unit in one kernel; and windows by wgmma. The CUDA device does all of it in
 * bf16. */
#ifndef STEP_COST_H
#define STEP_COST_H
#include "../layers.h"

/* What a machine can do at the most: bytes a second from memory, fetched by blocks through the caches, through shared
 * memory, and through the second-level cache; flops a second, and of mma.sync; and the least time between two kernels
 * that wait for one another. */
struct ceilings {
    double memory, fetch, shared, level2, flops, mma_sync, launch;
    double cache; /* bytes of maps that the second-level cache still has when they are wanted again, about */
};

enum making { BY_TAPS, BY_WINDOWS, IN_PAIRS, BY_WGMMA };

struct cost {
    double maps, memory, fetch, shared, partials, macs, mma, wgmma;
    int kernels;
};

static void cost_add(struct cost *to, const struct cost *c) {
    to->maps += c->maps;
    to->memory += c->memory;
    to->fetch += c->fetch;
    to->shared += c->shared;
    to->partials += c->partials;
    to->macs += c->macs;
    to->mma += c->mma;
    to->wgmma += c->wgmma;
    to->kernels += c->kernels;
}

static double bytes_of(const struct map *m, int n) {
    return m->at == NULL ? 0 : (double)n * m->h * m->w * map_stored(m) * (m->wide ? 4 : 2);
}
static double real_of(const struct map *m) { return (double)m->parts * m->width; }

enum { MULTIPROCESSORS = 132 }; /* an H200's */

/* The tile widths of layers.cu. */
static int tile_columns(int columns) {
    static const int widths[] = {128, 80, 64, 48, 32};
    int best = 0, least = 1 << 30;
    for (int i = 0; i < 5; i++) {
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

/* Parts that a weight gradient is summed in: by so many blocks each, of so many units of pixels. As in layers.cu. */
static double parts_of(double blocks, double units, double most) {
    double parts = up(2 * MULTIPROCESSORS, blocks) / blocks;
    if (parts > most) parts = most;
    const double each = up(units, parts) / parts;
    return up(units, each) / each;
}

/* What window_weight does of a weight gradient, as layers.cu decides it; 0 where it does not. */
static int window_weight_cost(struct cost *c, const struct op_conv_weight *o, int n) {
    const struct map *g = &o->out_gradient;
    if (o->stride != 1 || g->h != o->in.h || g->w != o->in.w || g->h % 8 != 0 || g->w % 8 != 0) return 0;
    const int bn = tile_columns(map_stored(g)), taps = o->k * o->k, eights = map_stored(&o->in) / 8 * taps;
    const int rows_most = 8 * (bn == 32 ? 8 : bn == 48 ? 6 : bn == 64 || bn == 128 ? 5 : 4);
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
    c->partials += parts_of(groups * columns, tiles, (int)((tiles + 1) / 2)) * eights * 8 * map_stored(g) * 4 * 2;
    return 1;
}

/* What window_product does of a convolution of stride 1 on maps whose sides are multiples of eight, as layers.cu
 * decides it: 0 where it does not. */
struct window {
    double tiles;
    int log_w, log_h, per, columns, wgmma; /* of a tile */
};
static int window_of(struct window *w, int k, int stride, const struct map *to, int columns, int n,
                     enum making making) {
    if (k == 1 || stride != 1 || to->h % 8 != 0 || to->w % 8 != 0) return 0;
    w->log_w = to->w % 16 == 0 ? 4 : 3;
    w->log_h = to->h % 16 == 0 ? 4 : 3;
    w->per = 256 >> (w->log_w + w->log_h);
    const int tiles = (n + w->per - 1) / w->per * (to->w >> w->log_w) * (to->h >> w->log_h);
    if ((to->w >> w->log_w) * (to->h >> w->log_h) > 1 && n % w->per != 0) return 0;
    static const int of_mma[] = {80, 48, 0}, of_wgmma[] = {80, 72, 64, 56, 48, 40, 32, 24, 0};
    w->wgmma = making == BY_WGMMA;
    const int *const widths = w->wgmma ? of_wgmma : of_mma;
    long least = 1L << 60;
    for (int i = 0; widths[i] > 0; i++) {
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
    const int chunks = stored / 8, groups = (chunks + 4) / 5, each = (chunks + groups - 1) / groups, taps = k * k;
    double steps = 0; /* of 16 of the depth, in whole slabs */
    for (int left = chunks; left > 0; left -= each) {
        const int here = left < each ? left : each;
        steps += up(here / 2 * taps + (here % 2 == 1 ? (taps + 1) / 2 : 0), w->wgmma ? 3 : 2);
    }
    const double in = w->tiles * (w->per * ((1 << w->log_w) + k - 1) * ((1 << w->log_h) + k - 1) * stored * 2.0 +
                                  steps * 16 * w->columns * 2);
    c->fetch += in;
    if (w->wgmma) { /* each square of 64 rows reads its own and all columns */
        c->shared += in + w->tiles * steps * 4 * (64 + w->columns) * 16 * 2;
        c->wgmma += w->tiles * 256 * w->columns * steps * 16;
    } else {
        c->shared += in + w->tiles * steps * 16 * (256 * (w->columns > 80 ? 2 : 1) + 4 * w->columns) * 2;
        c->mma += w->tiles * 256 * w->columns * steps * 16;
    }
}

/* Are the two made by one kernel: a residual unit's convolution, whose tiles are *w, and the 1x1 one that is added? */
static int is_pair(struct window *w, const struct op *first, const struct op *second, int n, enum making making) {
    if (first->kind == OP_CONV && second->kind == OP_CONV) {
        const struct op_conv *o = &first->conv, *l = &second->conv;
        return l->k == 1 && l->stride == 1 && l->act == ACT_LINEAR && o->out.at != NULL && l->add.at == o->out.at &&
               o->dropped.at == NULL && o->add.at == NULL && o->bn == NULL &&
               window_of(w, o->k, o->stride, &o->out, map_stored(&o->out), n, making);
    }
    if (first->kind == OP_CONV_DATA && second->kind == OP_CONV_DATA) {
        const struct op_conv_data *o = &first->conv_data, *l = &second->conv_data;
        return l->k == 1 && l->stride == 1 && l->add.at == o->gradient.at && o->add.at == NULL &&
               o->act == ACT_LINEAR && o->bn == NULL &&
               window_of(w, o->k, o->stride, &o->gradient, map_stored(&o->gradient), n, making);
    }
    return 0;
}

static struct cost cost_alone(const struct program *program, const struct op *op, int n, enum making making) {
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
            c.kernels = o->bn != NULL || o->in.h == 1 ? 2 : 1; /* one more for its statistics, or behind cuBLAS */
            if (making != BY_TAPS && window_of(&w, o->k, o->stride, to, map_stored(to), n, making)) {
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
            c.kernels = o->bn != NULL || o->out_gradient.h == 1 ? 2 : 1;
            if (making != BY_TAPS &&
                window_of(&w, o->k, o->stride, &o->gradient, map_stored(&o->gradient), n, making)) {
                window_cost(&c, &w, o->k, map_stored(&o->out_gradient));
            } else {
                product_cost(&c, (double)n * o->gradient.h * o->gradient.w, map_stored(&o->gradient),
                             taps * map_stored(&o->out_gradient) / (o->stride * o->stride));
            }
            break;
        }
        case OP_CONV_WEIGHT: {
            const struct op_conv_weight *o = &op->conv_weight;
            const double rows = o->k * o->k * map_stored(&o->in);
            const double pixels = (double)n * o->out_gradient.h * o->out_gradient.w;
            c.maps = bytes_of(&o->in, n) + bytes_of(&o->out_gradient, n) + rows * map_stored(&o->out_gradient) * 4;
            c.macs = pixels * o->k * o->k * real_of(&o->in) * real_of(&o->out_gradient);
            if (making == BY_TAPS || !window_weight_cost(&c, o, n)) {
                const int stored = map_stored(&o->out_gradient), bn = tile_columns(stored);
                product_cost(&c, rows, stored, pixels);
                if (o->in.h > 1) /* else cuBLAS's */
                    c.partials += parts_of(up(rows, 128) / 128 * up(stored, bn) / bn, up(pixels, 32) / 32,
                                           up(pixels, 256) / 256) *
                                  rows * stored * 4 * 2;
            }
            c.kernels = 2;
            break;
        }
        case OP_APPLY: {
            const struct op_apply *o = &op->apply;
            c.maps = bytes_of(&o->in, n) + bytes_of(&o->out, n) + bytes_of(&o->dropped, n);
            break;
        }
        case OP_SUMS:
            c.maps = bytes_of(&op->sums.x, n) + bytes_of(&op->sums.out_gradient, n);
            c.kernels = 2;
            break;
        case OP_APPLY_GRADIENT: {
            const struct op_apply_gradient *o = &op->apply_gradient;
            c.maps = bytes_of(&o->x, n) + bytes_of(&o->out_gradient, n) + bytes_of(&o->gradient, n) +
                     bytes_of(&o->branch, n) + bytes_of(&o->branch_y, n);
            break;
        }
        case OP_OPTIMISE:
            c.maps = (double)p->n * 4 * (p->first_moment != NULL ? 7 : 5) + (double)p->n_decayed * 2;
            c.kernels = 2; /* the step's end too */
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

/* Of the i-th operation; the first of two in one kernel has the cost of both. */
static struct cost cost_of(const struct program *program, int i, int n, enum making making) {
    const struct op *const op = &program->ops[i];
    struct window w;
    if (making >= IN_PAIRS && i > 0 && is_pair(&w, op - 1, op, n, making)) return (struct cost){0};
    struct cost c = cost_alone(program, op, n, making);
    if (making >= IN_PAIRS && i + 1 < program->n_ops && is_pair(&w, op, op + 1, n, making)) {
        const struct cost second = cost_alone(program, op + 1, n, making);
        const int back = op->kind == OP_CONV_DATA;
        const struct map *const in = back ? &op[1].conv_data.out_gradient : &op[1].conv.in;
        /* The sum so far stays in registers; forward it is stored besides, for the way back. */
        c.maps += second.maps - bytes_of(back ? &op->conv_data.gradient : &op->conv.out, n) * (back ? 2 : 1);
        c.macs += second.macs;
        c.kernels = second.kernels;
        window_cost(&c, &w, 1, map_stored(in));
    }
    return c;
}

static double products_seconds(const struct cost *c, const struct ceilings *at) {
    return 2 * c->mma / at->mma_sync + 2 * c->wgmma / at->flops;
}

/* No kernel can be faster than its tightest ceiling. */
static double seconds_of(const struct cost *c, const struct ceilings *at) {
    double s = c->memory / at->memory;
    if (c->maps / at->level2 > s) s = c->maps / at->level2;
    if (c->fetch / at->fetch > s) s = c->fetch / at->fetch;
    if (c->shared / at->shared > s) s = c->shared / at->shared;
    const double products = products_seconds(c, at);
    if (products > s) s = products;
    return s + c->partials / at->level2 + c->kernels * at->launch;
}
#endif
