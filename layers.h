/* layers.h - what a device must be able to compute: the operations that a network is made of.
 *
 * net.c turns a configuration into `struct program`s: lists of operations on maps whose places in memory are already
 * planned. A device executes a list, in order, for a batch of n images; it decides nothing else. (One kind of
 * operation may be under way beside those that follow it: see `beside` in struct device.) The operations are
 * cut where a fast device wants them: whatever can ride along while a map is in registers (bias, activation, dropout,
 * residual sum, the sums of batch normalisation) is a field of the operation that makes the map, so that no map makes
 * a trip through memory for it. Above each operation stands what it must move at the least, in elements.
 *
 * Maps are NHWC. The channels of a map are `parts` equal runs (1; 3 behind a join of three branches) of `width`
 * channels, each run padded with zeros to a multiple of LAYERS_ALIGN; weights are padded alike, with zeros that stay
 * zeros through training. A pixel starts every `stride` elements. Maps are stored as float (the CPU; --precision
 * fp32) or bf16; parameters, gradients, moments, statistics, losses and the maps marked `wide` always as float.
 *
 * Everything is deterministic: the same program, inputs and device give the same bits, whatever the number of
 * threads; reductions have a fixed shape. Random numbers are philox(key, {group, step, epoch, 0}) (see struct drop).
 * An operation may read and write the same map only where its comment says so. */
#ifndef LAYERS_H
#define LAYERS_H
#include "base.h"

#define LAYERS_ALIGN 8
#define LAYERS_NONE ((size_t)-1) /* no parameter */
#define BN_EPSILON 1e-3f
#define BN_MOMENTUM 0.99f

struct map {
    void *at; /* the first image's first pixel's first channel (of this slice); NULL: no map */
    int h, w;
    int parts, width; /* channels = parts * width; as stored, parts * (width rounded up to LAYERS_ALIGN) */
    int stride;       /* elements from one pixel to the next: >= the stored channels; a multiple of LAYERS_ALIGN */
    int first;        /* a slice of a join: the stored channel of the join that it starts at (a multiple of
                         LAYERS_ALIGN); `at` already points there */
    int wide;         /* stored as float on every device: the logits */
    int once;         /* as this operation touches it: it is not touched again before so much else that no cache would
                         still have it (see `cache` in struct device) */
};
static inline int map_stored(const struct map *m) {
    return m->parts * ((m->width + LAYERS_ALIGN - 1) / LAYERS_ALIGN * LAYERS_ALIGN);
}

/* Bytes from the first element of n images of a map to the end of the last pixel's stride; element: of the device. */
static inline size_t map_extent(const struct map *m, int n, size_t element) {
    return (size_t)n * (size_t)m->h * (size_t)m->w * (size_t)m->stride * (m->wide ? sizeof(float) : element);
}
/* Do n images of both share memory? Maps that are absent share none. */
static inline int maps_meet(const struct map *a, const struct map *b, int n, size_t element) {
    const uintptr_t at_a = (uintptr_t)a->at, at_b = (uintptr_t)b->at;
    return at_a != 0 && at_b != 0 && at_a < at_b + map_extent(b, n, element) && at_b < at_a + map_extent(a, n, element);
}

enum activation { ACT_LINEAR, ACT_RELU, ACT_ELU }; /* elu: alpha 1 */

/* Dropout of a map: element (pixel p of the batch, stored channel c of the whole map) is kept iff its 16 bits are >=
 * threshold, and is then scaled by 65536 / (65536 - threshold). Its bits: with e = p * stride + first + c, the half
 * e % 2 (0: low) of word (e % 8) / 2 of philox(key, {e / 8, step, epoch, 0}): one call serves 8 channels.
 * p counts pixels over the batch: (image * h + y) * w + x. threshold 0: no dropout. */
struct drop {
    uint32_t key[2];
    uint32_t threshold; /* p in 65536ths, < 65536 */
};

/* The numbers of batch normalisation for one map of `channels` stored channels, in device memory, float. Filled by
 * the operations named; a chain of two normalisations in a row (links = 2) acts as one: its composite is again
 * affine in x, so the map is passed over once. Offsets of parameters are into struct parameters; mean and variance
 * averages into `moving`. */
struct bn {
    int channels, links;
    size_t gamma[2], beta[2];                  /* into value / gradient */
    size_t moving_mean[2], moving_variance[2]; /* into moving */
    float *mean, *variance;                    /* [channels] of the batch (biased): by OP_CONV */
    float *scale, *shift;                      /* y = scale * x + shift: by OP_BN */
    float *sum_g, *sum_gx; /* sum of g, of g * (x - mean): g the gradient of y: by OP_CONV_DATA or OP_SUMS */
    float *a, *b, *c;      /* dL/dx = a * g + b * x + c: by OP_BN_GRADIENT */
};

