/* layers_kernels.cuh - the CUDA kernels; layers.cu alone includes this, and launches them.
 *
 * Kernels are templates over what a map is stored as: bf16 (sums in fp32, master weights in fp32, a bf16 copy of the
 * kernels, the *shadow*, made by the optimiser in passing) or float (`--precision fp32`, for checking). A thread's
 * unit of work is eight channels of a pixel: LAYERS_ALIGN channels, 16 bytes of bf16, one Philox call.
 *
 * A convolution is a product of matrices that are never built (implicit GEMM): *product* makes the output or the data
 * gradient, one row for each pixel; *weight_product* makes the weight gradient, summed over pixels, which are split
 * among blocks and added up in a fixed order. Both keep four stages of tiles in shared memory, fetched ahead with
 * cp.async, swizzled so that ldmatrix meets no bank twice, and multiply with mma.sync (sm_80 and later). Where stride
 * is 1 and the shape suits, the kernels of layers_window.cuh do the same with less fetching. What rides along (bias,
 * activation, dropout, residual sum, statistics) is done by *finish* on the tile's way out.
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
    int stride, once;
};
template <typename T>
static view<T> view_of(const struct map *m) {
    view<T> v = {(T *)m->at, m->stride, m->once};
    return v;
}
template <typename T>
static __device__ __forceinline__ T *pixel(const view<T> &m, size_t p, int c) {
    return m.at + p * (size_t)m.stride + c;
}
/* Channels c .. c + 7 of pixel p. */
template <typename T>
static __device__ __forceinline__ void fetch8(const view<T> &m, size_t p, int c, eight<T> *e) {
    fetch8(pixel(m, p, c), keeping(m.once), e);
}
template <typename T>
static __device__ __forceinline__ void load8(const view<T> &m, size_t p, int c, float v[8]) {
    eight<T> e;
    fetch8(m, p, c, &e);
    widen8(e, v);
}
template <typename T>
static __device__ __forceinline__ void store8(const view<T> &m, size_t p, int c, float v[8]) {
    store8(pixel(m, p, c), keeping(m.once), v);
}

/* The block's number along x, counted from the last one where `back`. The passes over maps go by turns one way and the
 * other: each begins where the one before it ended, with what the second-level cache still has. */
