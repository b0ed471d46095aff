/* layers_cpu.c - the operations of layers.h on the CPU. This text is compiled once for each instruction set
 * (CPU_ISA), with vectors of the width that suits it.
 *
 * A convolution, forward or for the data gradient, is a product of matrices that are never built: a *panel* of up to
 * NV_MOST vectors of output channels is computed for MR pixels at a time; each tap and each part of the input's
 * channels is an *item*, with a pointer to the input for each of the MR pixels (to zeros where the tap falls off the
 * image) and a run of packed weights. A task is a chunk of pixels and a panel: its sums stand in scratch memory, and
 * what rides along (bias, activation, dropout, residual sum, statistics) is done while they are in the cache.
 *
 * Invariant: chunks and the order of every sum follow from the shapes alone, so the bits do not depend on threads. */
#include "layers_cpu.h"

#include <math.h>
#include <string.h>

#define PHILOX_FUNCTION static inline __attribute__((always_inline))
#include "philox.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define LAYERS_CPU_RUN JOIN(layers_cpu_run_, CPU_ISA)

/* Floats in a vector; vectors in a panel at most; rows of accumulators that leave registers for weights. */
#if defined(__AVX512F__)
enum { VL = 16, NV_MOST = 4 };
#define ROWS(nv) ((nv) == 4 ? 6 : 8)
#elif defined(__AVX2__)
enum { VL = 8, NV_MOST = 3 };
#define ROWS(nv) 4
#else
enum { VL = 8, NV_MOST = 1 }; /* two registers of four */
#define ROWS(nv) 4
#endif
enum { ROWS_MOST = 8, PANEL_MOST = VL * NV_MOST };
typedef float vec __attribute__((vector_size(VL * 4), aligned(4), may_alias));

enum { CHUNK = 256, BLOCK_ROWS = 1024, DENSE_IMAGES = 64 };

static int round_up(int n, int to) { return (n + to - 1) / to * to; }
static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Scratch of at least so many bytes; what was in it is lost. */
static void *scratch(struct cpu *c, int which, size_t bytes, struct error *e) {
    struct scratch *s = &c->scratch[which];
    if (s->bytes < bytes) {
        mem_free(s->at);
        s->at = mem_aligned(bytes);
        s->bytes = s->at != NULL ? bytes : 0;
        if (s->at == NULL) error_memory(e, bytes, "an operation's scratch");
    }
    return s->at;
}

/* ====================================== small functions ======================================= */

/* exp(x) - 1 for x <= 0, to about 1e-7 of the result: x = n ln 2 + r, exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1). */
static inline float exp_minus_1(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds to an integer */
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = (p * r) * r + r;
    union {
        int32_t i;
        float f;
    } two;
    two.i = ((int32_t)n + 127) << 23;
    return two.f * p + (two.f - 1.0f);
}

static void activate(enum activation act, float *v, int n) {
    if (act == ACT_RELU) {
        for (int i = 0; i < n; i++) v[i] = v[i] < 0 ? 0.0f : v[i]; /* this way round NaN stays NaN */
    } else if (act == ACT_ELU) {
        for (int i = 0; i < n; i++) {
            const float m = exp_minus_1(v[i] > 0 ? 0.0f : v[i]);
            v[i] = v[i] > 0 ? v[i] : m;
        }
    }
}

/* v *= act'(x) from the activation's output y = x * scale. */
static void activate_back(enum activation act, float *restrict v, const float *restrict y, float scale, int n) {
    if (act == ACT_RELU) {
        for (int i = 0; i < n; i++) v[i] = y[i] > 0 ? v[i] : 0.0f;
    } else if (act == ACT_ELU) {
        for (int i = 0; i < n; i++) {
            const float s = y[i] > 0 ? 1.0f : y[i] * scale + 1.0f;
            v[i] *= s;
        }
    }
}

/* Dropout of `rows` pixels of n channels each: the channels of pixel i begin at element e[i] of the mask, a multiple
 * of 8, and stand at v + i * stride. */
enum { MASK_GROUPS = 64 };
typedef uint32_t eight_words __attribute__((vector_size(32)));
typedef float eight_floats __attribute__((vector_size(32)));

/* philox.h's function on many counters at once, in place, in loops that the compiler turns into vector instructions. */
static void philox_many(const uint32_t key[2], uint32_t c[4][MASK_GROUPS]) {
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        for (int i = 0; i < MASK_GROUPS; i++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c[0][i], p1 = (uint64_t)0xCD9E8D57u * c[2][i];
            c[0][i] = (uint32_t)(p1 >> 32) ^ c[1][i] ^ k0;
            c[1][i] = (uint32_t)p1;
            c[2][i] = (uint32_t)(p0 >> 32) ^ c[3][i] ^ k1;
            c[3][i] = (uint32_t)p0;
        }
    }
}

static void drop_groups(const struct drop *d, const struct step *s, const uint32_t *group, float *const *at, int n) {
    uint32_t words[4][MASK_GROUPS];
    const uint32_t threshold = d->threshold;
    const float scale = 65536.0f / (float)(65536 - threshold);
    for (int i = 0; i < MASK_GROUPS; i++) {
        words[0][i] = i < n ? group[i] : 0;
        words[1][i] = s->step;
        words[2][i] = s->epoch;
        words[3][i] = 0;
    }
    philox_many(d->key, words);
    for (int i = 0; i < n; i++) {
        const uint32_t a = words[0][i], b = words[1][i], c = words[2][i], e = words[3][i];
        const eight_words bits =
            ((eight_words){a, a, b, b, c, c, e, e} >> (eight_words){0, 16, 0, 16, 0, 16, 0, 16}) & 0xffff;
        eight_floats v;
        memcpy(&v, at[i], sizeof v);
        v *= scale;
        v = (eight_floats)((eight_words)v &
                           (eight_words)(bits >= threshold)); /* a comparison is all ones where it holds */
        memcpy(at[i], &v, sizeof v);
    }
}

struct dropper { /* collects groups of eight channels, so that Philox runs on many at a time */
    const struct drop *drop;
    const struct step *step;
    int n;
    uint32_t group[MASK_GROUPS];
    float *at[MASK_GROUPS];
};

static void dropper_flush(struct dropper *d) {
    drop_groups(d->drop, d->step, d->group, d->at, d->n);
    d->n = 0;
}

/* n channels (a multiple of 8) at v, the first of which is element e of its map. */
static void dropper_add(struct dropper *d, float *v, size_t e, int n) {
    for (int i = 0; i < n; i += 8) {
        d->group[d->n] = (uint32_t)((e + (size_t)i) / 8);
        d->at[d->n++] = v + i;
        if (d->n == MASK_GROUPS) dropper_flush(d);
    }
}

static float *pixel(const struct map *m, size_t p) { return (float *)m->at + p * (size_t)m->stride; }
static size_t element(const struct map *m, size_t p) { return p * (size_t)m->stride + (size_t)m->first; }

/* ===================================== the matrix product ===================================== */

/* One item of a product: MR pointers to `width` channels, and width rows of a panel of weights. */
struct item {
    const float *weights;
    const float *in[ROWS_MOST];
};

