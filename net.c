/* net.c - from a configuration to operations, memory and epochs.
 *
 * A `struct builder` walks the configuration once for each program. Going forward it emits operations and keeps a
 * tape; for a training program the tape is then walked backwards. A `struct node` is a map that layers read, with the
 * way it was made: the gradient that arrives at it can then be finished (dropout mask, residual sum, activation,
 * sums of batch normalisation) by the very operation that computes it, so no map is passed over just for that.
 * While a program is built, map.at holds the number of a tensor (from 1); when its operations are all known, so are
 * the tensors' lifetimes: places are planned and the numbers replaced by addresses. Nothing is allocated later.
 *
 * Main invariant: the three walks (declare, train, judge) meet parameters, normalisations and dropouts in the same
 * order, so a counter identifies them. */
#include "net.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"

#define L2_FACTOR 0.0007
#define LEARNING_RATE 0.001
#define MAX_NODES 1024
#define MAX_TENSORS 2048
#define MAX_BN 256

static int round_up(int n) { return (n + LAYERS_ALIGN - 1) / LAYERS_ALIGN * LAYERS_ALIGN; }

/* ========================================== the net =========================================== */

/* A parameter (or moving average) in its logical shape, and where its elements stand in the flat buffers: row i of
 * the logical matrix [rows][columns] is stored at offset + stored_row(i) * stride + column. */
struct slot {
    char name[56];
    int dims, shape[4];
    int taps, parts, width; /* rows = taps * parts * width; parts padded */
    int columns, stride, column;
    size_t offset;
    int moving;
    int fan_in, fan_out; /* > 0: a kernel, Glorot-uniform */
    float start;         /* else: its first value */
};

struct tensor_plan {
    size_t elements, bytes, offset; /* elements: of one image; bytes: of a full batch */
    int wide, first, last;          /* operations that touch it */
};

struct layer_plan {
    char name[56];
    struct map map;
};

struct plan {
    struct program program;
    int room;
    int n_tensors, n_layers;
    struct tensor_plan tensors[MAX_TENSORS];
    struct layer_plan layers[MAX_NODES];
    int pixel_op, loss_op;
};

struct net {
    struct net_config config;
    struct net_options options;
    struct device *device;
    const struct net_images *train, *judge;
    struct arena arena;
    int n_slots, slot_room;
    struct slot *slots;
    int n_bn;
    struct bn bn[MAX_BN];
    float *bn_block;
    struct parameters parameters;
    size_t trainable;
    double multiply_adds;
    int batch; /* the largest */
    size_t map_bytes;
    char *maps;
    uint32_t *order; /* on the device */
    struct step *step;
    struct tally *tally;
    struct step now; /* the host's copy of what goes on from epoch to epoch */
    struct plan training, judging;
    struct program penalty; /* the L2 part of the loss, which in training comes with the optimiser's pass */
    struct op penalty_op;
};

/* ======================================== the builder ========================================= */

enum walk { WALK_DECLARE, WALK_TRAIN, WALK_JUDGE };

/* A map that layers read, and how it was made. */
struct node {
    struct map value, dropped; /* before and after its dropout; without dropout both are the one map */
    struct drop drop;
    enum activation act; /* value = act(convolution) */
    int add;             /* value = convolution + value of this node; or -1 */
    struct bn *bn;       /* value = bn(x), not pooled: the sums can be made with the gradient */
    struct map bn_x;
    int summed;                  /* they have been */
    int consumers;               /* whose gradient is still to come, going backwards */
    struct map gradient, branch; /* branch: the gradient for `add` */
};

enum tape_kind { TAPE_CONV, TAPE_APPLY, TAPE_JOIN };
struct tape {
    enum tape_kind kind;
    int in, out, dropped, flat;
    int k, stride, pad;
    size_t weight, bias;
    struct bn *bn;
    enum pool pool;
    int branches[3];
    char name[56];
};

struct builder {
    struct net *net;
    struct plan *plan;
    enum walk walk;
    struct error *e;
    int failed;
    int n_slots, n_bn, n_dropouts, n_nodes, n_tape;
    size_t n_decayed, n_plain, n_moving; /* declared so far */
    struct node nodes[MAX_NODES];
    struct tape tape[MAX_NODES];
    struct op no_op; /* where a builder that has failed writes */
    struct tape no_tape;
};

static void fail(struct builder *b, int kind) {
    if (!b->failed) b->failed = kind;
}

static struct op *emit(struct builder *b, enum op_kind kind, const char *layer) {
    struct program *p = &b->plan->program;
    if (b->failed) return &b->no_op;
    if (p->n_ops == b->plan->room) {
        const int room = b->plan->room == 0 ? 128 : 2 * b->plan->room;
        struct op *ops = mem_grow(p->ops, (size_t)room * sizeof *ops);
        if (ops == NULL) {
            fail(b, error_memory(b->e, (size_t)room * sizeof *ops, "the operations"));
            return &b->no_op;
        }
        p->ops = ops;
        b->plan->room = room;
    }
    struct op *op = &p->ops[p->n_ops++];
    memset(op, 0, sizeof *op);
    op->kind = kind;
    op->layer = arena_string(&b->net->arena, layer, strlen(layer));
    if (op->layer == NULL) fail(b, error_memory(b->e, strlen(layer), "a layer's name"));
    return op;
}

static struct map map_none(void) {
    struct map m;
    memset(&m, 0, sizeof m);
    return m;
}

/* A new tensor of the program, as a whole map. */
static struct map map_new(struct builder *b, int h, int w, int parts, int width, int wide) {
    struct map m = {.h = h, .w = w, .parts = parts, .width = width, .wide = wide};
    m.stride = map_stored(&m);
    if (b->plan->n_tensors == MAX_TENSORS) {
        fail(b, error_set(b->e, ERROR_USER, "the network has too many layers"));
        return m;
    }
    struct tensor_plan *t = &b->plan->tensors[b->plan->n_tensors++];
    *t = (struct tensor_plan){
        .elements = (size_t)h * (size_t)w * (size_t)m.stride, .wide = wide, .first = INT_MAX, .last = -1};
    m.at = (void *)(uintptr_t)b->plan->n_tensors;
    return m;
}

static struct map map_like(struct builder *b, const struct map *m) {
    return map_new(b, m->h, m->w, m->parts, m->width, 0);
}

/* The images of a map as vectors: what a dense layer reads. Only whole maps. */
static struct map map_flat(struct map m) {
    m.parts *= m.h * m.w;
    m.stride *= m.h * m.w;
    m.h = m.w = 1;
    return m;
}

static struct map map_slice(struct map m, int part) {
    m.parts = 1;
    m.first = part * round_up(m.width);
    return m;
}

static void layer_output(struct builder *b, const char *name, const struct map *m) {
    if (m->at == NULL || b->plan->n_layers == MAX_NODES) return;
    struct layer_plan *l = &b->plan->layers[b->plan->n_layers++];
    snprintf(l->name, sizeof l->name, "%s", name);
    l->map = *m;
}

static size_t declare(struct builder *b, struct slot s, const char *layer, const char *what, size_t stored) {
    struct net *net = b->net;
    if (b->failed) return 0;
    if (b->walk != WALK_DECLARE) return net->slots[b->n_slots++].offset;
    if (net->n_slots == net->slot_room) {
        const int room = net->slot_room == 0 ? 128 : 2 * net->slot_room;
        struct slot *slots = mem_grow(net->slots, (size_t)room * sizeof *slots);
        if (slots == NULL) {
            fail(b, error_memory(b->e, (size_t)room * sizeof *slots, "the parameters"));
            return 0;
        }
        net->slots = slots;
        net->slot_room = room;
    }
    snprintf(s.name, sizeof s.name, "%.38s.%s", layer, what);
    /* A head's second matrix stands in the columns of the first's, and takes no room of its own. */
    size_t *n = s.moving ? &b->n_moving : s.fan_in > 0 ? &b->n_decayed : &b->n_plain;
    s.offset = *n - (s.column > 0 ? stored : 0) + (size_t)s.column;
    if (s.column == 0) *n += stored;
    if (!s.moving) {
        size_t count = 1;
        for (int i = 0; i < s.dims; i++) count *= (size_t)s.shape[i];
        net->trainable += count;
    }
    net->slots[net->n_slots++] = s;
    b->n_slots++;
    return 0;
}

