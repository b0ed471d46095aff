/* layers_window.cuh - the convolutions of most steps, by windows; part of layers_kernels.cuh, which includes it.
 *
 * The same products in bf16, where stride is 1 and the map's sides are multiples of eight: a block brings the pixels
 * that its 256 rows touch (a window of 16 x 16, or 8 x 8 of four images, and the border that the taps need) into shared
 * memory once, and reads them from there through all taps: ldmatrix takes a row's address from each lane, so a tap is
 * an offset. `product` fetches every tap by itself: k * k times the bytes through the first-level cache. The depth is
 * walked group by group of at most GROUP_CHUNKS * 8 channels, the next group's window arriving meanwhile; within a
 * group through (tap, eight channels) without gaps. A warp has 64 rows, so that B is read half as often.
 *
 * A second source may follow the first: the 1 x 1 convolution of a residual unit, which is added to this one. Between
 * the two the first one's result is finished where it stands, in registers: bias, activation and its own store forward,
 * the dropout of what the unit's convolution read backward. */
#ifndef LAYERS_WINDOW_CUH
#define LAYERS_WINDOW_CUH

enum { WINDOW_ROWS = 256, WINDOW_WM = 64, GROUP_CHUNKS = 5 };

template <int BN>
struct window_tile {
    enum { SIDE = BN > 80 ? 2 : 1, WN = BN / SIDE, WORKERS = 128 * SIDE };
    /* By registers; forward has more to do between two sources. */
    enum { BLOCKS_DATA = SIDE == 2 ? 1 : BN > 48 ? 2 : 3, BLOCKS_FORWARD = SIDE == 2 ? 1 : BN > 32 ? 2 : 3 };
    enum { BK = 32, B_CHUNKS = BN / 8, BY_DEPTH_BYTES = BK * (B_CHUNKS + 1) * 16, BY_ROW_BYTES = BN * 64 };
    enum { STAGE = BY_DEPTH_BYTES > BY_ROW_BYTES ? (int)BY_DEPTH_BYTES : (int)BY_ROW_BYTES };
    enum { FETCH_B = (BN * 4 + WORKERS - 1) / WORKERS };
    enum { LD = BN + 8, LINES = WORKERS / B_CHUNKS, OUT_BYTES = (WINDOW_ROWS * LD + LINES * BN + BN) * 4 };
};

/* x / d for small numbers (x < 65536 / d): x * over(d) >> 16. */
static uint32_t over(int d) { return 65536u / (uint32_t)d + 1; }
static __device__ __forceinline__ int part(int x, uint32_t by) { return (int)(((uint32_t)x * by) >> 16); }

struct window_source {
    view<bf16> map;
    const bf16 *weight;                                                /* [k][k][in_stored][out_stored] */
    int in_stored, out_stored, k, before, chunks, each, groups, pitch; /* before: border rows above and left */
    int width, height;                                                 /* of the window, with its border */
    uint32_t over_k, over_each, over_last, over_width, over_height;    /* last: the chunks of the last group */
};

struct window_of {
    struct window_source from[2];
    int sources, slabs;
    int images, h, w, log_w, log_h, per, tiles_x, tiles_y; /* a tile: 1 << log_w by 1 << log_h pixels of `per` images */
    int columns, tiles_n, buffer;                          /* buffer: bytes of a window */
    /* Of the first source, where there are two: its result, bias and activation; and the data gradient's dropout. */
    view<bf16> turn;
    const float *turn_bias;
    int turn_act;
    struct drop turn_drop;
    struct ending<bf16> end;
};

/* The first source's result becomes what the second is added to. Two lanes exchange halves, so that each writes four
 * channels of a pixel. */
