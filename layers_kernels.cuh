/* layers_kernels.cuh - the CUDA kernels; layers.cu alone includes this, and launches them.
 *
 * Kernels are templates over what a map is stored as: bf16 (sums in fp32, master weights in fp32, a bf16 copy of the
 * kernels, the *shadow*, made by the optimiser in passing) or float (`--precision fp32`, for checking). A thread's
 * unit of work is eight channels of a pixel: LAYERS_ALIGN channels, 16 bytes of bf16, one Philox call.
 *
 * Here is what all of them use, and the kernels of images, losses and optimisers. The others stand in parts:
 * layers_product.cuh (convolutions and dense layers), layers_window.cuh (the convolutions of most steps, with less
 * fetching), layers_maps.cuh (normalisation, activation, dropout, pooling).
 *
 * This text also compiles as C++ against tests/cuda_host.h, which runs it without a GPU: so every launch goes through
 * LAUNCH, all shared memory is dynamic, and the device's instructions have the small names of layers_instructions.cuh.
 *
 * Invariant: no atomics; every sum's shape follows from the shapes and the GPU's number of multiprocessors alone. */
#ifndef LAYERS_KERNELS_CUH
#define LAYERS_KERNELS_CUH
#include "layers_instructions.cuh"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "layers.h"
}

#define PHILOX_FUNCTION static __device__ __forceinline__
#include "philox.h"

struct bf16 {
    uint16_t bits;
};

static __device__ __forceinline__ float bits_float(uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
#endif
}

/* Eight channels, 16-byte aligned, as they are stored: to be fetched early without taking the registers of floats. */
template <typename T>
struct eight;
template <>
struct eight<float> {
    float4 a, b;
};
template <>
struct eight<bf16> {
    uint4 a;
};
static __device__ __forceinline__ void fetch8(const float *p, eight<float> *e) {
    e->a = ((const float4 *)p)[0], e->b = ((const float4 *)p)[1];
}
static __device__ __forceinline__ void fetch8(const bf16 *p, eight<bf16> *e) { e->a = *(const uint4 *)p; }
static __device__ __forceinline__ void fetch8(const float *p, uint64_t keeping, eight<float> *e) {
    e->a = load_kept((const float4 *)p, keeping), e->b = load_kept((const float4 *)p + 1, keeping);
}
static __device__ __forceinline__ void fetch8(const bf16 *p, uint64_t keeping, eight<bf16> *e) {
    e->a = load_kept((const uint4 *)p, keeping);
}
static __device__ __forceinline__ void widen8(const eight<float> &e, float v[8]) {
    v[0] = e.a.x, v[1] = e.a.y, v[2] = e.a.z, v[3] = e.a.w;
    v[4] = e.b.x, v[5] = e.b.y, v[6] = e.b.z, v[7] = e.b.w;
}
static __device__ __forceinline__ void widen8(const eight<bf16> &e, float v[8]) {
    const uint32_t w[4] = {e.a.x, e.a.y, e.a.z, e.a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = bits_float(w[i] << 16);
        v[2 * i + 1] = bits_float(w[i] & 0xffff0000u);
    }
}

/* And as floats. store8 leaves in v what a later load8 will give. */
template <typename T>
static __device__ __forceinline__ void load8(const T *p, float v[8]) {
    eight<T> e;
    fetch8(p, &e);
    widen8(e, v);
}
static __device__ __forceinline__ void store8(float *p, float v[8]) {
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void store8(float *p, uint64_t keeping, float v[8]) {
    store_kept((float4 *)p, make_float4(v[0], v[1], v[2], v[3]), keeping);
    store_kept((float4 *)p + 1, make_float4(v[4], v[5], v[6], v[7]), keeping);
}
static __device__ __forceinline__ void store8(bf16 *p, uint64_t keeping, float v[8]) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
        v[2 * i] = bits_float(w[i] << 16);
        v[2 * i + 1] = bits_float(w[i] & 0xffff0000u);
    }
    store_kept((uint4 *)p, make_uint4(w[0], w[1], w[2], w[3]), keeping);
}