static __device__ __forceinline__ int block_of(int back) {
    return (int)(back ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

/* For bf16 with an error far below what is stored, but a third of the instructions, and none of them a branch. NaN
 * stays NaN. */
template <typename T>
static __device__ __forceinline__ float elu(float x) {
    if (sizeof(T) == sizeof(float)) return x > 0 ? x : expm1f(x);
    const float below = x > 0 ? 0.0f : x;
    const float near = below + below * below * (0.5f + below * (1.0f / 6)), far = exponential(below) - 1.0f;
    return fmaxf(x, 0.0f) + (below > -0.04f ? near : far);
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

/* Dropout of eight channels, the first of which is element e of its map (see struct drop). */
static __device__ __forceinline__ void drop8(const struct drop &d, const struct step *s, size_t e, float v[8]) {
    const uint32_t counter[4] = {(uint32_t)(e / 8), s->step, s->epoch, 0};
    const float scale = 65536.0f / (float)(65536 - d.threshold);
    uint32_t words[4];
    philox(d.key, counter, words);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t bits = (words[i / 2] >> (16 * (i % 2))) & 0xffff;
        v[i] = bits >= d.threshold ? v[i] * scale : 0.0f;
    }
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

/* ========================================== what rides along with a product ======================================= */

/* Finishes eight channels of the result on their way out. Forward, as struct op_conv says it; for the data gradient,
 * as struct op_conv_data does (out: its gradient). */
template <typename T>
struct ending {
    view<T> out, add, dropped;
    float *wide; /* out, where it is stored as float; NULL: out is */
    const float *bias;
    int act;
    struct drop drop;
    int drop_stride, drop_first; /* of the map whose elements the mask counts */
    const struct step *step;
    float *partials; /* [rows of blocks][2][columns], of statistics or sums; or NULL */
    /* the data gradient's */
    view<T> y, branch, branch_y, bn_x;
    float y_scale;
    int branch_act;
    const float *mean;
};

/* v: channels c .. c + 7 of pixel p; left as stored. */
template <typename T>
static __device__ __forceinline__ void finish_forward(const ending<T> &o, size_t p, int c, float v[8]) {
    if (o.bias != NULL) {
        float b[8];
        load8(o.bias + c, b);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += b[i];
    }
    activate8<T>(o.act, v);
    if (o.add.at != NULL) {
        float a[8];
        load8(o.add, p, c, a);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += a[i];
    }
    float d[8];
#pragma unroll
    for (int i = 0; i < 8; i++) d[i] = v[i];
    if (o.wide != NULL) {
        store8(o.wide + p * (size_t)o.out.stride + c, v);
    } else if (o.out.at != NULL) {
        store8(o.out, p, c, v);
    }
    if (o.dropped.at != NULL) {
        if (o.drop.threshold > 0) drop8(o.drop, o.step, p * (size_t)o.drop_stride + (size_t)(o.drop_first + c), d);
        store8(o.dropped, p, c, d);
    }
}

/* What finishing a data gradient reads besides, of eight channels of a pixel. It is fetched before anything is stored,
 * for several pixels at once: behind a store a load would have to wait (the maps might be the same), and then for long.
 */
template <typename T>
struct beside {
    eight<T> add, y, bn_x, branch_y;
};
template <typename T>
static __device__ __forceinline__ void fetch_beside(const ending<T> &o, size_t p, int c, beside<T> *with) {
    if (o.add.at != NULL) fetch8(o.add, p, c, &with->add);
    if (o.act != ACT_LINEAR) fetch8(o.y, p, c, &with->y);
    if (o.partials != NULL) fetch8(o.bn_x, p, c, &with->bn_x);
    if (o.branch_act != ACT_LINEAR) fetch8(o.branch_y, p, c, &with->branch_y);
}

/* xg: v * (bn_x - mean), where a normalisation wants the sums. */
template <typename T>
static __device__ __forceinline__ void finish_data(const ending<T> &o, size_t p, int c, const beside<T> &with,
                                                   float v[8], float xg[8]) {
    float other[8];
    if (o.drop.threshold > 0) drop8(o.drop, o.step, p * (size_t)o.drop_stride + (size_t)(o.drop_first + c), v);
    if (o.add.at != NULL) {
        widen8(with.add, other);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += other[i];
    }
    if (o.act != ACT_LINEAR) {
        widen8(with.y, other);
        activate_back8(o.act, v, other, o.y_scale);
    }
    store8(o.out, p, c, v);
    if (o.partials != NULL) {
        float mean[8];
        widen8(with.bn_x, other);
        load8(o.mean + c, mean);
#pragma unroll
        for (int i = 0; i < 8; i++) xg[i] = v[i] * (other[i] - mean[i]);
    }
    if (o.branch.at != NULL) {
        float b[8];
#pragma unroll
        for (int i = 0; i < 8; i++) b[i] = v[i];
        if (o.branch_act != ACT_LINEAR) {
            widen8(with.branch_y, other);
            activate_back8(o.branch_act, b, other, 1);
        }
        store8(o.branch, p, c, b);
    }
}

/* ================================================ tiles and their product ========================================= */

/* A tile in shared memory is rows of C chunks of 16 bytes. Eight rows that an ldmatrix reads at a time must lie in
 * different banks: rows of 64 bytes are swizzled, wider ones stand an odd number of chunks apart. */
template <int C>
static __device__ __forceinline__ int chunk_index(int row, int chunk) {
    static_assert(C % 2 == 0, "odd with the one between");
    return C == 4 ? row * 4 + (chunk ^ ((row >> 1) & 3)) : row * (C + 1) + chunk;
}
template <int C>
static __device__ __forceinline__ unsigned char *chunk_at(unsigned char *tile, int row, int chunk) {
    return tile + chunk_index<C>(row, chunk) * 16;
}
template <int C>
static __device__ __forceinline__ float float_at(const unsigned char *tile, int row, int i) {
    return ((const float *)(tile + chunk_index<C>(row, i / 4) * 16))[i % 4];
}

/* How a tile lies: BY_ROW, a row is a row (or column) of the result, and its four chunks are the depth; BY_DEPTH, a row
 * is a step of the depth. */
enum { BY_ROW, BY_DEPTH };

/* Tiles of BM x BN results, BK deep (64 bytes); four warps one below the other, or, where BN is 128, two by four. A
 * warp's part is WM x WN; its accumulators are fragments of mma.m16n8k16: lane l has rows l / 4 and l / 4 + 8, columns
 * 2 (l % 4) and the next. */
enum { BM = 128, WM = 32, STAGES = 4 };
/* Floats from one row of a result to the next on its way out: fragments of four rows are written to different banks. */
#define OUT_PITCH(columns) ((columns) + ((columns) % 16 == 0 ? 8 : 16))
template <typename T, int BN>
struct tile {
    enum { E = 16 / sizeof(T), BK = 4 * E }; /* elements of a chunk; depth */
    enum { SIDE = BN == 128 ? 2 : 1, WN = BN / SIDE, WORKERS = 128 * SIDE, BLOCKS = BN == 128 ? 2 : 3 };
    enum { ROW_CHUNKS = 4, A_CHUNKS = BM / E, B_CHUNKS = BN / E }; /* of a row: BY_ROW; BY_DEPTH */
    enum { A_BYTES = BK * (A_CHUNKS + 1) * 16, B_BYTES = BK * (B_CHUNKS + 1) * 16, STAGE = A_BYTES + B_BYTES };
    static_assert(A_BYTES >= BM * 64 && B_BYTES >= BN * 64, "a stage holds tiles that lie either way");
    enum { FETCH_A = BM * 4 / WORKERS, FETCH_B = (BN * 4 + WORKERS - 1) / WORKERS }; /* chunks a worker fetches */
    /* The result on its way out. */
    enum { GROUPS = BN / 8, LINES = WORKERS / GROUPS, LD = OUT_PITCH(BN) };
    enum { OUT = BM * LD * 4, PARTIAL = LINES * BN * 4, STAGING = OUT + PARTIAL + BN * 4 };
    enum { PRODUCT_BYTES = (int)STAGES * STAGE > (int)STAGING ? (int)STAGES *STAGE : (int)STAGING };
    enum { WEIGHT_BYTES = (int)STAGES * STAGE };
    float sums[WM / 16][WN / 8][4];
};

/* The fragments of B for WN columns from n0 on, 16 deep: the k-th of the stage. */
template <int WN, int CB, int LIES>
static __device__ __forceinline__ void load_columns(uint32_t fb[][2], unsigned char *b, int n0, int k) {
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < WN / 16; j++) { /* two columns of eight at a time */
        const int n = n0 + j * 16;
        uint32_t r[4];
        if (LIES == BY_ROW) {
            load_matrix4(r, chunk_at<CB>(b, n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
        } else {
            load_matrix4_transposed(r, chunk_at<CB>(b, 16 * k + lane % 16, n / 8 + lane / 16));
        }
        fb[2 * j][0] = r[0];
        fb[2 * j][1] = r[1];
        fb[2 * j + 1][0] = r[2];
        fb[2 * j + 1][1] = r[3];
    }
}

/* sums += A B over one stage. */
template <int BN, int A_LIES, int B_LIES>
static __device__ __forceinline__ void multiply(tile<bf16, BN> &to, unsigned char *a, unsigned char *b) {
    typedef tile<bf16, BN> W;
    enum { CA = A_LIES == BY_ROW ? (int)W::ROW_CHUNKS : (int)W::A_CHUNKS };
    enum { CB = B_LIES == BY_ROW ? (int)W::ROW_CHUNKS : (int)W::B_CHUNKS };
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int m0 = warp % 4 * WM, n0 = warp / 4 * W::WN;
#pragma unroll
    for (int k = 0; k < 2; k++) { /* 16 deep each */
        uint32_t fa[WM / 16][4], fb[W::WN / 8][2];
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
            const int m = m0 + i * 16;
            if (A_LIES == BY_ROW) {
                load_matrix4(fa[i], chunk_at<CA>(a, m + lane % 16, 2 * k + lane / 16));
            } else {
                load_matrix4_transposed(fa[i],
                                        chunk_at<CA>(a, 16 * k + lane % 8 + lane / 16 * 8, m / 8 + lane / 8 % 2));
            }
        }
        load_columns<W::WN, CB, B_LIES>(fb, b, n0, k);
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
#pragma unroll
            for (int j = 0; j < W::WN / 8; j++) mma_bf16(to.sums[i][j], fa[i], fb[j]);
        }
    }
}

/* The same in plain fp32, each lane for the results it would hold. */
template <int BN, int A_LIES, int B_LIES>
static __device__ __forceinline__ void multiply(tile<float, BN> &to, unsigned char *a, unsigned char *b) {
    typedef tile<float, BN> W;
    enum { CA = A_LIES == BY_ROW ? (int)W::ROW_CHUNKS : (int)W::A_CHUNKS };
    enum { CB = B_LIES == BY_ROW ? (int)W::ROW_CHUNKS : (int)W::B_CHUNKS };
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int m0 = warp % 4 * WM + lane / 4, n0 = warp / 4 * W::WN + lane % 4 * 2;
#pragma unroll 4
    for (int k = 0; k < W::BK; k++) {
        float x[WM / 8], y[W::WN / 4];
#pragma unroll
        for (int i = 0; i < WM / 8; i++)
            x[i] = A_LIES == BY_ROW ? float_at<CA>(a, m0 + i * 8, k) : float_at<CA>(a, k, m0 + i * 8);
#pragma unroll
        for (int j = 0; j < W::WN / 4; j++) {
            const int n = n0 + j / 2 * 8 + j % 2;
            y[j] = B_LIES == BY_ROW ? float_at<CB>(b, n, k) : float_at<CB>(b, k, n);
        }
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
#pragma unroll
            for (int j = 0; j < W::WN / 8; j++) {
#pragma unroll
                for (int q = 0; q < 4; q++) to.sums[i][j][q] += x[2 * i + q / 2] * y[2 * j + q % 2];
            }
        }
    }
}

/* ===================================== convolution, forward and data gradient ===================================== */

/* Rows of the result are pixels of `h` x `w` images. Forward, pixel (y, x) reads source pixels y * stride - pad + r
 * through taps r. For the data gradient of a strided convolution, the pixels whose y % stride and x % stride are the
 * same make a product of their own, for only every stride-th tap reaches them; blocks that follow each other have the
 * same tile of each, so that what they read, and the lines that they write parts of, meet in a cache. */
template <typename T>
struct product_of {
    view<T> source;
    int source_h, source_w, chunks; /* chunks: of 16 bytes, in a source pixel */
    const T *weight;                /* [k][k][in_stored][out_stored] */
    int in_stored, out_stored;
    int images, h, w, k, stride, pad;
    int columns, tiles_m, tiles_n; /* columns: channels of the result */
    int back;                      /* for block_of */
    struct ending<T> end;
};

/* sum[i]: a thread's sums for the eight columns 8 (threadIdx % (BN / 8)) and on, of LINES threads each. total[BN], in
 * shared memory: of all of them, added in the threads' order. */
template <int BN, int LINES>
static __device__ __forceinline__ void sum_columns(const float sum[8], float *partial, float *total) {
    const int t = (int)threadIdx.x;
    barrier();
    if (t < LINES * (BN / 8)) {
#pragma unroll
        for (int i = 0; i < 8; i++) partial[t * 8 + i] = sum[i]; /* [LINES][BN] */
    }
    barrier();
    if (t < BN) {
        float s = 0;
        for (int i = 0; i < LINES; i++) s += partial[i * BN + t];
        total[t] = s;
    }
    barrier();
}

/* The way out for BM rows of a result that lie in shared memory as floats, OUT_PITCH(BN) apart: a thread has eight
 * channels of a pixel at a time. n: how many of the rows there are; pixel_of(row): where one belongs; block: which of
 * the partial statistics or sums are this tile's; partial: LINES * BN floats and BN more. AHEAD:
 * pixels whose other maps are fetched together. */
template <typename T, int BN, int WORKERS, int DATA, int AHEAD, typename F>
static __device__ __forceinline__ void finish_tile(const ending<T> &end, float *out, float *partial, int n, int n0,
                                                   int columns, size_t block, const F &pixel_of) {
    enum { GROUPS = BN / 8, LINES = WORKERS / GROUPS, LD = OUT_PITCH(BN) };
    const int t = (int)threadIdx.x, column = t % GROUPS * 8, inside = n0 + column < columns && t < GROUPS * LINES;
    float first[8] = {}, second[8] = {}; /* sums of v; and, for the data gradient, of v (x - mean) */
    for (int row = t / GROUPS; row < n; row += AHEAD * LINES) {
        if (!inside) continue;
        beside<T> with[AHEAD];
        if (DATA) {
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                if (row + k * LINES < n) fetch_beside(end, pixel_of(row + k * LINES), n0 + column, &with[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const int at = row + k * LINES;
            if (at >= n) break;
            float v[8], xg[8] = {};
            load8(out + at * LD + column, v);
            if (DATA) {
                finish_data(end, pixel_of(at), n0 + column, with[k], v, xg);
            } else {
                finish_forward(end, pixel_of(at), n0 + column, v);
                store8(out + at * LD + column, v);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) first[i] += v[i], second[i] += xg[i];
        }
    }
    if (end.partials == NULL) return;
    float *const total = partial + LINES * BN, *const to = end.partials + block * 2 * (size_t)columns + n0;
    sum_columns<BN, LINES>(first, partial, total);
    if (t < BN && n0 + t < columns) to[t] = total[t];
    if (!DATA && inside) { /* of the squares about these rows' own mean */
        const float by = 1 / (float)n;
        float mean[8];
        load8(total + column, mean);
#pragma unroll
        for (int i = 0; i < 8; i++) mean[i] *= by;
        for (int row = t / GROUPS; row < n; row += LINES) {
            float v[8];
            load8(out + row * LD + column, v);
#pragma unroll
            for (int i = 0; i < 8; i++) second[i] += (v[i] - mean[i]) * (v[i] - mean[i]);
        }
    }
    sum_columns<BN, LINES>(second, partial, total);
    if (t < BN && n0 + t < columns) to[columns + t] = total[t];
}

template <typename T, int BN, int DATA>
static __global__ void __launch_bounds__((tile<T, BN>::WORKERS), (tile<T, BN>::BLOCKS)) product(product_of<T> p) {
    after_previous();
    typedef tile<T, BN> W;
    enum { E = W::E, BK = W::BK, APART = W::WORKERS / 4 };
    unsigned char *const shared = shared_memory();
    const int t = (int)threadIdx.x;
    const int apart = DATA ? p.stride : 1, step = DATA ? 1 : p.stride, sign = DATA ? -1 : 1;
    const int block = block_of(p.back), part_of = block % (apart * apart), tile = block / (apart * apart);
    const int tile_m = tile / p.tiles_n, n0 = tile % p.tiles_n * BN;

    /* Which pixels, and through which taps. */
    const int base_y = part_of / apart, base_x = part_of % apart;
    const int first_y = DATA ? (base_y + p.pad) % apart : 0, first_x = DATA ? (base_x + p.pad) % apart : 0;
    const int taps_y = (p.k - first_y + apart - 1) / apart, taps_x = (p.k - first_x + apart - 1) / apart;
    const int from_y = DATA ? (base_y + p.pad - first_y) / apart : -p.pad,
              from_x = DATA ? (base_x + p.pad - first_x) / apart : -p.pad;
    const int rows_h = (p.h - base_y + apart - 1) / apart, rows_w = (p.w - base_x + apart - 1) / apart;
    const int rows = p.images * rows_h * rows_w, per_line = rows_w > 0 ? rows_w : 1,
              per_image = rows > 0 ? rows_w * rows_h : 1;
    const int slabs = (taps_y * taps_x * p.chunks + 3) / 4;

    /* A thread fetches chunk t % 4 of a slab, for some rows of A (and, BY_ROW, of B): the tap and channel that the
     * chunk means move on with the slabs. */
    const int q = t % 4;
    int tap_y = 0, tap_x = 0, c = q;
    const T *image[W::FETCH_A];
    int at_y[W::FETCH_A], at_x[W::FETCH_A];
#pragma unroll
    for (int i = 0; i < W::FETCH_A; i++) {
        const int m = tile_m * BM + t / 4 + i * APART;
        const int y = m % per_image / per_line;
        image[i] =
            p.source.at + (size_t)(m / per_image) * (size_t)p.source_h * (size_t)p.source_w * (size_t)p.source.stride;
        at_y[i] = m < rows ? y * step + from_y : -(1 << 20);
        at_x[i] = m % per_line * step + from_x;
    }
    const auto settle = [&]() {
        while (c >= p.chunks) {
            c -= p.chunks;
            if (++tap_x == taps_x) tap_x = 0, tap_y++;
        }
    };
    const auto fetch = [&](int slab) {
        unsigned char *const a = shared + slab % STAGES * W::STAGE, *const b = a + W::A_BYTES;
        if (slab < slabs) {
            settle();
            const int inside = tap_y < taps_y;
#pragma unroll
            for (int i = 0; i < W::FETCH_A; i++) {
                const int y = at_y[i] + sign * tap_y, x = at_x[i] + sign * tap_x;
                const int ok = inside && (unsigned)y < (unsigned)p.source_h && (unsigned)x < (unsigned)p.source_w;
                const T *from =
                    ok ? image[i] + (size_t)(y * p.source_w + x) * (size_t)p.source.stride + c * E : p.source.at;
                copy_async(chunk_at<4>(a, t / 4 + i * APART, q), from, ok ? 16 : 0, keeping(p.source.once));
            }
            if (DATA) {
                const int tap = (first_y + apart * tap_y) * p.k + first_x + apart * tap_x;
#pragma unroll
                for (int i = 0; i < W::FETCH_B; i++) {
                    const int n = t / 4 + i * APART;
                    const int ok = inside && n0 + n < p.columns;
                    if (n < BN) {
                        const T *from =
                            ok ? p.weight +
                                     ((size_t)tap * (size_t)p.in_stored + (size_t)(n0 + n)) * (size_t)p.out_stored +
                                     c * E
                               : p.weight;
                        copy_async(chunk_at<4>(b, n, q), from, ok ? 16 : 0);
                    }
                }
            } else {
#pragma unroll
                for (int i = 0; i < W::FETCH_B; i++) {
                    const int row = (t + i * W::WORKERS) / W::B_CHUNKS, chunk = (t + i * W::WORKERS) % W::B_CHUNKS;
                    const int k = slab * BK + row;
                    const int ok = k < p.k * p.k * p.in_stored && n0 + chunk * E < p.columns;
                    if (row < BK) {
                        const T *from = ok ? p.weight + (size_t)k * (size_t)p.out_stored + n0 + chunk * E : p.weight;
                        copy_async(chunk_at<W::B_CHUNKS>(b, row, chunk), from, ok ? 16 : 0);
                    }
                }
            }
            c += 4;
        }
        copy_commit(); /* an empty group too, so that they can be counted */
    };

    W work = {};
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) fetch(s);
    for (int slab = 0; slab < slabs; slab++) {
        copy_wait<STAGES - 2>();
        barrier();
        fetch(slab + STAGES - 1);
        unsigned char *const a = shared + slab % STAGES * W::STAGE;
        multiply<BN, BY_ROW, DATA ? BY_ROW : BY_DEPTH>(work, a, a + W::A_BYTES);
    }
    copy_wait<0>();
    barrier();

    /* Out, through shared memory, so that a thread has eight channels of a pixel. */
    float *const out = (float *)shared;
    const int warp = t / 32, lane = t % 32;
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#pragma unroll
        for (int j = 0; j < W::WN / 8; j++) {
            const int row = warp % 4 * WM + i * 16 + lane / 4, column = warp / 4 * W::WN + j * 8 + lane % 4 * 2;
            const float *const v = work.sums[i][j];
            *(float2 *)(out + row * W::LD + column) = make_float2(v[0], v[1]);
            *(float2 *)(out + (row + 8) * W::LD + column) = make_float2(v[2], v[3]);
        }
    }
    barrier();
    const auto pixel_of = [&](int row) {
        const int m = tile_m * BM + row;
        if (apart == 1) return (size_t)m;
        const int image = m / per_image, y = m % per_image / per_line, x = m % per_line;
        return ((size_t)image * (size_t)p.h + (size_t)(y * apart + base_y)) * (size_t)p.w +
               (size_t)(x * apart + base_x);
    };
    const int n = rows - tile_m * BM < BM ? rows - tile_m * BM : BM;
    finish_tile < T, BN, W::WORKERS, DATA,
        DATA &&BN<128 ? 2 : 1>(p.end, out, out + BM * W::LD, n, n0, p.columns,
                               (size_t)part_of * (size_t)p.tiles_m + (size_t)tile_m, pixel_of);
}

/* ============================================== the weight gradient =============================================== */

/* Rows of the result are (tap, input channel), its columns output channels; the depth is pixels. The bias's gradient,
 * the sum of the gradient's columns, is made by the blocks of the first rows, from the tiles that they fetch anyway,
 * and stands as one more row behind the partial result. */
template <typename T>
struct weight_product_of {
    view<T> source, gradient;
    int source_h, source_w, chunks;
    struct divisor w, h; /* of the gradient's map */
    int pixels, each;    /* in all; for a block (blockIdx.z): a multiple of the depth */
    int k, stride, pad;
    int rows, columns, tiles_n, bias; /* bias: it is wanted */
    float *partials;                  /* [blocks of pixels][rows + bias][columns] */
};

static __device__ __forceinline__ void add_chunk(const unsigned char *chunk, float sum[8], const bf16 *) {
    float v[8];
    load8((const bf16 *)chunk, v);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] += v[i];
}
static __device__ __forceinline__ void add_chunk(const unsigned char *chunk, float sum[4], const float *) {
    const float4 v = *(const float4 *)chunk;
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
}

