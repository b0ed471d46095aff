/* bench.c - measures training steps: a table with a line for each configuration, and what each operation takes.
 *
 *   bench [--device cpu|cuda|none] [--isa NAME] [--fp32] [--ops] [--threads N] [--batch N]
 *         [--without beside,early,wgmma,cublas] CONFIG.json...
 *
 * CONFIG: a result file, or a configuration. --isa: what the CPU uses: avx512, avx2 or base; its best if absent. Steps
 * are timed by the epoch, as a trial runs them: batches of random images, shuffled, flipped and dropped; the median of
 * several epochs behind one that warms up. --ops also times the operations one by one, in their places in a step, and
 * sets them against what they move and multiply (step_cost.h). The loss, after all of them, is the same to the last
 * digit however often it is measured, and on a GPU without early kernels or weight gradients beside the rest too.
 * --without (and PARZEN_WITHOUT), on a GPU, shows what is gained by what is left out: beside: weight gradients beside
 * the chain of the other operations; early: kernels that come before the one before them is done; wgmma: Hopper's own
 * products; cublas: it, for dense layers.
 * --device none measures nothing and prints that account alone, for an H200, and what each fusion saves (step_fused.h).
 *
 * On a GPU the two ceilings, a copy in its memory and a product of bf16 matrices by cuBLAS, are measured first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../config.h"
#include "../net.h"
#include "step_cache.h"
#include "step_fused.h"
#include "witness.h"

#ifdef PARZEN_CUDA
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#endif

enum { EPOCHS = 7, SIDE = 32, SECONDS_OF_WORK = 1 };

/* Of an H200: a copy; first-level caches that hit, for taps overlap; 128 bytes a clock of each multiprocessor's shared
 * memory; products, and those by mma.sync; from one kernel to the next. Of its 60 MB of second-level cache two thirds:
 * each half of it also keeps copies of what the other has. */
static const struct ceilings h200 = {4.3e12, 12e12, 29e12, 5.5e12, 7.8e14, 5e14, 1.5e-6, 40e6};
static const char *const kinds[] = {
    "batch",       "conv",           "bn",       "apply", "loss",   "data gradient", "weight gradient", "sums",
    "bn gradient", "apply gradient", "optimise", "next",  "penalty"};

struct options {
    const char *device;
    int fp32, ops, probe, threads, batch; /* probe: only whether there is such a device */
    unsigned without;                     /* as device_cuda takes it */
    enum making making;
};

/* ---- the ceilings of a GPU ---- */

#ifdef PARZEN_CUDA
static double time_on_gpu(int (*work)(void *), void *context) {
    cudaEvent_t begin, end;
    float ms = 0, best = 0;
    if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess) return 0;
    for (int i = 0; i < 12; i++) {
        cudaEventRecord(begin, NULL);
        if (work(context)) return 0;
        cudaEventRecord(end, NULL);
        cudaEventSynchronize(end);
        cudaEventElapsedTime(&ms, begin, end);
        if (i == 2 || (i > 2 && ms < best)) best = ms;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return (double)best / 1e3;
}

enum { COPY_BYTES = 1 << 30, NOISE_BYTES = 1 << 26, GEMM_SIDE = 8192 };
struct gpu_work {
    char *a, *b, *c;
    void *handle;
    int (*gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
                const void *, void *, int, int, int, int);
};
static int copy_work(void *context) {
    struct gpu_work *w = context;
    return cudaMemcpyAsync(w->b, w->a, COPY_BYTES, cudaMemcpyDeviceToDevice, NULL) != cudaSuccess;
}
static int gemm_work(void *context) { /* bf16 in, fp32 sums, bf16 out */
    struct gpu_work *w = context;
    const float one = 1, zero = 0;
    return w->gemm(w->handle, 0, 0, GEMM_SIDE, GEMM_SIDE, GEMM_SIDE, &one, w->a, 14, GEMM_SIDE, w->b, 14, GEMM_SIDE,
                   &zero, w->c, 14, GEMM_SIDE, 68, -1);
}

