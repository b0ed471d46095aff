/* test_layers.c - every operation of layers.h on the CPU against the slow reference of
 * layers_reference.h.
 *
 * A *scene* holds the inputs of one operation, what it must leave behind (*watches*: arrays with the expected value of
 * each element, and the magnitude of the sum that made it), and the step and the tally. A scene is played on every
 * instruction set with 1, 2 and 3 threads: outputs are poisoned with NaN first; every element is either within
 * TOLERANCE times its magnitude, or, where nothing may be written, has kept its bits; all threads give the same bits.
 * What is input stands between NaNs, so that a stray read shows.
 *
 * The reference's own gradients are proved by central differences through its forward loops (layers_differences.h).
 * `test_layers --bench` measures convolutions instead.
 *
 * Compiled with TEST_CUDA (test_cuda_layers) the devices are CUDA's: fp32 to the same tolerance, and bf16, whose maps
 * are copied from the scene's floats and back around each run, to BF16_TOLERANCE; what is made by windows, and dense
 * layers, also without wgmma and cuBLAS. Without a GPU the device is cuda_host.h's, and each scene is played with the
 * warps' turns in both orders, to the same bits. */
#include <stdlib.h>

#include "../layers.h"
#include "../philox.h"
#include "check.h"
#include "layers_reference.h"

#define TOLERANCE 1e-5
#define BF16_TOLERANCE 4e-3 /* 2^-8: a map is rounded when it is stored, and so may be what it was made from */
#ifdef TEST_CUDA
/* fp32, bf16, without wgmma and cuBLAS; warps' orders */
enum { ISAS = 3, THREADS = 2, MOST_WATCHES = 32, MOST_OWNED = 600 };
static int isas = 2; /* that are played */
#else
enum { ISAS = 3, THREADS = 3, MOST_WATCHES = 32, MOST_OWNED = 600 };
static const char *const isa_names[ISAS] = {"avx512", "avx2", "base"};
static int isas = ISAS;
#endif
static struct device *devices[ISAS][THREADS]; /* NULL: this machine has no such */
static const char *const kind_names[] = {"batch",       "conv",           "bn",          "apply",
                                         "loss",        "conv_data",      "conv_weight", "sums",
                                         "bn_gradient", "apply_gradient", "optimise",    "next"};
static double worst[OP_PENALTY + 1]; /* the largest deviation seen, relative to the magnitude */
static double tolerance = TOLERANCE;
static struct rng rng;

/* ==================================================== scenes ====================================================== */

struct watch {
    const char *name;
    float *at, *initial;
    long n;
    struct reals want;
    unsigned char *written;
};

struct scene {
    struct watch watches[MOST_WATCHES];
    int n_watches;
    void *owned[MOST_OWNED];
    int n_owned;
    struct parameters parameters;
    struct step step, step_after;
    struct tally tally, tally_after;
    const char *about;
};

#ifdef TEST_GPU
/* A scene's arrays on a GPU: of one piece, for to allocate each takes longer than all that is tested with it. */
enum { ARENA = 1 << 28 };
static char *arena;
static size_t arena_used;

static void *arena_take(size_t bytes) {
    struct error e;
    if (arena == NULL) devices[0][0]->alloc(devices[0][0], ARENA, (void **)&arena, &e);
    const size_t at = arena_used;
    if (arena == NULL || bytes > ARENA - at) return NULL;
    arena_used += (bytes + 255) / 256 * 256;
    return memset(arena + at, 0, bytes);
}
#endif

static void *own(struct scene *s, long count, size_t bytes) {
    void *p = NULL;
#ifdef TEST_GPU
    p = arena_take((size_t)count * bytes);
    if (p != NULL) return p;
#elif defined TEST_CUDA /* memory that both can reach */
    struct error e;
    if (s->n_owned < MOST_OWNED) devices[0][0]->alloc(devices[0][0], (size_t)count * bytes + 1, &p, &e);
#else
    if (s->n_owned < MOST_OWNED) p = mem_zero((size_t)count, bytes);
#endif
    if (p == NULL) {
        printf("no memory for the test\n");
        exit(2);
    }
    s->owned[s->n_owned++] = p;
    return p;
}

static void scene_open(struct scene *s, const char *about) {
    memset(s, 0, sizeof *s);
    s->about = about;
    s->step = s->step_after = (struct step){.epoch = 3, .step = 11, .first = 2, .t = 5, .mu_product = 0.25};
    s->tally = s->tally_after = (struct tally){1, 2, 3, 4, 5, 6};
}

static void scene_close(struct scene *s) {
    for (int i = 0; i < s->n_owned; i++) {
#ifdef TEST_CUDA
        devices[0][0]->release(devices[0][0], s->owned[i]);
#else
        mem_free(s->owned[i]);
#endif
    }
    s->n_owned = 0;
#ifdef TEST_GPU
    arena_used = 0;
#endif
}

static double *doubles(struct scene *s, long n) { return own(s, n, sizeof(double)); }
static struct reals reals(struct scene *s, long n) { return (struct reals){doubles(s, n), doubles(s, n)}; }
static float *floats(struct scene *s, long n) {
    float *p = own(s, n, sizeof *p);
    for (long i = 0; i < n; i++) p[i] = NAN;
    return p;
}
static double *widened(struct scene *s, const float *from, long n) {
    double *p = doubles(s, n);
    for (long i = 0; i < n; i++) p[i] = (double)from[i];
    return p;
}
/* x as bf16 has it, where that is tested: what a scene is made of must survive the copy. */
static float storable(float x) {
#ifdef TEST_CUDA
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x == x) bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof bits);
#endif
    return x;
}
static float normal(void) { return storable((float)rng_normal(&rng)); }

/* Elements written[i] (NULL: all) of the array must become want; the others must stay. Call it after the array has
 * what it shall have before the operation. */
static void watch(struct scene *s, const char *name, float *at, long n, struct reals want, unsigned char *written) {
    struct watch *w = &s->watches[s->n_watches++];
    *w = (struct watch){.name = name, .at = at, .n = n, .want = want, .written = written};
    w->initial = floats(s, n);
    memcpy(w->initial, at, (size_t)n * sizeof *at);
}

/* ---- maps and tensors ---- */

static struct tensor tensor_new(struct scene *s, int n, int h, int w, int c) {
    struct tensor t = {n, h, w, c, {NULL, NULL}};
    t.at = reals(s, count(&t));
    return t;
}
static struct tensor tensor_like(struct scene *s, const struct tensor *t) {
    return tensor_new(s, t->n, t->h, t->w, t->c);
}

static int real_channel(int c, int width) {
    return c % ((width + LAYERS_ALIGN - 1) / LAYERS_ALIGN * LAYERS_ALIGN) < width;
}

/* A map of NaN: a slice between `before` and `after` channels of neighbours. */
static struct map map_new(struct scene *s, int n, int h, int w, int parts, int width, int before, int after) {
    struct map m = {.h = h, .w = w, .parts = parts, .width = width, .first = before};
    m.stride = before + map_stored(&m) + after;
    m.at = floats(s, (long)n * h * w * m.stride) + before;
    return m;
}

enum values { NORMAL, COARSE, ELU_OUTPUT }; /* COARSE: few bits, so that equal values are many and exact */

static float value_of(enum values kind) {
    const float z = normal();
    if (kind == COARSE) return (float)((int)rng_below(&rng, 9) - 4) * 0.25f;
    if (kind == ELU_OUTPUT && z < 0) return storable((float)expm1((double)z));
    return z;
}

static void map_fill(struct map *m, int n, enum values kind) {
    float *at = m->at;
    for (long p = 0; p < (long)n * m->h * m->w; p++) {
        for (int c = 0; c < map_stored(m); c++) {
            at[p * m->stride + c] = real_channel(c, m->width) ? value_of(kind) : 0.0f;
        }
    }
}

static struct tensor tensor_of(struct scene *s, const struct map *m, int n) {
    struct tensor t = tensor_new(s, n, m->h, m->w, map_stored(m));
    const float *at = m->at;
    for (long p = 0; p < (long)n * m->h * m->w; p++) {
        for (int c = 0; c < t.c; c++) t.at.v[p * t.c + c] = (double)at[p * m->stride + c];
    }
    return t;
}

static struct map input(struct scene *s, int n, int h, int w, int parts, int width, int slice, enum values kind) {
    struct map m = map_new(s, n, h, w, parts, width, slice ? 16 : 0, slice ? 8 : 0);
    map_fill(&m, n, kind);
    return m;
}

static void watch_map(struct scene *s, const char *name, const struct map *m, int n, const struct tensor *t) {
    const long pixels = (long)n * m->h * m->w;
    struct reals want = reals(s, pixels * m->stride);
    unsigned char *written = own(s, pixels * m->stride, 1);
    for (long p = 0; p < pixels; p++) {
        for (int c = 0; c < t->c; c++) {
            const long to = p * m->stride + m->first + c;
            want.v[to] = t->at.v[p * t->c + c];
            want.m[to] = t->at.m[p * t->c + c];
            written[to] = 1;
        }
    }
    watch(s, name, (float *)m->at - m->first, pixels * m->stride, want, written);
}

static struct ref_bn ref_bn_new(struct scene *s, int c, int links) {
    struct ref_bn b = {.c = c, .links = links};
    for (int l = 0; l < links; l++) {
        b.gamma[l] = doubles(s, c);
        b.beta[l] = doubles(s, c);
        b.moving_mean[l] = reals(s, c);
        b.moving_variance[l] = reals(s, c);
        b.dgamma[l] = reals(s, c);
        b.dbeta[l] = reals(s, c);
    }
    struct reals *all[] = {&b.mean, &b.variance, &b.scale, &b.shift, &b.sum_g, &b.sum_gx, &b.a, &b.b, &b.k};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) *all[i] = reals(s, c);
    return b;
}

