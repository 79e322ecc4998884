// Philox on eight counters at once, for CPUs, since compilers do not find the 32 x 32 -> 64 bit
// multiply of vectors by themselves. The numbers are those of `philox` in arithmetic.h, to which the
// tests hold them.

#pragma once

#include "arithmetic.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace speculative {

typedef uint64_t Lanes __attribute__((vector_size(64)));  // each holds a word in its low half

// The 64-bit products of the low halves of a with the multiplier; the high halves do not matter.
inline Lanes product(Lanes a, uint32_t multiplier) {
#if defined(__AVX512F__)
    return Lanes(_mm512_mul_epu32(__m512i(a), _mm512_set1_epi64(multiplier)));
#elif defined(__AVX2__)
    union { Lanes whole; __m256i half[2]; } x{a};
    for (auto& half : x.half) half = _mm256_mul_epu32(half, _mm256_set1_epi64x(multiplier));
    return x.whole;
#else
    return (a & 0xffffffffu) * multiplier;
#endif
}

// How many vectors of counters are under way at once. A round waits for its products, and the rounds
// of the other vectors fill that time.
#ifdef __AVX512F__
constexpr int VECTORS = 4;
#else
constexpr int VECTORS = 1;  // fewer registers
#endif
constexpr int WORDS = VECTORS * 32;  // how many words one call of philox_lanes draws

// Draw the words of blocks `first` to `first + WORDS / 4 - 1`, block after block.
inline void philox_lanes(const Draws& draws, uint32_t first, uint32_t* __restrict words) {
    Lanes a[VECTORS], b[VECTORS], c[VECTORS], d[VECTORS];
    for (int i = 0; i < VECTORS; ++i) {
        a[i] = Lanes{0, 1, 2, 3, 4, 5, 6, 7} + (first + 8 * i);
        b[i] = Lanes{} + draws.position, c[i] = Lanes{} + draws.request, d[i] = Lanes{} + draws.stream;
    }
    uint32_t left = draws.left, right = draws.right;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i) {
            const Lanes of_a = product(a[i], 0xD2511F53u), of_c = product(c[i], 0xCD9E8D57u);
            a[i] = (of_c >> 32) ^ b[i] ^ left;
            b[i] = of_c;
            c[i] = (of_a >> 32) ^ d[i] ^ right;
            d[i] = of_a;
        }
        left += 0x9E3779B9u;
        right += 0xBB67AE85u;
    }
    for (int i = 0; i < VECTORS; ++i) {
        const Lanes ab = (a[i] & 0xffffffffu) | b[i] << 32, cd = (c[i] & 0xffffffffu) | d[i] << 32;
        const Lanes low = __builtin_shuffle(ab, cd, Lanes{0, 8, 1, 9, 2, 10, 3, 11});
        const Lanes high = __builtin_shuffle(ab, cd, Lanes{4, 12, 5, 13, 6, 14, 7, 15});
        memcpy(words + 32 * i, &low, 64);
        memcpy(words + 32 * i + 16, &high, 64);
    }
}

}  // namespace speculative
