/* device_cpu.c - the CPU as a device: memory is memory, and the operations are those of layers_cpu.c for the best
 * instruction set that this CPU has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layers_cpu.h"

struct device_cpu {
    struct device device; /* first: a struct device * is a struct device_cpu * */
    struct cpu cpu;
    layers_cpu_run *run;
};

static int cpu_alloc(struct device *d, size_t bytes, void **out, struct error *e) {
    (void)d;
    *out = mem_aligned(bytes);
    if (*out == NULL) return error_memory(e, bytes, "the network's memory");
    memset(*out, 0, bytes);
    return OK;
}

static void cpu_release(struct device *d, void *p) {
    (void)d;
    mem_free(p);
}

static int cpu_copy(struct device *d, void *to, const void *from, size_t bytes, struct error *e) {
    (void)d;
    (void)e;
    memcpy(to, from, bytes);
    return OK;
}

static int cpu_run(struct device *d, const struct program *p, int n, struct error *e) {
    struct device_cpu *c = (struct device_cpu *)d;
    return c->run(&c->cpu, p, 0, p->n_ops, n, e);
}

static int cpu_profile(struct device *d, const struct program *p, int n, double *seconds, struct error *e) {
    struct device_cpu *c = (struct device_cpu *)d;
    for (int i = 0; i < p->n_ops; i++) {
        const double start = clock_seconds();
        const int failed = c->run(&c->cpu, p, i, i + 1, n, e);
        if (failed) return failed;
        seconds[i] = clock_seconds() - start;
    }
    return OK;
}

static int cpu_wait(struct device *d, struct error *e) {
    (void)d;
    (void)e;
    return OK;
}

static void cpu_close(struct device *d) {
    struct device_cpu *c = (struct device_cpu *)d;
    for (int i = 0; i < N_SCRATCH; i++) mem_free(c->cpu.scratch[i].at);
    threads_close(c->cpu.threads);
    mem_free(c);
}

/* The instruction sets compiled in, the best first. */
struct isa {
    const char *name, *about;
    layers_cpu_run *run;
};
static const struct isa isas[] = {
#ifdef __x86_64__
    {"avx512", "AVX-512", layers_cpu_run_avx512},
    {"avx2", "AVX2", layers_cpu_run_avx2},
#endif
    {"base", "no AVX2", layers_cpu_run_base}};
enum { N_ISAS = sizeof isas / sizeof *isas };

static int supported(const char *name) {
#ifdef __x86_64__
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(name, "avx2") == 0) return avx2;
    if (strcmp(name, "avx512") == 0) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
#endif
    return strcmp(name, "base") == 0;
}

int device_cpu(struct device **out, int threads, const char *isa, struct error *e) {
    int i = 0;
    *out = NULL;
    while (i < N_ISAS && !(supported(isas[i].name) && (isa == NULL || strcmp(isa, isas[i].name) == 0))) i++;
    if (i == N_ISAS) return error_set(e, ERROR_USER, "this CPU or this build has no '%s'", isa != NULL ? isa : "base");
    struct device_cpu *c = mem_zero(1, sizeof *c);
    if (c == NULL) return error_memory(e, sizeof *c, "the CPU device");
    const int failed = threads_open(&c->cpu.threads, threads, e);
    if (failed) {
        mem_free(c);
        return failed;
    }
    c->run = isas[i].run;
    c->device = (struct device){.name = "cpu",
                                .element = sizeof(float),
                                .alloc = cpu_alloc,
                                .release = cpu_release,
                                .write = cpu_copy,
                                .read = cpu_copy,
                                .run = cpu_run,
                                .wait = cpu_wait,
                                .profile = cpu_profile,
                                .close = cpu_close};
    const int n = threads_count(c->cpu.threads);
    snprintf(c->device.about, sizeof c->device.about, "CPU, %d thread%s, %s", n, n == 1 ? "" : "s", isas[i].about);
    *out = &c->device;
    return OK;
}