static size_t declare_kernel(struct builder *b, const char *layer, int k, const struct map *in, int out, int column,
                             int stride) {
    const int width = in->parts * in->width;
    struct slot s = {.dims = 4, .shape = {k, k, width, out}, .taps = k * k, .parts = in->parts, .width = in->width};
    s.columns = out;
    s.stride = stride;
    s.column = column;
    s.fan_in = k * k * width;
    s.fan_out = k * k * out;
    if (in->h == 1 && in->w == 1 && k == 1) { /* dense */
        s.dims = 2;
        s.shape[0] = width;
        s.shape[1] = out;
    }
    return declare(b, s, layer, "kernel", (size_t)(k * k) * (size_t)map_stored(in) * (size_t)stride);
}

static size_t declare_vector(struct builder *b, const char *layer, const char *what, int n, int column, int stride,
                             float start, int moving) {
    struct slot s = {.dims = 1, .shape = {n}, .taps = 1, .parts = 1, .width = 1, .columns = n, .stride = stride};
    s.column = column;
    s.start = start;
    s.moving = moving;
    return declare(b, s, layer, what, (size_t)stride);
}

static struct bn *bn_new(struct builder *b, int width, int links, const char *first, const char *second) {
    struct net *net = b->net;
    if (b->n_bn == MAX_BN) {
        fail(b, error_set(b->e, ERROR_USER, "the network has too many normalisations"));
        return NULL;
    }
    struct bn *bn = &net->bn[b->n_bn++];
    bn->channels = round_up(width);
    bn->links = links;
    for (int i = 0; i < links; i++) {
        const char *name = i == 0 ? first : second;
        bn->gamma[i] = declare_vector(b, name, "gamma", width, 0, bn->channels, 1, 0);
        bn->beta[i] = declare_vector(b, name, "beta", width, 0, bn->channels, 0, 0);
        bn->moving_mean[i] = declare_vector(b, name, "moving_mean", width, 0, bn->channels, 0, 1);
        bn->moving_variance[i] = declare_vector(b, name, "moving_variance", width, 0, bn->channels, 1, 1);
    }
    if (b->n_bn > net->n_bn) net->n_bn = b->n_bn;
    return bn;
}

/* A new dropout of the network. In a program that judges, or with p = 0, it drops nothing. */
static struct drop drop_new(struct builder *b, double p) {
    struct drop d = {.threshold = (uint32_t)lround(p * 65536)};
    const struct net_options *o = &b->net->options;
    rng_key(o->seed, o->trial, RNG_DROPOUT + (uint32_t)b->n_dropouts++, d.key);
    if (b->walk == WALK_JUDGE || o->no_dropout) d.threshold = 0;
    return d;
}

static int node_new(struct builder *b) {
    if (b->n_nodes == MAX_NODES - 1) {
        fail(b, error_set(b->e, ERROR_USER, "the network has too many layers"));
        return MAX_NODES - 1;
    }
    struct node *n = &b->nodes[b->n_nodes];
    memset(n, 0, sizeof *n);
    n->add = -1;
    return b->n_nodes++;
}

/* What a node keeps of its map. */
enum keep { KEEP_VALUE = 1, KEEP_DROPPED = 2 };

static void node_maps(struct node *n, struct map value, struct map dropped, int keep, struct drop drop) {
    n->drop = drop;
    n->value = map_none();
    n->dropped = map_none();
    if (drop.threshold == 0) {
        n->value = n->dropped = value;
    } else {
        if (keep & KEEP_VALUE) n->value = value;
        if (keep & KEEP_DROPPED) n->dropped = dropped;
    }
}

/* Gives a node new tensors for what it keeps. */
static void node_allocate(struct builder *b, struct node *n, int h, int w, int width, int keep, struct drop drop) {
    struct map value = map_none(), dropped = map_none();
    if ((keep & KEEP_VALUE) || drop.threshold == 0) value = map_new(b, h, w, 1, width, 0);
    if ((keep & KEEP_DROPPED) && drop.threshold != 0) dropped = map_new(b, h, w, 1, width, 0);
    node_maps(n, value, dropped, keep, drop);
}

