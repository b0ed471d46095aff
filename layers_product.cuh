/* layers_product.cuh - convolutions and dense layers as products of matrices; part of layers_kernels.cuh, which
 * includes it.
 *
 * The matrices are never built (implicit GEMM): *product* makes the output or the data gradient, one row for each
 * pixel; *weight_product* makes the weight gradient, summed over pixels, which are split among blocks and added up in a
 * fixed order by *weight_reduce*. Both keep four stages of tiles in shared memory, fetched ahead with cp.async,
 * swizzled so that ldmatrix meets no bank twice, and multiply with mma.sync (sm_80 and later). They work for every
 * shape; layers_window.cuh does most of a step's convolutions with less fetching. What rides along (bias, activation,
 * dropout, residual sum, statistics) is done by *finish* on the tile's way out. */
#ifndef LAYERS_PRODUCT_CUH
#define LAYERS_PRODUCT_CUH

/* ========================================== what rides along with a product ======================================= */

/* Finishes eight channels of the result on their way out. Forward, as struct op_conv says it; for the data gradient,
 * as struct op_conv_data does (out: its gradient). */
template <typename T>
struct ending {
    view<T> out, add, dropped;
    view<float> wide; /* out, where it is stored as float */
    const float *bias;
    int act;
    dropping drop;
    const struct step *step;
    float *partials; /* [rows of blocks][2][columns], of statistics or sums; or NULL */
    /* the data gradient's */
    view<T> y, branch, branch_y, bn_x;
    float y_scale;
    int branch_act;
    const float *mean;
};

/* What finishing takes whatever the pixel: of a channel, forward its bias, for the data gradient the mean. It is read
 * once for all rows: behind the store of a row it would be read, and waited for, again. */
struct constant {
    float of[8];
    moment now;
};
template <typename T, int DATA>
static __device__ __forceinline__ constant constant_of(const ending<T> &o, int c) {
    const float *const from = DATA ? o.partials != NULL ? o.mean : NULL : o.bias;
    constant k = {};
    if (from != NULL) load8(from + c, k.of);
    k.now = moment_of(o.drop, o.step);
    return k;
}

