/* layers.cu - the CUDA device: the operations of layers.h as launches of the kernels in layers_kernels.cuh and its
 * parts; cuBLAS for the dense layers and nothing else.
 *
 * A program (a step) is captured into a CUDA graph for each batch size when it comes the second time, and from then on
 * launched whole. What an operation needs besides its maps is one block of scratch, sized before by a dry run of the
 * same code. An operation that only finishes the one before (a normalisation's numbers from the sums) is taken along by
 * its kernel.
 *
 * Operations are launched into one stream, the *chain*. The weight gradients of convolutions, for which only the
 * optimiser waits, go into a second one *beside* it, behind an event that says that their maps are there; the chain
 * waits for them when the memory plan may use those maps again (see run_ops). They fill the multiprocessors that the
 * chain leaves idle: the last blocks of its kernels, kernels that wait for memory.
 *
 * A device that is opened tries what it relies on (layers_trial.cuh).
 *
 * Invariant: nothing is allocated and nobody waits while a program runs; whatever could make a captured step stale
 * (memory released, scratch grown) forgets it. */
#include "layers_kernels.cuh"

#include <pthread.h>

/* ==================================================== the device ================================================== */

/* cuBLAS, found at run time, so that the program works where there is none. The few declarations that are needed. */
typedef struct cublas_context *cublas_handle;
enum { CUBLAS_NO_MEMORY = 3 }; /* a status */
enum { CUBLAS_N = 0, CUBLAS_T = 1, CUBLAS_R_32F = 0, CUBLAS_R_16BF = 14, CUBLAS_COMPUTE_FP32 = 68, CUBLAS_BEST = -1 };
struct cublas {
    void *library;
    int (*create)(cublas_handle *);
    int (*destroy)(cublas_handle);
    int (*set_stream)(cublas_handle, cudaStream_t);
    int (*set_workspace)(cublas_handle, void *, size_t);
    int (*gemm)(cublas_handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a,
                int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc,
                int compute, int algorithm);
};
enum { CUBLAS_WORKSPACE = 32 << 20 }; /* what NVIDIA recommends for Hopper */

/* A program that has been run for one batch size, and what was captured of it: NULL until it comes again. */
struct captured {
    const struct program *program;
    int n;
    cudaGraphExec_t graph;
};
enum { CAPTURED_MOST = 8 };

/* Where an operation is launched, and whose scratch it uses. */
enum lane { CHAIN, BESIDE, LANES };
/* Weight gradients beside the chain: those of two or three residual units, so that there are some to fill what the
 * chain leaves, and the maps that are kept for them are some 2 to 8 % of all (by the plans of tests/configurations). */
enum { BESIDE_MOST = 6 };

struct device_cuda {
    struct device device; /* first: a struct device * is a struct device_cuda * */
    int gpu, fp32, multiprocessors;
    int shared_most; /* bytes that a block can have */
    int hopper;      /* compute capability 9: it has wgmma, products of four warps */
    int wgmma;       /* which are used */
    int early;       /* a kernel's blocks may come before the one before it is done (see after_previous) */
    int records;     /* steps can be captured */
    int unrecorded;  /* attempts that failed, since one did not */
    /* The chain's, and the one beside it: NULL where everything goes into the chain. */
    cudaStream_t stream, beside;
    cudaEvent_t fork, done[BESIDE_MOST];
    struct cublas cublas;
    cublas_handle handle;
    void *workspace; /* cuBLAS's */
    char *scratch[LANES];
    size_t scratch_bytes[LANES];
    void *shadow;
    size_t shadow_bytes;
    const float *shadow_of; /* the values it holds; NULL: it must be made anew */
    uint64_t policies[2];   /* of maps that are touched again soon; that are not */
    struct captured captured[CAPTURED_MOST];
    int n_captured;
    cudaEvent_t pace[2]; /* see keep_pace */
    unsigned runs;
};

static int cuda_check(cudaError_t status, const char *what, struct error *e) {
    if (status == cudaSuccess) return OK;
    (void)cudaGetLastError();
    if (status == cudaErrorMemoryAllocation) return error_set(e, ERROR_TRIAL, "out of GPU memory for %s", what);
    return error_set(e, ERROR_ENVIRONMENT, "the GPU failed at %s: %s (%s); `nvidia-smi` may tell more", what,
                     cudaGetErrorString(status), cudaGetErrorName(status));
}

/* One run of a program: dry, it only finds out how much scratch its operations need. */
struct run {
    struct device_cuda *d;
    const struct program *p;
    int n, dry, failed;
    struct error *e;
    enum lane lane;      /* of this operation */
    size_t used;         /* scratch: of this operation */
    size_t need[LANES];  /* of any */
    int next;            /* the operation after this one */
    cudaEvent_t *events; /* profiling: one before each operation, and one at the end, all in the chain; else NULL */
    int weights;         /* OP_CONV_WEIGHTs so far: the i-th is done at done[i % BESIDE_MOST] */
    int newest;          /* the last of them that went beside the chain */
    int under_way[BESIDE_MOST]; /* those for which the chain has not waited */
    int waits[LANES];           /* a lane whose next kernel comes behind more than the kernel before it */
    int back;                   /* the chain's newest pass over maps went from the last image to the first */
};

static cudaStream_t stream_of(const struct run *r) {
    return r->lane == BESIDE && r->events == NULL ? r->d->beside : r->d->stream;
}
/* A kernel that comes behind a wait has two to come behind, and can be early for neither; nor behind cuBLAS. */
static int early_of(struct run *r) {
    const int early = r->d->early && !r->waits[r->lane];
    r->waits[r->lane] = 0;
    return early;
}
#define GO_WITH(r, kernel, grid, threads, shared, ...)                                                                \
    do {                                                                                                              \
        if (!(r)->dry) LAUNCH(kernel, grid, dim3(threads), (size_t)(shared), stream_of(r), early_of(r), __VA_ARGS__); \
    } while (0)
#define GO(r, kernel, grid, shared, ...) GO_WITH(r, kernel, grid, THREADS, shared, __VA_ARGS__)

static void *scratch(struct run *r, size_t bytes) {
    void *const at = r->dry ? NULL : r->d->scratch[r->lane] + r->used;
    r->used += (bytes + 255) / 256 * 256;
    if (r->used > r->need[r->lane]) r->need[r->lane] = r->used;
    return at;
}

/* ---- beside the chain ---- */

/* Is there something to wait for? Not where nothing is launched, nor in a profile, where all is in the chain. */
static int waits_between(const struct run *r) { return r->d->beside != NULL && !r->dry && r->events == NULL; }

static void note(struct run *r, cudaError_t status, const char *what) {
    const int failed = cuda_check(status, what, r->e);
    if (failed && !r->failed) r->failed = failed;
}

static void wait_for(struct run *r, enum lane lane, cudaEvent_t event) {
    const cudaStream_t stream = lane == CHAIN ? r->d->stream : r->d->beside;
    note(r, cudaStreamWaitEvent(stream, event, 0), "a wait between streams");
    r->waits[lane] = 1;
}

static void record(struct run *r, cudaEvent_t event, cudaStream_t stream) {
    note(r, cudaEventRecord(event, stream), "an event");
}

/* The chain waits for the i-th weight gradient, if it has not. */
static void join(struct run *r, int i) {
    int *const under_way = &r->under_way[i % BESIDE_MOST];
    if (*under_way) wait_for(r, CHAIN, r->d->done[i % BESIDE_MOST]);
    *under_way = 0;
}

/* And for all: they are done one after the other. */
static void join_all(struct run *r) {
    join(r, r->newest);
    memset(r->under_way, 0, sizeof r->under_way);
}

/* What is launched from here to end_beside goes beside the chain, behind all that is in it. */
static void begin_beside(struct run *r) {
    if (r->d->beside == NULL) return;
    r->lane = BESIDE;
    if (!waits_between(r)) return;
    record(r, r->d->fork, r->d->stream);
    wait_for(r, BESIDE, r->d->fork);
}

static void end_beside(struct run *r) {
    r->lane = CHAIN;
    if (!waits_between(r)) return;
    r->newest = r->weights - 1;
    r->under_way[r->newest % BESIDE_MOST] = 1;
    record(r, r->d->done[r->newest % BESIDE_MOST], r->d->beside);
}

/* Which way the chain's next pass over maps goes: not the way of the one before (see block_of). */
static int turned(struct run *r) { return r->back = !r->back; }

static int blocks_of(size_t n, size_t each) { return (int)((n + each - 1) / each); }
static int stored_of(const struct map *m) { return map_stored(m); }

template <typename T>
static view<T> view_of(const struct run *r, const struct map *m) {
    view<T> v = {(T *)m->at, r->d->policies[m->once], (uint32_t)m->stride * (uint32_t)sizeof(T)};
    return v;
}

/* The kernels in the storage type. */
template <typename T>
static const T *weights_of(const struct run *r, size_t offset) {
    const void *const all = sizeof(T) == sizeof(float) ? r->p->parameters->value : r->d->shadow;
    return all != NULL ? (const T *)all + offset : NULL;
}

