/* occupancy.c - how the products lie on an H200, for each convolution shape that the original's space can ask for.
 *
 *   occupancy KERNELS [--batch N]
 *
 * KERNELS: a file of lines "kernel|stack|spills|registers", as tests/sass makes it from ptxas' words. Nets of every
 * width, kernel size, pooling and first layer of that space are built on a device that computes nothing; each new
 * shape is handed to layers.cu (as it is compiled for tests/cuda_host.h), whose launch is looked at and not run: which
 * kernel, how many blocks, how much shared memory. With the registers that tells how many blocks a multiprocessor
 * holds, how many waves the blocks make, and how full those are.
 *
 * A line a shape: pass, rows and columns of the result (of the map, for a weight gradient), stored channels in and out,
 * k, stride; kernel, registers, KB of shared memory, blocks and warps a multiprocessor, blocks, waves, and how much of
 * the last wave's room is used on the average over the waves. Then what of it stands out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../net.h"
#include "witness.h"

/* Of compute capability 9.0 (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"), and an
 * H200's multiprocessors. */
enum { REGISTERS = 65536, SHARED = 228 << 10, SHARED_OF_BLOCK = 1 << 10, THREADS_MOST = 2048, MULTIPROCESSORS = 132 };
enum { ROWS_MOST = 1 << 14, LAUNCHES_MOST = 8, KERNELS_MOST = 256, NAME = 80 };

/* cuda_host.h's */
extern int cuda_host_processors;
extern void (*cuda_host_watch)(const char *, unsigned, unsigned, size_t);

struct launch {
    char kernel[NAME];
    int blocks, threads, shared;
};
static struct launch launches[LAUNCHES_MOST];
static int n_launches;

static struct {
    char name[NAME];
    int registers;
} kernels[KERNELS_MOST];
static int n_kernels;

/* Two compilers write the type of bf16 in ways of their own; the products know no other but float. */
static void plain_name(char to[NAME], const char *from) {
    const char *const type = strchr(from, '<'), *const comma = type != NULL ? strchr(type, ',') : NULL;
    const int typed = comma != NULL && (type[1] < '0' || type[1] > '9') && strncmp(type, "<float", 6) != 0;
    if (typed) {
        snprintf(to, NAME, "%.*s<bf16%s", (int)(type - from), from, comma);
    } else {
        snprintf(to, NAME, "%s", from);
    }
}

static void watch(const char *kernel, unsigned blocks, unsigned threads, size_t shared) {
    if (strstr(kernel, "product") == NULL && strstr(kernel, "window") == NULL) return;
    if (n_launches == LAUNCHES_MOST) abort();
    struct launch *l = &launches[n_launches++];
    plain_name(l->kernel, kernel);
    l->blocks = (int)blocks, l->threads = (int)threads, l->shared = (int)shared;
}

struct row {
    int pass, side, in, out, k, stride, joint; /* joint: a residual unit's 1 x 1 is made with it */
    struct launch launch;
    int registers, resident;
    double waves, full;
};
static struct row rows[ROWS_MOST];
static int n_rows;
static const char *const passes[] = {"forward", "data", "weight"};

static int same_shape(const struct row *a, const struct row *b) {
    return a->pass == b->pass && a->side == b->side && a->in == b->in && a->out == b->out && a->k == b->k &&
           a->stride == b->stride && a->joint == b->joint;
}
static int by_shape(const void *x, const void *y) {
    const struct row *a = x, *b = y;
    const int left[] = {a->pass, -a->side, a->stride, a->k, a->joint, a->in, a->out};
    const int right[] = {b->pass, -b->side, b->stride, b->k, b->joint, b->in, b->out};
    for (int i = 0; i < 7; i++) {
        if (left[i] != right[i]) return left[i] < right[i] ? -1 : 1;
    }
    return 0;
}

static int least(int a, int b) { return a < b ? a : b; }

static int place(struct row *r, struct error *e) {
    const struct launch *l = &r->launch;
    int i = 0;
    while (i < n_kernels && strcmp(kernels[i].name, l->kernel) != 0) i++;
    if (i == n_kernels) return error_set(e, ERROR_USER, "no line for %s among the kernels", l->kernel);
    r->registers = kernels[i].registers;
    const int warps = l->threads / 32, of_warp = (r->registers * 32 + 255) / 256 * 256;
    r->resident = least(REGISTERS / (of_warp * warps), THREADS_MOST / l->threads);
    r->resident = least(r->resident, SHARED / (l->shared + SHARED_OF_BLOCK));
    if (r->resident == 0) return error_set(e, ERROR_USER, "%s does not fit on a multiprocessor", l->kernel);
    const int room = r->resident * MULTIPROCESSORS;
    r->waves = (double)l->blocks / room;
    r->full = r->waves / ((l->blocks + room - 1) / room);
    return OK;
}