/* sums[MR][NV * VL] = (add ? sums : 0) + sum over items and channels of in * weights. */
#define KERNEL(NV)                                                                                   \
    static void kernel_##NV(const struct item *item, int n, int width, float *sums, int add) {       \
        enum { MR = ROWS(NV) };                                                                      \
        vec a[MR][NV];                                                                               \
        for (int i = 0; i < MR; i++) {                                                               \
            for (int v = 0; v < NV; v++) a[i][v] = add ? ((const vec *)sums)[i * NV + v] : (vec){0}; \
        }                                                                                            \
        for (; n > 0; n--, item++) {                                                                 \
            const float *w = item->weights;                                                          \
            const float *in[MR];                                                                     \
            for (int i = 0; i < MR; i++) in[i] = item->in[i];                                        \
            for (int k = 0; k < width; k++, w += NV * VL) {                                          \
                vec b[NV];                                                                           \
                for (int v = 0; v < NV; v++) b[v] = ((const vec *)w)[v];                             \
                for (int i = 0; i < MR; i++) {                                                       \
                    const float x = in[i][k];                                                        \
                    for (int v = 0; v < NV; v++) a[i][v] += x * b[v];                                \
                }                                                                                    \
            }                                                                                        \
        }                                                                                            \
        for (int i = 0; i < MR; i++) {                                                               \
            for (int v = 0; v < NV; v++) ((vec *)sums)[i * NV + v] = a[i][v];                        \
        }                                                                                            \
    }
KERNEL(1)
#if defined(__AVX2__)
KERNEL(2)
KERNEL(3)
#endif
#if defined(__AVX512F__)
KERNEL(4)
#endif

static int rows_of(int nv) {
    (void)nv;
    return ROWS(nv);
}

static void kernel(int nv, const struct item *item, int n, int width, float *sums, int add) {
    switch (nv) {
        case 1: kernel_1(item, n, width, sums, add); break;
#if defined(__AVX2__)
        case 2: kernel_2(item, n, width, sums, add); break;
        case 3: kernel_3(item, n, width, sums, add); break;
#endif
#if defined(__AVX512F__)
        case 4: kernel_4(item, n, width, sums, add); break;
#endif
        default: break;
    }
}

/* The output's channels in panels: their vectors shared out evenly. */
struct panels {
    int n, vectors, stored;
};
static struct panels panels_of(int stored) {
    const int vectors = (stored + VL - 1) / VL;
    return (struct panels){(vectors + NV_MOST - 1) / NV_MOST, vectors, stored};
}
static int panel_first(const struct panels *p, int i) { return p->vectors * i / p->n; }
static int panel_vectors(const struct panels *p, int i) { return panel_first(p, i + 1) - panel_first(p, i); }

/* =========================== convolution, forward and data gradient =========================== */

struct job {
    const struct program *program;
    const struct step *step;
    int n, k, stride, pad, back; /* back: the data gradient */
    struct map from, to;         /* from: read through the taps; to: the shape of what is computed */
    struct panels panels;
    int items, rows_panel; /* items: taps * parts; rows_panel: taps * parts * width, of packed weights */
    const float *packed;   /* [panel][tap][part][width][panel's vectors * VL] */
    const float *weight;   /* unpacked */
    float *packing;
    int in_stored, out_stored; /* of the weights: [k][k][in_stored][out_stored] */
    size_t pixels;
    int chunk, chunks;
    const struct op_conv *conv;
    const struct op_conv_data *data;
    float *partials; /* [chunks][2][to's stored channels]: of statistics or sums */
    char *worker;    /* scratch of each worker */
    size_t worker_bytes;
    const float *zeros;
};

/* A dense layer reads no zeros around its images, and its pixels are the images. */
static int is_dense(const struct job *j) { return j->k == 1 && j->from.h == 1 && j->from.w == 1; }

/* Packs weights for one panel. Forward: row (tap, in channel), column out channel. Back: row (tap, out channel),
 * column in channel. */
static void pack_task(void *context, int panel, int worker) {
    const struct job *j = context;
    const int first = panel_first(&j->panels, panel) * VL, columns = panel_vectors(&j->panels, panel) * VL;
    const int real = (int)least((size_t)columns, (size_t)(j->panels.stored - first));
    float *to = j->packing + (size_t)first * (size_t)j->rows_panel;
    const int padded = map_stored(&j->from) / j->from.parts;
    (void)worker;
    for (int tap = 0; tap < j->k * j->k; tap++) {
        const float *w = j->weight + (size_t)tap * (size_t)j->in_stored * (size_t)j->out_stored;
        for (int part = 0; part < j->from.parts; part++) {
            for (int c = 0; c < j->from.width; c++, to += columns) {
                const int row = part * padded + c;
                memset(to + real, 0, (size_t)(columns - real) * sizeof *to);
                if (!j->back) {
                    memcpy(to, w + (size_t)row * (size_t)j->out_stored + first, (size_t)real * sizeof *to);
                } else {
                    for (int i = 0; i < real; i++) to[i] = w[(size_t)(first + i) * (size_t)j->out_stored + (size_t)row];
                }
            }
        }
    }
}

/* Where the taps of pixel (y, x) of `to` read in `from`: row or column, or -1. */
static int tap_source(const struct job *j, int at, int r, int size) {
    if (!j->back) {
        const int s = at * j->stride - j->pad + r;
        return s < size ? s : -1;
    }
    const int s = at + j->pad - r;
    if (s < 0 || s % j->stride != 0) return -1;
    return s / j->stride < size ? s / j->stride : -1;
}

/* The pixels of a chunk, in the order in which they are computed. The data gradient of a strided convolution takes
 * those of one parity together: they share the taps that reach them, and the others are left out. */
static int chunk_pixels(const struct job *j, int chunk, int *pixels) {
    const size_t begin = (size_t)chunk * (size_t)j->chunk, end = least(begin + (size_t)j->chunk, j->pixels);
    const int n = (int)(end - begin), w = j->to.w, h = j->to.h;
    if (!j->back || j->stride == 1) {
        for (int i = 0; i < n; i++) pixels[i] = i;
        return n;
    }
    int used = 0;
    for (int parity = 0; parity < 4; parity++) {
        for (int i = 0; i < n; i++) {
            const size_t p = begin + (size_t)i;
            const int x = (int)(p % (size_t)w), y = (int)(p / (size_t)w % (size_t)h);
            if ((y & 1) * 2 + (x & 1) == parity) pixels[used++] = i;
        }
    }
    return n;
}

/* Fills the items of MR pixels; returns how many there are: a tap that reaches no pixel is left out. */
static int make_items(const struct job *j, struct item *items, size_t begin, const int *pixels, int n, int mr,
                      const float *weights, int columns, int tap_first, int tap_end) {
    const struct map *f = &j->from;
    const int padded = map_stored(f) / f->parts, w = j->to.w, h = j->to.h;
    int ys[ROWS_MOST], xs[ROWS_MOST], used = 0;
    const float *image[ROWS_MOST];
    for (int i = 0; i < n; i++) {
        const size_t p = begin + (size_t)pixels[i], row = p / (size_t)w;
        xs[i] = (int)(p % (size_t)w);
        ys[i] = (int)(row % (size_t)h);
        image[i] = (const float *)f->at + row / (size_t)h * (size_t)f->h * (size_t)f->w * (size_t)f->stride;
    }
    for (int tap = tap_first; tap < tap_end; tap++) {
        const float *in[ROWS_MOST];
        int any = 0;
        for (int i = 0; i < mr; i++) {
            in[i] = j->zeros;
            if (i >= n) continue;
            const int y = tap_source(j, ys[i], tap / j->k, f->h), x = tap_source(j, xs[i], tap % j->k, f->w);
            if (y < 0 || x < 0) continue;
            in[i] = image[i] + ((size_t)y * (size_t)f->w + (size_t)x) * (size_t)f->stride;
            any = 1;
        }
        if (!any) continue;
        for (int part = 0; part < f->parts; part++) {
            struct item *t = &items[used++];
            t->weights = weights + ((size_t)tap * (size_t)f->parts + (size_t)part) * (size_t)f->width * (size_t)columns;
            for (int i = 0; i < mr; i++) t->in[i] = in[i] == j->zeros ? in[i] : in[i] + part * padded;
        }
    }
    return used;
}