/* ---- playing a scene ---- */

#ifdef TEST_CUDA
#ifdef TEST_GPU
static int cuda_host_backwards, cuda_host_late, cuda_host_major; /* without effect there */
#else
extern int cuda_host_backwards, cuda_host_late, cuda_host_major;
#endif

static size_t floats_of(const struct map *m, int n) {
    return (size_t)n * (size_t)m->h * (size_t)m->w * (size_t)m->stride;
}

/* Gives the operation's maps bf16 places with what the floats hold, behind the *count maps of those before it; at[i]:
 * where the floats are. */
static int to_bf16(struct op *op, int n, struct map *maps[], float *at[], int *count) {
    int failed = OK;
    const int begin = *count;
    *count += op_maps(op, maps + begin);
    for (int i = begin; i < *count; i++) {
        at[i] = maps[i]->wide ? NULL : maps[i]->at;
        if (at[i] == NULL) continue;
        const float *first = at[i] - maps[i]->first;
        uint16_t *block = NULL;
        for (int k = 0; k < i; k++) { /* the same map, or a neighbour of its slice */
            if (at[k] != NULL && at[k] - maps[k]->first == first) block = (uint16_t *)maps[k]->at - maps[k]->first;
        }
        if (block == NULL) {
            struct error e;
            failed |= devices[1][0]->alloc(devices[1][0], floats_of(maps[i], n) * 2, (void **)&block, &e);
            if (failed) return failed;
            for (size_t x = 0; x < floats_of(maps[i], n); x++) {
                uint32_t bits;
                memcpy(&bits, first + x, sizeof bits);
                block[x] = (uint16_t)(bits >> 16);
            }
        }
        maps[i]->at = block + maps[i]->first;
    }
    return OK;
}

static void from_bf16(int n, struct map *maps[], float *at[], int count) {
    for (int i = 0; i < count; i++) {
        if (at[i] == NULL) continue;
        const uint16_t *from = maps[i]->at;
        for (size_t x = 0; x < floats_of(maps[i], n); x++) {
            if (x % (size_t)maps[i]->stride >= (size_t)map_stored(maps[i])) continue; /* a neighbour's, or the end */
            const uint32_t bits = (uint32_t)from[x] << 16;
            memcpy(&at[i][x], &bits, sizeof bits);
        }
    }
    for (int i = 0; i < count; i++) {
        int seen = 0;
        for (int k = 0; k < i; k++)
            seen |= at[k] != NULL && at[i] != NULL && at[k] - maps[k]->first == at[i] - maps[i]->first;
        if (at[i] != NULL && !seen) devices[1][0]->release(devices[1][0], (uint16_t *)maps[i]->at - maps[i]->first);
    }
}

/* Runs it on the scene: step and tally stand in memory of the device for as long as that takes, and what the device has
 * recorded of the program is forgotten. */
static int run_on(struct device *d, struct scene *s, const struct program *program, int n, struct error *e) {
    struct program p = *program;
    struct parameters parameters = *p.parameters;
    struct op ops[2];
    struct map *maps[16];
    float *at[16];
    int count = 0;
    int failed = d->alloc(d, sizeof *p.step, (void **)&p.step, e);
    if (!failed) failed = d->alloc(d, sizeof *p.tally, (void **)&p.tally, e);
    if (failed) return failed;
    *p.step = s->step;
    *p.tally = s->tally;
    memcpy(ops, p.ops, (size_t)p.n_ops * sizeof *ops);
    p.ops = ops;
    p.parameters = &parameters;
    if (d->element == 2) {
        if (ops[0].kind != OP_OPTIMISE && ops[0].kind != OP_PENALTY) parameters.n_decayed = parameters.n;
        for (int i = 0; i < p.n_ops; i++) {
            failed = to_bf16(&ops[i], n, maps, at, &count);
            if (failed) return failed;
        }
    }
    failed = d->run(d, &p, n, e);
    if (!failed) failed = d->wait(d, e);
    if (!failed) from_bf16(n, maps, at, count);
    s->step = *p.step;
    s->tally = *p.tally;
    d->release(d, p.step);
    d->release(d, p.tally);
    return failed;
}
#else
static int run_on(struct device *d, struct scene *s, const struct program *p, int n, struct error *e) {
    (void)s;
    const int failed = d->run(d, p, n, e);
    return failed ? failed : d->wait(d, e);
}
#endif

static int close_enough(double got, double want, double magnitude, double *deviation) {
    if (isnan(want)) return isnan(got);
    if (magnitude > 0 && magnitude < 1e-30) magnitude = 1e-30; /* a float may underflow */
    *deviation = got == want ? 0 : magnitude > 0 ? fabs(got - want) / magnitude : HUGE_VAL;
    return *deviation <= tolerance;
}

static void compare(const struct scene *s, enum op_kind kind, const char *device) {
    for (int k = 0; k < s->n_watches; k++) {
        const struct watch *w = &s->watches[k];
        long wrong = 0, stray = 0, at = 0;
        for (long i = 0; i < w->n; i++) {
            double deviation = 0;
            if (w->written != NULL && !w->written[i]) {
                stray += memcmp(&w->at[i], &w->initial[i], sizeof *w->at) != 0;
            } else if (!close_enough((double)w->at[i], w->want.v[i], w->want.m[i], &deviation)) {
                if (wrong++ == 0) at = i;
            } else if (deviation > worst[kind]) {
                worst[kind] = deviation;
            }
        }
        CHECK(wrong == 0, "%s on %s: %s: %ld of %ld, first at %ld: %.9g, not %.9g (of %.9g)", s->about, device, w->name,
              wrong, w->n, at, (double)w->at[at], w->want.v[at], w->want.m[at]);
        CHECK(stray == 0, "%s on %s: %s: %ld elements that are not its own", s->about, device, w->name, stray);
    }
    const struct tally *t = &s->tally, *want = &s->tally_after;
    const double got3[] = {t->fine_loss, t->coarse_loss, t->l2},
                 want3[] = {want->fine_loss, want->coarse_loss, want->l2};
    for (int i = 0; i < 3; i++) {
        double deviation = 0;
        CHECK(close_enough(got3[i], want3[i], 0.1 * fabs(want3[i]), &deviation), "%s on %s: tally %d: %.12g, not %.12g",
              s->about, device, i, got3[i], want3[i]);
    }
    CHECK(t->fine_hits == want->fine_hits && t->coarse_hits == want->coarse_hits && t->images == want->images,
          "%s on %s: %d and %d hits, not %d and %d", s->about, device, (int)t->fine_hits, (int)t->coarse_hits,
          (int)want->fine_hits, (int)want->coarse_hits);
    CHECK(s->step.epoch == s->step_after.epoch && s->step.step == s->step_after.step &&
              s->step.first == s->step_after.first && s->step.t == s->step_after.t &&
              check_close(s->step.mu_product, s->step_after.mu_product, 1e-14),
          "%s on %s: the step", s->about, device);
}

static void restore(struct scene *s, const struct step *step, const struct tally *tally) {
    for (int k = 0; k < s->n_watches; k++) {
        const struct watch *w = &s->watches[k];
        memcpy(w->at, w->initial, (size_t)w->n * sizeof *w->at);
    }
    s->step = *step;
    s->tally = *tally;
}

#ifndef TEST_CUDA
/* Each allocation inside the run fails in turn: the trial's error, and the device goes on. */
static void play_without_memory(struct scene *s, const struct program *p, int n, const struct step *step,
                                const struct tally *tally) {
    for (long k = 1, failed = 1; failed && k < 20; k++) {
        struct device *d = NULL;
        struct error e = {0};
        CHECK(device_cpu(&d, 2, NULL, &e) == OK, "%s", e.text);
        if (d == NULL) return;
        mem_fail_after = k;
        failed = d->run(d, p, n, &e);
        mem_fail_after = 0;
        CHECK(failed == OK || (failed == ERROR_TRIAL && e.kind == ERROR_TRIAL && e.text[0] != 0), "%s: error %ld: %s",
              s->about, failed, e.text);
        restore(s, step, tally);
        CHECK(d->run(d, p, n, &e) == OK && d->wait(d, &e) == OK, "%s: %s", s->about, e.text);
        compare(s, p->ops[0].kind, "a device that had no memory");
        d->close(d);
        restore(s, step, tally);
    }
}
#endif

static void play(struct scene *s, struct op *ops, int n_ops, int n) {
    const struct program p = {
        .n_ops = n_ops, .ops = ops, .parameters = &s->parameters, .step = &s->step, .tally = &s->tally};
    const struct step step = s->step;
    const struct tally tally = s->tally;
    float *first[MOST_WATCHES];
    for (int k = 0; k < s->n_watches; k++) first[k] = floats(s, s->watches[k].n);
    for (int isa = 0; isa < isas; isa++) {
        struct tally first_tally = tally;
        for (int t = 0; t < THREADS; t++) {
            struct device *d = devices[isa][t];
            struct error e = {0};
            if (d == NULL) continue;
            restore(s, &step, &tally);
#ifdef TEST_CUDA
            cuda_host_backwards = cuda_host_late = t;
            tolerance = d->element == 2 ? BF16_TOLERANCE : TOLERANCE;
#endif
            CHECK(run_on(d, s, &p, n, &e) == OK, "%s: %s", s->about, e.text);
            if (t == 0) {
                compare(s, ops[0].kind, d->about);
                first_tally = s->tally;
            }
            for (int k = 0; k < s->n_watches; k++) {
                const struct watch *w = &s->watches[k];
                const size_t bytes = (size_t)w->n * sizeof *w->at;
                if (t == 0) memcpy(first[k], w->at, bytes);
                CHECK(memcmp(first[k], w->at, bytes) == 0, "%s on %s: %s: other bits than with one thread", s->about,
                      d->about, w->name);
            }
            CHECK(memcmp(&first_tally, &s->tally, sizeof tally) == 0, "%s on %s: another tally", s->about, d->about);
        }
    }
    restore(s, &step, &tally);
#ifndef TEST_CUDA
    play_without_memory(s, &p, n, &step, &tally);
#endif
}

