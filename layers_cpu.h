/* layers_cpu.h - between device_cpu.c, which chooses an instruction set, and layers_cpu.c, which is compiled for each.
 */
#ifndef LAYERS_CPU_H
#define LAYERS_CPU_H
#include "layers.h"
#include "threads.h"

/* Memory that an operation needs while it runs; it grows and is kept from step to step. */
enum { SCRATCH_WEIGHTS, SCRATCH_PARTIALS, SCRATCH_WORKER, N_SCRATCH };
struct cpu {
    struct threads *threads;
    struct scratch {
        void *at;
        size_t bytes;
    } scratch[N_SCRATCH];
};

/* Runs the operations from .. to - 1 of a program. */
typedef int layers_cpu_run(struct cpu *, const struct program *, int from, int to, int n, struct error *);
layers_cpu_run layers_cpu_run_base, layers_cpu_run_avx2, layers_cpu_run_avx512;
#endif