static __device__ __forceinline__ void store1(bf16 *at, float v) { at->bits = (uint16_t)pack_bf16(v, 0); }
static __device__ __forceinline__ void store1(float *at, float v) { *at = v; }

/* ================================================= small functions ================================================ */

enum { THREADS = 256 };

/* A map as kernels see it; at NULL: there is none. */
template <typename T>
struct view {
    T *at;
    uint64_t keeping; /* what the second-level cache is to do with it: see policies */
    uint32_t pitch;   /* bytes from one pixel to the next */
};
/* Channel c of pixel p < 2^32: one multiplication. */
template <typename T>
static __device__ __forceinline__ T *pixel(const view<T> &m, size_t p, int c) {
    return (T *)((char *)(m.at + c) + (uint64_t)(uint32_t)p * m.pitch);
}
/* Channels c .. c + 7 of pixel p. */
template <typename T>
static __device__ __forceinline__ void fetch8(const view<T> &m, size_t p, int c, eight<T> *e) {
    fetch8(pixel(m, p, c), m.keeping, e);
}
template <typename T>
static __device__ __forceinline__ void load8(const view<T> &m, size_t p, int c, float v[8]) {
    eight<T> e;
    fetch8(m, p, c, &e);
    widen8(e, v);
}
template <typename T>
static __device__ __forceinline__ void store8(const view<T> &m, size_t p, int c, float v[8]) {
    store8(pixel(m, p, c), m.keeping, v);
}

/* The block's number along x, counted from the last one where `back`. The passes over maps go by turns one way and the
 * other: each begins where the one before it ended, with what the second-level cache still has. */
static __device__ __forceinline__ int block_of(int back) {
    return (int)(back ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

/* For bf16 in five instructions, without a branch: x itself where its square is too small to matter, and elsewhere the
 * exponential is exact enough. Off by 2^-11 of the result at the most, at the border (2^-10.5), where bf16 rounds by
 * 2^-9. NaN stays NaN. */
template <typename T>
static __device__ __forceinline__ float elu(float x) {
    if (sizeof(T) == sizeof(float)) return x > 0 ? x : expm1f(x);
    const float below = at_once(exponential(x) - 1.0f);
    return x > -0.00069f ? x : below;
}

template <typename T>
static __device__ __forceinline__ void activate8(int act, float v[8]) {
    if (act == ACT_RELU) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = v[i] < 0 ? 0.0f : v[i]; /* this way round NaN stays NaN */
    } else if (act == ACT_ELU) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = elu<T>(v[i]);
    }
}

/* v *= act'(x) from the activation's output, y * scale. */
static __device__ __forceinline__ void activate_back8(int act, float v[8], const float y[8], float scale) {
    if (act == ACT_RELU) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = y[i] > 0 ? v[i] : 0.0f;
    } else if (act == ACT_ELU) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= y[i] > 0 ? 1.0f : y[i] * scale + 1.0f;
    }
}

/* struct drop as kernels see it, of a map. */
struct dropping {
    uint32_t keys[PHILOX_ROUNDS][2];
    uint32_t least; /* of 32 bits: the threshold in the upper half; 0: no dropout */
    float scale;
    uint32_t eights, first; /* of channels: in a pixel; before the first of this map */
};
static struct dropping dropping_of(const struct drop *d, const struct map *m) {
    struct dropping of;
    philox_keys(d->key, of.keys);
    of.least = d->threshold << 16;
    of.scale = 65536.0f / (float)(65536 - d->threshold);
    of.eights = (uint32_t)(m->stride / LAYERS_ALIGN), of.first = (uint32_t)(m->first / LAYERS_ALIGN);
    return of;
}

