// Verification on a GPU. Nothing waits for the host, nothing is allocated here, inputs are only read.
//
// There are two ways. For few sequences `reduce_all` reads every row at once, then `finish` merges,
// decides and samples. For many sequences `walk`, a cluster of blocks for each, reads position after
// position and stops at the first rejection, so that most rows are never read. SIGMOID needs `finish`
// alone. CALIBRATED takes `walk`, which then reads only the rows that the next token comes from, and
// BLOCK takes it too. COUPLED and greedy sequences go through `match`, a block for each.
//
// Where log-probabilities are asked for, `score` follows. Where tokens are filtered, `cut_rows` goes before all of them: it finds where every row is cut, and whoever
// loads the row then sees -inf beyond the cut.
//
// Rows are reduced in groups of tokens of one warp each. Both ways keep the same tokens in the same lanes
// and merge in the same order, so that a sequence's outcome never depends on the batch around it. For
// the next token the groups' weights are summed by all blocks; one block then races the groups, and
// the tokens of the group that won.

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "cuts.cuh"

namespace speculative {
namespace {

constexpr int ROUND = 1024;   // tokens that a warp holds in registers
constexpr int MANY = 16;      // EXACT uses `walk` from this many sequences on
constexpr int CLUSTER = 8;    // `walk` has at most so many blocks a sequence, as all GPUs allow

// Device memory that the caller lends for one call.
struct Workspace {
    unsigned* fault;      // [batch]: faults that were met while weights were summed
    unsigned* finished;   // [batch]: how many blocks of `finish` have summed
    float* sums;          // [batch, groups]: the weights of every group
    Cut* cuts;            // [batch, 2 gamma + 1], or null: no row is cut
    Normaliser* partial;  // [batch, 2 gamma + 1, groups]: the target's rows, then the draft's
    int groups;
};

// How many cuts the workspace holds.
int64_t count_of_cuts(const Problem& p) {
    return filters_rows(p) ? int64_t(p.batch) * (2 * p.gamma + 1) : 0;
}

// The lent memory, divided up.
Workspace workspace_of(const Problem& p, void* memory) {
    auto* fault = static_cast<unsigned*>(memory);
    auto* sums = reinterpret_cast<float*>(fault + 2 * int64_t(p.batch));
    auto* cuts = reinterpret_cast<Cut*>(sums + int64_t(p.batch) * groups_of(p));
    auto* partial = reinterpret_cast<Normaliser*>(cuts + count_of_cuts(p));
    return {fault, fault + p.batch, sums, count_of_cuts(p) ? cuts : nullptr, partial, groups_of(p)};
}

// The bytes at the start of the workspace that must be 0 before `finish` sums.
int64_t cleared_bytes(const Problem& p) { return 8 * int64_t(p.batch); }

// The normalisers of the groups of row r of sequence b.
__device__ Normaliser* parts_at(const Problem& p, const Workspace& w, int64_t b, int r) {
    return w.partial + (b * (2 * p.gamma + 1) + r) * w.groups;
}

// Where row r of sequence b is cut.
__device__ Cut cut_of(const Problem& p, const Workspace& w, int64_t b, int r) {
    return w.cuts ? w.cuts[b * (2 * p.gamma + 1) + r] : Cut{};
}

// Let sequence b begin anew.
__device__ void clear(const Workspace& w, int64_t b) { w.fault[b] = w.finished[b] = 0; }

// Whether sequence b is decided by `match` alone.
__device__ bool matched(const Problem& p, int64_t b) {
    return p.method == COUPLED || temperature_of(p, b) == 0;
}

// Write the outcome of sequence b.
__device__ void write(const Problem& p, int64_t b, int accepted, int64_t token, int fault) {
    p.out[b] = accepted;
    p.out[p.batch + b] = fault ? -1 : token;
    p.out[2 * int64_t(p.batch) + b] = fault;
}

// How many draft tokens sequence b has; it may be out of range.
__device__ int64_t length_of(const Problem& p, int64_t b) {
    return p.lengths ? p.lengths[b] : p.gamma;
}

// -------------------------------------------------------------------------------------- reducing

// Merge the normalisers of a warp's lanes; every lane gets the result. NaN and +inf make the total
// NaN, so `fault` is not used on a GPU.
__device__ Normaliser merged_in_warp(Normaliser mine, float scale) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
        Normaliser other = nothing();
        other.maximum = __shfl_xor_sync(~0u, mine.maximum, distance);
        other.total = __shfl_xor_sync(~0u, mine.total, distance);
        mine = merged(mine, other, scale);
    }
    return mine;
}

