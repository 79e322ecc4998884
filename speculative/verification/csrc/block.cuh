// What the kernels of a GPU share: how a block's threads load rows, and what they find together.

#pragma once

#include <cuda_runtime.h>

#include "arithmetic.h"

namespace speculative {
namespace {

constexpr int THREADS = 512;  // threads of every block
constexpr int WARPS = THREADS / 32;

// Row r of sequence b: the target's gamma + 1 rows come first, then the draft's.
template <class T>
__device__ const T* row_at(const Problem& p, int64_t b, int r) {
    if (r <= p.gamma)
        return static_cast<const T*>(p.target) + b * p.target_strides[0] + r * p.target_strides[1];
    return static_cast<const T*>(p.draft) + b * p.draft_strides[0] +
           (r - p.gamma - 1) * p.draft_strides[1];
}

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

// A pair of rows, or one. A token that is not kept reads as -inf.
template <class T>
struct Rows {
    const T *z, *y;  // y is null without a draft's row
    int vocabulary, given;  // `given`: the draft token, where it was not sampled from a row
    bool wide;
    Cut z_cut, y_cut;

    // Four logits of both rows from token `start` on; those past the end are excluded.
    __device__ void load_four(int start, float (&of_z)[4], float (&of_y)[4]) const {
        if (wide && start + 4 <= vocabulary) {
            load<4>(z + start, of_z);
            if (y) load<4>(y + start, of_y);
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                of_z[i] = start + i < vocabulary ? widen(z[start + i]) : -INFINITY;
                if (y) of_y[i] = start + i < vocabulary ? widen(y[start + i]) : 0;
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            of_z[i] = z_cut.of(of_z[i], start + i);
            of_y[i] = y ? y_cut.of(of_y[i], start + i) : start + i == given ? 0 : -INFINITY;
        }
    }
};

// The largest value that a thread of the block has.
__device__ unsigned long long best_of_block(unsigned long long mine) {
    __shared__ unsigned long long best;
    if (threadIdx.x == 0) best = 0;
    __syncthreads();
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
        unsigned long long other = __shfl_xor_sync(~0u, mine, distance);
        mine = other > mine ? other : mine;
    }
    if (threadIdx.x % 32 == 0 && mine) atomicMax(&best, mine);
    __syncthreads();
    mine = best;
    __syncthreads();
    return mine;
}

// The sums of what the threads of the block have, always added in the same order.
template <int N>
__device__ void sums_of_block(float (&mine)[N]) {
    __shared__ float of_warp[WARPS][N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
#pragma unroll
        for (int distance = 16; distance; distance /= 2) mine[j] += __shfl_xor_sync(~0u, mine[j], distance);
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32][j] = mine[j];
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < N; ++j) {
        mine[j] = 0;
#pragma unroll
        for (int i = 0; i < WARPS; ++i) mine[j] += of_warp[i][j];
    }
    __syncthreads();
}

__device__ float sum_of_block(float mine) {
    float one[1] = {mine};
    sums_of_block(one);
    return one[0];
}

}  // namespace
}  // namespace speculative
