// Verification on a CPU: rows are read in order and only as far as needed; loops over tokens are
// left to the compiler's vectoriser, sequences or the parts of a row to threads.

#include <algorithm>
#include <vector>

#include "arithmetic.h"
#include "lanes.h"

namespace speculative {
namespace {

constexpr int64_t PART = 4096;  // tokens reduced at once: they stay in the first-level cache
constexpr int BLOCK = 128;      // tokens whose random numbers are drawn at once

template <class T>
Normaliser reduce_part(const T* __restrict row, int count, float scale) {
    float maximum = -FLT_MAX, total = 0;
    int fault = 0;
#pragma omp simd reduction(max : maximum) reduction(| : fault)
    for (int i = 0; i < count; ++i) {
        float z = widen(row[i]);
        maximum = z > maximum ? z : maximum;
        fault |= is_fault(z);
    }
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < count; ++i) total += power_of_two(scale * (widen(row[i]) - maximum));
    return {maximum, total, fault};
}

// Parts are merged in order, so that the result does not depend on the threads.
template <class T>
void reduce_rows(const T* const* rows, Normaliser* found, int count, int64_t vocabulary,
                 float scale, int threads) {
    const int64_t parts = (vocabulary + PART - 1) / PART;
    std::vector<Normaliser> partial(count * parts);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < count * parts; ++i) {
        int64_t start = i % parts * PART;
        partial[i] = reduce_part(rows[i / parts] + start, int(std::min(PART, vocabulary - start)), scale);
    }
    for (int row = 0; row < count; ++row) {
        found[row] = nothing();
        for (int64_t i = 0; i < parts; ++i)
            found[row] = merged(found[row], partial[row * parts + i], scale);
    }
}

struct Race {
    uint64_t best = 0;
    int fault = 0;
};

void draw(const Draws& draws, const float* given, int64_t start, int count, float* __restrict v) {
    if (given) {
        for (int i = 0; i < BLOCK; ++i) v[i] = i < count ? given[start + i] : 1;
        return;
    }
    uint32_t words[BLOCK];
    for (int i = 0; i < BLOCK; i += WORDS) philox_lanes(draws, uint32_t((start + i) / 4), words + i);
#pragma omp simd
    for (int i = 0; i < BLOCK; ++i) v[i] = uniform(words[i]);
}

// Could any token of the block be ahead, if its weight were `weight`? Its arrival is at least v.
bool hopeful(float weight, float leading, const float* __restrict v) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (int i = 0; i < BLOCK; ++i) any |= weight > leading * v[i];
    return any;
}

// The race over tokens start to end. Most blocks are seen to hold no winner before a weight, or at
// least before a logarithm, is taken.
template <class T, Method METHOD, bool RESIDUAL>
Race race_part(const T* __restrict z, const T* __restrict y, const Weights& weights,
               const Draws& draws, const float* given, int64_t start, int64_t end) {
    Race race;
    const float largest = weights.largest<METHOD>();
    float leading = 0;
    alignas(64) float w[BLOCK], v[BLOCK];
    for (; start < end; start += BLOCK) {
        const int count = int(std::min<int64_t>(BLOCK, end - start));
        draw(draws, given, start, count, v);
        if (METHOD == SIGMOID) {  // the others have seen the rows before
            int fault = 0;
#pragma omp simd reduction(| : fault)
            for (int i = 0; i < count; ++i) {
                fault |= is_fault(widen(z[start + i])) ? TARGET_LOGITS : 0;
                if (RESIDUAL) fault |= is_fault(widen(y[start + i])) ? DRAFT_LOGITS : 0;
            }
            race.fault |= fault;
        }
        if (!hopeful(largest, leading, v)) continue;
        int ahead = 0;
#pragma omp simd reduction(| : ahead)
        for (int i = 0; i < count; ++i) {
            w[i] = weights.of<METHOD, RESIDUAL>(widen(z[start + i]), RESIDUAL ? widen(y[start + i]) : 0);
            ahead |= w[i] > leading * v[i];
        }
        if (!ahead) continue;
        for (int i = 0; i < count; ++i)
            if (w[i] > leading * v[i])
                race.best = std::max(race.best, candidate(w[i] / arrival(v[i]), uint32_t(start + i)));
        leading = as_float(uint32_t(race.best >> 32));
    }
    return race;
}