/* Two channels' bits, low half first. */
static __device__ __forceinline__ void drop2(const dropping &d, uint32_t word, float v[2]) {
    v[0] = word << 16 >= d.least ? v[0] * d.scale : 0.0f;
    v[1] = word >= d.least ? v[1] * d.scale : 0.0f;
}
/* Which step it is: to be read once, for behind a store it would be read again. */
struct moment {
    uint32_t step, epoch;
};
static __device__ __forceinline__ moment moment_of(const dropping &d, const struct step *s) {
    moment now = {0, 0};
    if (d.least > 0) now.step = s->step, now.epoch = s->epoch;
    return now;
}
/* The words of eight channels: c .. c + 7 of pixel p. */
static __device__ __forceinline__ void drop_words(const dropping &d, const moment &now, size_t p, int c,
                                                  uint32_t words[4]) {
    words[0] = (uint32_t)p * d.eights + d.first + (uint32_t)c / 8, words[1] = now.step, words[2] = now.epoch;
    words[3] = 0;
#pragma unroll
    for (int round = 0; round < PHILOX_ROUNDS; round++) philox_round(d.keys[round][0], d.keys[round][1], words);
}
static __device__ __forceinline__ void drop8(const dropping &d, const moment &now, size_t p, int c, float v[8]) {
    if (d.least == 0) return;
    uint32_t words[4];
    drop_words(d, now, p, c, words);
#pragma unroll
    for (int i = 0; i < 4; i++) drop2(d, words[i], v + 2 * i);
}

/* x / d for x < 2^31 without a division (Granlund and Montgomery 1994). */
struct divisor {
    uint32_t multiply, shift, by;
};
static struct divisor divisor_of(uint32_t d) {
    struct divisor r = {0, 0, d};
    while ((1u << r.shift) < d) r.shift++;
    r.multiply = (uint32_t)((((uint64_t)1 << 32) * (((uint64_t)1 << r.shift) - d)) / d + 1);
    return r;
}
static __device__ __forceinline__ uint32_t divide(uint32_t x, const struct divisor &d) {
    const uint32_t high = (uint32_t)(((uint64_t)x * d.multiply) >> 32);
    return (high + x) >> d.shift;
}

#include "layers_maps.cuh"
#include "layers_product.cuh"
#include "layers_window.cuh"

/* =========================================== images, losses, optimisers =========================================== */

template <typename T>
struct batch_of {
    const uint8_t *pixels;
    const uint32_t *order;
    const struct step *step;
    view<T> out;
    int h, w, c, stored, all, flip; /* all: pixels of the batch */
    uint32_t key[2];
};

template <typename T>
static __global__ void __launch_bounds__(THREADS) batch(batch_of<T> p) {
    after_previous();
    const int at = (int)blockIdx.x * THREADS + (int)threadIdx.x;
    if (at >= p.all) return;
    const int x = at % p.w, y = at / p.w % p.h, image = at / (p.w * p.h);
    const uint32_t i = p.step->first + (uint32_t)image, index = p.order != NULL ? p.order[i] : i;
    int flip = 0;
    if (p.flip) {
        const uint32_t counter[4] = {(uint32_t)image, p.step->step, p.step->epoch, 0};
        uint32_t words[4];
        philox(p.key, counter, words);
        flip = (int)(words[0] & 1);
    }
    const uint8_t *const from =
        p.pixels +
        (((size_t)index * (size_t)p.h + (size_t)y) * (size_t)p.w + (size_t)(flip ? p.w - 1 - x : x)) * (size_t)p.c;
    for (int c = 0; c < p.stored; c += 8) {
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = c + j < p.c ? (float)from[c + j] / 255.0f - 0.5f : 0.0f;
        store8(p.out, (size_t)at, c, v);
    }
}

struct loss_row {
    double fine, coarse;
    int fine_hit, coarse_hit;
};

static __device__ __forceinline__ double warp_sum(double v) {
    for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
    return v;
}