// One warp reduces one part of a row; lane 0 stores it.
template <class T>
__device__ void reduce_part(const T* row, const Cut& cut, int part, int vocabulary, float scale,
                            Normaliser* reduced) {
    constexpr int N = 16 / sizeof(T), STEP = 32 * N, LOADS = ROUND / STEP;
    const int lane = threadIdx.x % 32, end = min(vocabulary, (part + 1) * GROUP);
    const bool wide = aligned<N>(row);
    Normaliser mine = nothing();
    for (int base = part * GROUP; base < end; base += ROUND) {
        float x[LOADS][N];
        const bool inside = base <= cut.last && cut.last < base + ROUND;  // ties end among these tokens
        if (wide && base + ROUND <= end && !inside) {
            const float least = cut.last < base ? nextafterf(cut.value, INFINITY) : cut.value;
#pragma unroll
            for (int j = 0; j < LOADS; ++j) {
                load<N>(row + base + j * STEP + lane * N, x[j]);
#pragma unroll
                for (int i = 0; i < N; ++i) x[j][i] = x[j][i] < least ? -INFINITY : x[j][i];
            }
        } else {
#pragma unroll
            for (int j = 0; j < LOADS; ++j)
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    int token = base + j * STEP + lane * N + i;
                    x[j][i] = token < end ? cut.of(widen(row[token]), token) : -INFINITY;
                }
        }
        // Reduce the tokens in registers, then merge them into what this lane has.
        float larger = mine.maximum, sum = 0;
#pragma unroll
        for (int j = 0; j < LOADS; ++j)
#pragma unroll
            for (int i = 0; i < N; ++i) larger = fmaxf(larger, x[j][i]);
#pragma unroll
        for (int j = 0; j < LOADS; ++j)
#pragma unroll
            for (int i = 0; i < N; ++i) sum += power_below_one(scale * (x[j][i] - larger));
        mine.total = mine.total * power_below_one(scale * (mine.maximum - larger)) + sum;
        mine.maximum = larger;
    }
    mine = merged_in_warp(mine, scale);
    if (lane == 0) *reduced = mine;
}

// One warp merges the parts of a row; every lane gets the result.
__device__ Normaliser merged_row(const Normaliser* parts, int count, float scale) {
    Normaliser mine = nothing();
    for (int i = threadIdx.x % 32; i < count; i += 32) mine = merged(mine, parts[i], scale);
    return merged_in_warp(mine, scale);
}

// -------------------------------------------------------------------------------------- sampling

// What was decided about a sequence before its next token is sampled. Each of its blocks has the same.
struct Decision {
    int accepted;
    int fault;
    bool complete;
    Normaliser target, draft;  // of the rows that the next token comes from
    double share;              // BLOCK: what multiplies the target's weights
};

// The rows at position n: the target's, and for a residual the draft's.
template <class T, bool RESIDUAL>
__device__ Rows<T> rows_of(const Problem& p, const Workspace& w, int64_t b, int n) {
    const T* z = row_at<T>(p, b, n);
    const T* y = RESIDUAL && p.draft ? row_at<T>(p, b, p.gamma + 1 + n) : nullptr;
    const int given = RESIDUAL && !p.draft ? token_at(p, b, n) : -1;
    const Cut y_cut = y ? cut_of(p, w, b, p.gamma + 1 + n) : Cut{};
    return {z, y, p.vocabulary, given, aligned<4>(z) && (!y || aligned<4>(y)), cut_of(p, w, b, n), y_cut};
}