/* The launches of the first `n` operations of p from the i-th on. */
static int look(struct device *cuda, const struct program *p, int i, int n, int batch, struct error *e) {
    struct program some = *p;
    some.ops += i;
    some.n_ops = n;
    n_launches = 0;
    const int failed = cuda->run(cuda, &some, batch, e);
    cuda->release(cuda, NULL); /* it need not remember this program */
    return failed;
}

static int shapes_of(struct device *cuda, const struct program *p, int batch, struct error *e) {
    int failed = OK;
    for (int i = 0; i < p->n_ops && !failed; i++) {
        const struct op *op = &p->ops[i];
        struct row r = {0};
        const int more = i + 1 < p->n_ops;
        int n = 1;
        if (op->kind == OP_CONV) {
            const struct op_conv *o = &op->conv;
            const struct map *to = o->out.at != NULL ? &o->out : &o->dropped;
            r = (struct row){0, to->h, map_stored(&o->in), map_stored(to), o->k, o->stride, .joint = 0};
            n += more && op[1].kind == OP_CONV && o->out.at != NULL && op[1].conv.add.at == o->out.at;
        } else if (op->kind == OP_CONV_DATA) {
            const struct op_conv_data *o = &op->conv_data;
            r = (struct row){1,         o->gradient.h, map_stored(&o->gradient), map_stored(&o->out_gradient), o->k,
                             o->stride, .joint = 0};
            n += more && op[1].kind == OP_CONV_DATA && op[1].conv_data.add.at == o->gradient.at;
        } else if (op->kind == OP_CONV_WEIGHT) {
            const struct op_conv_weight *o = &op->conv_weight;
            r = (struct row){2,    o->out_gradient.h, map_stored(&o->in), map_stored(&o->out_gradient),
                             o->k, o->stride,         .joint = 0};
        }
        if (r.side <= 1) continue; /* dense: cuBLAS */
        failed = look(cuda, p, i, n, batch, e);
        if (failed) break;
        r.joint = n == 2 && n_launches == 1;
        if (n_launches == 0) return error_set(e, ERROR_USER, "%s: no product was launched", op->layer);
        r.launch = launches[0];
        int known = 0;
        while (known < n_rows && !same_shape(&rows[known], &r)) known++;
        if (known < n_rows) continue;
        if (n_rows == ROWS_MOST) return error_set(e, ERROR_USER, "more than %d shapes", ROWS_MOST);
        failed = place(&r, e);
        rows[n_rows++] = r;
    }
    return failed;
}

static int shapes_of_net(struct device *cuda, const struct net_config *config, int batch, struct error *e) {
    struct witness w = witness_of(NULL);
    struct net_images none = {.n = batch, .h = 32, .w = 32, .c = 3};
    const struct net_options options = {.fine = 100, .coarse = 20, .seed = 1};
    struct net_metrics m;
    struct net *net = NULL;
    int failed = net_build(&net, config, &options, &w.device, &none, NULL, e);
    if (!failed) failed = net_train_epoch(net, 0, &m, NULL, NULL, e);
    if (!failed) failed = shapes_of(cuda, w.program, batch, e);
    net_free(net);
    return failed;
}

static int read_kernels(const char *path, struct error *e) {
    FILE *f = fopen(path, "r");
    char line[512];
    if (f == NULL) return error_set(e, ERROR_USER, "%s: cannot be read", path);
    while (fgets(line, sizeof line, f) != NULL && n_kernels < KERNELS_MOST) {
        char *const bar = strchr(line, '|');
        if (bar == NULL || sscanf(bar, "|%*d|%*d|%d", &kernels[n_kernels].registers) != 1) continue;
        *bar = 0;
        plain_name(kernels[n_kernels++].name, line);
    }
    (void)fclose(f);
    return n_kernels > 0 ? OK : error_set(e, ERROR_USER, "%s: no kernels in it", path);
}