static struct tape *tape_new(struct builder *b, enum tape_kind kind, const char *name) {
    if (b->n_tape == MAX_NODES) {
        fail(b, error_set(b->e, ERROR_USER, "the network has too many layers"));
        return &b->no_tape;
    }
    struct tape *t = &b->tape[b->n_tape++];
    memset(t, 0, sizeof *t);
    t->kind = kind;
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

/* TensorFlow's SAME: the rows (or columns) of padding before the first. */
static int same_pad(int in, int k, int stride) {
    const int out = (in + stride - 1) / stride;
    const int total = (out - 1) * stride + k - in;
    return total > 0 ? total / 2 : 0;
}

struct conv_layer {
    int in, from_dropped; /* which map of the node it reads */
    int flat;             /* dense: the node's map as vectors */
    int k, stride, width;
    enum activation act;
    int add;       /* node whose value is added; -1 */
    struct bn *bn; /* normalises the output: statistics are wanted */
    int keep;
    struct drop drop;
    const struct map *slice; /* the output goes there; NULL: a new map */
};

static struct map conv_input(const struct builder *b, const struct conv_layer *l) {
    const struct node *n = &b->nodes[l->in];
    const struct map m = l->from_dropped ? n->dropped : n->value;
    return l->flat ? map_flat(m) : m;
}

static int conv_emit(struct builder *b, const char *name, const struct conv_layer *l, struct map out_whole,
                     size_t weight, size_t bias) {
    const struct map in = conv_input(b, l);
    const int h = (in.h + l->stride - 1) / l->stride, w = (in.w + l->stride - 1) / l->stride;
    const int index = node_new(b);
    struct node *n = &b->nodes[index];
    n->act = l->act;
    n->add = l->add;
    if (out_whole.at != NULL) {
        node_maps(n, out_whole, out_whole, l->keep, l->drop);
    } else {
        node_allocate(b, n, h, w, l->width, l->keep, l->drop);
    }
    struct tape *t = tape_new(b, TAPE_CONV, name);
    t->in = l->in;
    t->out = index;
    t->dropped = l->from_dropped;
    t->flat = l->flat;
    t->k = l->k;
    t->stride = l->stride;
    t->pad = same_pad(in.h, l->k, l->stride);
    t->weight = weight;
    /* Behind a linear layer, a normalisation takes the bias out again: its gradient is zero. */
    t->bias = l->bn != NULL && l->act == ACT_LINEAR ? LAYERS_NONE : bias;
    b->nodes[l->in].consumers++;

    struct op_conv *o = &emit(b, OP_CONV, name)->conv;
    o->k = l->k;
    o->stride = l->stride;
    o->pad = t->pad;
    o->act = l->act;
    o->in = in;
    if (l->add >= 0) o->add = b->nodes[l->add].value;
    o->out = n->value;
    if (n->drop.threshold != 0) o->dropped = n->dropped;
    o->drop = n->drop;
    o->weight = weight;
    o->bias = bias;
    o->bn = b->walk == WALK_TRAIN ? l->bn : NULL;
    layer_output(b, name, n->value.at != NULL ? &n->value : &n->dropped);
    return index;
}

static int conv(struct builder *b, const char *name, struct conv_layer l) {
    const struct map in = conv_input(b, &l);
    const int stored = round_up(l.width);
    const size_t weight = declare_kernel(b, name, l.k, &in, l.width, 0, stored);
    const size_t bias = declare_vector(b, name, "bias", l.width, 0, stored, 0, 0);
    const int oh = (in.h + l.stride - 1) / l.stride, ow = (in.w + l.stride - 1) / l.stride;
    if (b->walk == WALK_DECLARE) {
        b->net->multiply_adds += (double)l.k * l.k * in.parts * in.width * l.width * oh * ow;
    }
    return conv_emit(b, name, &l, l.slice != NULL ? *l.slice : map_none(), weight, bias);
}

/* out = dropout(pool(bn(in))). The only reader of `in`. */
static int apply(struct builder *b, const char *name, int in, struct bn *bn, enum pool pool, int keep, struct drop drop,
                 const struct map *slice) {
    const struct map x = b->nodes[in].value;
    const int index = node_new(b);
    struct node *n = &b->nodes[index];
    const int h = pool == POOL_NONE ? x.h : pool == POOL_MAX3 ? (x.h + 1) / 2 : x.h / 2;
    const int w = pool == POOL_NONE ? x.w : pool == POOL_MAX3 ? (x.w + 1) / 2 : x.w / 2;
    if (h < 1 || w < 1) {
        fail(b, error_set(b->e, ERROR_USER,
                          "impossible shape: %s would pool a map of %d x %d; take fewer nb_conv_pool_layers", name, x.h,
                          x.w));
    }
    if (slice != NULL) {
        node_maps(n, *slice, *slice, keep, drop);
    } else {
        node_allocate(b, n, h, w, x.width, keep, drop);
    }
    if (bn != NULL && pool == POOL_NONE) {
        n->bn = bn;
        n->bn_x = x;
    }
    struct tape *t = tape_new(b, TAPE_APPLY, name);
    t->in = in;
    t->out = index;
    t->bn = bn;
    t->pool = pool;
    t->pad = pool == POOL_MAX3 ? same_pad(x.h, 3, 2) : 0;
    b->nodes[in].consumers++;
    if (bn != NULL) {
        struct op_bn *o = &emit(b, OP_BN, name)->bn;
        o->bn = bn;
        o->training = b->walk == WALK_TRAIN;
    }
    struct op_apply *o = &emit(b, OP_APPLY, name)->apply;
    o->in = x;
    o->out = n->value;
    if (n->drop.threshold != 0) o->dropped = n->dropped;
    o->bn = bn;
    o->pool = pool;
    o->pad = t->pad;
    o->drop = n->drop;
    layer_output(b, name, n->value.at != NULL ? &n->value : &n->dropped);
    return index;
}

/* SEED.md's inception: three branches, joined on channels behind one dropout. */
static int inception(struct builder *b, int block, int in, int n, double p) {
    const struct net_config *c = &b->net->config;
    const int a = (int)(0.33 * n + 1), m = (int)(0.4 * n + 1);
    const struct map x = b->nodes[in].value;
    const struct drop drop = drop_new(b, p), none = {.threshold = 0};
    struct map join = map_new(b, (x.h + 1) / 2, (x.w + 1) / 2, 3, m, 0), slice[3];
    char name[64];
    int ends[3];
    for (int i = 0; i < 3; i++) slice[i] = map_slice(join, i);
    struct conv_layer l = {.in = in, .k = 1, .stride = 1, .act = c->activation, .add = -1, .keep = KEEP_VALUE};

    for (int branch = 1; branch <= 2; branch++) { /* (1) and (2) end in the same strided convolution */
        int from = in;
        if (branch == 2) {
            l.width = a;
            snprintf(name, sizeof name, "block%d.branch2.conv1", block);
            l.in = conv(b, name, l);
            l.k = 3;
            l.width = m;
            snprintf(name, sizeof name, "block%d.branch2.conv2", block);
            from = conv(b, name, l);
        }
        struct conv_layer s = {.in = from, .k = 3, .stride = 2, .width = m, .act = ACT_LINEAR, .add = -1};
        snprintf(name, sizeof name, "block%d.branch%d.bn", block, branch);
        struct bn *bn = c->use_bn ? bn_new(b, m, 1, name, NULL) : NULL;
        char reduce[64];
        snprintf(reduce, sizeof reduce, "block%d.branch%d.reduce", block, branch);
        s.bn = bn;
        s.keep = bn != NULL ? KEEP_VALUE : KEEP_DROPPED;
        s.drop = bn != NULL ? none : drop;
        s.slice = bn != NULL ? NULL : &slice[branch - 1];
        ends[branch - 1] = conv(b, reduce, s);
        if (bn != NULL) {
            ends[branch - 1] = apply(b, name, ends[branch - 1], bn, POOL_NONE, KEEP_DROPPED, drop, &slice[branch - 1]);
        }
    }
    l.in = in;
    l.k = 1;
    l.width = m;
    snprintf(name, sizeof name, "block%d.branch3.conv", block);
    const int third = conv(b, name, l);
    snprintf(name, sizeof name, "block%d.branch3.pool", block);
    ends[2] = apply(b, name, third, NULL, POOL_MAX3, KEEP_DROPPED, drop, &slice[2]);

    const int index = node_new(b);
    struct node *node = &b->nodes[index];
    node_maps(node, join, join, KEEP_DROPPED, drop);
    struct tape *t = tape_new(b, TAPE_JOIN, "join");
    t->out = index;
    memcpy(t->branches, ends, sizeof ends);
    return index;
}

/* The two-link normalisation at the end of the residual units; the first link is the last unit's own where use_BN. */
static int residual_units(struct builder *b, int block, int x, int n, double p, enum pool pool, struct drop end_drop) {
    const struct net_config *c = &b->net->config;
    const struct drop none = {.threshold = 0};
    char name[64], first[64], second[64];
    for (int u = 1; u <= c->residual; u++) {
        const int last = u == c->residual;
        snprintf(name, sizeof name, "block%d.res%d.conv", block, u);
        const int branch = conv(b, name,
                                (struct conv_layer){.in = x,
                                                    .from_dropped = 1,
                                                    .k = c->res_kernel,
                                                    .stride = 1,
                                                    .width = n,
                                                    .act = c->activation,
                                                    .add = -1,
                                                    .keep = KEEP_VALUE});
        snprintf(first, sizeof first, c->use_bn ? "block%d.res%d.bn" : "block%d.res.bn1", block, u);
        snprintf(second, sizeof second, c->use_bn ? "block%d.res.bn" : "block%d.res.bn2", block);
        struct bn *bn = c->use_bn || last ? bn_new(b, n, last ? 2 : 1, first, second) : NULL;
        const struct drop drop = last ? none : drop_new(b, p);
        snprintf(name, sizeof name, "block%d.res%d.linear", block, u);
        const int z = conv(b, name,
                           (struct conv_layer){.in = x,
                                               .k = 1,
                                               .stride = 1,
                                               .width = n,
                                               .act = ACT_LINEAR,
                                               .add = branch,
                                               .bn = bn,
                                               .keep = bn != NULL ? KEEP_VALUE : KEEP_VALUE | KEEP_DROPPED,
                                               .drop = bn != NULL ? none : drop});
        if (bn == NULL) {
            x = z;
        } else if (!last) {
            x = apply(b, first, z, bn, POOL_NONE, KEEP_VALUE | KEEP_DROPPED, drop, NULL);
        } else {
            x = apply(b, second, z, bn, pool, pool == POOL_NONE ? KEEP_VALUE : KEEP_DROPPED, end_drop, NULL);
        }
    }
    return x;
}

/* One block: convolution, residual units, pooling, dropout. Returns the node whose `dropped` the next layer reads. */
static int block(struct builder *b, int i, int x, int n) {
    const struct net_config *c = &b->net->config;
    const int number = i + 1, residual = c->residual > 0 && i >= c->residual_start;
    const struct drop none = {.threshold = 0};
    const double p = c->conv_dropout;
    const enum pool pool = c->pooling == POOLING_MAX ? POOL_MAX2 : c->pooling == POOLING_AVG ? POOL_AVG2 : POOL_NONE;
    char name[64];
    /* Where pooling is of the simple kind, it rides on the last pass over the block's map, with the block's dropout. */
    snprintf(name, sizeof name, "block%d.bn", number);
    struct bn *bn = c->use_bn ? bn_new(b, n, 1, name, NULL) : NULL;
    const struct drop unit_drop = residual ? drop_new(b, p) : none;
    const struct drop end_drop = pool != POOL_NONE ? drop_new(b, p) : none;
    const int keep = residual ? KEEP_VALUE | KEEP_DROPPED : KEEP_VALUE;
    snprintf(name, sizeof name, "block%d.conv", number);
    x = conv(b, name,
             (struct conv_layer){.in = x,
                                 .from_dropped = 1,
                                 .k = c->conv_kernel,
                                 .stride = 1,
                                 .width = n,
                                 .act = c->activation,
                                 .add = -1,
                                 .bn = bn,
                                 .keep = bn != NULL ? KEEP_VALUE : keep,
                                 .drop = bn != NULL ? none : unit_drop});
    const int pool_here = pool != POOL_NONE && !residual;
    if (bn != NULL || pool_here) {
        snprintf(name, sizeof name, bn != NULL ? "block%d.bn" : "block%d.pool", number);
        x = apply(b, name, x, bn, pool_here ? pool : POOL_NONE, pool_here ? KEEP_DROPPED : keep,
                  pool_here ? end_drop : unit_drop, NULL);
    }
    if (residual) x = residual_units(b, number, x, n, p, pool, end_drop);
    if (c->pooling == POOLING_INCEPTION) return inception(b, number, x, n, p);
    if (c->pooling == POOLING_ALL_CONV) {
        const struct drop drop = drop_new(b, p);
        snprintf(name, sizeof name, "block%d.reduce.bn", number);
        struct bn *reduce = c->use_bn ? bn_new(b, n, 1, name, NULL) : NULL;
        char conv_name[64];
        snprintf(conv_name, sizeof conv_name, "block%d.reduce", number);
        x = conv(b, conv_name,
                 (struct conv_layer){.in = x,
                                     .k = 3,
                                     .stride = 2,
                                     .width = n,
                                     .act = ACT_LINEAR,
                                     .add = -1,
                                     .bn = reduce,
                                     .keep = reduce != NULL ? KEEP_VALUE : KEEP_DROPPED,
                                     .drop = reduce != NULL ? none : drop});
        if (reduce != NULL) x = apply(b, name, x, reduce, POOL_NONE, KEEP_DROPPED, drop, NULL);
    }
    return x;
}

/* Both heads are one dense layer: the coarse head's columns stand behind the fine head's. */
static int heads(struct builder *b, int in) {
    const struct net_options *o = &b->net->options;
    struct conv_layer l = {
        .in = in, .from_dropped = 1, .flat = 1, .k = 1, .stride = 1, .act = ACT_LINEAR, .add = -1, .keep = KEEP_VALUE};
    const struct map x = conv_input(b, &l);
    const int column = round_up(o->fine);
    l.width = o->coarse > 0 ? column + o->coarse : o->fine;
    const int stored = round_up(l.width);
    const size_t weight = declare_kernel(b, "fine", 1, &x, o->fine, 0, stored);
    const size_t bias = declare_vector(b, "fine", "bias", o->fine, 0, stored, 0, 0);
    if (o->coarse > 0) {
        declare_kernel(b, "coarse", 1, &x, o->coarse, column, stored);
        declare_vector(b, "coarse", "bias", o->coarse, column, stored, 0, 0);
    }
    if (b->walk == WALK_DECLARE) b->net->multiply_adds += (double)x.parts * x.width * (o->fine + o->coarse);
    return conv_emit(b, "logits", &l, map_new(b, 1, 1, 1, l.width, 1), weight, bias);
}

/* ---- backwards ---- */

/* Fills what finishes the gradient of node n: the activation that made it, the residual branch, the sums. */
static void finish_activation(struct node *n, enum activation *act, struct map *y, float *y_scale) {
    if (n->act == ACT_LINEAR) return;
    *act = n->act;
    const int dropped = n->value.at == NULL;
    *y = dropped ? n->dropped : n->value;
    if (y_scale != NULL) *y_scale = dropped ? (float)(65536 - n->drop.threshold) / 65536.0f : 1.0f;
}

static void finish_branch(struct builder *b, struct node *n, enum activation *act, struct map *y, struct map *branch) {
    if (n->add < 0) return;
    n->branch = map_like(b, &n->value);
    *branch = n->branch;
    *act = b->nodes[n->add].act;
    *y = b->nodes[n->add].value;
}

static void weight_backward(struct builder *b, const struct tape *t) {
    struct node *out = &b->nodes[t->out], *in = &b->nodes[t->in];
    const struct map x = t->dropped ? in->dropped : in->value;
    if (out->add >= 0) b->nodes[out->add].gradient = out->branch;

    struct op_conv_weight *w = &emit(b, OP_CONV_WEIGHT, t->name)->conv_weight;
    w->k = t->k;
    w->stride = t->stride;
    w->pad = t->pad;
    w->in = t->flat ? map_flat(x) : x;
    w->out_gradient = out->gradient;
    w->weight = t->weight;
    w->bias = t->bias;
}

static void data_backward(struct builder *b, const struct tape *t) {
    struct node *out = &b->nodes[t->out], *in = &b->nodes[t->in];
    const struct map x = t->dropped ? in->dropped : in->value;
    if (t->in == 0) return; /* the images need no gradient */

    const int first = in->gradient.at == NULL, last = --in->consumers == 0;
    if (first) in->gradient = map_like(b, &x);
    struct op_conv_data o;
    memset(&o, 0, sizeof o);
    o.k = t->k;
    o.stride = t->stride;
    o.pad = t->pad;
    o.weight = t->weight;
    o.out_gradient = out->gradient;
    o.gradient = in->gradient;
    if (!first) o.add = in->gradient;
    if (t->dropped) o.drop = in->drop;
    o.y_scale = 1;
    if (last) {
        finish_activation(in, &o.act, &o.y, &o.y_scale);
        finish_branch(b, in, &o.branch_act, &o.branch_y, &o.branch);
        if (in->bn != NULL && !t->flat) { /* as vectors, the map's channels are not the normalisation's */
            o.bn = in->bn;
            o.bn_x = in->bn_x;
            in->summed = 1;
        }
    }
    if (t->flat) {
        o.gradient = map_flat(o.gradient);
        if (o.add.at != NULL) o.add = map_flat(o.add);
        if (o.y.at != NULL) o.y = map_flat(o.y);
        if (o.branch.at != NULL) o.branch = map_flat(o.branch);
        if (o.branch_y.at != NULL) o.branch_y = map_flat(o.branch_y);
    }
    emit(b, OP_CONV_DATA, t->name)->conv_data = o;
}

static void apply_backward(struct builder *b, const struct tape *t) {
    struct node *out = &b->nodes[t->out], *in = &b->nodes[t->in];
    if (t->bn != NULL) {
        if (!out->summed) {
            struct op_sums *s = &emit(b, OP_SUMS, t->name)->sums;
            s->x = in->value;
            s->out_gradient = out->gradient;
            s->bn = t->bn;
            s->pool = t->pool;
            s->pad = t->pad;
        }
        struct op_bn_gradient *g = &emit(b, OP_BN_GRADIENT, t->name)->bn_gradient;
        g->bn = t->bn;
        g->h = in->value.h;
        g->w = in->value.w;
    }
    in->gradient = map_like(b, &in->value);
    in->consumers--;
    struct op_apply_gradient o;
    memset(&o, 0, sizeof o);
    o.x = in->value;
    o.out_gradient = out->gradient;
    o.gradient = in->gradient;
    o.bn = t->bn;
    o.pool = t->pool;
    o.pad = t->pad;
    struct map y; /* the activation's output is x itself */
    finish_activation(in, &o.act, &y, NULL);
    finish_branch(b, in, &o.branch_act, &o.branch_y, &o.branch);
    emit(b, OP_APPLY_GRADIENT, t->name)->apply_gradient = o;
}

static void backward(struct builder *b) {
    for (int i = b->n_tape - 1; i >= 0 && !b->failed; i--) {
        const struct tape *t = &b->tape[i];
        if (t->kind == TAPE_CONV) {
            /* Of a residual unit's two, the data gradients one after the other: a device may make them as one. */
            const struct tape *branch = b->nodes[t->out].add >= 0 ? &b->tape[--i] : NULL;
            weight_backward(b, t);
            if (branch != NULL) {
                weight_backward(b, branch);
                data_backward(b, branch);
            }
            data_backward(b, t);
        } else if (t->kind == TAPE_APPLY) {
            apply_backward(b, t);
        } else {
            for (int k = 0; k < 3; k++) b->nodes[t->branches[k]].gradient = map_slice(b->nodes[t->out].gradient, k);
        }
    }
}

/* ---- one walk ---- */

static void walk(struct builder *b) {
    struct net *net = b->net;
    const struct net_config *c = &net->config;
    const struct net_images *set = b->walk == WALK_JUDGE ? net->judge : net->train;
    const struct net_images *any = net->train != NULL ? net->train : net->judge;
    const struct drop none = {.threshold = 0};

    int x = node_new(b);
    const struct map input = map_new(b, any->h, any->w, 1, any->c, 0);
    node_maps(&b->nodes[x], input, input, KEEP_VALUE, none);
    b->plan->pixel_op = b->plan->program.n_ops;
    struct op_batch *batch = &emit(b, OP_BATCH, "images")->batch;
    batch->c = any->c;
    batch->out = input;
    batch->pixels = set != NULL ? set->pixels : NULL;
    batch->order = b->walk == WALK_JUDGE ? NULL : net->order;
    batch->flip = b->walk == WALK_JUDGE ? net->options.flip_test : !net->options.no_flip;
    rng_key(net->options.seed, net->options.trial, RNG_FLIP, batch->flip_key);

    if (c->first_conv > 0) {
        x = conv(b, "first_conv",
                 (struct conv_layer){.in = x,
                                     .k = c->first_conv,
                                     .stride = 1,
                                     .width = 16,
                                     .act = c->activation,
                                     .add = -1,
                                     .keep = KEEP_VALUE});
    }
    int n = (int)(40 * c->conv_hiddn_units_mult);
    for (int i = 0; i < c->nb_conv_pool_layers && !b->failed; i++, n *= 2) x = block(b, i, x, n);

    char name[64];
    for (int i = 1; i <= (c->one_more_fc > 0 ? 2 : 1) && !b->failed; i++) {
        const double units = i == 1 ? 1000 * c->fc_units_1_mult : 750 * c->one_more_fc;
        snprintf(name, sizeof name, "dense%d", i);
        x = conv(b, name,
                 (struct conv_layer){.in = x,
                                     .from_dropped = 1,
                                     .flat = 1,
                                     .k = 1,
                                     .stride = 1,
                                     .width = (int)units,
                                     .act = c->activation,
                                     .add = -1,
                                     .keep = KEEP_DROPPED,
                                     .drop = drop_new(b, c->fc_dropout)});
    }
    if (b->failed) return;
    const int logits = heads(b, x);
    b->plan->loss_op = b->plan->program.n_ops;
    struct op *op = emit(b, OP_LOSS, "loss");
    struct op_loss loss = {.logits = b->nodes[logits].value, .fine = net->options.fine, .coarse = net->options.coarse};
    loss.softmax = c->softmax;
    loss.coarse_weight = net->options.coarse > 0 ? (float)c->coarse_labels_weight : 0;
    loss.order = batch->order;
    if (set != NULL) {
        loss.fine_labels = set->fine;
        loss.coarse_labels = set->coarse;
    }
    if (b->walk != WALK_JUDGE) {
        b->nodes[logits].gradient = map_like(b, &loss.logits);
        loss.gradient = b->nodes[logits].gradient;
    }
    op->loss = loss;
    if (b->walk != WALK_JUDGE) {
        backward(b);
        struct op_optimise *o = &emit(b, OP_OPTIMISE, "optimiser")->optimise;
        o->kind = c->optimizer;
        o->lr = (float)(LEARNING_RATE * c->lr_rate_mult);
        o->l2 = (float)(L2_FACTOR * c->l2_weight_reg_mult);
    }
    emit(b, OP_NEXT, "next");
}

/* ======================================== memory plan ========================================= */

static struct tensor_plan *map_tensor(struct plan *p, const struct map *m) { return &p->tensors[(uintptr_t)m->at - 1]; }

/* Does an operation only add to what the one before it made? A device may then make both as one. */
static int is_added(const struct op *before, const struct op *op) {
    if (op->kind != before->kind) return 0;
    if (op->kind == OP_CONV) return op->conv.add.at != NULL && op->conv.add.at == before->conv.out.at;
    return op->kind == OP_CONV_DATA && op->conv_data.add.at != NULL &&
           op->conv_data.add.at == before->conv_data.gradient.at;
}

/* The last operation that the i-th, a weight gradient, may be under way beside. */
static int beside_until(const struct program *p, int i, int beside) {
    for (int k = i + 1, weights = 0; k < p->n_ops; k++) {
        if (p->ops[k].kind == OP_OPTIMISE) return k;
        weights += p->ops[k].kind == OP_CONV_WEIGHT;
        if (weights == beside) return k;
    }
    return p->n_ops - 1;
}

/* Places tensors, the largest first, each at the lowest offset where no tensor that lives at the same time is in the
 * way. Returns the bytes needed. */
static size_t plan_memory(struct plan *p, int batch, const struct device *d, int keep) {
    struct map *maps[8];
    for (int i = 0; i < p->program.n_ops; i++) {
        struct op *const op = &p->program.ops[i];
        int last = i + 1 < p->program.n_ops && is_added(op, op + 1) ? i + 1 : i;
        if (op->kind == OP_CONV_WEIGHT && d->beside > 0) last = beside_until(&p->program, i, d->beside);
        for (int m = op_maps(op, maps) - 1; m >= 0; m--) {
            if (maps[m]->at == NULL) continue;
            struct tensor_plan *t = map_tensor(p, maps[m]);
            if (i < t->first) t->first = i;
            if (last > t->last) t->last = last;
        }
    }
    int by_size[MAX_TENSORS], placed = 0;
    for (int i = 0; i < p->n_tensors; i++) {
        struct tensor_plan *t = &p->tensors[i];
        t->bytes = (t->elements * (size_t)batch * (t->wide ? sizeof(float) : d->element) + 255) / 256 * 256;
        if (keep) {
            t->first = 0;
            t->last = INT_MAX - 1;
        }
        int k = i;
        for (; k > 0 && p->tensors[by_size[k - 1]].bytes < t->bytes; k--) by_size[k] = by_size[k - 1];
        by_size[k] = i;
    }
    size_t end = 0;
    for (; placed < p->n_tensors; placed++) {
        struct tensor_plan *t = &p->tensors[by_size[placed]];
        t->offset = 0;
        for (int moved = 1; moved;) { /* past each tensor in the way, until none is */
            moved = 0;
            for (int k = 0; k < placed; k++) {
                const struct tensor_plan *o = &p->tensors[by_size[k]];
                if (o->last < t->first || t->last < o->first) continue;
                if (t->offset < o->offset + o->bytes && o->offset < t->offset + t->bytes) {
                    t->offset = o->offset + o->bytes;
                    moved = 1;
                }
            }
        }
        if (t->offset + t->bytes > end) end = t->offset + t->bytes;
    }
    return end;
}

static void place_map(struct plan *p, struct map *m, char *block, size_t element) {
    if (m->at == NULL) return;
    m->at = block + map_tensor(p, m)->offset + (size_t)m->first * (m->wide ? sizeof(float) : element);
}

static void plan_place(struct plan *p, char *block, size_t element) {
    struct map *maps[8];
    for (int i = 0; i < p->program.n_ops; i++) {
        for (int m = op_maps(&p->program.ops[i], maps) - 1; m >= 0; m--) place_map(p, maps[m], block, element);
    }
    for (int i = 0; i < p->n_layers; i++) place_map(p, &p->layers[i].map, block, element);
}

/* Is m's memory touched again, from operation `from` on, before more than `cache` bytes of maps are? Behind the last
 * operation comes the first: of the next batch. */
static int touched_soon(const struct program *p, int from, const struct map *m, int batch, const struct device *d) {
    struct map *maps[8];
    size_t bytes = 0;
    for (int k = 0; k < p->n_ops && bytes <= d->cache; k++) {
        const int n = op_maps(&p->ops[(from + k) % p->n_ops], maps);
        for (int i = 0; i < n; i++) {
            if (maps_meet(m, maps[i], batch, d->element)) return 1;
            if (maps[i]->at != NULL) bytes += map_extent(maps[i], batch, d->element);
        }
    }
    return 0;
}

/* Which maps are touched for the last time in a while: what a cache should give up for others. */
static void plan_once(struct program *p, int batch, const struct device *d) {
    struct map *maps[8];
    for (int i = 0; i < p->n_ops && d->cache > 0; i++) {
        struct op *const op = &p->ops[i];
        const int from = i + 1 < p->n_ops && is_added(op, op + 1) ? i + 2 : i + 1;
        for (int m = op_maps(op, maps) - 1; m >= 0; m--) {
            maps[m]->once = maps[m]->at != NULL && !touched_soon(p, from, maps[m], batch, d);
        }
    }
}

/* ===================================== making and freeing ===================================== */

static size_t slot_row(const struct slot *s, int row) {
    const int padded = s->fan_in > 0 ? round_up(s->width) : 1; /* a vector is one row */
    const int tap = row / (s->parts * s->width), rest = row % (s->parts * s->width);
    const int part = rest / s->width, channel = rest % s->width;
    return ((size_t)tap * (size_t)s->parts + (size_t)part) * (size_t)padded + (size_t)channel;
}

static int slot_rows(const struct slot *s) { return s->taps * s->parts * s->width; }

static int run_builder(struct net *net, struct plan *plan, enum walk which, struct builder *b, struct error *e) {
    memset(b, 0, sizeof *b);
    b->net = net;
    b->plan = plan;
    b->walk = which;
    b->e = e;
    walk(b);
    return b->failed;
}

static int allocate(struct net *net, struct error *e) {
    struct device *d = net->device;
    struct parameters *p = &net->parameters;
    size_t bn_floats = 0;
    for (int i = 0; i < net->n_bn; i++) bn_floats += 9 * (size_t)net->bn[i].channels;
    int failed = d->alloc(d, p->n * sizeof(float), (void **)&p->value, e);
    if (!failed && net->train != NULL) {
        failed = d->alloc(d, p->n * sizeof(float), (void **)&p->gradient, e);
        if (!failed) failed = d->alloc(d, p->n * sizeof(float), (void **)&p->second_moment, e);
        if (!failed && net->config.optimizer != OPT_RMSPROP) {
            failed = d->alloc(d, p->n * sizeof(float), (void **)&p->first_moment, e);
        }
        if (!failed) failed = d->alloc(d, (size_t)net->train->n * sizeof(uint32_t), (void **)&net->order, e);
    }
    if (!failed && p->n_moving > 0) failed = d->alloc(d, p->n_moving * sizeof(float), (void **)&p->moving, e);
    if (!failed && bn_floats > 0) failed = d->alloc(d, bn_floats * sizeof(float), (void **)&net->bn_block, e);
    if (!failed) failed = d->alloc(d, sizeof(struct step), (void **)&net->step, e);
    if (!failed) failed = d->alloc(d, sizeof(struct tally), (void **)&net->tally, e);
    float *at = net->bn_block;
    for (int i = 0; i < net->n_bn && !failed; i++) {
        struct bn *bn = &net->bn[i];
        float **arrays[] = {&bn->mean,   &bn->variance, &bn->scale, &bn->shift, &bn->sum_g,
                            &bn->sum_gx, &bn->a,        &bn->b,     &bn->c};
        for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++, at += bn->channels) *arrays[k] = at;
    }
    return failed;
}

