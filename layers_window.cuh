/* layers_window.cuh - the convolutions of most steps, by windows; part of layers_kernels.cuh, which includes it.
 *
 * The same products in bf16, where stride is 1 and the map's sides are multiples of eight: a block brings the pixels
 * that its 256 rows touch (a window of 16 x 16, or 8 x 8 of four images, and the border that the taps need) into shared
 * memory once, and reads them from there through all taps. `product` fetches every tap by itself: k * k times the bytes
 * through the first-level cache.
 *
 * A window lies plane after plane, one for each eight channels, 16 bytes a pixel. So eight pixels in a row are 128
 * bytes without gaps, wherever they begin, and a tap is an offset: what wgmma (on Hopper) takes as an operand as it
 * stands, an 8 x 8 square of pixels at a time, and what ldmatrix (for mma.sync, elsewhere) meets no bank twice in. The
 * depth is walked group by group of at most GROUP_CHUNKS eights of channels, the next group's window arriving
 * meanwhile; the weights come in slabs, through a ring.
 *
 * A second source may follow the first: the 1 x 1 convolution of a residual unit, which is added to this one. Between
 * the two the first one's result is finished where it stands, in registers: bias, activation and its own store forward,
 * the dropout of what the unit's convolution read backward. */
#ifndef LAYERS_WINDOW_CUH
#define LAYERS_WINDOW_CUH

enum { WINDOW_ROWS = 256, GROUP_CHUNKS = 5 };

template <int BN, int WGMMA>
struct window_tile {
    /* By mma.sync four warps with 64 rows each; by wgmma two by four warps with 32 rows each, 16 of a square. */
    enum { WORKERS = WGMMA ? 256 : 128, ROWS = WGMMA ? 32 : 64 };
    /* Does Hopper have it by mma.sync too, for when wgmma does not do what it should? Not all of them: these kernels
     * take longer to compile than all others. */
    enum { STANDS_IN = !WGMMA && (BN == 48 || BN == 80) };
    /* A multiprocessor's, by registers. */
    enum { BLOCKS_MMA = BN > 32 ? 2 : 3 };
    /* Is there a register for what a thread works out from its number? Else it does so again for each slab. */
    enum { KEPT = WGMMA && BN != 32 };
    enum { BLOCKS_FORWARD = !WGMMA ? (int)BLOCKS_MMA : BN > 40 ? 2 : 3, BLOCKS_DATA = WGMMA ? 2 : (int)BLOCKS_MMA };
    /* A slab of weights: STEPS of 16 of the depth; so many slabs under way or at work. */
    enum { STEPS = WGMMA ? 3 : 2, EIGHTS = 2 * STEPS, RING = WGMMA ? 3 : 4 };
    /* An eight of its depth as chunks of 16 bytes: forward [eights of columns][8 of the depth, and a gap], for the data
     * gradient [columns, and a gap]. The gaps let what is fetched together land in different banks. */
    enum { B_CHUNKS = BN / 8, BY_DEPTH_EIGHT = B_CHUNKS * 9, BY_ROW_EIGHT = BN + (WGMMA ? 1 : 2) };
    enum { EIGHT_MOST = (int)BY_DEPTH_EIGHT > (int)BY_ROW_EIGHT ? (int)BY_DEPTH_EIGHT : (int)BY_ROW_EIGHT };
    enum { STAGE = EIGHTS * EIGHT_MOST * 16 };
    /* How a slab is fetched: passes of so many eights, forward; of so many columns, for the data gradient. */
    enum { EIGHTS_PASS = EIGHTS * BN <= WORKERS ? (int)EIGHTS : EIGHTS / 2 * BN <= WORKERS ? EIGHTS / 2 : EIGHTS / 4 };
    enum { ROWS_PASS = WORKERS / EIGHTS, PASSES_FORWARD = EIGHTS / EIGHTS_PASS };
    enum { PASSES_DATA = (BN + ROWS_PASS - 1) / ROWS_PASS };
    enum { OUT_BYTES = way_out<WINDOW_ROWS, BN>::FLOATS * 4 };
};