static struct normal normal_of(const struct run *r, const struct bn *bn, float count) {
    const struct parameters *p = r->p->parameters;
    struct normal n;
    memset(&n, 0, sizeof n);
    n.channels = bn->channels;
    n.links = bn->links;
    for (int l = 0; l < bn->links; l++) {
        n.gamma[l] = p->value + bn->gamma[l];
        n.beta[l] = p->value + bn->beta[l];
        n.moving_mean[l] = p->moving + bn->moving_mean[l];
        n.moving_variance[l] = p->moving + bn->moving_variance[l];
        if (p->gradient == NULL) continue;
        n.gamma_gradient[l] = p->gradient + bn->gamma[l];
        n.beta_gradient[l] = p->gradient + bn->beta[l];
    }
    n.mean = bn->mean, n.variance = bn->variance, n.scale = bn->scale, n.shift = bn->shift;
    n.sum_g = bn->sum_g, n.sum_gx = bn->sum_gx, n.a = bn->a, n.b = bn->b, n.c = bn->c;
    n.count = count;
    return n;
}

/* The operation after this one, if it is of this kind: a kernel that can do it too takes it along. */
static const struct op *taken_along(struct run *r, enum op_kind kind, const struct bn *bn) {
    if (r->next >= r->p->n_ops || r->p->ops[r->next].kind != kind) return NULL;
    const struct op *op = &r->p->ops[r->next];
    if (kind == OP_BN && op->bn.bn != bn) return NULL;
    if (kind == OP_BN_GRADIENT && op->bn_gradient.bn != bn) return NULL;
    r->next++;
    return op;
}

static void go_statistics(struct run *r, const float *partials, int blocks, int each, int rows, const struct bn *bn,
                          int then) {
    GO_WITH(r, bn_statistics, dim3((unsigned)bn->channels / BN_CHANNELS), BN_THREADS, BN_SHARED, partials, blocks, each,
            rows, normal_of(r, bn, (float)rows), then);
}

/* Sums of the gradient of an h x w map, and OP_BN_GRADIENT where it follows at once. */
static void go_sums(struct run *r, const float *partials, int blocks, int h, int w, const struct bn *bn, int then) {
    GO_WITH(r, bn_sums, dim3((unsigned)bn->channels / BN_CHANNELS), BN_THREADS, BN_SHARED, partials, blocks,
            normal_of(r, bn, (float)r->n * (float)h * (float)w), then);
}

/* ---- products ---- */

/* Columns that a tile may have. mma.sync takes 16 at a time, and is slow where a warp has few; wgmma eight, but few fit
 * into registers. */
static const int by_mma[] = {128, 80, 64, 48, 32, 0};
static const int windows_by_mma[] = {80, 64, 48, 32, 0}, windows_stand_in[] = {80, 48, 0},
                 windows_by_wgmma[] = {80, 72, 64, 56, 48, 40, 32, 24, 0};

/* Of such widths: the least work of the multiprocessor that has the most tiles, counting that each reads its rows. */
static int columns_of(int columns, int tiles, int multiprocessors, const int *widths) {
    int best = 0;
    long least = LONG_MAX;
    for (int i = 0; widths[i] > 0; i++) {
        const int blocks = tiles * ((columns + widths[i] - 1) / widths[i]);
        const long cost = (long)((blocks + multiprocessors - 1) / multiprocessors) * (widths[i] + 24);
        if (cost < least) {
            best = widths[i];
            least = cost;
        }
    }
    return best;
}
/* Where there are many tiles of rows: the fewest columns wasted. */
static int tile_columns(const bf16 *, int columns) { return columns_of(columns, 1, 1, by_mma); }
static int tile_columns(const float *, int) { return 64; }

/* Launches f for the tile's width, which it takes as a constant. */
#define WITH_COLUMNS(bn, f, ...)                    \
    switch (bn) {                                   \
        case 128: f<bf16, 128>(__VA_ARGS__); break; \
        case 80: f<bf16, 80>(__VA_ARGS__); break;   \
        case 64: f<bf16, 64>(__VA_ARGS__); break;   \
        case 48: f<bf16, 48>(__VA_ARGS__); break;   \
        default: f<bf16, 32>(__VA_ARGS__); break;   \
    }

template <typename T, int BN>
static void go_either(struct run *r, const product_of<T> &p, int classes, int data) {
    typedef tile<T, BN> W;
    const dim3 grid((unsigned)(p.tiles_m * p.tiles_n * classes));
    if (data) {
        GO_WITH(r, (product<T, BN, 1>), grid, W::WORKERS, W::PRODUCT_BYTES, p);
    } else {
        GO_WITH(r, (product<T, BN, 0>), grid, W::WORKERS, W::PRODUCT_BYTES, p);
    }
}
template <typename T, int BN>
static void go_weight(struct run *r, const weight_product_of<T> &p, int tiles, int splits) {
    typedef tile<T, BN> W;
    GO_WITH(r, (weight_product<T, BN>), dim3((unsigned)tiles, 1, (unsigned)splits), W::WORKERS, W::WEIGHT_BYTES, p);
}
static void go_product(struct run *r, const product_of<float> &p, int, int classes, int data) {
    go_either<float, 64>(r, p, classes, data);
}
static void go_product(struct run *r, const product_of<bf16> &p, int bn, int classes, int data) {
    WITH_COLUMNS(bn, go_either, r, p, classes, data)
}
static void go_weights(struct run *r, const weight_product_of<float> &p, int, int tiles, int splits) {
    go_weight<float, 64>(r, p, tiles, splits);
}
static void go_weights(struct run *r, const weight_product_of<bf16> &p, int bn, int tiles, int splits) {
    WITH_COLUMNS(bn, go_weight, r, p, tiles, splits)
}

template <typename T>
static int blas_type() {
    return sizeof(T) == sizeof(float) ? CUBLAS_R_32F : CUBLAS_R_16BF;
}

/* c[m][n] = a b, row-major, of fp32 results; ta, tb: the transpose of what stands there is meant. cuBLAS is
 * column-major: it is asked for the transpose. */
template <typename T>
static void gemm(struct run *r, int ta, int tb, int m, int n, int k, const T *a, int lda, const T *b, int ldb,
                 float *c) {
    const float one = 1, zero = 0;
    if (r->dry || r->failed) return;
    const int status = r->d->cublas.gemm(r->d->handle, tb ? CUBLAS_T : CUBLAS_N, ta ? CUBLAS_T : CUBLAS_N, n, m, k,
                                         &one, b, blas_type<T>(), ldb, a, blas_type<T>(), lda, &zero, c, CUBLAS_R_32F,
                                         n, CUBLAS_COMPUTE_FP32, CUBLAS_BEST);
    if (status == CUBLAS_NO_MEMORY) r->failed = error_set(r->e, ERROR_TRIAL, "out of GPU memory for a dense layer");
    if (status != 0 && status != CUBLAS_NO_MEMORY)
        r->failed = error_set(r->e, ERROR_ENVIRONMENT, "cuBLAS failed with status %d at a dense layer", status);
    r->waits[r->lane] = 1; /* its last node may be none that a kernel can be early for */
}

static int by_cublas(const struct run *r, int k, const struct map *in, const struct bn *bn) {
    return r->d->handle != NULL && k == 1 && in->h == 1 && in->w == 1 && bn == NULL;
}

template <typename T>
static ending<T> ending_forward(const struct run *r, const struct op_conv *o) {
    ending<T> end;
    memset(&end, 0, sizeof end);
    if (o->out.wide) {
        end.wide = view_of<float>(r, &o->out);
    } else {
        end.out = view_of<T>(r, &o->out);
    }
    end.add = view_of<T>(r, &o->add);
    end.dropped = view_of<T>(r, &o->dropped);
    if (o->bias != LAYERS_NONE) end.bias = r->p->parameters->value + o->bias;
    end.act = o->act;
    end.drop = dropping_of(&o->drop, &o->dropped);
    end.step = r->p->step;
    return end;
}

/* The partials are of `each` rows. */
static void statistics_forward(struct run *r, const float *partials, int each, int rows, const struct bn *bn) {
    const struct op *then = taken_along(r, OP_BN, bn);
    go_statistics(r, partials, blocks_of((size_t)rows, (size_t)each), each, rows, bn,
                  then == NULL        ? BN_ONLY_SUMS
                  : then->bn.training ? BN_TRAINING
                                      : BN_JUDGING);
}

template <typename T>
static ending<T> ending_data(const struct run *r, const struct op_conv_data *o) {
    ending<T> end;
    memset(&end, 0, sizeof end);
    end.out = view_of<T>(r, &o->gradient);
    end.add = view_of<T>(r, &o->add);
    end.branch = view_of<T>(r, &o->branch);
    end.y = view_of<T>(r, &o->y);
    end.branch_y = view_of<T>(r, &o->branch_y);
    end.bn_x = view_of<T>(r, &o->bn_x);
    end.act = o->act;
    end.branch_act = o->branch_act;
    end.y_scale = o->y_scale;
    end.drop = dropping_of(&o->drop, &o->gradient);
    end.step = r->p->step;
    if (o->bn != NULL) end.mean = o->bn->mean;
    return end;
}

static void sums_data(struct run *r, const float *partials, int blocks, const struct op_conv_data *o) {
    go_sums(r, partials, blocks, o->gradient.h, o->gradient.w, o->bn,
            taken_along(r, OP_BN_GRADIENT, o->bn) != NULL ? BN_BACK : BN_ONLY_SUMS);
}

/* ---- products by windows ---- */