static int set_first_weights(struct net *net, struct error *e) {
    struct rng rng = rng_make(net->options.seed, net->options.trial, RNG_INIT);
    for (int i = 0; i < net->n_slots; i++) {
        const struct slot *s = &net->slots[i];
        const size_t n = (size_t)slot_rows(s) * (size_t)s->columns;
        float *x = mem_alloc(n * sizeof *x);
        if (x == NULL) return error_memory(e, n * sizeof *x, "the first weights");
        const double limit = s->fan_in > 0 ? sqrt(6.0 / (s->fan_in + s->fan_out)) : 0; /* Glorot and Bengio 2010 */
        for (size_t k = 0; k < n; k++) x[k] = s->fan_in > 0 ? (float)((2 * rng_uniform(&rng) - 1) * limit) : s->start;
        const int failed = net_write_tensor(net, i, NET_VALUE, x, e);
        mem_free(x);
        if (failed) return failed;
    }
    return OK;
}

int net_build(struct net **out, const struct net_config *config, const struct net_options *options,
              struct device *device, const struct net_images *train, const struct net_images *judge, struct error *e) {
    struct net *net = mem_zero(1, sizeof *net);
    struct builder *b = mem_alloc(sizeof *b);
    int failed = OK;
    *out = NULL;
    if (net == NULL || b == NULL) {
        failed = error_memory(e, sizeof *net + sizeof *b, "the network's plan");
        goto end;
    }
    net->config = *config;
    net->options = *options;
    net->device = device;
    net->train = train;
    net->judge = judge;
    net->now.mu_product = 1;
    net->batch = config->batch_size;
    const int most = train != NULL ? train->n : judge->n;
    if (net->batch > most) net->batch = most;

    failed = run_builder(net, &net->training, WALK_DECLARE, b, e);
    if (failed) goto end;
    struct parameters *p = &net->parameters;
    p->n_decayed = b->n_decayed;
    p->n = b->n_decayed + b->n_plain;
    p->n_moving = b->n_moving;
    for (int i = 0; i < net->n_slots; i++) {
        if (!net->slots[i].moving && net->slots[i].fan_in == 0) net->slots[i].offset += p->n_decayed;
    }
    failed = allocate(net, e);
    if (failed) goto end;

    struct plan *plans[2] = {train != NULL ? &net->training : NULL, judge != NULL ? &net->judging : NULL};
    for (int i = 0; i < 2; i++) {
        if (plans[i] == NULL) continue;
        plans[i]->program.n_ops = plans[i]->n_tensors = plans[i]->n_layers = 0;
        failed = run_builder(net, plans[i], i == 0 ? WALK_TRAIN : WALK_JUDGE, b, e);
        if (failed) goto end;
        plans[i]->program.parameters = p;
        plans[i]->program.step = net->step;
        plans[i]->program.tally = net->tally;
        const size_t bytes = plan_memory(plans[i], net->batch, device, options->keep);
        if (bytes > net->map_bytes) net->map_bytes = bytes;
    }
    failed = device->alloc(device, net->map_bytes, (void **)&net->maps, e);
    if (failed) goto end;
    for (int i = 0; i < 2; i++) {
        if (plans[i] == NULL) continue;
        plan_place(plans[i], net->maps, device->element);
        plan_once(&plans[i]->program, net->batch, device);
    }
    net->penalty_op.kind = OP_PENALTY;
    net->penalty_op.layer = "penalty";
    net->penalty_op.penalty.l2 = (float)(L2_FACTOR * config->l2_weight_reg_mult);
    net->penalty = (struct program){1, &net->penalty_op, p, net->step, net->tally};
    failed = set_first_weights(net, e);
end:
    mem_free(b);
    if (failed) {
        net_free(net);
    } else {
        *out = net;
    }
    return failed;
}