/* v: channels c .. c + 7 of pixel p; left as stored. */
template <typename T>
static __device__ __forceinline__ void finish_forward(const ending<T> &o, size_t p, int c, const constant &bias,
                                                      float v[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += bias.of[i];
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
    if (o.wide.at != NULL) {
        store8(o.wide, p, c, v);
    } else if (o.out.at != NULL) {
        store8(o.out, p, c, v);
    }
    if (o.dropped.at != NULL) {
        drop8(o.drop, bias.now, p, c, d);
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
static __device__ __forceinline__ void finish_data(const ending<T> &o, size_t p, int c, const constant &mean,
                                                   const beside<T> &with, float v[8], float xg[8]) {
    float other[8];
    drop8(o.drop, mean.now, p, c, v);
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
        widen8(with.bn_x, other);
#pragma unroll
        for (int i = 0; i < 8; i++) xg[i] = v[i] * (other[i] - mean.of[i]);
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

/* A result of ROWS x BN on its way out, as floats in shared memory: a plane of the first four columns of each eight,
 * and one of the others. So what eight threads read together, four columns each, is 128 bytes without gaps. Fragments
 * of four rows are written to different banks: by the gap between the planes, and, where a row is a power of two, by
 * turning its eights. */
template <int ROWS, int BN>
struct way_out {
    enum { ROW = BN / 2, TURN = BN == 32 ? 2 : BN % 64 == 0 ? 1 : 0 };
    enum { GAP = BN == 32 ? 8 : BN % 64 == 0 || BN % 16 != 0 ? 16 : 4, PLANE = ROWS * ROW + GAP };
    enum { FLOATS = PLANE + ROWS * ROW };
};
template <int ROWS, int BN>
static __device__ __forceinline__ float *out_at(float *out, int row, int column) {
    typedef way_out<ROWS, BN> W;
    const int eight = column / 8 ^ (W::TURN > 0 ? row / (W::TURN > 0 ? (int)W::TURN : 1) % 4 : 0);
    return out + column / 4 % 2 * W::PLANE + row * W::ROW + eight * 4 + column % 4;
}

template <typename T, int BN>
struct tile {
    enum { E = 16 / sizeof(T), BK = 4 * E }; /* elements of a chunk; depth */
    enum { SIDE = BN == 128 ? 2 : 1, WN = BN / SIDE, WORKERS = 128 * SIDE, BLOCKS = BN == 128 ? 2 : 3 };
    enum { ROW_CHUNKS = 4, A_CHUNKS = BM / E, B_CHUNKS = BN / E }; /* of a row: BY_ROW; BY_DEPTH */
    enum { A_BYTES = BK * (A_CHUNKS + 1) * 16, B_BYTES = BK * (B_CHUNKS + 1) * 16, STAGE = A_BYTES + B_BYTES };
    static_assert(A_BYTES >= BM * 64 && B_BYTES >= BN * 64, "a stage holds tiles that lie either way");
    enum { FETCH_A = BM * 4 / WORKERS, FETCH_B = (BN * 4 + WORKERS - 1) / WORKERS }; /* chunks a worker fetches */
    enum { GROUPS = BN / 8, LINES = WORKERS / GROUPS };
    enum { PLACES = way_out<BM, BN>::FLOATS * 4, STAGING = PLACES + BM * 4 }; /* on the way out */
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
    struct divisor by_w[2],
        by_h[2];                   /* of the pixels of a product: w / stride (as the data gradient has it), one more */
    int columns, tiles_m, tiles_n; /* columns: channels of the result */
    struct divisor by_tiles_n;
    int back; /* for block_of */
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

/* The way out for ROWS rows of a result: a thread has eight channels of a pixel at a time. n: how many of the rows
 * there are; pixel_of(row): where one belongs; block: which of the partial statistics or sums are this tile's. AHEAD:
 * pixels whose other maps are fetched together.
 *
 * Statistics are a channel's sum, and its squares about the mean of these rows. A thread takes both about the first
 * value that it meets; then all take them about line 0's. That is near enough to the mean: some digits are lost where
 * it lies far out, but then it is that value which makes the variance. */
template <typename T, int ROWS, int BN, int WORKERS, int DATA, int AHEAD, typename F>
static __device__ __forceinline__ void finish_tile(const ending<T> &end, float *out, int n, int n0, int columns,
                                                   size_t block, const F &pixel_of) {
    enum { GROUPS = BN / 8, LINES = WORKERS / GROUPS, BOTH = 2 * LINES * BN };
    static_assert(BOTH + BN <= way_out<ROWS, BN>::FLOATS, "sums take the result's place");
    const int t = (int)threadIdx.x, column = t % GROUPS * 8, line = t / GROUPS;
    const int inside = n0 + column < columns && line < LINES;
    float first[8] = {}, second[8] = {}, from[8] = {}; /* sums of v, and of v (x - mean); or statistics about `from` */
    constant of_column = {};
    if (inside) of_column = constant_of<T, DATA>(end, n0 + column);
    for (int row = line; row < n; row += AHEAD * LINES) {
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
            const float *const result = out_at<ROWS, BN>(out, at, column);
            const float4 low = *(const float4 *)result, high = *(const float4 *)(result + way_out<ROWS, BN>::PLANE);
            float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}, xg[8] = {};
            if (DATA) {
                finish_data(end, pixel_of(at), n0 + column, of_column, with[k], v, xg);
#pragma unroll
                for (int i = 0; i < 8; i++) first[i] += v[i], second[i] += xg[i];
            } else {
                finish_forward(end, pixel_of(at), n0 + column, of_column, v);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    from[i] = at < LINES ? v[i] : from[i];
                    const float d = v[i] - from[i];
                    first[i] += d, second[i] += d * d;
                }
            }
        }
    }
    if (end.partials == NULL) return;
    float *const common = out + BOTH, *const to = end.partials + block * 2 * (size_t)columns + n0;
    barrier(); /* nobody reads the result any more */
    if (!DATA) {
        if (line == 0) store8(common + column, from);
        barrier();
        const int rows = line < n ? (n - line + LINES - 1) / LINES : 0; /* this thread's */
        float other[8];
        if (line < LINES) load8(common + column, other);
#pragma unroll
        for (int i = 0; i < 8 && line < LINES; i++) {
            const float apart = from[i] - other[i], all = (float)rows * apart;
            second[i] += apart * (2 * first[i] + all);
            first[i] += all;
        }
    }
    if (line < LINES) {
#pragma unroll
        for (int i = 0; i < 8; i++) ((float2 *)out)[line * BN + column + i] = make_float2(first[i], second[i]);
    }
    barrier();
    for (int i = t; i < (2 * BN + 31) / 32 * 32; i += WORKERS) { /* whole warps */
        const int c = i / 2, is_second = i % 2;
        float sum = 0;
        for (int k = 0; k < LINES && c < BN; k++) sum += out[k * 2 * BN + i];
        const float other = shuffle_xor(sum, 1);
        if (!DATA && c < BN) sum = is_second ? sum - other * other / (float)n : sum + (float)n * common[c];
        if (c < BN && n0 + c < columns) to[is_second * columns + c] = sum;
    }
}

template <typename T, int BN, int DATA>
static __global__ void __launch_bounds__((tile<T, BN>::WORKERS), (tile<T, BN>::BLOCKS)) product(product_of<T> p) {
    after_previous();
    typedef tile<T, BN> W;
    enum { E = W::E, BK = W::BK, APART = W::WORKERS / 4 };
    unsigned char *const shared = shared_memory();
    const int t = (int)threadIdx.x;
    const int apart = DATA ? p.stride : 1, step = DATA ? 1 : p.stride, sign = DATA ? -1 : 1;
    int tile = block_of(p.back), part_of = 0;

    /* Which pixels, and through which taps. */
    int base_y = 0, base_x = 0, first_y = 0, first_x = 0, taps_y = p.k, taps_x = p.k;
    int from_y = DATA ? p.pad : -p.pad, from_x = from_y, rows_h = p.h, rows_w = p.w, longer_h = 0, longer_w = 0;
    if (DATA && apart > 1) {
        part_of = tile % (apart * apart), tile /= apart * apart;
        base_y = part_of / apart, base_x = part_of % apart;
        first_y = (base_y + p.pad) % apart, first_x = (base_x + p.pad) % apart;
        taps_y = (p.k - first_y + apart - 1) / apart, taps_x = (p.k - first_x + apart - 1) / apart;
        from_y = (base_y + p.pad - first_y) / apart, from_x = (base_x + p.pad - first_x) / apart;
        longer_h = base_y < p.h % apart, longer_w = base_x < p.w % apart;
        rows_h = p.h / apart + longer_h, rows_w = p.w / apart + longer_w;
    }
    const int tile_m = (int)divide((uint32_t)tile, p.by_tiles_n), n0 = (tile - tile_m * p.tiles_n) * BN;
    const int rows = p.images * rows_h * rows_w;
    const int slabs = (taps_y * taps_x * p.chunks + 3) / 4;
    const auto row_of = [&](int m, int *y, int *x) { /* its image */
                                                     const int line = (int)divide((uint32_t)m, p.by_w[longer_w]),
                                                               image = (int)divide((uint32_t)line, p.by_h[longer_h]);
                                                     *x = m - line * rows_w, *y = line - image * rows_h;
                                                     return image;
    };

    /* A thread fetches chunk t % 4 of a slab, for some rows of A (and, BY_ROW, of B): the tap and channel that the
     * chunk means move on with the slabs. */
    const int q = t % 4;
    int tap_y = 0, tap_x = 0, c = q;
    int at[W::FETCH_A], at_y[W::FETCH_A], at_x[W::FETCH_A]; /* through the first tap: the pixel, and where it is */
#pragma unroll
    for (int i = 0; i < W::FETCH_A; i++) {
        const int m = tile_m * BM + t / 4 + i * APART;
        int y, x;
        const int image = row_of(m, &y, &x);
        at_y[i] = y * step + from_y, at_x[i] = x * step + from_x;
        at[i] = (image * p.source_h + at_y[i]) * p.source_w + at_x[i];
        if (m >= rows) at_y[i] = -(1 << 20);
    }
    const auto settle = [&]() {
        while (c >= p.chunks) {
            c -= p.chunks;
            if (++tap_x == taps_x) tap_x = 0, tap_y++;
        }
    };
    const auto weight_at = [&](int row, int column) {
        return p.weight + ((uint64_t)(uint32_t)row * (uint32_t)p.out_stored + (uint32_t)column);
    };
    const auto fetch = [&](int slab) {
        unsigned char *const a = shared + slab % STAGES * W::STAGE, *const b = a + W::A_BYTES;
        if (slab < slabs) {
            settle();
            const int inside = tap_y < taps_y, further = sign * (tap_y * p.source_w + tap_x);
#pragma unroll
            for (int i = 0; i < W::FETCH_A; i++) {
                const int y = at_y[i] + sign * tap_y, x = at_x[i] + sign * tap_x;
                const int ok = inside && (unsigned)y < (unsigned)p.source_h && (unsigned)x < (unsigned)p.source_w;
                copy_async(chunk_at<4>(a, t / 4 + i * APART, q), pixel(p.source, (size_t)(at[i] + further), c * E), ok,
                           p.source.keeping);
            }
            if (DATA) {
                const int tap = (first_y + apart * tap_y) * p.k + first_x + apart * tap_x;
#pragma unroll
                for (int i = 0; i < W::FETCH_B; i++) {
                    const int n = t / 4 + i * APART;
                    const int ok = inside && n0 + n < p.columns;
                    if (n < BN) copy_async(chunk_at<4>(b, n, q), weight_at(tap * p.in_stored + n0 + n, c * E), ok);
                }
            } else {
#pragma unroll
                for (int i = 0; i < W::FETCH_B; i++) {
                    const int row = (t + i * W::WORKERS) / W::B_CHUNKS, chunk = (t + i * W::WORKERS) % W::B_CHUNKS;
                    const int k = slab * BK + row;
                    const int ok = k < p.k * p.k * p.in_stored && n0 + chunk * E < p.columns;
                    if (row < BK) copy_async(chunk_at<W::B_CHUNKS>(b, row, chunk), weight_at(k, n0 + chunk * E), ok);
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
            *(float2 *)out_at<BM, BN>(out, row, column) = make_float2(v[0], v[1]);
            *(float2 *)out_at<BM, BN>(out, row + 8, column) = make_float2(v[2], v[3]);
        }
    }
    int *const places = (int *)(shared + W::PLACES); /* of a row's pixel: divided for once */
    const int spread = DATA && apart > 1;
    if (spread && t < BM) {
        int y, x;
        const int image = row_of(tile_m * BM + t, &y, &x);
        places[t] = (image * p.h + y * apart + base_y) * p.w + x * apart + base_x;
    }
    barrier();
    const auto pixel_of = [&](int row) { return (size_t)(uint32_t)(spread ? places[row] : tile_m * BM + row); };
    const int n = rows - tile_m * BM < BM ? rows - tile_m * BM : BM;
    enum { AHEAD = DATA && BN < 128 ? 2 : 1 }; /* by registers */
    finish_tile<T, BM, BN, W::WORKERS, DATA, AHEAD>(p.end, out, n, n0, p.columns,
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
                const int row = t / CA + i * A_LINES, at = begin + slab * BK + row;
                const uint32_t line = divide((uint32_t)at, p.w), image = divide(line, p.h);
                const int y = (int)(line - image * p.h.by) * p.stride + tap_y,
                          x = (int)((uint32_t)at - line * p.w.by) * p.stride + tap_x;
                const int ok = at < end && tap < p.k * p.k && (unsigned)y < (unsigned)p.source_h &&
                               (unsigned)x < (unsigned)p.source_w;
                const int from = ((int)image * p.source_h + y) * p.source_w + x;
                copy_async(chunk_at<CA>(a, row, t % CA), pixel(p.source, (size_t)from, c * E), ok, p.source.keeping);
            }
#pragma unroll
            for (int i = 0; i < W::FETCH_B; i++) {
                const int row = (t + i * W::WORKERS) / CB, column = (t + i * W::WORKERS) % CB;
                const int at = begin + slab * BK + row, ok = at < end && n0 + column * E < p.columns;
                if (row < BK)
                    copy_async(chunk_at<CB>(b, row, column), pixel(p.gradient, (size_t)at, n0 + column * E), ok,
                               p.gradient.keeping);
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
    const constant of_c = constant_of<T, DATA>(end, c);
    if (DATA) {
        beside<T> with;
        fetch_beside(end, row, c, &with);
        finish_data(end, row, c, of_c, with, v, xg);
    } else {
        finish_forward(end, row, c, of_c, v);
    }
}
#endif