template <typename T, int BN>
static __global__ void __launch_bounds__((tile<T, BN>::WORKERS), (tile<T, BN>::BLOCKS))
    weight_product(weight_product_of<T> p) {
    after_previous();
    typedef tile<T, BN> W;
    enum { E = W::E, BK = W::BK, CA = W::A_CHUNKS, CB = W::B_CHUNKS, A_LINES = W::WORKERS / CA };
    unsigned char *const shared = shared_memory();
    const int t = (int)threadIdx.x;
    const int m0 = (int)blockIdx.x / p.tiles_n * BM, n0 = (int)blockIdx.x % p.tiles_n * BN;
    const int begin = (int)blockIdx.z * p.each, end = p.pixels - begin < p.each ? p.pixels : begin + p.each;
    const int slabs = (end - begin + BK - 1) / BK;

    /* A thread fetches the same chunk of rows, that is, tap and channels, all along. */
    const int chunk = m0 / E + t % CA, tap = chunk / p.chunks, c = chunk % p.chunks;
    const int tap_y = tap / p.k - p.pad, tap_x = tap % p.k - p.pad;
    const auto fetch = [&](int slab) {
        unsigned char *const a = shared + slab % STAGES * W::STAGE, *const b = a + W::A_BYTES;
        if (slab < slabs) {
#pragma unroll
            for (int i = 0; i < W::FETCH_A; i++) {
                const int row = t / CA + i * A_LINES, pixel = begin + slab * BK + row;
                const uint32_t line = divide((uint32_t)pixel, p.w), image = divide(line, p.h);
                const int y = (int)(line - image * p.h.by) * p.stride + tap_y,
                          x = (int)((uint32_t)pixel - line * p.w.by) * p.stride + tap_x;
                const int ok = pixel < end && tap < p.k * p.k && (unsigned)y < (unsigned)p.source_h &&
                               (unsigned)x < (unsigned)p.source_w;
                const T *from =
                    ok ? p.source.at +
                             (((size_t)image * (size_t)p.source_h + (size_t)y) * (size_t)p.source_w + (size_t)x) *
                                 (size_t)p.source.stride +
                             c * E
                       : p.source.at;
                copy_async(chunk_at<CA>(a, row, t % CA), from, ok ? 16 : 0, keeping(p.source.once));
            }
#pragma unroll
            for (int i = 0; i < W::FETCH_B; i++) {
                const int row = (t + i * W::WORKERS) / CB, column = (t + i * W::WORKERS) % CB;
                const int pixel = begin + slab * BK + row, ok = pixel < end && n0 + column * E < p.columns;
                if (row < BK) {
                    const T *from = ok ? p.gradient.at + (size_t)pixel * (size_t)p.gradient.stride + n0 + column * E
                                       : p.gradient.at;
                    copy_async(chunk_at<CB>(b, row, column), from, ok ? 16 : 0, keeping(p.gradient.once));
                }
            }
        }
        copy_commit();
    };

    W work = {};
    float bias[8] = {};
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) fetch(s);
    for (int slab = 0; slab < slabs; slab++) {
        copy_wait<STAGES - 2>();
        barrier();
        fetch(slab + STAGES - 1);
        unsigned char *const a = shared + slab % STAGES * W::STAGE;
        multiply<BN, BY_DEPTH, BY_DEPTH>(work, a, a + W::A_BYTES);
        if (p.bias && m0 == 0 && t < W::GROUPS * W::LINES) { /* columns of eight, every LINES-th row */
            for (int row = t / W::GROUPS; row < BK; row += W::LINES) {
#pragma unroll
                for (int i = 0; i < 8 / E; i++)
                    add_chunk(chunk_at<CB>(a + W::A_BYTES, row, t % W::GROUPS * (8 / E) + i), bias + i * E,
                              p.source.at);
            }
        }
    }
    copy_wait<0>(); /* nothing may still be on its way when the block ends */

    const int warp = t / 32, lane = t % 32;
    float *const to = p.partials + (size_t)blockIdx.z * (size_t)(p.rows + p.bias) * (size_t)p.columns;
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#pragma unroll
        for (int j = 0; j < W::WN / 8; j++) {
            const int column = n0 + warp / 4 * W::WN + j * 8 + lane % 4 * 2;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = m0 + warp % 4 * WM + i * 16 + half * 8 + lane / 4;
                if (row < p.rows && column < p.columns) {
                    *(float2 *)(to + (size_t)row * (size_t)p.columns + column) =
                        make_float2(work.sums[i][j][2 * half], work.sums[i][j][2 * half + 1]);
                }
            }
        }
    }
    if (!p.bias || m0 > 0) return;
    float *const partial = (float *)shared, *const total = partial + W::LINES * BN;
    sum_columns<BN, W::LINES>(bias, partial, total);
    if (t < BN && n0 + t < p.columns) to[(size_t)p.rows * (size_t)p.columns + (size_t)(n0 + t)] = total[t];
}