/* A dense layer's items: one "tap", and parts from..to of its (very many) parts. */
static int dense_items(const struct job *j, struct item *items, size_t begin, int first, int n, int mr,
                       const float *weights, int columns, int part_first, int part_end) {
    const struct map *f = &j->from;
    const int padded = map_stored(f) / f->parts;
    for (int part = part_first; part < part_end; part++) {
        struct item *t = &items[part - part_first];
        t->weights = weights + (size_t)part * (size_t)f->width * (size_t)columns;
        for (int i = 0; i < mr; i++) {
            const int row = i < n ? first + i : first; /* what is computed for a row too many is not used */
            t->in[i] = (const float *)f->at + (begin + (size_t)row) * (size_t)f->stride + part * padded;
        }
    }
    return part_end - part_first;
}

/* What follows a chunk's sums, forward: one panel's channels [first, first + n). */
static void finish_forward(const struct job *j, float *sums, int ld, size_t begin, const int *pixels, int n, int first,
                           int channels, int chunk) {
    const struct op_conv *o = j->conv;
    const float *bias = o->bias != LAYERS_NONE ? j->program->parameters->value + o->bias + first : NULL;
    struct dropper dropper = {.drop = &o->drop, .step = j->step};
    for (int i = 0; i < n; i++) {
        float *v = sums + (size_t)i * (size_t)ld;
        const size_t p = begin + (size_t)pixels[i];
        if (bias != NULL) {
            for (int c = 0; c < channels; c++) v[c] += bias[c];
        }
        activate(o->act, v, channels);
        if (o->add.at != NULL) {
            const float *add = pixel(&o->add, p) + first;
            for (int c = 0; c < channels; c++) v[c] += add[c];
        }
        if (o->out.at != NULL) memcpy(pixel(&o->out, p) + first, v, (size_t)channels * sizeof *v);
    }
    if (o->bn != NULL) { /* mean and sum of squares about it, of this chunk */
        float *mean = j->partials + (size_t)chunk * 2 * (size_t)j->panels.stored + first,
              *squares = mean + j->panels.stored;
        for (int c = 0; c < channels; c++) mean[c] = squares[c] = 0;
        for (int i = 0; i < n; i++) {
            const float *v = sums + (size_t)i * (size_t)ld;
            for (int c = 0; c < channels; c++) mean[c] += v[c];
        }
        for (int c = 0; c < channels; c++) mean[c] /= (float)n;
        for (int i = 0; i < n; i++) {
            const float *v = sums + (size_t)i * (size_t)ld;
            for (int c = 0; c < channels; c++) squares[c] += (v[c] - mean[c]) * (v[c] - mean[c]);
        }
    }
    if (o->dropped.at == NULL) return;
    for (int i = 0; i < n; i++) {
        const size_t p = begin + (size_t)pixels[i];
        float *to = pixel(&o->dropped, p) + first;
        memcpy(to, sums + (size_t)i * (size_t)ld, (size_t)channels * sizeof *to);
        if (o->drop.threshold > 0) dropper_add(&dropper, to, element(&o->dropped, p) + (size_t)first, channels);
    }
    if (dropper.n > 0) dropper_flush(&dropper);
}

static void finish_data(const struct job *j, float *sums, int ld, size_t begin, const int *pixels, int n, int first,
                        int channels, int chunk) {
    const struct op_conv_data *o = j->data;
    if (o->drop.threshold > 0) {
        struct dropper dropper = {.drop = &o->drop, .step = j->step};
        for (int i = 0; i < n; i++) {
            const size_t p = begin + (size_t)pixels[i];
            dropper_add(&dropper, sums + (size_t)i * (size_t)ld, element(&o->gradient, p) + (size_t)first, channels);
        }
        if (dropper.n > 0) dropper_flush(&dropper);
    }
    float *sum_g = NULL, *sum_gx = NULL;
    if (o->bn != NULL) {
        sum_g = j->partials + (size_t)chunk * 2 * (size_t)j->panels.stored + first;
        sum_gx = sum_g + j->panels.stored;
        for (int c = 0; c < channels; c++) sum_g[c] = sum_gx[c] = 0;
    }
    for (int i = 0; i < n; i++) {
        float *v = sums + (size_t)i * (size_t)ld;
        const size_t p = begin + (size_t)pixels[i];
        if (o->add.at != NULL) {
            const float *add = pixel(&o->add, p) + first;
            for (int c = 0; c < channels; c++) v[c] += add[c];
        }
        if (o->act != ACT_LINEAR) activate_back(o->act, v, pixel(&o->y, p) + first, o->y_scale, channels);
        memcpy(pixel(&o->gradient, p) + first, v, (size_t)channels * sizeof *v);
        if (o->bn != NULL) {
            const float *x = pixel(&o->bn_x, p) + first, *mean = o->bn->mean + first;
            for (int c = 0; c < channels; c++) {
                sum_g[c] += v[c];
                sum_gx[c] += v[c] * (x[c] - mean[c]);
            }
        }
        if (o->branch.at != NULL) {
            activate_back(o->branch_act, v, pixel(&o->branch_y, p) + first, 1, channels);
            memcpy(pixel(&o->branch, p) + first, v, (size_t)channels * sizeof *v);
        }
    }
}

static void product_task(void *context, int task, int worker) {
    const struct job *j = context;
    const int panel = task % j->panels.n, chunk = task / j->panels.n;
    const int nv = panel_vectors(&j->panels, panel), columns = nv * VL, mr = rows_of(nv),
              first = panel_first(&j->panels, panel) * VL;
    const int channels = (int)least((size_t)columns, (size_t)(j->panels.stored - first));
    const float *weights = j->packed + (size_t)first * (size_t)j->rows_panel;
    struct item *items = (struct item *)(void *)(j->worker + (size_t)worker * j->worker_bytes);
    int *pixels = (int *)(void *)(items + j->items);
    float *sums = (float *)(void *)(pixels + round_up(j->chunk, 16));
    const size_t begin = (size_t)chunk * (size_t)j->chunk;
    const int n = chunk_pixels(j, chunk, pixels);
    const int dense = is_dense(j);
    const int units = dense ? j->from.parts : j->k * j->k; /* what blocks of the sum are made of */
    const int unit_rows = j->rows_panel / units;
    const int block = unit_rows >= BLOCK_ROWS ? 1 : BLOCK_ROWS / unit_rows;
    for (int u = 0; u < units; u += block) { /* a block's weights stay in the second-level cache for all pixels */
        const int end = u + block < units ? u + block : units;
        for (int i = 0; i < n; i += mr) {
            const int rows = n - i < mr ? n - i : mr;
            const int used = dense ? dense_items(j, items, begin, i, rows, mr, weights, columns, u, end)
                                   : make_items(j, items, begin, pixels + i, rows, mr, weights, columns, u, end);
            kernel(nv, items, used, j->from.width, sums + (size_t)i * (size_t)columns, u > 0);
        }
    }
    if (j->conv != NULL) {
        finish_forward(j, sums, columns, begin, pixels, n, first, channels, chunk);
    } else {
        finish_data(j, sums, columns, begin, pixels, n, first, channels, chunk);
    }
}

