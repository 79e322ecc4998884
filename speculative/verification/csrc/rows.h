// Rows of logits on a CPU, read group by group: as floats, reduced, or summed as weights. Loops over
// tokens are left to the compiler's vectoriser.

#pragma once

#include <algorithm>
#include <vector>

#include "arithmetic.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace speculative {

// `count` logits as floats: where they are, or widened into `into`.
inline const float* widened(const float* row, int, float*) { return row; }

inline const float* widened(const Brain* __restrict row, int count, float* __restrict into) {
#pragma omp simd
    for (int i = 0; i < count; ++i) into[i] = widen(row[i]);
    return into;
}

inline const float* widened(const Half* __restrict row, int count, float* __restrict into) {
    int i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(into + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(row + i))));
#endif
    for (; i < count; ++i) into[i] = widen(row[i]);
    return into;
}

// A row of logits. A token that is left out, not allowed or not kept reads as -inf.
template <class T>
struct Row {
    const T* logits;
    int vocabulary;
    const uint32_t* allowed;  // a bit a token, or null: all are
    int left_out = -1;
    Cut cut = {};

    int groups() const { return (vocabulary + GROUP - 1) / GROUP; }
    int count(int g) const { return std::min(GROUP, vocabulary - g * GROUP); }

    // `amount` logits from token `first` on, a multiple of 32: where they are, or in `into`. The mask alone
    // is seen.
    const float* part(int first, int amount, float* into) const {
        const float* z = widened(logits + first, amount, into);
        if (!allowed) return z;
        for (int i = 0; i < amount; i += 32) {
            const uint32_t word = allowed[(first + i) / 32];
            const int end = std::min(32, amount - i);
#pragma omp simd
            for (int j = 0; j < end; ++j) into[i + j] = word >> j & 1 ? z[i + j] : -INFINITY;
        }
        return into;
    }
    const float* uncut(int g, float* into) const { return part(g * GROUP, count(g), into); }

    // The logit of a token.
    float at(int token) const {
        const bool is_allowed = !allowed || (allowed[token / 32] >> token % 32 & 1);
        return is_allowed ? cut.of(widen(logits[token]), token) : -INFINITY;
    }

    // The logits of group g, where they are or in `into`.
    const float* group(int g, float* into) const {
        const float* z = uncut(g, into);
        const bool lacks_one = left_out >= 0 && left_out / GROUP == g;
        if (!lacks_one && !cut.cuts()) return z;
        const int last = std::max(-1, std::min(cut.last - g * GROUP, GROUP));
#pragma omp simd
        for (int i = 0; i < count(g); ++i)
            into[i] = (z[i] > cut.value) | ((z[i] == cut.value) & (i <= last)) ? z[i] : -INFINITY;
        if (lacks_one) into[left_out % GROUP] = -INFINITY;
        return into;
    }
};

// The rows that the next token comes from. Without a draft's row its logits are null.
template <class T>
struct Pair {
    Row<T> target, draft;
};

// What a loop over logits finds: the largest, the sum relative to `base`, and faults.
inline Normaliser summed(const float* __restrict z, int count, float base, float scale) {
    float maximum = -FLT_MAX, total = 0;
    int fault = 0;
#pragma omp simd reduction(max : maximum) reduction(+ : total) reduction(| : fault)
    for (int i = 0; i < count; ++i) {
        maximum = z[i] > maximum ? z[i] : maximum;
        fault |= is_fault(z[i]);
        total += power_below_one(scale * (z[i] - base));
    }
    return {maximum, total, fault};
}

// Reduce a row; `groups` receives what every group is reduced to. A group's sum is relative to the
// largest logit of the row so far. So most groups are read once, while memory brings the next one.
template <class T>
Normaliser reduced(const Row<T>& row, float scale, std::vector<Normaliser>& groups) {
    float buffer[GROUP];
    Normaliser whole = nothing();
    groups.resize(row.groups());
    for (int g = 0; g < row.groups(); ++g) {
        const float* z = row.group(g, buffer);
        Normaliser found = summed(z, row.count(g), whole.maximum, scale);
        const float base = std::max(found.maximum, whole.maximum);
        if (base > whole.maximum) found = summed(z, row.count(g), base, scale);
        groups[g] = {base, found.total, found.fault};
        whole = merged(whole, groups[g], scale);
    }
    return whole;
}

// The largest logit, the first token that has it, and whether the row is at fault.
struct Top {
    float maximum;
    int token;
    bool faulty;
};

template <class T>
Top top_of(const Row<T>& row) {
    float buffer[GROUP];
    Top top = {-INFINITY, -1, false};
    for (int g = 0; g < row.groups(); ++g) {
        const float* __restrict z = row.group(g, buffer);
        const int count = row.count(g);
        float maximum = -INFINITY;
        int fault = 0;
#pragma omp simd reduction(max : maximum) reduction(| : fault)
        for (int i = 0; i < count; ++i) {
            maximum = z[i] > maximum ? z[i] : maximum;
            fault |= is_fault(z[i]);
        }
        top.faulty |= fault;
        if (!(maximum > top.maximum)) continue;
        top.maximum = maximum;
        top.token = g * GROUP + int(std::find(z, z + count, maximum) - z);
    }
    top.faulty |= top.token < 0;
    return top;
}

// The sum of the weights of group g: of the residual, or of the target.
template <class T, Method METHOD, bool RESIDUAL>
float sum_of_group(const Pair<T>& rows, int g, const Weights& weights) {
    float buffers[2][GROUP];
    const float* __restrict z = rows.target.group(g, buffers[0]);
    const float* __restrict y = RESIDUAL ? rows.draft.group(g, buffers[1]) : z;
    const int count = rows.target.count(g);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < count; ++i) sum += weights.of<METHOD, RESIDUAL>(z[i], y[i]);
    return sum;
}

// An upper bound of the sum of a group's weights under the sigmoid rule, whose slope is nowhere above
// 1/4, found without an exponential. Adds the faults of the group to `fault`.
template <class T, bool RESIDUAL>
float sigmoid_bound(const Pair<T>& rows, int g, const Weights& weights, int& fault) {
    float buffers[2][GROUP];
    const float* __restrict z = rows.target.group(g, buffers[0]);
    const float* __restrict y = RESIDUAL ? rows.draft.group(g, buffers[1]) : z;
    const int count = rows.target.count(g);
    float gap = 0;
    int bad_target = 0, bad_draft = 0;
#pragma omp simd reduction(max : gap) reduction(| : bad_target, bad_draft)
    for (int i = 0; i < count; ++i) {
        const float apart = z[i] - y[i];
        gap = apart > gap ? apart : gap;
        bad_target |= is_fault(z[i]);
        bad_draft |= is_fault(y[i]);
    }
    fault |= (bad_target ? TARGET_LOGITS : 0) | (RESIDUAL && bad_draft ? DRAFT_LOGITS : 0);
    return RESIDUAL ? count * std::min(1.0f, 0.2501f * weights.slope * gap) : float(count);
}

}  // namespace speculative
