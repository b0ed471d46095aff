/* test_cuda_host.cc - that cuda_host.h does what a GPU would, and catches what a GPU would leave undefined: a warp's
 * matrix operations against plain loops, and each mistake in a process of its own, which must end with a word of it. */
#include "cuda_host.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

static long passed, failed;
static void check(int good, const char *what) {
    passed += good != 0;
    failed += good == 0;
    if (!good) printf("failed: %s\n", what);
}

static cudaStream_t stream, chain, beside; /* chain goes before beside */

/* ---- what a warp does together ---- */

static __global__ void multiply(const uint16_t *a, const uint16_t *b, float *d, int b_by_depth) {
    unsigned char *const shared = shared_memory(); /* a [16][16]; b [8][16], or by depth [16][8] */
    uint16_t *const sa = (uint16_t *)shared, *const sb = sa + 256;
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += 32) sa[i] = a[i];
    for (int i = lane; i < 256; i += 32) sb[i] = i < 128 ? b[i] : 0;
    barrier();
    uint32_t fa[4], fb[4];
    float sums[4] = {1, 1, 1, 1};
    load_matrix4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
    if (b_by_depth) {
        load_matrix4_transposed(fb, sb + lane % 16 * 8);
    } else {
        load_matrix4(fb, sb + lane % 8 * 16 + lane / 8 % 2 * 8);
    }
    mma_bf16(sums, fa, fb);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

static void test_multiply() {
    for (int by_depth = 0; by_depth < 2; by_depth++) {
        uint16_t a[256], b[128];
        float d[128];
        for (int i = 0; i < 256; i++) a[i] = (uint16_t)cuda_host_bf16((float)(i * 7 % 23 - 11) / 4);
        for (int i = 0; i < 128; i++) b[i] = (uint16_t)cuda_host_bf16((float)(i * 5 % 17 - 8) / 8);
        LAUNCH(multiply, dim3(1), dim3(32), (size_t)1024, stream, 0, a, b, d, by_depth);
        int wrong = 0;
        for (int m = 0; m < 16; m++) {
            for (int n = 0; n < 8; n++) {
                float want = 1;
                for (int k = 0; k < 16; k++)
                    want += cuda_host_float(a[m * 16 + k]) * cuda_host_float(by_depth ? b[k * 8 + n] : b[n * 16 + k]);
                wrong += d[m * 8 + n] != want;
            }
        }
        check(wrong == 0, by_depth ? "mma with ldmatrix.trans" : "mma with ldmatrix");
    }
}

/* wgmma: a [64][16] in blocks of eight rows, b [n][16] in such blocks, or by depth; the blocks stand `gap` bytes apart
 * beyond their 128. Two products into the same sums. */