void net_free(struct net *net) {
    if (net == NULL) return;
    struct device *d = net->device;
    if (d != NULL) {
        void *blocks[] = {net->maps,
                          net->order,
                          net->step,
                          net->tally,
                          net->bn_block,
                          net->parameters.value,
                          net->parameters.gradient,
                          net->parameters.first_moment,
                          net->parameters.second_moment,
                          net->parameters.moving};
        for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
            if (blocks[i] != NULL) d->release(d, blocks[i]);
        }
    }
    mem_free(net->slots);
    mem_free(net->training.program.ops);
    mem_free(net->judging.program.ops);
    arena_free(&net->arena);
    mem_free(net);
}

struct net_size net_get_size(const struct net *net) {
    const struct parameters *p = &net->parameters;
    const size_t copies = (size_t)(1 + (p->gradient != NULL) + (p->first_moment != NULL) + (p->second_moment != NULL));
    return (struct net_size){.parameters = net->trainable,
                             .multiply_adds = net->multiply_adds,
                             .map_bytes = net->map_bytes,
                             .parameter_bytes = (p->n * copies + p->n_moving) * sizeof(float),
                             .ops = net->training.program.n_ops};
}

int net_images_load(struct net_images *set, const struct images *from, struct device *d, struct error *e) {
    const size_t bytes = (size_t)from->n * (size_t)from->h * (size_t)from->w * (size_t)from->c, n = (size_t)from->n;
    *set = (struct net_images){.n = from->n, .h = from->h, .w = from->w, .c = from->c};
    int failed = d->alloc(d, bytes, (void **)&set->pixels, e);
    if (!failed) failed = d->alloc(d, n, (void **)&set->fine, e);
    if (!failed) failed = d->alloc(d, n, (void **)&set->coarse, e);
    if (!failed) failed = d->write(d, set->pixels, from->pixels, bytes, e);
    if (!failed) failed = d->write(d, set->fine, from->fine, n, e);
    if (!failed) failed = d->write(d, set->coarse, from->coarse, n, e);
    if (failed) net_images_unload(set, d);
    return failed;
}