static void measure_ceilings(struct ceilings *c) {
    struct gpu_work w = {NULL};
    uint16_t *noise = NULL;
    static const char *const names[] = {CUBLAS_NAMES};
    double copy = 0, flops = 0;
    void *library = NULL;
    for (int i = 0; i < (int)(sizeof names / sizeof *names) && library == NULL; i++)
        library = dlopen(names[i], RTLD_NOW);
    if (cudaMalloc((void **)&w.a, COPY_BYTES) != cudaSuccess || cudaMalloc((void **)&w.b, COPY_BYTES) != cudaSuccess ||
        cudaMalloc((void **)&w.c, COPY_BYTES) != cudaSuccess)
        goto end;
    noise = mem_alloc(NOISE_BYTES); /* normal numbers near 1: zeros would flatter the product */
    if (noise == NULL) goto end;
    for (size_t i = 0; i < NOISE_BYTES / 2; i++)
        noise[i] = (uint16_t)(0x3f80u ^ ((uint32_t)i * 2654435761u >> 24) ^ ((uint32_t)i * 40503u & 0x8000u));
    cudaMemcpy(w.a, noise, NOISE_BYTES, cudaMemcpyHostToDevice);
    for (size_t n = NOISE_BYTES; n < COPY_BYTES; n *= 2) cudaMemcpy(w.a + n, w.a, n, cudaMemcpyDeviceToDevice);
    cudaMemcpy(w.b, w.a, COPY_BYTES, cudaMemcpyDeviceToDevice);
    copy = time_on_gpu(copy_work, &w);
    if (copy > 0) c->memory = 2.0 * COPY_BYTES / copy;
    if (library != NULL) {
        int (*create)(void **) = NULL;
        *(void **)&create = dlsym(library, "cublasCreate_v2");
        *(void **)&w.gemm = dlsym(library, "cublasGemmEx");
        if (create != NULL && w.gemm != NULL && create(&w.handle) == 0) {
            const double seconds = time_on_gpu(gemm_work, &w);
            if (seconds > 0) {
                flops = 2.0 * GEMM_SIDE * GEMM_SIDE * GEMM_SIDE / seconds;
                c->mma_sync *= flops / c->flops;
                c->flops = flops;
            }
        }
    }
end:
    mem_free(noise);
    cudaFree(w.a);
    cudaFree(w.b);
    cudaFree(w.c);
    (void)cudaGetLastError(); /* what has failed here is no business of the steps */
    printf("ceilings: memory %.2f TB/s (%s), %.0f TFLOP/s (%s)\n", c->memory / 1e12,
           copy > 0 ? "a copy, read and written" : "not measured: an H200's", c->flops / 1e12,
           flops > 0 ? "cuBLAS, bf16, 8192 cubed" : "not measured, cuBLAS is not there: an H200's");
}
#endif

/* ---- one configuration ---- */

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_cost(const char *kind, const char *what, const struct cost *c, double floor, double seconds,
                       double step) {
    printf("%-15s %-26s %7.1f %7.1f %8.1f %8.1f %7.1f %7.2f %7.2f %8.1f", kind, what, c->maps / 1e6, c->memory / 1e6,
           c->fetch / 1e6, c->shared / 1e6, c->partials / 1e6, 2e-9 * c->macs, 2e-9 * (c->mma + c->wgmma), 1e6 * floor);
    if (step > 0)
        printf(" %8.1f %7.0f %7.1f %5.1f%%", 1e6 * seconds, c->maps / seconds / 1e9, 2e-12 * c->macs / seconds,
               100 * seconds / step);
    printf("\n");
}

/* The next step is the first of an epoch again: a profile trains on the images that follow. */
static int rewind_epoch(const struct witness *w, struct error *e) {
    struct step step;
    int failed = w->real->read(w->real, &step, w->program->step, sizeof step, e);
    step.first = 0;
    if (!failed) failed = w->real->write(w->real, w->program->step, &step, sizeof step, e);
    return failed;
}