/* =========================================== convolutions against it ============================================== */

static int out_size(int in, int stride) { return (in + stride - 1) / stride; }
static int same_pad(int in, int k, int stride) { /* TensorFlow's SAME */
    const int total = (out_size(in, stride) - 1) * stride + k - in;
    return total > 0 ? total / 2 : 0;
}

struct shape {
    int k, stride, n, h, w, parts, in, out;
};
static struct taps taps_of(const struct shape *s) {
    return (struct taps){s->k, s->stride, same_pad(s->h, s->k, s->stride)};
}

/* Parameters of a scene: room for n, of random numbers. Kernels have zeros where channels are padding. */
static void parameters_new(struct scene *s, long n, long n_moving) {
    struct parameters *p = &s->parameters;
    p->n = (size_t)n;
    p->n_moving = (size_t)n_moving;
    p->value = floats(s, n);
    p->gradient = floats(s, n);
    p->moving = n_moving > 0 ? floats(s, n_moving) : NULL;
}
static int stored_of(int parts, int width) {
    const struct map m = {.parts = parts, .width = width};
    return map_stored(&m);
}
static void fill_kernel(float *w, const struct shape *s) {
    const int in = stored_of(s->parts, s->in), out = stored_of(1, s->out);
    for (long i = 0; i < (long)s->k * s->k * in * out; i++) {
        const int co = (int)(i % out), ci = (int)(i / out % in);
        w[i] = real_channel(ci, s->in) && real_channel(co, s->out) ? storable(normal() * 0.1f) : 0.0f;
    }
}
static void fill_channels(float *v, int n, int width, float scale) {
    for (int c = 0; c < n; c++) v[c] = real_channel(c, width) ? scale * normal() : 0.0f;
}

enum {
    ADD = 1,
    ALIAS = 2,
    NO_OUT = 4,
    DROPPED = 8,
    STATISTICS = 16,
    SLICE = 32,
    NO_BIAS = 64,
    Y_SCALE = 128,
    BRANCH = 256,
    DROP = 512,
    UNIT = 1024, /* a 1x1 convolution's data gradient follows, and is added: a device may make the two as one */
};

static void about(char *text, size_t n, const char *what, const struct shape *s, enum activation act, int options) {
    snprintf(text, n, "%s k%d/%d %dx%dx%dx%d*%d->%d act %d options %d", what, s->k, s->stride, s->n, s->h, s->w,
             s->parts, s->in, s->out, (int)act, options);
}

static const struct drop some_drop = {{123, 456}, 20000};

static void case_conv(struct shape h, enum activation act, int options) {
    struct scene s;
    char text[120];
    about(text, sizeof text, "conv", &h, act, options);
    scene_open(&s, text);
    const struct taps t = taps_of(&h);
    const int in = stored_of(h.parts, h.in), out = stored_of(1, h.out), slice = options & SLICE;
    const int oh = out_size(h.h, h.stride), ow = out_size(h.w, h.stride);
    const long weights = (long)h.k * h.k * in * out, bias_at = 8 + weights + 8;
    parameters_new(&s, bias_at + out, 0);
    fill_kernel(s.parameters.value + 8, &h);
    fill_channels(s.parameters.value + bias_at, out, h.out, 1);
    struct op op = {.kind = OP_CONV, .layer = "test"};
    struct op_conv *o = &op.conv;
    *o = (struct op_conv){.k = t.k, .stride = t.stride, .pad = t.pad, .act = act, .drop = some_drop, .weight = 8};
    o->bias = options & NO_BIAS ? LAYERS_NONE : (size_t)bias_at;
    o->in = input(&s, h.n, h.h, h.w, h.parts, h.in, slice, NORMAL);
    struct tensor x = tensor_of(&s, &o->in, h.n), add = {0}, v = tensor_new(&s, h.n, oh, ow, out),
                  d = tensor_like(&s, &v);
    if (!(options & NO_OUT)) o->out = map_new(&s, h.n, oh, ow, 1, h.out, slice ? 24 : 0, slice ? 16 : 0);
    if (options & (DROPPED | NO_OUT)) o->dropped = map_new(&s, h.n, oh, ow, 1, h.out, slice ? 8 : 0, slice ? 24 : 0);
    if (options & ALIAS && o->out.at != NULL) {
        map_fill(&o->out, h.n, NORMAL);
        o->add = o->out;
    } else if (options & ADD) {
        o->add = input(&s, h.n, oh, ow, 1, h.out, 0, NORMAL);
    }
    if (o->add.at != NULL) add = tensor_of(&s, &o->add, h.n);
    if (options & NO_BIAS && !(options & DROPPED)) o->drop.threshold = 0;
    const double *w = widened(&s, s.parameters.value + 8, weights),
                 *bias = widened(&s, s.parameters.value + bias_at, out);
    ref_conv(t, act, &x, w, options & NO_BIAS ? NULL : bias, o->add.at != NULL ? &add : NULL, &v);
    copy(&d, &v);
    if (o->dropped.at != NULL) {
        ref_dropout(&o->drop, &o->dropped, &s.step, &d);
        watch_map(&s, "dropped", &o->dropped, h.n, &d);
    }
    if (o->out.at != NULL) watch_map(&s, "out", &o->out, h.n, &v);
    struct bn bn = {.channels = out, .links = 1};
    if (options & STATISTICS) {
        struct ref_bn want = ref_bn_new(&s, out, 1);
        bn.mean = floats(&s, out);
        bn.variance = floats(&s, out);
        o->bn = &bn;
        ref_statistics(&v, want.mean, want.variance);
        watch(&s, "mean", bn.mean, out, want.mean, NULL);
        watch(&s, "variance", bn.variance, out, want.variance, NULL);
    }
    play(&s, &op, 1, h.n);
    scene_close(&s);
}

static void case_conv_data(struct shape h, enum activation act, int options) {
    struct scene s;
    char text[120];
    about(text, sizeof text, options & UNIT ? "unit_data" : "conv_data", &h, act, options);
    scene_open(&s, text);
    const struct taps t = taps_of(&h);
    const int in = stored_of(h.parts, h.in), out = stored_of(1, h.out), slice = options & SLICE;
    const struct shape one = {1, 1, h.n, h.h, h.w, h.parts, h.in, h.out / 2 + 1};
    const long weights = (long)h.k * h.k * in * out, weights2 = (long)in * stored_of(1, one.out);
    parameters_new(&s, weights + weights2, 0);
    fill_kernel(s.parameters.value, &h);
    fill_kernel(s.parameters.value + weights, &one);
    struct op ops[2] = {{.kind = OP_CONV_DATA, .layer = "test"}, {.kind = OP_CONV_DATA, .layer = "test"}};
    struct op_conv_data *o = &ops[0].conv_data;
    *o = (struct op_conv_data){.k = t.k, .stride = t.stride, .pad = t.pad, .y_scale = 1};
    if (options & DROP) o->drop = some_drop;
    o->out_gradient = input(&s, h.n, out_size(h.h, h.stride), out_size(h.w, h.stride), 1, h.out, slice, NORMAL);
    o->gradient = map_new(&s, h.n, h.h, h.w, h.parts, h.in, slice ? 8 : 0, slice ? 16 : 0);
    const struct tensor g = tensor_of(&s, &o->out_gradient, h.n);
    struct tensor v = tensor_new(&s, h.n, h.h, h.w, in);
    ref_conv_data(t, &g, widened(&s, s.parameters.value, weights), &v);
    ref_dropout(&o->drop, &o->gradient, &s.step, &v);
    if (options & UNIT) {
        const struct map gradient = o->gradient;
        o = &ops[1].conv_data;
        *o = (struct op_conv_data){
            .k = 1, .stride = 1, .add = gradient, .gradient = gradient, .y_scale = 1, .weight = (size_t)weights};
        o->out_gradient = input(&s, h.n, h.h, h.w, 1, one.out, 0, NORMAL);
        const struct tensor g2 = tensor_of(&s, &o->out_gradient, h.n);
        struct tensor v2 = tensor_like(&s, &v);
        ref_conv_data(taps_of(&one), &g2, widened(&s, s.parameters.value + weights, weights2), &v2);
        for (long i = 0; i < count(&v); i++) { /* v is rounded when it is stored, and again as part of the sum */
            v.at.v[i] += v2.at.v[i];
            v.at.m[i] += v.at.m[i] + v2.at.m[i];
        }
    }
    o->act = act;
    if (options & ALIAS) {
        map_fill(&o->gradient, h.n, NORMAL);
        o->add = o->gradient;
    } else if (options & ADD) {
        o->add = input(&s, h.n, h.h, h.w, h.parts, h.in, slice, NORMAL);
    }
    if (options & (ADD | ALIAS)) {
        const struct tensor add = tensor_of(&s, &o->add, h.n);
        for (long i = 0; i < count(&v); i++) add_to(&v.at, i, add.at.v[i]);
    }
    if (act != ACT_LINEAR) {
        o->y = input(&s, h.n, h.h, h.w, h.parts, h.in, slice, ELU_OUTPUT);
        if (options & Y_SCALE) o->y_scale = 0.75f;
        const struct tensor y = tensor_of(&s, &o->y, h.n);
        ref_slope(act, &y, (double)o->y_scale, &v);
    }
    watch_map(&s, "gradient", &o->gradient, h.n, &v);
    struct bn bn = {.channels = in, .links = 1};
    if (options & STATISTICS) {
        struct ref_bn want = ref_bn_new(&s, in, 1);
        o->bn = &bn;
        o->bn_x = input(&s, h.n, h.h, h.w, h.parts, h.in, 0, NORMAL);
        bn.mean = floats(&s, in);
        bn.sum_g = floats(&s, in);
        bn.sum_gx = floats(&s, in);
        fill_channels(bn.mean, in, h.in, 1);
        want.mean.v = widened(&s, bn.mean, in);
        const struct tensor x = tensor_of(&s, &o->bn_x, h.n);
        ref_sums(&want, &v, &x);
        watch(&s, "sum_g", bn.sum_g, in, want.sum_g, NULL);
        watch(&s, "sum_gx", bn.sum_gx, in, want.sum_gx, NULL);
    }
    if (options & BRANCH) {
        o->branch_act = options & ADD ? ACT_RELU : ACT_ELU;
        o->branch_y = input(&s, h.n, h.h, h.w, h.parts, h.in, slice, ELU_OUTPUT);
        o->branch = map_new(&s, h.n, h.h, h.w, h.parts, h.in, slice ? 16 : 0, slice ? 16 : 0);
        const struct tensor y = tensor_of(&s, &o->branch_y, h.n);
        struct tensor b = tensor_like(&s, &v);
        copy(&b, &v);
        ref_slope(o->branch_act, &y, 1, &b);
        watch_map(&s, "branch", &o->branch, h.n, &b);
    }
    play(&s, ops, options & UNIT ? 2 : 1, h.n);
    scene_close(&s);
}