enum op_kind {
    OP_BATCH,
    OP_CONV,
    OP_BN,
    OP_APPLY,
    OP_LOSS, /* forward */
    OP_CONV_DATA,
    OP_CONV_WEIGHT,
    OP_SUMS,
    OP_BN_GRADIENT,
    OP_APPLY_GRADIENT, /* backward */
    OP_OPTIMISE,
    OP_NEXT,
    OP_PENALTY /* beside training */
};

/* x = pixel / 255 - 0.5 of images order[first + i] (order NULL: first + i), flipped left-right where bit 0 of
 * philox(flip_key, {i, step, epoch, 0})[0] is 1 (flip 0: never). Channels past 3 are zeros.
 * Moves: n*h*w*3 bytes in, out written. */
struct op_batch {
    const uint8_t *pixels; /* the data set on the device, [images][h][w][c] */
    const uint32_t *order;
    int c, flip;
    uint32_t flip_key[2];
    struct map out;
};

/* Convolution, and the dense layer (a 1x1 convolution of a 1x1 map):
 *   v = act(sum over taps and channels of in * weight + bias);  v += add;
 *   out = v;  dropped = dropout(v)   (either may be absent, not both)
 *   bn (not NULL): its mean and variance over n*h*w of v.
 * k x k taps; output pixel (y, x) reads in(y*stride - pad + r, x*stride - pad + s), 0 <= r, s < k, zeros outside.
 * weight[k][k][in stored][out stored]; bias[out stored]. add may be the same map as out.
 * Moves: in once, weights once, add once; out and dropped once. */
struct op_conv {
    int k, stride, pad;
    enum activation act;
    struct map in, add, out, dropped;
    struct drop drop;
    size_t weight, bias; /* into struct parameters */
    struct bn *bn;       /* host struct, device arrays */
};

/* Per channel: scale and shift of the normalisation (of both links) from the batch's mean and variance, and the
 * moving averages: moving = 0.99 * moving + 0.01 * batch; training 0: scale and shift from the moving averages.
 * Link 2 sees mean beta1 and variance gamma1^2 * variance / (variance + epsilon). Moves: next to nothing. */
struct op_bn {
    struct bn *bn;
    int training;
};

enum pool {
    POOL_NONE,
    POOL_MAX2,
    POOL_AVG2,
    POOL_MAX3
}; /* 2x2/2 VALID; 3x3/2 SAME: `pad` rows before the map, which never win */

/* v = pool(scale * in + shift)  (bn NULL: pool(in));  out = v; dropped = dropout(v) (either may be absent).
 * Moves: in once, out and dropped once. */
struct op_apply {
    struct map in, out, dropped;
    struct bn *bn;
    enum pool pool;
    int pad; /* POOL_MAX3: rows and columns before the first, 0 or 1 */
    struct drop drop;
};

/* Losses and hits of the batch, added to the tally, and the gradient of
 * mean(fine) + coarse_weight * mean(coarse) with respect to the logits.
 * logits: [n] x 1x1 wide map (its gradient is not wide); the fine head's columns start at 0, the coarse head's at fine
 * rounded up to LAYERS_ALIGN. sigmoid: p = sigmoid(z), q = p / sum p, clipped to [1e-7, 1 - 1e-7], -log q[label]; no
 * gradient where clipped. softmax: the usual. gradient.at NULL: evaluation. A hit: the label's q is the largest (the
 * first of equals wins). Columns that belong to no head get gradient 0. */
struct op_loss {
    struct map logits, gradient;
    int fine, coarse; /* classes; coarse 0: one head */
    int softmax;
    float coarse_weight;
    const uint8_t *fine_labels, *coarse_labels; /* of the data set */
    const uint32_t *order;
};

/* The data gradient of a convolution, and all that can be done to it in passing:
 *   v = sum over taps of out_gradient * weight transposed     (gradient of the conv's `in`)
 *   v = dropout mask and scale of v (drop: the one that made the conv's `in`)
 *   v += add;   v *= act'(y)   (act, y: the activation that made this map, from its output: relu y > 0; elu y > 0 ? 1 :
 * y + 1; with y_scale: y stands after a dropout, y * y_scale is meant) gradient = v;   branch = v * act'(branch_y) (for
 * the activated branch of a residual sum) bn (not NULL): sum_g, sum_gx over v, x = bn_x, the map that bn normalises
 * (same shape as gradient). add may be the same map as gradient. Moves: out_gradient, weights, add, y, branch_y, bn_x
 * once each; gradient, branch. */
struct op_conv_data {
    int k, stride, pad;
    struct map out_gradient, add, gradient, branch;
    struct drop drop;
    enum activation act, branch_act;
    struct map y, branch_y, bn_x;
    float y_scale;
    struct bn *bn;
    size_t weight;
};