/* Sets up and runs the product; the caller has filled n, k, stride, pad, back, from, to, weight, the stored widths. */
static int product(struct cpu *c, struct job *j, int want_partials, struct error *e) {
    static const float zeros[4096];
    const int taps = j->k * j->k;
    j->panels = panels_of(map_stored(&j->to));
    j->rows_panel = taps * j->from.parts * j->from.width;
    j->items = taps * j->from.parts;
    j->pixels = (size_t)j->n * (size_t)j->to.h * (size_t)j->to.w;
    const int image = j->to.h * j->to.w;
    /* Whole images where they are small, so that a strided data gradient finds each parity in a chunk; a dense layer's
     * images are few, and its chunks smaller, so that there are tasks for all threads. */
    j->chunk = image == 1 ? 96 : image >= CHUNK ? CHUNK : CHUNK / image * image;
    j->chunks = (int)((j->pixels + (size_t)j->chunk - 1) / (size_t)j->chunk);
    j->worker_bytes = (size_t)j->items * sizeof(struct item) + (size_t)round_up(j->chunk, 16) * sizeof(int) +
                      (size_t)(j->chunk + ROWS_MOST) * PANEL_MOST * sizeof(float);
    j->worker_bytes = (j->worker_bytes + 63) / 64 * 64;
    j->packing = scratch(c, SCRATCH_WEIGHTS, (size_t)j->panels.vectors * VL * (size_t)j->rows_panel * sizeof(float), e);
    if (j->packing == NULL) return ERROR_TRIAL;
    j->packed = j->packing;
    j->worker = scratch(c, SCRATCH_WORKER, j->worker_bytes * (size_t)threads_count(c->threads), e);
    if (j->worker == NULL) return ERROR_TRIAL;
    if (want_partials) {
        j->partials = scratch(c, SCRATCH_PARTIALS, (size_t)j->chunks * 2 * (size_t)j->panels.stored * sizeof(float), e);
        if (j->partials == NULL) return ERROR_TRIAL;
    }
    if (!is_dense(j) && (size_t)j->from.width > sizeof zeros / sizeof *zeros) {
        return error_set(e, ERROR_TRIAL, "a convolution of %d channels is too wide", j->from.width);
    }
    j->zeros = zeros;
    threads_run(c->threads, j->panels.n, pack_task, j);
    threads_run(c->threads, j->chunks * j->panels.n, product_task, j);
    return OK;
}

static int chunk_size(const struct job *j, int chunk) {
    return (int)least((size_t)j->chunk, j->pixels - (size_t)chunk * (size_t)j->chunk);
}

static int conv_forward(struct cpu *c, const struct program *p, const struct op_conv *o, int n, struct error *e) {
    struct job j = {.program = p,
                    .step = p->step,
                    .n = n,
                    .k = o->k,
                    .stride = o->stride,
                    .pad = o->pad,
                    .from = o->in,
                    .conv = o,
                    .to = o->out.at != NULL ? o->out : o->dropped,
                    .weight = p->parameters->value + o->weight};
    j.in_stored = map_stored(&o->in);
    j.out_stored = map_stored(&j.to);
    const int failed = product(c, &j, o->bn != NULL, e);
    if (failed || o->bn == NULL) return failed;
    for (int ch = 0; ch < j.panels.stored; ch++) { /* Chan, Golub, LeVeque 1979: chunks one after the other */
        double mean = 0, squares = 0, count = 0;
        for (int k = 0; k < j.chunks; k++) {
            const float *part = j.partials + (size_t)k * 2 * (size_t)j.panels.stored + ch;
            const double m = chunk_size(&j, k), delta = (double)part[0] - mean;
            squares += (double)part[j.panels.stored] + delta * delta * count * m / (count + m);
            mean += delta * m / (count + m);
            count += m;
        }
        o->bn->mean[ch] = (float)mean;
        o->bn->variance[ch] = (float)(squares / count);
    }
    return OK;
}

static int conv_data(struct cpu *c, const struct program *p, const struct op_conv_data *o, int n, struct error *e) {
    struct job j = {.program = p,
                    .step = p->step,
                    .n = n,
                    .k = o->k,
                    .stride = o->stride,
                    .pad = o->pad,
                    .back = 1,
                    .from = o->out_gradient,
                    .to = o->gradient,
                    .data = o,
                    .weight = p->parameters->value + o->weight};
    j.in_stored = map_stored(&o->gradient);
    j.out_stored = map_stored(&o->out_gradient);
    const int failed = product(c, &j, o->bn != NULL, e);
    if (failed || o->bn == NULL) return failed;
    for (int ch = 0; ch < j.panels.stored; ch++) {
        double g = 0, gx = 0;
        for (int k = 0; k < j.chunks; k++) {
            const float *part = j.partials + (size_t)k * 2 * (size_t)j.panels.stored + ch;
            g += (double)part[0];
            gx += (double)part[j.panels.stored];
        }
        o->bn->sum_g[ch] = (float)g;
        o->bn->sum_gx[ch] = (float)gx;
    }
    return OK;
}

/* ====================================== weight gradient ======================================= */

/* Rows of the outer product: they divide LAYERS_ALIGN, so that no block of input channels reaches behind a pixel. */
#if defined(__AVX512F__)
#define OUTER_ROWS(nv) ((nv) == 4 ? 4 : 8)
#else
#define OUTER_ROWS(nv) 4
#endif

/* A run of pixels through two matrices: n pixels in each of `rows` rows. x moves on by dx a pixel and dx_row a row; g
 * is packed, so that it moves on by its panel's width a pixel, and by dg_row a row. */
struct run {
    const float *x, *g;
    size_t dx, dx_row, dg_row;
    int n, rows;
};

/* sums[MR][NV * VL] += sum over the run's pixels of x[MR] * g[NV * VL]. */
#define OUTER(NV)                                                                                         \
    static void outer_##NV(const struct run *run, float *sums, size_t ld) {                               \
        enum { MR = OUTER_ROWS(NV) };                                                                     \
        vec a[MR][NV];                                                                                    \
        for (int i = 0; i < MR; i++) {                                                                    \
            for (int v = 0; v < NV; v++) a[i][v] = *(const vec *)(sums + (size_t)i * ld + v * VL);        \
        }                                                                                                 \
        for (int row = 0; row < run->rows; row++) {                                                       \
            const float *x = run->x + (size_t)row * run->dx_row, *g = run->g + (size_t)row * run->dg_row; \
            for (int n = run->n; n > 0; n--, x += run->dx, g += NV * VL) {                                \
                vec b[NV];                                                                                \
                for (int v = 0; v < NV; v++) b[v] = ((const vec *)g)[v];                                  \
                for (int i = 0; i < MR; i++) {                                                            \
                    const float f = x[i];                                                                 \
                    for (int v = 0; v < NV; v++) a[i][v] += f * b[v];                                     \
                }                                                                                         \
            }                                                                                             \
        }                                                                                                 \
        for (int i = 0; i < MR; i++) {                                                                    \
            for (int v = 0; v < NV; v++) *(vec *)(sums + (size_t)i * ld + v * VL) = a[i][v];              \
        }                                                                                                 \
    }
OUTER(1)
#if defined(__AVX2__)
OUTER(2)
OUTER(3)
#endif
#if defined(__AVX512F__)
OUTER(4)
#endif

static void outer(int nv, const struct run *run, float *sums, size_t ld) {
    switch (nv) {
        case 1: outer_1(run, sums, ld); break;
#if defined(__AVX2__)
        case 2: outer_2(run, sums, ld); break;
        case 3: outer_3(run, sums, ld); break;
#endif
#if defined(__AVX512F__)
        case 4: outer_4(run, sums, ld); break;
#endif
        default: break;
    }
}

struct weight_job {
    const struct op_conv_weight *o;
    int n, chunks, per_chunk, row_blocks, block; /* images a chunk; blocks of input channels */
    int dense;
    struct panels panels;
    int rows;        /* stored input channels, of one tap */
    size_t ld, size; /* of a partial: [k][k][rows][vectors * VL] */
    float *partials; /* [chunks][size], then [chunks][vectors * VL] for the bias */
    char *worker;
    size_t worker_bytes;
    float *weight, *bias;
};

/* The outputs at first .. end - 1 are those whose tap, `offset` from the output's place times stride, falls into 0 ..
 * in. */
struct span {
    int first, end;
};
static struct span span_of(int out, int in, int stride, int offset) {
    struct span s = {0, out};
    while (s.first < out && s.first * stride + offset < 0) s.first++;
    while (s.end > s.first && (s.end - 1) * stride + offset >= in) s.end--;
    return s;
}

