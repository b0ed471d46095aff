/* layers_maps.cuh - batch normalisation, and the passes over maps: normalise, activate, drop, pool, and their way back;
 * part of layers_kernels.cuh, which includes it.
 *
 * What these move is all that they cost. So the sums of a normalisation are made where the map is made, a tile at a
 * time (finish_tile), and only finished here; and a pass does all that is to be done to a pixel while it has it. */
#ifndef LAYERS_MAPS_CUH
#define LAYERS_MAPS_CUH

/* ================================================ batch normalisation ============================================= */

/* struct bn and its parameters as kernels see them. */
struct normal {
    int channels, links;
    const float *gamma[2], *beta[2];
    float *moving_mean[2], *moving_variance[2], *gamma_gradient[2], *beta_gradient[2];
    float *mean, *variance, *scale, *shift, *sum_g, *sum_gx, *a, *b, *c;
    float count; /* pixels of the batch */
};

/* A channel's parameters. They are read before the sums are, so that nobody waits for them behind these. */
struct normal_channel {
    float gamma[2], beta[2], moving_mean[2], moving_variance[2], mean, variance;
};
static __device__ __forceinline__ normal_channel channel_of(const normal &bn, int c) {
    normal_channel of;
#pragma unroll
    for (int l = 0; l < 2; l++) {
        if (l == bn.links) break;
        of.gamma[l] = bn.gamma[l][c], of.beta[l] = bn.beta[l][c];
        of.moving_mean[l] = bn.moving_mean[l][c], of.moving_variance[l] = bn.moving_variance[l][c];
    }
    of.mean = bn.mean[c], of.variance = bn.variance[c];
    return of;
}