static void case_conv_weight(struct shape h, int options) {
    struct scene s;
    char text[120];
    about(text, sizeof text, "conv_weight", &h, ACT_LINEAR, options);
    scene_open(&s, text);
    const struct taps t = taps_of(&h);
    const int in = stored_of(h.parts, h.in), out = stored_of(1, h.out), slice = options & SLICE;
    const long weights = (long)h.k * h.k * in * out, n = 8 + weights + 8 + out + 8, bias_at = 8 + weights + 8;
    parameters_new(&s, n, 0);
    struct op op = {.kind = OP_CONV_WEIGHT, .layer = "test"};
    struct op_conv_weight *o = &op.conv_weight;
    *o = (struct op_conv_weight){.k = t.k, .stride = t.stride, .pad = t.pad, .weight = 8, .bias = (size_t)bias_at};
    o->in = input(&s, h.n, h.h, h.w, h.parts, h.in, slice, NORMAL);
    o->out_gradient = input(&s, h.n, out_size(h.h, h.stride), out_size(h.w, h.stride), 1, h.out, slice, NORMAL);
    const struct tensor x = tensor_of(&s, &o->in, h.n), g = tensor_of(&s, &o->out_gradient, h.n);
    struct reals want = reals(&s, n);
    unsigned char *written = own(&s, n, 1);
    const struct reals weight = {want.v + 8, want.m + 8};
    struct reals bias = {want.v + bias_at, want.m + bias_at};
    memset(written + 8, 1, (size_t)weights);
    if (options & NO_BIAS) {
        o->bias = LAYERS_NONE;
        bias.v = NULL;
    } else {
        memset(written + bias_at, 1, (size_t)out);
    }
    ref_conv_weight(t, &x, &g, weight, bias);
    watch(&s, "gradients", s.parameters.gradient, n, want, written);
    play(&s, &op, 1, h.n);
    scene_close(&s);
}

/* A residual unit: a convolution, and a 1x1 convolution of another map that it is added to. A device may make the two
 * as one. */
static void case_unit(struct shape h, int in2, enum activation act, int options) {
    struct scene s;
    char text[120];
    about(text, sizeof text, "unit", &h, act, options);
    scene_open(&s, text);
    const struct shape one = {1, 1, h.n, h.h, h.w, 1, in2, h.out};
    const struct taps t = taps_of(&h), t1 = taps_of(&one);
    const int in = stored_of(h.parts, h.in), out = stored_of(1, h.out), slice = options & SLICE;
    const long weights = (long)h.k * h.k * in * out, second = 8 + weights + out,
               weights2 = (long)stored_of(1, in2) * out;
    parameters_new(&s, second + weights2 + out, 0);
    float *const w1 = s.parameters.value + 8, *const w2 = s.parameters.value + second;
    fill_kernel(w1, &h);
    fill_channels(w1 + weights, out, h.out, 1);
    fill_kernel(w2, &one);
    fill_channels(w2 + weights2, out, h.out, 1);
    struct op ops[2] = {{.kind = OP_CONV, .layer = "test"}, {.kind = OP_CONV, .layer = "test"}};
    struct op_conv *a = &ops[0].conv, *b = &ops[1].conv;
    *a = (struct op_conv){.k = t.k, .stride = 1, .pad = t.pad, .act = act, .weight = 8, .bias = (size_t)(8 + weights)};
    *b = (struct op_conv){.k = 1, .stride = 1, .drop = some_drop, .weight = (size_t)second};
    b->bias = (size_t)(second + weights2);
    a->in = input(&s, h.n, h.h, h.w, h.parts, h.in, slice, NORMAL);
    b->in = input(&s, h.n, h.h, h.w, 1, in2, 0, NORMAL);
    struct tensor x = tensor_of(&s, &a->in, h.n), x2 = tensor_of(&s, &b->in, h.n),
                  y = tensor_new(&s, h.n, h.h, h.w, out), z = tensor_like(&s, &y), d = tensor_like(&s, &y);
    a->out = map_new(&s, h.n, h.h, h.w, 1, h.out, slice ? 24 : 0, slice ? 16 : 0);
    b->add = a->out;
    b->out = map_new(&s, h.n, h.h, h.w, 1, h.out, 0, slice ? 8 : 0);
    ref_conv(t, act, &x, widened(&s, w1, weights), widened(&s, w1 + weights, out), NULL, &y);
    ref_conv(t1, ACT_LINEAR, &x2, widened(&s, w2, weights2), widened(&s, w2 + weights2, out), &y, &z);
    for (long i = 0; i < count(&z); i++) z.at.m[i] += y.at.m[i]; /* y is rounded when it is stored, and z again */
    if (options & DROPPED) {
        b->dropped = map_new(&s, h.n, h.h, h.w, 1, h.out, 0, 0);
        copy(&d, &z);
        ref_dropout(&b->drop, &b->dropped, &s.step, &d);
        watch_map(&s, "dropped", &b->dropped, h.n, &d);
    }
    watch_map(&s, "branch", &a->out, h.n, &y);
    watch_map(&s, "out", &b->out, h.n, &z);
    struct bn bn = {.channels = out, .links = 1};
    if (options & STATISTICS) {
        struct ref_bn want = ref_bn_new(&s, out, 1);
        bn.mean = floats(&s, out);
        bn.variance = floats(&s, out);
        b->bn = &bn;
        ref_statistics(&z, want.mean, want.variance);
        watch(&s, "mean", bn.mean, out, want.mean, NULL);
        watch(&s, "variance", bn.variance, out, want.variance, NULL);
    }
    play(&s, ops, 2, h.n);
    scene_close(&s);
}

/* Sides that are multiples of eight: what the CUDA device makes by windows, of each width, in several groups of
 * channels, with images missing from the last tile. */
static void test_windows(void) {
    static const struct shape shapes[] = {
        {3, 1, 5, 8, 8, 1, 9, 24},    {3, 1, 3, 8, 8, 1, 88, 24},   {4, 1, 3, 8, 16, 1, 48, 3},
        {2, 1, 5, 16, 8, 3, 17, 40},  {3, 1, 4, 24, 8, 1, 9, 17},   {3, 1, 3, 24, 8, 1, 9, 17},
        {4, 1, 1, 16, 16, 1, 3, 16},  {2, 1, 1, 32, 32, 1, 41, 24}, {2, 1, 1, 32, 32, 1, 8, 40},
        {2, 1, 1, 32, 32, 1, 8, 72},  {2, 1, 1, 32, 32, 1, 8, 89},  {2, 1, 1, 32, 32, 1, 8, 121},
        {2, 1, 1, 32, 32, 1, 16, 63}, {1, 1, 4, 8, 8, 1, 9, 24},    {2, 1, 2, 16, 16, 1, 104, 8},
        {2, 1, 20, 8, 8, 1, 130, 3},  {2, 1, 4, 16, 16, 1, 80, 32}, {2, 1, 4, 16, 16, 1, 32, 80},
        {2, 1, 4, 16, 16, 1, 56, 64}, {2, 1, 4, 16, 16, 1, 64, 56}};
    const int fewer = isas;
    isas = ISAS;
    for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i++) {
        const struct shape h = shapes[i];
        case_conv(h, (enum activation)(i % 3), i % 2 ? STATISTICS | DROPPED | SLICE : NO_OUT | ADD);
        case_conv_data(h, (enum activation)((i + 1) % 3), i % 2 ? DROP | ADD : STATISTICS | DROP | BRANCH | SLICE);
        case_conv_weight(h, i % 2 ? NO_BIAS | SLICE : 0);
        case_unit(h, i % 4 == 3 ? 48 : h.out, (enum activation)((i + 2) % 3),
                  (i % 2 ? DROPPED : STATISTICS) | (i % 3 ? 0 : SLICE));
        case_conv_data(h, (enum activation)(i % 3),
                       UNIT | (i % 4 ? DROP : 0) | (i % 2 ? STATISTICS | BRANCH : Y_SCALE) | (i % 3 ? 0 : SLICE));
    }
    isas = fewer;
    /* A weight gradient whose blocks take many channels through one tap; and so many rows of so many taps that they
     * cannot be told apart as quickly; or more taps than there are tables for. */
    static const struct shape wide[] = {{1, 1, 2, 8, 8, 1, 256, 24},   {1, 1, 3, 8, 8, 1, 216, 24},
                                        {1, 1, 1, 16, 16, 1, 272, 40}, {1, 1, 2, 8, 8, 1, 512, 32},
                                        {6, 1, 1, 8, 8, 1, 776, 8},    {5, 1, 2, 8, 8, 1, 16, 24}};
    for (int i = 0; i < (int)(sizeof wide / sizeof *wide); i++) case_conv_weight(wide[i], i % 2 ? NO_BIAS : 0);
