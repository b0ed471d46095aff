/* layers_instructions.cuh - the device's instructions by the small names that kernels use; layers_kernels.cuh includes
 * this.
 *
 * Compiled with CUDA_HOST the names are those of tests/cuda_host.h, which does the same on the CPU, so a kernel is the
 * same text either way. Two kinds of matrix product: mma.sync (sm_80 on), of a warp, with its operands in registers;
 * and wgmma (sm_90a alone), of four warps, which reads both operands from shared memory by itself, as two descriptors
 * say, and is done some time later. */
#ifndef LAYERS_INSTRUCTIONS_CUH
#define LAYERS_INSTRUCTIONS_CUH
#ifdef CUDA_HOST
#include "tests/cuda_host.h"
#define HAS_WGMMA 1
#define HAS_ALL_WINDOWS 1
#else
#include <cuda_runtime.h>
#include <dlfcn.h>
#endif

#include <stdint.h>

#ifndef CUDA_HOST
/* early: it may be put on the multiprocessors while the kernel before it still runs (sm_90 and later); see
 * after_previous. An error is the next cudaGetLastError's. */
template <typename... P, typename... A>
static void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, int early, A... a) {
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared, config.stream = stream;
    config.attrs = &attribute, config.numAttrs = early ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kernel, P(a)...);
}
#define LAUNCH(kernel, grid, block, shared, stream, early, ...) \
    launch(kernel, grid, block, shared, stream, early, __VA_ARGS__)

/* Every kernel calls it before it touches memory (but its own shared memory): waits until the kernel before is done and
 * its writes are seen, then lets the next one's blocks come and wait in turn. So a step's kernels follow each other
 * without the time that a launch takes. */
static __device__ __forceinline__ void after_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ unsigned char *shared_memory() {
    extern __shared__ __align__(128) unsigned char shared_block[];
    return shared_block;
}
static __device__ __forceinline__ void barrier() { __syncthreads(); }
template <typename V>
static __device__ __forceinline__ V shuffle_xor(V v, int mask) {
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}
/* Four 8 x 8 matrices of 16 bits: lane l names row l % 8 of matrix l / 8, 16 bytes. */
static __device__ __forceinline__ void load_matrix4(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
static __device__ __forceinline__ void load_matrix4_transposed(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
/* d[16 x 8] += a[16 x 16] b[16 x 8], bf16 to fp32. */
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* What the second-level cache is to do with the bytes of an access; once: nobody touches them again soon, so they are
 * the first to leave, and the rest may stay. */
static __device__ __forceinline__ uint64_t keeping(int once) {
    uint64_t first, normal;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(first));
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(normal));
    return once ? first : normal;
}
static __device__ __forceinline__ uint4 load_kept(const uint4 *p, uint64_t keeping) {
    uint4 v;
    asm volatile("ld.global.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p), "l"(keeping));
    return v;
}
static __device__ __forceinline__ float4 load_kept(const float4 *p, uint64_t keeping) {
    const uint4 v = load_kept((const uint4 *)p, keeping);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}
static __device__ __forceinline__ void store_kept(uint4 *p, uint4 v, uint64_t keeping) {
    asm volatile("st.global.L2::cache_hint.v4.b32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w), "l"(keeping)
                 : "memory");
}
static __device__ __forceinline__ void store_kept(float4 *p, float4 v, uint64_t keeping) {
    store_kept((uint4 *)p,
               make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)),
               keeping);
}
static __device__ __forceinline__ void store_kept(uint2 *p, uint2 v, uint64_t keeping) {
    asm volatile("st.global.L2::cache_hint.v2.b32 [%0], {%1, %2}, %3;" ::"l"(p), "r"(v.x), "r"(v.y), "l"(keeping)
                 : "memory");
}
static __device__ __forceinline__ void store_kept(uint32_t *p, uint32_t v, uint64_t keeping) {
    asm volatile("st.global.L2::cache_hint.b32 [%0], %1, %2;" ::"l"(p), "r"(v), "l"(keeping) : "memory");
}
/* 16 bytes from global to shared memory, on their own; where they are not there, zeros, and `global` may be any
 * aligned address. Through the first-level cache: taps overlap. */