/* The run of one tap over an image (of a dense layer: over `pixels` images), from input channel c. */
static struct run tap_run(const struct op_conv_weight *o, int tap, int image, int c, const float *packed, int columns,
                          int pixels) {
    const struct map *x = &o->in, *g = &o->out_gradient;
    const int r = tap / o->k - o->pad, q = tap % o->k - o->pad;
    const struct span ys = span_of(g->h, x->h, o->stride, r), xs = span_of(g->w, x->w, o->stride, q);
    struct run run = {.dx = (size_t)o->stride * (size_t)x->stride,
                      .dx_row = (size_t)(o->stride * x->w) * (size_t)x->stride,
                      .dg_row = (size_t)(g->w * columns),
                      .n = xs.end - xs.first,
                      .rows = ys.end - ys.first};
    if (run.n <= 0 || run.rows <= 0) return (struct run){.n = 0};
    if (g->h == 1 && g->w == 1 && x->h == 1 && x->w == 1) { /* the images are the pixels */
        run.dx = (size_t)x->stride;
        run.n = pixels;
    }
    const size_t row = (size_t)image * (size_t)x->h + (size_t)(ys.first * o->stride + r);
    run.x = pixel(x, row * (size_t)x->w + (size_t)(xs.first * o->stride + q)) + c;
    run.g = packed + (size_t)((ys.first * g->w + xs.first) * columns);
    return run;
}

/* A panel of the gradient's channels, pixel behind pixel, padded with zeros to whole vectors. */
static void pack_gradient(float *to, const float *from, size_t stride, int pixels, int real, int columns) {
    for (int p = 0; p < pixels; p++, to += columns, from += stride) {
        memcpy(to, from, (size_t)real * sizeof *to);
        memset(to + real, 0, (size_t)(columns - real) * sizeof *to);
    }
}

/* One chunk of images, one block of input channels, all taps. */
static void weight_task(void *context, int task, int worker) {
    const struct weight_job *j = context;
    const struct op_conv_weight *o = j->o;
    const struct map *g = &o->out_gradient;
    const int chunk = task / j->row_blocks, c0 = task % j->row_blocks * j->block;
    const int c1 = c0 + j->block < j->rows ? c0 + j->block : j->rows;
    const int begin = chunk * j->per_chunk, end = begin + j->per_chunk < j->n ? begin + j->per_chunk : j->n;
    const int size = g->h * g->w, together = j->dense ? DENSE_IMAGES : 1; /* images at a time */
    float *partial = j->partials + (size_t)chunk * j->size;
    float *packed = (float *)(void *)(j->worker + (size_t)worker * j->worker_bytes);
    float *bias =
        c0 == 0 && o->bias != LAYERS_NONE ? j->partials + (size_t)j->chunks * j->size + (size_t)chunk * j->ld : NULL;
    for (int tap = 0; tap < o->k * o->k; tap++) {
        memset(partial + ((size_t)tap * (size_t)j->rows + (size_t)c0) * j->ld, 0,
               (size_t)(c1 - c0) * j->ld * sizeof(float));
    }
    if (bias != NULL) memset(bias, 0, j->ld * sizeof *bias);
    for (int image = begin; image < end; image += together) {
        const int pixels = size * (end - image < together ? end - image : together);
        const float *gradient = pixel(g, (size_t)image * (size_t)size);
        for (int p = 0; bias != NULL && p < pixels; p++) {
            for (int c = 0; c < j->panels.stored; c++) bias[c] += gradient[(size_t)p * (size_t)g->stride + (size_t)c];
        }
        for (int panel = 0; panel < j->panels.n; panel++) {
            const int nv = panel_vectors(&j->panels, panel), columns = nv * VL,
                      first = panel_first(&j->panels, panel) * VL;
            const int real = (int)least((size_t)columns, (size_t)(j->panels.stored - first));
            pack_gradient(packed, gradient + first, (size_t)g->stride, pixels, real, columns);
            for (int tap = 0; tap < o->k * o->k; tap++) {
                struct run run = tap_run(o, tap, image, c0, packed, columns, pixels);
                float *sums = partial + ((size_t)tap * (size_t)j->rows + (size_t)c0) * j->ld + first;
                for (int c = c0; c < c1 && run.n > 0; c += OUTER_ROWS(nv)) {
                    outer(nv, &run, sums, j->ld);
                    run.x += OUTER_ROWS(nv);
                    sums += (size_t)OUTER_ROWS(nv) * j->ld;
                }
            }
        }
    }
}

static void weight_reduce(void *context, int task, int worker) {
    const struct weight_job *j = context;
    const int rows = j->o->k * j->o->k * j->rows;
    (void)worker;
    for (int row = task * 64; row < rows && row < (task + 1) * 64; row++) {
        float *to = j->weight + (size_t)row * (size_t)j->panels.stored;
        const float *from = j->partials + (size_t)row * j->ld;
        memcpy(to, from, (size_t)j->panels.stored * sizeof *to);
        for (int k = 1; k < j->chunks; k++) {
            from += j->size;
            for (int c = 0; c < j->panels.stored; c++) to[c] += from[c];
        }
    }
}

static int conv_weight(struct cpu *c, const struct program *p, const struct op_conv_weight *o, int n, struct error *e) {
    struct weight_job j = {.o = o, .n = n};
    const struct map *g = &o->out_gradient;
    const int size = g->h * g->w;
    j.dense = size == 1 && o->in.h == 1 && o->in.w == 1;
    j.panels = panels_of(map_stored(g));
    j.rows = map_stored(&o->in);
    j.ld = (size_t)j.panels.vectors * VL;
    j.size = (size_t)(o->k * o->k) * (size_t)j.rows * j.ld;
    /* As many chunks as keep the partials small beside the maps; a dense layer has one, and blocks of channels. */
    j.chunks = j.dense ? 1 : n < 16 ? n : 16;
    j.per_chunk = (n + j.chunks - 1) / j.chunks;
    j.chunks = (n + j.per_chunk - 1) / j.per_chunk;
    j.block = j.dense ? 96 : j.rows;
    j.row_blocks = (j.rows + j.block - 1) / j.block;
    j.worker_bytes = (size_t)(j.dense ? DENSE_IMAGES : size) * PANEL_MOST * sizeof(float);
    j.partials = scratch(c, SCRATCH_PARTIALS, ((size_t)j.chunks * (j.size + j.ld)) * sizeof(float), e);
    if (j.partials == NULL) return ERROR_TRIAL;
    j.worker = scratch(c, SCRATCH_WORKER, j.worker_bytes * (size_t)threads_count(c->threads), e);
    if (j.worker == NULL) return ERROR_TRIAL;
    j.weight = p->parameters->gradient + o->weight;
    threads_run(c->threads, j.chunks * j.row_blocks, weight_task, &j);
    threads_run(c->threads, (o->k * o->k * j.rows + 63) / 64, weight_reduce, &j);
    if (o->bias != LAYERS_NONE) {
        float *bias = p->parameters->gradient + o->bias;
        for (int i = 0; i < j.panels.stored; i++) {
            bias[i] = 0;
            for (int k = 0; k < j.chunks; k++)
                bias[i] += j.partials[(size_t)j.chunks * j.size + (size_t)k * j.ld + (size_t)i];
        }
    }
    return OK;
}

/* ============================== normalisation, pooling, dropout =============================== */

static void bn_forward(const struct op_bn *o, const struct parameters *p) {
    struct bn *bn = o->bn;
    for (int c = 0; c < bn->channels; c++) {
        float mean = bn->mean[c], variance = bn->variance[c], scale = 1, shift = 0;
        for (int l = 0; l < bn->links; l++) {
            const float gamma = p->value[bn->gamma[l] + (size_t)c], beta = p->value[bn->beta[l] + (size_t)c];
            float *moving_mean = &p->moving[bn->moving_mean[l] + (size_t)c],
                  *moving_variance = &p->moving[bn->moving_variance[l] + (size_t)c];
            if (o->training) {
                *moving_mean = BN_MOMENTUM * *moving_mean + (1 - BN_MOMENTUM) * mean;
                *moving_variance = BN_MOMENTUM * *moving_variance + (1 - BN_MOMENTUM) * variance;
            } else {
                mean = *moving_mean;
                variance = *moving_variance;
            }
            const float r = 1 / sqrtf(variance + BN_EPSILON);
            scale = scale * gamma * r; /* y = gamma r (x' - mean) + beta, x' the link before */
            shift = gamma * r * (shift - mean) + beta;
            mean = beta; /* of y over the batch */
            variance = gamma * gamma * variance * r * r;
        }
        bn->scale[c] = scale;
        bn->shift[c] = shift;
    }
}