/* Every operation, then sums by kind: the median of several profiles, where there is a device. */
static int operations(const struct witness *w, enum making making, const struct ceilings *ceilings, struct error *e) {
    enum { PROFILES = 5 };
    const struct program *p = w->program;
    double *times = mem_zero((size_t)p->n_ops * (PROFILES + 2), sizeof *times), step = 0, plain = 0;
    if (times == NULL) return error_memory(e, (size_t)p->n_ops * sizeof *times, "the times");
    double *const seconds = times + (size_t)p->n_ops * PROFILES, *const moved = seconds + p->n_ops;
    int simulated = cache_account(p, w->n, making, ceilings->cache, 0, moved);
    for (int i = 0; i < p->n_ops; i++) plain += moved[i];
    simulated = simulated && cache_account(p, w->n, making, ceilings->cache, 1, moved);
    if (!simulated) {
        mem_free(times);
        return error_memory(e, 0, "the cache's account");
    }
    for (int i = 0; i < PROFILES && w->real != NULL; i++) {
        int failed = rewind_epoch(w, e);
        if (!failed) failed = w->real->profile(w->real, p, w->n, times + (size_t)i * (size_t)p->n_ops, e);
        if (failed) {
            mem_free(times);
            return failed;
        }
    }
    for (int i = 0; i < p->n_ops && w->real != NULL; i++) {
        double sorted[PROFILES];
        for (int k = 0; k < PROFILES; k++) sorted[k] = times[(size_t)k * (size_t)p->n_ops + (size_t)i];
        qsort(sorted, PROFILES, sizeof *sorted, by_size);
        seconds[i] = sorted[PROFILES / 2];
        step += seconds[i];
    }
    printf("%-15s %-26s %7s %7s %8s %8s %7s %7s %7s %8s%s\n", "operation", "layer", "maps MB", "mem MB", "fetch MB",
           "sh'd MB", "part MB", "GFLOP", "padded", "floor us",
           w->real != NULL ? "       us    GB/s  TFLOP/s  share" : "");
    struct cost by_kind[OP_PENALTY + 1] = {{0}}, total = {0};
    double floors[OP_PENALTY + 1] = {0}, taken[OP_PENALTY + 1] = {0}, floor = 0;
    for (int i = 0; i < p->n_ops; i++) {
        struct cost c = cost_of(p, i, w->n, making);
        const enum op_kind k = p->ops[i].kind;
        c.memory = k == OP_OPTIMISE ? c.maps : moved[i];
        const double f = seconds_of(&c, ceilings);
        if (c.maps > 0) print_cost(kinds[k], p->ops[i].layer, &c, f, seconds[i], step);
        cost_add(&by_kind[k], &c);
        floors[k] += f;
        taken[k] += seconds[i];
    }
    printf("\n");
    for (int k = 0; k <= OP_PENALTY; k++) {
        char kernels[32];
        snprintf(kernels, sizeof kernels, "%d kernels", by_kind[k].kernels);
        if (by_kind[k].kernels > 0) print_cost(kinds[k], kernels, &by_kind[k], floors[k], taken[k], step);
        cost_add(&total, &by_kind[k]);
        floor += floors[k];
    }
    char kernels[32];
    snprintf(kernels, sizeof kernels, "%d kernels", total.kernels);
    print_cost("all", kernels, &total, floor, step, step);
    printf(
        "weight gradients may go beside the rest: no faster than the rest alone, %.1f us, all bytes, %.1f us (memory) "
        "or "
        "%.1f us (cache), or all products, %.1f us\n",
        1e6 * (floor - floors[OP_CONV_WEIGHT]), 1e6 * total.memory / ceilings->memory,
        1e6 * total.maps / ceilings->level2, 1e6 * products_seconds(&total, ceilings));
    printf("memory: with a cache for %.0f MB; all passes one way, and nothing said of what is touched once: %.1f MB\n",
           ceilings->cache / 1e6, (plain + by_kind[OP_OPTIMISE].memory) / 1e6);
    mem_free(times);
    return OK;
}