static __device__ __forceinline__ void copy_async(void *shared, const void *global, int there) {
    asm volatile("{\n .reg .pred p;\n setp.eq.s32 p, %2, 0;\n cp.async.ca.shared.global [%0], [%1], 16, p;\n}" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(there)
                 : "memory");
}
static __device__ __forceinline__ void copy_async(void *shared, const void *global, int there, uint64_t keeping) {
    asm volatile(
        "{\n .reg .pred p;\n setp.eq.s32 p, %2, 0;\n cp.async.ca.shared.global.L2::cache_hint [%0], [%1], 16, p, "
        "%3;\n}" ::"r"(shared_address(shared)),
        "l"(global), "r"(there), "l"(keeping)
        : "memory");
}
static __device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
static __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
/* v, which the compiler takes for a new value: what follows from it is not worked out before a loop and kept. */
static __device__ __forceinline__ int anew(int v) {
    asm volatile("" : "+r"(v));
    return v;
}
/* v, now: not put off into a branch. */
static __device__ __forceinline__ float at_once(float v) {
    asm volatile("" : "+f"(v));
    return v;
}
/* v, which is the same in all lanes of a warp, so that the compiler knows. */
static __device__ __forceinline__ int of_warp(int v) { return __shfl_sync(0xffffffffu, v, 0); }
/* To some 21 bits; 0 below 2^-126. */
static __device__ __forceinline__ float exponential(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x * 1.44269504f));
    return r;
}
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* ---- wgmma: products of four warps (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate") ---- */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA 1
#else
#define HAS_WGMMA 0 /* kernels that want it are compiled to nothing */
#endif
#define HAS_ALL_WINDOWS (!HAS_WGMMA) /* by mma.sync; see STANDS_IN */

/* What this thread has written to shared memory, copies that it has waited for among it, will be seen by wgmma behind
 * the next barrier. */
static __device__ __forceinline__ void fence_async() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
#if HAS_WGMMA
/* The sums stay in the registers where they are, and what touches them stays on its side of this. */
template <int M, int EIGHTS>
static __device__ __forceinline__ void hold(float (&d)[M][EIGHTS][4]) {
#pragma unroll
    for (int i = 0; i < M * EIGHTS * 4; i++)
        asm volatile("" : "+f"(d[i / (EIGHTS * 4)][i / 4 % EIGHTS][i % 4])::"memory");
}
/* Before the first product, when the sums may have been touched. */
template <int M, int EIGHTS>
static __device__ __forceinline__ void wgmma_begin(float (&d)[M][EIGHTS][4]) {
    hold(d);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* Until the products so far are done: only then may the sums be touched, and what they were made from be overwritten.
 */
template <int M, int EIGHTS>
static __device__ __forceinline__ void wgmma_wait(float (&d)[M][EIGHTS][4]) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    hold(d);
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(d);
}
#define REGISTERS_12 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11"
#define REGISTERS_16 REGISTERS_12 ", %12, %13, %14, %15"
#define REGISTERS_20 REGISTERS_16 ", %16, %17, %18, %19"
#define REGISTERS_24 REGISTERS_20 ", %20, %21, %22, %23"
#define REGISTERS_28 REGISTERS_24 ", %24, %25, %26, %27"
#define REGISTERS_32 REGISTERS_28 ", %28, %29, %30, %31"
#define REGISTERS_36 REGISTERS_32 ", %32, %33, %34, %35"
#define REGISTERS_40 REGISTERS_36 ", %36, %37, %38, %39"
#define FLOATS(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define FLOATS_12 FLOATS(0), FLOATS(1), FLOATS(2)
#define FLOATS_16 FLOATS_12, FLOATS(3)
#define FLOATS_20 FLOATS_16, FLOATS(4)
#define FLOATS_24 FLOATS_20, FLOATS(5)
#define FLOATS_28 FLOATS_24, FLOATS(6)
#define FLOATS_32 FLOATS_28, FLOATS(7)
#define FLOATS_36 FLOATS_32, FLOATS(8)
#define FLOATS_40 FLOATS_36, FLOATS(9)
#define WGMMA(n, count, at_a, at_b, at_t)                                                                  \
    if constexpr (N == n)                                                                                  \
    asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, 1, 0;\n wgmma.mma_async.sync.aligned.m64n" #n         \
                 "k16.f32.bf16.bf16 {" REGISTERS_##count "}, " at_a ", " at_b ", p, 1, 1, 0, " at_t ";\n}" \
                 : FLOATS_##count                                                                          \
                 : "l"(a), "l"(b), "n"(B_BY_DEPTH))
/* d[64 x N] += a[64 x 16] b[16 x N], bf16 to fp32: warp w of the four has rows 16 w + l / 4 and 8 more, and lane l of
 * them columns 8 j + 2 (l % 4) and the next, in d[j]. a and b: see matrix_at; a lies by rows, b by rows (of its
 * transpose) or by depth. */
template <int N, int B_BY_DEPTH>
static __device__ __forceinline__ void wgmma(float (*d)[4], uint64_t a, uint64_t b) {
    WGMMA(24, 12, "%12", "%13", "%14");
    WGMMA(32, 16, "%16", "%17", "%18");
    WGMMA(40, 20, "%20", "%21", "%22");
    WGMMA(48, 24, "%24", "%25", "%26");
    WGMMA(56, 28, "%28", "%29", "%30");
    WGMMA(64, 32, "%32", "%33", "%34");
    WGMMA(72, 36, "%36", "%37", "%38");
    WGMMA(80, 40, "%40", "%41", "%42");
}
#else
template <typename D>
static __device__ __forceinline__ void wgmma_begin(D &) {}
template <typename D>
static __device__ __forceinline__ void wgmma_wait(D &) {}
template <int N, int B_BY_DEPTH>
static __device__ __forceinline__ void wgmma(float (*)[4], uint64_t, uint64_t) {}
#endif
#endif

/* An operand of wgmma in shared memory, not swizzled: blocks of 8 x 16 bytes, of 128 bytes without gaps. By rows, a
 * block is eight rows, eight deep: its two halves of the depth are `leading` bytes apart, the next eight rows `stride`
 * bytes. By depth, a block is eight steps of the depth, eight rows: its two halves of the depth again `leading` bytes
 * apart, the next eight rows `stride`. (The layouts without a swizzle of PTX's "Matrix Descriptor"; both distances and
 * p are multiples of 16, and 16 bytes further on is 1 more.) */
static __device__ __forceinline__ uint64_t matrix_at(uint32_t p, int leading, int stride) {
    return (uint64_t)(uint32_t)(stride >> 4) << 32 | ((uint32_t)(leading >> 4) << 16 | p >> 4);
}
#endif