/* gradient of weight and bias, written (not added). bias LAYERS_NONE: not wanted (it is zero exactly where the
 * output goes linearly into a normalisation). Moves: in and out_gradient once, weights once. */
struct op_conv_weight {
    int k, stride, pad;
    struct map in, out_gradient;
    size_t weight, bias;
};

/* sum_g and sum_gx of a normalisation whose gradient arrives through a pool: g = the gradient `out_gradient` routed
 * back through pool (max: to the first largest of scale*x+shift in its window, windows scanned row by row).
 * Moves: x and out_gradient once. */
struct op_sums {
    struct map x, out_gradient;
    struct bn *bn;
    enum pool pool;
    int pad;
};

/* Per channel: gradients of gamma and beta of each link, and a, b, c. count = n*h*w of the map. With r =
 * 1/sqrt(variance
 * + epsilon), N = count, S0 = sum_g, S1 = r * sum_gx:
 *   links 1: dbeta = S0, dgamma = S1; dx = gamma r (g - S0/N - xhat S1/N).
 *   links 2: v2 = gamma1^2 variance r^2, r2 = 1/sqrt(v2 + epsilon): dbeta2 = S0, dgamma2 = gamma1 r2 S1, dbeta1 = 0,
 *            dgamma1 = gamma2 r2 S1 epsilon r2^2;
 *            dx = gamma1 r (gamma2 r2 (g - S0/N - gamma1^2 r2^2 xhat S1/N) - xhat dgamma1/N). */
struct op_bn_gradient {
    struct bn *bn;
    int h, w;
};

/* The gradient of OP_APPLY's in (dropout is already undone by the operation that made out_gradient):
 *   v = a * route(out_gradient) + b * x + c   (bn NULL: v = route(out_gradient));  v *= act'(x)  (act: what made x)
 *   gradient = v;  branch = v * act'(branch_y).
 * gradient may be the same map as out_gradient when pool is POOL_NONE. Moves: out_gradient, x, branch_y once; gradient,
 * branch. */
struct op_apply_gradient {
    struct map x, out_gradient, gradient, branch, branch_y;
    struct bn *bn;
    enum pool pool;
    int pad;
    enum activation act, branch_act;
};

enum optimiser { OPT_ADAM, OPT_NADAM, OPT_RMSPROP };

/* One pass over all parameters: g = gradient + 2 * l2 * value for the first n_decayed, then the update of SEED.md
 * (Keras 2.0.6), with lr, t, mu_product of the step. Adds n * l2 * sum(value^2 before the update) to the tally.
 * Moves: value, gradient, one or two moments in; value, moments out. */
struct op_optimise {
    enum optimiser kind;
    float lr, l2;
};

/* Adds n * l2 * sum(value^2) over the first n_decayed to the tally: the L2 part of the loss of n judged images. Moves:
 * value. */
struct op_penalty {
    float l2;
};

struct op {
    enum op_kind kind;
    const char *layer; /* for people and tests: "block 1 conv" */
    union {
        struct op_batch batch;
        struct op_conv conv;
        struct op_bn bn;
        struct op_apply apply;
        struct op_loss loss;
        struct op_conv_data conv_data;
        struct op_conv_weight conv_weight;
        struct op_sums sums;
        struct op_bn_gradient bn_gradient;
        struct op_apply_gradient apply_gradient;
        struct op_optimise optimise;
        struct op_penalty penalty;
    };
};

/* Every map that an operation touches, those that are absent included; returns how many. The order does not matter. */
static inline int op_maps(struct op *op, struct map *maps[8]) {
    int n = 0;
    switch (op->kind) {
        case OP_BATCH: maps[n++] = &op->batch.out; break;
        case OP_CONV:
            maps[n++] = &op->conv.in;
            maps[n++] = &op->conv.add;
            maps[n++] = &op->conv.out;
            maps[n++] = &op->conv.dropped;
            break;
        case OP_APPLY:
            maps[n++] = &op->apply.in;
            maps[n++] = &op->apply.out;
            maps[n++] = &op->apply.dropped;
            break;
        case OP_LOSS:
            maps[n++] = &op->loss.logits;
            maps[n++] = &op->loss.gradient;
            break;
        case OP_CONV_DATA:
            maps[n++] = &op->conv_data.out_gradient;
            maps[n++] = &op->conv_data.add;
            maps[n++] = &op->conv_data.gradient;
            maps[n++] = &op->conv_data.branch;
            maps[n++] = &op->conv_data.y;
            maps[n++] = &op->conv_data.branch_y;
            maps[n++] = &op->conv_data.bn_x;
            break;
        case OP_CONV_WEIGHT:
            maps[n++] = &op->conv_weight.in;
            maps[n++] = &op->conv_weight.out_gradient;
            break;
        case OP_SUMS:
            maps[n++] = &op->sums.x;
            maps[n++] = &op->sums.out_gradient;
            break;
        case OP_APPLY_GRADIENT:
            maps[n++] = &op->apply_gradient.x;
            maps[n++] = &op->apply_gradient.out_gradient;
            maps[n++] = &op->apply_gradient.gradient;
            maps[n++] = &op->apply_gradient.branch;
            maps[n++] = &op->apply_gradient.branch_y;
            break;
        case OP_BN:
        case OP_BN_GRADIENT:
        case OP_OPTIMISE:
        case OP_NEXT:
        case OP_PENALTY: break;
    }
    return n;
}