#ifdef TEST_GPU /* where it takes no time: every width that the original's space has */
    for (int n = 8; n <= 584; n += 8) {
        const struct shape one = {1, 1, 2, 8, 8, 1, n, n % 64 + 8}, some = {3, 1, 2, 8, 8, 1, n, n % 48 + 8};
        case_conv_weight(one, 0);
        if (n % 40 != 0) continue;
        case_conv_weight(some, NO_BIAS);
        case_conv(some, ACT_ELU, STATISTICS);
        case_conv_data(some, ACT_ELU, DROP);
    }
#endif
}

static void test_conv(void) {
    static const struct shape shapes[] = {
        /* k, stride, n, h, w, parts, in, out */
        {3, 1, 3, 5, 7, 1, 17, 40},   {1, 1, 3, 8, 8, 1, 40, 17},   {2, 1, 3, 4, 4, 3, 17, 3},
        {4, 1, 1, 5, 7, 1, 3, 63},    {3, 2, 3, 8, 8, 1, 17, 40},   {2, 2, 5, 8, 8, 1, 40, 63},
        {4, 2, 3, 5, 7, 3, 3, 17},    {1, 2, 3, 5, 7, 1, 1, 1},     {3, 2, 3, 5, 7, 1, 40, 3},
        {3, 1, 1, 1, 1, 1, 17, 17},   {1, 1, 1, 1, 1, 1, 1, 1},     {1, 1, 37, 1, 1, 1, 63, 40},
        {1, 1, 130, 1, 1, 3, 17, 63}, {1, 1, 3, 1, 1, 24, 40, 100}, {3, 1, 17, 4, 4, 1, 3, 40},
        {2, 1, 20, 8, 8, 1, 1, 3},    {1, 2, 3, 8, 8, 3, 17, 40},   {4, 1, 3, 4, 4, 1, 40, 40},
        {3, 1, 3, 4, 4, 1, 16, 126},  {2, 2, 3, 4, 4, 1, 8, 160},   {3, 1, 2, 1, 17, 1, 9, 24},
        {3, 1, 2, 17, 1, 1, 9, 32},   {2, 2, 2, 1, 1, 1, 9, 31},    {1, 1, 70, 2, 2, 1, 5, 7}};
    static const int forward[] = {0,
                                  ADD | STATISTICS,
                                  ALIAS,
                                  NO_OUT,
                                  DROPPED | STATISTICS,
                                  DROPPED | SLICE | NO_BIAS,
                                  ALIAS | DROPPED | SLICE | STATISTICS,
                                  ADD | NO_OUT | SLICE,
                                  ADD | SLICE,
                                  NO_BIAS | STATISTICS,
                                  NO_BIAS | NO_OUT};
    static const int data[] = {0,
                               DROP,
                               ADD | BRANCH,
                               ALIAS | STATISTICS,
                               DROP | ADD | Y_SCALE | BRANCH | STATISTICS | SLICE,
                               DROP | ALIAS | SLICE | BRANCH,
                               STATISTICS | BRANCH,
                               SLICE | Y_SCALE | DROP};
    enum { FORWARD = sizeof forward / sizeof *forward, DATA = sizeof data / sizeof *data };
    const int fewer = isas;
    for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i++) {
        const struct shape *h = &shapes[i];
        isas = h->k == 1 && h->h == 1 && h->w == 1 ? ISAS : fewer; /* dense */
        const int small = (long)h->k * h->k * h->n * h->h * h->w * h->parts * h->in * h->out < 800000;
        for (int k = 0; k < FORWARD; k++) {
            if (small || k % 4 == i % 4) case_conv(*h, (enum activation)((i + k) % 3), forward[k]);
        }
        for (int k = 0; k < DATA; k++) {
            if (small || k % 4 == i % 4) case_conv_data(*h, (enum activation)((i + k) % 3), data[k]);
        }
        case_conv_weight(*h, 0);
        case_conv_weight(*h, NO_BIAS | SLICE);
    }
    isas = fewer;
    const struct shape large[] = {{3, 1, 1, 32, 32, 1, 40, 17},
                                  {3, 2, 2, 32, 32, 1, 17, 40},
                                  {2, 1, 1, 32, 32, 1, 3, 63},
                                  {1, 1, 1, 32, 32, 3, 40, 40}};
    for (int i = 0; i < (int)(sizeof large / sizeof *large); i++) {
        case_conv(large[i], ACT_ELU, DROPPED | ADD | STATISTICS);
        case_conv_data(large[i], ACT_ELU, DROP | ADD | Y_SCALE | BRANCH | STATISTICS);
        case_conv_weight(large[i], 0);
    }
}

/* ========================================== normalisation and pools =============================================== */

/* A normalisation with all its arrays (NaN), parameters from `at` on and moving averages from 0 on; the reference has
 * the same numbers. */
static struct bn bn_new(struct scene *s, int c, int width, int links, struct ref_bn *ref) {
    struct bn b = {.channels = c, .links = links};
    float **arrays[] = {&b.mean, &b.variance, &b.scale, &b.shift, &b.sum_g, &b.sum_gx, &b.a, &b.b, &b.c};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) *arrays[i] = floats(s, c);
    *ref = ref_bn_new(s, c, links);
    parameters_new(s, 8 + 4L * (c + 8), 8 + 4L * (c + 8));
    struct parameters *p = &s->parameters;
    for (int l = 0; l < links; l++) {
        b.gamma[l] = 8 + (size_t)(l * 2 * (c + 8));
        b.beta[l] = b.gamma[l] + (size_t)(c + 8);
        b.moving_mean[l] = 8 + (size_t)(l * 2 * (c + 8));
        b.moving_variance[l] = b.moving_mean[l] + (size_t)(c + 8);
        fill_channels(p->value + b.gamma[l], c, width, 1);
        fill_channels(p->value + b.beta[l], c, width, 1);
        fill_channels(p->moving + b.moving_mean[l], c, width, 1);
        fill_channels(p->moving + b.moving_variance[l], c, width, 1);
        for (int i = 0; i < c; i++) {
            float *variance = &p->moving[b.moving_variance[l] + (size_t)i];
            *variance = fabsf(*variance);
            ref->gamma[l][i] = (double)p->value[b.gamma[l] + (size_t)i];
            ref->beta[l][i] = (double)p->value[b.beta[l] + (size_t)i];
            ref->moving_mean[l].v[i] = (double)p->moving[b.moving_mean[l] + (size_t)i];
            ref->moving_variance[l].v[i] = (double)*variance;
        }
    }
    return b;
}

static void give(struct scene *s, float *to, struct reals *r, int c, int width, float scale, int positive) {
    fill_channels(to, c, width, scale);
    for (int i = 0; i < c && positive; i++) to[i] = i == 3 ? 0 : fabsf(to[i]);
    r->v = widened(s, to, c);
}

static void spread(struct reals *to, unsigned char *written, size_t at, const struct reals *from, int c) {
    memcpy(to->v + at, from->v, (size_t)c * sizeof(double));
    memcpy(to->m + at, from->m, (size_t)c * sizeof(double));
    memset(written + at, 1, (size_t)c);
}

static void case_bn(int width, int links, int training) {
    struct scene s;
    struct ref_bn want;
    scene_open(&s, training ? "bn training" : "bn inference");
    const int c = stored_of(1, width);
    struct bn bn = bn_new(&s, c, width, links, &want);
    if (training) {
        give(&s, bn.mean, &want.mean, c, width, 1, 0);
        give(&s, bn.variance, &want.variance, c, width, 0.5f, 1);
    }
    struct op op = {.kind = OP_BN, .layer = "test", .bn = {.bn = &bn, .training = training}};
    ref_bn(&want, training);
    watch(&s, "scale", bn.scale, c, want.scale, NULL);
    watch(&s, "shift", bn.shift, c, want.shift, NULL);
    const long n = (long)s.parameters.n_moving;
    struct reals moving = reals(&s, n);
    unsigned char *written = own(&s, n, 1);
    for (int l = 0; l < links && training; l++) {
        spread(&moving, written, bn.moving_mean[l], &want.moving_mean[l], c);
        spread(&moving, written, bn.moving_variance[l], &want.moving_variance[l], c);
    }
    watch(&s, "moving averages", s.parameters.moving, n, moving, written);
    play(&s, &op, 1, 3);
    scene_close(&s);
}