/* Tiles of `rows` pixels; 0: the map's sides do not suit. */
static int window_shape(struct window_of *p, int images, int h, int w, int rows) {
    memset(p, 0, sizeof *p);
    if (h % 8 != 0 || w % 8 != 0) return 0;
    p->images = images, p->h = h, p->w = w;
    p->log_w = w % 16 == 0 ? 4 : 3;
    p->log_h = h % 16 == 0 && rows == WINDOW_ROWS ? 4 : 3;
    p->per = rows >> (p->log_w + p->log_h);
    p->tiles_x = w >> p->log_w, p->tiles_y = h >> p->log_h;
    /* Statistics are of whole tiles but the last: fewer pixels may not stand in between. */
    return p->tiles_x * p->tiles_y == 1 || images % p->per == 0;
}
static int window_tiles(const struct window_of *p) {
    return blocks_of((size_t)p->images, (size_t)p->per) * p->tiles_x * p->tiles_y;
}

/* One more source of p: k x k taps of `map`, the window beginning `before` rows and columns before the tile. */
static void window_add(struct run *r, struct window_of *p, const struct map *map, size_t weight, int in_stored,
                       int out_stored, int k, int before) {
    struct window_source *s = &p->from[p->sources++];
    s->map = view_of<bf16>(r, map);
    s->weight = weights_of<bf16>(r, weight);
    s->in_stored = in_stored, s->out_stored = out_stored;
    s->k = k, s->before = before;
    s->chunks = stored_of(map) / 8;
    s->groups = (s->chunks + GROUP_CHUNKS - 1) / GROUP_CHUNKS;
    s->each = (s->chunks + s->groups - 1) / s->groups;
    s->groups = (s->chunks + s->each - 1) / s->each;
    s->width = (1 << p->log_w) + k - 1, s->height = (1 << p->log_h) + k - 1;
    s->plane = (p->per * s->width * s->height) | 1; /* odd: the eights of a pixel land in different banks */
    s->over_k = over(k), s->over_taps = over(k * k);
    s->over_each = over(s->each), s->over_last = over(s->chunks - (s->groups - 1) * s->each);
    s->over_width = over(s->width), s->over_height = over(s->height);
    if (s->each * s->plane * 16 > p->buffer) p->buffer = s->each * s->plane * 16;
}

template <int BN, int WGMMA>
static void go_window(struct run *r, struct window_of *p, int data, int *fits) {
    typedef window_tile<BN, WGMMA> W;
    const int windows = p->sources == 2 || p->from[0].groups > 1 ? 2 : 1;
    int bytes = windows * p->buffer + (int)W::RING * (int)W::STAGE;
    if (bytes < W::OUT_BYTES) bytes = W::OUT_BYTES;
    bytes += (int)TABLE_BYTES;
    for (int i = 0; i < p->sources; i++) {
        struct window_source *s = &p->from[i];
        const int last = s->chunks - (s->groups - 1) * s->each, taps = s->k * s->k;
        s->slabs_each = blocks_of((size_t)steps_of(s->each, taps), (size_t)W::STEPS);
        s->slabs_last = blocks_of((size_t)steps_of(last, taps), (size_t)W::STEPS);
    }
    const dim3 grid((unsigned)(window_tiles(p) * p->tiles_n));
    *fits = bytes <= r->d->shared_most && (WGMMA || W::STANDS_IN || !r->d->hopper);
    if (!*fits) return;
    p->back = turned(r);
    if (data) {
        GO_WITH(r, (window_product<BN, 1, WGMMA>), grid, W::WORKERS, bytes, *p);
    } else {
        GO_WITH(r, (window_product<BN, 0, WGMMA>), grid, W::WORKERS, bytes, *p);
    }
}
/* Calls f for the tile's width and kind of product, which it takes as constants. */
#define WITH_WINDOW(bn, f, ...)                \
    switch (bn) {                              \
        case 80: f<80, 0>(__VA_ARGS__); break; \
        case 64: f<64, 0>(__VA_ARGS__); break; \
        case 48: f<48, 0>(__VA_ARGS__); break; \
        default: f<32, 0>(__VA_ARGS__); break; \
    }
#define WITH_WGMMA_WINDOW(bn, f, ...)          \
    switch (bn) {                              \
        case 80: f<80, 1>(__VA_ARGS__); break; \
        case 72: f<72, 1>(__VA_ARGS__); break; \
        case 64: f<64, 1>(__VA_ARGS__); break; \
        case 56: f<56, 1>(__VA_ARGS__); break; \
        case 48: f<48, 1>(__VA_ARGS__); break; \
        case 40: f<40, 1>(__VA_ARGS__); break; \
        case 32: f<32, 1>(__VA_ARGS__); break; \
        default: f<24, 1>(__VA_ARGS__); break; \
    }

/* Launches p, whose sources and ending are there; 0: a block has not so much shared memory. Partials where `bn` wants
 * them, of a tile each. */
static int launch_window(struct run *r, struct window_of *p, int columns, const struct bn *bn, int data) {
    const int *const widths = r->d->wgmma ? windows_by_wgmma : r->d->hopper ? windows_stand_in : windows_by_mma;
    const int tiles = window_tiles(p), width = columns_of(columns, tiles, r->d->multiprocessors, widths);
    int fits = 0;
    p->columns = columns;
    p->tiles_n = blocks_of((size_t)columns, (size_t)width);
    if (bn != NULL) p->end.partials = (float *)scratch(r, (size_t)tiles * 2 * (size_t)columns * sizeof(float));
    if (r->d->wgmma) {
        WITH_WGMMA_WINDOW(width, go_window, r, p, data, &fits)
    } else {
        WITH_WINDOW(width, go_window, r, p, data, &fits)
    }
    if (!fits) r->used = 0;
    return fits;
}

/* Are the taps and weights of a convolution so few that the tables of window_product can name them? */
static int few_weights(int k, const struct map *in, const struct map *out) {
    return k * k <= TAPS_MOST && (size_t)(k * k) * (size_t)stored_of(in) * (size_t)stored_of(out) <= INT_MAX;
}

static int apart(const struct map *a, const struct map *b, int n) { return !maps_meet(a, b, n, sizeof(bf16)); }

/* The operation behind o, if it is the 1 x 1 convolution that o's result is added to, and can be made with it. (Where
 * the plan puts its result over o's source, which nobody needs any more, it cannot: blocks still read that.) */
static const struct op_conv *second_of(const struct run *r, const struct op_conv *o) {
    if (r->next >= r->p->n_ops || r->p->ops[r->next].kind != OP_CONV) return NULL;
    const struct op_conv *l = &r->p->ops[r->next].conv;
    const int suits = l->k == 1 && l->stride == 1 && l->act == ACT_LINEAR && l->add.at == o->out.at &&
                      l->add.stride == o->out.stride && o->out.at != NULL && o->dropped.at == NULL &&
                      o->add.at == NULL && o->bn == NULL && o->bias != LAYERS_NONE && !l->out.wide &&
                      l->out.at != o->out.at && l->in.h == o->out.h && l->in.w == o->out.w;
    return suits && apart(&l->out, &o->in, r->n) && apart(&l->dropped, &o->in, r->n) ? l : NULL;
}

static int window_forward(struct run *r, const struct op_conv *o) {
    const struct map *to = o->out.at != NULL ? &o->out : &o->dropped;
    const int columns = stored_of(to);
    struct window_of p;
    if (o->k == 1 || o->stride != 1 || to->h != o->in.h || to->w != o->in.w || !few_weights(o->k, &o->in, to) ||
        !window_shape(&p, r->n, to->h, to->w, WINDOW_ROWS))
        return 0;
    const struct op_conv *const second = second_of(r, o), *const end = second != NULL ? second : o;
    window_add(r, &p, &o->in, o->weight, stored_of(&o->in), columns, o->k, o->pad);
    p.end = ending_forward<bf16>(r, end);
    if (second != NULL) {
        window_add(r, &p, &second->in, second->weight, stored_of(&second->in), columns, 1, 0);
        p.turn = view_of<bf16>(r, &o->out);
        p.turn_bias = r->p->parameters->value + o->bias;
        p.turn_act = o->act;
        p.end.add.at = NULL;
    }
    if (!launch_window(r, &p, columns, end->bn, 0)) return 0;
    if (second != NULL) r->next++;
    if (end->bn != NULL) statistics_forward(r, p.end.partials, WINDOW_ROWS, r->n * to->h * to->w, end->bn);
    return 1;
}

/* The same of the data gradients: the 1 x 1 convolution's is added to o's, and finishes it. */
static const struct op_conv_data *second_data_of(const struct run *r, const struct op_conv_data *o) {
    if (r->next >= r->p->n_ops || r->p->ops[r->next].kind != OP_CONV_DATA) return NULL;
    const struct op_conv_data *l = &r->p->ops[r->next].conv_data;
    const struct map *const to = &l->gradient;
    const int suits = l->k == 1 && l->stride == 1 && l->add.at == o->gradient.at && to->at == o->gradient.at &&
                      l->add.stride == to->stride && o->gradient.stride == to->stride && l->drop.threshold == 0 &&
                      o->add.at == NULL && o->act == ACT_LINEAR && o->branch.at == NULL && o->bn == NULL &&
                      l->out_gradient.h == to->h && l->out_gradient.w == to->w;
    return suits && apart(to, &o->out_gradient, r->n) && apart(to, &l->out_gradient, r->n) &&
                   apart(&l->branch, &o->out_gradient, r->n) && apart(&l->branch, &l->out_gradient, r->n)
               ? l
               : NULL;
}

