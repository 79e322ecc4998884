// Where the filters cut a row, on a CPU (speculative/verification/filters.py says what they keep). The row
// is not sorted, and no copy of it is masked: logits that may be kept are collected above a floor, and
// among those few the cut is found by bisection.

#pragma once

#include "rows.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace speculative {

constexpr int SPARE = 64;  // numbers that `collect` may write beyond those it finds
constexpr int FEW = 16;    // logits that are sorted
constexpr int SETS = 16;   // sets of tokens of a group, whose largest logits are found first

// Write the logits above `low`, up to `high`, to `into`, in their order; returns how many there are. It may
// be the same place.
inline int collect(const float* z, int count, float low, float high, float* into) {
    int found = 0, i = 0;
#ifdef __AVX512F__
    const __m512 least = _mm512_set1_ps(low), most = _mm512_set1_ps(high);
    for (; i + 64 <= count; i += 64) {
        __m512 x[4];
        __mmask16 wanted[4];
        for (int j = 0; j < 4; ++j) {
            x[j] = _mm512_loadu_ps(z + i + 16 * j);
            wanted[j] = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(x[j], least, _CMP_GT_OQ), x[j], most,
                                                _CMP_LE_OQ);
        }
        if (!(wanted[0] | wanted[1] | wanted[2] | wanted[3])) continue;
        for (int j = 0; j < 4; ++j) {
            _mm512_storeu_ps(into + found, _mm512_maskz_compress_ps(wanted[j], x[j]));
            found += __builtin_popcount(wanted[j]);
        }
    }
#endif
    for (; i < count; ++i) {
        const float x = z[i];
        into[found] = x;
        found += (x > low) & (x <= high);
    }
    return found;
}

