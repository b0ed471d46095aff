/* philox.h - Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 *
 * A counter and a key make four 32-bit words, with no state between calls: so a dropout mask is a function of
 * (seed, trial, layer, epoch, step, element), the same on the CPU and the GPU, for any number of threads, and the
 * backward pass computes it again instead of storing it. Plain C that nvcc compiles for the device too. */
#ifndef PHILOX_H
#define PHILOX_H
#include <stdint.h>
#ifndef PHILOX_FUNCTION
#define PHILOX_FUNCTION static inline
#endif

PHILOX_FUNCTION void philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0;
        c1 = (uint32_t)p1;
        c2 = n2;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}
#endif