/* One head of one image, by one warp: its loss, whether it hits, and the gradient times weight (see struct op_loss). */
template <typename T>
static __device__ double head_loss(const float *z, int classes, int label, int softmax, double weight, T *gradient,
                                   int *hit) {
    const int lane = (int)threadIdx.x % 32;
    double largest = -INFINITY, sum = 0;
    for (int i = lane; i < classes; i += 32) largest = (double)z[i] > largest ? (double)z[i] : largest;
    for (int mask = 16; mask > 0; mask /= 2) {
        const double other = shuffle_xor(largest, mask);
        largest = other > largest ? other : largest;
    }
    const auto likelihood = [&](int i) { return softmax ? exp((double)z[i] - largest) : 1 / (1 + exp(-(double)z[i])); };
    const double mine = likelihood(label);
    int missed = 0;
    for (int i = lane; i < classes; i += 32) {
        const double q = likelihood(i);
        sum += q;
        if (i < label ? !((float)q < (float)mine) : !((float)q <= (float)mine)) missed = 1;
    }
    sum = warp_sum(sum);
    for (int mask = 16; mask > 0; mask /= 2) missed |= shuffle_xor(missed, mask);
    *hit = !missed;
    const double q = mine / sum;
    const int clipped = !softmax && (q < 1e-7 || q > 1 - 1e-7);
    if (gradient != NULL) {
        for (int i = lane; i < classes; i += 32) {
            const double p = likelihood(i);
            double g = p / sum - (i == label);
            if (!softmax) g = clipped ? 0 : p * (1 - p) / sum - (i == label ? 1 - p : 0);
            store1(gradient + i, (float)(g * weight));
        }
    }
    if (softmax) return log(sum) - ((double)z[label] - largest);
    return -log(q < 1e-7 ? 1e-7 : q > 1 - 1e-7 ? 1 - 1e-7 : q);
}

template <typename T>
struct loss_of {
    view<float> logits;
    view<T> gradient;
    int images, fine, coarse, column, stored, softmax;
    float coarse_weight;
    const uint8_t *fine_labels, *coarse_labels;
    const uint32_t *order;
    const struct step *step;
    struct loss_row *rows;
};

template <typename T>
static __global__ void __launch_bounds__(THREADS) loss(loss_of<T> p) {
    after_previous();
    const int image = (int)(blockIdx.x * THREADS + threadIdx.x) / 32, lane = (int)threadIdx.x % 32;
    if (image >= p.images) return;
    const uint32_t at = p.step->first + (uint32_t)image, index = p.order != NULL ? p.order[at] : at;
    const float *const z = pixel(p.logits, (size_t)image, 0);
    T *const g = p.gradient.at != NULL ? pixel(p.gradient, (size_t)image, 0) : NULL;
    struct loss_row row = {0, 0, 0, 0};
    if (g != NULL) { /* columns that belong to no head */
        for (int i = lane; i < p.stored; i += 32) {
            if (i >= p.fine && !(i >= p.column && i < p.column + p.coarse)) store1(g + i, 0);
        }
    }
    row.fine = head_loss(z, p.fine, p.fine_labels[index], p.softmax, 1.0 / p.images, g, &row.fine_hit);
    if (p.coarse > 0) {
        row.coarse =
            head_loss(z + p.column, p.coarse, p.coarse_labels[index], p.softmax,
                      (double)(p.coarse_weight / (float)p.images), g != NULL ? g + p.column : NULL, &row.coarse_hit);
    }
    if (lane == 0) p.rows[image] = row;
}

/* The sum over the block's threads, in their order. */
static __device__ double sum_threads(double v, double *shared) {
    barrier();
    shared[threadIdx.x] = v;
    for (int n = THREADS / 2; n > 0; n /= 2) {
        barrier();
        if ((int)threadIdx.x < n) shared[threadIdx.x] += shared[(int)threadIdx.x + n];
    }
    barrier();
    return shared[0];
}