void net_images_unload(struct net_images *set, struct device *d) {
    if (set->pixels != NULL) d->release(d, set->pixels);
    if (set->fine != NULL) d->release(d, set->fine);
    if (set->coarse != NULL) d->release(d, set->coarse);
    memset(set, 0, sizeof *set);
}

/* ========================================== an epoch ========================================== */

static int begin(struct net *net, const struct step *step, struct error *e) {
    const struct tally zero = {.images = 0};
    struct device *d = net->device;
    int failed = d->write(d, net->step, step, sizeof *step, e);
    if (!failed) failed = d->write(d, net->tally, &zero, sizeof zero, e);
    return failed;
}

static int run_batches(struct net *net, const struct program *p, int n, net_progress *progress, void *context,
                       struct error *e) {
    for (int done = 0; done < n;) {
        const int batch = n - done < net->batch ? n - done : net->batch;
        const int failed = net->device->run(net->device, p, batch, e);
        if (failed) return failed;
        done += batch;
        if (progress != NULL && progress(context, done, n)) {
            const int waited = net->device->wait(net->device, e);
            return waited ? waited : NET_STOPPED;
        }
    }
    return OK;
}

static int read_metrics(struct net *net, struct net_metrics *m, struct error *e) {
    struct tally t;
    const int failed = net->device->read(net->device, &t, net->tally, sizeof t, e);
    if (failed) return failed;
    const double n = t.images > 0 ? (double)t.images : 1;
    const double weight = net->options.coarse > 0 ? net->config.coarse_labels_weight : 0;
    m->fine_loss = t.fine_loss / n;
    m->coarse_loss = t.coarse_loss / n;
    m->loss = m->fine_loss + weight * m->coarse_loss + t.l2 / n;
    m->fine_accuracy = (double)t.fine_hits / n;
    m->coarse_accuracy = (double)t.coarse_hits / n;
    return OK;
}