static int window_data(struct run *r, const struct op_conv_data *o) {
    const struct map *to = &o->gradient;
    const int columns = stored_of(to);
    struct window_of p;
    if (o->k == 1 || o->stride != 1 || to->h != o->out_gradient.h || to->w != o->out_gradient.w ||
        !few_weights(o->k, to, &o->out_gradient) || !window_shape(&p, r->n, to->h, to->w, WINDOW_ROWS))
        return 0;
    const struct op_conv_data *const second = second_data_of(r, o), *const end = second != NULL ? second : o;
    window_add(r, &p, &o->out_gradient, o->weight, columns, stored_of(&o->out_gradient), o->k, o->k - 1 - o->pad);
    p.end = ending_data<bf16>(r, end);
    if (second != NULL) {
        window_add(r, &p, &second->out_gradient, second->weight, columns, stored_of(&second->out_gradient), 1, 0);
        p.turn_drop = dropping_of(&o->drop, &o->gradient);
        p.end.add.at = NULL;
    }
    if (!launch_window(r, &p, columns, end->bn, 1)) return 0;
    if (second != NULL) r->next++;
    if (end->bn != NULL) sums_data(r, p.end.partials, window_tiles(&p), end);
    return 1;
}

/* Its tiles of columns, and how a row becomes a pixel: of every apart-th pixel each way. */
template <typename T>
static void tile_product(product_of<T> *p, int bn, int apart) {
    p->tiles_n = blocks_of((size_t)p->columns, (size_t)bn);
    p->by_tiles_n = divisor_of((uint32_t)p->tiles_n);
    for (int longer = 0; longer < 2; longer++) {
        const int w = p->w / apart + longer, h = p->h / apart + longer;
        p->by_w[longer] = divisor_of((uint32_t)(w > 0 ? w : 1));
        p->by_h[longer] = divisor_of((uint32_t)(h > 0 ? h : 1));
    }
}

template <typename T>
static void conv_forward(struct run *r, const struct op_conv *o) {
    const struct map *to = o->out.at != NULL ? &o->out : &o->dropped;
    product_of<T> p;
    if (sizeof(T) == sizeof(bf16) && window_forward(r, o)) return;
    memset(&p, 0, sizeof p);
    p.columns = p.out_stored = stored_of(to);
    p.in_stored = stored_of(&o->in);
    p.end = ending_forward<T>(r, o);
    p.source = view_of<T>(r, &o->in);
    p.weight = weights_of<T>(r, o->weight);
    if (by_cublas(r, o->k, &o->in, o->bn)) {
        float *result = (float *)scratch(r, (size_t)r->n * (size_t)p.columns * sizeof(float));
        gemm<T>(r, 0, 0, r->n, p.columns, p.in_stored, p.source.at, o->in.stride, p.weight, p.out_stored, result);
        GO(r, (dense_finish<T, 0>), dim3((unsigned)blocks_of((size_t)r->n * (size_t)p.columns / 8, THREADS)), 0,
           (const float *)result, r->n, p.columns, p.end);
        return;
    }
    const int bn = tile_columns(p.weight, p.columns), rows = r->n * to->h * to->w;
    p.source_h = o->in.h, p.source_w = o->in.w;
    p.chunks = p.in_stored / tile<T, 64>::E;
    p.images = r->n, p.h = to->h, p.w = to->w, p.k = o->k, p.stride = o->stride, p.pad = o->pad;
    p.tiles_m = blocks_of((size_t)rows, BM);
    tile_product(&p, bn, 1);
    if (o->bn != NULL) p.end.partials = (float *)scratch(r, (size_t)p.tiles_m * 2 * (size_t)p.columns * sizeof(float));
    p.back = turned(r);
    go_product(r, p, bn, 1, 0);
    if (o->bn != NULL) statistics_forward(r, p.end.partials, BM, rows, o->bn);
}

template <typename T>
static void conv_data(struct run *r, const struct op_conv_data *o) {
    product_of<T> p;
    if (sizeof(T) == sizeof(bf16) && window_data(r, o)) return;
    memset(&p, 0, sizeof p);
    p.columns = p.in_stored = stored_of(&o->gradient);
    p.out_stored = stored_of(&o->out_gradient);
    p.end = ending_data<T>(r, o);
    p.source = view_of<T>(r, &o->out_gradient);
    p.weight = weights_of<T>(r, o->weight);
    if (by_cublas(r, o->k, &o->gradient, o->bn)) {
        float *result = (float *)scratch(r, (size_t)r->n * (size_t)p.columns * sizeof(float));
        gemm<T>(r, 0, 1, r->n, p.columns, p.out_stored, p.source.at, o->out_gradient.stride, p.weight, p.out_stored,
                result);
        GO(r, (dense_finish<T, 1>), dim3((unsigned)blocks_of((size_t)r->n * (size_t)p.columns / 8, THREADS)), 0,
           (const float *)result, r->n, p.columns, p.end);
        return;
    }
    const int bn = tile_columns(p.weight, p.columns), classes = o->stride * o->stride;
    const struct map *to = &o->gradient;
    const int rows = r->n * ((to->h + o->stride - 1) / o->stride) * ((to->w + o->stride - 1) / o->stride);
    p.source_h = o->out_gradient.h, p.source_w = o->out_gradient.w;
    p.chunks = p.out_stored / tile<T, 64>::E;
    p.images = r->n, p.h = to->h, p.w = to->w, p.k = o->k, p.stride = o->stride, p.pad = o->pad;
    p.tiles_m = blocks_of((size_t)rows, BM);
    tile_product(&p, bn, o->stride);
    const int blocks = classes * p.tiles_m;
    if (o->bn != NULL) p.end.partials = (float *)scratch(r, (size_t)blocks * 2 * (size_t)p.columns * sizeof(float));
    p.back = turned(r);
    go_product(r, p, bn, classes, 1);
    if (o->bn != NULL) sums_data(r, p.end.partials, blocks, o);
}

template <typename T, int BN>
static void go_window_weight(struct run *r, struct window_weight_of *p, int *done) {
    typedef window_weight_tile<BN> W;
    const int taps = p->k * p->k, eights = p->chunks * taps;
    const int groups = (eights + W::ROWS - 1) / W::ROWS;
    p->each = (eights + groups - 1) / groups;
    int chunks = 1; /* that a block's rows can touch */
    for (int begin = 0; begin < eights; begin += p->each) {
        const int end = begin + p->each < eights ? begin + p->each : eights, n = (end - 1) / taps - begin / taps + 1;
        if (n > chunks) chunks = n;
    }
    p->pitch = chunks | 1;
    p->buffer = p->per * p->width * p->height * p->pitch * 16;
    p->tiles_n = blocks_of((size_t)p->columns, BN);
    int bytes = 2 * (p->buffer + W::B_BYTES);
    if (bytes < W::SUMS_BYTES) bytes = W::SUMS_BYTES;
    bytes += (int)WEIGHT_TABLE_BYTES;
    if (bytes > r->d->shared_most) return;
    /* Blocks for every multiprocessor twice, but not so many that adding up their results is what takes the time. */
    const int blocks = blocks_of((size_t)eights, (size_t)p->each) * p->tiles_n;
    int splits = (2 * r->d->multiprocessors + blocks - 1) / blocks;
    if (splits > (p->tiles + 1) / 2) splits = (p->tiles + 1) / 2;
    p->walk = blocks_of((size_t)p->tiles, (size_t)splits);
    splits = blocks_of((size_t)p->tiles, (size_t)p->walk);
    const size_t size = (size_t)(taps * p->in_stored + p->bias) * (size_t)p->columns;
    p->partials = (float *)scratch(r, (size_t)splits * size * sizeof(float));
    GO_WITH(r, (window_weight<BN>), dim3((unsigned)blocks, 1, (unsigned)splits), W::WORKERS, bytes, *p);
    *done = splits;
}

/* Into how many partial sums p->partials; 0: the shape does not suit. */
static int window_weights(struct run *r, const struct op_conv_weight *o, struct window_weight_of *p) {
    const struct map *g = &o->out_gradient;
    struct window_of shape;
    int splits = 0;
    memset(p, 0, sizeof *p);
    if (o->stride != 1 || g->h != o->in.h || g->w != o->in.w || !window_shape(&shape, r->n, g->h, g->w, WEIGHT_PIXELS))
        return 0;
    p->source = view_of<bf16>(r, &o->in), p->gradient = view_of<bf16>(r, g);
    p->images = r->n, p->h = g->h, p->w = g->w, p->per = shape.per;
    p->log_w = shape.log_w, p->log_h = shape.log_h, p->tiles_x = shape.tiles_x, p->tiles_y = shape.tiles_y;
    p->tiles = window_tiles(&shape);
    p->k = o->k, p->before = o->pad;
    p->in_stored = stored_of(&o->in), p->columns = stored_of(g), p->bias = o->bias != LAYERS_NONE;
    p->chunks = p->in_stored / 8;
    p->width = (1 << p->log_w) + o->k - 1, p->height = (1 << p->log_h) + o->k - 1;
    p->over_k = over(o->k), p->over_taps = over(o->k * o->k);
    p->over_width = over(p->width), p->over_height = over(p->height);
    p->by_tiles_x = divisor_of((uint32_t)p->tiles_x), p->by_tiles_y = divisor_of((uint32_t)p->tiles_y);
    if (o->k * o->k > TAPS_MOST) return 0;                         /* as far as the tables go */
    if (p->w >= 1 << 14 || p->h >= 1 << 14) return 0;              /* as far as packed() goes */
    if (p->chunks * o->k * o->k > 65536 / (o->k * o->k)) return 0; /* as far as over() goes */
    WITH_COLUMNS(tile_columns(p->source.at, p->columns), go_window_weight, r, p, &splits)
    return splits;
}