static void bn_gradient(const struct op_bn_gradient *o, const struct parameters *p, int n) {
    struct bn *bn = o->bn;
    const float count = (float)n * (float)o->h * (float)o->w;
    for (int c = 0; c < bn->channels; c++) {
        const size_t ch = (size_t)c;
        const float g1 = p->value[bn->gamma[0] + ch], r = 1 / sqrtf(bn->variance[c] + BN_EPSILON);
        const float s0 = bn->sum_g[c], s1 = r * bn->sum_gx[c];
        float by_x, a; /* dx = a g - by_x * xhat - a s0 / count */
        if (bn->links == 1) {
            p->gradient[bn->beta[0] + ch] = s0;
            p->gradient[bn->gamma[0] + ch] = s1;
            a = g1 * r;
            by_x = a * s1 / count;
        } else {
            const float v2 = g1 * g1 * bn->variance[c] * r * r, r2 = 1 / sqrtf(v2 + BN_EPSILON),
                        g2 = p->value[bn->gamma[1] + ch];
            const float dgamma1 = g2 * r2 * s1 * BN_EPSILON * r2 * r2;
            p->gradient[bn->beta[1] + ch] = s0;
            p->gradient[bn->gamma[1] + ch] = g1 * r2 * s1;
            p->gradient[bn->beta[0] + ch] = 0;
            p->gradient[bn->gamma[0] + ch] = dgamma1;
            a = g1 * r * g2 * r2;
            by_x = a * g1 * g1 * r2 * r2 * s1 / count + g1 * r * dgamma1 / count;
        }
        bn->a[c] = a;
        bn->b[c] = -by_x * r;
        bn->c[c] = by_x * r * bn->mean[c] - a * s0 / count;
    }
}

struct map_job {
    const struct program *program;
    const struct op *op;
    int n, failed;
    float *worker; /* [workers][pixels * channels] of an image: a routed gradient */
    size_t worker_floats;
    float *partials; /* OP_SUMS: [n][2][channels] */
};

/* scale * x + shift of one pixel. */
static void normalise(const struct bn *bn, const float *restrict x, float *restrict out, int n) {
    if (bn == NULL) {
        memcpy(out, x, (size_t)n * sizeof *out);
        return;
    }
    for (int c = 0; c < n; c++) out[c] = bn->scale[c] * x[c] + bn->shift[c];
}

/* The window of output pixel (y, x): rows y0..y1, columns x0..x1 of the input, clipped to it. */
struct window {
    int y0, y1, x0, x1;
};
static struct window window_of(enum pool pool, int pad, const struct map *in, int y, int x) {
    const int k = pool == POOL_MAX3 ? 3 : 2, before = pool == POOL_MAX3 ? pad : 0;
    struct window w = {2 * y - before, 2 * y - before + k, 2 * x - before, 2 * x - before + k};
    if (w.y0 < 0) w.y0 = 0;
    if (w.x0 < 0) w.x0 = 0;
    if (w.y1 > in->h) w.y1 = in->h;
    if (w.x1 > in->w) w.x1 = in->w;
    return w;
}

enum { STRIP = 512 }; /* channels worked on at a time */

static void pool_pixel(const struct op_apply *o, size_t image, int y, int x, int first, int n, float *out) {
    const struct window w = window_of(o->pool, o->pad, &o->in, y, x);
    struct bn part = {.channels = n};
    if (o->bn != NULL) {
        part.scale = o->bn->scale + first;
        part.shift = o->bn->shift + first;
    }
    float v[STRIP];
    for (int i = w.y0, begin = 1; i < w.y1; i++) {
        for (int k = w.x0; k < w.x1; k++, begin = 0) {
            normalise(o->bn != NULL ? &part : NULL,
                      pixel(&o->in, image + (size_t)i * (size_t)o->in.w + (size_t)k) + first, v, n);
            if (begin) {
                memcpy(out, v, (size_t)n * sizeof *out);
            } else if (o->pool == POOL_AVG2) {
                for (int c = 0; c < n; c++) out[c] += v[c];
            } else {
                for (int c = 0; c < n; c++) out[c] = v[c] > out[c] ? v[c] : out[c];
            }
        }
    }
    if (o->pool == POOL_AVG2) {
        for (int c = 0; c < n; c++) out[c] *= 0.25f;
    }
}

static void apply_task(void *context, int image, int worker) {
    const struct map_job *j = context;
    const struct op_apply *o = &j->op->apply;
    const struct map *to = o->out.at != NULL ? &o->out : &o->dropped;
    const int channels = map_stored(&o->in);
    const size_t in0 = (size_t)image * (size_t)o->in.h * (size_t)o->in.w,
                 out0 = (size_t)image * (size_t)to->h * (size_t)to->w;
    struct dropper dropper = {.drop = &o->drop, .step = j->program->step};
    (void)worker;
    for (int y = 0; y < to->h; y++) {
        for (int x = 0; x < to->w; x++) {
            const size_t p = out0 + (size_t)y * (size_t)to->w + (size_t)x;
            float *v = pixel(to, p);
            if (o->pool == POOL_NONE) {
                normalise(o->bn, pixel(&o->in, in0 + (size_t)y * (size_t)o->in.w + (size_t)x), v, channels);
            } else {
                for (int c = 0; c < channels; c += STRIP)
                    pool_pixel(o, in0, y, x, c, channels - c < STRIP ? channels - c : STRIP, v + c);
            }
            if (o->dropped.at == NULL) continue;
            float *d = pixel(&o->dropped, p);
            if (d != v) memcpy(d, v, (size_t)channels * sizeof *d);
            if (o->drop.threshold > 0) dropper_add(&dropper, d, element(&o->dropped, p), channels);
        }
    }
    if (dropper.n > 0) dropper_flush(&dropper);
}

/* The gradient of an image's map before its pool: `routed`, whole; or the map itself where there is no pool. */
static const float *route(const struct map *x, const struct map *g, const struct bn *bn, enum pool pool, int pad,
                          int image, float *routed, int *stride) {
    const int channels = map_stored(x);
    const size_t in0 = (size_t)image * (size_t)x->h * (size_t)x->w, out0 = (size_t)image * (size_t)g->h * (size_t)g->w;
    *stride = channels;
    if (pool == POOL_NONE) {
        *stride = g->stride;
        return pixel(g, out0);
    }
    memset(routed, 0, (size_t)x->h * (size_t)x->w * (size_t)channels * sizeof *routed);
    for (int oy = 0; oy < g->h; oy++) {
        for (int ox = 0; ox < g->w; ox++) {
            const float *from = pixel(g, out0 + (size_t)oy * (size_t)g->w + (size_t)ox);
            const struct window w = window_of(pool, pad, x, oy, ox);
            if (pool == POOL_AVG2) {
                for (int i = w.y0; i < w.y1; i++) {
                    for (int k = w.x0; k < w.x1; k++) {
                        float *to = routed + (size_t)(i * x->w + k) * (size_t)channels;
                        for (int c = 0; c < channels; c++) to[c] += 0.25f * from[c];
                    }
                }
                continue;
            }
            for (int c0 = 0; c0 < channels; c0 += STRIP) {
                const int n = channels - c0 < STRIP ? channels - c0 : STRIP;
                float best[STRIP];
                int32_t where[STRIP];
                for (int i = w.y0, begin = 1; i < w.y1; i++) {
                    for (int k = w.x0; k < w.x1; k++, begin = 0) {
                        const float *v = pixel(x, in0 + (size_t)i * (size_t)x->w + (size_t)k) + c0;
                        const int32_t at = (int32_t)((i * x->w + k) * channels);
                        for (int c = 0; c < n; c++) {
                            const float y = bn != NULL ? bn->scale[c0 + c] * v[c] + bn->shift[c0 + c] : v[c];
                            const int take = begin || y > best[c];
                            best[c] = take ? y : best[c];
                            where[c] = take ? at : where[c];
                        }
                    }
                }
                for (int c = 0; c < n; c++) routed[where[c] + c0 + c] += from[c0 + c];
            }
        }
    }
    return routed;
}

