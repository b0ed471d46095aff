/* device_rounded.c - what bf16 costs in accuracy, seen without a GPU: the CPU device, but every map that an operation
 * makes is rounded to bf16 when it is made, and convolutions and dense layers multiply with rounded weights. That is
 * what the CUDA device stores and multiplies; sums, statistics and the weights' own values are float32 on both.
 * `make build/tests/parzen_rounded` links it into a parzen of its own in device_cpu.c's place. */
#include "../layers_cpu.h"
#define device_cpu device_plain /* the function's name, and its struct's */
int device_plain(struct device **, int threads, const char *isa, struct error *);
#include "../device_cpu.c"
#undef device_cpu
#include "op_outputs.h"

struct device_rounded {
    struct device_plain plain; /* first: a struct device * is any of the three */
    float *weights;            /* the rounded kernels, parameters->n floats */
    size_t n;
};

/* To the nearest, ties to even, as the GPU's conversion does it; infinities and NaN stay. */
static float rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x7fffu + (bits >> 16 & 1);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void round_map(const struct map *m, int n) {
    if (m->at == NULL || m->wide) return;
    const size_t pixels = (size_t)n * (size_t)m->h * (size_t)m->w;
    const int channels = map_stored(m);
    for (size_t p = 0; p < pixels; p++) {
        float *x = (float *)m->at + p * (size_t)m->stride;
        for (int c = 0; c < channels; c++) x[c] = rounded(x[c]);
    }
}

static int round_weights(struct device_rounded *r, const struct parameters *p, struct error *e) {
    if (r->n < p->n) {
        mem_free(r->weights);
        r->weights = mem_alloc(p->n * sizeof *r->weights);
        r->n = r->weights == NULL ? 0 : p->n;
        if (r->weights == NULL) return error_memory(e, p->n * sizeof(float), "rounded weights");
    }
    for (size_t i = 0; i < p->n; i++) r->weights[i] = i < p->n_decayed ? rounded(p->value[i]) : p->value[i];
    return OK;
}

static int run_rounded(struct device *d, const struct program *p, int n, struct error *e) {
    struct device_rounded *r = (struct device_rounded *)d;
    struct parameters parameters = *p->parameters;
    struct program by_rounded = *p; /* the same, with the rounded weights */
    int failed = round_weights(r, p->parameters, e);
    parameters.value = r->weights;
    by_rounded.parameters = &parameters;
    for (int i = 0; i < p->n_ops && !failed; i++) {
        const struct op *const op = &p->ops[i];
        const int products = op->kind == OP_CONV || op->kind == OP_CONV_DATA;
        const struct map *maps[2];
        failed = r->plain.run(&r->plain.cpu, products ? &by_rounded : p, i, i + 1, n, e);
        for (int m = op_outputs(op, maps) - 1; m >= 0 && !failed; m--) round_map(maps[m], n);
    }
    return failed;
}

static void close_rounded(struct device *d) {
    mem_free(((struct device_rounded *)d)->weights);
    cpu_close(d);
}

int device_cpu(struct device **out, int threads, const char *isa, struct error *e) {
    struct device *plain;
    int failed = device_plain(&plain, threads, isa, e);
    if (failed) return failed;
    struct device_rounded *r = mem_zero(1, sizeof *r);
    if (r == NULL) {
        plain->close(plain);
        return error_memory(e, sizeof *r, "the rounded device");
    }
    r->plain = *(struct device_plain *)plain;
    mem_free(plain); /* its parts live on in r */
    r->plain.device.run = run_rounded;
    r->plain.device.close = close_rounded;
    snprintf(r->plain.device.about + strlen(r->plain.device.about),
             sizeof r->plain.device.about - strlen(r->plain.device.about), ", maps rounded to bf16");
    *out = &r->plain.device;
    return OK;
}