static void case_bn_gradient(int width, int links) {
    struct scene s;
    struct ref_bn want;
    scene_open(&s, "bn gradient");
    const int c = stored_of(1, width), h = 5, w = 7, n = 3;
    struct bn bn = bn_new(&s, c, width, links, &want);
    give(&s, bn.mean, &want.mean, c, width, 1, 0);
    give(&s, bn.variance, &want.variance, c, width, 0.5f, 1);
    give(&s, bn.sum_g, &want.sum_g, c, width, 30, 0);
    give(&s, bn.sum_gx, &want.sum_gx, c, width, 30, 0);
    struct op op = {.kind = OP_BN_GRADIENT, .layer = "test", .bn_gradient = {.bn = &bn, .h = h, .w = w}};
    ref_bn_gradient(&want, n * h * w);
    watch(&s, "a", bn.a, c, want.a, NULL);
    watch(&s, "b", bn.b, c, want.b, NULL);
    watch(&s, "c", bn.c, c, want.k, NULL);
    const long all = (long)s.parameters.n;
    struct reals gradient = reals(&s, all);
    unsigned char *written = own(&s, all, 1);
    for (int l = 0; l < links; l++) {
        spread(&gradient, written, bn.gamma[l], &want.dgamma[l], c);
        spread(&gradient, written, bn.beta[l], &want.dbeta[l], c);
    }
    watch(&s, "gradients", s.parameters.gradient, all, gradient, written);
    play(&s, &op, 1, n);
    scene_close(&s);
}

/* Scale and shift of few bits: what is equal in float is equal in double. */
static void coarse_affine(struct scene *s, struct bn *bn, struct ref_bn *ref, int width) {
    for (int c = 0; c < bn->channels; c++) {
        const int is_real = real_channel(c, width);
        bn->scale[c] = is_real ? (float)((int)rng_below(&rng, 7) - 3) * 0.5f : 0;
        bn->shift[c] = is_real ? (float)((int)rng_below(&rng, 9) - 4) * 0.125f : 0;
    }
    ref->scale.v = widened(s, bn->scale, bn->channels);
    ref->shift.v = widened(s, bn->shift, bn->channels);
}

struct pooled {
    enum pool pool;
    int n, h, w, parts, width;
};
static int pool_pad(const struct pooled *p) {
    return p->pool == POOL_MAX3 ? same_pad(p->h, 3, 2) : p->h % 2; /* VALID ignores it */
}

static void case_apply(struct pooled p, int with_bn, int options) {
    struct scene s;
    struct ref_bn ref = {0};
    char text[120];
    snprintf(text, sizeof text, "apply pool %d %dx%dx%dx%d*%d bn %d options %d", (int)p.pool, p.n, p.h, p.w, p.parts,
             p.width, with_bn, options);
    scene_open(&s, text);
    const int c = stored_of(p.parts, p.width), slice = options & SLICE, oh = pool_out(p.pool, p.h),
              ow = pool_out(p.pool, p.w);
    struct bn bn = bn_new(&s, c, p.width, 1, &ref);
    coarse_affine(&s, &bn, &ref, p.width);
    struct op op = {.kind = OP_APPLY, .layer = "test"};
    struct op_apply *o = &op.apply;
    *o = (struct op_apply){.bn = with_bn ? &bn : NULL, .pool = p.pool, .pad = pool_pad(&p), .drop = some_drop};
    o->in = input(&s, p.n, p.h, p.w, p.parts, p.width, slice, options & ADD ? NORMAL : COARSE);
    if (!(options & NO_OUT)) o->out = map_new(&s, p.n, oh, ow, p.parts, p.width, slice ? 8 : 0, slice ? 32 : 0);
    if (options & DROPPED) o->dropped = map_new(&s, p.n, oh, ow, p.parts, p.width, slice ? 24 : 0, slice ? 8 : 0);
    if (options & DROPPED && options & ALIAS) o->drop.threshold = 0;
    const struct tensor in = tensor_of(&s, &o->in, p.n);
    struct tensor v = tensor_new(&s, p.n, oh, ow, c), d = tensor_like(&s, &v);
    ref_apply(p.pool, o->pad, with_bn ? &ref : NULL, &in, &v);
    copy(&d, &v);
    if (o->dropped.at != NULL) {
        ref_dropout(&o->drop, &o->dropped, &s.step, &d);
        watch_map(&s, "dropped", &o->dropped, p.n, &d);
    }
    if (o->out.at != NULL) watch_map(&s, "out", &o->out, p.n, &v);
    play(&s, &op, 1, p.n);
    scene_close(&s);
}

static void case_sums(struct pooled p, int slice) {
    struct scene s;
    struct ref_bn ref;
    char text[120];
    snprintf(text, sizeof text, "sums pool %d %dx%dx%dx%d*%d", (int)p.pool, p.n, p.h, p.w, p.parts, p.width);
    scene_open(&s, text);
    const int c = stored_of(p.parts, p.width);
    struct bn bn = bn_new(&s, c, p.width, 1, &ref);
    coarse_affine(&s, &bn, &ref, p.width);
    give(&s, bn.mean, &ref.mean, c, p.width, 1, 0);
    struct op op = {.kind = OP_SUMS, .layer = "test"};
    struct op_sums *o = &op.sums;
    *o = (struct op_sums){.bn = &bn, .pool = p.pool, .pad = pool_pad(&p)};
    o->x = input(&s, p.n, p.h, p.w, p.parts, p.width, slice, COARSE);
    o->out_gradient = input(&s, p.n, pool_out(p.pool, p.h), pool_out(p.pool, p.w), p.parts, p.width, slice, NORMAL);
    const struct tensor x = tensor_of(&s, &o->x, p.n), g = tensor_of(&s, &o->out_gradient, p.n);
    struct tensor routed = tensor_like(&s, &x);
    ref_route(p.pool, o->pad, &ref, &x, &g, &routed);
    ref_sums(&ref, &routed, &x);
    watch(&s, "sum_g", bn.sum_g, c, ref.sum_g, NULL);
    watch(&s, "sum_gx", bn.sum_gx, c, ref.sum_gx, NULL);
    play(&s, &op, 1, p.n);
    scene_close(&s);
}

static void case_apply_gradient(struct pooled p, int with_bn, enum activation act, int options) {
    struct scene s;
    struct ref_bn ref;
    char text[120];
    snprintf(text, sizeof text, "apply gradient pool %d %dx%dx%dx%d*%d bn %d act %d options %d", (int)p.pool, p.n, p.h,
             p.w, p.parts, p.width, with_bn, (int)act, options);
    scene_open(&s, text);
    const int c = stored_of(p.parts, p.width), slice = options & SLICE;
    struct bn bn = bn_new(&s, c, p.width, 1, &ref);
    coarse_affine(&s, &bn, &ref, p.width);
    give(&s, bn.a, &ref.a, c, p.width, 1, 0);
    give(&s, bn.b, &ref.b, c, p.width, 1, 0);
    give(&s, bn.c, &ref.k, c, p.width, 1, 0);
    struct op op = {.kind = OP_APPLY_GRADIENT, .layer = "test"};
    struct op_apply_gradient *o = &op.apply_gradient;
    *o = (struct op_apply_gradient){.bn = with_bn ? &bn : NULL, .pool = p.pool, .pad = pool_pad(&p), .act = act};
    o->x = input(&s, p.n, p.h, p.w, p.parts, p.width, slice, COARSE);
    o->out_gradient = input(&s, p.n, pool_out(p.pool, p.h), pool_out(p.pool, p.w), p.parts, p.width, slice, NORMAL);
    const struct tensor x = tensor_of(&s, &o->x, p.n), g = tensor_of(&s, &o->out_gradient, p.n);
    struct tensor v = tensor_like(&s, &x), b = tensor_like(&s, &x);
    ref_route(p.pool, o->pad, with_bn ? &ref : NULL, &x, &g, &v);
    ref_apply_gradient(with_bn ? &ref : NULL, act, &x, &v);
    if (options & ALIAS && p.pool == POOL_NONE) {
        o->gradient = o->out_gradient;
    } else {
        o->gradient = map_new(&s, p.n, p.h, p.w, p.parts, p.width, slice ? 40 : 0, slice ? 8 : 0);
    }
    watch_map(&s, "gradient", &o->gradient, p.n, &v);
    if (options & BRANCH) {
        o->branch_act = act == ACT_ELU ? ACT_RELU : ACT_ELU;
        o->branch = map_new(&s, p.n, p.h, p.w, p.parts, p.width, slice ? 8 : 0, 0);
        o->branch_y = input(&s, p.n, p.h, p.w, p.parts, p.width, slice, ELU_OUTPUT);
        const struct tensor y = tensor_of(&s, &o->branch_y, p.n);
        copy(&b, &v);
        ref_slope(o->branch_act, &y, 1, &b);
        watch_map(&s, "branch", &o->branch, p.n, &b);
    }
    play(&s, &op, 1, p.n);
    scene_close(&s);
}

static void test_maps(void) {
    static const int sizes[][5] = {{3, 5, 7, 1, 17}, {3, 8, 4, 3, 3}, {1, 2, 2, 1, 600},
                                   {2, 9, 9, 1, 40}, {1, 3, 3, 1, 1}, {5, 6, 10, 1, 63}};
    for (int links = 1; links <= 2; links++) {
        for (int width = 1; width < 70; width += 31) {
            case_bn(width, links, 1);
            case_bn(width, links, 0);
            case_bn_gradient(width, links);
        }
    }
    for (int i = 0; i < (int)(sizeof sizes / sizeof *sizes); i++) {
        for (enum pool pool = POOL_NONE; pool <= POOL_MAX3; pool++) {
            const struct pooled p = {pool, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], sizes[i][4]};
            for (int with_bn = 0; with_bn < 2; with_bn++) {
                case_apply(p, with_bn, 0);
                case_apply(p, with_bn, DROPPED | SLICE);
                case_apply(p, with_bn, DROPPED | NO_OUT);
                case_apply(p, with_bn, DROPPED | NO_OUT | ALIAS | ADD);
                case_apply_gradient(p, with_bn, (enum activation)(i % 3), 0);
                case_apply_gradient(p, with_bn, (enum activation)((i + 1) % 3), ALIAS | BRANCH);
                case_apply_gradient(p, with_bn, (enum activation)((i + 2) % 3), SLICE | BRANCH);
            }
            case_sums(p, 0);
            case_sums(p, 1);
        }
    }
}