static float *bias_gradient_of(const struct run *r, const struct op_conv_weight *o) {
    return o->bias != LAYERS_NONE ? r->p->parameters->gradient + o->bias : NULL;
}

template <typename T>
static void dense_weight(struct run *r, const struct op_conv_weight *o) {
    const int columns = stored_of(&o->out_gradient);
    const view<T> g = view_of<T>(r, &o->out_gradient);
    float *const bias = bias_gradient_of(r, o);
    gemm<T>(r, 1, 0, stored_of(&o->in), columns, r->n, (const T *)o->in.at, o->in.stride, (const T *)g.at,
            o->out_gradient.stride, r->p->parameters->gradient + o->weight);
    if (bias != NULL)
        GO(r, bias_gradient<T>, dim3((unsigned)blocks_of((size_t)columns, 64)), (THREADS * 8 + 64) * sizeof(float), g,
           r->n, columns, bias);
}

static void go_reduce(struct run *r, const float *partials, int parts, size_t size, size_t weights, int columns,
                      float *weight, float *bias) {
    /* Not early: its blocks would wait in the places of the chain's. */
    if (r->lane == BESIDE) r->waits[BESIDE] = 1;
    GO(r, weight_reduce, dim3((unsigned)blocks_of(size, REDUCE_EACH)), REDUCE_SHARED, partials, parts, size, weights,
       columns, weight, bias);
}

template <typename T>
static void conv_weight(struct run *r, const struct op_conv_weight *o) {
    const struct map *g = &o->out_gradient;
    float *const weight = r->p->parameters->gradient + o->weight, *const bias = bias_gradient_of(r, o);
    weight_product_of<T> p;
    memset(&p, 0, sizeof p);
    const int in_stored = stored_of(&o->in);
    p.columns = stored_of(g);
    p.source = view_of<T>(r, &o->in);
    p.gradient = view_of<T>(r, g);
    const int bn = tile_columns(p.source.at, p.columns), depth = tile<T, 64>::BK;
    const size_t weights = (size_t)(o->k * o->k) * (size_t)in_stored * (size_t)p.columns;
    const size_t size = weights + (size_t)(bias != NULL ? p.columns : 0);
    struct window_weight_of window;
    const int parts = sizeof(T) == sizeof(bf16) ? window_weights(r, o, &window) : 0;
    if (parts > 0) {
        go_reduce(r, window.partials, parts, size, weights, p.columns, weight, bias);
        return;
    }
    p.source_h = o->in.h, p.source_w = o->in.w;
    p.chunks = in_stored / tile<T, 64>::E;
    p.w = divisor_of((uint32_t)g->w), p.h = divisor_of((uint32_t)g->h);
    p.pixels = r->n * g->h * g->w;
    p.k = o->k, p.stride = o->stride, p.pad = o->pad;
    p.rows = o->k * o->k * in_stored;
    p.bias = bias != NULL;
    p.tiles_n = blocks_of((size_t)p.columns, (size_t)bn);
    /* Blocks for every multiprocessor twice, but not so many that adding up their results is what takes the time. */
    const int tiles = blocks_of((size_t)p.rows, BM) * p.tiles_n;
    int splits = (2 * r->d->multiprocessors + tiles - 1) / tiles;
    const int most = blocks_of((size_t)p.pixels, (size_t)(8 * depth));
    if (splits > most) splits = most;
    p.each = blocks_of((size_t)blocks_of((size_t)p.pixels, (size_t)splits), (size_t)depth) * depth;
    splits = blocks_of((size_t)p.pixels, (size_t)p.each);
    p.partials = (float *)scratch(r, (size_t)splits * size * sizeof(float));
    go_weights(r, p, bn, tiles, splits);
    go_reduce(r, p.partials, splits, size, weights, p.columns, weight, bias);
}

/* A dense layer's is cuBLAS's, which has one stream. */
template <typename T>
static void weight_gradient(struct run *r, const struct op_conv_weight *o) {
    join(r, r->weights++); /* the one that this one takes the place of */
    if (by_cublas(r, o->k, &o->in, NULL)) {
        dense_weight<T>(r, o);
    } else {
        begin_beside(r);
        conv_weight<T>(r, o);
        end_beside(r);
    }
}

/* ---- passes over a map ---- */

/* f<POOL>(): the pool as a constant, so that the windows unroll. */
#define WITH_POOL(pool, r, kernel, T, grid, shared, argument)                         \
    switch (pool) {                                                                   \
        case POOL_NONE: GO(r, (kernel<T, POOL_NONE>), grid, shared, argument); break; \
        case POOL_MAX2: GO(r, (kernel<T, POOL_MAX2>), grid, shared, argument); break; \
        case POOL_AVG2: GO(r, (kernel<T, POOL_AVG2>), grid, shared, argument); break; \
        case POOL_MAX3: GO(r, (kernel<T, POOL_MAX3>), grid, shared, argument); break; \
    }

static dim3 sheet_grid(const struct sheet *s, int cells) {
    return dim3((unsigned)sheet_blocks(s, cells), (unsigned)((s->groups + s->width - 1) / s->width));
}

template <typename T>
static void apply_forward(struct run *r, const struct op_apply *o) {
    const struct map *to = o->out.at != NULL ? &o->out : &o->dropped;
    apply_of<T> p;
    memset(&p, 0, sizeof p);
    p.sheet = sheet_of(stored_of(&o->in), o->pool == POOL_NONE ? PASS_AHEAD : 1);
    p.in = view_of<T>(r, &o->in);
    p.out = view_of<T>(r, &o->out);
    p.dropped = view_of<T>(r, &o->dropped);
    p.h = o->in.h, p.w = o->in.w;
    p.out_h = divisor_of((uint32_t)to->h), p.out_w = divisor_of((uint32_t)to->w);
    p.pixels = r->n * to->h * to->w;
    if (o->bn != NULL) p.scale = o->bn->scale, p.shift = o->bn->shift;
    p.pad = o->pool == POOL_MAX3 ? o->pad : 0;
    p.drop = dropping_of(&o->drop, &o->dropped);
    p.step = r->p->step;
    p.back = turned(r);
    WITH_POOL(o->pool, r, apply, T, sheet_grid(&p.sheet, p.pixels), 0, p)
}

/* What OP_SUMS and OP_APPLY_GRADIENT have in common. */
template <typename T>
static back_of<T> back(struct run *r, const struct map *x, const struct map *g, const struct bn *bn, enum pool pool,
                       int pad, int repeat) {
    back_of<T> p;
    memset(&p, 0, sizeof p);
    p.sheet = sheet_of(stored_of(x), repeat);
    p.x = view_of<T>(r, x);
    p.g = view_of<T>(r, g);
    p.h = x->h, p.w = x->w, p.g_h = g->h, p.g_w = g->w;
    p.pad = pool == POOL_MAX3 ? pad : 0;
    const int cell_h = pool == POOL_NONE ? x->h : (x->h + p.pad + 1) / 2;
    const int cell_w = pool == POOL_NONE ? x->w : (x->w + p.pad + 1) / 2;
    p.cell_h = divisor_of((uint32_t)cell_h), p.cell_w = divisor_of((uint32_t)cell_w);
    p.cells = r->n * cell_h * cell_w;
    if (bn != NULL) {
        p.scale = bn->scale, p.shift = bn->shift, p.mean = bn->mean;
        p.a = bn->a, p.b = bn->b, p.c = bn->c;
    }
    p.back = turned(r);
    return p;
}

template <typename T>
static void sums_back(struct run *r, const struct op_sums *o) {
    back_of<T> p = back<T>(r, &o->x, &o->out_gradient, o->bn, o->pool, o->pad, PASS_AHEAD);
    const int blocks = sheet_blocks(&p.sheet, p.cells);
    p.partials = (float *)scratch(r, (size_t)blocks * 2 * (size_t)stored_of(&o->x) * sizeof(float));
    WITH_POOL(o->pool, r, sums, T, sheet_grid(&p.sheet, p.cells),
              (size_t)(2 * p.sheet.lines * p.sheet.width * 8) * sizeof(float), p)
    go_sums(r, p.partials, blocks, o->x.h, o->x.w, o->bn,
            taken_along(r, OP_BN_GRADIENT, o->bn) != NULL ? BN_BACK : BN_ONLY_SUMS);
}

template <typename T>
static void apply_back(struct run *r, const struct op_apply_gradient *o) {
    back_of<T> p = back<T>(r, &o->x, &o->out_gradient, o->bn, o->pool, o->pad, o->pool == POOL_NONE ? PASS_AHEAD : 1);
    p.gradient = view_of<T>(r, &o->gradient);
    p.branch = view_of<T>(r, &o->branch);
    p.branch_y = view_of<T>(r, &o->branch_y);
    p.act = o->act;
    p.branch_act = o->branch_act;
    WITH_POOL(o->pool, r, apply_gradient, T, sheet_grid(&p.sheet, p.cells), 0, p)
}

/* ---- the rest ---- */