/* x / d for small numbers (x < 65536 / d): x * over(d) >> 16. */
static uint32_t over(int d) { return 65536u / (uint32_t)d + 1; }
static __device__ __forceinline__ int part(int x, uint32_t by) { return (int)(((uint32_t)x * by) >> 16); }

struct window_source {
    view<bf16> map;
    const bf16 *weight;                                         /* [k][k][in_stored][out_stored] */
    int in_stored, out_stored, k, before, chunks, each, groups; /* before: border rows above and left */
    int width, height, plane; /* of the window, with its border; chunks of one eight of its channels */
    uint32_t over_k, over_taps, over_each, over_last, over_width, over_height; /* last: chunks of the last group */
    int slabs_each, slabs_last;                                                /* of a group; of the last */
};

struct window_of {
    struct window_source from[2];
    int sources;
    int images, h, w, log_w, log_h, per, tiles_x, tiles_y; /* a tile: 1 << log_w by 1 << log_h pixels of `per` images */
    int columns, tiles_n, buffer, back;                    /* buffer: bytes of a window; back: for block_of */
    /* Of the first source, where there are two: its result, bias and activation; and the data gradient's dropout. */
    view<bf16> turn;
    const float *turn_bias;
    int turn_act;
    dropping turn_drop;
    struct ending<bf16> end;
};

/* Row m of a tile's product as a pixel: tiles are walked in squares of 8 x 8, whose rows lie without gaps in every
 * plane of a window, as wgmma wants them. */
struct tile_pixel {
    int x, y, image;
};
static __device__ __forceinline__ tile_pixel pixel_of_row(int log_w, int log_h, int m) {
    const int square = m >> 6;
    tile_pixel at;
    at.x = ((square & ((1 << (log_w - 3)) - 1)) << 3) + (m & 7);
    at.y = (((square >> (log_w - 3)) & ((1 << (log_h - 3)) - 1)) << 3) + (m >> 3 & 7);
    at.image = m >> (log_w + log_h);
    return at;
}

/* The depth of a group goes in steps of 16, of two halves: two eights of channels through the same tap, pair after pair
 * through all taps; where the eights are odd, the last one through two taps at a time. */
static __host__ __device__ __forceinline__ int steps_of(int chunks, int taps) {
    return chunks / 2 * taps + (chunks % 2 == 1 ? (taps + 1) / 2 : 0);
}

/* Two tables in shared memory say where the halves of each step lie, so that nobody works it out again for every slab:
 * in a group's window, in chunks from a pixel on, the first half's place and, above 16 bits, how much further the
 * second is (never before it); and in the weights, in elements, each half (below 0: nothing is there, zeros are meant).
 * Kind 2 s is a group of source s, 2 s + 1 its last. */
enum { TAPS_MOST = 16, STEPS_MOST = GROUP_CHUNKS / 2 * TAPS_MOST + TAPS_MOST / 2 + 2, KINDS = 4 }; /* in whole slabs */

/* Where a tile begins, and how many of its images there are; which tile it is, and its first column. */
struct alignas(8) tile_corner {
    int x, y, image, images, tile, n0;
};

/* Thread 0 says where the tile is; one more table says where its rows stand in the batch (-1: behind the last image),
 * and one for each source where its window's pixels do (-1: outside): all that a block's threads would divide for again
 * and again. A window: 16 x 16 or four of 8 x 8, and up to three more each way. */
enum { PIXELS_MOST = 4 * (8 + 3) * (8 + 3) };
struct window_tables {
    int windows[KINDS][STEPS_MOST], weights[KINDS][STEPS_MOST][2];
    tile_corner corner;
    int rows[WINDOW_ROWS], pixels[2][PIXELS_MOST];
};
enum { TABLE_BYTES = (sizeof(window_tables) + 15) / 16 * 16 };