static __global__ void __launch_bounds__(THREADS)
    loss_total(const struct loss_row *rows, int images, struct tally *tally) {
    after_previous();
    double *const shared = (double *)shared_memory();
    double fine = 0, coarse = 0, fine_hits = 0, coarse_hits = 0; /* hits: exact in double */
    for (int i = (int)threadIdx.x; i < images; i += THREADS) {
        fine += rows[i].fine;
        coarse += rows[i].coarse;
        fine_hits += rows[i].fine_hit;
        coarse_hits += rows[i].coarse_hit;
    }
    fine = sum_threads(fine, shared);
    coarse = sum_threads(coarse, shared);
    fine_hits = sum_threads(fine_hits, shared);
    coarse_hits = sum_threads(coarse_hits, shared);
    if (threadIdx.x > 0) return;
    tally->fine_loss += fine;
    tally->coarse_loss += coarse;
    tally->fine_hits += (uint64_t)fine_hits;
    tally->coarse_hits += (uint64_t)coarse_hits;
    tally->images += (uint64_t)images;
}

/* mu_t of Nadam (Dozat 2016, as Keras 2.0.6 schedules it). */
static __device__ double nadam_mu(double t) { return 0.9 * (1 - 0.5 * pow(0.96, 0.004 * t)); }

/* Four numbers, 16-byte aligned, or the first `n` of them (the rest: zeros). */
static __device__ __forceinline__ void load4(const float *p, int n, float v[4]) {
    if (n == 4) {
        const float4 a = *(const float4 *)p;
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = i < n ? p[i] : 0.0f;
    }
}
static __device__ __forceinline__ void store4(float *p, int n, const float v[4]) {
    if (n == 4) {
        *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i < n) p[i] = v[i];
        }
    }
}
static __device__ __forceinline__ void store4(bf16 *p, int n, const float v[4]) {
    if (n == 4) {
        *(uint2 *)p = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i < n) store1(p + i, v[i]);
        }
    }
}

enum { OPTIMISE_EACH = 16 * THREADS };
template <typename T>
struct optimise_of {
    size_t n, n_decayed;
    float *value, *first_moment, *second_moment;
    const float *gradient;
    T *shadow; /* of the decayed; NULL: the values are what the products read */
    int kind;
    float lr, l2;
    const struct step *step;
    double *squares; /* [blocks] */
};

struct parameters4 {
    float w[4], g[4], m[4], v[4];
    int n, decayed; /* how many of the four there are, and of those with a penalty */
};