// What draft token t is accepted by, where its rows are reduced to these normalisers.
template <class T>
__device__ Verdict judged(const Problem& p, const Workspace& w, int64_t b, int t, const Normaliser& target,
                          const Normaliser& draft) {
    const int token = token_at(p, b, t), row = p.gamma + 1 + t;
    if (token < 0) return {0, DRAFT_TOKEN};
    const float z = cut_of(p, w, b, t).of(widen(row_at<T>(p, b, t)[token]), token);
    const float y = p.draft ? cut_of(p, w, b, row).of(widen(row_at<T>(p, b, row)[token]), token) : 0;
    return judge(p, b, z, y, target, draft);
}

// Sum the weights of this block's share of the groups, and add the faults that are met.
template <class T, Method METHOD, bool RESIDUAL>
__device__ void sum_groups(const Problem& p, const Workspace& w, int64_t b, const Decision& decision,
                           int rank, int ranks) {
    static_assert(GROUP == 4 * THREADS, "a thread has four tokens of a group");
    const Rows<T> rows = rows_of<T, RESIDUAL>(p, w, b, decision.accepted);
    const double share = METHOD == BLOCK && RESIDUAL ? decision.share : 1;
    const Weights weights = weights_of<METHOD>(p, b, decision.target, decision.draft, share);
    int fault = 0;
    for (int g = rank; g < w.groups; g += ranks) {
        float z[4], y[4], sum = 0;
        rows.load_four(g * GROUP + 4 * threadIdx.x, z, y);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            fault |= is_fault(z[i]) ? TARGET_LOGITS : 0;
            if (RESIDUAL) fault |= is_fault(y[i]) ? DRAFT_LOGITS : 0;
            sum += weights.of<METHOD, RESIDUAL>(z[i], y[i]);
        }
        sum = sum_of_block(sum);
        if (threadIdx.x == 0) w.sums[b * w.groups + g] = sum;
    }
    if (fault) atomicOr(&w.fault[b], unsigned(fault));
}

// This block's share of summing the weights that the next token is sampled from.
template <class T, Method METHOD>
__device__ void sum_weights(const Problem& p, const Workspace& w, int64_t b, const Decision& decision,
                            int rank, int ranks) {
    if (decision.fault) return;
    if (decision.complete) sum_groups<T, METHOD, false>(p, w, b, decision, rank, ranks);
    else sum_groups<T, METHOD, true>(p, w, b, decision, rank, ranks);
}

// The leader of a race among four tokens from `start`, a multiple of 4, on. Those past the end have no
// weight, and their numbers are not read.
__device__ unsigned long long best_of_four(const Draws& draws, int start, const float (&weights)[4]) {
    const Words words = draws.given ? Words{} : draws.block(uint32_t(start) / 4);
    const uint32_t by_place[4] = {words.a, words.b, words.c, words.d};
    unsigned long long best = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (!(weights[i] > 0)) continue;
        const float v = draws.given ? draws.given[start + i] : uniform(by_place[i]);
        const unsigned long long mine = candidate(weights[i] / arrival(v), uint32_t(start + i));
        best = mine > best ? mine : best;
    }
    return best;
}

