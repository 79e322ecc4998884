// Verification on a GPU. Nothing waits for the host, nothing is allocated here, inputs are only read.
//
// There are two ways. For few sequences `reduce_all` reads every row at once, then `finish` merges,
// decides and samples. For many sequences `walk`, a cluster of blocks for each, reads position after
// position and stops at the first rejection, so that most rows are never read. SIGMOID needs `finish`
// alone. CALIBRATED takes `walk`, which then reads only the rows that the next token comes from.
//
// Rows are reduced in parts of one warp each. Both ways keep the same tokens in the same lanes and
// merge in the same order, so that a sequence's outcome never depends on the batch around it.

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "arithmetic.h"

namespace speculative {
namespace {

constexpr int THREADS = 512;  // threads of every block
constexpr int WARPS = THREADS / 32;
constexpr int PART = 2048;    // tokens that a warp reduces
constexpr int ROUND = 1024;   // tokens that a warp holds in registers
constexpr int MANY = 16;      // EXACT uses `walk` from this many sequences on
constexpr int CLUSTER = 8;    // `walk` has at most so many blocks a sequence, as all GPUs allow

// Device memory that the caller lends for one call.
struct Workspace {
    unsigned long long* best;  // [batch]: the race's best token
    unsigned* fault;           // [batch]: faults that the race met
    unsigned* finished;        // [batch]: how many blocks of `finish` have sampled
    Normaliser* partial;       // [batch, 2 gamma + 1, parts]: the target's rows, then the draft's
    int parts;
};

// The lent memory, divided up.
Workspace workspace_of(const Problem& p, void* memory) {
    auto* best = static_cast<unsigned long long*>(memory);
    auto* fault = reinterpret_cast<unsigned*>(best + p.batch);
    auto* partial = reinterpret_cast<Normaliser*>(fault + 2 * p.batch);
    return {best, fault, fault + p.batch, partial, (p.vocabulary + PART - 1) / PART};
}

// The bytes at the start of the workspace that must be 0 before `finish` races: all but the parts.
int64_t cleared_bytes(const Problem& p) { return 16 * int64_t(p.batch); }

// The normalisers of the parts of row r of sequence b.
__device__ Normaliser* parts_at(const Problem& p, const Workspace& w, int64_t b, int r) {
    return w.partial + (b * (2 * p.gamma + 1) + r) * w.parts;
}

// Row r of sequence b, counted as in `Workspace::partial`.
template <class T>
__device__ const T* row_at(const Problem& p, int64_t b, int r) {
    if (r <= p.gamma)
        return static_cast<const T*>(p.target) + b * p.target_strides[0] + r * p.target_strides[1];
    return static_cast<const T*>(p.draft) + b * p.draft_strides[0] +
           (r - p.gamma - 1) * p.draft_strides[1];
}

// Let sequence b begin its race anew.
__device__ void clear(const Workspace& w, int64_t b) {
    w.best[b] = 0;
    w.fault[b] = w.finished[b] = 0;
}

// How many draft tokens sequence b has; it may be out of range.
__device__ int64_t length_of(const Problem& p, int64_t b) {
    return p.lengths ? p.lengths[b] : p.gamma;
}

// -------------------------------------------------------------------------------------- reducing

template <int BYTES> struct Word;
template <> struct Word<16> { using type = uint4; };
template <> struct Word<8> { using type = uint2; };

// The N elements that one aligned load brings, widened.
template <int N, class T>
__device__ void load(const T* place, float (&x)[N]) {
    using Wide = typename Word<N * sizeof(T)>::type;
    Wide word = *reinterpret_cast<const Wide*>(place);
    T narrow[N];
    memcpy(narrow, &word, sizeof(word));
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = widen(narrow[i]);
}

template <int N, class T>
__device__ bool aligned(const T* row) {
    return reinterpret_cast<uintptr_t>(row) % (N * sizeof(T)) == 0;
}

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
__device__ void reduce_part(const T* row, int part, int vocabulary, float scale,
                            Normaliser* reduced) {
    constexpr int N = 16 / sizeof(T), STEP = 32 * N, LOADS = ROUND / STEP;
    const int lane = threadIdx.x % 32, end = min(vocabulary, (part + 1) * PART);
    const bool wide = aligned<N>(row);
    Normaliser mine = nothing();
    for (int base = part * PART; base < end; base += ROUND) {
        float x[LOADS][N];
        if (wide && base + ROUND <= end) {
#pragma unroll
            for (int j = 0; j < LOADS; ++j) load<N>(row + base + j * STEP + lane * N, x[j]);
        } else {
#pragma unroll
            for (int j = 0; j < LOADS; ++j)
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    int token = base + j * STEP + lane * N + i;
                    x[j][i] = token < end ? widen(row[token]) : -INFINITY;
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
            for (int i = 0; i < N; ++i) sum += power_of_two(scale * (x[j][i] - larger));
        mine.total = mine.total * power_of_two(scale * (mine.maximum - larger)) + sum;
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
};

// Run this block's share of a race, and add its best token and its faults to the workspace.
template <class T, Method METHOD, bool RESIDUAL>
__device__ void race(const Problem& p, const Workspace& w, int64_t b, const Decision& decision,
                     int rank, int ranks) {
    __shared__ unsigned long long best_of_block;
    const int V = p.vocabulary;
    const T* z_row = row_at<T>(p, b, decision.accepted);
    const T* y_row = RESIDUAL ? row_at<T>(p, b, p.gamma + 1 + decision.accepted) : z_row;
    const bool wide = aligned<4>(z_row) && aligned<4>(y_row);
    const Weights weights = weights_of<METHOD>(p, decision.target, decision.draft);
    const Draws draws = draws_of(p, b);
    const float* uniforms = draws.uniforms ? draws.uniforms + p.gamma : nullptr;
    unsigned long long best = 0;
    int fault = 0;
    if (threadIdx.x == 0) best_of_block = 0;
    for (int start = 4 * (rank * THREADS + threadIdx.x); start < V; start += 4 * THREADS * ranks) {
        float z[4], y[4] = {0, 0, 0, 0}, v[4];
        if (wide && start + 4 <= V) {
            load<4>(z_row + start, z);
            if (RESIDUAL) load<4>(y_row + start, y);
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                z[i] = start + i < V ? widen(z_row[start + i]) : -INFINITY;
                if (RESIDUAL) y[i] = start + i < V ? widen(y_row[start + i]) : 0;
            }
        }
        if (uniforms) {
#pragma unroll
            for (int i = 0; i < 4; ++i) v[i] = start + i < V ? uniforms[start + i] : 1;
        } else {
            Words words = draws.block(uint32_t(start) / 4);
            v[0] = uniform(words.a), v[1] = uniform(words.b);
            v[2] = uniform(words.c), v[3] = uniform(words.d);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            fault |= (is_fault(z[i]) ? TARGET_LOGITS : 0) | (is_fault(y[i]) ? DRAFT_LOGITS : 0);
            float rate = weights.of<METHOD, RESIDUAL>(z[i], y[i]) / arrival(v[i]);
            unsigned long long mine = candidate(rate, uint32_t(start + i));
            best = mine > best ? mine : best;
        }
    }
    __syncthreads();
    // The best of the warp, then of the block, then of the sequence.
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
        unsigned long long other = __shfl_xor_sync(~0u, best, distance);
        best = other > best ? other : best;
        fault |= __shfl_xor_sync(~0u, fault, distance);
    }
    if (threadIdx.x % 32 == 0) {
        if (best) atomicMax(&best_of_block, best);
        if (fault) atomicOr(&w.fault[b], unsigned(fault));
    }
    __syncthreads();
    if (threadIdx.x == 0 && best_of_block) atomicMax(&w.best[b], best_of_block);
}

// This block's share of sampling the next token: the bonus token, or one of the residual.
template <class T, Method METHOD>
__device__ void sample(const Problem& p, const Workspace& w, int64_t b, const Decision& decision,
                       int rank, int ranks) {
    if (decision.fault) return;
    if (decision.complete) race<T, METHOD, false>(p, w, b, decision, rank, ranks);
    else race<T, METHOD, true>(p, w, b, decision, rank, ranks);
}

// Write the outcome of a sequence; one of its blocks does so once all have sampled.
template <class T, Method METHOD>
__device__ void conclude(const Problem& p, const Workspace& w, int64_t b, const Decision& decision) {
    __shared__ bool nothing_left;  // the residual has no weight: sample from the target instead
    if (threadIdx.x == 0)
        nothing_left = !decision.fault && !decision.complete && !atomicOr(&w.fault[b], 0u) &&
                       !atomicMax(&w.best[b], 0ull);
    __syncthreads();
    if (nothing_left) {
        race<T, METHOD, false>(p, w, b, decision, 0, 1);
        __syncthreads();
    }
    if (threadIdx.x) return;
    const unsigned long long best = atomicMax(&w.best[b], 0ull);
    int fault = decision.fault | int(atomicOr(&w.fault[b], 0u));
    if (!fault && !best) fault = TARGET_LOGITS;
    p.out[b] = decision.accepted;
    p.out[p.batch + b] = fault ? -1 : token_of(best);
    p.out[2 * int64_t(p.batch) + b] = fault;
}

// --------------------------------------------------------------------------------- few sequences

// Reduce every part of every row. Grid: groups of WARPS parts x rows x batch.
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
reduce_all(const __grid_constant__ Problem p, const Workspace w) {
    const int part = blockIdx.x * WARPS + threadIdx.x / 32, row = blockIdx.y;
    const int64_t b = blockIdx.z;
    if (blockIdx.x == 0 && row == 0 && threadIdx.x == 0) clear(w, b);
    if (part < w.parts)
        reduce_part(row_at<T>(p, b, row), part, p.vocabulary, scale_of(p),
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
    const int64_t length = length_of(p, b);
    const bool fits = 0 <= length && length <= p.gamma;
    const Draws draws = draws_of(p, b);
    if (threadIdx.x == 0) first_rejection = fits ? int(length) : 0;
    if (METHOD == EXACT)
        for (int row = threadIdx.x / 32; row < 2 * p.gamma + 1; row += WARPS) {
            Normaliser whole = merged_row(parts_at(p, w, b, row), w.parts, scale_of(p));
            if (threadIdx.x % 32 == 0) rows[row] = whole;
        }
    __syncthreads();
    auto at = [&](int row) { return METHOD == EXACT ? rows[row] : nothing(); };
    auto verdict = [&](int t) { return judge<T>(p, draws, b, t, at(t), at(p.gamma + 1 + t)); };
    for (int t = threadIdx.x; fits && t < length; t += THREADS)
        if (!verdict(t).accepted) atomicMin(&first_rejection, t);
    __syncthreads();
    if (threadIdx.x == 0) {
        const int n = first_rejection;
        const bool complete = n == length;
        int fault = !fits ? LENGTH : complete ? 0 : verdict(n).fault;
        if (METHOD == EXACT && fits && complete && at(n).faulty()) fault = TARGET_LOGITS;
        decision = {n, fault, complete, at(n), fits && !complete ? at(p.gamma + 1 + n) : nothing()};
    }
    __syncthreads();
    sample<T, METHOD>(p, w, b, decision, blockIdx.x % ranks, ranks);
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(&w.finished[b], 1u) == unsigned(ranks) - 1;
    }
    __syncthreads();
    if (last) conclude<T, METHOD>(p, w, b, decision);
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
    const int warp = threadIdx.x / 32, count = draft < 0 ? 1 : 2;
    const float scale = scale_of(p);
    for (int i = rank * WARPS + warp; i < count * w.parts; i += ranks * WARPS) {
        const int row = i < w.parts ? target : draft, part = i < w.parts ? i : i - w.parts;
        reduce_part(row_at<T>(p, b, row), part, p.vocabulary, scale, parts_at(p, w, b, row) + part);
    }
    sync_sequence(ranks);
    if (warp < count) {
        const Normaliser* parts = parts_at(p, w, b, warp ? draft : target);
        Normaliser whole = merged_row(parts, w.parts, scale);
        if (threadIdx.x % 32 == 0) reduced[warp] = whole;
    }
    __syncthreads();
}

// Decide position after position, then sample. Grid: batch x ranks, in clusters of `ranks` blocks.
template <class T, Method METHOD>
__global__ void __launch_bounds__(THREADS, METHOD == CALIBRATED ? 1 : 2)  // or it spills
walk(const __grid_constant__ Problem p, const Workspace w, int ranks) {
    __shared__ Normaliser reduced[2];  // the target's row and the draft's
    __shared__ Verdict verdict;
    const int64_t b = blockIdx.x / ranks;
    const int rank = blockIdx.x % ranks;
    const int64_t length = length_of(p, b);
    const bool fits = 0 <= length && length <= p.gamma;
    const Draws draws = draws_of(p, b);
    if (rank == 0 && threadIdx.x == 0) clear(w, b);
    int n = 0, fault = fits ? 0 : LENGTH;
    for (; fits && n < length; ++n) {
        if (METHOD == EXACT) reduce_together<T>(p, w, b, n, p.gamma + 1 + n, rank, ranks, reduced);
        if (threadIdx.x == 0) verdict = judge<T>(p, draws, b, n, reduced[0], reduced[1]);
        __syncthreads();
        fault = verdict.fault;
        if (!verdict.accepted) break;
        if (METHOD == CALIBRATED) __syncthreads();  // all have read the verdict
    }
    const bool complete = n == length;
    // Reduce the rows that the next token comes from, where acceptance has not done so.
    if (fits && (METHOD == EXACT ? complete : !fault)) {
        reduce_together<T>(p, w, b, n, complete ? -1 : p.gamma + 1 + n, rank, ranks, reduced);
        fault = faults_of(reduced[0], reduced[1], complete);
    }
    const Decision decision = {n, fault, complete, reduced[0], reduced[1]};
    sync_sequence(ranks);  // the workspace is clear, also where nothing was reduced
    sample<T, METHOD>(p, w, b, decision, rank, ranks);
    sync_sequence(ranks);
    if (rank == 0) conclude<T, METHOD>(p, w, b, decision);
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

// Launch `finish`, with as many blocks a sequence as have tokens to race and are resident at once.
template <class T, Method METHOD>
cudaError_t finish_all(const Problem& p, const Workspace& w, cudaStream_t stream) {
    const int most = (p.vocabulary + 4 * THREADS - 1) / (4 * THREADS);
    const int ranks = max(1, min(most, 2 * attribute(cudaDevAttrMultiProcessorCount) / p.batch));
    const size_t shared = METHOD == EXACT ? (2 * p.gamma + 1) * sizeof(Normaliser) : 0;
    finish<T, METHOD><<<unsigned(p.batch) * ranks, THREADS, shared, stream>>>(p, w, ranks);
    return cudaGetLastError();
}

// Launch the kernels that suit the method and the number of sequences.
template <class T>
cudaError_t verify_as(const Problem& p, const Workspace& w, cudaStream_t stream) {
    if (p.method == CALIBRATED) return walk_all<T, CALIBRATED>(p, w, stream);
    if (p.method == SIGMOID) {
        cudaError_t error = cudaMemsetAsync(w.best, 0, cleared_bytes(p), stream);
        return error ? error : finish_all<T, SIGMOID>(p, w, stream);
    }
    // `finish` keeps the normalisers of all rows in 48 KiB of shared memory.
    if (p.batch >= MANY || p.gamma > 1024) return walk_all<T, EXACT>(p, w, stream);
    const dim3 grid((w.parts + WARPS - 1) / WARPS, 2 * p.gamma + 1, p.batch);
    reduce_all<T><<<grid, THREADS, 0, stream>>>(p, w);
    cudaError_t error = cudaGetLastError();
    return error ? error : finish_all<T, EXACT>(p, w, stream);
}

}  // namespace
}  // namespace speculative

extern "C" int64_t speculative_workspace_bytes(const speculative::Problem* p) {
    const auto w = speculative::workspace_of(*p, nullptr);
    const int64_t rows = p->method != speculative::SIGMOID ? int64_t(p->batch) * (2 * p->gamma + 1) : 0;
    return speculative::cleared_bytes(*p) + rows * w.parts * int64_t(sizeof(speculative::Normaliser));
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
