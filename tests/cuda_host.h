/* cuda_host.h - runs CUDA kernels without a GPU: layers.cu, compiled as C++ with -DCUDA_HOST, includes this in the
 * place of cuda_runtime.h, and runs under AddressSanitizer like any other code.
 *
 * A launch runs its blocks one after another. A block's threads are fibers: each runs until it meets a barrier or an
 * operation of its warp; the warp's operations (shuffles, ldmatrix, mma) are done for all lanes when the last lane has
 * arrived, a barrier opens when all threads wait there. What a GPU would leave undefined is made visible: shared memory
 * is filled with NaN before each block, an asynchronous copy arrives only with the wait for it (NaN until then),
 * threads that miss a barrier or meet different operations end the program with a line that says where. With
 * cuda_host_backwards warps and the lanes of each take their turns the other way round, so that results that depend on
 * the order, a missing barrier, show as other bits. Graphs keep what was launched as functions and call them.
 *
 * Of two streams that were given priorities, one is always as far ahead of the other as their events allow, as late as
 * it may run or as soon (cuda_host_late), in captured graphs too: a missing wait shows as other bits.
 *
 * It shows nothing of speed, of memory order between threads, or of the real instructions: that is for `make test-gpu`.
 */
#ifndef CUDA_HOST_H
#define CUDA_HOST_H
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_HOST_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

/* ---- what tests can ask for ---- */
extern "C" {
int cuda_host_backwards; /* warps, and lanes in them, take turns from the last to the first */
int cuda_host_late; /* streams of lower priority run as late as they may; 0: as soon as they may, the others late */
int cuda_host_major = 9;     /* compute capability: 9 is Hopper */
int cuda_host_other_wgmma;   /* it takes the two distances of a matrix the other way round */
long cuda_host_malloc_fails; /* the n-th cudaMalloc from now fails; 0: none */
int cuda_host_free_fails;    /* cudaFree gives the memory back, but says that it failed */
int cuda_host_lost;          /* every call from now on fails, as after an error that cannot be recovered from */
int cuda_host_devices = 1;   /* GPUs that there are; -1: no driver */
int cuda_host_no_cublas;     /* 1: the library is not found; 2: it does not start; 3: it finds no memory */
int cuda_host_unrecorded;    /* steps cannot be captured: 1: none; 2: none with early kernels; 3: none with one behind a
                                fork */
long cuda_host_launches;     /* counted */
long cuda_host_captures;     /* begun: counted */
long cuda_host_unfreed;      /* calls of cudaFree while a step is captured: counted */
int cuda_host_processors = 4;  /* multiprocessors of the GPU */
int cuda_host_cache = 1 << 16; /* bytes of its second-level cache */
/* Not NULL: called when a capture has begun. */
void (*cuda_host_recording)(void);
/* Not NULL: nothing runs, no memory is touched, and each launch is told to it. */
void (*cuda_host_watch)(const char *kernel, unsigned blocks, unsigned threads, size_t shared);
}

/* ---- fibers ---- */

enum { FIBER_READY, FIBER_BARRIER, FIBER_COLLECTIVE, FIBER_DONE };
enum { FIBER_STACK = 128 << 10, WARP = 32, WARPS_MOST = 32 };
enum { CUDA_HOST_SHARED_BASE = 1024 }; /* where a block's shared memory begins: the first KB is the system's */
enum { COLLECTIVE_LDMATRIX = 1, COLLECTIVE_LDMATRIX_T, COLLECTIVE_MMA, COLLECTIVE_WGMMA, COLLECTIVE_WGMMA_WAIT };
enum { COLLECTIVE_SHUFFLE = 16 /* + bytes */ };

struct cuda_host_copy {
    void *to;
    const void *from;
    int bytes, group;
};

/* A wgmma that has been issued; what it adds to is kept from the thread until it waits. */
struct cuda_host_product {
    float *d;
    std::vector<float> before; /* of the first that adds to d */
    int n, b_by_depth;
    uint64_t a, b;
};

struct cuda_host_fiber {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t context;
#endif
    char *stack;
    void *asan;
    int state, kind, mask;
    void *result;
    const void *a, *b;
    dim3 index;
    std::vector<cuda_host_copy> copies; /* on their way */
    int groups;                         /* committed */
    std::vector<cuda_host_product> products;
    int begun, unfenced; /* wgmma_begin has been called; shared memory has been written that no fence_async is behind */
};

static thread_local struct cuda_host_state {
    ~cuda_host_state() {
        for (cuda_host_fiber *f : fibers) {
            free(f->stack);
            delete f;
        }
    }
    const char *kernel;
    dim3 block_index, block_size, grid_size;
    unsigned char *shared;
    size_t shared_bytes;
    unsigned waited;                          /* threads of the block that have called after_previous */
    std::vector<uint64_t> wgmmas[WARPS_MOST]; /* the operands of each warp's, in their order */
    cuda_host_fiber scheduler, *now;
    std::vector<cuda_host_fiber *> fibers;
    std::function<void()> body;
    void *scheduler_asan;
    const void *scheduler_bottom;
    size_t scheduler_size;
} cuda_host;

#define threadIdx (cuda_host.now->index)
#define blockIdx (cuda_host.block_index)
#define blockDim (cuda_host.block_size)
#define gridDim (cuda_host.grid_size)