enum { WIDE = 24, WIDE_A = 64 * 16, WIDE_B = WIDE * 16 };
static uint64_t descriptor(const void *p, int leading, int stride) {
    return (uint64_t)(shared_address(p) / 16) | (uint64_t)(leading / 16) << 16 | (uint64_t)(stride / 16) << 32;
}
enum {
    MISSES_NOTHING,
    MISSES_FENCE,
    MISSES_BEGIN,
    MISSES_WAIT,
    MISSES_OTHERS,
    MISSES_WARPS,
    MISSES_ROOM,
    MISSES_PLACE
};
template <int B_BY_DEPTH>
static __global__ void multiply_wide(const uint16_t *a, const uint16_t *b, float *d, int gap, int misses) {
    unsigned char *const sa = shared_memory(), *const sb = sa + 16 * (128 + gap);
    const int t = (int)threadIdx.x, lane = t % 32, each = 128 + gap;
    for (int i = t; i < WIDE_A / 8; i += 128) /* 16 bytes: row i / 2, half i % 2 of the depth */
        copy_async(sa + (i / 16 * 2 + i % 2) * each + i / 2 % 8 * 16, a + i * 8, 16);
    for (int i = t; i < WIDE_B / 8; i += 128) /* likewise; by depth: step i / 3, columns 8 (i % 3) on */
        copy_async(B_BY_DEPTH ? sb + (i / (WIDE / 8) / 8 * (WIDE / 8) + i % (WIDE / 8)) * each + i / (WIDE / 8) % 8 * 16
                              : sb + (i / 16 * 2 + i % 2) * each + i / 2 % 8 * 16,
                   b + i * 8, 16);
    copy_commit();
    copy_wait<0>();
    if (misses != MISSES_FENCE) fence_async();
    barrier();
    float sums[1][WIDE / 8][4];
    for (int i = 0; i < WIDE / 2; i++) sums[0][i / 4][i % 4] = 1;
    const int other = (misses == MISSES_OTHERS && lane == 3) || (misses == MISSES_WARPS && t / 32 == 2);
    const uint64_t at_a = descriptor(sa + 16 * other, each, 2 * each),
                   at_b = B_BY_DEPTH ? descriptor(sb, WIDE / 8 * each, each) : descriptor(sb, each, 2 * each);
    if (misses != MISSES_BEGIN) wgmma_begin(sums);
    wgmma<WIDE, B_BY_DEPTH>(sums[0], misses == MISSES_PLACE ? at_a | (uint64_t)1 << 62 : at_a,
                            misses == MISSES_ROOM ? at_b + 40 : at_b);
    wgmma<WIDE, B_BY_DEPTH>(sums[0], at_a, at_b);
    for (int i = 0; i < WIDE / 2 && misses == MISSES_WAIT; i++) d[t * WIDE / 2 + i] = sums[0][i / 4][i % 4];
    wgmma_wait(sums);
    for (int i = 0; i < WIDE / 2 && misses != MISSES_WAIT; i++)
        d[(t / 32 * 16 + lane / 4 + i % 4 / 2 * 8) * WIDE + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[0][i / 4][i % 4];
}
struct wide {
    alignas(16) uint16_t a[WIDE_A], b[WIDE_B];
    float d[64 * WIDE];
};
template <int B_BY_DEPTH>
static void run_wide(struct wide *w, int gap, int misses) {
    for (int i = 0; i < WIDE_A; i++) w->a[i] = (uint16_t)cuda_host_bf16((float)(i * 7 % 23 - 11) / 4);
    for (int i = 0; i < WIDE_B; i++) w->b[i] = (uint16_t)cuda_host_bf16((float)(i * 5 % 17 - 8) / 8);
    LAUNCH((multiply_wide<B_BY_DEPTH>), dim3(1), dim3(128), (size_t)(22 * (128 + gap)), stream, 0,
           (const uint16_t *)w->a, (const uint16_t *)w->b, w->d, gap, misses);
}
template <int B_BY_DEPTH>
static void test_multiply_wide() {
    static struct wide w;
    for (int gap = 0; gap < 48; gap += 16) {
        int wrong = 0;
        run_wide<B_BY_DEPTH>(&w, gap, MISSES_NOTHING);
        for (int m = 0; m < 64; m++) {
            for (int n = 0; n < WIDE; n++) {
                float want = 1;
                for (int k = 0; k < 16; k++)
                    want += 2 * cuda_host_float(w.a[m * 16 + k]) *
                            cuda_host_float(B_BY_DEPTH ? w.b[k * WIDE + n] : w.b[n * 16 + k]);
                wrong += w.d[m * WIDE + n] != want;
            }
        }
        check(wrong == 0, B_BY_DEPTH ? "wgmma, the second by depth" : "wgmma");
    }
    int numbers = 0;
    run_wide<B_BY_DEPTH>(&w, 0, MISSES_WAIT);
    for (int i = 0; i < 64 * WIDE; i++) numbers += !isnan(w.d[i]);
    check(numbers == 0, "what wgmma adds to is no number until it has been waited for");
}

static __global__ void shuffles(int *out) {
    int sum = (int)threadIdx.x;
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    const double d = shuffle_xor((double)threadIdx.x, 1);
    out[threadIdx.x] = sum * 1000 + (int)d;
}

static __global__ void copies(const float *from, float *out, int wait) {
    float *const shared = (float *)shared_memory();
    const int t = (int)threadIdx.x;
    copy_async(shared + t * 4, from + t * 4, t % 2 == 0 ? 16 : 0);
    copy_commit();
    if (wait) copy_wait<0>();
    barrier();
    for (int i = 0; i < 4; i++) out[t * 4 + i] = shared[t * 4 + i];
    copy_wait<0>();
}

static __global__ void writes_over(int *out) { *out = (int)threadIdx.x; }

static __global__ void unwritten(float *out) { *out = ((float *)shared_memory())[3]; }

static void test_memory() {
    int sums[64];
    float from[256], out[256], one = 0;
    LAUNCH(shuffles, dim3(1), dim3(64), (size_t)0, stream, 0, sums);
    int wrong = 0;
    for (int i = 0; i < 64; i++) wrong += sums[i] != (i < 32 ? 496 : 1520) * 1000 + (i ^ 1);
    check(wrong == 0, "shuffles");
    for (int i = 0; i < 256; i++) from[i] = (float)i;
    LAUNCH(copies, dim3(1), dim3(64), (size_t)1024, stream, 0, (const float *)from, out, 1);
    wrong = 0;
    for (int i = 0; i < 256; i++) wrong += out[i] != (i / 4 % 2 == 0 ? (float)i : 0);
    check(wrong == 0, "asynchronous copies, and zeros");
    LAUNCH(copies, dim3(1), dim3(64), (size_t)1024, stream, 0, (const float *)from, out, 0);
    wrong = 0;
    for (int i = 0; i < 256; i++) wrong += !isnan(out[i]);
    check(wrong == 0, "a copy that is not waited for has not arrived");
    for (cuda_host_backwards = 0; cuda_host_backwards < 2; cuda_host_backwards++) {
        LAUNCH(writes_over, dim3(1), dim3(64), (size_t)0, stream, 0, sums);
        check(sums[0] == (cuda_host_backwards ? 0 : 63), "the last lane's turn");
    }
    cuda_host_backwards = 0;
    LAUNCH(unwritten, dim3(1), dim3(32), (size_t)64, stream, 0, &one);
    check(isnan(one), "shared memory that nobody has written");
}

/* ---- mistakes ---- */

static __global__ void misses_barrier(int) {
    if (threadIdx.x < 32) barrier();
}
static __global__ void diverges(int) {
    if (threadIdx.x % 2 == 0) {
        (void)shuffle_xor(1, 1);
    } else {
        (void)shuffle_xor(1.0, 1);
    }
}
static __global__ void leaves_lanes(int) {
    if (threadIdx.x != 5) (void)shuffle_xor(1, 1);
}
static __global__ void overruns_shared(int n) { shared_memory()[n] = 1; }
static __global__ void overruns_global(char *p) { p[64] = 1; }
static __global__ void crooked_matrix(int) {
    uint32_t r[4];
    load_matrix4(r, shared_memory() + threadIdx.x * 2);
}
static __global__ void outside_matrix(int) {
    uint32_t r[4];
    load_matrix4(r, shared_memory() + 16 * (threadIdx.x + 1));
}
static __global__ void crooked_copy(const char *p) {
    copy_async(shared_memory(), p + 4, 16);
    copy_wait<0>();
}
static __global__ void forgets_copy(const char *p) {
    copy_async(shared_memory() + threadIdx.x * 16, p, 16);
    copy_commit();
}

static __global__ void multiplies_alone(int) {
    float sums[1][WIDE / 8][4] = {};
    wgmma_begin(sums);
    wgmma<WIDE, 0>(sums[0], descriptor(shared_memory(), 128, 256), descriptor(shared_memory(), 128, 256));
    wgmma_wait(sums);
}

/* Runs it in a child, which must not end well, and must say so (NULL: something of a sanitizer). */
template <typename F>
static void caught(const char *what, const char *word, F mistake) {
    int ends[2];
    char text[4096] = "";
    if (pipe(ends) != 0) return check(0, what);
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        mistake();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < sizeof text - 1 && (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    check(status != 0 && strstr(text, word) != NULL, what);
}

static __global__ void writes(int *p) { *p = 7; }

/* ---- two streams ---- */

static __global__ void adds(int *to, const int *from, int more) {
    after_previous();
    if (threadIdx.x == 0) *to = *from + more;
}
static void add(cudaStream_t s, int *to, const int *from, int more, int early) {
    LAUNCH(adds, dim3(1), dim3(32), (size_t)0, s, early, to, from, more);
}

/* On the chain x becomes 1; beside it y = x + 10; on the chain x becomes 5 and z = y + 5: 16 with both waits, and
 * without one of them something else in one of the two orders. */
struct forked {
    int zero, x, y, z;
};
static void run_forked(struct forked *f, cudaEvent_t fork, cudaEvent_t join, int forks, int joins) {
    add(chain, &f->x, &f->zero, 1, 0);
    if (forks) (void)(cudaEventRecord(fork, chain) == cudaSuccess && cudaStreamWaitEvent(beside, fork, 0));
    add(beside, &f->y, &f->x, 10, 0);
    if (joins) (void)(cudaEventRecord(join, beside) == cudaSuccess && cudaStreamWaitEvent(chain, join, 0));
    add(chain, &f->x, &f->zero, 5, 0);
    add(chain, &f->z, &f->y, 5, 1);
}
static int done_forked(const struct forked *f) {
    check(cudaStreamSynchronize(chain) == cudaSuccess && cudaStreamSynchronize(beside) == cudaSuccess, "both are done");
    return f->z;
}

static void test_streams() {
    cudaEvent_t fork, join, never;
    int wrong[2] = {0, 0};
    check(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming) == cudaSuccess &&
              cudaEventCreateWithFlags(&join, cudaEventDisableTiming) == cudaSuccess &&
              cudaEventCreateWithFlags(&never, cudaEventDisableTiming) == cudaSuccess,
          "events");
    for (int waits = 0; waits < 4; waits++) {
        for (cuda_host_late = 0; cuda_host_late < 2; cuda_host_late++) {
            struct forked f = {};
            run_forked(&f, fork, join, waits & 1, waits & 2);
            const int good = done_forked(&f) == 16;
            check(waits != 3 || good, "two streams that wait for each other");
            if (waits == 1 || waits == 2) wrong[waits - 1] += !good;
        }
    }
    check(wrong[0] == 1, "a wait that the first of two streams misses, in one of the orders");
    check(wrong[1] == 1, "a wait that the second of two streams misses, in one of the orders");

    struct forked f = {};
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(chain, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "a capture begins");
    run_forked(&f, fork, join, 1, 1);
    check(cudaStreamSynchronize(beside) != cudaSuccess, "a stream enters a capture by a wait");
    check(cudaStreamEndCapture(chain, &graph) == cudaSuccess && f.x == 0 && f.y == 0, "both are captured");
    check(cudaStreamWaitEvent(chain, fork, 0) == cudaErrorStreamCaptureIsolation, "an event of a capture that is over");
    check(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "a graph of two streams");
    for (cuda_host_late = 0; cuda_host_late < 2; cuda_host_late++) {
        f = {};
        add(chain, &f.zero, &f.zero, 100, 0); /* the graph comes behind what its stream was given */
        check(cudaGraphLaunch(exec, chain) == cudaSuccess && cudaGraphLaunch(exec, chain) == cudaSuccess &&
                  done_forked(&f) == 116,
              "and runs as they would");
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);

    check(cudaStreamBeginCapture(chain, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "a capture begins");
    run_forked(&f, fork, join, 1, 0);
    check(cudaStreamEndCapture(chain, &graph) == cudaErrorStreamCaptureUnjoined && graph == NULL,
          "a capture that leaves the other stream's work alone");
    check(cudaStreamSynchronize(beside) == cudaSuccess, "but it is over");
    check(cudaEventRecord(join, beside) == cudaSuccess &&
              cudaStreamBeginCapture(chain, cudaStreamCaptureModeThreadLocal) == cudaSuccess &&
              cudaStreamWaitEvent(chain, join, 0) == cudaErrorStreamCaptureIsolation &&
              cudaStreamEndCapture(chain, &graph) == cudaSuccess,
          "a capture that waits for what is outside");
    cudaGraphDestroy(graph);
    check(cudaStreamWaitEvent(chain, never, 0) == cudaSuccess, "a wait for an event that was never recorded");
    cuda_host_late = 0;
    caught("an early kernel straight behind a wait", "another", [=] {
        int x = 0;
        cudaEventRecord(fork, beside);
        cudaStreamWaitEvent(chain, fork, 0);
        add(chain, &x, &x, 1, 1);
    });
    cudaEventDestroy(fork);
    cudaEventDestroy(join);
    cudaEventDestroy(never);
}

static void test_mistakes() {
    alignas(16) static char memory[64];
    const dim3 one(1), two(64), warp(32);
    caught("a barrier that half the threads reach", "barrier",
           [=] { LAUNCH(misses_barrier, one, two, (size_t)0, stream, 0, 0); });
    caught("lanes at different operations", "different operations",
           [=] { LAUNCH(diverges, one, warp, (size_t)0, stream, 0, 0); });
    caught("an operation without all lanes", "not all its lanes",
           [=] { LAUNCH(leaves_lanes, one, warp, (size_t)0, stream, 0, 0); });
    caught("a matrix that is not aligned", "aligned",
           [=] { LAUNCH(crooked_matrix, one, warp, (size_t)1024, stream, 0, 0); });
    caught("a matrix outside shared memory", "outside",
           [=] { LAUNCH(outside_matrix, one, warp, (size_t)512, stream, 0, 0); });
    caught("a copy that is not aligned", "aligned",
           [=] { LAUNCH(crooked_copy, one, warp, (size_t)512, stream, 0, memory); });
    caught("a copy that is never waited for", "on their way",
           [=] { LAUNCH(forgets_copy, one, warp, (size_t)512, stream, 0, (const char *)memory); });
    static struct wide wide;
    caught("a wgmma of what no fence is behind", "fence", [=] { run_wide<0>(&wide, 0, MISSES_FENCE); });
    caught("a wgmma that nobody has begun", "wgmma_begin", [=] { run_wide<0>(&wide, 0, MISSES_BEGIN); });
    caught("a wgmma whose lanes differ", "different operands", [=] { run_wide<0>(&wide, 0, MISSES_OTHERS); });
    caught("a wgmma whose warps differ", "four warps", [=] { run_wide<0>(&wide, 0, MISSES_WARPS); });
    caught("a wgmma of a warp alone", "four warps",
           [=] { LAUNCH(multiplies_alone, one, warp, (size_t)4096, stream, 0, 0); });
    caught("a wgmma outside shared memory", "outside", [=] { run_wide<0>(&wide, 0, MISSES_ROOM); });
    caught("a wgmma of a swizzled matrix", "another layout", [=] { run_wide<0>(&wide, 0, MISSES_PLACE); });
    caught("an early kernel that does not wait", "does not wait",
           [=] { LAUNCH(writes, one, warp, (size_t)0, stream, 1, (int *)memory); });
#ifdef CUDA_HOST_ASAN
    caught("an overrun of shared memory", "AddressSanitizer",
           [=] { LAUNCH(overruns_shared, one, warp, (size_t)512, stream, 0, 520); });
    caught("an overrun of global memory", "AddressSanitizer", [=] {
        void *p;
        if (cudaMalloc(&p, 64) == cudaSuccess) LAUNCH(overruns_global, one, warp, (size_t)0, stream, 0, (char *)p);
    });
#endif
}

static char watched[128];
static void watch(const char *kernel, unsigned blocks, unsigned threads, size_t shared) {
    snprintf(watched, sizeof watched, "%s %u %u %zu", kernel, blocks, threads, shared);
}
template <int N, typename T>
static __global__ void writes_as(T *p) {
    *p = N;
}

static void test_watch() {
    float x = 0;
    cuda_host_watch = watch;
    LAUNCH((writes_as<3, float>), dim3(2, 1, 5), dim3(64), (size_t)32, stream, 0, &x);
    cuda_host_watch = NULL;
    check(x == 0 && strcmp(watched, "writes_as<3, float> 10 64 32") == 0, "a launch that is only watched");
    LAUNCH((writes_as<3, float>), dim3(1), dim3(32), (size_t)0, stream, 0, &x);
    check(x == 3, "and one that is not");
}

static void test_runtime() {
    int x = 0;
    void *p;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    LAUNCH(unwritten, dim3(1), dim3(32), (size_t)(64 << 10), stream, 0, (float *)&x);
    check(cudaGetLastError() != cudaSuccess && x == 0, "more shared memory than was asked for");
    LAUNCH(writes, dim3(1, 70000), dim3(32), (size_t)0, stream, 0, &x);
    check(cudaGetLastError() != cudaSuccess && x == 0, "a grid that is too large");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "a capture begins");
    LAUNCH(writes, dim3(1), dim3(32), (size_t)0, stream, 0, &x);
    check(cudaMalloc(&p, 8) != cudaSuccess && cudaStreamSynchronize(stream) != cudaSuccess,
          "calls that a capture forbids");
    (void)cudaGetLastError();
    check(cudaStreamEndCapture(stream, &graph) == cudaSuccess && x == 0, "what is captured is not run");
    check(
        cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess && cudaGraphLaunch(exec, stream) == cudaSuccess && x == 7,
        "but when it is launched");
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cuda_host_malloc_fails = 2;
    check(cudaMalloc(&p, 8) == cudaSuccess && cudaFree(p) == cudaSuccess &&
              cudaMalloc(&p, 8) == cudaErrorMemoryAllocation && cudaMalloc(&p, 8) == cudaSuccess &&
              cudaFree(p) == cudaSuccess,
          "the second allocation fails, and only that");
}

int main() {
    int least, greatest;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaDeviceGetStreamPriorityRange(&least, &greatest);
    cudaStreamCreateWithPriority(&chain, cudaStreamNonBlocking, greatest);
    cudaStreamCreateWithPriority(&beside, cudaStreamNonBlocking, least);
    test_multiply();
    test_multiply_wide<0>();
    test_multiply_wide<1>();
    test_memory();
    test_mistakes();
    test_streams();
    test_watch();
    test_runtime();
    cudaStreamDestroy(stream);
    cudaStreamDestroy(chain);
    cudaStreamDestroy(beside);
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed != 0;
}