// Race the groups, then the tokens of the winner, with one block; every thread gets the token, or -1 if
// none has any weight.
template <class T, Method METHOD, bool RESIDUAL>
__device__ int64_t sampled(const Problem& p, const Workspace& w, int64_t b, const Decision& decision) {
    const Draws of_groups = group_draws_of(p, b), of_tokens = draws_of(p, b);
    unsigned long long best = 0;
    for (int g = threadIdx.x; g < w.groups; g += THREADS) {
        const float rate = w.sums[b * w.groups + g] / arrival(of_groups.at(g));
        const unsigned long long mine = candidate(rate, uint32_t(g));
        best = mine > best ? mine : best;
    }
    best = best_of_block(best);
    if (!best) return -1;
    const Rows<T> rows = rows_of<T, RESIDUAL>(p, w, b, decision.accepted);
    const double share = METHOD == BLOCK && RESIDUAL ? decision.share : 1;
    const Weights weights = weights_of<METHOD>(p, b, decision.target, decision.draft, share);
    const int start = int(token_of(best)) * GROUP + 4 * int(threadIdx.x);
    float z[4], y[4];
    rows.load_four(start, z, y);
    best = 0;
    float w_of[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w_of[i] = weights.of<METHOD, RESIDUAL>(z[i], y[i]);
    best = best_of_block(best_of_four(of_tokens, start, w_of));
    return best ? token_of(best) : -1;
}

// Sample and write the outcome of a sequence; one of its blocks does so once all have summed.
template <class T, Method METHOD>
__device__ void conclude(const Problem& p, const Workspace& w, int64_t b, const Decision& decision) {
    int fault = decision.fault | int(atomicOr(&w.fault[b], 0u));
    int64_t token = -1;
    if (!fault && !decision.complete) token = sampled<T, METHOD, true>(p, w, b, decision);
    if (!fault && token < 0) {  // all accepted, or nothing left over
        if (!decision.complete) {
            sum_groups<T, METHOD, false>(p, w, b, decision, 0, 1);
            __syncthreads();
            fault = int(atomicOr(&w.fault[b], 0u));
        }
        if (!fault) token = sampled<T, METHOD, false>(p, w, b, decision);
        if (!fault && token < 0) fault = TARGET_LOGITS;
    }
    if (threadIdx.x == 0) write(p, b, decision.accepted, token, fault);
}

// --------------------------------------------------------------------------------- few sequences

// Reduce every group of every row. Grid: WARPS groups each x rows x batch.
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
reduce_all(const __grid_constant__ Problem p, const Workspace w) {
    const int part = blockIdx.x * WARPS + threadIdx.x / 32, row = blockIdx.y;
    const int64_t b = blockIdx.z;
    if (blockIdx.x == 0 && row == 0 && threadIdx.x == 0) clear(w, b);
    if (part < w.groups && !matched(p, b))
        reduce_part(row_at<T>(p, b, row), cut_of(p, w, b, row), part, p.vocabulary, scale_of(p, b),
                    parts_at(p, w, b, row) + part);
}

// Merge the parts, decide, and sample. Grid: batch x ranks. Every block of a sequence comes to the same
// decision by itself, so that blocks need not wait for each other.
template <class T, Method METHOD>
__global__ void __launch_bounds__(THREADS, 2)
finish(const __grid_constant__ Problem p, const Workspace w, int ranks) {
    extern __shared__ Normaliser rows[];  // [2 gamma + 1], which EXACT alone has
    __shared__ int first_rejection;
    __shared__ Decision decision;
    __shared__ bool last;
    const int64_t b = blockIdx.x / ranks;
    if (matched(p, b)) return;
    const int64_t length = length_of(p, b);
    const int wrong = fault_of_numbers(p, b, length);
    const bool fits = !wrong;
    if (threadIdx.x == 0) first_rejection = fits ? int(length) : 0;
    if (METHOD == EXACT)
        for (int row = threadIdx.x / 32; row < 2 * p.gamma + 1; row += WARPS) {
            Normaliser whole = certain();
            if (row <= p.gamma || p.draft)
                whole = merged_row(parts_at(p, w, b, row), w.groups, scale_of(p, b));
            if (threadIdx.x % 32 == 0) rows[row] = whole;
        }
    __syncthreads();
    auto at = [&](int row) { return METHOD == EXACT ? rows[row] : nothing(); };
    auto verdict = [&](int t) { return judged<T>(p, w, b, t, at(t), at(p.gamma + 1 + t)); };
    for (int t = threadIdx.x; fits && t < length; t += THREADS)
        if (!verdict(t).accepts(accept_uniform(p, b, t))) atomicMin(&first_rejection, t);
    __syncthreads();
    if (threadIdx.x == 0) {
        const int n = first_rejection;
        const bool complete = n == length;
        int fault = !fits ? wrong : complete ? 0 : verdict(n).fault;
        if (METHOD == EXACT && fits && complete && at(n).faulty()) fault = TARGET_LOGITS;
        decision = {n, fault, complete, at(n), fits && !complete ? at(p.gamma + 1 + n) : nothing(), 1};
    }
    __syncthreads();
    sum_weights<T, METHOD>(p, w, b, decision, blockIdx.x % ranks, ranks);
    __syncthreads();  // the block's faults are written
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(&w.finished[b], 1u) == unsigned(ranks) - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();  // sees what the other blocks wrote
    conclude<T, METHOD>(p, w, b, decision);
}

// -------------------------------------------------------------------------------- many sequences

// Wait for all blocks of the sequence; then this block sees what they wrote.
__device__ void sync_sequence(int ranks) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (ranks > 1) {
        cooperative_groups::this_cluster().sync();
        return;
    }
#endif
    __syncthreads();
}