#include "layers_window.cuh"

/* weight[i] = sum over blocks of partials; the row behind them is the bias's. A block has 128 results: each of its
 * warps adds up every eighth partial, with eight of those under way: no thread waits for hundreds one after the other.
 * (Asked for two blocks a multiprocessor, the compiler takes the registers for that.) */
enum { REDUCE_SLICES = THREADS / 32, REDUCE_EACH = 4 * 32, REDUCE_SHARED = THREADS * sizeof(float4), REDUCE_AHEAD = 8 };
static __global__ void __launch_bounds__(THREADS, 2)
    weight_reduce(const float *partials, int blocks, size_t size, size_t weights, int columns, float *weight,
                  float *bias) {
    after_previous();
    float4 *const shared = (float4 *)shared_memory(); /* [slices][32] */
    const int t = (int)threadIdx.x;
    const size_t i = (size_t)blockIdx.x * REDUCE_EACH + (size_t)(t % 32 * 4);
    const int inside = i < weights + (size_t)(bias != NULL ? columns : 0);
    float4 s = make_float4(0, 0, 0, 0);
    for (int b = t / 32; b < blocks && inside; b += REDUCE_AHEAD * REDUCE_SLICES) {
        float4 v[REDUCE_AHEAD];
#pragma unroll
        for (int k = 0; k < REDUCE_AHEAD; k++) {
            const int from = b + k * REDUCE_SLICES;
            v[k] = from < blocks ? *(const float4 *)(partials + (size_t)from * size + i) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int k = 0; k < REDUCE_AHEAD; k++) s.x += v[k].x, s.y += v[k].y, s.z += v[k].z, s.w += v[k].w;
    }
    shared[t] = s;
    barrier();
    if (t >= 32 || !inside) return;
#pragma unroll
    for (int k = 1; k < REDUCE_SLICES; k++) {
        const float4 v = shared[k * 32 + t];
        s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
    }
    *(float4 *)(i < weights ? weight + i : bias + (i - weights)) = s;
}