static void sums_task(void *context, int image, int worker) {
    const struct map_job *j = context;
    const struct op_sums *o = &j->op->sums;
    const int channels = map_stored(&o->x), pixels = o->x.h * o->x.w;
    int stride;
    const float *g = route(&o->x, &o->out_gradient, o->bn, o->pool, o->pad, image,
                           j->worker + (size_t)worker * j->worker_floats, &stride);
    float *sum_g = j->partials + (size_t)image * 2 * (size_t)channels, *sum_gx = sum_g + channels;
    for (int c = 0; c < 2 * channels; c++) sum_g[c] = 0;
    for (int p = 0; p < pixels; p++) {
        const float *x = pixel(&o->x, (size_t)image * (size_t)pixels + (size_t)p), *v = g + (size_t)p * (size_t)stride;
        for (int c = 0; c < channels; c++) {
            sum_g[c] += v[c];
            sum_gx[c] += v[c] * (x[c] - o->bn->mean[c]);
        }
    }
}

static void apply_gradient_task(void *context, int image, int worker) {
    const struct map_job *j = context;
    const struct op_apply_gradient *o = &j->op->apply_gradient;
    const int channels = map_stored(&o->x), pixels = o->x.h * o->x.w;
    int stride;
    const float *g = route(&o->x, &o->out_gradient, o->bn, o->pool, o->pad, image,
                           j->worker + (size_t)worker * j->worker_floats, &stride);
    for (int i = 0; i < pixels; i++) {
        const size_t p = (size_t)image * (size_t)pixels + (size_t)i;
        const float *x = pixel(&o->x, p), *from = g + (size_t)i * (size_t)stride;
        float *to = pixel(&o->gradient, p);
        if (o->bn != NULL) {
            const float *a = o->bn->a, *b = o->bn->b, *k = o->bn->c;
            for (int c = 0; c < channels; c++) to[c] = a[c] * from[c] + b[c] * x[c] + k[c];
        } else if (to != from) {
            memcpy(to, from, (size_t)channels * sizeof *to);
        }
        activate_back(o->act, to, x, 1, channels);
        if (o->branch.at != NULL) {
            float *branch = pixel(&o->branch, p);
            memcpy(branch, to, (size_t)channels * sizeof *to);
            activate_back(o->branch_act, branch, pixel(&o->branch_y, p), 1, channels);
        }
    }
}

static int sums(struct cpu *c, struct map_job *j, struct error *e) {
    const struct op_sums *o = &j->op->sums;
    const int channels = map_stored(&o->x);
    j->partials = scratch(c, SCRATCH_PARTIALS, (size_t)j->n * 2 * (size_t)channels * sizeof(float), e);
    if (j->partials == NULL) return ERROR_TRIAL;
    threads_run(c->threads, j->n, sums_task, j);
    for (int ch = 0; ch < channels; ch++) {
        double g = 0, gx = 0;
        for (int i = 0; i < j->n; i++) {
            g += (double)j->partials[(size_t)(2 * i) * (size_t)channels + (size_t)ch];
            gx += (double)j->partials[(size_t)(2 * i + 1) * (size_t)channels + (size_t)ch];
        }
        o->bn->sum_g[ch] = (float)g;
        o->bn->sum_gx[ch] = (float)gx;
    }
    return OK;
}

/* ================================= images, losses, optimisers ================================= */

static void batch_task(void *context, int image, int worker) {
    const struct map_job *j = context;
    const struct op_batch *o = &j->op->batch;
    const struct step *s = j->program->step;
    const size_t index = o->order != NULL ? o->order[s->first + (uint32_t)image] : s->first + (uint32_t)image;
    const int h = o->out.h, w = o->out.w, stored = map_stored(&o->out);
    const uint8_t *from = o->pixels + index * (size_t)h * (size_t)w * (size_t)o->c;
    int flip = 0;
    (void)worker;
    if (o->flip) {
        const uint32_t counter[4] = {(uint32_t)image, s->step, s->epoch, 0};
        uint32_t out[4];
        philox(o->flip_key, counter, out);
        flip = (int)(out[0] & 1);
    }
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            const uint8_t *p = from + (size_t)(y * w + (flip ? w - 1 - x : x)) * (size_t)o->c;
            float *to = pixel(&o->out, ((size_t)image * (size_t)h + (size_t)y) * (size_t)w + (size_t)x);
            for (int c = 0; c < stored; c++) to[c] = c < o->c ? (float)p[c] / 255.0f - 0.5f : 0.0f;
        }
    }
}

/* One head of one image: its loss, whether it hits, and the gradient of the loss times weight. */
static double head_loss(const float *z, int classes, int label, int softmax, float weight, float *gradient, int *hit) {
    float p[256];
    double sum = 0, largest = -INFINITY;
    for (int i = 0; i < classes; i++) largest = (double)z[i] > largest ? (double)z[i] : largest;
    for (int i = 0; i < classes; i++) {
        const double q = softmax ? exp((double)z[i] - largest) : 1 / (1 + exp(-(double)z[i]));
        p[i] = (float)q;
        sum += q;
    }
    *hit = 1;
    for (int i = 0; i < classes; i++) {
        if (i < label ? !(p[i] < p[label]) : !(p[i] <= p[label])) *hit = 0;
    }
    const double q = softmax ? exp((double)z[label] - largest) / sum : 1 / (1 + exp(-(double)z[label])) / sum;
    const int clipped = !softmax && (q < 1e-7 || q > 1 - 1e-7);
    for (int i = 0; gradient != NULL && i < classes; i++) {
        double g = (double)p[i] / sum - (i == label);
        if (!softmax) g = clipped ? 0 : (double)p[i] * (1 - (double)p[i]) / sum - (i == label ? 1 - (double)p[i] : 0);
        gradient[i] = (float)(g * (double)weight);
    }
    if (softmax) return log(sum) - ((double)z[label] - largest);
    return -log(q < 1e-7 ? 1e-7 : q > 1 - 1e-7 ? 1 - 1e-7 : q);
}

struct loss_row {
    double fine, coarse;
    int fine_hit, coarse_hit;
};

static void loss_task(void *context, int image, int worker) {
    const struct map_job *j = context;
    const struct op_loss *o = &j->op->loss;
    const uint32_t at = j->program->step->first + (uint32_t)image, index = o->order != NULL ? o->order[at] : at;
    const float *z = pixel(&o->logits, (size_t)image);
    float *g = o->gradient.at != NULL ? pixel(&o->gradient, (size_t)image) : NULL;
    struct loss_row *row = (struct loss_row *)(void *)j->partials + image;
    const int column = round_up(o->fine, LAYERS_ALIGN);
    (void)worker;
    if (g != NULL) memset(g, 0, (size_t)map_stored(&o->gradient) * sizeof *g);
    row->fine = head_loss(z, o->fine, o->fine_labels[index], o->softmax, 1.0f / (float)j->n, g, &row->fine_hit);
    row->coarse = 0;
    row->coarse_hit = 0;
    if (o->coarse > 0) {
        row->coarse = head_loss(z + column, o->coarse, o->coarse_labels[index], o->softmax,
                                o->coarse_weight / (float)j->n, g != NULL ? g + column : NULL, &row->coarse_hit);
    }
}

