// Logits of a row that may be kept, and the search among them for the place where filters cut, on a CPU.

#pragma once

#include <functional>
#include <utility>

#include "rows.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace speculative {

constexpr int SPARE = 64;  // numbers that `collect` may write beyond those it finds
constexpr int FEW = 16;    // logits that are sorted

// Write the logits above `low`, and where they are BOUNDED up to `high`, to `into`, in their order; returns
// how many there are. It may be the same place.
template <bool BOUNDED = true>
int collect(const float* z, int count, float low, float high, float* into) {
    int found = 0, i = 0;
#ifdef __AVX512F__
    const __m512 least = _mm512_set1_ps(low), most = _mm512_set1_ps(high);
    for (; i + 64 <= count; i += 64) {
        __m512 x[4];
        __mmask16 wanted[4];
        for (int j = 0; j < 4; ++j) {
            x[j] = _mm512_loadu_ps(z + i + 16 * j);
            wanted[j] = _mm512_cmp_ps_mask(x[j], least, _CMP_GT_OQ);
            if (BOUNDED) wanted[j] = _mm512_mask_cmp_ps_mask(wanted[j], x[j], most, _CMP_LE_OQ);
        }
        if (!(wanted[0] | wanted[1] | wanted[2] | wanted[3])) continue;
        for (int j = 0; j < 4; ++j) {
            _mm512_storeu_ps(into + found, _mm512_maskz_compress_ps(wanted[j], x[j]));
            found += __builtin_popcount(wanted[j]);
        }
    }
#endif
    while (i < count) {
        const int end = std::min(i + 64, count);
        int any = 0;
#pragma omp simd reduction(| : any)
        for (int j = i; j < end; ++j) any |= (z[j] > low) & (!BOUNDED | (z[j] <= high));
        for (; any && i < end; ++i) {
            const float x = z[i];
            into[found] = x;
            found += (x > low) & (!BOUNDED | (x <= high));
        }
        i = end;
    }
    return found;
}

// The same without a bound.
inline int collect(const float* z, int count, float low, float* into) {
    return collect<false>(z, count, low, INFINITY, into);
}

// How many of some logits there are, and their weight: the sum of 2^(scale (z - maximum)).
struct Amount {
    int count = 0;
    double weight = 0;

    bool reaches(const Amount& wanted) const { return count >= wanted.count && weight >= wanted.weight; }
};

// Where the least logit lies that is needed for an amount: above `low`, up to `high`.
struct Bracket {
    float low, high;
    Amount of_low, of_high;  // of the candidates above each
};

// Logits that may be kept, in no order.
struct Candidates {
    std::vector<float> logits;
    int count = 0;
    float maximum = 0, scale = 0;  // by which they are weighed

    // Make room for so many, and for what `collect` writes beyond them.
    float* reserve(int64_t size) {
        if (int64_t(logits.size()) < size + SPARE) logits.resize(size + SPARE);
        return logits.data();
    }
    void add(float logit, int times) {
        reserve(count + times);
        std::fill_n(logits.begin() + count, times, logit);
        count += times;
    }
    float weight_of(float logit) const { return power_below_one(scale * (logit - maximum)); }

    // Those above a logit.
    Amount above(float logit) const {
        const float* __restrict z = logits.data();
        const float most = maximum, times = scale;
        const int all = count;
        int found = 0;
        float weight = 0;
#pragma omp simd reduction(+ : found, weight)
        for (int i = 0; i < all; ++i) {
            const float own = power_below_one(times * (z[i] - most));
            found += z[i] > logit ? 1 : 0;
            weight += z[i] > logit ? own : 0;
        }
        return {found, weight};
    }
    // All of them, and those above a logit, in one pass.
    std::pair<Amount, Amount> both(float logit) const {
        const float* __restrict z = logits.data();
        const float most = maximum, times = scale;
        const int all = count;
        int found = 0;
        float weight = 0, weight_above = 0;
#pragma omp simd reduction(+ : found, weight, weight_above)
        for (int i = 0; i < all; ++i) {
            const float own = power_below_one(times * (z[i] - most));
            weight += own;
            found += z[i] > logit ? 1 : 0;
            weight_above += z[i] > logit ? own : 0;
        }
        return {{all, weight}, {found, weight_above}};
    }
    // The bracket that is nothing but their range.
    Bracket whole() const {
        const auto [least, largest] = range();
        return {nextafterf(least, -INFINITY), largest, {count, 0}, {}};
    }
    // The least and the largest.
    std::pair<float, float> range() const {
        const float* __restrict z = logits.data();
        float least = INFINITY, largest = -INFINITY;
#pragma omp simd reduction(min : least) reduction(max : largest)
        for (int i = 0; i < count; ++i) {
            least = z[i] < least ? z[i] : least;
            largest = z[i] > largest ? z[i] : largest;
        }
        return {least, largest};
    }
};

// Where the largest candidates end that amount to what was wanted.
struct Edge {
    float logit;      // the least one
    int64_t equal;    // how many candidates that have it are among them
    bool cuts_equal;  // whether others that have it are not
    double weight;    // of all of them
};

// Integers in the order of floats, equal where they are.
inline int32_t ordered(float x) {
    const int32_t bits = int32_t(as_bits(x));
    return bits < 0 ? -(bits & 0x7fffffff) : bits;
}
inline float from_ordered(int32_t x) { return as_float(x < 0 ? 0x80000000u | uint32_t(-x) : uint32_t(x)); }

// The fewest largest candidates that are as many as `wanted`, or weigh as much; their least is in a bracket.
inline Edge edge_of(const Candidates& all, const Amount& wanted, const Bracket& bracket) {
    thread_local Candidates inner;  // those in the bracket
    auto [low, high, of_low, of_high] = bracket;
    Amount of_others = of_high;  // above all of `inner`
    inner.maximum = all.maximum, inner.scale = all.scale;
    inner.count = collect(all.logits.data(), all.count, low, high, inner.reserve(all.count));
    while (inner.count > FEW && int64_t(ordered(high)) - ordered(low) > 1) {
        const float middle = from_ordered(int32_t((int64_t(ordered(low)) + ordered(high)) >> 1));
        Amount here = inner.above(middle);
        here.count += of_others.count, here.weight += of_others.weight;
        if (here.reaches(wanted)) low = middle, of_low = here;
        else high = middle, of_high = here;
        if (2 * (of_low.count - of_high.count) > inner.count) continue;
        inner.count = collect(inner.logits.data(), inner.count, low, high, inner.logits.data());
        of_others = of_high;
    }
    inner.count = collect(inner.logits.data(), inner.count, low, high, inner.logits.data());
    // Few are left, or many that are equal.
    const auto first = inner.logits.begin(), last = first + inner.count;
    if (inner.count <= FEW) std::sort(first, last, std::greater<float>());
    Edge edge = {high, 0, false, 0};
    auto next = first;
    for (Amount sum = of_high; next != last && !sum.reaches(wanted); ++next) {
        edge.equal = *next == edge.logit ? edge.equal + 1 : 1;
        edge.logit = *next;
        ++sum.count, edge.weight = sum.weight += all.weight_of(*next);
    }
    edge.cuts_equal = next != last && *next == edge.logit;
    return edge;
}

}  // namespace speculative