template <typename T>
static void batch_forward(struct run *r, const struct op_batch *o) {
    batch_of<T> p;
    memset(&p, 0, sizeof p);
    p.pixels = o->pixels;
    p.order = o->order;
    p.step = r->p->step;
    p.out = view_of<T>(r, &o->out);
    p.h = o->out.h, p.w = o->out.w, p.c = o->c, p.stored = stored_of(&o->out), p.flip = o->flip;
    p.all = r->n * p.h * p.w;
    memcpy(p.key, o->flip_key, sizeof p.key);
    GO(r, batch<T>, dim3((unsigned)blocks_of((size_t)p.all, THREADS)), 0, p);
}

template <typename T>
static void loss_forward(struct run *r, const struct op_loss *o) {
    loss_of<T> p;
    memset(&p, 0, sizeof p);
    p.logits = view_of<float>(r, &o->logits);
    p.gradient = view_of<T>(r, &o->gradient);
    p.images = r->n, p.fine = o->fine, p.coarse = o->coarse, p.softmax = o->softmax;
    p.column = (o->fine + LAYERS_ALIGN - 1) / LAYERS_ALIGN * LAYERS_ALIGN;
    p.stored = stored_of(&o->logits);
    p.coarse_weight = o->coarse_weight;
    p.fine_labels = o->fine_labels;
    p.coarse_labels = o->coarse_labels;
    p.order = o->order;
    p.step = r->p->step;
    p.rows = (struct loss_row *)scratch(r, (size_t)r->n * sizeof(struct loss_row));
    GO(r, loss<T>, dim3((unsigned)blocks_of((size_t)r->n * 32, THREADS)), 0, p);
    GO(r, loss_total, dim3(1), THREADS * sizeof(double), (const struct loss_row *)p.rows, r->n, r->p->tally);
}

static int trains(const struct program *p) {
    int training = 0;
    for (int i = 0; i < p->n_ops; i++) training |= p->ops[i].kind == OP_OPTIMISE;
    return training;
}

template <typename T>
static void optimiser_step(struct run *r, const struct op_optimise *o) {
    const struct parameters *q = r->p->parameters;
    optimise_of<T> p;
    memset(&p, 0, sizeof p);
    p.n = q->n, p.n_decayed = q->n_decayed;
    p.value = q->value, p.first_moment = q->first_moment, p.second_moment = q->second_moment;
    p.gradient = q->gradient;
    if (sizeof(T) != sizeof(float)) p.shadow = (T *)r->d->shadow;
    p.kind = o->kind, p.lr = o->lr, p.l2 = o->l2;
    p.step = r->p->step;
    const int blocks = blocks_of(p.n, OPTIMISE_EACH);
    p.squares = (double *)scratch(r, (size_t)blocks * sizeof(double));
    GO(r, optimise<T>, dim3((unsigned)blocks), THREADS * sizeof(double) + 4 * sizeof(float), p);
    const int last = taken_along(r, OP_NEXT, NULL) != NULL;
    GO(r, end_step, dim3(1), THREADS * sizeof(double), (const double *)p.squares, blocks, (double)r->n * (double)o->l2,
       r->p->tally, r->p->step, last ? r->n : 0, 1);
}

static void penalty(struct run *r, const struct op_penalty *o) {
    const struct parameters *q = r->p->parameters;
    const int blocks = blocks_of(q->n_decayed, OPTIMISE_EACH);
    double *squares = (double *)scratch(r, (size_t)blocks * sizeof(double));
    if (blocks == 0) return;
    GO(r, squares_of, dim3((unsigned)blocks), THREADS * sizeof(double), (const float *)q->value, q->n_decayed, squares);
    GO(r, end_step, dim3(1), THREADS * sizeof(double), (const double *)squares, blocks, (double)r->n * (double)o->l2,
       r->p->tally, r->p->step, 0, 0);
}

template <typename T>
static void run_op(struct run *r, const struct op *op) {
    switch (op->kind) {
        case OP_BATCH: batch_forward<T>(r, &op->batch); break;
        case OP_CONV: conv_forward<T>(r, &op->conv); break;
        case OP_BN: go_statistics(r, NULL, 0, 0, 0, op->bn.bn, op->bn.training ? BN_TRAINING : BN_JUDGING); break;
        case OP_APPLY: apply_forward<T>(r, &op->apply); break;
        case OP_LOSS: loss_forward<T>(r, &op->loss); break;
        case OP_CONV_DATA: conv_data<T>(r, &op->conv_data); break;
        case OP_CONV_WEIGHT: weight_gradient<T>(r, &op->conv_weight); break;
        case OP_SUMS: sums_back<T>(r, &op->sums); break;
        case OP_BN_GRADIENT:
            go_sums(r, NULL, 0, op->bn_gradient.h, op->bn_gradient.w, op->bn_gradient.bn, BN_BACK);
            break;
        case OP_APPLY_GRADIENT: apply_back<T>(r, &op->apply_gradient); break;
        case OP_OPTIMISE: optimiser_step<T>(r, &op->optimise); break;
        case OP_PENALTY: penalty(r, &op->penalty); break;
        case OP_NEXT:
            GO(r, end_step, dim3(1), THREADS * sizeof(double), (const double *)NULL, 0, 0.0, r->p->tally, r->p->step,
               r->n, trains(r->p));
            break;
    }
}

/* As struct device says of `beside`, the chain waits for a weight gradient before the BESIDE_MOST-th after it and
 * before the optimiser; and at the end. */
static int run_ops(struct run *r) {
    for (r->next = 0; r->next < r->p->n_ops && !r->failed;) {
        const struct op *op = &r->p->ops[r->next++];
        r->used = 0;
        if (op->kind == OP_OPTIMISE) join_all(r);
        if (r->events != NULL) (void)cudaEventRecord(r->events[r->next - 1], r->d->stream);
        if (r->d->fp32) {
            run_op<float>(r, op);
        } else {
            run_op<bf16>(r, op);
        }
    }
    join_all(r); /* who waits for the chain waits for all, and a capture ends where it began */
    return r->failed;
}

/* ---- a device's functions ---- */

static struct device_cuda *cuda_of(struct device *d) {
    struct device_cuda *c = (struct device_cuda *)d;
    (void)cudaSetDevice(c->gpu); /* it is a thread's setting, and each thread may have a device */
    return c;
}

static void forget_captured(struct device_cuda *c) {
    if (c->n_captured > 0) (void)cudaStreamSynchronize(c->stream); /* one may be under way */
    for (int i = 0; i < c->n_captured; i++) {
        if (c->captured[i].graph != NULL) (void)cudaGraphExecDestroy(c->captured[i].graph);
    }
    c->n_captured = 0;
}

/* Held while a step is recorded, and by whoever makes the whole GPU wait: that would spoil the recording of another
 * thread's device (cuBLAS when it comes and when it goes, and perhaps cudaFree). */
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;

static void free_memory(void *p) {
    pthread_mutex_lock(&recording);
    if (p != NULL) (void)cudaFree(p);
    pthread_mutex_unlock(&recording);
    (void)cudaGetLastError(); /* not the next operation's */
}

static int cuda_malloc(void **out, size_t bytes, const char *what, struct error *e) {
#ifdef PARZEN_MANAGED /* tests: memory that the host can look into */
    const int failed = cuda_check(cudaMallocManaged(out, bytes + 1), what, e);
#else
    const int failed = cuda_check(cudaMalloc(out, bytes + 1), what, e);
#endif
    if (failed == ERROR_TRIAL)
        error_set(e, ERROR_TRIAL, "out of GPU memory for %s (%.0f MB)", what, (double)bytes / 1e6);
    if (failed) *out = NULL;
    return failed;
}

static int cuda_alloc(struct device *d, size_t bytes, void **out, struct error *e) {
    struct device_cuda *c = cuda_of(d);
    int failed = cuda_malloc(out, bytes, "the network's memory", e);
    if (!failed) failed = cuda_check(cudaMemsetAsync(*out, 0, bytes, c->stream), "clearing memory", e);
    if (!failed) failed = cuda_check(cudaStreamSynchronize(c->stream), "clearing memory", e);
    if (failed) {
        free_memory(*out);
        *out = NULL;
    }
    return failed;
}

/* Captured steps hold addresses: they go with the memory. */
static void cuda_release(struct device *d, void *p) {
    struct device_cuda *c = cuda_of(d);
    (void)cudaStreamSynchronize(c->stream);
    forget_captured(c);
    c->shadow_of = NULL;
    free_memory(p);
}

static int cuda_write(struct device *d, void *to, const void *from, size_t bytes, struct error *e) {
    struct device_cuda *c = cuda_of(d);
    c->shadow_of = NULL; /* it may have been the weights */
    int failed = cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, c->stream), "copying to it", e);
    if (!failed) failed = cuda_check(cudaStreamSynchronize(c->stream), "copying to it", e);
    return failed;
}

static int cuda_read(struct device *d, void *to, const void *from, size_t bytes, struct error *e) {
    struct device_cuda *c = cuda_of(d);
    int failed = cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream), "copying from it", e);
    if (!failed) failed = cuda_check(cudaStreamSynchronize(c->stream), "a step", e);
    return failed;
}

static int cuda_wait(struct device *d, struct error *e) {
    return cuda_check(cudaStreamSynchronize(cuda_of(d)->stream), "a step", e);
}