/* What the step would take besides without each of the fusions. */
static void print_fusions(const struct program *p, int n, enum making making) {
    struct saved saved[FUSIONS + 1] = {{0}};
    double maps = 0;
    int kernels = 0;
    for (int i = 0; i < p->n_ops; i++) {
        const struct cost c = cost_of(p, i, n, making);
        maps += c.maps;
        kernels += c.kernels;
        saved_by(p, i, n, making, saved);
    }
    printf("\nwithout a fusion the step's %.1f MB in %d kernels are more, by          MB   kernels\n", maps / 1e6,
           kernels);
    for (int f = 0; f < FUSIONS; f++) {
        printf("  %-72s %7.1f %7d\n", fusions[f], saved[f].maps / 1e6, saved[f].kernels);
        saved[FUSIONS].maps += saved[f].maps;
        saved[FUSIONS].kernels += saved[f].kernels;
    }
    printf("  %-72s %7.1f %7d\n", "all of them", saved[FUSIONS].maps / 1e6, saved[FUSIONS].kernels);
}

static int measure(const char *file, const struct options *o, struct device *real, const struct ceilings *ceilings,
                   struct error *e) {
    struct witness witness = witness_of(real);
    struct device *d = &witness.device;
    struct document doc = {0};
    struct net_config config;
    struct net *net = NULL;
    struct net_metrics m;
    struct net_images set = {0};
    const struct value *dict;
    int failed = config_file(file, &doc, &dict, &config, e);
    if (failed) goto end;
    if (o->batch > 0) config.batch_size = o->batch;
    const int gpu = real != NULL && strcmp(real->name, "cuda") == 0;
    const int steps = gpu ? 60 : 1, images = config.batch_size * steps;
    struct images noise = {.n = images, .h = SIDE, .w = SIDE, .c = 3};
    noise.pixels = mem_alloc((size_t)images * SIDE * SIDE * 3);
    noise.fine = mem_zero((size_t)images, 1);
    noise.coarse = mem_zero((size_t)images, 1);
    if (noise.pixels == NULL || noise.fine == NULL || noise.coarse == NULL) {
        failed = error_memory(e, (size_t)images, "the images");
    } else {
        for (size_t i = 0; i < (size_t)images * SIDE * SIDE * 3; i++)
            noise.pixels[i] = (uint8_t)((uint32_t)i * 2654435761u >> 24);
        for (int i = 0; i < images; i++) noise.fine[i] = (uint8_t)(i * 7 % 100);
        for (int i = 0; i < images; i++) noise.coarse[i] = (uint8_t)(noise.fine[i] / 5);
        failed = net_images_load(&set, &noise, d, e);
    }
    mem_free(noise.pixels);
    mem_free(noise.fine);
    mem_free(noise.coarse);
    const struct net_options options = {.fine = 100, .coarse = 20, .seed = 1};
    if (!failed) failed = net_build(&net, &config, &options, d, &set, &set, e);
    if (failed) goto end;

    double times[EPOCHS], judging[EPOCHS];
    for (int i = -1; i < (real != NULL ? EPOCHS : 0) && !failed; i++) {
        const double start = clock_seconds();
        failed = net_train_epoch(net, i + 1, &m, NULL, NULL, e);
        if (i >= 0) times[i] = clock_seconds() - start;
        if (failed || real == NULL) continue;
        const struct program *training = witness.program;
        const double middle = clock_seconds();
        failed = net_judge(net, &m, NULL, NULL, e);
        if (i >= 0) judging[i] = clock_seconds() - middle;
        witness.program = training;
    }
    if (failed) goto end;
    const struct net_size size = net_get_size(net);
    const char *name = strrchr(file, '/') != NULL ? strrchr(file, '/') + 1 : file;
    double maps = 0;
    for (int i = 0; i < witness.program->n_ops; i++)
        maps += cost_of(witness.program, i, config.batch_size, o->making).maps;
    if (real != NULL) {
        qsort(times, EPOCHS, sizeof *times, by_size);
        qsort(judging, EPOCHS, sizeof *judging, by_size);
        const double step = times[EPOCHS / 2] / steps;
        maps *= (double)d->element / 2;
        printf(
            "%-24s batch %3d  %6.1f M mult-adds  step %9.3f ms  %8.0f images/s  epoch %7.3f s  judging %8.0f images/s"
            "  %6.0f GB/s (%2.0f%%)  %6.1f TFLOP/s (%2.0f%%)  loss %.17g\n",
            name, config.batch_size, size.multiply_adds / 1e6, 1e3 * step, config.batch_size / step,
            50000 * step / config.batch_size, images / judging[EPOCHS / 2], maps / step / 1e9,
            100 * maps / step / ceilings->memory, 6e-12 * size.multiply_adds * config.batch_size / step,
            600 * size.multiply_adds * config.batch_size / step / ceilings->flops, m.loss);
    } else {
        printf("\n%s: batch %d, %zu parameters, %.1f M multiply-adds\n", name, config.batch_size, size.parameters,
               size.multiply_adds / 1e6);
    }
    if (o->ops || real == NULL) failed = operations(&witness, o->making, ceilings, e);
    if (real == NULL && !failed) print_fusions(witness.program, witness.n, o->making);
end:
    net_free(net);
    net_images_unload(&set, d);
    document_free(&doc);
    return failed;
}

