// The arithmetic of verification, which the CPU and the CUDA kernels share: random numbers,
// exponentials, acceptance and weights, for one element, one position or one row at a time. These
// are plain scalar functions. Those that a loop over tokens calls have no branches, so that
// compilers vectorise the loop. The terms are explained in speculative/verification/__init__.py.

#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline __attribute__((always_inline))
#endif

namespace speculative {

// The numbers of speculative/verification/status.py, philox.py, kernels.py and rules.py.
enum Fault { TARGET_LOGITS = 1, DRAFT_LOGITS = 2, DRAFT_TOKEN = 4, LENGTH = 8, TEMPERATURE = 16 };
enum Stream { ACCEPT = 0, COUPLED_NOISE = 3, GROUPS = 4 };
enum Type { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };
enum Method { EXACT = 0, SIGMOID = 1, CALIBRATED = 2, BLOCK = 3, COUPLED = 4 };
constexpr int GROUP = 2048;  // tokens of a group: the next token's group is chosen first

// The numbers of a rule, as its `parameters` in speculative/verification/rules.py lists them.
struct SigmoidParameters { double alpha, beta; };
struct CalibratedParameters { double intercept, target_slope, draft_slope; };
union Parameters {
    double all[4];
    SigmoidParameters sigmoid;
    CalibratedParameters calibrated;
};

// The filters of a sequence, as speculative/verification/filters.py explains and lists them.
struct Filter { double top_k, top_p, min_p; };

// What is to be verified. speculative/verification/kernels.py fills it in and declares the same
// fields. Strides count elements; the last dimension of logits is dense.
struct Problem {
    const void* target;       // [batch, gamma + 1, vocabulary]
    const void* draft;        // [batch, gamma, vocabulary], or null: a token was given, not sampled
    const int64_t* tokens;    // [batch, gamma]
    const int64_t* lengths;   // [batch], or null: gamma everywhere
    const float* uniforms;    // [batch, uniforms_of(*this)], or null: counted from seeds
    const int64_t* seeds;     // [batch], or null: `seed`, with the row as request number
    const int64_t* offsets;   // [batch], or null: `offset`
    const float* temperatures;  // [batch], or null: `temperature`; 0 is greedy
    const int64_t* top_ks;    // [batch], or null: `filter`; the next two likewise
    const float *top_ps, *min_ps;
    const uint32_t* allowed;  // [batch, gamma + 1, a bit a token], or null; the CPU's kernels alone read it
    int64_t* out;             // [3, batch]: accepted, next token, status
    float* log_probabilities;  // [batch, gamma + 1], or null: nobody asks
    int64_t target_strides[2], draft_strides[2], token_strides[2];
    int64_t seed, offset;
    double temperature;
    Parameters parameters;
    Filter filter;
    int32_t batch, gamma, vocabulary, type, method, stream;
    int32_t filters_draft;    // whether filters and mask hold for the draft's rows too
};

// ---------------------------------------------------------------------------- elements of logits

struct Half { uint16_t bits; };
struct Brain { uint16_t bits; };

HD float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

HD uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

// An element of any type as a float, exactly.
HD float widen(float x) { return x; }
HD float widen(Brain x) { return as_float(uint32_t(x.bits) << 16); }

HD float widen(Half x) {
    uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13, sign = uint32_t(x.bits & 0x8000) << 16;
    float finite = as_float(magnitude) * 0x1p112f;  // exact, subnormals too
    uint32_t infinite = magnitude | 0x7f800000;
    return as_float((magnitude >= 0x0f800000 ? infinite : as_bits(finite)) | sign);
}

// NaN and +inf; -inf is no fault, it excludes a token.
HD bool is_fault(float x) { return !(x < INFINITY); }

// ------------------------------------------------------------------------------- random numbers

struct Words { uint32_t a, b, c, d; };

// Four random words of a counter (a, b, c, d) under a key (left, right): Philox4x32-10 (Salmon et
// al., SC 2011). speculative/verification/philox.py explains counted random numbers.
HD Words philox(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t left, uint32_t right) {
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 10
#endif
    for (int round = 0; round < 10; ++round) {
        const uint32_t low_a = 0xD2511F53u * a, high_a = uint32_t(uint64_t(0xD2511F53u) * a >> 32);
        const uint32_t low_c = 0xCD9E8D57u * c, high_c = uint32_t(uint64_t(0xCD9E8D57u) * c >> 32);
        a = high_c ^ b ^ left;
        b = low_c;
        c = high_a ^ d ^ right;
        d = low_a;
        left += 0x9E3779B9u;
        right += 0xBB67AE85u;
    }
    return {a, b, c, d};
}

// A word as a number strictly between 0 and 1, with full relative precision near 0.
HD float uniform(uint32_t word) {
    float u = float(word) * 0x1p-32f + 0x1p-33f;
    return u < 1 - 0x1p-24f ? u : 1 - 0x1p-24f;
}

// How many groups the vocabulary has.
HD int groups_of(const Problem& p) { return (p.vocabulary + GROUP - 1) / GROUP; }

// How many uniforms a sequence is given. COUPLED: one for every token at every position. The others:
// one for every draft token, then one for every token and every group in the race for the next token.
HD int64_t uniforms_of(const Problem& p) {
    if (p.method == COUPLED) return (int64_t(p.gamma) + 1) * p.vocabulary;
    return int64_t(p.gamma) + p.vocabulary + groups_of(p);
}

// The numbers of one race: the key and counter they are counted by, or the uniforms used instead.
struct Draws {
    const float* given;  // null: they are counted
    uint32_t left, right, position, request, stream;