template <int BN, typename F>
static __device__ __forceinline__ void turn(const window_of &p, float (*sums)[window_tile<BN>::WN / 8][4], int n0,
                                            const F &pixel_of) {
    const int lane = (int)threadIdx.x % 32, odd = lane % 2;
#pragma unroll
    for (int i = 0; i < WINDOW_WM / 16; i++) {
        bf16 *const at[2] = {pixel_of(i * 16 + lane / 4), pixel_of(i * 16 + 8 + lane / 4)};
#pragma unroll
        for (int j = 0; j < window_tile<BN>::WN / 8; j += 2) {
            const int mine = n0 + j * 8 + lane % 4 * 2, to = n0 + (j + odd) * 8 + lane % 4 / 2 * 4;
            float v[8];
#pragma unroll
            for (int q = 0; q < 8; q++) { /* 4 of column j, 4 of the next */
                const int c = mine + q / 4 * 8 + q % 2;
                v[q] = sums[i][j + q / 4][q % 4] + (c < p.columns ? p.turn_bias[c] : 0.0f);
            }
            activate8<bf16>(p.turn_act, v);
#pragma unroll
            for (int half = 0; half < 2; half++) { /* rows lane / 4 and lane / 4 + 8 */
                const uint32_t left = pack_bf16(v[2 * half], v[2 * half + 1]),
                               right = pack_bf16(v[4 + 2 * half], v[5 + 2 * half]);
                sums[i][j][2 * half] = bits_float(left << 16); /* as it is stored */
                sums[i][j][2 * half + 1] = bits_float(left & 0xffff0000u);
                sums[i][j + 1][2 * half] = bits_float(right << 16);
                sums[i][j + 1][2 * half + 1] = bits_float(right & 0xffff0000u);
                const uint32_t got = shuffle_xor(odd ? left : right, 1);
                if (at[half] != NULL && to < p.columns)
                    *(uint2 *)(at[half] + to) = odd ? make_uint2(got, right) : make_uint2(left, got);
            }
        }
    }
}

/* a[i] of lane l % 4 = j becomes a[j] of lane i of the same four: a transposition. */
static __device__ __forceinline__ void transpose4(uint32_t a[4]) {
    const int lane = (int)threadIdx.x;
#pragma unroll
    for (int apart = 1; apart <= 2; apart *= 2) {
        const int high = lane & apart;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & apart) continue;
            const uint32_t got = shuffle_xor(high ? a[i] : a[i + apart], apart);
            a[i] = high ? got : a[i];
            a[i + apart] = high ? a[i + apart] : got;
        }
    }
}

/* The data gradient's: dropout, as drop8 does it. Four lanes have two channels each of eight rows' eights; each draws
 * the numbers of two rows, and they exchange them. place_of(row): the pixel, beyond the images too. */
template <int BN, typename F>
static __device__ __forceinline__ void turn_data(const window_of &p, float (*sums)[window_tile<BN>::WN / 8][4], int n0,
                                                 const F &place_of) {
    const int lane = (int)threadIdx.x % 32, mine = lane % 4;
    const float scale = 65536.0f / (float)(65536 - p.turn_drop.threshold);
#pragma unroll
    for (int q = 0; q < WINDOW_WM / 32; q++) {
        const size_t first =
            place_of(32 * q + 8 * mine + lane / 4) * (size_t)p.end.drop_stride + (size_t)(p.end.drop_first + n0);
#pragma unroll
        for (int j = 0; j < window_tile<BN>::WN / 8; j++) {
            const uint32_t counter[4] = {(uint32_t)(first / 8) + (uint32_t)j, p.end.step->step, p.end.step->epoch, 0};
            uint32_t words[4];
            philox(p.turn_drop.key, counter, words);
            transpose4(words);
#pragma unroll
            for (int i = 0; i < 4; i++) { /* row 32 q + 8 i + lane / 4 */
                float *const v = sums[2 * q + i / 2][j] + i % 2 * 2;
                v[0] = (words[i] & 0xffff) >= p.turn_drop.threshold ? v[0] * scale : 0.0f;
                v[1] = words[i] >> 16 >= p.turn_drop.threshold ? v[1] * scale : 0.0f;
            }
        }
    }
}