template <typename T>
static __global__ void __launch_bounds__(THREADS) optimise(optimise_of<T> p) {
    after_previous();
    double *const shared = (double *)shared_memory();
    float *const now = (float *)(shared + THREADS); /* the step's constants: learning rate; m's and g's factor; v's */
    const size_t first = (size_t)blockIdx.x * OPTIMISE_EACH + (size_t)threadIdx.x * 4;
    const auto fetch = [&](int k, parameters4 *to) {
        const size_t i = first + (size_t)k * THREADS * 4;
        to->n = i >= p.n ? 0 : p.n - i < 4 ? (int)(p.n - i) : 4;
        to->decayed = i >= p.n_decayed ? 0 : p.n_decayed - i < 4 ? (int)(p.n_decayed - i) : 4;
        if (to->n == 0) return;
        load4(p.value + i, to->n, to->w);
        load4(p.gradient + i, to->n, to->g);
        load4(p.second_moment + i, to->n, to->v);
        if (p.kind != OPT_RMSPROP) load4(p.first_moment + i, to->n, to->m);
    };
    struct parameters4 next; /* on their way while the four before are worked on */
    fetch(0, &next);
    if (threadIdx.x == 0) {
        const double t = (double)p.step->t + 1;
        now[0] = p.lr, now[1] = 1, now[2] = 0, now[3] = 1;
        if (p.kind == OPT_ADAM) {
            now[0] = (float)((double)p.lr * sqrt(1 - pow(0.999, t)) / (1 - pow(0.9, t)));
        } else if (p.kind == OPT_NADAM) {
            const double mu = nadam_mu(t), after = nadam_mu(t + 1), product = p.step->mu_product * mu;
            now[1] = (float)(after / (1 - product * after));
            now[2] = (float)((1 - mu) / (1 - product));
            now[3] = (float)(1 / (1 - pow(0.999, t)));
        }
    }
    barrier();
    const float lr = now[0], by_m = now[1], by_g = now[2], by_v = now[3], epsilon = 1e-8f;
    float squares = 0;
    for (int k = 0; k < OPTIMISE_EACH / (4 * THREADS) && next.n > 0; k++) {
        const size_t i = first + (size_t)k * THREADS * 4;
        struct parameters4 x = next;
        next.n = 0;
        if (k + 1 < OPTIMISE_EACH / (4 * THREADS)) fetch(k + 1, &next);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            if (q < x.decayed) {
                x.g[q] += 2 * p.l2 * x.w[q];
                squares += x.w[q] * x.w[q];
            }
            if (p.kind == OPT_RMSPROP) {
                x.v[q] = 0.9f * x.v[q] + 0.1f * x.g[q] * x.g[q];
                x.w[q] -= lr * x.g[q] / (sqrtf(x.v[q]) + epsilon);
            } else {
                x.m[q] = 0.9f * x.m[q] + 0.1f * x.g[q];
                x.v[q] = 0.999f * x.v[q] + 0.001f * x.g[q] * x.g[q];
                x.w[q] -= lr * (by_m * x.m[q] + by_g * x.g[q]) / (sqrtf(x.v[q] * by_v) + epsilon);
            }
        }
        if (p.kind != OPT_RMSPROP) store4(p.first_moment + i, x.n, x.m);
        store4(p.second_moment + i, x.n, x.v);
        store4(p.value + i, x.n, x.w);
        if (p.shadow != NULL) store4(p.shadow + i, x.decayed, x.w);
    }
    const double total = sum_threads((double)squares, shared);
    if (threadIdx.x == 0) p.squares[blockIdx.x] = total;
}

/* [blocks]: the sum of squares of OPTIMISE_EACH values. */
static __global__ void __launch_bounds__(THREADS) squares_of(const float *value, size_t n, double *squares) {
    after_previous();
    double *const shared = (double *)shared_memory();
    float sum = 0;
#pragma unroll 4
    for (int k = 0; k < OPTIMISE_EACH / THREADS; k++) {
        const size_t i = (size_t)blockIdx.x * OPTIMISE_EACH + (size_t)k * THREADS + threadIdx.x;
        if (i < n) sum += value[i] * value[i];
    }
    const double total = sum_threads((double)sum, shared);
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

/* The end of a step: the L2 loss from the optimiser's sums (blocks 0: none), and OP_NEXT (images 0: not yet). */
static __global__ void __launch_bounds__(THREADS)
    end_step(const double *squares, int blocks, double by, struct tally *tally, struct step *step, int images,
             int training) {
    after_previous();
    double *const shared = (double *)shared_memory();
    if (blocks > 0) {
        double sum = 0;
        for (int i = (int)threadIdx.x; i < blocks; i += THREADS) sum += squares[i];
        sum = sum_threads(sum, shared);
        if (threadIdx.x == 0) tally->l2 += by * sum;
    }
    if (threadIdx.x > 0 || images == 0) return;
    step->step++;
    step->first += (uint32_t)images;
    if (training) step->mu_product *= nadam_mu((double)++step->t);
}

/* What keeping() makes, for view.keeping: to be worked out once, not for each access. */
static __global__ void __launch_bounds__(THREADS) policies(uint64_t *of) {
    after_previous();
    if (threadIdx.x == 0) of[0] = keeping(0), of[1] = keeping(1);
}

/* The shadow. */
static __global__ void __launch_bounds__(THREADS) narrow(const float *from, bf16 *to, size_t n) {
    after_previous();
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) store1(to + i, from[i]);
}
#endif