    HD Words block(uint32_t index) const {
        return philox(index, position, request, stream, left, right);
    }
    // Number i of the race.
    HD float at(int i) const {
        if (given) return given[i];
        const Words words = block(uint32_t(i) / 4);
        const uint32_t low = i & 1 ? words.b : words.a, high = i & 1 ? words.d : words.c;
        return uniform(i & 2 ? high : low);
    }
};

// The numbers of tokens of sequence b: in the race for its next token, or with COUPLED for the token at
// `position` of the draft.
HD Draws draws_of(const Problem& p, int64_t b, int position = 0) {
    const uint64_t seed = uint64_t(p.seeds ? p.seeds[b] : p.seed);
    const int64_t start = p.method == COUPLED ? int64_t(position) * p.vocabulary : p.gamma;
    return {p.uniforms ? p.uniforms + b * uniforms_of(p) + start : nullptr, uint32_t(seed),
            uint32_t(seed >> 32), uint32_t(p.offsets ? p.offsets[b] : p.offset) + uint32_t(position),
            p.seeds ? 0 : uint32_t(b), uint32_t(p.stream)};
}

// The numbers of groups of sequence b, in the race for the group of its next token.
HD Draws group_draws_of(const Problem& p, int64_t b) {
    Draws draws = draws_of(p, b);
    if (draws.given) draws.given += p.vocabulary;
    draws.stream += GROUPS;
    return draws;
}

// The uniform that decides draft token t of sequence b.
HD float accept_uniform(const Problem& p, int64_t b, int t) {
    if (p.uniforms) return p.uniforms[b * uniforms_of(p) + t];
    const Draws draws = draws_of(p, b, t);
    return uniform(philox(0, draws.position, draws.request, ACCEPT, draws.left, draws.right).a);
}

// ------------------------------------------------------------------------- elementary functions

// 2^x for x <= 0, relative error below 2e-7; 0 below -126, NaN for NaN.
HD float power_below_one(float x) {
#ifdef __CUDA_ARCH__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    float shifted = x + 0x1.8p23f;  // rounds; the integer is in the low bits
    float f = x - (shifted - 0x1.8p23f);
    float power = 1.32647272e-3f;
    power = power * f + 9.67151264e-3f;
    power = power * f + 5.55073374e-2f;
    power = power * f + 2.40222421e-1f;
    power = power * f + 6.93146978e-1f;
    power = power * f + 1.0f;
    power = as_float(as_bits(power) + (as_bits(shifted) << 23));
    return x < -126.0f ? 0.0f : power;
#endif
}

// 2^x, relative error below 2e-7; 0 below -126 and infinity above 127.
HD float power_of_two(float x) {
#ifdef __CUDA_ARCH__
    return power_below_one(x);
#else
    const float power = power_below_one(x > 127.0f ? 127.0f : x);
    return x > 127.0f ? INFINITY : power;
#endif
}

// -log(1 - v) for v from 0 to 1, with full relative precision near 0. A token of weight w arrives in
// the exponential race at this time over w, and the first to arrive is the sample
// (speculative/verification/races.py says why).
HD float arrival(float v) {
    v = v > 0x1p-33f ? v : 0x1p-33f;
    v = v < 1 - 0x1p-24f ? v : 1 - 0x1p-24f;
    float rest = 1 - v;
    int exponent = int(as_bits(rest * 1.41421356f) >> 23) - 127;  // mantissa from 0.7 to 1.4
    float mantissa = as_float(as_bits(rest) - (uint32_t(exponent) << 23));
    float f = exponent ? mantissa - 1 : -v;
    float s = f / (2 + f), s2 = s * s;
    float series = 1 + s2 * (1 / 3.f + s2 * (1 / 5.f + s2 * (1 / 7.f + s2 * (1 / 9.f))));
    return -(float(exponent) * 0.693147181f + 2 * s * series);
}

// 1 - exp(-x) for x >= 0.
HD float one_minus_exp(float x) {
    float near = x * (1 - x * (1 / 2.f - x * (1 / 6.f - x * (1 / 24.f - x * (1 / 120.f - x * (1 / 720.f))))));
    float far = 1 - power_of_two(-1.44269504f * x);
    return x < 0.25f ? near : far;
}

// ------------------------------------------------------------------------------------------ rows

// What a row, or a part of one, is reduced to. The total is the sum of 2^(scale (z - maximum)), where
// scale is log2(e) over the temperature.
struct Normaliser {
    float maximum;  // at least -FLT_MAX, so that -inf - maximum is a number
    float total;
    int fault;  // NaN or +inf was seen

