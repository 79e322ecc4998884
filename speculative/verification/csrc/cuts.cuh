// Where the filters cut rows, on a GPU (speculative/verification/filters.py says what they keep): a block for
// each row, before the row is reduced. Nothing is sorted. A token and its logit are one integer, their key,
// and the row is cut at the greatest key from which on the tokens amount to enough: in their number, or in
// their weight. It is found by division into four, with sums of the whole row for each.

#pragma once

#include "block.cuh"

namespace speculative {
namespace {

constexpr int PIVOTS = 3;
constexpr uint64_t LEAST_KEY = uint64_t(0x007fffff) << 32;  // of a token of -inf

// A logit and its token in one integer: larger for a larger logit, then for a lower token; largest of all
// for a fault.
__device__ uint64_t key_of(float z, uint32_t token) {
    const uint32_t bits = as_bits(z + 0.0f);  // -0 becomes 0
    const uint32_t ordered = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
    return uint64_t(is_fault(z) ? 0xffffffffu : ordered) << 32 | (0xffffffffu - token);
}

// The logit of a key; infinity for a fault.
__device__ float logit_of(uint64_t key) {
    const uint32_t ordered = uint32_t(key >> 32);
    if (ordered == 0xffffffffu) return INFINITY;
    return as_float(ordered ^ (ordered >> 31 ? 0x80000000u : 0xffffffffu));
}

// The cut that keeps all tokens from a key on.
__device__ Cut cut_at(uint64_t key) {
    const uint32_t last = 0xffffffffu - uint32_t(key);
    return {logit_of(key), int(last < 0x7fffffffu ? last : 0x7fffffffu)};
}

// The greatest key of a row; every thread of the block gets it.
template <class T>
__device__ uint64_t greatest_key(const Rows<T>& rows) {
    unsigned long long best = 0;
    float z[4], unused[4];
    for (int start = 4 * threadIdx.x; start < rows.vocabulary; start += GROUP) {
        rows.load_four(start, z, unused);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const unsigned long long mine = key_of(z[i], uint32_t(start + i));
            best = mine > best ? mine : best;
        }
    }
    return best_of_block(best);
}

// How a row's tokens are weighed: 2^(scale (z - maximum)).
struct Scale {
    float scale, maximum;
};

// For each pivot, how many tokens have a key from it on, and what they weigh. The tokens have a key from
// `floor` on.
template <class T>
__device__ void amounts(const Rows<T>& rows, const Scale& s, uint64_t floor, const uint64_t (&pivots)[PIVOTS],
                        float (&found)[2 * PIVOTS]) {
#pragma unroll
    for (int j = 0; j < 2 * PIVOTS; ++j) found[j] = 0;
    float z[4], unused[4];
    for (int start = 4 * threadIdx.x; start < rows.vocabulary; start += GROUP) {
        rows.load_four(start, z, unused);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint64_t key = start + i < rows.vocabulary ? key_of(z[i], uint32_t(start + i)) : 0;
            const float weight = power_below_one(s.scale * (z[i] - s.maximum));
#pragma unroll
            for (int j = 0; j < PIVOTS; ++j) {
                const bool counts = key >= pivots[j] && key >= floor;
                found[j] += counts ? 1 : 0;
                found[PIVOTS + j] += counts ? weight : 0;
            }
        }
    }
    sums_of_block(found);
}

// The key from which on the fewest first tokens are that amount to what is wanted: a number of tokens, or
// BY_WEIGHT a weight. `floor` is enough, `top` is above all keys.
template <class T, bool BY_WEIGHT>
__device__ uint64_t least_key(const Rows<T>& rows, const Scale& s, uint64_t floor, uint64_t top, float wanted) {
    uint64_t low = floor, high = top;
    float count_of_low = rows.vocabulary, count_of_high = 0;
    while (count_of_low - count_of_high > 1 && high - low > 1) {
        const uint64_t step = (high - low) / (PIVOTS + 1) ? (high - low) / (PIVOTS + 1) : 1;
        uint64_t pivots[PIVOTS];
#pragma unroll
        for (int j = 0; j < PIVOTS; ++j) pivots[j] = low + (j + 1) * step;
        float found[2 * PIVOTS];
        amounts(rows, s, floor, pivots, found);
        // The greatest pivot that is enough becomes low, the next one high.
#pragma unroll
        for (int j = 0; j < PIVOTS; ++j) {
            if (pivots[j] >= high) break;
            if (found[BY_WEIGHT ? PIVOTS + j : j] >= wanted) {
                low = pivots[j], count_of_low = found[j];
            } else {
                high = pivots[j], count_of_high = found[j];
                break;
            }
        }
    }
    return low;
}

// Whether rows are cut at all.
HD bool filters_rows(const Problem& p) {
    return p.top_ks || p.top_ps || p.min_ps || is_active(filter_of(p, 0), p.vocabulary);
}

// Find where every row is cut. Grid: rows x batch, the target's gamma + 1 rows first. A row that is at fault
// is not cut, so that its fault is seen when it is reduced.
template <class T>
__global__ void __launch_bounds__(THREADS, 1) cut_rows(const __grid_constant__ Problem p, Cut* cuts) {
    const int row = blockIdx.x;
    const int64_t b = blockIdx.y;
    const Filter f = filter_of(p, b);
    const double temperature = temperature_of(p, b);
    const bool filtered = is_active(f, p.vocabulary) && (row <= p.gamma || p.filters_draft);
    Cut cut;
    if (filtered && temperature > 0) {
        const T* z = row_at<T>(p, b, row);
        const Rows<T> rows = {z, nullptr, p.vocabulary, -1, aligned<4>(z), {}, {}};
        const uint64_t greatest = greatest_key(rows), top = greatest + 1;
        const Scale s = {scale_of(p, b), logit_of(greatest)};
        if (s.maximum > -INFINITY && s.maximum < INFINITY) {
            uint64_t least = LEAST_KEY;
            if (f.top_k < p.vocabulary) least = least_key<T, false>(rows, s, least, top, float(f.top_k));
            if (f.top_p < 1) {
                float total[2 * PIVOTS];
                amounts(rows, s, least, {least, top, top}, total);
                const float wanted = float(f.top_p) * total[PIVOTS];
                least = least_key<T, true>(rows, s, least, top, wanted > FLT_MIN ? wanted : FLT_MIN);
            }
            if (f.min_p > 0) {
                const uint64_t bound = key_of(least_kept(f, s.maximum, temperature), 0xffffffffu);
                least = bound > least ? bound : least;
            }
            cut = cut_at(least);
        }
    }
    if (threadIdx.x == 0) cuts[b * (2 * p.gamma + 1) + row] = cut;
}

}  // namespace
}  // namespace speculative