template <int BN, int DATA>
static __global__ void __launch_bounds__((window_tile<BN>::WORKERS), (DATA ? (int)window_tile<BN>::BLOCKS_DATA
                                                                           : (int)window_tile<BN>::BLOCKS_FORWARD))
    window_product(window_of p) {
    after_previous();
    typedef window_tile<BN> W;
    enum { LIES = DATA ? (int)BY_ROW : (int)BY_DEPTH, CB = DATA ? 4 : (int)W::B_CHUNKS };
    unsigned char *const shared = shared_memory();
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int tile = (int)blockIdx.x / p.tiles_n, n0 = (int)blockIdx.x % p.tiles_n * BN;
    const int x0 = (tile % p.tiles_x) << p.log_w, y0 = (tile / p.tiles_x % p.tiles_y) << p.log_h;
    const int image0 = tile / (p.tiles_x * p.tiles_y) * p.per;
    const int images = p.images - image0 < p.per ? p.images - image0 : p.per; /* of this tile */
    const int all = p.sources == 1 ? p.from[0].groups : p.from[0].groups + p.from[1].groups;
    unsigned char *const ring = shared + (all > 1 ? 2 : 1) * p.buffer;
    const auto source_of = [&](int group) { return group < p.from[0].groups ? 0 : 1; };
    const auto chunks_of = [&](int group) {
        const int s = source_of(group), g = group - s * p.from[0].groups;
        return g + 1 < p.from[s].groups ? p.from[s].each : p.from[s].chunks - g * p.from[s].each;
    };
    const auto slabs_of = [&](int group) {
        const int k = p.from[source_of(group)].k;
        return (k * k * chunks_of(group) + 3) / 4;
    };

    /* The pixels of a group: those outside the image are zeros. */
    const auto fetch_window = [&](int group) {
        const int s = source_of(group), g = group - s * p.from[0].groups, chunks = chunks_of(group);
        const window_source &from = p.from[s];
        const uint32_t by = g + 1 < from.groups ? from.over_each : from.over_last;
        unsigned char *const to = shared + group % 2 * p.buffer;
        const int n = p.per * from.height * from.width * chunks;
        for (int i = t; i < n; i += W::WORKERS) {
            const int at = part(i, by), c = i - at * chunks, line = part(at, from.over_width);
            const int image = part(line, from.over_height), x = x0 + at - line * from.width - from.before;
            const int y = y0 + line - image * from.height - from.before;
            const int ok = image < images && (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
            const size_t place = ((size_t)(image0 + image) * (size_t)p.h + (size_t)y) * (size_t)p.w + (size_t)x;
            copy_async(to + (at * from.pitch + c) * 16,
                       ok ? pixel(from.map, place, (g * from.each + c) * 8) : from.map.at, ok ? 16 : 0);
        }
    };
    /* The weights of a slab, one after the other; `next` and `step`: its group, and its place there. */
    int next = 0, step = 0;
    const auto fetch = [&](int slab) {
        if (next < all) {
            const int s = source_of(next), g = next - s * p.from[0].groups, chunks = chunks_of(next);
            const window_source &from = p.from[s];
            const uint32_t by = g + 1 < from.groups ? from.over_each : from.over_last;
            unsigned char *const b = ring + slab % STAGES * W::STAGE;
            const int taps = from.k * from.k;
#pragma unroll
            for (int i = 0; i < W::FETCH_B; i++) {
                const int at = t + i * W::WORKERS;
                const int row = DATA ? at / 4 : at / W::B_CHUNKS, chunk = DATA ? at % 4 : at % W::B_CHUNKS;
                const int deep = DATA ? step * 4 + chunk : step * 4 + row / 8; /* (tap, eight channels) */
                const int tap = part(deep, by), c = (g * from.each + deep - tap * chunks) * 8;
                if (DATA) { /* a tap reaches back */
                    const int ok = tap < taps && n0 + row < p.columns;
                    const size_t place = ((size_t)(taps - 1 - tap) * (size_t)from.in_stored + (size_t)(n0 + row)) *
                                             (size_t)from.out_stored +
                                         (size_t)c;
                    if (row < BN) copy_async(chunk_at<4>(b, row, chunk), from.weight + (ok ? place : 0), ok ? 16 : 0);
                } else {
                    const int ok = tap < taps && n0 + chunk * 8 < p.columns;
                    const size_t place =
                        ((size_t)tap * (size_t)from.in_stored + (size_t)(c + row % 8)) * (size_t)from.out_stored +
                        (size_t)(n0 + chunk * 8);
                    if (row < W::BK)
                        copy_async(chunk_at<W::B_CHUNKS>(b, row, chunk), from.weight + (ok ? place : 0), ok ? 16 : 0);
                }
            }
            if (++step == slabs_of(next)) next++, step = 0;
        }
        copy_commit();
    };

    float sums[WINDOW_WM / 16][W::WN / 8][4] = {};
    int group = 0, slab = 0, brief = 0, rows[WINDOW_WM / 16];
    fetch_window(0);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) fetch(i);
    for (int i = 0; i < p.slabs; i++) {
        if (brief) { /* the group before was so short that this one's window may be under way */
            copy_wait<0>();
        } else {
            copy_wait<STAGES - 2>();
        }
        barrier();
        if (slab == 0 && group + 1 < all) fetch_window(group + 1);
        fetch(i + STAGES - 1);
        const int s = source_of(group), chunks = chunks_of(group), k = p.from[s].k;
        const uint32_t by =
            group - s * p.from[0].groups + 1 < p.from[s].groups ? p.from[s].over_each : p.from[s].over_last;
        if (slab == 0 && (group == 0 || group == p.from[0].groups)) { /* a source begins */
            if (group > 0) {
                const auto place_of = [&](int row) {
                    const int m = warp % 4 * WINDOW_WM + row;
                    const int x = m & ((1 << p.log_w) - 1), y = (m >> p.log_w) & ((1 << p.log_h) - 1);
                    const int image = image0 + (m >> (p.log_w + p.log_h));
                    return ((size_t)image * (size_t)p.h + (size_t)(y0 + y)) * (size_t)p.w + (size_t)(x0 + x);
                };
                if (!DATA) {
                    turn<BN>(p, sums, n0 + warp / 4 * W::WN, [&](int row) {
                        const int image = (warp % 4 * WINDOW_WM + row) >> (p.log_w + p.log_h);
                        return image < images ? pixel(p.turn, place_of(row), 0) : (bf16 *)NULL;
                    });
                } else if (p.turn_drop.threshold > 0) {
                    turn_data<BN>(p, sums, n0 + warp / 4 * W::WN, place_of);
                }
            }
#pragma unroll
            for (int q = 0; q < WINDOW_WM / 16; q++) {
                const int m = warp % 4 * WINDOW_WM + q * 16 + lane % 16;
                const int x = m & ((1 << p.log_w) - 1), y = (m >> p.log_w) & ((1 << p.log_h) - 1);
                const int line = (m >> (p.log_w + p.log_h)) * p.from[s].height + y;
                rows[q] = (line * p.from[s].width + x) * p.from[s].pitch * 16;
            }
        }
        unsigned char *const a = shared + group % 2 * p.buffer, *const b = ring + i % STAGES * W::STAGE;
#pragma unroll
        for (int half = 0; half < 2; half++) { /* 16 deep each */
            /* A lane's eight channels: behind the last tap the weights are zeros, and any pixel will do. */
            const int deep = slab * 4 + 2 * half + lane / 16, tap = part(deep, by), y = part(tap, p.from[s].over_k);
            const int offset =
                tap < k * k ? ((y * p.from[s].width + tap - y * k) * p.from[s].pitch + deep - tap * chunks) * 16 : 0;
            uint32_t fa[WINDOW_WM / 16][4];
#pragma unroll
            for (int q = 0; q < WINDOW_WM / 16; q++) load_matrix4(fa[q], a + rows[q] + offset);
#pragma unroll
            for (int j = 0; j < W::WN / 8; j += 2) {
                uint32_t fb[2][2];
                load_columns<16, CB, LIES>(fb, b, warp / 4 * W::WN + j * 8, half);
#pragma unroll
                for (int q = 0; q < WINDOW_WM / 16; q++) {
                    mma_bf16(sums[q][j], fa[q], fb[0]);
                    mma_bf16(sums[q][j + 1], fa[q], fb[1]);
                }
            }
        }
        brief = 0;
        if (++slab == slabs_of(group)) {
            brief = slab < STAGES - 1;
            group++;
            slab = 0;
        }
    }
    copy_wait<0>();

    /* Out, all at once, so that the registers are free; then finished in blocks of BM. */
    float *const out = (float *)shared;
    barrier();
#pragma unroll
    for (int q = 0; q < WINDOW_WM / 16; q++) {
#pragma unroll
        for (int j = 0; j < W::WN / 8; j++) {
            const int row = warp % 4 * WINDOW_WM + q * 16 + lane / 4, column = warp / 4 * W::WN + j * 8 + lane % 4 * 2;
            *(float2 *)(out + row * W::LD + column) = make_float2(sums[q][j][0], sums[q][j][1]);
            *(float2 *)(out + (row + 8) * W::LD + column) = make_float2(sums[q][j][2], sums[q][j][3]);
        }
    }
    barrier();
    for (int half = 0; half < WINDOW_ROWS / BM; half++) {
        const int left = (images << (p.log_w + p.log_h)) - half * BM;
        finish_tile<bf16, BN, W::WORKERS, DATA, DATA ? 4 : 1>(
            p.end, out + half * BM * W::LD, out + WINDOW_ROWS * W::LD, left < BM ? left : BM, n0, p.columns,
            (size_t)(2 * tile + half), [&](int row) {
                const int m = half * BM + row, x = m & ((1 << p.log_w) - 1);
                const int y = (m >> p.log_w) & ((1 << p.log_h) - 1), image = image0 + (m >> (p.log_w + p.log_h));
                return ((size_t)image * (size_t)p.h + (size_t)(y0 + y)) * (size_t)p.w + (size_t)(x0 + x);
            });
    }
}