// Reduce a row of the target, and a row of the draft unless its number is -1, with all blocks of the
// sequence.
template <class T>
__device__ void reduce_together(const Problem& p, const Workspace& w, int64_t b, int target, int draft,
                                int rank, int ranks, Normaliser (&reduced)[2]) {
    const int warp = threadIdx.x / 32, count = draft < 0 || !p.draft ? 1 : 2;
    const float scale = scale_of(p, b);
    for (int i = rank * WARPS + warp; i < count * w.groups; i += ranks * WARPS) {
        const int row = i < w.groups ? target : draft, part = i < w.groups ? i : i - w.groups;
        reduce_part(row_at<T>(p, b, row), cut_of(p, w, b, row), part, p.vocabulary, scale,
                    parts_at(p, w, b, row) + part);
    }
    sync_sequence(ranks);
    if (warp < count) {
        const Normaliser* parts = parts_at(p, w, b, warp ? draft : target);
        Normaliser whole = merged_row(parts, w.groups, scale);
        if (threadIdx.x % 32 == 0) reduced[warp] = whole;
    }
    if (count == 1 && threadIdx.x == THREADS - 1) reduced[1] = certain();
    __syncthreads();
}

// How far `walk` has come with a sequence. All its threads have the same.
struct Walk {
    int n = 0, fault = 0;
    double share = 1;  // BLOCK: of the block that is accepted
};

// Accept draft tokens until one is rejected or at fault. `walk` is where it starts.
template <class T, Method METHOD>
__device__ Walk accept_in_order(const Problem& p, const Workspace& w, int64_t b, Walk walk, int length,
                                int rank, int ranks, Normaliser (&reduced)[2], Verdict& verdict) {
    __shared__ bool accepted;
    for (; walk.n < length; ++walk.n) {
        const int n = walk.n;
        if (METHOD == EXACT) reduce_together<T>(p, w, b, n, p.gamma + 1 + n, rank, ranks, reduced);
        if (threadIdx.x == 0) {
            verdict = judged<T>(p, w, b, n, reduced[0], reduced[1]);
            accepted = verdict.accepts(accept_uniform(p, b, n));
        }
        __syncthreads();
        walk.fault = verdict.fault;
        if (!accepted) break;
        __syncthreads();  // all have read the verdict
    }
    return walk;
}