[[noreturn]] static void cuda_host_fail(const char *what) {
    fprintf(stderr, "cuda_host: %s: block (%u, %u, %u): %s\n", cuda_host.kernel, blockIdx.x, blockIdx.y, blockIdx.z,
            what);
    abort();
}

#if defined(__x86_64__)
/* Saves what a call must save, changes stacks, and returns on the other one. */
extern "C" void cuda_host_switch(void **from, void *to);
asm(R"(
    .text
    .weak cuda_host_switch
    .type cuda_host_switch, @function
cuda_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_host_switch, .-cuda_host_switch
)");
#endif

static void cuda_host_change(cuda_host_fiber *from, cuda_host_fiber *to, void **asan, const void *bottom, size_t size) {
#ifdef CUDA_HOST_ASAN
    __sanitizer_start_switch_fiber(asan, bottom, size);
#else
    (void)asan;
    (void)bottom;
    (void)size;
#endif
#if defined(__x86_64__)
    cuda_host_switch(&from->sp, to->sp);
#else
    swapcontext(&from->context, &to->context);
#endif
}

/* From a fiber back to the scheduler, until the scheduler comes back. */
static void cuda_host_yield(int state) {
    cuda_host_fiber *f = cuda_host.now;
    f->state = state;
    cuda_host_change(f, &cuda_host.scheduler, state == FIBER_DONE ? NULL : &f->asan, cuda_host.scheduler_bottom,
                     cuda_host.scheduler_size);
#ifdef CUDA_HOST_ASAN
    __sanitizer_finish_switch_fiber(f->asan, NULL, NULL);
#endif
}

static void cuda_host_enter() {
#ifdef CUDA_HOST_ASAN
    __sanitizer_finish_switch_fiber(NULL, &cuda_host.scheduler_bottom, &cuda_host.scheduler_size);
#endif
    cuda_host.body();
    if (!cuda_host.now->copies.empty()) cuda_host_fail("a thread has ended with copies still on their way");
    if (!cuda_host.now->products.empty()) cuda_host_fail("a thread has ended with products still on their way");
    cuda_host_yield(FIBER_DONE);
    abort();
}

static void cuda_host_resume(cuda_host_fiber *f) {
    cuda_host.now = f;
    cuda_host_change(&cuda_host.scheduler, f, &cuda_host.scheduler_asan, f->stack, FIBER_STACK);
#ifdef CUDA_HOST_ASAN
    __sanitizer_finish_switch_fiber(cuda_host.scheduler_asan, NULL, NULL);
#endif
}

static void cuda_host_prepare(cuda_host_fiber *f, unsigned index) {
    f->state = FIBER_READY;
    f->index = dim3(index, 0, 0);
    f->copies.clear();
    f->groups = 0;
    f->products.clear();
    f->begun = f->unfenced = 0;
    f->asan = NULL;
#ifdef CUDA_HOST_ASAN /* the last frame of the thread that used the stack before, which never returned */
    ASAN_UNPOISON_MEMORY_REGION(f->stack + FIBER_STACK - 4096, 4096);
#endif
#if defined(__x86_64__)
    void **top = (void **)(f->stack + FIBER_STACK);
    *--top = NULL; /* where cuda_host_enter would return to: it does not; also aligns the stack as after a call */
    *--top = (void *)cuda_host_enter;
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->sp = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = FIBER_STACK;
    f->context.uc_link = NULL;
    makecontext(&f->context, cuda_host_enter, 0);
#endif
}

/* ---- a warp's operations ---- */

