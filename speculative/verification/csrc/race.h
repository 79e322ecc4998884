// Sampling from weights on a CPU, by exponential races (speculative/verification/races.py says why):
// a group of tokens wins the race of the groups' sums, then a token that of its group.

#pragma once

#include "lanes.h"
#include "rows.h"

namespace speculative {

constexpr int DRAWN = 128;  // tokens whose random numbers are drawn at once

// The numbers of `count` tokens, or groups, from `start` on; 1, which never wins, fills the block.
inline void draw(const Draws& draws, int64_t start, int count, float* __restrict v) {
    if (draws.given) {
        for (int i = 0; i < DRAWN; ++i) v[i] = i < count ? draws.given[start + i] : 1;
        return;
    }
    uint32_t words[DRAWN];
    for (int i = 0; i < DRAWN; i += WORDS) philox_lanes(draws, uint32_t((start + i) / 4), words + i);
#pragma omp simd
    for (int i = 0; i < DRAWN; ++i) v[i] = uniform(words[i]);
}

// Race the tokens of group g; `best` is the leader before and after it (see `candidate`). Its rate is at
// most weight / v, since -log(1 - v) is at least v: logarithms are taken where that may win.
template <class T, Method METHOD, bool RESIDUAL>
void race_group(const Pair<T>& rows, int g, const Weights& weights, const Draws& draws, uint64_t& best) {
    float buffers[2][GROUP];
    const float* z = rows.target.group(g, buffers[0]);
    const float* y = RESIDUAL ? rows.draft.group(g, buffers[1]) : z;
    const int all = rows.target.count(g);
    const float largest = weights.largest<METHOD>();
    alignas(64) float w[DRAWN], v[DRAWN];
    for (int first = 0; first < all; first += DRAWN) {
        const int count = std::min(DRAWN, all - first);
        const int64_t start = int64_t(g) * GROUP + first;
        const float leading = as_float(uint32_t(best >> 32));
        draw(draws, start, count, v);
        int hopeful = 0, ahead = 0;
#pragma omp simd reduction(| : hopeful)
        for (int i = 0; i < DRAWN; ++i) hopeful |= largest > leading * v[i];
        if (!hopeful) continue;
#pragma omp simd reduction(| : ahead)
        for (int i = 0; i < count; ++i) {
            w[i] = weights.of<METHOD, RESIDUAL>(z[first + i], y[first + i]);
            ahead |= w[i] > leading * v[i];
        }
        if (!ahead) continue;
        for (int i = 0; i < count; ++i)
            if (w[i] > leading * v[i])
                best = std::max(best, candidate(w[i] / arrival(v[i]), uint32_t(start + i)));
    }
}

// What the race of the groups needs: an upper bound of every group's sum of weights.
struct Bounds {
    std::vector<float> of_group;
    bool are_sums;  // whether each is the sum itself
};

// The group that wins, by its sum over its arrival; -1: none has any weight. Sums are taken only of
// groups that could win if their sums were their bounds.
template <class T, Method METHOD, bool RESIDUAL>
int winning_group(const Pair<T>& rows, const Weights& weights, const Draws& draws, const Bounds& bounds) {
    const int groups = rows.target.groups();
    thread_local std::vector<float> arrivals, hopes;
    arrivals.resize(groups + DRAWN), hopes.resize(groups);
    for (int g = 0; g < groups; g += DRAWN)
        draw(draws, g, std::min(DRAWN, groups - g), arrivals.data() + g);
    for (int g = 0; g < groups; ++g) {
        arrivals[g] = arrival(arrivals[g]);
        hopes[g] = bounds.of_group[g] / arrivals[g];
    }
    float best = 0;
    for (int winner = -1;;) {
        const int g = int(std::max_element(hopes.begin(), hopes.end()) - hopes.begin());
        if (!(hopes[g] > best)) return winner;
        if (bounds.are_sums) return g;
        const float rate = sum_of_group<T, METHOD, RESIDUAL>(rows, g, weights) / arrivals[g];
        hopes[g] = 0;
        if (rate > best) best = rate, winner = g;
    }
}

// Sample a token from the weights; -1: none has any weight.
template <class T, Method METHOD, bool RESIDUAL>
int64_t sampled(const Problem& p, int64_t b, const Pair<T>& rows, const Weights& weights,
                const Bounds& bounds) {
    const int g = winning_group<T, METHOD, RESIDUAL>(rows, weights, group_draws_of(p, b), bounds);
    uint64_t best = 0;
    if (g >= 0) race_group<T, METHOD, RESIDUAL>(rows, g, weights, draws_of(p, b), best);
    return best ? token_of(best) : -1;
}

}  // namespace speculative