/* The bias's gradient of a dense layer: column sums of an out_gradient of few rows. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) bias_gradient(view<T> gradient, int rows, int columns, float *bias) {
    after_previous();
    float *const partial = (float *)shared_memory();
    const int t = (int)threadIdx.x, c = (int)blockIdx.x * 64 + t % 8 * 8;
    float sum[8] = {};
    for (int row = t / 8; row < rows && c < columns; row += THREADS / 8) {
        float v[8];
        load8(gradient, (size_t)row, c, v);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += v[i];
    }
    sum_columns<64, THREADS / 8>(sum, partial, partial + THREADS * 8);
    if (t < 64 && (int)blockIdx.x * 64 + t < columns) bias[blockIdx.x * 64 + t] = partial[THREADS * 8 + t];
}

/* What follows cuBLAS: the same ending, on rows of floats. */
template <typename T, int DATA>
static __global__ void __launch_bounds__(THREADS)
    dense_finish(const float *result, int rows, int columns, ending<T> end) {
    after_previous();
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, groups = (size_t)columns / 8;
    if (i >= (size_t)rows * groups) return;
    const size_t row = i / groups;
    const int c = (int)(i % groups) * 8;
    float v[8], xg[8];
    load8(result + row * (size_t)columns + c, v);
    if (DATA) {
        beside<T> with;
        fetch_beside(end, row, c, &with);
        finish_data(end, row, c, with, v, xg);
    } else {
        finish_forward(end, row, c, v);
    }
}

/* ================================================ batch normalisation ============================================= */