static inline float cuda_host_float(uint32_t bf16) {
    const uint32_t bits = bf16 << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint32_t cuda_host_bf16(float f) { /* to nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
static inline uint32_t pack_bf16(float low, float high) { return cuda_host_bf16(low) | cuda_host_bf16(high) << 16; }

/* PTX ISA, ldmatrix .x4: lane l names row l % 8 of matrix l / 8 and gets, of each matrix, elements 2 (l % 4) and the
 * next of row l / 4; transposed: of column l / 4. */
static void cuda_host_ldmatrix(cuda_host_fiber **lanes, int transposed) {
    for (int l = 0; l < WARP; l++) {
        const unsigned char *row = (const unsigned char *)lanes[l]->a;
        if ((uintptr_t)row % 16 != 0) cuda_host_fail("ldmatrix: a row that is not 16-byte aligned");
        if (row < cuda_host.shared || row + 16 > cuda_host.shared + cuda_host.shared_bytes)
            cuda_host_fail("ldmatrix: a row outside shared memory");
    }
    for (int l = 0; l < WARP; l++) {
        uint32_t *out = (uint32_t *)lanes[l]->result;
        for (int m = 0; m < 4; m++) {
            uint32_t v[2];
            for (int i = 0; i < 2; i++) {
                const int row = transposed ? l % 4 * 2 + i : l / 4, column = transposed ? l / 4 : l % 4 * 2 + i;
                v[i] = ((const uint16_t *)lanes[m * 8 + row]->a)[column];
            }
            out[m] = v[0] | v[1] << 16;
        }
    }
}

/* PTX ISA, mma.m16n8k16: with g = l / 4, t = l % 4, a register i holds row g + 8 (i % 2), columns 2t + 8 (i / 2) and
 * the next; b register i rows 2t + 8i and the next of column g; d element i row g + 8 (i / 2), column 2t + i % 2. */
static void cuda_host_mma(cuda_host_fiber **lanes) {
    float a[16][16], b[16][8];
    for (int l = 0; l < WARP; l++) {
        const uint32_t *x = (const uint32_t *)lanes[l]->a, *y = (const uint32_t *)lanes[l]->b;
        const int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++) {
            a[g + i % 2 * 8][2 * t + i / 2 * 8] = cuda_host_float(x[i] & 0xffff);
            a[g + i % 2 * 8][2 * t + i / 2 * 8 + 1] = cuda_host_float(x[i] >> 16);
        }
        for (int i = 0; i < 2; i++) {
            b[2 * t + 8 * i][g] = cuda_host_float(y[i] & 0xffff);
            b[2 * t + 8 * i + 1][g] = cuda_host_float(y[i] >> 16);
        }
    }
    for (int l = 0; l < WARP; l++) {
        float *d = (float *)lanes[l]->result;
        for (int i = 0; i < 4; i++) {
            const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
            float sum = d[i];
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            d[i] = sum;
        }
    }
}

static void cuda_host_shuffle(cuda_host_fiber **lanes, int bytes) {
    unsigned char values[WARP][8];
    for (int l = 0; l < WARP; l++) memcpy(values[l], lanes[l ^ lanes[l]->mask]->a, (size_t)bytes);
    for (int l = 0; l < WARP; l++) memcpy(lanes[l]->result, values[l], (size_t)bytes);
}

/* Element (row, k) of an operand as its descriptor says where (PTX ISA, "Matrix Descriptor", no swizzle): blocks of
 * 8 x 16 bytes; row < 8 * n, k < 16. By depth, the rows of a block are steps of the depth. */
static float cuda_host_operand(uint64_t descriptor, int by_depth, int row, int k) {
    const uint64_t start = (descriptor & 0x3fff) * 16, leading = (descriptor >> 16 & 0x3fff) * 16,
                   stride = (descriptor >> 32 & 0x3fff) * 16;
    const uint64_t block = start + (uint64_t)(k / 8) * (cuda_host_other_wgmma ? stride : leading) +
                           (uint64_t)(row / 8) * (cuda_host_other_wgmma ? leading : stride);
    const uint64_t at =
        block + (uint64_t)(by_depth ? k % 8 : row % 8) * 16 + (uint64_t)(by_depth ? row % 8 : k % 8) * 2;
    if (descriptor >> 46 != 0) cuda_host_fail("wgmma: a descriptor of another layout");
    if (at < CUDA_HOST_SHARED_BASE || at + 2 > CUDA_HOST_SHARED_BASE + cuda_host.shared_bytes) {
        if (cuda_host_other_wgmma) return 0;
        cuda_host_fail("wgmma: an operand outside shared memory");
    }
    uint16_t bits;
    memcpy(&bits, cuda_host.shared + (at - CUDA_HOST_SHARED_BASE), sizeof bits);
    return cuda_host_float(bits);
}

static int cuda_host_warp_of(const cuda_host_fiber *f) { return (int)f->index.x / WARP; }

/* Issues a product: its sums read as NaN from now on. */
static void cuda_host_wgmma(cuda_host_fiber **lanes) {
    for (const cuda_host_fiber *f : cuda_host.fibers) {
        if (f->index.x < cuda_host.block_size.x && f->unfenced)
            cuda_host_fail("wgmma: shared memory was written with no fence_async behind it");
    }
    for (int l = 0; l < WARP; l++) {
        cuda_host_fiber *f = lanes[l];
        cuda_host_product p = *(const cuda_host_product *)f->a;
        const cuda_host_product *first = (const cuda_host_product *)lanes[0]->a;
        if (p.a != first->a || p.b != first->b) cuda_host_fail("wgmma: the lanes of a warp name different operands");
        if (!f->begun) cuda_host_fail("wgmma: without wgmma_begin");
        int under_way = 0;
        for (const cuda_host_product &q : f->products) under_way |= q.d == p.d;
        if (!under_way) {
            p.before.assign(p.d, p.d + p.n / 2);
            memset(p.d, 0xff, (size_t)p.n / 2 * sizeof *p.d);
        }
        f->products.push_back(p);
    }
    const cuda_host_product &p = lanes[0]->products.back();
    std::vector<uint64_t> &operands = cuda_host.wgmmas[cuda_host_warp_of(lanes[0])];
    operands.push_back(p.a);
    operands.push_back(p.b);
}

/* PTX ISA, wgmma m64nNk16: with g = l / 4, t = l % 4, warp w of four: d[4 j + i] is row 16 w + g + 8 (i / 2), column
 * 8 j + 2 t + i % 2. Operands are read now, as late as may be: what was overwritten too early shows. */
static void cuda_host_wgmma_wait(cuda_host_fiber **lanes) {
    const size_t products = lanes[0]->products.size();
    for (size_t i = 0; i < products; i++) {
        const cuda_host_product &p = lanes[0]->products[i];
        const int w = cuda_host_warp_of(lanes[0]) % 4;
        static float a[16][16], b[256][16];
        for (int k = 0; k < 16; k++) {
            for (int r = 0; r < 16; r++) a[r][k] = cuda_host_operand(p.a, 0, 16 * w + r, k);
            for (int c = 0; c < p.n; c++) b[c][k] = cuda_host_operand(p.b, p.b_by_depth, c, k);
        }
        for (int l = 0; l < WARP; l++) {
            const cuda_host_product &mine = lanes[l]->products[i];
            if (!mine.before.empty()) memcpy(mine.d, mine.before.data(), mine.before.size() * sizeof(float));
            for (int j = 0; j < p.n / 2; j++) {
                const int row = l / 4 + j % 4 / 2 * 8, column = j / 4 * 8 + l % 4 * 2 + j % 2;
                float sum = mine.d[j];
                for (int k = 0; k < 16; k++) sum += a[row][k] * b[column][k];
                mine.d[j] = sum;
            }
        }
    }
    for (int l = 0; l < WARP; l++) {
        lanes[l]->products.clear();
        lanes[l]->begun = 0;
    }
}

static void cuda_host_collective(cuda_host_fiber **lanes) {
    const int kind = lanes[0]->kind;
    for (int l = 1; l < WARP; l++) {
        if (lanes[l]->kind != kind) cuda_host_fail("the lanes of a warp meet different operations");
    }
    if (kind == COLLECTIVE_MMA) {
        cuda_host_mma(lanes);
    } else if (kind == COLLECTIVE_WGMMA) {
        cuda_host_wgmma(lanes);
    } else if (kind == COLLECTIVE_WGMMA_WAIT) {
        cuda_host_wgmma_wait(lanes);
    } else if (kind >= COLLECTIVE_SHUFFLE) {
        cuda_host_shuffle(lanes, kind - COLLECTIVE_SHUFFLE);
    } else {
        cuda_host_ldmatrix(lanes, kind == COLLECTIVE_LDMATRIX_T);
    }
    for (int l = 0; l < WARP; l++) lanes[l]->state = FIBER_READY;
}

/* Runs a warp until its threads wait at a barrier or are done. */
static void cuda_host_warp(cuda_host_fiber **lanes) {
    for (;;) {
        int collective = 0;
        for (int l = 0; l < WARP; l++) {
            cuda_host_fiber *const f = lanes[cuda_host_backwards ? WARP - 1 - l : l];
            if (f->state == FIBER_READY) cuda_host_resume(f);
            collective += f->state == FIBER_COLLECTIVE;
        }
        if (collective == 0) return;
        if (collective < WARP) cuda_host_fail("an operation of a whole warp that not all its lanes reach");
        cuda_host_collective(lanes);
    }
}

static void cuda_host_block(unsigned threads) {
    while (cuda_host.fibers.size() < threads) {
        cuda_host_fiber *f = new cuda_host_fiber();
        f->stack = (char *)aligned_alloc(64, FIBER_STACK);
        cuda_host.fibers.push_back(f);
    }
    for (unsigned i = 0; i < threads; i++) cuda_host_prepare(cuda_host.fibers[i], i);
    for (std::vector<uint64_t> &operands : cuda_host.wgmmas) operands.clear();
    for (;;) {
        unsigned done = 0, waiting = 0;
        const unsigned warps = threads / WARP;
        for (unsigned w = 0; w < warps; w++)
            cuda_host_warp(&cuda_host.fibers[(cuda_host_backwards ? warps - 1 - w : w) * WARP]);
        for (unsigned i = 0; i < threads; i++) {
            done += cuda_host.fibers[i]->state == FIBER_DONE;
            waiting += cuda_host.fibers[i]->state == FIBER_BARRIER;
        }
        if (done == threads) break;
        if (waiting != threads) cuda_host_fail("a barrier that not all threads reach");
        for (unsigned i = 0; i < threads; i++) cuda_host.fibers[i]->state = FIBER_READY;
    }
    for (unsigned w = 0; w < WARPS_MOST; w++) {
        if (cuda_host.wgmmas[w] != cuda_host.wgmmas[w / 4 * 4])
            cuda_host_fail("wgmma: the four warps name different operands, or not all are there");
    }
}

/* ---- the names that kernels use ---- */

static inline unsigned char *shared_memory() { return cuda_host.shared; }
static inline void after_previous() { cuda_host.waited++; }
static inline int anew(int v) { return v; }
static inline float at_once(float v) { return v; }
/* What a cache is told makes no difference here. */
static inline uint64_t keeping(int once) { return (uint64_t)once; }
template <typename V>
static inline V load_kept(const V *p, uint64_t) {
    return *p;
}
template <typename V>
static inline void store_kept(V *p, V v, uint64_t) {
    *p = v;
}
static inline int of_warp(int v) { return v; }
static inline float exponential(float x) { return expf(x); }
static inline void barrier() { cuda_host_yield(FIBER_BARRIER); }

static inline void cuda_host_meet(int kind, void *result, const void *a, const void *b, int mask) {
    cuda_host_fiber *f = cuda_host.now;
    f->kind = kind;
    f->result = result;
    f->a = a;
    f->b = b;
    f->mask = mask;
    cuda_host_yield(FIBER_COLLECTIVE);
}
template <typename V>
static inline V shuffle_xor(V v, int mask) {
    V out;
    cuda_host_meet(COLLECTIVE_SHUFFLE + (int)sizeof v, &out, &v, NULL, mask);
    return out;
}
static inline void load_matrix4(uint32_t r[4], const void *row) {
    cuda_host_meet(COLLECTIVE_LDMATRIX, r, row, NULL, 0);
}
static inline void load_matrix4_transposed(uint32_t r[4], const void *row) {
    cuda_host_meet(COLLECTIVE_LDMATRIX_T, r, row, NULL, 0);
}
static inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    cuda_host_meet(COLLECTIVE_MMA, d, a, b, 0);
}