    HD bool faulty() const { return fault || !(total > 0); }
};

// The normaliser of no tokens.
HD Normaliser nothing() { return {-FLT_MAX, 0, 0}; }

// The normaliser of a draft's row whose token was given, not sampled: its logit is 0.
HD Normaliser certain() { return {0, 1, 0}; }

// The faults of the rows that the next token comes from. After a complete draft, one whose tokens
// were all accepted, that is the target's row alone.
HD int faults_of(const Normaliser& target, const Normaliser& draft, bool complete) {
    return (target.faulty() ? TARGET_LOGITS : 0) | (!complete && draft.faulty() ? DRAFT_LOGITS : 0);
}

HD double temperature_of(const Problem& p, int64_t b) {
    return p.temperatures ? p.temperatures[b] : p.temperature;
}
HD float scale_of(const Problem& p, int64_t b) {
    return float(1.4426950408889634 / temperature_of(p, b));
}

// What is wrong with the numbers of sequence b, of which `length` is how many draft tokens it has.
HD int fault_of_numbers(const Problem& p, int64_t b, int64_t length) {
    const double temperature = temperature_of(p, b);
    const bool divides = temperature == 0 || (temperature >= FLT_MIN && temperature <= FLT_MAX);
    return (0 <= length && length <= p.gamma ? 0 : LENGTH) | (divides ? 0 : TEMPERATURE);
}

// The normaliser of two parts together.
HD Normaliser merged(const Normaliser& a, const Normaliser& b, float scale) {
    float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    float total = a.total * power_below_one(scale * (a.maximum - maximum)) +
                  b.total * power_below_one(scale * (b.maximum - maximum));
    return {maximum, total, a.fault | b.fault};
}

// --------------------------------------------------------------------------------------- filters

// Where a row is cut: of its tokens in their order (speculative/verification/filters.py) those are kept
// whose logit is above `value`, and of those that have this logit the ones up to token `last`.
struct Cut {
    float value = -INFINITY;
    int last = 0x7fffffff;