/* ------------------------------------------------ the weight gradient -------------------------------------------- */

/* Rows of the result are eights of channels by taps, (eight, tap): a block has up to 8 * TILES of these, for which it
 * needs few channels of the source, and walks over tiles of WEIGHT_PIXELS pixels: the window of the source and the same
 * pixels of the gradient are its two operands, both by depth. A warp has every fourth 16 rows. */
enum { WEIGHT_PIXELS = 128 };

template <int BN>
struct window_weight_tile {
    enum { SIDE = BN > 80 ? 2 : 1, WN = BN / SIDE, WORKERS = 128 * SIDE, B_CHUNKS = BN / 8 };
    enum { TILES = WN == 32 ? 8 : WN == 48 ? 6 : WN == 64 ? 5 : 4 }; /* of 16 rows, for a warp: by registers */
    enum { ROWS = 8 * TILES /* eights, of a block */, B_BYTES = WEIGHT_PIXELS * (B_CHUNKS + 1) * 16 };
    enum { LINES = WORKERS / B_CHUNKS, SUMS_BYTES = (LINES * BN + BN) * 4, BLOCKS = SIDE == 2 ? 1 : 2 };
};

struct window_weight_of {
    view<bf16> source, gradient;
    int images, h, w, log_w, log_h, per, tiles_x, tiles_y, tiles; /* as in window_of */
    int k, before, chunks, each;      /* each: eights of rows, of a block (blockIdx.x / tiles_n) */
    int width, height, pitch, buffer; /* of the window; buffer: its bytes */
    uint32_t over_k, over_taps, over_width, over_height;
    int in_stored, columns, tiles_n, bias; /* bias: it is wanted */
    int walk;                              /* tiles of pixels, for a block (blockIdx.z) */
    float *partials;                       /* [blocks of pixels][k * k * in_stored + bias][columns] */
};