/* wgmma: what it reads must lie behind a fence_async of those who wrote it, what it adds to behind a wgmma_begin. */
static inline uint32_t shared_address(const void *p) {
    return (uint32_t)((const unsigned char *)p - cuda_host.shared) + CUDA_HOST_SHARED_BASE;
}
static inline void fence_async() { cuda_host.now->unfenced = 0; }
template <typename D>
static inline void wgmma_begin(D &) {
    cuda_host.now->begun = 1;
}
template <typename D>
static inline void wgmma_wait(D &) {
    cuda_host_meet(COLLECTIVE_WGMMA_WAIT, NULL, NULL, NULL, 0);
}
template <int N, int B_BY_DEPTH>
static inline void wgmma(float (*d)[4], uint64_t a, uint64_t b) {
    cuda_host_product p;
    p.d = d[0], p.n = N, p.b_by_depth = B_BY_DEPTH, p.a = a, p.b = b;
    cuda_host_meet(COLLECTIVE_WGMMA, NULL, &p, NULL, 0);
}

/* cp.async: 16 bytes, both aligned; not there: zeros arrive, and nothing is read. */
static inline void copy_async(void *shared, const void *global, int there) {
    if ((uintptr_t)shared % 16 != 0 || (uintptr_t)global % 16 != 0) cuda_host_fail("cp.async: not 16-byte aligned");
    memset(shared, 0xff, 16);
    cuda_host.now->copies.push_back({shared, global, there ? 16 : 0, cuda_host.now->groups});
}
static inline void copy_async(void *shared, const void *global, int there, uint64_t) {
    copy_async(shared, global, there);
}
static inline void copy_commit() { cuda_host.now->groups++; }
template <int N>
static inline void copy_wait() {
    cuda_host_fiber *f = cuda_host.now;
    size_t kept = 0;
    for (const cuda_host_copy &c : f->copies) {
        if (c.group >= f->groups - N) {
            f->copies[kept++] = c;
        } else if (c.bytes == 0) {
            memset(c.to, 0, 16);
            f->unfenced = 1;
        } else {
            memcpy(c.to, c.from, 16);
            f->unfenced = 1;
        }
    }
    f->copies.resize(kept);
}