// How many of some logits there are, and their weight: the sum of 2^(scale (z - maximum)).
struct Amount {
    int count = 0;
    double weight = 0;
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
    // The least and the largest.
    std::pair<float, float> range() const {
        const float* __restrict z = logits.data();
        float least = FLT_MAX, largest = -FLT_MAX;
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

// The fewest largest candidates that are as many as `wanted`, or weigh as much.
inline Edge edge_of(const Candidates& all, const Amount& wanted) {
    thread_local Candidates inner;  // those between `low` and `high`
    const auto enough = [&](const Amount& x) { return x.count >= wanted.count && x.weight >= wanted.weight; };
    const auto [least, largest] = all.range();
    float low = nextafterf(least, -INFINITY), high = largest;  // the edge is above low, up to high
    Amount of_low = {all.count, 0}, of_high, of_others;  // above low, above high, above all of `inner`
    inner.maximum = all.maximum, inner.scale = all.scale;
    inner.count = collect(all.logits.data(), all.count, low, high, inner.reserve(all.count));
    while (inner.count > FEW && int64_t(ordered(high)) - ordered(low) > 1) {
        const float middle = from_ordered(int32_t((int64_t(ordered(low)) + ordered(high)) >> 1));
        Amount here = inner.above(middle);
        here.count += of_others.count, here.weight += of_others.weight;
        if (enough(here)) low = middle, of_low = here;
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
    for (Amount sum = of_high; next != last && !enough(sum); ++next) {
        edge.equal = *next == edge.logit ? edge.equal + 1 : 1;
        edge.logit = *next;
        ++sum.count, edge.weight = sum.weight += all.weight_of(*next);
    }
    edge.cuts_equal = next != last && *next == edge.logit;
    return edge;
}

// Collect the logits of a row above `low`.
template <class T>
void collect_above(const Row<T>& row, float low, Candidates& found) {
    float buffer[GROUP];
    float* const into = found.reserve(row.vocabulary);
    found.count = 0;
    for (int g = 0; g < row.groups(); ++g)
        found.count += collect(row.uncut(g, buffer), row.count(g), low, INFINITY, into + found.count);
}

// Write the largest logit of every set: of tokens whose numbers are alike modulo 16. Returns whether NaN or
// +inf was seen.
inline bool find_peaks(const float* z, int count, float* peaks) {
    typedef float Floats __attribute__((vector_size(4 * SETS)));
    constexpr int CHAINS = 4;  // so that a maximum need not wait for the one before
    const Floats none = Floats{} - INFINITY;
    Floats largest[CHAINS] = {none, none, none, none};
    auto faults = none < none;  // none is
    int i = 0;
    for (; i + CHAINS * SETS <= count; i += CHAINS * SETS)
#pragma GCC unroll 4
        for (int j = 0; j < CHAINS; ++j) {
            Floats x;
            memcpy(&x, z + i + j * SETS, sizeof(x));
            largest[j] = x > largest[j] ? x : largest[j];
            faults |= ~(x < INFINITY);
        }
    for (int j = 1; j < CHAINS; ++j) largest[0] = largest[j] > largest[0] ? largest[j] : largest[0];
    memcpy(peaks, &largest[0], sizeof(Floats));
    bool fault = false;
    for (int j = 0; j < SETS; ++j) fault |= faults[j] != 0;
    for (; i < count; ++i) {
        fault |= is_fault(z[i]);
        peaks[i % SETS] = std::max(peaks[i % SETS], z[i]);
    }
    return fault;
}

// Collect the k largest logits of a row and some more, or all above -inf if those are fewer, and set the
// maximum. Returns whether the row is at fault.
//
// Every group's tokens make 16 sets. The kth largest of the sets' largest logits is no larger than the kth
// largest logit, so that groups without one above it need no second look.
template <class T>
bool collect_largest(const Row<T>& row, int k, Candidates& found) {
    thread_local Candidates peaks;
    float buffer[GROUP];
    float* const peak = peaks.reserve(row.groups() * SETS);
    for (int g = 0; g < row.groups(); ++g)
        if (find_peaks(row.uncut(g, buffer), row.count(g), peak + g * SETS)) return true;
    peaks.count = row.groups() * SETS;
    found.maximum = peaks.range().second;
    if (found.maximum == -FLT_MAX) return true;
    float low = -INFINITY;
    if (k <= peaks.count) {
        std::vector<float> sorted(peak, peak + peaks.count);
        std::nth_element(sorted.begin(), sorted.begin() + k - 1, sorted.end(), std::greater<float>());
        low = nextafterf(sorted[k - 1], -INFINITY);
    }
    float* const into = found.reserve(row.vocabulary);
    found.count = 0;
    for (int g = 0; g < row.groups(); ++g)
        if (*std::max_element(peak + g * SETS, peak + (g + 1) * SETS) > low)
            found.count += collect(row.uncut(g, buffer), row.count(g), low, INFINITY, into + found.count);
    return false;
}

// A floor above which top_p's tokens most likely are. Of every group 16 tokens stand for the row: what they
// have below it weighs half of what may be left out, `spare`, and 8 of them at least are above it.
template <class T>
float sampled_floor(const Row<T>& row, float maximum, float scale, double spare) {
    constexpr int EACH = 16, LEAST = 8, BINS = 128;  // bins of half an octave
    float weight_of[BINS] = {}, buffer[EACH], octaves[EACH], weights[EACH];
    int count_of[BINS] = {};
    const int groups = row.vocabulary / GROUP;
    for (int g = 0; g < groups; ++g) {
        const float* z = widened(row.logits + int64_t(g) * GROUP + g % 64 * EACH, EACH, buffer);
#pragma omp simd
        for (int i = 0; i < EACH; ++i) {
            const float apart = scale * (maximum - z[i]);
            octaves[i] = apart < 63 ? apart : 63;
            weights[i] = power_below_one(-octaves[i]);
        }
        for (int i = 0; i < EACH; ++i) {
            const int bin = int(2 * octaves[i]);
            weight_of[bin] += weights[i], ++count_of[bin];
        }
    }
    int lowest = 0, above = 0;
    while (lowest < BINS - 1 && (above += count_of[lowest]) < LEAST) ++lowest;
    int bin = BINS - 1;
    for (double below = 0; bin > lowest; --bin) {
        below += weight_of[bin] * (double(row.vocabulary) / (groups * EACH));
        if (below > spare / 2) break;
    }
    return maximum - (bin + 1) / (2 * scale);
}

// Collect the logits of a row that was reduced to `whole`, without those that top_p leaves out for certain
// or most likely. If the likely floor was too high, the certain one follows.
template <class T>
void collect_likely(const Row<T>& row, const Normaliser& whole, double top_p, Candidates& found) {
    const double spare = (1 - top_p) * whole.total;
    const float certain = whole.maximum + float(log2(spare / row.vocabulary)) / found.scale;
    const bool large = row.vocabulary >= 8 * GROUP;
    const float likely = large ? sampled_floor(row, whole.maximum, found.scale, spare) : certain;
    found.maximum = whole.maximum;
    for (float low : {std::max(likely, certain), certain, -INFINITY}) {
        collect_above(row, low, found);
        if (found.above(-INFINITY).weight >= top_p * whole.total) return;
    }
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
    double total;
    all.scale = scale;
    if (f.top_k < row.vocabulary) {
        if (collect_largest(row, int(f.top_k), all)) return FAULTY;
        edge = edge_of(all, {int(f.top_k), 0});
        total = edge.weight;
        all.count = collect(all.logits.data(), all.count, edge.logit, INFINITY, all.logits.data());
        all.add(edge.logit, int(edge.equal));
    } else if (f.top_p < 1) {
        const Normaliser whole = reduced(row, scale, unused);
        if (whole.faulty()) return FAULTY;
        total = whole.total;
        collect_likely(row, whole, f.top_p, all);
    } else {
        const Top top = top_of(row);
        if (top.faulty) return FAULTY;
        all.maximum = top.maximum;
    }
    if (f.top_p < 1) {
        const Edge likely = edge_of(all, {0, std::max(f.top_p * total, DBL_MIN)});
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
        return collect(z, count, nextafterf(cut.value, -INFINITY), INFINITY, into);
    if (cut.last < first) return collect(z, count, cut.value, INFINITY, into);
    return collect(row.group(g, buffer), count, -INFINITY, INFINITY, into);
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