template <int BN>
static __global__ void __launch_bounds__((window_weight_tile<BN>::WORKERS), (window_weight_tile<BN>::BLOCKS))
    window_weight(window_weight_of p) {
    after_previous();
    typedef window_weight_tile<BN> W;
    unsigned char *const shared = shared_memory();
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int taps = p.k * p.k, n0 = (int)blockIdx.x % p.tiles_n * BN, n_warp = warp / 4 * W::WN;
    const int begin = (int)blockIdx.x / p.tiles_n * p.each;
    const int rows = p.chunks * taps - begin < p.each ? p.chunks * taps - begin : p.each;
    const int first = part(begin, p.over_taps), chunks = part(begin + rows - 1, p.over_taps) - first + 1;
    const uint32_t over_chunks = 65536u / (uint32_t)chunks + 1;
    const int from = (int)blockIdx.z * p.walk, to = p.tiles - from < p.walk ? p.tiles : from + p.walk;

    const auto fetch = [&](int tile) {
        if (tile < to) {
            unsigned char *const a = shared + (tile - from) % 2 * (p.buffer + W::B_BYTES), *const b = a + p.buffer;
            const int x0 = (tile % p.tiles_x) << p.log_w, y0 = (tile / p.tiles_x % p.tiles_y) << p.log_h;
            const int image0 = tile / (p.tiles_x * p.tiles_y) * p.per;
            const int images = p.images - image0 < p.per ? p.images - image0 : p.per;
            for (int i = t; i < p.per * p.height * p.width * chunks; i += W::WORKERS) {
                const int at = part(i, over_chunks), c = i - at * chunks, line = part(at, p.over_width);
                const int image = part(line, p.over_height), x = x0 + at - line * p.width - p.before;
                const int y = y0 + line - image * p.height - p.before;
                const int ok = image < images && (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
                const size_t place = ((size_t)(image0 + image) * (size_t)p.h + (size_t)y) * (size_t)p.w + (size_t)x;
                copy_async(a + (at * p.pitch + c) * 16, ok ? pixel(p.source, place, (first + c) * 8) : p.source.at,
                           ok ? 16 : 0);
            }
            for (int i = t; i < WEIGHT_PIXELS * W::B_CHUNKS; i += W::WORKERS) {
                const int m = i / W::B_CHUNKS, chunk = i % W::B_CHUNKS, x = m & ((1 << p.log_w) - 1);
                const int y = (m >> p.log_w) & ((1 << p.log_h) - 1), image = m >> (p.log_w + p.log_h);
                const int ok = image < images && n0 + chunk * 8 < p.columns;
                const size_t place =
                    ((size_t)(image0 + image) * (size_t)p.h + (size_t)(y0 + y)) * (size_t)p.w + (size_t)(x0 + x);
                copy_async(chunk_at<W::B_CHUNKS>(b, m, chunk),
                           ok ? pixel(p.gradient, place, n0 + chunk * 8) : p.gradient.at, ok ? 16 : 0);
            }
        }
        copy_commit();
    };

    /* Where a lane's eights of rows lie in the window, from its pixel on; any place will do for those that are none. */
    int offset[W::TILES];
#pragma unroll
    for (int q = 0; q < W::TILES; q++) {
        const int row = 2 * (q * 4 + warp % 4) + lane / 8 % 2, c = part(begin + row, p.over_taps);
        const int tap = begin + row - c * taps, y = part(tap, p.over_k);
        offset[q] = row < rows ? ((y * p.width + tap - y * p.k) * p.pitch + c - first) * 16 : 0;
    }
    float sums[W::TILES][W::WN / 8][4] = {}, bias[8] = {};
    fetch(from);
    for (int tile = from; tile < to; tile++) {
        unsigned char *const a = shared + (tile - from) % 2 * (p.buffer + W::B_BYTES), *const b = a + p.buffer;
        fetch(tile + 1);
        copy_wait<1>();
        barrier();
        for (int k = 0; k < WEIGHT_PIXELS / 16; k++) { /* 16 pixels each */
            const int m = 16 * k + lane % 8 + lane / 16 * 8, x = m & ((1 << p.log_w) - 1);
            const int y = (m >> p.log_w) & ((1 << p.log_h) - 1), line = (m >> (p.log_w + p.log_h)) * p.height + y;
            unsigned char *const at = a + (line * p.width + x) * p.pitch * 16;
            uint32_t fb[W::WN / 8][2];
            load_columns<W::WN, W::B_CHUNKS, BY_DEPTH>(fb, b, n_warp, k);
#pragma unroll
            for (int q = 0; q < W::TILES; q++) {
                if (2 * (q * 4 + warp % 4) >= rows) continue; /* for the whole warp */
                uint32_t fa[4];
                load_matrix4_transposed(fa, at + offset[q]);
#pragma unroll
                for (int j = 0; j < W::WN / 8; j++) mma_bf16(sums[q][j], fa, fb[j]);
            }
        }
        if (p.bias && begin == 0 && t < W::B_CHUNKS * W::LINES) { /* columns of eight, every LINES-th pixel */
            for (int m = t / W::B_CHUNKS; m < WEIGHT_PIXELS; m += W::LINES)
                add_chunk(chunk_at<W::B_CHUNKS>(b, m, t % W::B_CHUNKS), bias, p.source.at);
        }
        barrier();
    }
    copy_wait<0>();

    const int all = taps * p.in_stored;
    float *const out = p.partials + (size_t)blockIdx.z * (size_t)(all + p.bias) * (size_t)p.columns;
#pragma unroll
    for (int q = 0; q < W::TILES; q++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = 2 * (q * 4 + warp % 4) + half, c = part(begin + row, p.over_taps);
            const int tap = begin + row - c * taps;
            if (row >= rows) continue;
            float *const line = out + (size_t)(tap * p.in_stored + c * 8 + lane / 4) * (size_t)p.columns;
#pragma unroll
            for (int j = 0; j < W::WN / 8; j++) {
                const int column = n0 + n_warp + j * 8 + lane % 4 * 2;
                if (column < p.columns)
                    *(float2 *)(line + column) = make_float2(sums[q][j][2 * half], sums[q][j][2 * half + 1]);
            }
        }
    }
    if (!p.bias || begin > 0) return;
    float *const partial = (float *)shared, *const total = partial + W::LINES * BN;
    sum_columns<BN, W::LINES>(bias, partial, total);
    if (t < BN && n0 + t < p.columns) out[(size_t)all * (size_t)p.columns + (size_t)(n0 + t)] = total[t];
}
#endif