/* struct bn and its parameters as kernels see them. */
struct normal {
    int channels, links;
    const float *gamma[2], *beta[2];
    float *moving_mean[2], *moving_variance[2], *gamma_gradient[2], *beta_gradient[2];
    float *mean, *variance, *scale, *shift, *sum_g, *sum_gx, *a, *b, *c;
    float count; /* pixels of the batch */
};

/* OP_BN, of one channel. */
static __device__ void bn_forward(const normal &bn, int c, int training) {
    float mean = bn.mean[c], variance = bn.variance[c], scale = 1, shift = 0;
#pragma unroll
    for (int l = 0; l < 2; l++) {
        if (l == bn.links) break;
        const float gamma = bn.gamma[l][c], beta = bn.beta[l][c];
        if (training) {
            bn.moving_mean[l][c] = BN_MOMENTUM * bn.moving_mean[l][c] + (1 - BN_MOMENTUM) * mean;
            bn.moving_variance[l][c] = BN_MOMENTUM * bn.moving_variance[l][c] + (1 - BN_MOMENTUM) * variance;
        } else {
            mean = bn.moving_mean[l][c];
            variance = bn.moving_variance[l][c];
        }
        const float r = 1 / sqrtf(variance + BN_EPSILON);
        scale = scale * gamma * r;
        shift = gamma * r * (shift - mean) + beta;
        mean = beta; /* of this link's output, over the batch */
        variance = gamma * gamma * variance * r * r;
    }
    bn.scale[c] = scale;
    bn.shift[c] = shift;
}

/* OP_BN_GRADIENT, of one channel. */
static __device__ void bn_gradient(const normal &bn, int c) {
    const float g1 = bn.gamma[0][c], r = 1 / sqrtf(bn.variance[c] + BN_EPSILON);
    const float s0 = bn.sum_g[c], s1 = r * bn.sum_gx[c];
    float by_x, a; /* dx = a g - by_x * xhat - a s0 / count */
    if (bn.links == 1) {
        bn.beta_gradient[0][c] = s0;
        bn.gamma_gradient[0][c] = s1;
        a = g1 * r;
        by_x = a * s1 / bn.count;
    } else {
        const float v2 = g1 * g1 * bn.variance[c] * r * r, r2 = 1 / sqrtf(v2 + BN_EPSILON), g2 = bn.gamma[1][c];
        const float dgamma1 = g2 * r2 * s1 * BN_EPSILON * r2 * r2;
        bn.beta_gradient[1][c] = s0;
        bn.gamma_gradient[1][c] = g1 * r2 * s1;
        bn.beta_gradient[0][c] = 0;
        bn.gamma_gradient[0][c] = dgamma1;
        a = g1 * r * g2 * r2;
        by_x = a * g1 * g1 * r2 * r2 * s1 / bn.count + g1 * r * dgamma1 / bn.count;
    }
    bn.a[c] = a;
    bn.b[c] = -by_x * r;
    bn.c[c] = by_x * r * bn.mean[c] - a * s0 / bn.count;
}

/* Eight channels to a block: thread t has channel t % 8 and every BN_LINES-th block's partial sums. So many threads
 * because there are few blocks, and each would wait for one sum after the other. */
enum { BN_THREADS = 1024, BN_LINES = BN_THREADS / 8, BN_SHARED = BN_THREADS / 4 * sizeof(double) };

static __device__ double sum_lanes(double v, double *shared) {
    const int t = (int)threadIdx.x;
    v += shuffle_xor(v, 8);
    v += shuffle_xor(v, 16);
    barrier();
    if (t % 32 < 8) shared[t / 32 * 8 + t % 32] = v;
    barrier();
    v = 0;
#pragma unroll
    for (int i = 0; i < BN_LINES / 16; i++) v += shared[i * 32 + t % 32]; /* every warp the same */
    v += shuffle_xor(v, 8);
    return v + shuffle_xor(v, 16);
}

/* Eight of a thread's sums, of the block b on: zeros past the last. All under way at once. */
static __device__ __forceinline__ void load_lines(const float *from, size_t next, int b, int blocks, float v[8]) {
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = b + k * BN_LINES < blocks ? from[(size_t)(b + k * BN_LINES) * next] : 0.0f;
}

enum { BN_ONLY_SUMS, BN_TRAINING, BN_JUDGING, BN_BACK };

/* Mean and variance from the partials of blocks of `each` rows (Chan, Golub, LeVeque 1979), then OP_BN.
 * partials NULL: they are there already. */
static __global__ void __launch_bounds__(BN_THREADS)
    bn_statistics(const float *partials, int blocks, int each, int rows, normal bn, int then) {
    after_previous();
    double *const shared = (double *)shared_memory();
    const int c = (int)blockIdx.x * 8 + (int)threadIdx.x % 8, first = (int)threadIdx.x / 8;
    if (partials != NULL) {
        const float *const sum = partials + c;
        const size_t next = 2 * (size_t)bn.channels;
        const int last = rows - (blocks - 1) * each; /* rows of the last block */
        const double by_each = 1.0 / each, by_last = 1.0 / last;
        double total = 0, around = 0;
        float v[8], squares[8];
        for (int b = first; b < blocks; b += 8 * BN_LINES) {
            load_lines(sum, next, b, blocks, v);
#pragma unroll
            for (int k = 0; k < 8; k++) total += (double)v[k];
        }
        const double mean = sum_lanes(total, shared) / rows;
        for (int b = first; b < blocks; b += 8 * BN_LINES) {
            load_lines(sum, next, b, blocks, v);
            load_lines(sum + bn.channels, next, b, blocks, squares);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const int at = b + k * BN_LINES, full = at < blocks - 1;
                const double n = at < blocks ? full ? each : last : 0,
                             d = (double)v[k] * (full ? by_each : by_last) - mean;
                around += (double)squares[k] + n * d * d;
            }
        }
        around = sum_lanes(around, shared);
        if (threadIdx.x < 8) {
            bn.mean[c] = (float)mean;
            bn.variance[c] = (float)(around / rows);
        }
    }
    if (threadIdx.x < 8 && then != BN_ONLY_SUMS) bn_forward(bn, c, then == BN_TRAINING);
}

/* sum_g and sum_gx from partials, then OP_BN_GRADIENT. */
static __global__ void __launch_bounds__(BN_THREADS) bn_sums(const float *partials, int blocks, normal bn, int then) {
    after_previous();
    double *const shared = (double *)shared_memory();
    const int c = (int)blockIdx.x * 8 + (int)threadIdx.x % 8;
    if (partials != NULL) {
        const size_t next = 2 * (size_t)bn.channels;
        double sum_g = 0, sum_gx = 0;
        for (int b = (int)threadIdx.x / 8; b < blocks; b += 8 * BN_LINES) {
            float g[8], gx[8];
            load_lines(partials + c, next, b, blocks, g);
            load_lines(partials + c + bn.channels, next, b, blocks, gx);
#pragma unroll
            for (int k = 0; k < 8; k++) sum_g += (double)g[k], sum_gx += (double)gx[k];
        }
        sum_g = sum_lanes(sum_g, shared);
        sum_gx = sum_lanes(sum_gx, shared);
        if (threadIdx.x < 8) {
            bn.sum_g[c] = (float)sum_g;
            bn.sum_gx[c] = (float)sum_gx;
        }
    }
    if (threadIdx.x < 8 && then == BN_BACK) bn_gradient(bn, c);
}

