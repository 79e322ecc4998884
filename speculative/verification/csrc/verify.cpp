// Verification on a CPU. Rows are read in order and only as far as needed; sequences are shared out to
// threads where there are several and they are worth waking a thread for.

#include "cuts.h"
#include "race.h"

namespace speculative {
namespace {

// So many logits must be read for every thread: about 7 us, as long as it takes to share work out. A team
// of all threads is woken, since one of another size would end threads of torch's that it lacks.
constexpr int64_t WORTH_A_THREAD = 1 << 16;

// One sequence that is verified.
template <class T>
struct Sequence {
    const Problem& p;
    int64_t b;
    Filter filter = filter_of(p, b);
    bool filtered = is_active(filter, p.vocabulary);
    bool reduces = filtered || p.log_probabilities;  // rows, even where the method needs none reduced

    Row<T> target(int t) const {
        const T* rows = static_cast<const T*>(p.target) + b * p.target_strides[0];
        return {rows + t * p.target_strides[1], p.vocabulary, allowed(t)};
    }
    // Its logits are null where the draft's tokens were given.
    Row<T> draft(int t) const {
        if (!p.draft) return {nullptr, p.vocabulary, nullptr};
        const T* rows = static_cast<const T*>(p.draft) + b * p.draft_strides[0];
        return {rows + t * p.draft_strides[1], p.vocabulary, p.filters_draft ? allowed(t) : nullptr};
    }
    // The mask at position t.
    const uint32_t* allowed(int t) const {
        const int words = (p.vocabulary + 31) / 32;
        return p.allowed ? p.allowed + (b * (p.gamma + 1) + t) * words : nullptr;
    }
    // Note the log-probability of the token at place t of the output, where it is asked for.
    void note(int t, int64_t token, const Normaliser& target_row) const {
        if (!p.log_probabilities) return;
        const float z = widen(target(t).logits[token]);
        p.log_probabilities[b * (p.gamma + 1) + t] = log_probability(p, b, z, target_row);
    }
};

// The place of the next token: after n accepted draft tokens.
struct Place {
    int n = 0;
    bool complete = false;  // all draft tokens were accepted
    int fault = 0;
    bool reduced = false;   // whether the normalisers are those of the rows at n
    double share = 1;       // BLOCK: what multiplies the target's weights
    Normaliser target = nothing(), draft = nothing();
    Cut target_cut, draft_cut;  // of the same rows
};

struct Outcome {
    int64_t accepted, next;
    int fault;
};

thread_local std::vector<Normaliser> groups;  // of the target's row that was reduced last
thread_local Bounds bounds;

// Reduce a row, cut by the sequence's filters if it is `filtered`.
template <class T>
Normaliser reduced_as(const Sequence<T>& s, Row<T>& row, bool filtered, std::vector<Normaliser>& into) {
    const float scale = scale_of(s.p, s.b);
    if (filtered) return cut_and_reduced(row, s.filter, temperature_of(s.p, s.b), scale);
    return reduced(row, scale, into);
}

template <class T>
Normaliser reduced_target(const Sequence<T>& s, Row<T>& row) {
    return reduced_as(s, row, s.filtered, groups);
}

template <class T>
Normaliser reduced_draft(const Sequence<T>& s, Row<T>& row) {
    thread_local std::vector<Normaliser> unused;
    return row.logits ? reduced_as(s, row, s.filtered && s.p.filters_draft, unused) : certain();
}

// Reduce the pair of rows at n, and remember where they are cut.
template <class T>
void reduce_pair(const Sequence<T>& s, Place& place) {
    Row<T> target = s.target(place.n);
    place.target = reduced_target(s, target), place.target_cut = target.cut;
    place.draft = certain(), place.draft_cut = {};
    if (!place.complete) {
        Row<T> draft = s.draft(place.n);
        place.draft = reduced_draft(s, draft), place.draft_cut = draft.cut;
    }
    place.reduced = true;
}

// What draft token t is accepted by, where its rows are reduced to these normalisers and cut here.
template <class T>
Verdict judged(const Sequence<T>& s, int t, const Normaliser& target, const Normaliser& draft,
               const Cut& target_cut, const Cut& draft_cut) {
    const int token = token_at(s.p, s.b, t);
    if (token < 0) return {0, DRAFT_TOKEN};
    Row<T> z = s.target(t), y = s.draft(t);
    z.cut = target_cut, y.cut = draft_cut;
    return judge(s.p, s.b, z.at(token), y.logits ? y.at(token) : 0, target, draft);
}

// EXACT, SIGMOID, CALIBRATED: accept draft tokens until one is rejected or at fault.
template <class T, Method METHOD>
Place accept_in_order(const Sequence<T>& s, int length) {
    Place place;
    for (; place.n < length; ++place.n) {
        if (METHOD == EXACT || s.reduces) reduce_pair(s, place);
        const Verdict verdict =
            judged(s, place.n, place.target, place.draft, place.target_cut, place.draft_cut);
        place.fault = verdict.fault;
        if (!verdict.accepts(accept_uniform(s.p, s.b, place.n))) return place;
        s.note(place.n, token_at(s.p, s.b, place.n), place.target);
    }
    place.complete = true, place.reduced = false;
    return place;
}

// The total of the residual of a pair of rows at position t, which BLOCK's decision needs.
template <class T>
double residual_total(const Pair<T>& rows, const Weights& weights, double ratio) {
    if (!rows.draft.logits) return weights.target_inverse > 0 ? ratio : 0;
    double total = 0;
    for (int g = 0; g < rows.target.groups(); ++g)
        total += sum_of_group<T, BLOCK, true>(rows, g, weights);
    return total;
}

// BLOCK: accept the longest block of draft tokens that its number allows.
template <class T>
Place accept_block(const Sequence<T>& s, int length) {
    Place longest;
    double share = 1;
    for (int t = 0; t < length; ++t) {
        Pair<T> rows = {s.target(t), s.draft(t)};
        const Normaliser target = reduced_target(s, rows.target), draft = reduced_draft(s, rows.draft);
        const Verdict verdict = judged(s, t, target, draft, rows.target.cut, rows.draft.cut);
        if (verdict.fault) {
            longest = {};
            longest.fault = verdict.fault;
            return longest;
        }
        s.note(t, token_at(s.p, s.b, t), target);
        double chance = 1;
        if (t > 0 && share < 1) {
            const Weights weights = weights_of<BLOCK>(s.p, s.b, target, draft, share);
            chance = block_chance(share, residual_total(rows, weights, share * (1 - verdict.ratio)));
        }
        if (t == 0 || accept_uniform(s.p, s.b, t - 1) < chance) longest.n = t, longest.share = share;
        share = std::min(share * verdict.ratio, 1.0);
    }
    if (length == 0 || accept_uniform(s.p, s.b, length - 1) < share) {
        longest.n = length, longest.complete = true, longest.share = 1;
    }
    return longest;
}

// Bounds of the groups' weights: what they were reduced to, or what a sigmoid's slope allows.
template <class T, Method METHOD, bool RESIDUAL>
int bound(const Pair<T>& rows, const Place& place, const Weights& weights) {
    const int count = rows.target.groups();
    const bool sums = METHOD != SIGMOID && !RESIDUAL && rows.target.left_out < 0;
    bounds.of_group.resize(count), bounds.are_sums = sums;
    int fault = 0;
    for (int g = 0; g < count; ++g) {
        if (METHOD == SIGMOID) {
            bounds.of_group[g] = sigmoid_bound<T, RESIDUAL>(rows, g, weights, fault);
        } else {
            const float scaled = weights.scale * (groups[g].maximum - place.target.maximum);
            const float sum = groups[g].total * power_below_one(scaled) * weights.target_inverse;
            bounds.of_group[g] = sums ? sum : 1.0001f * sum;
        }
    }
    return fault;
}

template <class T, Method METHOD, bool RESIDUAL>
Outcome sampled_at(const Sequence<T>& s, const Pair<T>& rows, const Place& place, double share) {
    const Weights weights = weights_of<METHOD>(s.p, s.b, place.target, place.draft, share);
    const int fault = bound<T, METHOD, RESIDUAL>(rows, place, weights);
    if (fault) return {place.n, -1, fault};
    return {place.n, sampled<T, METHOD, RESIDUAL>(s.p, s.b, rows, weights, bounds), 0};
}

// Sample the next token from the residual, or from the target where there is no residual.
template <class T, Method METHOD>
Outcome next_token(const Sequence<T>& s, Place place) {
    if (!place.fault) {
        if ((METHOD != SIGMOID || s.reduces) && !place.reduced) reduce_pair(s, place);
        if (METHOD != SIGMOID) place.fault = faults_of(place.target, place.draft, place.complete);
    }
    if (place.fault) return {place.n, -1, place.fault};
    Pair<T> rows = {s.target(place.n), place.complete ? s.target(place.n) : s.draft(place.n)};
    rows.target.cut = place.target_cut, rows.draft.cut = place.draft_cut;
    if (METHOD != SIGMOID && s.filtered) reduce_kept(rows.target, place.target, scale_of(s.p, s.b), groups);
    Outcome outcome = {place.n, -1, 0};
    if (!place.complete && rows.draft.logits)
        outcome = sampled_at<T, METHOD, true>(s, rows, place, place.share);
    if (!place.complete && !rows.draft.logits) {  // the residual is the target without the draft token
        rows.target.left_out = token_at(s.p, s.b, place.n);
        outcome = sampled_at<T, METHOD, false>(s, rows, place, 1);
        rows.target.left_out = -1;
    }
    if (outcome.next < 0 && !outcome.fault)  // all accepted, or nothing left over
        outcome = sampled_at<T, METHOD, false>(s, rows, place, 1);
    if (outcome.next < 0 && !outcome.fault) outcome.fault = TARGET_LOGITS;
    if (!outcome.fault) s.note(place.n, outcome.next, place.target);
    return outcome;
}

// COUPLED: the token that the target takes at position t of the draft, by the noise of that position. The
// row's largest logit is known; `row` becomes what it is reduced to, where that is needed.
template <class T>
int64_t coupled_token(const Sequence<T>& s, int t, Normaliser& row) {
    Pair<T> rows = {s.target(t), {}};
    const Weights weights = weights_of<COUPLED>(s.p, s.b, row, certain());
    if (s.reduces) row = reduced_target(s, rows.target);
    float kept[GROUP + SPARE];
    const Draws draws = draws_of(s.p, s.b, t);
    uint64_t best = 0;
    for (int g = 0; g < rows.target.groups(); ++g)
        if (!s.filtered || kept_of(rows.target, g, kept))
            race_group<T, COUPLED, false>(rows, g, weights, draws, best);
    return token_of(best);
}

// Accept draft tokens while they are the target's own: its likeliest ones, or with COUPLED those that
// it takes by the noise.
template <class T>
Outcome match(const Sequence<T>& s, int length, bool greedy) {
    for (int n = 0;; ++n) {
        const int drafted = n < length ? token_at(s.p, s.b, n) : -1;
        if (n < length && drafted < 0) return {n, -1, DRAFT_TOKEN};
        const Top top = top_of(s.target(n));
        if (top.faulty) return {n, -1, TARGET_LOGITS};
        Normaliser row = {top.maximum, 1, 0};
        const int64_t token = greedy ? top.token : coupled_token(s, n, row);
        if (token >= 0) s.note(n, token, row);
        if (token != drafted) return {n, token, 0};
    }
}

template <class T>
Outcome verify_sequence(const Sequence<T>& s) {
    const Problem& p = s.p;
    const int64_t given = p.lengths ? p.lengths[s.b] : p.gamma;
    if (const int fault = fault_of_numbers(p, s.b, given)) return {0, -1, fault};
    const int length = int(given);
    const bool greedy = temperature_of(p, s.b) == 0;
    if (greedy || p.method == COUPLED) return match(s, length, greedy);
    switch (p.method) {
        case SIGMOID: return next_token<T, SIGMOID>(s, accept_in_order<T, SIGMOID>(s, length));
        case CALIBRATED: return next_token<T, CALIBRATED>(s, accept_in_order<T, CALIBRATED>(s, length));
        case BLOCK: return next_token<T, BLOCK>(s, accept_block<T>(s, length));
        default: return next_token<T, EXACT>(s, accept_in_order<T, EXACT>(s, length));
    }
}

// About how many logits are read if all sequences are like the first: one pair of rows of each, or about
// half of its rows, up to the first rejection.
template <class T>
int64_t logits_read(const Problem& p) {
    const bool one_pair = (p.method == SIGMOID || p.method == CALIBRATED) && !Sequence<T>{p, 0}.reduces;
    return int64_t(p.batch) * p.vocabulary * (one_pair ? 2 : p.gamma + 1);
}

template <class T>
void verify_batch(const Problem& p, int threads) {
    const bool shared = threads > 1 && p.batch > 1 && logits_read<T>(p) >= threads * WORTH_A_THREAD;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (shared)
    for (int64_t b = 0; b < p.batch; ++b) {
        const Outcome outcome = verify_sequence<T>({p, b});
        p.out[b] = outcome.accepted;
        p.out[p.batch + b] = outcome.next;
        p.out[2 * int64_t(p.batch) + b] = outcome.fault;
        if (!p.log_probabilities) continue;
        float* const notes = p.log_probabilities + b * (p.gamma + 1);
        std::fill(notes + outcome.accepted + (outcome.next >= 0), notes + p.gamma + 1, NAN);
    }
}

}  // namespace
}  // namespace speculative

extern "C" int speculative_verify_cpu(const speculative::Problem* problem, int threads) {
    using namespace speculative;
    switch (problem->type) {
        case FLOAT32: verify_batch<float>(*problem, threads); return 0;
        case FLOAT16: verify_batch<Half>(*problem, threads); return 0;
        case BFLOAT16: verify_batch<Brain>(*problem, threads); return 0;
    }
    return 1;
}
