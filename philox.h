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

enum { PHILOX_ROUNDS = 10 };

/* The keys of the rounds: for who calls many times with the same key. */
static inline void philox_keys(const uint32_t key[2], uint32_t keys[PHILOX_ROUNDS][2]) {
    for (uint32_t round = 0; round < PHILOX_ROUNDS; round++) {
        keys[round][0] = key[0] + round * 0x9E3779B9u;
        keys[round][1] = key[1] + round * 0xBB67AE85u;
    }
}

PHILOX_FUNCTION void philox_round(const uint32_t k0, const uint32_t k1, uint32_t c[4]) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
    c[0] = n0;
    c[1] = (uint32_t)p1;
    c[2] = n2;
    c[3] = (uint32_t)p0;
}

PHILOX_FUNCTION void philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < 4; i++) out[i] = counter[i];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        philox_round(k0, k1, out);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}
#endif
