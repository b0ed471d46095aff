/* device_rounded.c - what bf16 costs in accuracy, seen without a GPU: the CPU device, but every map that an operation
 * makes is rounded to bf16 when it is made, and convolutions and dense layers multiply with rounded weights. That is
 * what the CUDA device stores and multiplies; sums, statistics and the weights' own values are float32 on both.
 * `make build/tests/parzen_rounded` links it into a parzen of its own in device_cpu.c's place. */
#include "../layers_cpu.h"
#define device_cpu device_plain /* the function's name, and its struct's */
int device_plain(struct device **, int threads, const char *isa, struct error *);
#include "../device_cpu.c"
#undef device_cpu

struct device_rounded {
    struct device_plain plain; /* first: a struct device * is any of the three */
    float *weights; /* the rounded kernels, parameters->n floats */
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

/* The maps that an operation makes. */
static int outputs(const struct op *op, const struct map *maps[2]) {
    switch (op->kind) {
        case OP_BATCH: maps[0] = &op->batch.out; return 1;
        case OP_CONV: maps[0] = &op->conv.out, maps[1] = &op->conv.dropped; return 2;
        case OP_APPLY: maps[0] = &op->apply.out, maps[1] = &op->apply.dropped; return 2;
        case OP_LOSS: maps[0] = &op->loss.gradient; return 1;
        case OP_CONV_DATA: maps[0] = &op->conv_data.gradient, maps[1] = &op->conv_data.branch; return 2;
        case OP_APPLY_GRADIENT: maps[0] = &op->apply_gradient.gradient, maps[1] = &op->apply_gradient.branch; return 2;
        default: return 0;
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
    int failed = round_weights(r, p->parameters, e);
    parameters.value = r->weights;
    for (int i = 0; i < p->n_ops && !failed; i++) {
        struct program one = *p;
        const struct map *maps[2];
        one.n_ops = 1;
        one.ops = p->ops + i;
        if (one.ops->kind == OP_CONV || one.ops->kind == OP_CONV_DATA) one.parameters = &parameters;
        failed = r->plain.run(&r->plain.cpu, &one, n, e);
        for (int m = outputs(one.ops, maps) - 1; m >= 0 && !failed; m--) round_map(maps[m], n);
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