/* At least so many bytes; what was there is lost, and so are captured steps that knew it. */
static int grow(struct device_cuda *c, void **at, size_t *have, size_t bytes, const char *what, struct error *e) {
    if (*have >= bytes) return OK;
    forget_captured(c);
    (void)cudaStreamSynchronize(c->stream);
    free_memory(*at);
    *at = NULL;
    *have = 0;
    const int failed = cuda_malloc(at, bytes, what, e);
    if (!failed) *have = bytes;
    return failed;
}

/* The bf16 copy of the kernels, where the host has written since it was made. */
static int make_shadow(struct device_cuda *c, const struct program *p, struct error *e) {
    const struct parameters *q = p->parameters;
    if (c->fp32 || q == NULL || c->shadow_of == q->value) return OK;
    const int failed =
        grow(c, &c->shadow, &c->shadow_bytes, q->n_decayed * sizeof(bf16) + 16, "the weights in bf16", e);
    if (failed) return failed;
    if (q->n_decayed > 0)
        LAUNCH(narrow, dim3((unsigned)blocks_of(q->n_decayed, THREADS)), dim3(THREADS), (size_t)0, c->stream, 0,
               (const float *)q->value, (bf16 *)c->shadow, q->n_decayed);
    c->shadow_of = q->value;
    return cuda_check(cudaGetLastError(), "the weights in bf16", e);
}

static struct run run_of(struct device_cuda *c, const struct program *p, int n, struct error *e) {
    struct run r = {};
    r.d = c, r.p = p, r.n = n, r.e = e;
    r.waits[CHAIN] = 1; /* perhaps: the program before may have ended with a wait */
    return r;
}

/* Its operations, launched one by one. */
static int run_singly(struct device_cuda *c, const struct program *p, int n, struct error *e) {
    struct run r = run_of(c, p, n, e);
    const int failed = run_ops(&r);
    return failed ? failed : cuda_check(cudaGetLastError(), "a step", e);
}

/* The first time a program is run its operations are launched one by one: CUDA and cuBLAS load a kernel when it is
 * first launched, which they may not do while a step is recorded. */
static int run_first(struct device_cuda *c, const struct program *p, int n, struct error *e) {
    struct run r = run_of(c, p, n, e);
    r.dry = 1;
    int failed = run_ops(&r);
    for (int i = 0; i < LANES && !failed; i++)
        failed = grow(c, (void **)&c->scratch[i], &c->scratch_bytes[i], r.need[i], "the operations' scratch", e);
    if (!failed) failed = run_singly(c, p, n, e);
    if (failed) return failed;
    if (c->n_captured == CAPTURED_MOST) forget_captured(c);
    const struct captured k = {p, n, NULL};
    c->captured[c->n_captured++] = k;
    return OK;
}