/* ---- the part of the runtime that layers.cu uses ---- */

typedef int cudaError_t;
enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureIsolation = 905
};
enum { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum {
    cudaStreamNonBlocking = 1,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaEventDisableTiming = 2,
    cudaGraphInstantiateFlagUseNodePriority = 8,
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8
};
enum { CUDA_HOST_SHARED = 48 << 10, CUDA_HOST_SHARED_MOST = 227 << 10 };

/* What a stream has still to do, in order: work, or a wait until another has done `count` of what it was given. */
struct cuda_host_queue;
struct cuda_host_item {
    std::function<void()> work;
    std::shared_ptr<cuda_host_queue> on; /* NULL: work */
    size_t count;
};
enum cuda_host_rank { RANK_NONE, RANK_HIGH, RANK_LOW }; /* NONE: no priority was asked for; it never lags */
struct cuda_host_queue {
    cuda_host_rank rank;
    std::deque<cuda_host_item> items;
    size_t done; /* of all that there were */
};
/* A graph: what its streams were given, in the order of the calls. Stream 0 is the one whose capture it was. */
struct cuda_host_node {
    int stream;
    std::function<void()> work;
    int on; /* wait for this stream; -1: work */
    size_t count;
};
struct cuda_host_graph {
    std::vector<cuda_host_node> nodes;
    std::vector<cuda_host_rank> ranks;
};
struct cuda_host_stream;
struct cuda_host_capture {
    cuda_host_graph graph;
    std::vector<cuda_host_stream *> streams;
    std::vector<size_t> counts; /* nodes of each */
    int early;                  /* kernels among them that may begin before the one before them is done */
    int forked;                 /* and for that one another stream waits, too */
};
struct cuda_host_stream {
    std::shared_ptr<cuda_host_queue> queue;
    std::shared_ptr<cuda_host_capture> capture; /* NULL: not capturing */
    int number;                                 /* in the capture */
    int waited;                                 /* the last that it was given was a wait for another stream */
    int forked;                                 /* behind the last an event was recorded */
};
struct cuda_host_event { /* where it was last recorded: in a capture, or in a queue; neither: never */
    std::shared_ptr<cuda_host_queue> queue;
    std::shared_ptr<cuda_host_capture> capture;
    int number;
    size_t count;
};
typedef cuda_host_stream *cudaStream_t;
typedef cuda_host_graph *cudaGraph_t, *cudaGraphExec_t;
typedef cuda_host_event *cudaEvent_t;
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    int l2CacheSize;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
};

static int cuda_host_error;                            /* what cudaGetLastError will say */
static int cuda_host_capturing;                        /* streams that are */
static std::map<const void *, size_t> cuda_host_asked; /* shared memory that kernels were allowed */