static int train_on(struct net *net, int epoch, const uint32_t *order, int n, struct net_metrics *m,
                    net_progress *progress, void *context, struct error *e) {
    struct device *d = net->device;
    net->now.epoch = (uint32_t)epoch;
    net->now.first = 0;
    int failed = d->write(d, net->order, order, (size_t)n * sizeof *order, e);
    if (!failed) failed = begin(net, &net->now, e);
    if (!failed) failed = run_batches(net, &net->training.program, n, progress, context, e);
    if (!failed) failed = d->read(d, &net->now, net->step, sizeof net->now, e);
    if (!failed) failed = read_metrics(net, m, e);
    return failed;
}

int net_train_epoch(struct net *net, int epoch, struct net_metrics *m, net_progress *progress, void *context,
                    struct error *e) {
    const uint32_t n = (uint32_t)net->train->n;
    uint32_t *order = mem_alloc(n * sizeof *order);
    if (order == NULL) return error_memory(e, n * sizeof *order, "the order of the images");
    for (uint32_t i = 0; i < n; i++) order[i] = i;
    struct rng rng = rng_make(net->options.seed, net->options.trial, RNG_SHUFFLE);
    rng.counter[3] = (uint32_t)epoch; /* a stream of its own for each epoch: any epoch can be made without the others */
    rng_shuffle(&rng, order, n);
    net->now.step = 0;
    const int failed = train_on(net, epoch, order, (int)n, m, progress, context, e);
    mem_free(order);
    return failed;
}

int net_train_step(struct net *net, const uint32_t *order, int n, struct net_metrics *m, struct error *e) {
    net->now.step = 0; /* the same masks each time */
    return train_on(net, 0, order, n, m, NULL, NULL, e);
}

int net_judge(struct net *net, struct net_metrics *m, net_progress *progress, void *context, struct error *e) {
    const struct step start = {.epoch = net->now.epoch, .mu_product = 1};
    int failed = begin(net, &start, e);
    if (!failed) failed = run_batches(net, &net->judging.program, net->judge->n, progress, context, e);
    if (!failed) failed = net->device->run(net->device, &net->penalty, net->judge->n, e);
    return failed ? failed : read_metrics(net, m, e);
}

/* ========================================== tensors =========================================== */

int net_n_tensors(const struct net *net) { return net->n_slots; }

struct net_tensor net_get_tensor(const struct net *net, int i) {
    const struct slot *s = &net->slots[i];
    struct net_tensor t = {.name = s->name, .dims = s->dims, .moving = s->moving};
    memcpy(t.shape, s->shape, sizeof t.shape);
    t.n = (size_t)slot_rows(s) * (size_t)s->columns;
    return t;
}

static float *slot_memory(const struct net *net, const struct slot *s, enum net_kind kind) {
    const struct parameters *p = &net->parameters;
    if (s->moving) return kind == NET_VALUE ? p->moving + s->offset : NULL;
    float *const flat = kind == NET_VALUE          ? p->value
                        : kind == NET_GRADIENT     ? p->gradient
                        : kind == NET_FIRST_MOMENT ? p->first_moment
                                                   : p->second_moment;
    return flat == NULL ? NULL : flat + s->offset;
}

/* Between a slot's logical matrix and its place: reads the stored rows (and writes them back when `in` is given, so
 * that what stands between them, padding or the other head, stays). */
static int slot_copy(struct net *net, int i, enum net_kind kind, float *out, const float *in, struct error *e) {
    const struct slot *s = &net->slots[i];
    float *memory = slot_memory(net, s, kind);
    const int rows = slot_rows(s);
    const size_t n = slot_row(s, rows - 1) * (size_t)s->stride + (size_t)s->columns;
    if (memory == NULL) return error_set(e, ERROR_USER, "tensor %s has no such part in this network", s->name);
    float *stored = mem_alloc(n * sizeof *stored);
    if (stored == NULL) return error_memory(e, n * sizeof *stored, "a tensor");
    int failed = net->device->read(net->device, stored, memory, n * sizeof *stored, e);
    for (int r = 0; r < rows && !failed; r++) {
        float *row = stored + slot_row(s, r) * (size_t)s->stride;
        const size_t bytes = (size_t)s->columns * sizeof(float);
        if (in != NULL) {
            memcpy(row, in + (size_t)r * (size_t)s->columns, bytes);
        } else {
            memcpy(out + (size_t)r * (size_t)s->columns, row, bytes);
        }
    }
    if (!failed && in != NULL) failed = net->device->write(net->device, memory, stored, n * sizeof *stored, e);
    mem_free(stored);
    return failed;
}