static int loss(struct cpu *c, struct map_job *j, struct error *e) {
    struct tally *t = j->program->tally;
    j->partials = scratch(c, SCRATCH_PARTIALS, (size_t)j->n * sizeof(struct loss_row), e);
    if (j->partials == NULL) return ERROR_TRIAL;
    threads_run(c->threads, j->n, loss_task, j);
    for (int i = 0; i < j->n; i++) {
        const struct loss_row *row = (const struct loss_row *)(const void *)j->partials + i;
        t->fine_loss += row->fine;
        t->coarse_loss += row->coarse;
        t->fine_hits += (uint64_t)row->fine_hit;
        t->coarse_hits += (uint64_t)row->coarse_hit;
    }
    t->images += (uint64_t)j->n;
    return OK;
}

/* mu_t of Nadam (Dozat 2016, as Keras 2.0.6 schedules it). */
static double nadam_mu(double t) { return 0.9 * (1 - 0.5 * pow(0.96, 0.004 * t)); }

enum { OPTIMISE_CHUNK = 16384 };
struct optimise_job {
    const struct parameters *p;
    enum optimiser kind;
    float l2, lr, a, b, v_scale; /* Nadam: m and g in the step, 1 / (1 - beta2^t); Adam: lr_t */
    double *squares;
};

static double squares_of(const struct parameters *p, size_t begin, size_t end) {
    double squares = 0;
    for (size_t i = begin; i < least(end, p->n_decayed); i++) squares += (double)p->value[i] * (double)p->value[i];
    return squares;
}

static void optimise_task(void *context, int task, int worker) {
    const struct optimise_job *j = context;
    const size_t begin = (size_t)task * OPTIMISE_CHUNK, end = least(begin + OPTIMISE_CHUNK, j->p->n);
    const float epsilon = 1e-8f;
    float *restrict w = j->p->value, *restrict m = j->p->first_moment, *restrict v = j->p->second_moment;
    const float *restrict gradient = j->p->gradient;
    (void)worker;
    j->squares[task] = squares_of(j->p, begin, end);
    for (int decayed = 1; decayed >= 0; decayed--) {
        const size_t split = j->p->n_decayed < begin ? begin : least(j->p->n_decayed, end);
        const size_t first = decayed ? begin : split, last = decayed ? split : end;
        const float l2 = decayed ? 2 * j->l2 : 0;
        for (size_t i = first; i < last; i++) {
            const float g = gradient[i] + l2 * w[i];
            if (j->kind == OPT_RMSPROP) {
                v[i] = 0.9f * v[i] + 0.1f * g * g;
                w[i] -= j->lr * g / (sqrtf(v[i]) + epsilon);
            } else {
                m[i] = 0.9f * m[i] + 0.1f * g;
                v[i] = 0.999f * v[i] + 0.001f * g * g;
                w[i] -= j->lr * (j->a * m[i] + j->b * g) / (sqrtf(v[i] * j->v_scale) + epsilon);
            }
        }
    }
}

static void penalty_task(void *context, int task, int worker) {
    const struct optimise_job *j = context;
    const size_t begin = (size_t)task * OPTIMISE_CHUNK;
    (void)worker;
    j->squares[task] = squares_of(j->p, begin, begin + OPTIMISE_CHUNK);
}

/* Runs the tasks over all parameters and adds the sum of their squares to the tally. */
static int over_parameters(struct cpu *c, const struct program *p, struct optimise_job *j, threads_task *task, int n,
                           struct error *e) {
    const int tasks = (int)((p->parameters->n + OPTIMISE_CHUNK - 1) / OPTIMISE_CHUNK);
    double squares = 0;
    j->squares = scratch(c, SCRATCH_PARTIALS, (size_t)tasks * sizeof(double), e);
    if (j->squares == NULL) return ERROR_TRIAL;
    threads_run(c->threads, tasks, task, j);
    for (int i = 0; i < tasks; i++) squares += j->squares[i];
    p->tally->l2 += n * (double)j->l2 * squares;
    return OK;
}

static int optimise(struct cpu *c, const struct program *p, const struct op_optimise *o, int n, struct error *e) {
    const struct step *s = p->step;
    const double t = (double)s->t + 1;
    struct optimise_job j = {.p = p->parameters, .kind = o->kind, .l2 = o->l2, .lr = o->lr, .a = 1, .v_scale = 1};
    if (o->kind == OPT_ADAM) {
        j.lr = (float)((double)o->lr * sqrt(1 - pow(0.999, t)) / (1 - pow(0.9, t)));
    } else if (o->kind == OPT_NADAM) {
        const double mu = nadam_mu(t), next = nadam_mu(t + 1), product = s->mu_product * mu;
        j.a = (float)(next / (1 - product * next));
        j.b = (float)((1 - mu) / (1 - product));
        j.v_scale = (float)(1 / (1 - pow(0.999, t)));
    }
    return over_parameters(c, p, &j, optimise_task, n, e);
}

static int penalty(struct cpu *c, const struct program *p, const struct op_penalty *o, int n, struct error *e) {
    struct optimise_job j = {.p = p->parameters, .l2 = o->l2};
    return over_parameters(c, p, &j, penalty_task, n, e);
}

/* ======================================== the program ========================================= */

static size_t routed_floats(const struct op *op) {
    const struct map *x = op->kind == OP_SUMS ? &op->sums.x : &op->apply_gradient.x;
    return (size_t)x->h * (size_t)x->w * (size_t)map_stored(x);
}

static int run_op(struct cpu *c, const struct program *p, const struct op *op, int n, struct error *e) {
    struct map_job j = {.program = p, .op = op, .n = n};
    if (op->kind == OP_SUMS || op->kind == OP_APPLY_GRADIENT) {
        j.worker_floats = routed_floats(op);
        j.worker = scratch(c, SCRATCH_WORKER, j.worker_floats * sizeof(float) * (size_t)threads_count(c->threads), e);
        if (j.worker == NULL) return ERROR_TRIAL;
    }
    switch (op->kind) {
        case OP_BATCH: threads_run(c->threads, n, batch_task, &j); return OK;
        case OP_CONV: return conv_forward(c, p, &op->conv, n, e);
        case OP_BN: bn_forward(&op->bn, p->parameters); return OK;
        case OP_APPLY: threads_run(c->threads, n, apply_task, &j); return OK;
        case OP_LOSS: return loss(c, &j, e);
        case OP_CONV_DATA: return conv_data(c, p, &op->conv_data, n, e);
        case OP_CONV_WEIGHT: return conv_weight(c, p, &op->conv_weight, n, e);
        case OP_SUMS: return sums(c, &j, e);
        case OP_BN_GRADIENT: bn_gradient(&op->bn_gradient, p->parameters, n); return OK;
        case OP_APPLY_GRADIENT: threads_run(c->threads, n, apply_gradient_task, &j); return OK;
        case OP_OPTIMISE: return optimise(c, p, &op->optimise, n, e);
        case OP_PENALTY: return penalty(c, p, &op->penalty, n, e);
        case OP_NEXT: break;
    }
    int training = 0;
    for (int i = 0; i < p->n_ops; i++) training |= p->ops[i].kind == OP_OPTIMISE;
    p->step->step++;
    p->step->first += (uint32_t)n;
    if (training) p->step->mu_product *= nadam_mu((double)++p->step->t);
    return OK;
}

int LAYERS_CPU_RUN(struct cpu *c, const struct program *p, int from, int to, int n, struct error *e) {
    for (int i = from; i < to; i++) {
        const int failed = run_op(c, p, &p->ops[i], n, e);
        if (failed) return failed;
    }
    return OK;
}
