// Where the filters cut a row, on a CPU (speculative/verification/filters.py says what they keep). The row
// is not sorted, and no copy of it is masked: logits that may be kept are collected above a floor, and
// among those few the cut is found by bisection.

#pragma once

#include "candidates.h"

namespace speculative {

constexpr int STRETCH = 128;               // tokens whose largest logit is found first
constexpr int STRETCHES = GROUP / STRETCH;  // of a group

// Collect the logits of a row above `low`.
template <class T>
void collect_above(const Row<T>& row, float low, Candidates& found) {
    float buffer[GROUP];
    float* const into = found.reserve(row.vocabulary);
    found.count = 0;
    for (int g = 0; g < row.groups(); ++g)
        found.count += collect(row.uncut(g, buffer), row.count(g), low, into + found.count);
}

// Write the largest logit of every stretch of a group; returns whether NaN or +inf was seen.
inline bool find_peaks(const float* __restrict z, int count, float* __restrict peaks) {
    int fault = 0;
#pragma omp simd reduction(| : fault)
    for (int i = 0; i < count; ++i) fault |= is_fault(z[i]);
    for (int j = 0; j < STRETCHES; ++j) {
        const int end = std::min((j + 1) * STRETCH, count);
        float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
        for (int i = j * STRETCH; i < end; ++i) largest = z[i] > largest ? z[i] : largest;
        peaks[j] = largest;
    }
    return fault;
}

// Collect the k largest logits of a row and some more, or all above -inf if those are fewer, and set the
// maximum. Returns whether the row is at fault.
//
// The kth largest of the stretches' largest logits is no larger than the kth largest logit, so that a
// stretch without one above it needs no second look.
template <class T>
bool collect_largest(const Row<T>& row, int k, Candidates& found) {
    thread_local Candidates peaks;
    float buffer[GROUP];
    float* const peak = peaks.reserve(row.groups() * STRETCHES);
    for (int g = 0; g < row.groups(); ++g)
        if (find_peaks(row.uncut(g, buffer), row.count(g), peak + g * STRETCHES)) return true;
    peaks.count = row.groups() * STRETCHES;
    found.maximum = peaks.range().second;
    if (found.maximum == -INFINITY) return true;
    float low = -INFINITY;
    if (k <= peaks.count) {
        std::vector<float> sorted(peak, peak + peaks.count);
        std::nth_element(sorted.begin(), sorted.begin() + k - 1, sorted.end(), std::greater<float>());
        low = nextafterf(sorted[k - 1], -INFINITY);
    }
    float* const into = found.reserve(row.vocabulary);
    found.count = 0;
    for (int s = 0; s < peaks.count; ++s) {
        if (!(peak[s] > low)) continue;
        const int first = s * STRETCH, count = std::min(STRETCH, row.vocabulary - first);
        const float* z = row.part(first, count, buffer);
        found.count += collect(z, count, low, into + found.count);
    }
    return false;
}

// How the weight of a large row is spread over its logits, by 16 tokens of every group, which stand for the
// rest.
struct Spread {
    static constexpr int EACH = 16, LEAST = 8, BINS = 128;  // bins of half an octave below the maximum
    float maximum, scale, times;       // `times`: how many tokens a sampled one stands for
    float weight_of[BINS] = {};
    int count_of[BINS] = {};

