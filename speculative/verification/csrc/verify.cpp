// Verification on a CPU. Rows are read in order and only as far as needed. Loops over tokens are left
// to the compiler's vectoriser; sequences, or the parts of a row, are shared out to threads.

#include <algorithm>
#include <vector>

#include "arithmetic.h"
#include "lanes.h"

namespace speculative {
namespace {

constexpr int64_t PART = 4096;  // tokens that are reduced at once and stay in the first-level cache
constexpr int BLOCK = 128;      // tokens whose random numbers are drawn at once

// Reduce `count` tokens of a row: first their maximum, then the sum relative to it.
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

// Reduce `count` rows. Parts are merged in order, so that the result does not depend on the threads.
template <class T>
void reduce_rows(const T* const* rows, Normaliser* reduced, int count, int64_t vocabulary,
                 float scale, int threads) {
    const int64_t parts = (vocabulary + PART - 1) / PART;
    std::vector<Normaliser> partial(count * parts);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < count * parts; ++i) {
        int64_t start = i % parts * PART;
        partial[i] = reduce_part(rows[i / parts] + start, int(std::min(PART, vocabulary - start)), scale);
    }
    for (int row = 0; row < count; ++row) {
        reduced[row] = nothing();
        for (int64_t i = 0; i < parts; ++i)
            reduced[row] = merged(reduced[row], partial[row * parts + i], scale);
    }
}

// The leader of a race so far (see `candidate`), and the faults that were met.
struct Race {
    uint64_t best = 0;
    int fault = 0;
};

// The uniforms v of `count` tokens from `start` on: taken from `uniforms`, or counted if it is null.
void draw(const Draws& draws, const float* uniforms, int64_t start, int count,
          float* __restrict v) {
    if (uniforms) {
        for (int i = 0; i < BLOCK; ++i) v[i] = i < count ? uniforms[start + i] : 1;
        return;
    }
    uint32_t words[BLOCK];
    for (int i = 0; i < BLOCK; i += WORDS) philox_lanes(draws, uint32_t((start + i) / 4), words + i);
#pragma omp simd
    for (int i = 0; i < BLOCK; ++i) v[i] = uniform(words[i]);
}

// Whether any token of the block could be ahead of the leading rate if its weight were `weight`. Its
// rate is at most weight / v, since -log(1 - v) is at least v.
bool hopeful(float weight, float leading, const float* __restrict v) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (int i = 0; i < BLOCK; ++i) any |= weight > leading * v[i];
    return any;
}

// Race the tokens from start to end. For most blocks a bound shows that they hold no winner before
// any weight is computed, or at least before any logarithm is.
template <class T, Method METHOD, bool RESIDUAL>
Race race_part(const T* __restrict z, const T* __restrict y, const Weights& weights,
               const Draws& draws, const float* uniforms, int64_t start, int64_t end) {
    Race race;
    const float largest = weights.largest<METHOD>();
    float leading = 0;
    alignas(64) float w[BLOCK], v[BLOCK];
    for (; start < end; start += BLOCK) {
        const int count = int(std::min<int64_t>(BLOCK, end - start));
        draw(draws, uniforms, start, count, v);
        if (METHOD == SIGMOID) {  // the other methods reduced faults when they reduced the rows
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
        // Only now take logarithms, of the tokens that may lead.
        for (int i = 0; i < count; ++i)
            if (w[i] > leading * v[i])
                race.best = std::max(race.best, candidate(w[i] / arrival(v[i]), uint32_t(start + i)));
        leading = as_float(uint32_t(race.best >> 32));
    }
    return race;
}

// Race all tokens of a row; threads share out its parts.
template <class T, Method METHOD, bool RESIDUAL>
Race race_row(const T* z, const T* y, const Weights& weights, const Draws& draws,
              const float* uniforms, int64_t vocabulary, int threads) {
    if (threads == 1)
        return race_part<T, METHOD, RESIDUAL>(z, y, weights, draws, uniforms, 0, vocabulary);
    const int64_t parts = (vocabulary + PART - 1) / PART;
    uint64_t best = 0;
    int fault = 0;
#pragma omp parallel for num_threads(threads) reduction(max : best) reduction(| : fault)
    for (int64_t i = 0; i < parts; ++i) {
        Race race = race_part<T, METHOD, RESIDUAL>(z, y, weights, draws, uniforms, i * PART,
                                                  std::min((i + 1) * PART, vocabulary));
        best = std::max(best, race.best);
        fault |= race.fault;
    }
    return {best, fault};
}

// Verify sequence b, and write what was decided.
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
    Normaliser reduced[2] = {nothing(), nothing()};
    // Accept draft tokens until one is rejected or at fault: n of them.
    int n = 0, fault = 0;
    for (; n < length; ++n, z += p.target_strides[1], y += p.draft_strides[1]) {
        const T* rows[2] = {z, y};
        if (METHOD == EXACT) reduce_rows(rows, reduced, 2, p.vocabulary, scale, threads);
        Verdict verdict = judge<T>(p, draws, b, n, reduced[0], reduced[1]);
        fault = verdict.fault;
        if (!verdict.accepted) break;
    }
    // Reduce the rows that the next token comes from, where acceptance has not done so.
    const bool complete = n == length;
    const bool unread = METHOD == EXACT ? complete : METHOD == CALIBRATED && !fault;
    if (unread) {
        const T* rows[2] = {z, y};
        reduce_rows(rows, reduced, complete ? 1 : 2, p.vocabulary, scale, threads);
        fault = faults_of(reduced[0], reduced[1], complete);
    }
    *accepted = n, *status = fault;
    if (fault) return;

    // Sample the next token from the residual, or from the target where there is no residual.
    const Weights weights = weights_of<METHOD>(p, reduced[0], reduced[1]);
    const float* uniforms = draws.uniforms ? draws.uniforms + p.gamma : nullptr;
    Race race;
    if (!complete)
        race = race_row<T, METHOD, true>(z, y, weights, draws, uniforms, p.vocabulary, threads);
    if (!race.best && !race.fault)  // all accepted, or nothing left over
        race = race_row<T, METHOD, false>(z, y, weights, draws, uniforms, p.vocabulary, threads);
    *status = race.fault ? race.fault : race.best ? 0 : TARGET_LOGITS;
    if (!*status) *next = token_of(race.best);
}

// Verify all sequences. Threads share them out or, where they are few, the parts of each row.
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