static inline cudaError_t cuda_host_return(cudaError_t error) {
    if (cuda_host_lost) error = cudaErrorLaunchFailure;
    if (error != cudaSuccess) cuda_host_error = error;
    return error;
}
static inline const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory"
           : e == cudaErrorLaunchFailure  ? "the GPU is lost"
                                          : "an error";
}
static inline const char *cudaGetErrorName(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
           : e == cudaErrorLaunchFailure  ? "cudaErrorLaunchFailure"
                                          : "cudaErrorUnknown";
}
static inline cudaError_t cudaGetLastError() {
    const cudaError_t e = cuda_host_lost ? (cudaError_t)cudaErrorLaunchFailure : cuda_host_error;
    cuda_host_error = cudaSuccess;
    return e;
}
static inline cudaError_t cudaGetDeviceCount(int *n) {
    *n = cuda_host_devices > 0 ? cuda_host_devices : 0;
    return cuda_host_devices < 0    ? cudaErrorInsufficientDriver
           : cuda_host_devices == 0 ? cudaErrorNoDevice
                                    : cudaSuccess;
}
static inline cudaError_t cudaDriverGetVersion(int *version) {
    *version = 13000;
    return cuda_host_return(cudaSuccess);
}
struct cudaFuncAttributes {
    int ptxVersion;
};
template <typename K>
static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, K) {
    a->ptxVersion = 90;
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaSetDevice(int) { return cuda_host_return(cudaSuccess); }
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "no GPU, but its kernels on the CPU");
    p->major = cuda_host_major;
    p->multiProcessorCount = cuda_host_processors;
    p->totalGlobalMem = (size_t)1 << 30;
    p->sharedMemPerBlockOptin = CUDA_HOST_SHARED_MOST;
    p->l2CacheSize = cuda_host_cache;
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaMalloc(void **p, size_t bytes) {
    if (cuda_host_capturing) return cuda_host_return(cudaErrorStreamCaptureUnsupported);
    *p = NULL;
    if (cuda_host_malloc_fails > 0 && --cuda_host_malloc_fails == 0) return cuda_host_return(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 256, bytes) != 0) return cuda_host_return(cudaErrorMemoryAllocation);
    if (cuda_host_watch == NULL) memset(*p, 0xff, bytes);
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaFree(void *p) {
    if (cuda_host_capturing) cuda_host_unfreed++;
    if (cuda_host_capturing) return cuda_host_return(cudaErrorStreamCaptureUnsupported);
    free(p);
    return cuda_host_return(cuda_host_free_fails ? cudaErrorInvalidValue : cudaSuccess);
}

/* ---- streams, events, graphs ---- */

static void cuda_host_advance(cuda_host_queue *q, size_t count) {
    while (q->done < count) {
        const cuda_host_item item = q->items.front();
        q->items.pop_front();
        if (item.on != NULL) {
            cuda_host_advance(item.on.get(), item.count);
        } else if (!cuda_host_lost) {
            item.work();
        }
        q->done++;
    }
}
static size_t cuda_host_given(const cuda_host_queue *q) { return q->done + q->items.size(); }
static void cuda_host_give(cuda_host_queue *q, const cuda_host_item &item) {
    q->items.push_back(item);
    if (q->rank != (cuda_host_late ? RANK_LOW : RANK_HIGH)) cuda_host_advance(q, cuda_host_given(q));
}
static void cuda_host_do(cudaStream_t s, const std::function<void()> &work) {
    s->waited = s->forked = 0;
    if (cuda_host_watch != NULL) return;
    if (s->capture != NULL) {
        s->capture->graph.nodes.push_back({s->number, work, -1, 0});
        s->capture->counts[(size_t)s->number]++;
    } else {
        cuda_host_give(s->queue.get(), {work, NULL, 0});
    }
}
static cudaError_t cuda_host_stream_create(cudaStream_t *s, cuda_host_rank rank) {
    *s = new cuda_host_stream();
    (*s)->queue.reset(new cuda_host_queue());
    (*s)->queue->rank = rank;
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    return cuda_host_stream_create(s, RANK_NONE);
}
static inline cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int priority) {
    return cuda_host_stream_create(s, priority < 0 ? RANK_HIGH : RANK_LOW);
}
static inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (s->capture != NULL) return cuda_host_return(cudaErrorStreamCaptureUnsupported);
    cuda_host_advance(s->queue.get(), cuda_host_given(s->queue.get()));
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaStreamDestroy(cudaStream_t s) {
    cuda_host_advance(s->queue.get(), cuda_host_given(s->queue.get()));
    delete s;
    return cuda_host_return(cudaSuccess);
}