// BLOCK: accept the longest block of draft tokens that its number allows.
template <class T>
__device__ Walk accept_block(const Problem& p, const Workspace& w, int64_t b, Walk walk, int length,
                             int rank, int ranks, Normaliser (&reduced)[2], Verdict& verdict) {
    double share = 1;
    for (int t = 0; t < length; ++t) {
        reduce_together<T>(p, w, b, t, p.gamma + 1 + t, rank, ranks, reduced);
        if (threadIdx.x == 0) verdict = judged<T>(p, w, b, t, reduced[0], reduced[1]);
        __syncthreads();
        if (verdict.fault) return {0, verdict.fault, 1};
        double chance = 1;
        if (t > 0 && share < 1) {
            const Decision here = {t, 0, false, reduced[0], reduced[1], share};
            sum_groups<T, BLOCK, true>(p, w, b, here, rank, ranks);
            sync_sequence(ranks);
            float sum = 0;
            for (int g = threadIdx.x; g < w.groups; g += THREADS) sum += w.sums[b * w.groups + g];
            chance = block_chance(share, sum_of_block(sum));
        }
        if (t == 0 || accept_uniform(p, b, t - 1) < chance) walk.n = t, walk.share = share;
        share = share * verdict.ratio;
        share = share < 1 ? share : 1;
        __syncthreads();  // all have read the verdict
    }
    if (length == 0 || accept_uniform(p, b, length - 1) < share) walk.n = length;
    return walk;
}

// Decide position after position, then sample. Grid: batch x ranks, in clusters of `ranks` blocks.
template <class T, Method METHOD>
__global__ void __launch_bounds__(THREADS, METHOD == EXACT ? 2 : 1)  // or it spills
walk(const __grid_constant__ Problem p, const Workspace w, int ranks) {
    __shared__ Normaliser reduced[2];  // the target's row and the draft's
    __shared__ Verdict verdict;
    __shared__ Decision decision;
    const int64_t b = blockIdx.x / ranks;
    const int rank = blockIdx.x % ranks;
    if (matched(p, b)) return;
    const int64_t given = length_of(p, b);
    Walk so_far;
    so_far.fault = fault_of_numbers(p, b, given);
    const int length = so_far.fault ? 0 : int(given);
    if (rank == 0 && threadIdx.x == 0) clear(w, b);
    sync_sequence(ranks);  // the workspace is clear
    if (METHOD == BLOCK) so_far = accept_block<T>(p, w, b, so_far, length, rank, ranks, reduced, verdict);
    else so_far = accept_in_order<T, METHOD>(p, w, b, so_far, length, rank, ranks, reduced, verdict);
    const int n = so_far.n;
    int fault = so_far.fault;
    const bool complete = n == length;
    // Reduce the rows that the next token comes from, where acceptance has not done so.
    if (!fault && (METHOD != EXACT || complete)) {
        reduce_together<T>(p, w, b, n, complete ? -1 : p.gamma + 1 + n, rank, ranks, reduced);
        fault = faults_of(reduced[0], reduced[1], complete);
    }
    if (threadIdx.x == 0) decision = {n, fault, complete, reduced[0], reduced[1], so_far.share};
    sync_sequence(ranks);  // the decision is written, and all have summed what it took
    sum_weights<T, METHOD>(p, w, b, decision, rank, ranks);
    sync_sequence(ranks);
    if (rank == 0) conclude<T, METHOD>(p, w, b, decision);
}

// --------------------------------------------------------------------------- the target's own tokens