/* ======================================= images, losses, optimisers =============================================== */

static void case_batch(int c, int flip, int ordered, int slice) {
    struct scene s;
    scene_open(&s, "batch");
    const int n = 5, h = 6, w = 7, images = 12;
    uint8_t *pixels = own(&s, (long)images * h * w * c, 1);
    uint32_t *order = own(&s, images, sizeof *order);
    for (long i = 0; i < (long)images * h * w * c; i++) pixels[i] = (uint8_t)rng_below(&rng, 256);
    for (uint32_t i = 0; i < (uint32_t)images; i++) order[i] = (i * 7 + 3) % (uint32_t)images;
    struct op op = {.kind = OP_BATCH, .layer = "test"};
    struct op_batch *o = &op.batch;
    *o = (struct op_batch){.pixels = pixels, .order = ordered ? order : NULL, .c = c, .flip = flip, .flip_key = {7, 9}};
    o->out = map_new(&s, n, h, w, 1, c, slice ? 8 : 0, slice ? 8 : 0);
    struct tensor v = tensor_new(&s, n, h, w, map_stored(&o->out));
    int flipped = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t from = ordered ? order[s.step.first + (uint32_t)i] : s.step.first + (uint32_t)i;
        const uint32_t counter[4] = {(uint32_t)i, s.step.step, s.step.epoch, 0};
        uint32_t bits[4];
        philox(o->flip_key, counter, bits);
        const int here = flip && bits[0] % 2 == 1;
        flipped += here;
        for (int y = 0; y < h; y++) {
            for (int x = 0; x < w; x++) {
                for (int k = 0; k < c; k++) {
                    const int xx = here ? w - 1 - x : x;
                    put(&v.at, place(&v, i, y, x, k), pixels[(((long)from * h + y) * w + xx) * c + k] / 255.0 - 0.5, 1);
                }
            }
        }
    }
    CHECK(!flip || (flipped > 0 && flipped < n), "a key that flips all or none tests nothing");
    watch_map(&s, "out", &o->out, n, &v);
    play(&s, &op, 1, n);
    scene_close(&s);
}

enum { LOSS_IMAGES = 24 };

/* Logits that reach what is special: row 0 a tie that the label wins, 1 a tie that it loses, 2 and 3 clipped at either
 * end, 4 far out, 5 (where asked for) NaN. */
static void special_logits(struct map *m, int fine, int coarse, const uint32_t *index, const uint8_t *fine_labels,
                           const uint8_t *coarse_labels, int with_nan) {
    for (int head = 0; head < (coarse > 0 ? 2 : 1); head++) {
        const int classes = head ? coarse : fine, first = head ? stored_of(1, fine) : 0;
        float *z[6];
        int label[6];
        for (int i = 0; i < 6; i++) {
            z[i] = (float *)m->at + (long)i * m->stride + first;
            label[i] = head ? coarse_labels[index[i]] : fine_labels[index[i]];
        }
        if (label[0] + 1 < classes) z[0][label[0]] = z[0][label[0] + 1] = 9;
        if (label[1] > 0) z[1][label[1]] = z[1][label[1] - 1] = 9;
        for (int c = 0; c < classes; c++) {
            z[2][c] = -30;
            z[3][c] = 5;
            z[4][c] = c % 2 ? 60 : -60;
        }
        z[2][label[2]] = 5;
        z[3][label[3]] = -30;
        if (with_nan) z[5][classes / 2] = NAN;
    }
}

static void case_loss(int fine, int coarse, int softmax, int gradient, int with_nan) {
    struct scene s;
    char text[80];
    snprintf(text, sizeof text, "loss %d+%d softmax %d gradient %d nan %d", fine, coarse, softmax, gradient, with_nan);
    scene_open(&s, text);
    const int n = LOSS_IMAGES, images = n + 10, at = stored_of(1, fine),
              columns = at + (coarse > 0 ? stored_of(1, coarse) : 0);
    uint8_t *fine_labels = own(&s, images, 1), *coarse_labels = own(&s, images, 1);
    uint32_t *order = own(&s, images, sizeof *order), index[LOSS_IMAGES];
    for (int i = 0; i < images; i++) {
        fine_labels[i] = (uint8_t)rng_below(&rng, (uint32_t)fine);
        coarse_labels[i] = (uint8_t)rng_below(&rng, coarse > 0 ? (uint32_t)coarse : 200);
        order[i] = (uint32_t)((i * 5 + 1) % images);
    }
    const int ordered = softmax == gradient;
    for (uint32_t i = 0; i < (uint32_t)n; i++) index[i] = ordered ? order[s.step.first + i] : s.step.first + i;
    struct op op = {.kind = OP_LOSS, .layer = "test"};
    struct op_loss *o = &op.loss;
    *o = (struct op_loss){.fine = fine,
                          .coarse = coarse,
                          .softmax = softmax,
                          .coarse_weight = 0.3f,
                          .fine_labels = fine_labels,
                          .coarse_labels = coarse > 0 ? coarse_labels : NULL,
                          .order = ordered ? order : NULL};
    o->logits = map_new(&s, n, 1, 1, 1, columns, 0, 0);
    o->logits.wide = 1;
    map_fill(&o->logits, n, NORMAL);
    special_logits(&o->logits, fine, coarse, index, fine_labels, coarse_labels, with_nan);
    const struct tensor z = tensor_of(&s, &o->logits, n);
    struct tensor g = tensor_like(&s, &z);
    const double weight = (double)0.3f;
    s.tally_after.images += (uint64_t)n;
    for (int i = 0; i < n; i++) {
        struct reals to = {g.at.v + place(&g, i, 0, 0, 0), g.at.m + place(&g, i, 0, 0, 0)};
        const double *row = z.at.v + place(&z, i, 0, 0, 0);
        int hit;
        s.tally_after.fine_loss += ref_head(row, fine, fine_labels[index[i]], softmax, 1.0 / n, to, &hit);
        s.tally_after.fine_hits += (uint64_t)hit;
        if (coarse == 0) continue;
        to.v += at;
        to.m += at;
        s.tally_after.coarse_loss += ref_head(row + at, coarse, coarse_labels[index[i]], softmax, weight / n, to, &hit);
        s.tally_after.coarse_hits += (uint64_t)hit;
    }
    if (gradient) {
        o->gradient = map_new(&s, n, 1, 1, 1, columns, 0, 0);
        watch_map(&s, "gradient", &o->gradient, n, &g);
    }
    play(&s, &op, 1, n);
    scene_close(&s);
}

/* 20 updates with OP_NEXT behind each, on one device; a value may differ by what its updates summed up to. */
static void case_optimise(enum optimiser kind, struct device *d, long n) {
    enum { STEPS = 20 };
    struct scene s;
    struct error e = {0};
    const int images = 7;
    const float lr = 0.01f, l2 = 0.003f;
    scene_open(&s, "optimise");
    parameters_new(&s, n, 0);
    struct parameters *p = &s.parameters;
    p->n_decayed = (size_t)(n * 3 / 7);
    p->first_moment = kind != OPT_RMSPROP ? own(&s, n, sizeof(float)) : NULL;
    p->second_moment = own(&s, n, sizeof(float));
    for (long i = 0; i < n; i++) p->value[i] = normal();
    struct ref_optimiser o = {.n = n, .n_decayed = n * 3 / 7, .w = reals(&s, n), .m = reals(&s, n), .v = reals(&s, n)};
    for (long i = 0; i < n; i++) put(&o.w, i, (double)p->value[i], fabs((double)p->value[i]));
    o.product = 1;
    s.step.t = 0;
    s.step.mu_product = 1;
    struct op ops[2] = {{.kind = OP_OPTIMISE, .layer = "test", .optimise = {.kind = kind, .lr = lr, .l2 = l2}},
                        {.kind = OP_NEXT, .layer = "test"}};
    const struct program program = {.n_ops = 2, .ops = ops, .parameters = p, .step = &s.step, .tally = &s.tally};
    double want_l2 = s.tally.l2;
    for (int t = 0; t < STEPS; t++) {
        for (long i = 0; i < n; i++) p->gradient[i] = normal() * (i % 3 == 0 ? 1e-4f : 1.0f);
        want_l2 += images * (double)l2 * ref_optimise(&o, kind, (double)lr, (double)l2, p->gradient);
        CHECK(run_on(d, &s, &program, images, &e) == OK, "%s", e.text);
    }
    for (int which = 0; which < 3; which++) {
        const float *got = which == 0 ? p->value : which == 1 ? p->first_moment : p->second_moment;
        const struct reals *want = which == 0 ? &o.w : which == 1 ? &o.m : &o.v;
        double most = 0;
        for (long i = 0; i < n && got != NULL; i++) {
            const double deviation = fabs((double)got[i] - want->v[i]) / want->m[i];
            most = deviation > most || isnan(deviation) ? deviation : most;
        }
        CHECK(most <= TOLERANCE, "optimiser %d on %s: array %d: %g", (int)kind, d->about, which, most);
        if (most > worst[OP_OPTIMISE]) worst[OP_OPTIMISE] = most;
    }
    CHECK(fabs(s.tally.l2 - want_l2) < 1e-6 * want_l2, "optimiser %d: l2 %.12g, not %.12g", (int)kind, s.tally.l2,
          want_l2);
    CHECK(s.step.t == STEPS && s.step.step == 11 + STEPS && s.step.first == 2 + STEPS * images && s.step.epoch == 3,
          "optimiser %d: the step", (int)kind);
    CHECK(check_close(s.step.mu_product, o.product, 1e-13) && s.tally.images == 6, "optimiser %d: %.17g, not %.17g",
          (int)kind, s.step.mu_product, o.product);
    scene_close(&s);
}