static void cuda_host_enter_capture(cudaStream_t s, const std::shared_ptr<cuda_host_capture> &c) {
    s->capture = c;
    s->number = (int)c->streams.size();
    c->streams.push_back(s);
    c->counts.push_back(0);
    c->graph.ranks.push_back(s->queue->rank);
}
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, int) {
    if (s->capture != NULL) return cuda_host_return(cudaErrorStreamCaptureUnsupported);
    cuda_host_enter_capture(s, std::make_shared<cuda_host_capture>());
    cuda_host_capturing++;
    cuda_host_captures++;
    if (cuda_host_recording != NULL) cuda_host_recording();
    return cuda_host_return(cudaSuccess);
}
/* Does stream 0 come, in the end, behind all the work of the others? */
static int cuda_host_joined(const cuda_host_capture *c) {
    std::vector<size_t> left = c->counts, before(c->counts.size(), 0); /* before: stream 0's end, so many of each are */
    before[0] = left[0];
    for (size_t i = c->graph.nodes.size(); i-- > 0;) {
        const cuda_host_node *n = &c->graph.nodes[i];
        const int known = --left[(size_t)n->stream] < before[(size_t)n->stream];
        if (n->on < 0 && !known) return 0;
        if (n->on >= 0 && known && n->count > before[(size_t)n->on]) before[(size_t)n->on] = n->count;
    }
    return 1;
}
static inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    const std::shared_ptr<cuda_host_capture> c = s->capture;
    *g = NULL;
    if (c == NULL || s->number != 0) return cuda_host_return(cudaErrorInvalidValue);
    for (cuda_host_stream *of : c->streams) of->capture = NULL;
    c->streams.clear(); /* over: nobody can enter it through an event any more */
    cuda_host_capturing--;
    if (!cuda_host_joined(c.get())) return cuda_host_return(cudaErrorStreamCaptureUnjoined);
    if (cuda_host_unrecorded == 1 || (cuda_host_unrecorded == 2 && c->early > 0) ||
        (cuda_host_unrecorded == 3 && c->forked > 0))
        return cuda_host_return(cudaErrorStreamCaptureInvalidated);
    *g = new cuda_host_graph(c->graph);
    return cuda_host_return(cudaSuccess);
}

static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = new cuda_host_event();
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
static inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    s->forked = 1;
    if (s->capture != NULL) {
        *e = {NULL, s->capture, s->number, s->capture->counts[(size_t)s->number]};
    } else {
        *e = {s->queue, NULL, 0, cuda_host_given(s->queue.get())};
    }
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    if (e->queue == NULL && e->capture == NULL) return cuda_host_return(cudaSuccess);
    if (s->capture == NULL && e->capture == NULL) {
        if (e->queue == s->queue) return cuda_host_return(cudaSuccess);
        cuda_host_give(s->queue.get(), {NULL, e->queue, e->count});
    } else {
        if (e->capture == NULL || e->capture->streams.empty() || (s->capture != NULL && s->capture != e->capture))
            return cuda_host_return(cudaErrorStreamCaptureIsolation);
        if (s->capture == NULL) cuda_host_enter_capture(s, e->capture);
        if (e->number == s->number) return cuda_host_return(cudaSuccess);
        s->capture->graph.nodes.push_back({s->number, NULL, e->number, e->count});
        s->capture->counts[(size_t)s->number]++;
    }
    s->waited = 1;
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    if (e->capture != NULL) return cuda_host_return(cudaErrorStreamCaptureUnsupported);
    if (e->queue != NULL) cuda_host_advance(e->queue.get(), e->count);
    return cuda_host_return(cudaSuccess);
}
/* Events mark no time here: the one before an operation that was launched is 1 ms before the next. */
static inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    *ms = 1;
    return cuda_host_return(a->queue != NULL && b->queue != NULL ? cudaSuccess : cudaErrorInvalidValue);
}
static inline cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cuda_host_return(cudaSuccess);
}

static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned) {
    *e = new cuda_host_graph(*g);
    return cuda_host_return(cudaSuccess);
}
/* Stream 0 is the one that it is launched into; the others are the graph's own. */
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
    std::vector<std::shared_ptr<cuda_host_queue>> queues;
    const size_t before = cuda_host_given(s->queue.get());
    if (s->capture != NULL) return cuda_host_return(cudaErrorStreamCaptureUnsupported);
    for (cuda_host_rank rank : e->ranks) {
        queues.push_back(queues.empty() ? s->queue : std::make_shared<cuda_host_queue>());
        if (queues.size() > 1) queues.back()->rank = rank;
    }
    for (const cuda_host_node &n : e->nodes) {
        cuda_host_item item = {n.work, NULL, 0};
        if (n.on >= 0) item = {NULL, queues[(size_t)n.on], n.count + (n.on == 0 ? before : 0)};
        cuda_host_give(queues[(size_t)n.stream].get(), item);
    }
    s->waited = 0;
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete g;
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) {
    delete e;
    return cuda_host_return(cudaSuccess);
}

static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t s) {
    cuda_host_do(s, [=] { memcpy(to, from, bytes); });
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s) {
    cuda_host_do(s, [=] { memset(to, value, bytes); });
    return cuda_host_return(cudaSuccess);
}
static inline cudaError_t cudaFuncSetAttribute(const void *kernel, int, int bytes) {
    if (bytes > CUDA_HOST_SHARED_MOST) return cuda_host_return(cudaErrorInvalidValue);
    cuda_host_asked[kernel] = (size_t)bytes;
    return cuda_host_return(cudaSuccess);
}

/* ---- launches ---- */

