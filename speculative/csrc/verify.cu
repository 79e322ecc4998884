// Verification on a GPU. Nothing waits for the host, nothing is allocated here, inputs are only read.
//
// Few sequences: `reduce_all` reads every row at once, then `finish` merges, decides and samples.
// Many: `walk`, a cluster of blocks per sequence, reads position after position and stops at the
// first rejection, so that most rows are never read. Sigmoid needs `finish` alone.
//
// Rows are reduced in parts of one warp each, the same tokens in the same lanes and the same order
// of merging on either way, so that a sequence's outcome never depends on the batch around it.

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "arithmetic.h"

namespace speculative {
namespace {

constexpr int PART = 2048;      // tokens that a warp reduces
constexpr int THREADS = 512;    // of every block
constexpr int WARPS = THREADS / 32;
constexpr int MANY = 16;        // sequences from which `walk` is faster
constexpr int QUADS = 4;        // blocks of four random numbers that a thread of `finish` draws

// Device memory that the caller lends for one call.
struct Workspace {
    uint64_t* best;        // [batch]: the race's best token
    unsigned* fault;       // [batch]: faults that the race met
    unsigned* finished;    // [batch]: blocks of `finish` that are through
    Normaliser* partial;   // [batch, 2 gamma + 1, parts]; rows: target's, then the draft's
    int parts;
};

__host__ __device__ int parts_of(const Problem& p) { return (p.vocabulary + PART - 1) / PART; }

// The parts of a row that stand in its own place: row r of sequence b.
__device__ Normaliser* parts_at(const Problem& p, const Workspace& w, int64_t b, int r) {
    return w.partial + (b * (2 * p.gamma + 1) + r) * w.parts;
}

template <class T>
__device__ const T* row_at(const Problem& p, int64_t b, int r) {
    if (r <= p.gamma)
        return static_cast<const T*>(p.target) + b * p.target_strides[0] + r * p.target_strides[1];
    return static_cast<const T*>(p.draft) + b * p.draft_strides[0] +
           (r - p.gamma - 1) * p.draft_strides[1];
}

// ---------------------------------------------------------------------------------- reading rows

template <class T>
constexpr int PER_LOAD = 16 / sizeof(T);

template <class T>
__device__ bool aligned(const T* row) { return reinterpret_cast<uintptr_t>(row) % 16 == 0; }

// PER_LOAD tokens from `start` on; beyond `end`: -inf. One load where the row allows it.
template <class T>
__device__ void load(const T* row, int start, int end, bool wide, T (&x)[PER_LOAD<T>]) {
    constexpr int N = PER_LOAD<T>;
    if (wide && start + N <= end) {
        uint4 word = __ldg(reinterpret_cast<const uint4*>(row + start));
        memcpy(x, &word, 16);
        return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (start + i < end) x[i] = row[start + i];
        else minus_infinity(x[i]);
    }
}

// -------------------------------------------------------------------------------------- reducing

__device__ Normaliser shuffled(const Normaliser& a, int distance) {
    return {__shfl_xor_sync(~0u, a.maximum, distance), __shfl_xor_sync(~0u, a.total, distance),
            __shfl_xor_sync(~0u, a.fault, distance)};
}

__device__ Normaliser merged_in_warp(Normaliser mine, float scale) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        mine = merged(mine, shuffled(mine, distance), scale);
    return mine;
}

// One warp reduces one part of a row; lane 0 stores it.
template <class T>
__device__ void reduce_part(const T* row, int part, int vocabulary, float scale, Normaliser* found) {
    constexpr int N = PER_LOAD<T>, LOADS = 32 / N, STEP = 32 * N;
    const int lane = threadIdx.x % 32, end = min(vocabulary, (part + 1) * PART);
    const bool wide = aligned(row);
    Normaliser mine;
    for (int start = part * PART + lane * N; start < end; start += LOADS * STEP) {
        T x[LOADS][N];
#pragma unroll
        for (int j = 0; j < LOADS; ++j) load(row, start + j * STEP, end, wide, x[j]);
        float larger = mine.maximum, sum = 0;
#pragma unroll
        for (int j = 0; j < LOADS; ++j)
#pragma unroll
            for (int i = 0; i < N; ++i) {
                float z = widen(x[j][i]);
                larger = fmaxf(larger, z);
                mine.fault |= is_fault(z);
            }
        const float offset = -scale * larger;
#pragma unroll
        for (int j = 0; j < LOADS; ++j)
#pragma unroll
            for (int i = 0; i < N; ++i) sum += power_of_two(scale * (widen(x[j][i]) - larger));
        mine.total = mine.total * power_of_two(scale * (mine.maximum - larger)) + sum;
        mine.maximum = larger;
    }
    mine = merged_in_warp(mine, scale);
    if (lane == 0) *found = mine;
}

// One warp merges the parts of a row; every lane gets the result.
__device__ Normaliser merged_row(const Normaliser* parts, int count, float scale) {
    Normaliser mine;
    for (int i = threadIdx.x % 32; i < count; i += 32) mine = merged(mine, parts[i], scale);
    return merged_in_warp(mine, scale);
}

// -------------------------------------------------------------------------------------- sampling

// The best token of this block's share of a race, in every thread of warp 0.
template <class T, bool EXACT, bool RESIDUAL>
__device__ uint64_t race(const T* z_row, const T* y_row, const Weights& weights, const Draws& draws,
                         const float* given, int vocabulary, int rank, int ranks, int& fault) {
    uint64_t best = 0;
    for (int start = 4 * (rank * THREADS + threadIdx.x); start < vocabulary;
         start += 4 * THREADS * ranks) {
        float v[4];
        if (given) {
#pragma unroll
            for (int i = 0; i < 4; ++i) v[i] = start + i < vocabulary ? given[start + i] : 1;
        } else {
            Words words = draws.block(unsigned(start) / 4);
            v[0] = uniform(words.a), v[1] = uniform(words.b);
            v[2] = uniform(words.c), v[3] = uniform(words.d);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (start + i >= vocabulary) break;
            float z = widen(z_row[start + i]), y = RESIDUAL ? widen(y_row[start + i]) : 0;
            fault |= (is_fault(z) ? TARGET_LOGITS : 0) | (RESIDUAL && is_fault(y) ? DRAFT_LOGITS : 0);
            float w = weights.of<EXACT, RESIDUAL>(z, y);
            if (w > 0) best = max(best, candidate(w / arrival(v[i]), start + i));
        }
    }
    return best;
}
}  // namespace
}  // namespace speculative