static int usage(void) {
    fprintf(stderr,
            "usage: bench [--device cpu|cuda|none] [--isa NAME] [--fp32] [--ops] [--making taps|windows|pairs|wgmma] "
            "[--threads N] "
            "[--batch N] [--without beside,early,wgmma,cublas] CONFIG.json...\n");
    return 2;
}

int main(int argc, char **argv) {
    const char *isa = NULL, *making = NULL, *without = NULL;
    struct options o = {.device = "cpu"};
    struct device *device = NULL;
    struct ceilings ceilings = h200;
    struct error e = {0};
    int i = 1, failed = OK;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what is measured is there, too, if what follows hangs */
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--fp32") == 0) {
            o.fp32 = 1;
        } else if (strcmp(argv[i], "--probe") == 0) {
            o.probe = 1;
        } else if (strcmp(argv[i], "--ops") == 0) {
            o.ops = 1;
        } else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc) {
            o.device = argv[++i];
        } else if (strcmp(argv[i], "--making") == 0 && i + 1 < argc) {
            making = argv[++i];
        } else if (strcmp(argv[i], "--without") == 0 && i + 1 < argc) {
            without = argv[++i];
        } else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            isa = argv[++i];
        } else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
            o.threads = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--batch") == 0 && i + 1 < argc) {
            o.batch = atoi(argv[++i]);
        } else {
            return usage();
        }
    }
    if (i == argc && !o.probe) return usage();
#ifdef PARZEN_CUDA
    if (device_cuda_without(&o.without, without, &e) != OK ||
        device_cuda_without(&o.without, getenv("PARZEN_WITHOUT"), &e) != OK) {
        fprintf(stderr, "bench: %s\n", e.text);
        return 2;
    }
#else
    (void)without;
#endif
    static const char *const makings[] = {"taps", "windows", "pairs", "wgmma"};
    if (making == NULL)
        making = o.fp32 || strcmp(o.device, "cpu") == 0 ? "taps" : o.without & CUDA_WITHOUT_WGMMA ? "pairs" : "wgmma";
    int which = 0;
    while (which < 4 && strcmp(making, makings[which]) != 0) which++;
    if (which == 4) return usage();
    o.making = (enum making)which;
    if (strcmp(o.device, "cpu") == 0) {
        failed = device_cpu(&device, o.threads, isa, &e);
        ceilings = (struct ceilings){40e9,  400e9, 400e9, 400e9,
                                     240e9, 240e9, 0,     0}; /* of the machine that BENCHMARKS.md names */
    } else if (strcmp(o.device, "cuda") == 0) {
#ifdef PARZEN_CUDA
        failed = device_cuda(&device, 0, o.fp32, o.without, &e);
        if (!failed && !o.probe) measure_ceilings(&ceilings);
#else
        failed = error_set(&e, ERROR_ENVIRONMENT, "this was built without CUDA");
#endif
    }
    if (!failed && device != NULL) printf("%s\n", device->about);
    if (failed) {
        fprintf(stderr, "bench: %s\n", e.text);
        i = argc;
    }
    for (; i < argc; i++) { /* one that fails keeps no other from being measured */
        const int one = measure(argv[i], &o, device, &ceilings, &e);
        if (one == ERROR_USER) fprintf(stderr, "bench: %s\n", e.text); /* it names the file */
        if (one && one != ERROR_USER) fprintf(stderr, "bench: %s: %s\n", argv[i], e.text);
        if (one) failed = one;
    }
    if (device != NULL) device->close(device);
    return failed;
}