    HD bool cuts() const { return value > -INFINITY; }
    // The logit as verification sees it; NaN stays.
    HD float of(float z, int token) const {
        return z < value || (z == value && token > last) ? -INFINITY : z;
    }
};

// The filters of sequence b, in range: a top_k that keeps all is the size of the vocabulary.
HD Filter filter_of(const Problem& p, int64_t b) {
    Filter f = p.filter;
    if (p.top_ks) f.top_k = double(p.top_ks[b]);
    if (p.top_ps) f.top_p = p.top_ps[b];
    if (p.min_ps) f.min_p = p.min_ps[b];
    f.top_k = f.top_k >= 1 && f.top_k < p.vocabulary ? floor(f.top_k) : p.vocabulary;
    f.top_p = f.top_p < 1 ? (f.top_p > 0 ? f.top_p : 0) : 1;
    f.min_p = f.min_p > 0 ? (f.min_p < 1 ? f.min_p : 1) : 0;
    return f;
}

// Whether a filter in range leaves out anything.
HD bool is_active(const Filter& f, int vocabulary) {
    return f.top_k < vocabulary || f.top_p < 1 || f.min_p > 0;
}

// The least logit that min_p keeps beside the largest one.
HD float least_kept(const Filter& f, float maximum, double temperature) {
    const double least = maximum + temperature * log(f.min_p);
    const float rounded = float(least);
    return rounded < least ? nextafterf(rounded, INFINITY) : rounded;
}

// ------------------------------------------------------------------------------------ acceptance

struct Verdict {
    double ratio;  // accepted with this probability
    int fault;

    HD bool accepts(float uniform) const { return !fault && uniform < ratio; }
};

// The weight of logit z, divided by the temperature, under the sigmoid rule.
HD double squashed(const Problem& p, double z) {
    const SigmoidParameters& limits = p.parameters.sigmoid;
    return 1 / (1 + exp(-(z - limits.alpha) / (limits.beta - limits.alpha)));
}

// The calibrated estimate of p(x) / q(x) from two logits divided by the temperature, at most 1. It is
// 1 where -inf meets -inf or a slope of 0.
HD double estimated(const Problem& p, double z, double y) {
    const CalibratedParameters& fit = p.parameters.calibrated;
    double x = fit.intercept + fit.target_slope * z + fit.draft_slope * y;
    return exp(x < 0 ? x : 0);
}

// Draft token t of sequence b; -1: there is none, or it is outside the vocabulary.
HD int token_at(const Problem& p, int64_t b, int t) {
    int64_t token = p.tokens[b * p.token_strides[0] + t * p.token_strides[1]];
    return token < 0 || token >= p.vocabulary ? -1 : int(token);
}

// What a draft token of sequence b is accepted by, whose logits are z and y. Only EXACT and BLOCK use the
// normalisers of its rows.
HD Verdict judge(const Problem& p, int64_t b, float z, float y, const Normaliser& target,
                 const Normaliser& draft) {
    const bool exact = p.method == EXACT || p.method == BLOCK;
    bool bad_target = exact ? target.faulty() : is_fault(z);
    bool bad_draft = exact ? draft.faulty() : is_fault(y);
    int fault = (bad_target ? TARGET_LOGITS : 0) | (bad_draft ? DRAFT_LOGITS : 0);
    if (fault || !(z > -INFINITY)) return {0, fault};
    const double temperature = temperature_of(p, b);
    if (p.method == SIGMOID) return {squashed(p, z / temperature) / squashed(p, y / temperature), 0};
    if (p.method == CALIBRATED) return {estimated(p, z / temperature, y / temperature), 0};
    double gap = (double(z) - target.maximum) - (double(y) - draft.maximum);
    return {exp(gap / temperature) * (double(draft.total) / target.total), 0};
}

// The log-probability of an emitted token of logit z, under what the target's row was reduced to.
HD float log_probability(const Problem& p, int64_t b, float z, const Normaliser& target) {
    const double temperature = temperature_of(p, b);
    if (!(temperature > 0)) return 0;  // greedy: the likeliest token is certain
    if (target.faulty()) return NAN;   // a row that the sigmoid has not looked at
    return float((double(z) - target.maximum) / temperature - log(double(target.total)));
}

// BLOCK: the probability that a block of drafts ends here, from the share of the target's probability
// that its tokens have kept and the total of the residual.
HD double block_chance(double share, double residual) {
    return share < 1 ? residual / (residual + 1 - share) : 1;
}

// --------------------------------------------------------------------------------------- weights

// The weights of tokens in the race, from a target logit z and a draft logit y each.
struct Weights {
    float scale, target_maximum, target_inverse, draft_maximum, draft_inverse;  // of both softmaxes
    float slope, shift;                          // SIGMOID: its argument is slope z + shift
    float intercept, target_slope, draft_slope;  // CALIBRATED: log2 of the estimated ratio