/* ======================================= passes over a map: pooling and the rest ================================== */

/* How a pass lies on a block: `width` groups of eight channels by `lines` pixels (or cells), `repeat` times. */
struct sheet {
    int width, lines, repeat, groups;
};
enum { PASS_AHEAD = 4 }; /* repeat of the passes that do not pool */

static struct sheet sheet_of(int channels, int repeat) {
    struct sheet s;
    s.groups = channels / 8;
    const int columns = (s.groups + 31) / 32;
    s.width = (s.groups + columns - 1) / columns;
    s.lines = THREADS / s.width;
    s.repeat = repeat;
    return s;
}
static int sheet_blocks(const struct sheet *s, int cells) {
    return (cells + s->lines * s->repeat - 1) / (s->lines * s->repeat);
}

template <typename T>
struct apply_of {
    struct sheet sheet;
    view<T> in, out, dropped;
    int h, w, out_h, out_w, pixels; /* of the input; of the output; of all outputs */
    const float *scale, *shift;
    int pad, drop_first, back; /* back: for block_of */
    struct drop drop;
    const struct step *step;
};

static __device__ __forceinline__ void normalise8(const float *scale, const float *shift, float v[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = scale[i] * v[i] + shift[i];
}

template <typename T, int POOL>
static __global__ void __launch_bounds__(THREADS) apply(apply_of<T> p) {
    after_previous();
    const int t = (int)threadIdx.x, group = (int)blockIdx.y * p.sheet.width + t % p.sheet.width;
    if (t >= p.sheet.width * p.sheet.lines || group >= p.sheet.groups) return;
    const int c = group * 8;
    float scale[8], shift[8];
    if (p.scale != NULL) {
        load8(p.scale + c, scale);
        load8(p.shift + c, shift);
    }
    /* Without a pool, the pixels that a thread has are fetched before the first is stored (see struct beside). */
    enum { AHEAD = POOL == POOL_NONE ? PASS_AHEAD : 1 };
    const int first = block_of(p.back) * AHEAD * p.sheet.lines + t / p.sheet.width;
    eight<T> in[AHEAD];
    if (POOL == POOL_NONE) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int to = first + i * p.sheet.lines;
            if (to < p.pixels) fetch8(p.in, (size_t)to, c, &in[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        const int to = first + i * p.sheet.lines;
        if (to >= p.pixels) return;
        float v[8];
        if (POOL == POOL_NONE) {
            widen8(in[i], v);
            if (p.scale != NULL) normalise8(scale, shift, v);
        } else {
            enum { K = POOL == POOL_MAX3 ? 3 : 2 };
            const int x0 = to % p.out_w * 2 - p.pad, y0 = to / p.out_w % p.out_h * 2 - p.pad;
            const size_t image = (size_t)(to / (p.out_w * p.out_h)) * (size_t)p.h;
            eight<T> window[K * K];
            int inside[K * K], begin = 1;
#pragma unroll
            for (int k = 0; k < K * K; k++) {
                const int y = y0 + k / K, x = x0 + k % K;
                inside[k] = (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
                if (inside[k]) fetch8(p.in, (image + (size_t)y) * (size_t)p.w + (size_t)x, c, &window[k]);
            }
#pragma unroll
            for (int k = 0; k < K * K; k++) {
                if (!inside[k]) continue;
                float u[8];
                widen8(window[k], u);
                if (p.scale != NULL) normalise8(scale, shift, u);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    if (POOL == POOL_AVG2) {
                        v[j] = begin ? u[j] : v[j] + u[j];
                    } else {
                        v[j] = begin || u[j] > v[j] ? u[j] : v[j];
                    }
                }
                begin = 0;
            }
            if (POOL == POOL_AVG2) {
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] *= 0.25f;
            }
        }
        float d[8];
#pragma unroll
        for (int j = 0; j < 8; j++) d[j] = v[j];
        if (p.out.at != NULL) store8(p.out, (size_t)to, c, v);
        if (p.dropped.at != NULL) {
            const size_t e = (size_t)to * (size_t)p.dropped.stride + (size_t)(p.drop_first + c);
            if (p.drop.threshold > 0) drop8(p.drop, p.step, e, d);
            store8(p.dropped, (size_t)to, c, d);
        }
    }
}

/* The way back through OP_APPLY. A cell is what one thread routes at a time: a window of 2 x 2 pixels, or one pixel. */
template <typename T>
struct back_of {
    struct sheet sheet;
    view<T> x, g, gradient, branch, branch_y; /* g: the gradient that arrives */
    int h, w, g_h, g_w, cell_h, cell_w, cells;
    const float *scale, *shift, *mean, *a, *b, *c;
    int pad, act, branch_act, back; /* back: for block_of */
    float *partials;                /* [blocks][2][channels] */
};

template <int POOL>
struct cell {
    enum { SIDE = POOL == POOL_MAX2 || POOL == POOL_AVG2 ? 2 : 1, PIXELS = SIDE * SIDE };
    float x[PIXELS][8], g[PIXELS][8];
    size_t at[PIXELS];
    int inside[PIXELS];
};

/* Fills a cell; scale and shift: eight channels' (NULL: no normalisation). */
template <typename T, int POOL>
static __device__ __forceinline__ void route(const back_of<T> &p, int index, int c, int normalised,
                                             const float scale[8], const float shift[8], cell<POOL> &cell) {
    enum { SIDE = ::cell<POOL>::SIDE, PIXELS = ::cell<POOL>::PIXELS };
    const int cx = index % p.cell_w, cy = index / p.cell_w % p.cell_h, image = index / (p.cell_w * p.cell_h);
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
        const int y = cy * SIDE + i / SIDE, x = cx * SIDE + i % SIDE;
        cell.inside[i] = y < p.h && x < p.w;
        cell.at[i] = ((size_t)image * (size_t)p.h + (size_t)y) * (size_t)p.w + (size_t)x;
#pragma unroll
        for (int j = 0; j < 8; j++) cell.x[i][j] = cell.g[i][j] = 0;
        if (cell.inside[i]) load8(p.x, cell.at[i], c, cell.x[i]);
    }
    if (POOL == POOL_NONE) {
        load8(p.g, cell.at[0], c, cell.g[0]);
    } else if (POOL != POOL_MAX3) {
        if (cy >= p.g_h || cx >= p.g_w) return; /* an odd size's last row or column, which no window reads */
        float g[8];
        load8(p.g, ((size_t)image * (size_t)p.g_h + (size_t)cy) * (size_t)p.g_w + (size_t)cx, c, g);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float best = 0;
            int where = 0;
#pragma unroll
            for (int i = 0; i < PIXELS; i++) {
                const float v = normalised ? scale[j] * cell.x[i][j] + shift[j] : cell.x[i][j];
                if (i == 0 || v > best) best = v, where = i;
            }
#pragma unroll
            for (int i = 0; i < PIXELS; i++) cell.g[i][j] = POOL == POOL_AVG2 ? 0.25f * g[j] : where == i ? g[j] : 0.0f;
        }
    } else {
        for (int oy = (cy + p.pad - 1) / 2; oy <= (cy + p.pad) / 2 && oy < p.g_h; oy++) {
            for (int ox = (cx + p.pad - 1) / 2; ox <= (cx + p.pad) / 2 && ox < p.g_w; ox++) {
                float g[8], best[8];
                eight<T> window[9];
                int inside[9], here[8] = {}, begin = 1; /* here: the largest so far is this cell's pixel */
#pragma unroll
                for (int k = 0; k < 9; k++) {
                    const int y = 2 * oy - p.pad + k / 3, x = 2 * ox - p.pad + k % 3;
                    inside[k] = (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
                    if (inside[k])
                        fetch8(p.x, ((size_t)image * (size_t)p.h + (size_t)y) * (size_t)p.w + (size_t)x, c, &window[k]);
                }
                load8(p.g, ((size_t)image * (size_t)p.g_h + (size_t)oy) * (size_t)p.g_w + (size_t)ox, c, g);
#pragma unroll
                for (int k = 0; k < 9; k++) {
                    if (!inside[k]) continue;
                    const int mine = 2 * oy - p.pad + k / 3 == cy && 2 * ox - p.pad + k % 3 == cx;
                    float v[8];
                    widen8(window[k], v);
                    if (normalised) normalise8(scale, shift, v);
#pragma unroll
                    for (int j = 0; j < 8; j++) {
                        if (begin || v[j] > best[j]) best[j] = v[j], here[j] = mine;
                    }
                    begin = 0;
                }
#pragma unroll
                for (int j = 0; j < 8; j++) cell.g[0][j] += here[j] ? g[j] : 0.0f;
            }
        }
    }
}