/* early: it may begin before the one before it is done, so each of its threads must wait for that. */
static void cuda_host_run(const char *name, dim3 grid, dim3 block, size_t shared, int early,
                          const std::function<void()> &body) {
    cuda_host.kernel = name;
    cuda_host.grid_size = grid;
    cuda_host.block_size = block;
    cuda_host.shared_bytes = shared;
    cuda_host.body = body;
    cuda_host_launches++;
    void *memory = NULL;
    if (posix_memalign(&memory, 128, shared + 1) != 0) abort();
    cuda_host.shared = (unsigned char *)memory;
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                cuda_host.block_index = dim3(x, y, z);
                memset(memory, 0xff, shared);
                cuda_host.waited = 0;
                cuda_host_block(block.x);
                if (early && cuda_host.waited != block.x)
                    cuda_host_fail("a kernel that does not wait for the one before");
            }
        }
    }
    free(memory);
}

/* As the compiler writes it, with the constants of a template: "product<float, 64, 0>". */
template <auto KERNEL>
static const char *cuda_host_name() {
    static char name[128];
    const char *const all = __PRETTY_FUNCTION__, *const at = strstr(all, "KERNEL = ");
    snprintf(name, sizeof name, "%s", at != NULL ? at + 9 + (at[9] == '&') : all);
    if (name[0] != 0) name[strlen(name) - 1] = 0; /* ] */
    return name;
}
template <typename... P, typename... A>
static void cuda_host_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t s, int early, A... arguments) {
    const auto asked = cuda_host_asked.find((const void *)kernel);
    const size_t most = asked != cuda_host_asked.end() ? asked->second : (size_t)CUDA_HOST_SHARED;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
        block.x == 0 || block.x > 1024 || block.x % WARP != 0 || block.y != 1 || block.z != 1 || shared > most) {
        cuda_host_error = cudaErrorInvalidConfiguration;
        return;
    }
    if (early && s->waited) {
        cuda_host.kernel = name;
        cuda_host_fail("early, though its stream has just been made to wait for another");
    }
    if (early && s->capture != NULL) s->capture->early++, s->capture->forked += s->forked;
    if (cuda_host_watch != NULL) cuda_host_watch(name, grid.x * grid.y * grid.z, block.x, shared);
    cuda_host_do(s, [=] { cuda_host_run(name, grid, block, shared, early, [=] { kernel(arguments...); }); });
}
#define LAUNCH(kernel, grid, block, shared, stream, early, ...) \
    cuda_host_launch(cuda_host_name<kernel>(), kernel, grid, block, shared, stream, early, __VA_ARGS__)

/* ---- a stand-in for cuBLAS: plain loops over column-major matrices ---- */

static float cuda_host_element(const void *p, int type, size_t i) {
    return type == 14 ? cuda_host_float(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}
struct cuda_host_blas {
    cudaStream_t stream;
};
static int cuda_host_blas_create(cuda_host_blas **handle) {
    if (cuda_host_no_cublas > 1) return cuda_host_no_cublas == 2 ? 1 : 3;
    *handle = new cuda_host_blas();
    return 0;
}
static int cuda_host_blas_destroy(cuda_host_blas *handle) {
    delete handle;
    return 0;
}
static int cuda_host_blas_stream_set(cuda_host_blas *handle, cudaStream_t s) {
    handle->stream = s;
    return 0;
}
static int cuda_host_blas_workspace(cuda_host_blas *, void *, size_t) { return 0; }
static int cuda_host_blas_gemm(cuda_host_blas *handle, int ta, int tb, int m, int n, int k, const void *, const void *a,
                               int type_a, int lda, const void *b, int type_b, int ldb, const void *, void *c, int,
                               int ldc, int, int) {
    cuda_host_do(handle->stream, [=] {
        std::vector<float> x((size_t)m * (size_t)k), y((size_t)n * (size_t)k);
        for (int i = 0; i < m; i++)
            for (int q = 0; q < k; q++)
                x[(size_t)i * (size_t)k + (size_t)q] = cuda_host_element(
                    a, type_a, ta ? (size_t)i * (size_t)lda + (size_t)q : (size_t)q * (size_t)lda + (size_t)i);
        for (int j = 0; j < n; j++)
            for (int q = 0; q < k; q++)
                y[(size_t)j * (size_t)k + (size_t)q] = cuda_host_element(
                    b, type_b, tb ? (size_t)q * (size_t)ldb + (size_t)j : (size_t)j * (size_t)ldb + (size_t)q);
        for (int j = 0; j < n; j++) {
            for (int i = 0; i < m; i++) {
                float sum = 0;
                for (int q = 0; q < k; q++)
                    sum += x[(size_t)i * (size_t)k + (size_t)q] * y[(size_t)j * (size_t)k + (size_t)q];
                ((float *)c)[(size_t)j * (size_t)ldc + (size_t)i] = sum;
            }
        }
    });
    return 0;
}
static inline void *cuda_host_dlopen(const char *) {
    return cuda_host_no_cublas == 1 ? NULL : (void *)&cuda_host_no_cublas;
}
static inline void *cuda_host_dlsym(void *, const char *name) {
    if (strcmp(name, "cublasCreate_v2") == 0) return (void *)cuda_host_blas_create;
    if (strcmp(name, "cublasDestroy_v2") == 0) return (void *)cuda_host_blas_destroy;
    if (strcmp(name, "cublasSetStream_v2") == 0) return (void *)cuda_host_blas_stream_set;
    if (strcmp(name, "cublasSetWorkspace_v2") == 0) return (void *)cuda_host_blas_workspace;
    if (strcmp(name, "cublasGemmEx") == 0) return (void *)cuda_host_blas_gemm;
    return NULL;
}
#endif