    // A logit below which tokens of this weight lie.
    float below(double weight) const {
        int bin = BINS - 1;
        for (double so_far = 0; bin > 0; --bin)
            if ((so_far += double(weight_of[bin]) * times) > weight) break;
        return maximum - (bin + 1) / (2 * scale);
    }
    // A logit that a few of the sampled tokens are above.
    float below_few() const {
        int bin = 0;
        for (int above = count_of[0]; bin < BINS - 1 && above < LEAST;) above += count_of[++bin];
        return maximum - (bin + 1) / (2 * scale);
    }
};

template <class T>
Spread spread_of(const Row<T>& row, float maximum, float scale) {
    constexpr int EACH = Spread::EACH;
    const int groups = row.vocabulary / GROUP;
    Spread spread = {maximum, scale, float(row.vocabulary) / (groups * EACH)};
    for (int g = 0; g < groups; ++g) {
        float buffer[EACH], octaves[EACH], weights[EACH];
        const float* z = row.part(g * GROUP + g % 64 * 32, EACH, buffer);
#pragma omp simd
        for (int i = 0; i < EACH; ++i) {
            const float apart = scale * (maximum - z[i]);
            octaves[i] = apart < 63 ? apart : 63;
            weights[i] = power_below_one(-octaves[i]);
        }
        for (int i = 0; i < EACH; ++i) {
            const int bin = int(2 * octaves[i]);
            spread.weight_of[bin] += weights[i], ++spread.count_of[bin];
        }
    }
    return spread;
}

// Collect the logits of a row that was reduced to `whole`, without those that top_p leaves out for certain
// or most likely, and narrow down where it cuts. If the likely floor was too high, lower ones follow.
template <class T>
void collect_likely(const Row<T>& row, const Normaliser& whole, double top_p, Candidates& found,
                    Bracket& bracket) {
    const Amount wanted = {0, std::max(top_p * whole.total, DBL_MIN)};
    const double spare = (1 - top_p) * whole.total;  // the weight that may be left out
    const float certain = whole.maximum + float(log2(spare / row.vocabulary)) / found.scale;
    float likely = certain, lower = certain, high = whole.maximum;
    if (row.vocabulary >= 8 * GROUP) {
        const Spread spread = spread_of(row, whole.maximum, found.scale);
        likely = std::max(certain, std::min(spread.below(0.7 * spare), spread.below_few()));
        lower = std::max(certain, std::min(spread.below(0.35 * spare), likely));
        high = std::max(likely, spread.below(1.2 * spare));
    }
    found.maximum = whole.maximum;
    for (float floor : {likely, lower, certain}) {
        collect_above(row, floor, found);
        const auto [all, above] = found.both(high);
        if (!all.reaches(wanted)) continue;
        if (above.reaches(wanted)) bracket = {high, whole.maximum, above, {}};
        else bracket = {floor, high, all, above};
        return;
    }
    collect_above(row, -INFINITY, found);
    bracket = found.whole();
}

// The token of a row that has this logit as the `number`th.
template <class T>
int token_with(const Row<T>& row, float logit, int64_t number) {
    float buffer[GROUP];
    for (int g = 0; g < row.groups(); ++g) {
        const float* __restrict z = row.uncut(g, buffer);
        int equal = 0;
#pragma omp simd reduction(+ : equal)
        for (int i = 0; i < row.count(g); ++i) equal += z[i] == logit;
        if (equal < number) {
            number -= equal;
            continue;
        }
        for (int i = 0;; ++i)
            if (z[i] == logit && --number == 0) return g * GROUP + i;
    }
    return row.vocabulary;
}

// Cut a row by filters in range, of which one is active, and reduce what is kept.
template <class T>
Normaliser cut_and_reduced(Row<T>& row, const Filter& f, double temperature, float scale) {
    thread_local Candidates all;
    thread_local std::vector<Normaliser> unused;
    constexpr Normaliser FAULTY = {0, 0, true};
    Edge edge = {-INFINITY, 0, false, 0};
    Bracket bracket;
    double total;
    all.scale = scale;
    if (f.top_k < row.vocabulary) {
        if (collect_largest(row, int(f.top_k), all)) return FAULTY;
        edge = edge_of(all, {int(f.top_k), 0}, all.whole());
        total = edge.weight;
        all.count = collect(all.logits.data(), all.count, edge.logit, all.logits.data());
        all.add(edge.logit, int(edge.equal));
        bracket = all.whole();
    } else if (f.top_p < 1) {
        const Normaliser whole = reduced(row, scale, unused);
        if (whole.faulty()) return FAULTY;
        total = whole.total;
        collect_likely(row, whole, f.top_p, all, bracket);
    } else {
        const Top top = top_of(row);
        if (top.faulty) return FAULTY;
        all.maximum = top.maximum;
    }
    if (f.top_p < 1) {
        const Edge likely = edge_of(all, {0, std::max(f.top_p * total, DBL_MIN)}, bracket);
        const bool cuts_equal = likely.cuts_equal || (likely.logit == edge.logit && edge.cuts_equal);
        edge = {likely.logit, likely.equal, cuts_equal, likely.weight};
    }
    const float least = f.min_p > 0 ? least_kept(f, all.maximum, temperature) : -INFINITY;
    if (least > edge.logit) {
        collect_above(row, nextafterf(least, -INFINITY), all);
        edge = {least, 0, false, all.above(-INFINITY).weight};
    }
    row.cut.value = edge.logit;
    if (edge.cuts_equal) row.cut.last = token_with(row, edge.logit, edge.equal);
    return {all.maximum, float(edge.weight), 0};
}

// The logits of the kept tokens of group g, written to `into`; returns how many there are.
template <class T>
int kept_of(const Row<T>& row, int g, float* into) {
    float buffer[GROUP];
    const int first = g * GROUP, count = row.count(g);
    const Cut& cut = row.cut;
    const float* z = row.uncut(g, buffer);
    if (cut.last >= first + count - 1)
        return collect(z, count, nextafterf(cut.value, -INFINITY), into);
    if (cut.last < first) return collect(z, count, cut.value, into);
    return collect(row.group(g, buffer), count, -INFINITY, into);
}

// Reduce every group of a cut row; `whole` is what the row was reduced to.
template <class T>
void reduce_kept(const Row<T>& row, const Normaliser& whole, float scale, std::vector<Normaliser>& groups) {
    float kept[GROUP + SPARE];
    groups.resize(row.groups());
    for (int g = 0; g < row.groups(); ++g) {
        const Normaliser found = summed(kept, kept_of(row, g, kept), whole.maximum, scale);
        groups[g] = {whole.maximum, found.total, 0};
    }
}

}  // namespace speculative