template <int DATA>
static __device__ __forceinline__ void fill_step(const window_source &s, int last, int step, int *window,
                                                 int weights[2]) {
    const int chunks = last ? s.chunks - (s.groups - 1) * s.each : s.each, taps = s.k * s.k;
    const int pair = part(step, s.over_taps);
    int at[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int paired = 2 * pair + 1 < chunks, rest = 2 * (step - chunks / 2 * taps) + half;
        const int chunk = paired ? 2 * pair + half : chunks - 1;
        const int tap = paired ? step - pair * taps : chunks % 2 == 1 ? rest : taps, y = part(tap, s.over_k);
        const int from = DATA ? taps - 1 - tap : tap; /* backwards a tap reaches back */
        const int there = tap < taps;
        /* Behind the last tap the weights are zeros, and any pixels will do. */
        at[half] = there ? chunk * s.plane + y * s.width + tap - y * s.k : at[0];
        weights[half] = there ? from * s.in_stored * s.out_stored + chunk * 8 * (DATA ? 1 : s.out_stored)
                              : -LAYERS_ALIGN; /* aligned, as all addresses are */
    }
    *window = at[0] | (at[1] - at[0]) << 16;
}

static __device__ __forceinline__ tile_corner corner_of(const window_of &p, int block, int columns) {
    tile_corner c;
    c.tile = block / p.tiles_n;
    c.n0 = block % p.tiles_n * columns;
    const int of_image = p.tiles_x * p.tiles_y, first = c.tile / of_image * p.per;
    c.x = (c.tile % p.tiles_x) << p.log_w;
    c.y = (c.tile / p.tiles_x % p.tiles_y) << p.log_h;
    c.image = first;
    c.images = p.images - first < p.per ? p.images - first : p.per;
    return c;
}
/* Row m of it, as a pixel of the batch. */
static __device__ __forceinline__ int row_pixel(const window_of &p, const tile_corner &c, int m) {
    const tile_pixel at = pixel_of_row(p.log_w, p.log_h, m);
    return at.image < c.images ? ((c.image + at.image) * p.h + c.y + at.y) * p.w + c.x + at.x : -1;
}