/* OP_BN, of one channel. */
static __device__ void bn_forward(const normal &bn, int c, const normal_channel &of, int training) {
    float mean = of.mean, variance = of.variance, scale = 1, shift = 0;
#pragma unroll
    for (int l = 0; l < 2; l++) {
        if (l == bn.links) break;
        const float gamma = of.gamma[l], beta = of.beta[l];
        if (training) {
            bn.moving_mean[l][c] = BN_MOMENTUM * of.moving_mean[l] + (1 - BN_MOMENTUM) * mean;
            bn.moving_variance[l][c] = BN_MOMENTUM * of.moving_variance[l] + (1 - BN_MOMENTUM) * variance;
        } else {
            mean = of.moving_mean[l];
            variance = of.moving_variance[l];
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
static __device__ void bn_gradient(const normal &bn, int c, const normal_channel &of, float s0, float sum_gx) {
    const float g1 = of.gamma[0], r = 1 / sqrtf(of.variance + BN_EPSILON);
    const float s1 = r * sum_gx;
    float by_x, a; /* dx = a g - by_x * xhat - a s0 / count */
    if (bn.links == 1) {
        bn.beta_gradient[0][c] = s0;
        bn.gamma_gradient[0][c] = s1;
        a = g1 * r;
        by_x = a * s1 / bn.count;
    } else {
        const float v2 = g1 * g1 * of.variance * r * r, r2 = 1 / sqrtf(v2 + BN_EPSILON), g2 = of.gamma[1];
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
    bn.c[c] = by_x * r * of.mean - a * s0 / bn.count;
}

/* Four channels to a block: thread t has channel t % 4 and every BN_LINES-th block's partial sums. So many threads
 * because there are few blocks, and each would wait for one sum after the other; no more, so that half a
 * multiprocessor's registers are enough, where a weight gradient may have the other half. */
enum { BN_CHANNELS = 4, BN_THREADS = 512, BN_LINES = BN_THREADS / BN_CHANNELS };
enum { BN_SHARED = BN_THREADS / 32 * BN_CHANNELS * sizeof(double) };

static __device__ double sum_lanes(double v, double *shared) {
    const int t = (int)threadIdx.x;
#pragma unroll
    for (int apart = BN_CHANNELS; apart < 32; apart *= 2) v += shuffle_xor(v, apart);
    barrier();
    if (t % 32 < BN_CHANNELS) shared[t / 32 * BN_CHANNELS + t % 32] = v;
    barrier();
    v = 0;
#pragma unroll
    for (int i = 0; i < BN_THREADS / 32 * BN_CHANNELS / 32; i++) v += shared[i * 32 + t % 32]; /* every warp the same */
#pragma unroll
    for (int apart = BN_CHANNELS; apart < 32; apart *= 2) v += shuffle_xor(v, apart);
    return v;
}

/* Eight of a thread's sums, of the block b on: zeros past the last. All under way at once. */
static __device__ __forceinline__ void load_lines(const float *from, size_t next, int b, int blocks, float v[8]) {
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = b + k * BN_LINES < blocks ? from[(size_t)(b + k * BN_LINES) * next] : 0.0f;
}
static __device__ __forceinline__ float sum8(const float v[8]) {
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

enum { BN_ONLY_SUMS, BN_TRAINING, BN_JUDGING, BN_BACK };

/* Mean and variance from the partials of blocks of `each` rows (Chan, Golub, LeVeque 1979), then OP_BN.
 * partials NULL: they are there already. Doubles are for what adds up over many blocks; a block's own numbers are
 * floats, and conversions are slow. */
static __global__ void __launch_bounds__(BN_THREADS)
    bn_statistics(const float *partials, int blocks, int each, int rows, normal bn, int then) {
    after_previous();
    double *const shared = (double *)shared_memory();
    const int t = (int)threadIdx.x, c = (int)blockIdx.x * BN_CHANNELS + t % BN_CHANNELS, first = t / BN_CHANNELS;
    normal_channel of = {};
    if (t < BN_CHANNELS && then != BN_ONLY_SUMS) of = channel_of(bn, c);
    if (partials != NULL) {
        const float *const sum = partials + c;
        const size_t next = 2 * (size_t)bn.channels;
        const int last = rows - (blocks - 1) * each; /* rows of the last block */
        const float by_each = 1.0f / (float)each, by_last = 1.0f / (float)last;
        double total = 0, around = 0;
        float v[8], squares[8];
        for (int b = first; b < blocks; b += 8 * BN_LINES) {
            load_lines(sum, next, b, blocks, v);
            total += (double)sum8(v);
        }
        const float mean = (float)(sum_lanes(total, shared) / rows);
        for (int b = first; b < blocks; b += 8 * BN_LINES) {
            load_lines(sum, next, b, blocks, v);
            load_lines(sum + bn.channels, next, b, blocks, squares);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const int at = b + k * BN_LINES, full = at < blocks - 1;
                const float n = (float)(at < blocks ? full ? each : last : 0),
                            d = v[k] * (full ? by_each : by_last) - mean;
                squares[k] += n * d * d;
            }
            around += (double)sum8(squares);
        }
        around = sum_lanes(around, shared);
        of.mean = mean, of.variance = (float)(around / rows);
        if (t < BN_CHANNELS) bn.mean[c] = of.mean, bn.variance[c] = of.variance;
    }
    if (t < BN_CHANNELS && then != BN_ONLY_SUMS) bn_forward(bn, c, of, then == BN_TRAINING);
}

/* sum_g and sum_gx from partials, then OP_BN_GRADIENT. */
static __global__ void __launch_bounds__(BN_THREADS) bn_sums(const float *partials, int blocks, normal bn, int then) {
    after_previous();
    double *const shared = (double *)shared_memory();
    const int t = (int)threadIdx.x, c = (int)blockIdx.x * BN_CHANNELS + t % BN_CHANNELS;
    normal_channel of = {};
    if (t < BN_CHANNELS && then == BN_BACK) of = channel_of(bn, c);
    float sum_g = 0, sum_gx = 0;
    if (partials != NULL) {
        const size_t next = 2 * (size_t)bn.channels;
        double all_g = 0, all_gx = 0;
        for (int b = t / BN_CHANNELS; b < blocks; b += 8 * BN_LINES) {
            float g[8], gx[8];
            load_lines(partials + c, next, b, blocks, g);
            load_lines(partials + c + bn.channels, next, b, blocks, gx);
            all_g += (double)sum8(g), all_gx += (double)sum8(gx);
        }
        sum_g = (float)sum_lanes(all_g, shared);
        sum_gx = (float)sum_lanes(all_gx, shared);
        if (t < BN_CHANNELS) bn.sum_g[c] = sum_g, bn.sum_gx[c] = sum_gx;
    } else if (t < BN_CHANNELS) {
        sum_g = bn.sum_g[c], sum_gx = bn.sum_gx[c];
    }
    if (t < BN_CHANNELS && then == BN_BACK) bn_gradient(bn, c, of, sum_g, sum_gx);
}

/* ======================================= passes over a map: pooling and the rest ================================== */

/* How a pass lies on a block: `width` groups of eight channels by `lines` pixels (or cells), `repeat` times. */
struct sheet {
    int width, lines, repeat, groups;
};
enum { PASS_AHEAD = 4 }; /* repeat, of the passes that do not pool and of sums */

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

/* Pixel `at` of images of h x w: its image, and where it is there. And the other way round. */
static __device__ __forceinline__ int pixel_place(int at, const divisor &h, const divisor &w, int *y, int *x) {
    const uint32_t line = divide((uint32_t)at, w), image = divide(line, h);
    *x = at - (int)(line * w.by), *y = (int)(line - image * h.by);
    return (int)image;
}
static __device__ __forceinline__ size_t pixel_at(int image, int y, int x, int h, int w) {
    return (size_t)(uint32_t)((image * h + y) * w + x);
}

template <typename T>
struct apply_of {
    struct sheet sheet;
    view<T> in, out, dropped;
    int h, w, pixels; /* of the input; of all outputs */
    struct divisor out_h, out_w;
    const float *scale, *shift;
    int pad, back; /* back: for block_of */
    dropping drop;
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
    const moment now = moment_of(p.drop, p.step);
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
            int ox, oy;
            const int image = pixel_place(to, p.out_h, p.out_w, &oy, &ox), y0 = 2 * oy - p.pad, x0 = 2 * ox - p.pad;
            eight<T> window[K * K];
            int inside[K * K], begin = 1;
#pragma unroll
            for (int k = 0; k < K * K; k++) {
                const int y = y0 + k / K, x = x0 + k % K;
                inside[k] = (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
                if (inside[k]) fetch8(p.in, pixel_at(image, y, x, p.h, p.w), c, &window[k]);
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
            drop8(p.drop, now, (size_t)to, c, d);
            store8(p.dropped, (size_t)to, c, d);
        }
    }
}

/* The way back through OP_APPLY. A cell is what one thread routes at a time: 2 x 2 pixels, as windows begin, or one. */
template <typename T>
struct back_of {
    struct sheet sheet;
    view<T> x, g, gradient, branch, branch_y; /* g: the gradient that arrives */
    int h, w, g_h, g_w, cells;
    struct divisor cell_h, cell_w;
    const float *scale, *shift, *mean, *a, *b, *c;
    int pad, act, branch_act, back; /* back: for block_of */
    float *partials;                /* [blocks][2][channels] */
};

template <int POOL>
struct cell {
    enum { SIDE = POOL == POOL_NONE ? 1 : 2, PIXELS = SIDE * SIDE };
    float x[PIXELS][8], g[PIXELS][8];
    size_t at[PIXELS];
    int inside[PIXELS];
};

/* Without a pool a cell is a pixel, which was fetched before. */
template <typename T>
static __device__ __forceinline__ void route_pixel(int index, const eight<T> &x, const eight<T> &g,
                                                   cell<POOL_NONE> &cell) {
    cell.at[0] = (size_t)index;
    cell.inside[0] = 1;
    widen8(x, cell.x[0]);
    widen8(g, cell.g[0]);
}

/* A window of 3 x 3 pixels begins with its cell and reaches into the next ones: so a cell's pixels are in its own
 * window and in those before it, above and left. Each window's largest pixel is found once for all of the cell. */
template <typename T>
static __device__ __forceinline__ void route_windows(const back_of<T> &p, int image, int cy, int cx, int c,
                                                     int normalised, const float scale[8], const float shift[8],
                                                     cell<POOL_MAX3> &cell) {
#pragma unroll 1
    for (int w = 0; w < 4; w++) {
        const int oy = cy - 1 + w / 2, ox = cx - 1 + w % 2, y0 = 2 * oy - p.pad, x0 = 2 * ox - p.pad;
        if ((unsigned)oy >= (unsigned)p.g_h || (unsigned)ox >= (unsigned)p.g_w) continue;
        float g[8], best[8];
        int where[8], begin = 1;
        load8(p.g, pixel_at(image, oy, ox, p.g_h, p.g_w), c, g);
#pragma unroll
        for (int j = 0; j < 8; j++) best[j] = 0, where[j] = -1;
#pragma unroll 1
        for (int ky = 0; ky < 3; ky++) { /* not all nine at a time: registers */
            eight<T> line[3];
            const int y = y0 + ky;
            if ((unsigned)y >= (unsigned)p.h) continue;
#pragma unroll
            for (int kx = 0; kx < 3; kx++) {
                if ((unsigned)(x0 + kx) < (unsigned)p.w)
                    fetch8(p.x, pixel_at(image, y, x0 + kx, p.h, p.w), c, &line[kx]);
            }
#pragma unroll
            for (int kx = 0; kx < 3; kx++) {
                if ((unsigned)(x0 + kx) >= (unsigned)p.w) continue;
                float v[8];
                widen8(line[kx], v);
                if (normalised) normalise8(scale, shift, v);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    if (begin || v[j] > best[j]) best[j] = v[j], where[j] = ky * 3 + kx;
                }
                begin = 0;
            }
        }
        /* The cell's pixel i is the window's k-th, if it is one of its. */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int y = i / 2 + 2 - w / 2 * 2, x = i % 2 + 2 - w % 2 * 2, k = y < 3 && x < 3 ? y * 3 + x : -1;
#pragma unroll
            for (int j = 0; j < 8; j++) cell.g[i][j] += where[j] == k ? g[j] : 0.0f;
        }
    }
}

/* Fills a cell; scale and shift: eight channels' (NULL: no normalisation). */
template <typename T, int POOL>
static __device__ __forceinline__ void route(const back_of<T> &p, int index, int c, int normalised,
                                             const float scale[8], const float shift[8], cell<POOL> &cell) {
    enum { PIXELS = ::cell<POOL>::PIXELS };
    int cy, cx;
    const int image = pixel_place(index, p.cell_h, p.cell_w, &cy, &cx);
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
        const int y = cy * 2 - p.pad + i / 2, x = cx * 2 - p.pad + i % 2;
        cell.inside[i] = (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
        cell.at[i] = pixel_at(image, y, x, p.h, p.w);
#pragma unroll
        for (int j = 0; j < 8; j++) cell.g[i][j] = 0;
    }
    if constexpr (POOL == POOL_MAX3) route_windows(p, image, cy, cx, c, normalised, scale, shift, cell);
    eight<T> pixels[PIXELS];
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
        if (cell.inside[i]) fetch8(p.x, cell.at[i], c, &pixels[i]);
    }
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) cell.x[i][j] = 0;
        if (cell.inside[i]) widen8(pixels[i], cell.x[i]);
    }
    if constexpr (POOL != POOL_MAX3) {
        if (cy >= p.g_h || cx >= p.g_w) return; /* an odd size's last row or column, which no window reads */
        float g[8];
        load8(p.g, pixel_at(image, cy, cx, p.g_h, p.g_w), c, g);
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
        const int first_cell = block * PASS_AHEAD * p.sheet.lines + line;
        eight<T> x[PASS_AHEAD], g[PASS_AHEAD]; /* as in apply */
        if (POOL == POOL_NONE) {
#pragma unroll
            for (int i = 0; i < PASS_AHEAD; i++) {
                const int index = first_cell + i * p.sheet.lines;
                if (index >= p.cells) continue;
                fetch8(p.x, (size_t)index, c, &x[i]);
                fetch8(p.g, (size_t)index, c, &g[i]);
            }
        }
#pragma unroll(POOL == POOL_NONE ? PASS_AHEAD : 1)
        for (int i = 0; i < PASS_AHEAD; i++) {
            const int index = first_cell + i * p.sheet.lines;
            if (index >= p.cells) break;
            cell<POOL> cell;
            if constexpr (POOL == POOL_NONE) {
                route_pixel(index, x[i], g[i], cell);
            } else {
                route<T, POOL>(p, index, c, 1, scale, shift, cell);
            }
            if (i == 0 || POOL != POOL_NONE) load8(p.mean + c, mean); /* not before: routing needs the registers */
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
        if constexpr (POOL == POOL_NONE) {
            route_pixel(index, x[i], g[i], cell);
        } else {
            route<T, POOL>(p, index, c, p.a != NULL, scale, shift, cell);
        }
        if (i == 0 && p.a != NULL) { /* not before: routing needs the registers */
            load8(p.a + c, a);
            load8(p.b + c, b);
            load8(p.c + c, k);
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
#endif