template <class T, Method METHOD, bool RESIDUAL>
Race race_row(const T* z, const T* y, const Weights& weights, const Draws& draws,
              const float* given, int64_t vocabulary, int threads) {
    if (threads == 1)
        return race_part<T, METHOD, RESIDUAL>(z, y, weights, draws, given, 0, vocabulary);
    const int64_t parts = (vocabulary + PART - 1) / PART;
    uint64_t best = 0;
    int fault = 0;
#pragma omp parallel for num_threads(threads) reduction(max : best) reduction(| : fault)
    for (int64_t i = 0; i < parts; ++i) {
        Race race = race_part<T, METHOD, RESIDUAL>(z, y, weights, draws, given, i * PART,
                                                  std::min((i + 1) * PART, vocabulary));
        best = std::max(best, race.best);
        fault |= race.fault;
    }
    return {best, fault};
}

template <class T, Method METHOD>
void verify_sequence(const Problem& p, int64_t b, int threads) {
    int64_t *accepted = p.out + b, *next = accepted + p.batch, *status = next + p.batch;
    const int64_t length = p.lengths ? p.lengths[b] : p.gamma;
    *accepted = 0, *next = -1, *status = LENGTH;
    if (length < 0 || length > p.gamma) return;

    const T* z = static_cast<const T*>(p.target) + b * p.target_strides[0];
    const T* y = static_cast<const T*>(p.draft) + b * p.draft_strides[0];
    const Draws draws = draws_of(p, b);
    const float scale = scale_of(p);
    Normaliser found[2] = {nothing(), nothing()};
    int n = 0, fault = 0;
    for (; n < length; ++n, z += p.target_strides[1], y += p.draft_strides[1]) {
        const T* rows[2] = {z, y};
        if (METHOD == EXACT) reduce_rows(rows, found, 2, p.vocabulary, scale, threads);
        Verdict verdict = judge<T>(p, draws, b, n, found[0], found[1]);
        fault = verdict.fault;
        if (!verdict.accepted) break;
    }
    const bool complete = n == length;
    const bool unread = METHOD == EXACT ? complete : METHOD == CALIBRATED && !fault;
    if (unread) {
        const T* rows[2] = {z, y};
        reduce_rows(rows, found, complete ? 1 : 2, p.vocabulary, scale, threads);
        fault = faults_of(found[0], found[1], complete);
    }
    *accepted = n, *status = fault;
    if (fault) return;

    const Weights weights = weights_of<METHOD>(p, found[0], found[1]);
    const float* given = draws.given ? draws.given + p.gamma : nullptr;
    Race race;
    if (!complete)
        race = race_row<T, METHOD, true>(z, y, weights, draws, given, p.vocabulary, threads);
    if (!race.best && !race.fault)  // all accepted, or nothing left over
        race = race_row<T, METHOD, false>(z, y, weights, draws, given, p.vocabulary, threads);
    *status = race.fault ? race.fault : race.best ? 0 : TARGET_LOGITS;
    if (!*status) *next = token_of(race.best);
}

// Threads share out sequences, or, where these are few, the parts of each row.
template <class T, Method METHOD>
void verify_batch(const Problem& p, int threads) {
    const bool by_sequence = p.batch >= threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (by_sequence && threads > 1)
    for (int64_t b = 0; b < p.batch; ++b)
        verify_sequence<T, METHOD>(p, b, by_sequence ? 1 : threads);
}

template <class T>
void verify_as(const Problem& p, int threads) {
    switch (p.method) {
        case EXACT: return verify_batch<T, EXACT>(p, threads);
        case SIGMOID: return verify_batch<T, SIGMOID>(p, threads);
        case CALIBRATED: return verify_batch<T, CALIBRATED>(p, threads);
    }
}

}  // namespace
}  // namespace speculative

extern "C" int speculative_verify_cpu(const speculative::Problem* problem, int threads) {
    using namespace speculative;
    switch (problem->type) {
        case FLOAT32: verify_as<float>(*problem, threads); return 0;
        case FLOAT16: verify_as<Half>(*problem, threads); return 0;
        case BFLOAT16: verify_as<Brain>(*problem, threads); return 0;
    }
    return 1;
}
