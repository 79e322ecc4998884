// Philox on eight counters at once, for CPUs: compilers do not find the 32 x 32 -> 64 bit multiply
// of vectors by themselves. Same numbers as `philox` in arithmetic.h, which the tests hold it to.

#pragma once

#include "arithmetic.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace speculative {

typedef uint64_t Lanes __attribute__((vector_size(64)));  // a 32-bit word each, in the low half

// Low words of a times multiplier, whatever the high halves of a hold.
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

// The words of blocks `first` to `first + 7`, block after block.
inline void philox_lanes(const Draws& draws, uint32_t first, uint32_t* __restrict words) {
    Lanes a = Lanes{0, 1, 2, 3, 4, 5, 6, 7} + first, zero{};
    Lanes b = zero + draws.position, c = zero + draws.request, d = zero + draws.stream;
    uint32_t left = draws.left, right = draws.right;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        Lanes of_a = product(a, 0xD2511F53u), of_c = product(c, 0xCD9E8D57u);
        a = (of_c >> 32) ^ b ^ left;
        b = of_c;
        c = (of_a >> 32) ^ d ^ right;
        d = of_a;
        left += 0x9E3779B9u;
        right += 0xBB67AE85u;
    }
    const Lanes ab = (a & 0xffffffffu) | b << 32, cd = (c & 0xffffffffu) | d << 32;
    const Lanes low = __builtin_shuffle(ab, cd, Lanes{0, 8, 1, 9, 2, 10, 3, 11});
    const Lanes high = __builtin_shuffle(ab, cd, Lanes{4, 12, 5, 13, 6, 14, 7, 15});
    memcpy(words, &low, 64);
    memcpy(words + 16, &high, 64);
}

}  // namespace speculative