/* In device memory, one for a net. OP_NEXT, the last of a program: step += 1, first += n, and in training (program
 * has an OP_OPTIMISE) t += 1 and mu_product *= mu(t). OP_OPTIMISE reads it before that: its t is step.t + 1. */
struct step {
    uint32_t epoch, step, first;
    uint32_t t;        /* updates made */
    double mu_product; /* Nadam: product of mu_1 .. mu_t */
};

/* In device memory: sums over the images since it was zeroed; kept in double. */
struct tally {
    double fine_loss, coarse_loss, l2; /* sums over images */
    uint64_t fine_hits, coarse_hits, images;
};

/* All parameters of a net, flat: the kernels of convolutions and dense layers first (n_decayed), then biases, gammas,
 * betas. moving: the moving averages. Device memory. first_moment is NULL for RMSprop. */
struct parameters {
    size_t n, n_decayed, n_moving;
    float *value, *gradient, *first_moment, *second_moment, *moving;
};

/* A device may keep what it has made of a program (a recorded step): once run, the program, and what its pointers
 * lead to on the host, must stay as it is until memory is released on that device. */
struct program {
    int n_ops;
    struct op *ops;
    struct parameters *parameters;
    struct step *step;   /* device memory */
    struct tally *tally; /* device memory */
};

/* A device, for one net at a time (its own stream where the hardware has such). Functions return 0 or an error kind:
 * ERROR_TRIAL where only this net is concerned (no memory), ERROR_ENVIRONMENT where the device is lost. */
struct device {
    const char *name; /* "cpu", "cuda" */
    char about[160];  /* for people: "2 threads, AVX-512" */
    size_t element;   /* bytes of a stored map element */
    /* An OP_CONV_WEIGHT may be under way beside the operations that follow it, until the `beside`-th OP_CONV_WEIGHT
     * after it begins, or OP_OPTIMISE, or the program ends. Whoever plans the memory keeps its maps as they are until
     * then. 0: everything in order. */
    int beside;
    size_t cache; /* bytes of maps that it may remember from one operation to the next; 0: it does not care */
    int (*alloc)(struct device *, size_t bytes, void **, struct error *); /* zeroed, 64-byte aligned */
    void (*release)(struct device *, void *);
    int (*write)(struct device *, void *to, const void *from, size_t bytes, struct error *); /* host to device */
    int (*read)(struct device *, void *to, const void *from, size_t bytes,
                struct error *);                                                /* waits, then device to host */
    int (*run)(struct device *, const struct program *, int n, struct error *); /* may return before it is done */
    int (*wait)(struct device *, struct error *);
    /* Runs a program once and times its operations: seconds[n_ops]; 0 for one that rides along with another. */
    int (*profile)(struct device *, const struct program *, int n, double *seconds, struct error *);
    void (*close)(struct device *);
};

/* threads 0: as many as there are cores. isa NULL: the best this CPU has; else "avx512", "avx2", "base". */
int device_cpu(struct device **, int threads, const char *isa, struct error *);
/* What a CUDA device does without, for measuring what it gains: weight gradients beside the chain of the other
 * operations; kernels that are put on the multiprocessors before the one before them is done; Hopper's own products;
 * cuBLAS for dense layers. */
enum { CUDA_WITHOUT_BESIDE = 1, CUDA_WITHOUT_EARLY = 2, CUDA_WITHOUT_WGMMA = 4, CUDA_WITHOUT_CUBLAS = 8 };
/* What cuBLAS may be found as, the first first; the last where a toolkit lies that the loader has not been told of. */
#define CUBLAS_NAMES "libcublas.so.13", "libcublas.so.12", "libcublas.so", "/usr/local/cuda/lib64/libcublas.so"
/* Adds to *without what a list names: "beside", "early", "wgmma", "cublas", commas between. NULL: nothing. ERROR_USER
 * where there is no such thing. */
int device_cuda_without(unsigned *without, const char *list, struct error *);
/* gpu: its number; without: CUDA_WITHOUT_... or 0. ERROR_ENVIRONMENT with what is missing where there is none. */
int device_cuda(struct device **, int gpu, int fp32, unsigned without, struct error *);
int device_cuda_count(void); /* GPUs that can be seen */
#endif