static int by_number(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the shapes of a pass that are made by windows, or are not: how many, and the median of what they get. */
static void summary(int pass, int windows) {
    static double warps[ROWS_MOST], full[ROWS_MOST];
    int n = 0, half_empty = 0;
    for (int i = 0; i < n_rows; i++) {
        const struct row *r = &rows[i];
        if (r->pass != pass || (strncmp(r->launch.kernel, "window", 6) == 0) != windows) continue;
        warps[n] = r->resident * r->launch.threads / 32;
        full[n++] = r->full;
        half_empty += r->full < 0.7;
    }
    if (n == 0) return;
    qsort(warps, (size_t)n, sizeof *warps, by_number);
    qsort(full, (size_t)n, sizeof *full, by_number);
    printf("%-8s %-7s %5d %8.0f %8.0f %8.0f %7.0f%% %7.0f%% %9d\n", passes[pass], windows ? "windows" : "taps", n,
           warps[0], warps[n / 2], warps[n - 1], 100 * full[0], 100 * full[n / 2], half_empty);
}

int main(int argc, char **argv) {
    struct error e = {0};
    struct device *cuda = NULL;
    int batch = 300;
    if (argc == 4 && strcmp(argv[2], "--batch") == 0) batch = atoi(argv[3]);
    if ((argc != 2 && argc != 4) || batch < 1) {
        fprintf(stderr, "usage: occupancy KERNELS [--batch N]\n");
        return 2;
    }
    cuda_host_processors = MULTIPROCESSORS;
    int failed = read_kernels(argv[1], &e);
    if (!failed) failed = device_cuda(&cuda, 0, 0, 0, &e);
    cuda_host_watch = watch;
    /* int(40 x mult), mult from e^-0.6 to e^0.6; the residual units' kernel size goes with the others'. */
    for (int width = 21; width <= 72 && !failed; width++) {
        for (int k = 2; k <= 4; k++) {
            for (int first = 0; first <= 4; first += first == 0 ? 3 : 1) {
                for (int pooling = POOLING_MAX; pooling <= POOLING_INCEPTION && !failed; pooling++) {
                    const struct net_config config = {.lr_rate_mult = 1,
                                                      .l2_weight_reg_mult = 1,
                                                      .coarse_labels_weight = 0.2,
                                                      .conv_dropout = 0.2,
                                                      .fc_dropout = 0.2,
                                                      .conv_hiddn_units_mult = (width + 0.5) / 40,
                                                      .fc_units_1_mult = 0.01, /* dense layers are cuBLAS's */
                                                      .batch_size = batch,
                                                      .use_bn = 1,
                                                      .first_conv = first,
                                                      .residual = 2,
                                                      .nb_conv_pool_layers = 3,
                                                      .conv_kernel = k,
                                                      .res_kernel = k,
                                                      .optimizer = OPT_ADAM,
                                                      .pooling = (enum pooling)pooling,
                                                      .activation = ACT_ELU};
                    failed = shapes_of_net(cuda, &config, batch, &e);
                }
            }
        }
    }
    if (cuda != NULL) cuda->close(cuda);
    if (failed) {
        fprintf(stderr, "occupancy: %s\n", e.text);
        return failed;
    }
    qsort(rows, (size_t)n_rows, sizeof *rows, by_shape);
    printf("%-8s %4s %4s %4s %2s %6s  %-28s %4s %6s %6s %5s %7s %6s %5s\n", "pass", "side", "in", "out", "k", "stride",
           "kernel", "regs", "shared", "blocks", "warps", "of all", "waves", "full");
    for (int i = 0; i < n_rows; i++) {
        const struct row *r = &rows[i];
        printf("%-8s %4d %4d %4d %2d %6d  %-28s %4d %6.1f %6d %5d %7d %6.2f %4.0f%%%s\n", passes[r->pass], r->side,
               r->in, r->out, r->k, r->stride, r->launch.kernel, r->registers, r->launch.shared / 1024.0, r->resident,
               r->resident * r->launch.threads / 32, r->launch.blocks, r->waves, 100 * r->full,
               r->joint ? " with its 1 x 1" : "");
    }
    printf("\n%d shapes at a batch of %d\n", n_rows, batch);
    printf("%-8s %-7s %5s %26s %17s %9s\n", "", "", "", "warps a multiprocessor", "waves full", "");
    printf("%-8s %-7s %5s %8s %8s %8s %8s %8s %9s\n", "pass", "by", "n", "least", "median", "most", "least", "median",
           "under 70%");
    for (int pass = 0; pass < 3; pass++) {
        summary(pass, 1);
        summary(pass, 0);
    }
    return 0;
}