template <typename T, int POOL>
static __global__ void __launch_bounds__(THREADS) sums(back_of<T> p) {
    after_previous();
    float *const shared = (float *)shared_memory(); /* [lines][width * 8], twice */
    const int t = (int)threadIdx.x, group = (int)blockIdx.y * p.sheet.width + t % p.sheet.width, c = group * 8;
    const int line = t / p.sheet.width, columns = p.sheet.width * 8, works = line < p.sheet.lines;
    const int block = block_of(p.back);
    float sum_g[8] = {}, sum_gx[8] = {}, scale[8], shift[8], mean[8];
    if (works && group < p.sheet.groups) {
        load8(p.scale + c, scale);
        load8(p.shift + c, shift);
        load8(p.mean + c, mean);
        for (int i = 0; i < p.sheet.repeat; i++) {
            const int index = (block * p.sheet.repeat + i) * p.sheet.lines + line;
            if (index >= p.cells) break;
            cell<POOL> cell;
            route<T, POOL>(p, index, c, 1, scale, shift, cell);
#pragma unroll
            for (int k = 0; k < ::cell<POOL>::PIXELS; k++) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    sum_g[j] += cell.g[k][j];
                    sum_gx[j] += cell.g[k][j] * (cell.x[k][j] - mean[j]);
                }
            }
        }
    }
    if (works) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            shared[line * columns + t % p.sheet.width * 8 + j] = sum_g[j];
            shared[(p.sheet.lines + line) * columns + t % p.sheet.width * 8 + j] = sum_gx[j];
        }
    }
    barrier();
    const int channel = (int)blockIdx.y * columns + t;
    if (t >= columns || channel >= p.sheet.groups * 8) return;
    float *const to = p.partials + (size_t)block * 2 * (size_t)p.sheet.groups * 8;
    float g = 0, gx = 0;
    for (int i = 0; i < p.sheet.lines; i++) {
        g += shared[i * columns + t];
        gx += shared[(p.sheet.lines + i) * columns + t];
    }
    to[channel] = g;
    to[p.sheet.groups * 8 + channel] = gx;
}

template <typename T, int POOL>
static __global__ void __launch_bounds__(THREADS) apply_gradient(back_of<T> p) {
    after_previous();
    const int t = (int)threadIdx.x, group = (int)blockIdx.y * p.sheet.width + t % p.sheet.width, c = group * 8;
    if (t >= p.sheet.width * p.sheet.lines || group >= p.sheet.groups) return;
    float scale[8], shift[8], a[8], b[8], k[8];
    if (p.a != NULL) {
        load8(p.scale + c, scale);
        load8(p.shift + c, shift);
        load8(p.a + c, a);
        load8(p.b + c, b);
        load8(p.c + c, k);
    }
    /* As in apply. */
    enum { AHEAD = POOL == POOL_NONE ? PASS_AHEAD : 1 };
    const int first = block_of(p.back) * AHEAD * p.sheet.lines + t / p.sheet.width;
    eight<T> x[AHEAD], g[AHEAD], above[AHEAD];
    if (POOL == POOL_NONE) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const size_t at = (size_t)(first + i * p.sheet.lines);
            if (at >= (size_t)p.cells) continue;
            fetch8(p.x, at, c, &x[i]);
            fetch8(p.g, at, c, &g[i]);
            if (p.branch_act != ACT_LINEAR) fetch8(p.branch_y, at, c, &above[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        const int index = first + i * p.sheet.lines;
        if (index >= p.cells) return;
        cell<POOL> cell;
        if (POOL == POOL_NONE) {
            cell.at[0] = (size_t)index;
            cell.inside[0] = 1;
            widen8(x[i], cell.x[0]);
            widen8(g[i], cell.g[0]);
        } else {
            route<T, POOL>(p, index, c, p.a != NULL, scale, shift, cell);
        }
#pragma unroll
        for (int q = 0; q < ::cell<POOL>::PIXELS; q++) {
            if (!cell.inside[q]) continue;
            float v[8], branch[8], y[8];
#pragma unroll
            for (int j = 0; j < 8; j++)
                v[j] = p.a != NULL ? a[j] * cell.g[q][j] + b[j] * cell.x[q][j] + k[j] : cell.g[q][j];
            activate_back8(p.act, v, cell.x[q], 1);
#pragma unroll
            for (int j = 0; j < 8; j++) branch[j] = v[j];
            store8(p.gradient, cell.at[q], c, v);
            if (p.branch.at == NULL) continue;
            if (p.branch_act != ACT_LINEAR) {
                if (POOL != POOL_NONE) fetch8(p.branch_y, cell.at[q], c, &above[i]);
                widen8(above[i], y);
                activate_back8(p.branch_act, branch, y, 1);
            }
            store8(p.branch, cell.at[q], c, branch);
        }
    }
}

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

/* The shadow. */
static __global__ void __launch_bounds__(THREADS) narrow(const float *from, bf16 *to, size_t n) {
    after_previous();
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) store1(to + i, from[i]);
}
#endif