    HD float target_exact(float z) const {
        return power_below_one(scale * (z - target_maximum)) * target_inverse;
    }
    HD float residual_exact(float z, float y) const {
        float w = target_exact(z) - power_below_one(scale * (y - draft_maximum)) * draft_inverse;
        return w > 0 ? w : 0;
    }
    // p - q min(1, estimate) is what acceptance left over, whether the estimate is right or not.
    HD float residual_calibrated(float z, float y) const {
        float x = intercept + target_slope * z + draft_slope * y;
        float q = power_below_one(scale * (y - draft_maximum)) * draft_inverse;
        float w = target_exact(z) - q * power_below_one(x < 0 ? x : 0);
        return w > 0 ? w : 0;
    }
    HD float target_sigmoid(float z) const {
        float w = 1 / (1 + power_of_two(-1.44269504f * (slope * z + shift)));
        return z > -INFINITY ? w : 0;
    }
    // s(a) - s(b) is taken as s(a) s(-b) (1 - exp(b - a)), since the two may agree in four digits.
    HD float residual_sigmoid(float z, float y) const {
        float gap = slope * (z - y);
        float rest = 1 / (1 + power_of_two(1.44269504f * (slope * y + shift)));
        float w = target_sigmoid(z) * rest * one_minus_exp(gap);
        return gap > 0 ? w : 0;  // false where both are -inf
    }

    // A bound that no weight exceeds: a residual is at most the target's weight.
    template <Method METHOD>
    HD float largest() const {
        return METHOD == SIGMOID ? 1 : 1.00001f * target_inverse;
    }

    // The weight of a token in a race for the residual, or for the target's own token.
    template <Method METHOD, bool RESIDUAL>
    HD float of(float z, float y) const {
        if (METHOD == SIGMOID) return RESIDUAL ? residual_sigmoid(z, y) : target_sigmoid(z);
        if (!RESIDUAL) return target_exact(z);
        return METHOD == CALIBRATED ? residual_calibrated(z, y) : residual_exact(z, y);
    }
};

// The constants of a method's weights for sequence b; those that the method does not use stay 0.
// `share` multiplies the target's weights.
template <Method METHOD>
HD Weights weights_of(const Problem& p, int64_t b, const Normaliser& target, const Normaliser& draft,
                      double share = 1) {
    Weights weights = {};
    const double temperature = temperature_of(p, b);
    if (METHOD == SIGMOID) {
        const SigmoidParameters& limits = p.parameters.sigmoid;
        const double width = limits.beta - limits.alpha;
        weights.slope = float(1 / (temperature * width));
        weights.shift = float(-limits.alpha / width);
        return weights;
    }
    weights.scale = scale_of(p, b);
    weights.target_maximum = target.maximum, weights.target_inverse = float(share / target.total);
    weights.draft_maximum = draft.maximum, weights.draft_inverse = 1 / draft.total;
    if (METHOD == CALIBRATED) {
        const CalibratedParameters& fit = p.parameters.calibrated;
        const double bits = 1.4426950408889634;  // log2(e)
        weights.intercept = float(bits * fit.intercept);
        weights.target_slope = float(bits * fit.target_slope / temperature);
        weights.draft_slope = float(bits * fit.draft_slope / temperature);
    }
    return weights;
}

// A token and its rate in one integer, so that the largest integer is the winner of a race. At equal
// rates the lower token is larger; 0 stands for nobody.
HD uint64_t candidate(float rate, uint32_t token) {
    return rate > 0 ? uint64_t(as_bits(rate)) << 32 | (0xffffffffu - token) : 0;
}
HD int64_t token_of(uint64_t candidate) { return 0xffffffffu - uint32_t(candidate); }

}  // namespace speculative