/* One update from a state in the middle, in all the ways that a scene is played: the bits of threads, no memory. */
static void case_optimise_once(enum optimiser kind) {
    struct scene s;
    const long n = 40000, decayed = 17003;
    const float lr = 0.01f, l2 = 0.003f;
    scene_open(&s, "optimise once");
    parameters_new(&s, n, 0);
    struct parameters *p = &s.parameters;
    p->n_decayed = (size_t)decayed;
    p->first_moment = kind != OPT_RMSPROP ? floats(&s, n) : NULL;
    p->second_moment = floats(&s, n);
    for (long i = 0; i < n; i++) {
        p->value[i] = normal();
        p->gradient[i] = normal();
        p->second_moment[i] = fabsf(normal()) + 0.01f;
        if (p->first_moment != NULL) p->first_moment[i] = normal();
    }
    struct ref_optimiser o = {.n = n, .n_decayed = decayed, .w = reals(&s, n), .m = reals(&s, n), .v = reals(&s, n)};
    o.t = (int)s.step.t;
    o.product = s.step.mu_product;
    for (long i = 0; i < n; i++) {
        put(&o.w, i, (double)p->value[i], fabs((double)p->value[i]));
        put(&o.v, i, (double)p->second_moment[i], (double)p->second_moment[i]);
        if (p->first_moment != NULL) put(&o.m, i, (double)p->first_moment[i], fabs((double)p->first_moment[i]));
    }
    s.tally_after.l2 += 3 * (double)l2 * ref_optimise(&o, kind, (double)lr, (double)l2, p->gradient);
    watch(&s, "value", p->value, n, o.w, NULL);
    watch(&s, "second moment", p->second_moment, n, o.v, NULL);
    if (p->first_moment != NULL) watch(&s, "first moment", p->first_moment, n, o.m, NULL);
    struct op op = {.kind = OP_OPTIMISE, .layer = "test", .optimise = {.kind = kind, .lr = lr, .l2 = l2}};
    play(&s, &op, 1, 3);
    scene_close(&s);
}

static void test_next(void) { /* evaluation: no update is counted */
    struct scene s;
    scene_open(&s, "next");
    struct op op = {.kind = OP_NEXT, .layer = "test"};
    s.step_after.step++;
    s.step_after.first += 9;
    play(&s, &op, 1, 9);
    scene_close(&s);
}

static void test_penalty(void) {
    struct scene s;
    const long n = 40000, decayed = 33003;
    scene_open(&s, "penalty");
    parameters_new(&s, n, 0);
    s.parameters.n_decayed = (size_t)decayed;
    for (long i = 0; i < n; i++) {
        s.parameters.value[i] = normal();
        if (i < decayed) s.tally_after.l2 += 5 * 0.003 * (double)s.parameters.value[i] * (double)s.parameters.value[i];
    }
    struct op op = {.kind = OP_PENALTY, .layer = "test", .penalty = {.l2 = 0.003f}};
    play(&s, &op, 1, 5);
    scene_close(&s);
}

static void test_rest(void) {
    for (int i = 0; i < 8; i++) case_batch(i & 1 ? 3 : 1, i >> 1 & 1, i >> 2, i & 1);
    for (int softmax = 0; softmax < 2; softmax++) {
        for (int gradient = 0; gradient < 2; gradient++) {
            case_loss(100, 20, softmax, gradient, 0);
            case_loss(10, 0, softmax, gradient, 0);
            case_loss(3, 2, softmax, gradient, 1);
            case_loss(100, 20, softmax, gradient, 1);
        }
    }
    for (enum optimiser kind = OPT_ADAM; kind <= OPT_RMSPROP; kind++) {
        case_optimise_once(kind);
        for (int isa = 0; isa < ISAS; isa++) {
            if (devices[isa][1] == NULL) continue;
            case_optimise(kind, devices[isa][1], 18000);
            case_optimise(kind, devices[isa][THREADS - 1], 7);
        }
    }
    test_next();
    test_penalty();
}

#ifndef TEST_CUDA
#include "layers_differences.h"
#endif

/* ===================================================== speed ====================================================== */

static void bench_op(struct device *d, struct scene *s, struct op *op, int n, double flops, double *rate) {
    const struct program p = {
        .n_ops = 1, .ops = op, .parameters = &s->parameters, .step = &s->step, .tally = &s->tally};
    struct error e = {0};
    *rate = 0;
    for (int k = 0; k < 6; k++) { /* the best of six: the machine has other work too */
        const double begin = clock_seconds();
        if (d->run(d, &p, n, &e) != OK || d->wait(d, &e) != OK) printf("%s\n", e.text);
        const double r = flops / (clock_seconds() - begin) / 1e9;
        if (r > *rate) *rate = r;
    }
}

static int bench(const char *isa) {
    static const struct shape shapes[] = {{3, 1, 100, 32, 32, 1, 40, 40},  {3, 1, 100, 32, 32, 1, 63, 63},
                                          {3, 1, 100, 16, 16, 1, 80, 80},  {3, 1, 100, 16, 16, 1, 126, 126},
                                          {3, 1, 100, 8, 8, 1, 160, 160},  {1, 1, 100, 32, 32, 1, 40, 40},
                                          {1, 1, 100, 1, 1, 1, 2560, 1000}};
    struct device *d;
    struct error e = {0};
    if (device_cpu(&d, 2, isa, &e) != OK) {
        printf("%s\n", e.text);
        return 1;
    }
    printf("%s; GFLOP/s of real channels, batch 100\n", d->about);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape h = shapes[i];
        const struct taps t = taps_of(&h);
        struct scene s;
        double rate[3];
        scene_open(&s, "bench");
        const int in = stored_of(1, h.in), out = stored_of(1, h.out);
        const long weights = (long)h.k * h.k * in * out;
        const double flops = 2.0 * h.n * h.h * h.w * h.k * h.k * h.in * h.out;
        parameters_new(&s, weights + out, 0);
        fill_kernel(s.parameters.value, &h);
        fill_channels(s.parameters.value + weights, out, h.out, 1);
        const struct map x = input(&s, h.n, h.h, h.w, 1, h.in, 0, NORMAL);
        const struct map g = input(&s, h.n, h.h, h.w, 1, h.out, 0, NORMAL);
        struct op forward = {.kind = OP_CONV, .layer = "bench"}, data = {.kind = OP_CONV_DATA, .layer = "bench"},
                  weight = {.kind = OP_CONV_WEIGHT, .layer = "bench"};
        forward.conv = (struct op_conv){.k = t.k, .stride = 1, .pad = t.pad, .act = ACT_ELU, .bias = (size_t)weights};
        forward.conv.in = x;
        forward.conv.out = map_new(&s, h.n, h.h, h.w, 1, h.out, 0, 0);
        data.conv_data = (struct op_conv_data){.k = t.k, .stride = 1, .pad = t.pad, .y_scale = 1};
        data.conv_data.out_gradient = g;
        data.conv_data.gradient = map_new(&s, h.n, h.h, h.w, 1, h.in, 0, 0);
        weight.conv_weight = (struct op_conv_weight){.k = t.k, .stride = 1, .pad = t.pad, .bias = (size_t)weights};
        weight.conv_weight.in = x;
        weight.conv_weight.out_gradient = g;
        bench_op(d, &s, &forward, h.n, flops, &rate[0]);
        bench_op(d, &s, &data, h.n, flops, &rate[1]);
        bench_op(d, &s, &weight, h.n, flops, &rate[2]);
        printf("%2dx%-2d k%d %4d->%-4d  forward %6.1f  data %6.1f  weight %6.1f\n", h.h, h.w, h.k, h.in, h.out, rate[0],
               rate[1], rate[2]);
        scene_close(&s);
    }
    d->close(d);
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0); /* what it has found is there, too, if a kernel hangs */
    rng = rng_make(17, 0, RNG_SYNTHETIC);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench(argc > 2 ? argv[2] : NULL);
    int found = 0;
    for (int isa = 0; isa < ISAS; isa++) {
        for (int t = 0; t < THREADS; t++) {
            struct error e = {0};
#ifdef TEST_CUDA
            unsigned without = isa == 2 ? CUDA_WITHOUT_WGMMA | CUDA_WITHOUT_CUBLAS : 0;
            cuda_host_major = isa == 2 ? 12 : 9; /* without wgmma: with all windows by mma.sync */
            CHECK(device_cuda_without(&without, getenv("PARZEN_WITHOUT"), &e) == OK, "%s", e.text);
            found += device_cuda(&devices[isa][t], 0, isa == 0, without, &e) == OK;
            if (devices[isa][t] == NULL) printf("%s\n", e.text);
#else
            found += device_cpu(&devices[isa][t], t + 1, isa_names[isa], &e) == OK;
#endif
        }
    }
    CHECK(found >= THREADS, "no device"); /* not every CPU has AVX-512, but each has the base */
#ifdef TEST_CUDA
    if (devices[0][0] == NULL) return check_done(); /* scenes are made in its memory */
#else
    test_differences();
#endif
    test_conv();
    test_windows();
    test_maps();
    test_rest();
    printf("%d devices; the largest deviations:", found);
    for (int k = 0; k < OP_NEXT; k++) printf(" %s %.1e", kind_names[k], worst[k]);
    printf("\n");
    for (int isa = 0; isa < ISAS; isa++) {
        for (int t = 0; t < THREADS; t++) {
            if (devices[isa][t] != NULL) devices[isa][t]->close(devices[isa][t]);
        }
    }
    return check_done();
}