static int capture(struct device_cuda *c, struct captured *k, struct error *e) {
    struct run r = run_of(c, k->program, k->n, e);
    cudaGraph_t graph = NULL;
    pthread_mutex_lock(&recording);
    int failed = cuda_check(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording a step", e);
    if (!failed) {
        failed = run_ops(&r);
        if (!failed) failed = cuda_check(cudaGetLastError(), "recording a step", e);
        const int ended = cuda_check(cudaStreamEndCapture(c->stream, &graph), "recording a step", failed ? NULL : e);
        if (!failed) failed = ended;
    }
    pthread_mutex_unlock(&recording);
    if (!failed)
        failed = cuda_check(cudaGraphInstantiate(&k->graph, graph, cudaGraphInstantiateFlagUseNodePriority),
                            "a step's graph", e);
    if (failed) k->graph = NULL;
    if (graph != NULL) (void)cudaGraphDestroy(graph);
    return failed;
}

/* The host is at the most 2 PACE steps ahead of the GPU: enough for the GPU never to wait, and few enough for whoever
 * shows progress, or wants to end. */
enum { PACE = 4 };
static int keep_pace(struct device_cuda *c, struct error *e) {
    if (++c->runs % PACE != 0) return OK;
    const cudaEvent_t event = c->pace[c->runs / PACE % 2];
    const int failed = cuda_check(cudaEventSynchronize(event), "a step", e);
    return failed ? failed : cuda_check(cudaEventRecord(event, c->stream), "an event", e);
}

/* What fails again and again is given up, and said. No memory is a matter of the moment. */
enum { UNRECORDED_MOST = 3 };
static void try_capture(struct device_cuda *c, struct captured *k) {
    struct error why = {};
    const int failed = capture(c, k, &why);
    const size_t said = strlen(c->device.about);
    if (failed != ERROR_TRIAL) c->unrecorded = failed ? c->unrecorded + 1 : 0;
    c->records = c->unrecorded < UNRECORDED_MOST;
    if (c->records) return;
    snprintf(c->device.about + said, sizeof c->device.about - said, ", without graphs");
    fprintf(stderr, "parzen: GPU %d goes on without graphs, more slowly: %s\n", c->gpu, why.text);
}

static int cuda_run(struct device *d, const struct program *p, int n, struct error *e) {
    struct device_cuda *c = cuda_of(d);
    int i = 0;
    int failed = make_shadow(c, p, e);
    if (!failed) failed = keep_pace(c, e);
    if (failed) return failed;
    while (i < c->n_captured && !(c->captured[i].program == p && c->captured[i].n == n)) i++;
    if (i == c->n_captured) return run_first(c, p, n, e);
    if (c->captured[i].graph == NULL && c->records) try_capture(c, &c->captured[i]);
    /* A step that could not be recorded has not been run either: this once it goes without. */
    if (c->captured[i].graph == NULL) return run_singly(c, p, n, e);
    return cuda_check(cudaGraphLaunch(c->captured[i].graph, c->stream), "a step", e);
}

static int cuda_profile(struct device *d, const struct program *p, int n, double *seconds, struct error *e) {
    struct device_cuda *c = cuda_of(d);
    struct run r = run_of(c, p, n, e);
    int failed = cuda_run(d, p, n, e); /* makes scratch and shadow, and warms up */
    if (!failed) failed = cuda_wait(d, e);
    r.events = (cudaEvent_t *)mem_zero((size_t)p->n_ops + 1, sizeof *r.events);
    if (!failed && r.events == NULL) failed = error_memory(e, sizeof *r.events, "the profile");
    for (int i = 0; i <= p->n_ops && !failed; i++) failed = cuda_check(cudaEventCreate(&r.events[i]), "an event", e);
    if (!failed) failed = run_ops(&r);
    if (!failed) failed = cuda_check(cudaEventRecord(r.events[p->n_ops], c->stream), "an event", e);
    if (!failed) failed = cuda_wait(d, e);
    int last = p->n_ops; /* the next event that was recorded: an operation that rode along has none */
    for (int i = p->n_ops - 1; i >= 0 && !failed; i--) {
        float ms = 0;
        seconds[i] = 0;
        if (cudaEventElapsedTime(&ms, r.events[i], r.events[last]) != cudaSuccess) {
            (void)cudaGetLastError();
            continue;
        }
        seconds[i] = (double)ms / 1e3;
        last = i;
    }
    for (int i = 0; i <= p->n_ops && r.events != NULL; i++) {
        if (r.events[i] != NULL) (void)cudaEventDestroy(r.events[i]);
    }
    mem_free(r.events);
    return failed;
}

static void close_cublas(struct device_cuda *c) {
    pthread_mutex_lock(&recording);
    if (c->handle != NULL) c->cublas.destroy(c->handle);
    pthread_mutex_unlock(&recording);
    c->handle = NULL;
}

static void cuda_close(struct device *d) {
    struct device_cuda *c = cuda_of(d);
    if (c->stream != NULL) (void)cudaStreamSynchronize(c->stream);
    forget_captured(c);
    close_cublas(c);
    void *const blocks[] = {c->workspace, c->scratch[CHAIN], c->scratch[BESIDE], c->shadow};
    for (int i = 0; i < 4; i++) free_memory(blocks[i]);
    for (int i = 0; i < BESIDE_MOST; i++) {
        if (c->done[i] != NULL) (void)cudaEventDestroy(c->done[i]);
    }
    for (int i = 0; i < 2; i++) {
        if (c->pace[i] != NULL) (void)cudaEventDestroy(c->pace[i]);
    }
    if (c->fork != NULL) (void)cudaEventDestroy(c->fork);
    if (c->beside != NULL) (void)cudaStreamDestroy(c->beside);
    if (c->stream != NULL) (void)cudaStreamDestroy(c->stream);
    mem_free(c);
}

#ifdef CUDA_HOST
#define library_open(name) cuda_host_dlopen(name)
#define library_symbol(library, name) cuda_host_dlsym(library, name)
#else
#define library_open(name) dlopen(name, RTLD_NOW | RTLD_LOCAL)
#define library_symbol(library, name) dlsym(library, name)
#endif

/* Is it there, whole, and does it start? An older one may where the newest does not suit the driver. Then c->handle is
 * there. */
static int start_cublas(struct device_cuda *c, const char *name, struct error *e) {
    struct cublas *b = &c->cublas;
    b->library = library_open(name);
    if (b->library == NULL) return OK;
    *(void **)&b->create = library_symbol(b->library, "cublasCreate_v2");
    *(void **)&b->destroy = library_symbol(b->library, "cublasDestroy_v2");
    *(void **)&b->set_stream = library_symbol(b->library, "cublasSetStream_v2");
    *(void **)&b->set_workspace = library_symbol(b->library, "cublasSetWorkspace_v2");
    *(void **)&b->gemm = library_symbol(b->library, "cublasGemmEx");
    if (b->create == NULL || b->destroy == NULL || b->set_stream == NULL || b->set_workspace == NULL || b->gemm == NULL)
        return OK;
    pthread_mutex_lock(&recording);
    int status = b->create(&c->handle);
    if (status != 0) c->handle = NULL;
    if (status == 0) status = b->set_stream(c->handle, c->stream);
    if (status == 0) status = b->set_workspace(c->handle, c->workspace, CUBLAS_WORKSPACE);
    pthread_mutex_unlock(&recording);
    (void)cudaGetLastError();
    if (status != 0) close_cublas(c);
    return status == CUBLAS_NO_MEMORY ? error_set(e, ERROR_TRIAL, "out of GPU memory for cuBLAS") : OK;
}

/* Without it c->handle stays NULL, and dense layers are made like other convolutions. */
static int open_cublas(struct device_cuda *c, struct error *e) {
    static const char *const names[] = {CUBLAS_NAMES};
    int failed = cuda_malloc(&c->workspace, CUBLAS_WORKSPACE, "cuBLAS", e);
    for (int i = 0; i < (int)(sizeof names / sizeof *names) && !failed && c->handle == NULL; i++)
        failed = start_cublas(c, names[i], e);
    return failed;
}

/* The products want more shared memory than a block has without asking. */
template <typename T, int BN>
static void allow_products(cudaError_t *s) {
    typedef tile<T, BN> W;
    const void *const kernels[] = {(const void *)product<T, BN, 0>, (const void *)product<T, BN, 1>,
                                   (const void *)weight_product<T, BN>};
    const int bytes[] = {W::PRODUCT_BYTES, W::PRODUCT_BYTES, W::WEIGHT_BYTES};
    for (int i = 0; i < 3 && *s == cudaSuccess; i++)
        *s = cudaFuncSetAttribute(kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes[i]);
}

template <int BN, int WGMMA>
static void allow_window(int most, cudaError_t *s) {
    const void *const kernels[] = {(const void *)window_product<BN, 0, WGMMA>,
                                   (const void *)window_product<BN, 1, WGMMA>};
    for (int i = 0; i < 2 && *s == cudaSuccess; i++)
        *s = cudaFuncSetAttribute(kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}
template <typename T, int BN>
static void allow_window_weight(int most, cudaError_t *s) {
    if (*s == cudaSuccess)
        *s = cudaFuncSetAttribute((const void *)window_weight<BN>, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

#include "layers_trial.cuh" /* it runs small programs, as above */

/* The chain goes first where both have blocks to run. */
static cudaError_t open_streams(struct device_cuda *c, unsigned without) {
    int least = 0, greatest = 0;
    cudaError_t s = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (s == cudaSuccess) s = cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, greatest);
    for (int i = 0; i < 2 && s == cudaSuccess; i++) s = cudaEventCreateWithFlags(&c->pace[i], cudaEventDisableTiming);
    if (s != cudaSuccess || (without & CUDA_WITHOUT_BESIDE)) return s;
    c->device.beside = BESIDE_MOST;
    s = cudaStreamCreateWithPriority(&c->beside, cudaStreamNonBlocking, least);
    if (s == cudaSuccess) s = cudaEventCreateWithFlags(&c->fork, cudaEventDisableTiming);
    for (int i = 0; i < BESIDE_MOST && s == cudaSuccess; i++)
        s = cudaEventCreateWithFlags(&c->done[i], cudaEventDisableTiming);
    return s;
}

static int make_policies(struct device_cuda *c, struct error *e) {
    uint64_t *at = NULL;
    int failed = cuda_alloc(&c->device, sizeof c->policies, (void **)&at, e);
    if (failed) return failed;
    LAUNCH(policies, dim3(1), dim3(THREADS), (size_t)0, c->stream, 0, at);
    failed = cuda_check(cudaGetLastError(), "opening it", e);
    if (!failed) failed = cuda_read(&c->device, c->policies, at, sizeof c->policies, e);
    cuda_release(&c->device, at);
    return failed;
}

static int open_device(struct device_cuda *c, unsigned without, struct error *e) {
    cudaDeviceProp prop;
    int failed = cuda_check(cudaSetDevice(c->gpu), "opening it", e);
    if (!failed) failed = cuda_check(cudaGetDeviceProperties(&prop, c->gpu), "opening it", e);
    if (failed) return failed;
    if (prop.major < 8)
        return error_set(e, ERROR_ENVIRONMENT,
                         "%s has compute capability %d.%d; 8.0 (Ampere) is the least that is supported", prop.name,
                         prop.major, prop.minor);
#ifdef PARZEN_MANAGED /* tests: their few tiles take every width, as on the stand-in for a GPU */
    c->multiprocessors = 4;
#else
    c->multiprocessors = prop.multiProcessorCount;
#endif
    c->shared_most = (int)prop.sharedMemPerBlockOptin;
    c->device.cache = (size_t)prop.l2CacheSize;
    failed = cuda_check(open_streams(c, without), "opening it", e);
    /* Kernels wait for the one before them only if they were compiled to: PTX of an older GPU's, which the driver
     * compiles where there is no image for this one, does not. Such launches can be recorded from 12.3 on. */
    int driver = 0;
    cudaFuncAttributes narrows = {};
    cudaError_t s = cudaDriverGetVersion(&driver);
    if (s == cudaSuccess) s = cudaFuncGetAttributes(&narrows, (const void *)narrow);
    c->early = prop.major >= 9 && narrows.ptxVersion >= 90 && driver >= 12030 && !(without & CUDA_WITHOUT_EARLY);
    allow_products<float, 64>(&s);
    for (int bn = 32; bn <= 128; bn += 16) {
        WITH_COLUMNS(bn, allow_products, &s)
        WITH_COLUMNS(bn, allow_window_weight, c->shared_most, &s)
        WITH_WINDOW(bn, allow_window, c->shared_most, &s)
    }
    c->hopper = prop.major == 9;
    const int wgmma = c->hopper && !c->fp32 && !(without & CUDA_WITHOUT_WGMMA);
    for (int bn = 24; bn <= 80 && wgmma; bn += 8) WITH_WGMMA_WINDOW(bn, allow_window, c->shared_most, &s)
    if (!failed) failed = cuda_check(s, "opening it", e);
    if (!failed) failed = make_policies(c, e);
    if (!failed && !(without & CUDA_WITHOUT_CUBLAS)) failed = open_cublas(c, e);
    const int early = c->early;
    c->records = 1;
    if (!failed && !c->fp32) failed = try_device(c, wgmma, e);
    snprintf(c->device.about, sizeof c->device.about, "GPU %d, %.40s, %d GB, %s%s%s%s%s", c->gpu, prop.name,
             (int)(prop.totalGlobalMem / 1000000000), c->fp32 ? "fp32" : "bf16",
             c->hopper && !c->fp32 && !c->wgmma ? ", without wgmma" : "", c->handle == NULL ? ", without cuBLAS" : "",
             early && !c->early ? ", without early kernels" : "", c->records ? "" : ", without graphs");
    return failed == ERROR_TRIAL ? ERROR_ENVIRONMENT : failed;
}

extern "C" int device_cuda_without(unsigned *without, const char *list, struct error *e) {
    static const char *const names[] = {"beside", "early", "wgmma", "cublas"}; /* in the order of their bits */
    for (const char *at = list; at != NULL && *at != '\0';) {
        const size_t n = strcspn(at, ",");
        int i = 0;
        while (i < 4 && !(strlen(names[i]) == n && strncmp(names[i], at, n) == 0)) i++;
        if (i == 4)
            return error_set(e, ERROR_USER,
                             "a GPU cannot do without '%.*s'; it can without beside, early, wgmma, cublas",
                             (int)(n < 40 ? n : 40), at);
        *without |= 1u << i;
        at += n + (at[n] == ',');
    }
    return OK;
}

extern "C" int device_cuda_count(void) {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    (void)cudaGetLastError();
    return 0;
}

extern "C" int device_cuda(struct device **out, int gpu, int fp32, unsigned without, struct error *e) {
    int count = 0;
    *out = NULL;
    const cudaError_t found = cudaGetDeviceCount(&count);
    if (found != cudaSuccess) {
        (void)cudaGetLastError();
        return error_set(e, ERROR_ENVIRONMENT, "%s",
                         found == cudaErrorInsufficientDriver ? "no NVIDIA driver, or too old a one"
                         : found == cudaErrorNoDevice         ? "no GPU"
                                                              : cudaGetErrorString(found));
    }
    if (gpu < 0 || gpu >= count) return error_set(e, ERROR_ENVIRONMENT, "no GPU %d: this machine has %d", gpu, count);
    struct device_cuda *c = (struct device_cuda *)mem_zero(1, sizeof *c);
    if (c == NULL) return error_memory(e, sizeof *c, "the CUDA device");
    c->gpu = gpu;
    c->fp32 = fp32;
    c->device.name = "cuda";
    c->device.element = fp32 ? sizeof(float) : sizeof(bf16);
    c->device.alloc = cuda_alloc;
    c->device.release = cuda_release;
    c->device.write = cuda_write;
    c->device.read = cuda_read;
    c->device.run = cuda_run;
    c->device.wait = cuda_wait;
    c->device.profile = cuda_profile;
    c->device.close = cuda_close;
    const int failed = open_device(c, without, e);
    if (failed) {
        cuda_close(&c->device);
        return failed;
    }
    *out = &c->device;
    return OK;
}