int net_read_tensor(struct net *net, int i, enum net_kind kind, float *out, struct error *e) {
    return slot_copy(net, i, kind, out, NULL, e);
}

int net_write_tensor(struct net *net, int i, enum net_kind kind, const float *in, struct error *e) {
    return slot_copy(net, i, kind, NULL, in, e);
}

int net_save(struct net *net, const char *path, const char *const *metadata, struct error *e) {
    struct tensor *t = mem_zero((size_t)net->n_slots, sizeof *t);
    int failed = t == NULL ? error_memory(e, (size_t)net->n_slots * sizeof *t, "the weights") : OK;
    for (int i = 0; i < net->n_slots && !failed; i++) {
        const struct net_tensor nt = net_get_tensor(net, i);
        t[i].name = nt.name;
        t[i].dims = nt.dims;
        memcpy(t[i].shape, nt.shape, sizeof t[i].shape);
        t[i].data = mem_alloc(nt.n * sizeof(float));
        if (t[i].data == NULL) {
            failed = error_memory(e, nt.n * sizeof(float), "the weights");
        } else {
            failed = net_read_tensor(net, i, NET_VALUE, t[i].data, e);
        }
    }
    if (!failed) failed = tensors_write(path, t, net->n_slots, metadata, e);
    for (int i = 0; i < net->n_slots && t != NULL; i++) mem_free(t[i].data);
    mem_free(t);
    return failed;
}

int net_load(struct net *net, const char *path, struct error *e) {
    struct tensors file;
    int failed = tensors_read(&file, path, e);
    if (failed) return failed;
    for (int i = 0; i < net->n_slots && !failed; i++) {
        const struct net_tensor nt = net_get_tensor(net, i);
        const struct tensor *t = tensors_find(&file, nt.name);
        if (t == NULL) {
            failed = error_set(e, ERROR_USER, "%s: tensor %s is missing; the file belongs to another network", path,
                               nt.name);
        } else if (t->dims != nt.dims || memcmp(t->shape, nt.shape, (size_t)nt.dims * sizeof(int)) != 0) {
            failed = error_set(e, ERROR_USER, "%s: tensor %s has another shape; the file belongs to another network",
                               path, nt.name);
        } else {
            failed = net_write_tensor(net, i, NET_VALUE, t->data, e);
        }
    }
    tensors_free(&file);
    return failed;
}

/* The flat buffers of a state. */
enum { STATE_BUFFERS = 4 };
static void state_buffers(const struct net *net, struct tensor t[STATE_BUFFERS], float *from[STATE_BUFFERS]) {
    const struct parameters *p = &net->parameters;
    static const char *const names[] = {"value", "first_moment", "second_moment", "moving"};
    float *const buffers[] = {p->value, p->first_moment, p->second_moment, p->moving};
    for (int i = 0; i < STATE_BUFFERS; i++) {
        const size_t n = buffers[i] == NULL ? 0 : i == 3 ? p->n_moving : p->n;
        t[i] = (struct tensor){.name = names[i], .dims = 1, .shape = {(int)n}};
        from[i] = buffers[i];
    }
}

int net_save_state(struct net *net, const char *path, const char *const *metadata, struct error *e) {
    struct tensor t[STATE_BUFFERS];
    float *from[STATE_BUFFERS];
    struct text step = {0};
    const char *pairs[16];
    int n = 0, failed = OK;
    uint64_t product;
    memcpy(&product, &net->now.mu_product, sizeof product);
    text_add(&step, "%u %u %016llx", net->now.t, net->now.epoch, (unsigned long long)product);
    for (; n < 12 && metadata[n] != NULL; n++) pairs[n] = metadata[n];
    pairs[n++] = "step";
    pairs[n++] = step.s;
    pairs[n] = NULL;
    if (step.failed) failed = error_memory(e, step.n, "a state");
    state_buffers(net, t, from);
    for (int i = 0; i < STATE_BUFFERS; i++) {
        const size_t bytes = (size_t)t[i].shape[0] * sizeof(float);
        t[i].data = mem_alloc(bytes + 1);
        if (t[i].data == NULL && !failed) failed = error_memory(e, bytes, "a state");
        if (!failed && bytes > 0) failed = net->device->read(net->device, t[i].data, from[i], bytes, e);
    }
    if (!failed) failed = tensors_write(path, t, STATE_BUFFERS, pairs, e);
    for (int i = 0; i < STATE_BUFFERS; i++) mem_free(t[i].data);
    text_free(&step);
    return failed;
}

int net_load_state(struct net *net, const char *path, struct tensors *file, struct error *e) {
    struct tensor t[STATE_BUFFERS];
    float *to[STATE_BUFFERS];
    unsigned updates = 0, epoch = 0;
    unsigned long long product = 0;
    int failed = tensors_read(file, path, e);
    if (failed) return failed;
    const char *step = tensors_get(file, "step");
    if (step == NULL || tensors_get(file, "metadata_crc32c") == NULL || tensors_get(file, "crc32c") == NULL ||
        sscanf(step, "%u %u %llx", &updates, &epoch, &product) != 3)
        return error_set(e, ERROR_USER, "%s: is no state of a training", path);
    state_buffers(net, t, to);
    for (int i = 0; i < STATE_BUFFERS; i++) { /* all is looked at before anything is changed */
        const struct tensor *saved = tensors_find(file, t[i].name);
        if (saved == NULL || saved->dims != 1 || saved->shape[0] != t[i].shape[0])
            return error_set(e, ERROR_USER, "%s: is the state of another network", path);
        t[i].data = saved->data;
    }
    for (int i = 0; i < STATE_BUFFERS && !failed; i++) {
        const size_t bytes = (size_t)t[i].shape[0] * sizeof(float);
        if (bytes > 0) failed = net->device->write(net->device, to[i], t[i].data, bytes, e);
    }
    net->now = (struct step){.epoch = epoch, .t = updates};
    memcpy(&net->now.mu_product, &product, sizeof net->now.mu_product);
    return failed;
}

/* ==================================== the layers' outputs ===================================== */

static const struct plan *plan_of(const struct net *net, int training) {
    return training ? &net->training : &net->judging;
}

int net_n_layers(const struct net *net, int training) { return plan_of(net, training)->n_layers; }

struct net_layer net_get_layer(const struct net *net, int training, int i) {
    const struct layer_plan *l = &plan_of(net, training)->layers[i];
    return (struct net_layer){.name = l->name, .h = l->map.h, .w = l->map.w, .c = l->map.parts * l->map.width};
}

int net_read_layer(struct net *net, int training, int i, int n, float *out, struct error *e) {
    const struct map *m = &plan_of(net, training)->layers[i].map;
    const size_t element = m->wide ? sizeof(float) : net->device->element;
    if (element != sizeof(float))
        return error_set(e, ERROR_USER, "layers can only be read on a device that stores floats");
    const size_t pixels = (size_t)n * (size_t)m->h * (size_t)m->w;
    const size_t floats = (pixels - 1) * (size_t)m->stride + (size_t)map_stored(m);
    float *stored = mem_alloc(floats * sizeof *stored);
    if (stored == NULL) return error_memory(e, floats * sizeof *stored, "a layer's output");
    const int failed = net->device->read(net->device, stored, m->at, floats * sizeof *stored, e);
    for (size_t p = 0; p < pixels && !failed; p++) {
        for (int part = 0; part < m->parts; part++) {
            memcpy(out, stored + p * (size_t)m->stride + (size_t)part * (size_t)round_up(m->width),
                   (size_t)m->width * sizeof(float));
            out += m->width;
        }
    }
    mem_free(stored);
    return failed;
}