// Accept draft tokens while they are the target's own: its likeliest, or with COUPLED those that it takes
// by the noise. Grid: batch.
template <class T>
__global__ void __launch_bounds__(THREADS, 2) match(const __grid_constant__ Problem p, const Workspace w) {
    const int64_t b = blockIdx.x;
    if (!matched(p, b)) return;
    const bool greedy = temperature_of(p, b) == 0;
    const int64_t length = length_of(p, b);
    int fault = fault_of_numbers(p, b, length), n = 0;
    int64_t token = -1;
    for (; !fault; ++n) {
        const int drafted = n < length ? token_at(p, b, n) : -1;
        if (n < length && drafted < 0) {
            fault = DRAFT_TOKEN;
            break;
        }
        const Rows<T> rows = rows_of<T, false>(p, w, b, n);
        const uint64_t greatest = greatest_key(rows);
        const float top = logit_of(greatest);
        token = token_of(greatest);
        if (!(top > -INFINITY && top < INFINITY)) {
            fault = TARGET_LOGITS;
            break;
        }
        if (!greedy) {
            const Weights weights = weights_of<COUPLED>(p, b, {top, 1, 0}, certain());
            const Draws draws = draws_of(p, b, n);
            unsigned long long best = 0;
            float z[4], unused[4];
            for (int start = 4 * threadIdx.x; start < p.vocabulary; start += GROUP) {
                rows.load_four(start, z, unused);
#pragma unroll
                for (int i = 0; i < 4; ++i) z[i] = weights.of<COUPLED, false>(z[i], 0);
                const unsigned long long mine = best_of_four(draws, start, z);
                best = mine > best ? mine : best;
            }
            token = token_of(best_of_block(best));
        }
        if (token != drafted) break;
    }
    if (threadIdx.x == 0) write(p, b, n, token, fault);
}

// ------------------------------------------------------------------------------- log-probabilities

// Whether the method leaves the parts of all rows that tokens were emitted from in the workspace.
HD bool leaves_parts(const Problem& p) { return p.method == EXACT || p.method == BLOCK; }

// Write the log-probability of the token at one place of a sequence's output. Grid: gamma + 1 x batch.
template <class T>
__global__ void __launch_bounds__(THREADS, 2) score(const __grid_constant__ Problem p, const Workspace w) {
    const int t = blockIdx.x;
    const int64_t b = blockIdx.y, accepted = p.out[b], next = p.out[p.batch + b];
    const bool emitted = t < accepted || (t == accepted && next >= 0);
    float found = NAN;
    if (emitted) {
        const T* row = row_at<T>(p, b, t);
        Normaliser* parts = parts_at(p, w, b, t);
        const float scale = scale_of(p, b);
        if (!leaves_parts(p)) {
            const Cut cut = cut_of(p, w, b, t);
            for (int part = threadIdx.x / 32; part < w.groups; part += WARPS)
                reduce_part(row, cut, part, p.vocabulary, scale, parts + part);
            __syncthreads();
        }
        const int64_t token = t < accepted ? token_at(p, b, t) : next;
        found = log_probability(p, b, widen(row[token]), merged_row(parts, w.groups, scale));
    }
    if (threadIdx.x == 0) p.log_probabilities[b * (p.gamma + 1) + t] = found;
}

// ----------------------------------------------------------------------------------------- launch

// A number that describes the current GPU.
int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, which, device);
    return value;
}

// Launch `walk`, with as many blocks a sequence as are resident at once.
template <class T, Method METHOD>
cudaError_t walk_all(const Problem& p, const Workspace& w, cudaStream_t stream) {
    const int residents = 2 * attribute(cudaDevAttrMultiProcessorCount);
    int ranks = attribute(cudaDevAttrComputeCapabilityMajor) >= 9 ? CLUSTER : 1;
    while (ranks > 1 && int64_t(p.batch) * ranks > residents) ranks /= 2;
    cudaLaunchAttribute cluster;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {unsigned(ranks), 1, 1};
    cudaLaunchConfig_t launch = {};
    launch.gridDim = dim3(unsigned(p.batch) * ranks);
    launch.blockDim = dim3(THREADS);
    launch.stream = stream;
    launch.attrs = &cluster;
    launch.numAttrs = ranks > 1 ? 1 : 0;
    return cudaLaunchKernelEx(&launch, walk<T, METHOD>, p, w, ranks);
}