/* Pixel `at` of source s's window, as a pixel of the batch. */
static __device__ __forceinline__ int window_pixel(const window_of &p, const window_source &s, const tile_corner &c,
                                                   int at) {
    const int line = part(at, s.over_width), image = part(line, s.over_height);
    const int x = c.x + at - line * s.width - s.before, y = c.y + line - image * s.height - s.before;
    const int ok = image < c.images && (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
    return ok ? ((c.image + image) * p.h + y) * p.w + x : -1;
}

/* The first source's result becomes what the second is added to, and is stored: it is read again on the way back. Two
 * lanes exchange halves, so that each writes four channels of a pixel. place_of(row): its pixel, as the table says. */
template <int BN, int WGMMA, typename F>
static __device__ __forceinline__ void turn(const window_of &p, float (*sums)[BN / 8][4], int n0, const F &place_of) {
    enum { HALVES = window_tile<BN, WGMMA>::ROWS / 8, EIGHTS = BN / 8 };
    const int lane = anew((int)threadIdx.x % 32), odd = lane % 2;
    int place[HALVES]; /* of rows lane / 4, lane / 4 + 8, ... */
#pragma unroll
    for (int i = 0; i < HALVES; i++) place[i] = place_of(i * 8 + lane / 4);
#pragma unroll
    for (int j = 0; j < EIGHTS; j += 2) {
        const int mine = n0 + j * 8 + lane % 4 * 2, to = n0 + (j + odd) * 8 + lane % 4 / 2 * 4;
        float bias[4]; /* two of column j, two of the next */
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const int c = mine + q / 2 * 8 + q % 2;
            bias[q] = c < p.columns ? p.turn_bias[c] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < HALVES / 2; i++) {
            const int pair = j + 1 < EIGHTS;
            float *const left = sums[i][j], *const right = sums[i][pair ? j + 1 : j];
            float v[8];
#pragma unroll
            for (int q = 0; q < 4; q++) {
                v[q] = left[q] + bias[q % 2];
                v[4 + q] = pair ? right[q] + bias[2 + q % 2] : 0.0f;
            }
            activate8<bf16>(p.turn_act, v);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t l = pack_bf16(v[2 * half], v[2 * half + 1]),
                               r = pack_bf16(v[4 + 2 * half], v[5 + 2 * half]);
                const int at = place[2 * i + half];
                left[2 * half] = bits_float(l << 16); /* as it is stored */
                left[2 * half + 1] = bits_float(l & 0xffff0000u);
                if (!pair) {
                    if (at >= 0 && mine < p.columns)
                        store_kept((uint32_t *)pixel(p.turn, (size_t)at, mine), l, p.turn.keeping);
                    continue;
                }
                right[2 * half] = bits_float(r << 16);
                right[2 * half + 1] = bits_float(r & 0xffff0000u);
                const uint32_t got = shuffle_xor(odd ? l : r, 1);
                if (at >= 0 && to < p.columns)
                    store_kept((uint2 *)pixel(p.turn, (size_t)at, to), odd ? make_uint2(got, r) : make_uint2(l, got),
                               p.turn.keeping);
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
 * the numbers of two rows, and they exchange them. (Whatever a row behind the last image draws.) */
template <int BN, int WGMMA, typename F>
static __device__ __forceinline__ void turn_data(const window_of &p, float (*sums)[BN / 8][4], int n0,
                                                 const F &place_of) {
    const int lane = (int)threadIdx.x % 32, mine = lane % 4;
    const moment now = moment_of(p.turn_drop, p.end.step);
#pragma unroll
    for (int q = 0; q < window_tile<BN, WGMMA>::ROWS / 32; q++) {
        const int place = place_of(32 * q + 8 * mine + lane / 4);
#pragma unroll
        for (int j = 0; j < BN / 8; j++) {
            uint32_t words[4];
            drop_words(p.turn_drop, now, (size_t)place, n0 + 8 * j, words);
            transpose4(words);
#pragma unroll
            for (int i = 0; i < 4; i++) /* row 32 q + 8 i + lane / 4 */
                drop2(p.turn_drop, words[i], sums[2 * q + i / 2][j] + i % 2 * 2);
        }
    }
}

/* sums += what a slab of weights, b, makes of a window, a. rows: where a warp's rows begin in a plane, in chunks, width
 * the window's. steps: its part of the table. */
template <int BN, int DATA, int WGMMA>
static __device__ __forceinline__ void multiply_slab(float (&sums)[window_tile<BN, WGMMA>::ROWS / 16][BN / 8][4],
                                                     unsigned char *a, unsigned char *b, const int *steps,
                                                     const uint32_t rows[2], int width) {
    typedef window_tile<BN, WGMMA> W;
    enum { EIGHT = (DATA ? (int)W::BY_ROW_EIGHT : (int)W::BY_DEPTH_EIGHT) * 16 };
    if constexpr (WGMMA != 0) {
        const uint64_t at_a = matrix_at(shared_address(a), 0, width * 16),
                       at_b = matrix_at(shared_address(b), EIGHT, DATA ? 128 : 144);
        wgmma_begin(sums);
#pragma unroll
        for (int k = 0; k < W::STEPS; k++) {
            wgmma<BN, !DATA>(sums[0], at_a + (uint32_t)steps[k] + rows[0], at_b + (uint32_t)(2 * k * EIGHT / 16));
            wgmma<BN, !DATA>(sums[1], at_a + (uint32_t)steps[k] + rows[1], at_b + (uint32_t)(2 * k * EIGHT / 16));
        }
        wgmma_wait(sums);
    } else {
        const int lane = (int)threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < W::STEPS; k++) {
            const uint32_t step = (uint32_t)steps[k], at = (step & 0xffff) + (lane < 16 ? 0 : step >> 16);
            uint32_t fa[4][4];
#pragma unroll
            for (int q = 0; q < 4; q++) load_matrix4(fa[q], a + (rows[0] + at + (uint32_t)(q * 2 * width)) * 16);
#pragma unroll
            for (int j = 0; j < BN / 8; j += 2) {
                const int n = j * 8, eight = 2 * k + lane / 8 % 2;
                uint32_t fb[4];
                if (DATA) {
                    load_matrix4(fb, b + eight * EIGHT + (n + lane % 8 + lane / 16 * 8) * 16);
                } else {
                    load_matrix4_transposed(fb, b + eight * EIGHT + ((n / 8 + lane / 16) * 9 + lane % 8) * 16);
                }
#pragma unroll
                for (int q = 0; q < W::ROWS / 16; q++) {
                    mma_bf16(sums[q][j], fa[q], fb);
                    mma_bf16(sums[q][j + 1], fa[q], fb + 2);
                }
            }
        }
    }
}

template <int BN, int DATA, int WGMMA>
static __device__ __forceinline__ void make_window_product(const window_of &p) {
    typedef window_tile<BN, WGMMA> W;
    enum { EIGHT = (DATA ? (int)W::BY_ROW_EIGHT : (int)W::BY_DEPTH_EIGHT) * 16 }; /* bytes of an eight of B */
    window_tables &tables = *(window_tables *)shared_memory();
    unsigned char *const shared = shared_memory() + TABLE_BYTES;
    const int t = (int)threadIdx.x;
    if (t == 0) tables.corner = corner_of(p, block_of(p.back), BN);
    for (int i = t; i < 2 * p.sources * STEPS_MOST; i += W::WORKERS) {
        const int kind = i / STEPS_MOST, step = i % STEPS_MOST;
        fill_step<DATA>(p.from[kind / 2], kind % 2, step, &tables.windows[kind][step], tables.weights[kind][step]);
    }
    barrier();
    for (int s = 0; s < p.sources; s++) {
        for (int at = t; at < p.per * p.from[s].height * p.from[s].width; at += W::WORKERS)
            tables.pixels[s][at] = window_pixel(p, p.from[s], tables.corner, at);
    }
    for (int m = t; m < WINDOW_ROWS; m += W::WORKERS) tables.rows[m] = row_pixel(p, tables.corner, m);
    barrier();
    after_previous();
    const int n0 = tables.corner.n0;
    const int all = p.sources == 1 ? p.from[0].groups : p.from[0].groups + p.from[1].groups;
    unsigned char *const ring = shared + (all > 1 ? 2 : 1) * p.buffer;
    const auto source_of = [&](int group) { return group < p.from[0].groups ? 0 : 1; };
    const auto is_last = [&](int group) {
        const int s = source_of(group);
        return group - s * p.from[0].groups + 1 == p.from[s].groups;
    };
    const auto slabs_of = [&](int group) {
        const window_source &from = p.from[source_of(group)];
        return is_last(group) ? from.slabs_last : from.slabs_each;
    };
    const auto kind_of = [&](int group) { return 2 * source_of(group) + is_last(group); };
    /* A warp's rows as those of the tile. */
    const auto row_of = [&](int row) {
        const int w = anew(t) / 32;
        return WGMMA ? (w / 4 * 2 + row / 16) * 64 + w % 4 * 16 + row % 16 : w * 64 + row;
    };

    /* The pixels of a group, plane after plane: those outside the image are zeros. */
    const auto fetch_window = [&](int group) {
        const int s = source_of(group), g = group - s * p.from[0].groups;
        const window_source &from = p.from[s];
        const int chunks = is_last(group) ? from.chunks - g * from.each : from.each;
        const uint32_t by = is_last(group) ? from.over_last : from.over_each;
        unsigned char *const to = shared + group % 2 * p.buffer;
        /* A thread has the same eight of every `lines`-th pixel. */
        const int line = part(t, by), c = t - line * chunks, lines = part(W::WORKERS, by),
                  n = line < lines ? p.per * from.height * from.width : 0;
#pragma unroll(WGMMA ? 1 : 2) /* the sums leave few registers */
        for (int at = line; at < n; at += lines) {
            const int place = tables.pixels[s][at];
            copy_async(to + (c * from.plane + at) * 16, pixel(from.map, (size_t)place, (g * from.each + c) * 8),
                       place >= 0, from.map.keeping);
        }
    };
    /* The weights of a slab, one after the other. A thread has the same eights of all slabs, and of these the same row
     * of the depth and eight columns, or the same columns; a column beyond the last may hold anything. `next`: the
     * slab's group, `left_ahead`: its slabs to come, `ahead`: the thread's first eight of it in the table. */
    enum { PASSES = DATA ? (int)W::PASSES_DATA : (int)W::PASSES_FORWARD };
    const int columns = p.columns - n0 < BN ? p.columns - n0 : BN;
    const auto mine = [&]() { return W::KEPT ? t : anew(t); };
    const auto row_of_b = [&]() { return mine() / (DATA ? (int)W::EIGHTS : (int)W::B_CHUNKS); };
    const auto chunk_of_b = [&]() { return mine() % (DATA ? (int)W::EIGHTS : (int)W::B_CHUNKS); };
    int next = 0, left_ahead = 0;
    const int *ahead = NULL;
    const bf16 *weights = NULL;
    const auto enter = [&]() {
        const int s = source_of(next), first = (next - s * p.from[0].groups) * p.from[s].each * 8,
                  stride = p.from[s].out_stored;
        const int row = row_of_b(), chunk = chunk_of_b(), eight = DATA ? chunk : row / 8;
        left_ahead = slabs_of(next);
        ahead = tables.weights[kind_of(next)][0] + eight;
        weights = p.from[s].weight + (DATA ? (n0 + row) * stride + first : (first + row % 8) * stride + n0 + chunk * 8);
    };
    const auto fetch = [&](int slot) {
        if (next < all) {
            const int row = row_of_b(), chunk = chunk_of_b(), eight = DATA ? chunk : row / 8;
            const int at_b = eight * EIGHT + (DATA ? row : chunk * 9 + row % 8) * 16;
            unsigned char *const b = ring + slot * W::STAGE + at_b;
            const int apart = DATA ? W::ROWS_PASS * p.from[source_of(next)].out_stored : 0;
#pragma unroll
            for (int i = 0; i < PASSES; i++) {
                const int at = ahead[DATA ? 0 : i * W::EIGHTS_PASS];
                if (DATA ? row < W::ROWS_PASS && row + i * W::ROWS_PASS < columns
                         : eight < W::EIGHTS_PASS && chunk * 8 < columns)
                    copy_async(b + i * (DATA ? W::ROWS_PASS * 16 : W::EIGHTS_PASS * EIGHT), weights + at + i * apart,
                               at >= 0);
            }
            ahead += W::EIGHTS;
            if (--left_ahead == 0 && ++next < all) enter();
        }
        copy_commit();
    };

    float sums[W::ROWS / 16][BN / 8][4] = {};
    int group = 0, slot = 0, brief = 0;
    fetch_window(0);
    enter();
#pragma unroll
    for (int i = 0; i < W::RING - 1; i++) fetch(i);
#pragma unroll 1
    for (int s = 0; s < p.sources; s++) {
        const window_source &from = p.from[s];
        if (s > 0) {
            const auto place_of = [&](int row) { return tables.rows[row_of(row)]; };
            if (!DATA) {
                turn<BN, WGMMA>(p, sums, anew(n0), place_of);
            } else if (p.turn_drop.least > 0) {
                turn_data<BN, WGMMA>(p, sums, anew(n0), place_of);
            }
        }
        for (const int end = group + from.groups; group < end; group++) {
            uint32_t rows[2]; /* where its rows begin in a plane, in chunks: of wgmma's two squares each; of a lane */
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const tile_pixel at = pixel_of_row(
                    p.log_w, p.log_h, WGMMA ? (of_warp(t / 128) * 2 + q) * 64 : anew(t) / 32 * 64 + anew(t) % 16);
                rows[q] = (uint32_t)((at.image * from.height + at.y) * from.width + at.x);
                if (WGMMA) rows[q] = (uint32_t)of_warp((int)rows[q]); /* in a register for all lanes */
            }
            const int slabs = slabs_of(group), *steps = tables.windows[kind_of(group)];
            unsigned char *const a = shared + group % 2 * p.buffer;
            for (int left = slabs; left > 0; left--) {
                if (brief) { /* the group before was so short that this one's window may be under way */
                    copy_wait<0>();
                    brief = 0;
                } else {
                    copy_wait<W::RING - 2>();
                }
                if (WGMMA) fence_async();
                barrier();
                if (left == slabs && group + 1 < all) fetch_window(group + 1);
                fetch(slot > 0 ? slot - 1 : W::RING - 1); /* of the slab before */
                multiply_slab<BN, DATA, WGMMA>(sums, a, ring + slot * W::STAGE, steps, rows, from.width);
                steps += W::STEPS;
                slot = slot + 1 < W::RING ? slot + 1 : 0;
            }
            brief = slabs < W::RING - 1;
        }
    }
    copy_wait<0>();

    /* Out, all at once, so that the registers are free; then finished. */
    float *const out = (float *)shared;
    const int first_row = row_of(0) + anew(t) % 32 / 4, first_column = anew(t) % 4 * 2;
    barrier();
#pragma unroll
    for (int q = 0; q < W::ROWS / 16; q++) {
#pragma unroll
        for (int j = 0; j < BN / 8; j++) {
            const int row = first_row + q * (WGMMA ? 64 : 16), column = first_column + j * 8;
            *(float2 *)out_at<WINDOW_ROWS, BN>(out, row, column) = make_float2(sums[q][j][0], sums[q][j][1]);
            *(float2 *)out_at<WINDOW_ROWS, BN>(out, row + 8, column) = make_float2(sums[q][j][2], sums[q][j][3]);
        }
    }
    barrier();
    const tile_corner corner = tables.corner;
    enum { AHEAD = DATA ? 2 : 1 }; /* by registers */
    finish_tile<bf16, WINDOW_ROWS, BN, W::WORKERS, DATA, AHEAD>(
        p.end, out, corner.images << (p.log_w + p.log_h), n0, p.columns, (size_t)corner.tile,
        [&](int row) { return (size_t)(uint32_t)tables.rows[row]; });
}

template <int BN, int DATA, int WGMMA>
static __global__ void __launch_bounds__((window_tile<BN, WGMMA>::WORKERS),
                                         (DATA ? (int)window_tile<BN, WGMMA>::BLOCKS_DATA
                                               : (int)window_tile<BN, WGMMA>::BLOCKS_FORWARD))
    window_product(window_of p) {
    if constexpr (WGMMA ? HAS_WGMMA : HAS_ALL_WINDOWS || window_tile<BN, WGMMA>::STANDS_IN)
        make_window_product<BN, DATA, WGMMA>(p); /* else never launched */
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
    struct divisor by_tiles_x, by_tiles_y;
    int in_stored, columns, tiles_n, bias; /* bias: it is wanted */
    int walk;                              /* tiles of pixels, for a block (blockIdx.z) */
    float *partials;                       /* [blocks of pixels][k * k * in_stored + bias][columns] */
};

/* Where a window's pixels are, from the tile's first pixel on, and where its rows are: as pixels of the batch, and y
 * and x in halves of a word, PACKED_ZERO more so that none is negative and the bit says so. */
enum { WEIGHT_WINDOW_MOST = 2 * (8 + 3) * (8 + 3) };
struct weight_tables {
    int pixels[WEIGHT_WINDOW_MOST], rows[WEIGHT_PIXELS];
    uint32_t places[WEIGHT_WINDOW_MOST];
};
enum { WEIGHT_TABLE_BYTES = (sizeof(weight_tables) + 15) / 16 * 16 };
static const uint32_t PACKED_ZERO = 0x40004000u;
static __device__ __forceinline__ uint32_t packed(int y, int x) {
    return ((uint32_t)y << 16) + (uint32_t)x + PACKED_ZERO;
}
/* 0 <= y <= that of `largest` - PACKED_ZERO, and so x; both below 2^14. */
static __device__ __forceinline__ int inside(uint32_t place, uint32_t largest) {
    return (place & (largest - place) & PACKED_ZERO) == PACKED_ZERO;
}

template <int BN>
static __global__ void __launch_bounds__((window_weight_tile<BN>::WORKERS), (window_weight_tile<BN>::BLOCKS))
    window_weight(window_weight_of p) {
    typedef window_weight_tile<BN> W;
    weight_tables &tables = *(weight_tables *)shared_memory();
    unsigned char *const shared = shared_memory() + WEIGHT_TABLE_BYTES;
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int taps = p.k * p.k, n0 = (int)blockIdx.x % p.tiles_n * BN, n_warp = warp / 4 * W::WN;
    const int begin = (int)blockIdx.x / p.tiles_n * p.each;
    const int rows = p.chunks * taps - begin < p.each ? p.chunks * taps - begin : p.each;
    const int first = part(begin, p.over_taps), chunks = part(begin + rows - 1, p.over_taps) - first + 1;
    /* Of 20 bits: through one tap the chunks are up to 64 and a window's up to 128 times as many, beyond over()'s. */
    const uint32_t over_chunks = (1u << 20) / (uint32_t)chunks + 1;
    const int from = (int)blockIdx.z * p.walk, to = p.tiles - from < p.walk ? p.tiles : from + p.walk;

    for (int at = t; at < p.per * p.height * p.width; at += W::WORKERS) {
        const int line = part(at, p.over_width), image = part(line, p.over_height);
        const int y = line - image * p.height - p.before, x = at - line * p.width - p.before;
        tables.pixels[at] = (image * p.h + y) * p.w + x;
        tables.places[at] = packed(y, x);
    }
    for (int m = t; m < WEIGHT_PIXELS; m += W::WORKERS) {
        const int x = m & ((1 << p.log_w) - 1), y = (m >> p.log_w) & ((1 << p.log_h) - 1);
        tables.rows[m] = ((m >> (p.log_w + p.log_h)) * p.h + y) * p.w + x;
    }
    barrier();
    after_previous();

    /* A thread has the same eight of channels of every so manieth pixel. */
    const int line = (int)((uint32_t)t * over_chunks >> 20), c = t - line * chunks;
    const int lines = (int)((uint32_t)W::WORKERS * over_chunks >> 20);
    const int line_b = t / W::B_CHUNKS, chunk_b = t % W::B_CHUNKS;
    const uint32_t largest = packed(p.h - 1, p.w - 1) + PACKED_ZERO;
    const auto fetch = [&](int tile) {
        if (tile < to) {
            unsigned char *const a = shared + (tile - from) % 2 * (p.buffer + W::B_BYTES), *const b = a + p.buffer;
            const int tiles = (int)divide((uint32_t)tile, p.by_tiles_x),
                      group = (int)divide((uint32_t)tiles, p.by_tiles_y);
            const int x0 = (tile - tiles * p.tiles_x) << p.log_w, y0 = (tiles - group * p.tiles_y) << p.log_h;
            const int image0 = group * p.per, images = p.images - image0 < p.per ? p.images - image0 : p.per;
            const int base = (image0 * p.h + y0) * p.w + x0;
            for (int at = line; at < p.per * p.height * p.width && line < lines; at += lines) {
                const uint32_t place = tables.places[at] + (uint32_t)(y0 << 16 | x0);
                const int ok = inside(place, largest) && at < images * p.height * p.width;
                copy_async(a + (at * p.pitch + c) * 16,
                           pixel(p.source, (size_t)(base + tables.pixels[at]), (first + c) * 8), ok, p.source.keeping);
            }
            for (int m = line_b; m < WEIGHT_PIXELS && line_b < W::LINES; m += W::LINES)
                copy_async(chunk_at<W::B_CHUNKS>(b, m, chunk_b),
                           pixel(p.gradient, (size_t)(base + tables.rows[m]), n0 + chunk_b * 8),
                           m < images << (p.log_w + p.log_h) && n0 + chunk_b * 8 < p.columns, p.gradient.keeping);
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
            uint32_t fa[2][4]; /* the next rows' are under way while these are multiplied */
            load_matrix4_transposed(fa[0], at + offset[0]);
#pragma unroll
            for (int q = 0; q < W::TILES; q++) {
                if (q + 1 < W::TILES) load_matrix4_transposed(fa[(q + 1) % 2], at + offset[q + 1]);
                if (2 * (q * 4 + warp % 4) >= rows) continue; /* for the whole warp */
#pragma unroll
                for (int j = 0; j < W::WN / 8; j++) mma_bf16(sums[q][j], fa[q % 2], fb[j]);
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