// Launch `finish`, with as many blocks a sequence as have groups to sum and are resident at once.
template <class T, Method METHOD>
cudaError_t finish_all(const Problem& p, const Workspace& w, cudaStream_t stream) {
    const int residents = 2 * attribute(cudaDevAttrMultiProcessorCount);
    const int ranks = max(1, min(w.groups, residents / p.batch));
    const size_t shared = METHOD == EXACT ? (2 * p.gamma + 1) * sizeof(Normaliser) : 0;
    finish<T, METHOD><<<unsigned(p.batch) * ranks, THREADS, shared, stream>>>(p, w, ranks);
    return cudaGetLastError();
}

// Launch the kernels that suit the method and the number of sequences.
template <class T>
cudaError_t decide(const Problem& p, const Workspace& w, cudaStream_t stream) {
    const int rows = p.draft ? 2 * p.gamma + 1 : p.gamma + 1;
    if (w.cuts) {
        cut_rows<T><<<dim3(rows, p.batch), THREADS, 0, stream>>>(p, w.cuts);
        const cudaError_t error = cudaGetLastError();
        if (error) return error;
    }
    const bool all_match = p.method == COUPLED || (!p.temperatures && p.temperature == 0);
    if (all_match || p.temperatures) {
        match<T><<<unsigned(p.batch), THREADS, 0, stream>>>(p, w);
        const cudaError_t error = cudaGetLastError();
        if (error || all_match) return error;
    }
    if (p.method == CALIBRATED) return walk_all<T, CALIBRATED>(p, w, stream);
    if (p.method == BLOCK) return walk_all<T, BLOCK>(p, w, stream);
    if (p.method == SIGMOID) {
        cudaError_t error = cudaMemsetAsync(w.fault, 0, cleared_bytes(p), stream);
        return error ? error : finish_all<T, SIGMOID>(p, w, stream);
    }
    // `finish` keeps the normalisers of all rows in 48 KiB of shared memory.
    if (p.batch >= MANY || p.gamma > 1024) return walk_all<T, EXACT>(p, w, stream);
    reduce_all<T><<<dim3((w.groups + WARPS - 1) / WARPS, rows, p.batch), THREADS, 0, stream>>>(p, w);
    cudaError_t error = cudaGetLastError();
    return error ? error : finish_all<T, EXACT>(p, w, stream);
}

template <class T>
cudaError_t verify_as(const Problem& p, const Workspace& w, cudaStream_t stream) {
    const cudaError_t error = decide<T>(p, w, stream);
    if (error || !p.log_probabilities) return error;
    score<T><<<dim3(p.gamma + 1, p.batch), THREADS, 0, stream>>>(p, w);
    return cudaGetLastError();
}

}  // namespace
}  // namespace speculative

extern "C" int64_t speculative_workspace_bytes(const speculative::Problem* p) {
    using namespace speculative;
    const int64_t groups = groups_of(*p), batch = p->batch;
    const bool reduces = (p->method != SIGMOID && p->method != COUPLED) || p->log_probabilities;
    const int64_t rows = reduces ? batch * (2 * p->gamma + 1) : 0;
    return cleared_bytes(*p) + batch * groups * int64_t(sizeof(float)) +
           count_of_cuts(*p) * int64_t(sizeof(Cut)) + rows * groups * int64_t(sizeof(Normaliser));
}

extern "C" int speculative_verify_cuda(const speculative::Problem* p, void* memory, void* stream) {
    using namespace speculative;
    const Workspace w = workspace_of(*p, memory);
    const auto queue = static_cast<cudaStream_t>(stream);
    switch (p->type) {
        case FLOAT32: return verify_as<float>(*p, w, queue);
        case FLOAT16: return verify_as<Half>(*p, w, queue);
        case BFLOAT16: return verify_as<Brain>(*p, w, queue);
    }
    return cudaErrorInvalidValue;
}

extern "C" const char* speculative_error(int code) {
    return cudaGetErrorString(static_cast<cudaError_t>(code));
}
