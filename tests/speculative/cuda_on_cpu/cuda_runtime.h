// As much of CUDA as csrc/verify.cu uses, on a CPU: the threads of a block are contexts that take
// turns and give way where they wait for each other; blocks run one after the other.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };

inline dim3 threadIdx, blockIdx;
inline std::vector<char> dynamic_shared;

// ------------------------------------------------------------------------------------- scheduler

struct Barrier {
    int size = 0, arrived = 0, generation = 0;
};
struct Wait {
    const Barrier* at = nullptr;
    int generation = 0;
    bool over() const { return at == nullptr || at->generation != generation; }
};
// A thread begins in its context, and goes on where it gave way. It jumps there, for a change of
// contexts is two system calls.
struct Thread {
    ucontext_t start;
    jmp_buf place;
    bool begun = false, ended = false;
    Wait wait;
};
inline std::vector<Thread> threads_of_block;
inline jmp_buf scheduler;
inline Barrier block_barrier;
inline std::vector<Barrier> warp_barriers;
inline std::vector<uint64_t> shuffled_values;
inline std::function<void()> body;

inline void wait_at(Barrier& barrier) {
    const int generation = barrier.generation;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    Thread& me = threads_of_block[threadIdx.x];
    me.wait = {&barrier, generation};
    if (_setjmp(me.place) == 0) _longjmp(scheduler, 1);
}

inline void thread_main() {
    body();
    threads_of_block[threadIdx.x].ended = true;
    _longjmp(scheduler, 1);
}

// Let a thread go on until it gives way or ends.
__attribute__((noinline)) inline void resume(unsigned index) {
    threadIdx.x = index;
    Thread& thread = threads_of_block[index];
    if (_setjmp(scheduler) != 0) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.start);
}

inline void run_block(int threads) {
    static std::vector<std::vector<char>> stacks;
    stacks.resize(threads, std::vector<char>(1 << 15));
    threads_of_block.assign(threads, {});
    block_barrier = {threads, 0, 0};
    warp_barriers.assign((threads + 31) / 32, Barrier{32, 0, 0});
    shuffled_values.assign(threads, 0);
    for (int i = 0; i < threads; ++i) {
        ucontext_t& start = threads_of_block[i].start;
        getcontext(&start);
        start.uc_stack.ss_sp = stacks[i].data();
        start.uc_stack.ss_size = stacks[i].size();
        makecontext(&start, thread_main, 0);
    }
    for (bool busy = true; busy;) {
        busy = false;
        for (int i = 0; i < threads; ++i) {
            if (threads_of_block[i].ended) continue;
            busy = true;
            if (threads_of_block[i].wait.over()) resume(unsigned(i));
        }
    }
}

inline void launch_on_cpu(dim3 grid, int threads, size_t shared, std::function<void()> kernel) {
    dynamic_shared.assign(shared, char(0x5a));
    body = kernel;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = dim3(x, y, z);
                run_block(threads);
            }
}

// --------------------------------------------------------------------------------- device functions

inline void __syncthreads() { wait_at(block_barrier); }
inline void __threadfence() {}

template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
    const unsigned me = threadIdx.x;
    memcpy(&shuffled_values[me], &value, sizeof(T));
    wait_at(warp_barriers[me / 32]);
    T other;
    memcpy(&other, &shuffled_values[me ^ unsigned(distance)], sizeof(T));
    wait_at(warp_barriers[me / 32]);
    return other;
}

template <class T>
T exchanged(T* place, T value) {
    T old = *place;
    *place = value;
    return old;
}
template <class T, class U>
T atomicAdd(T* place, U value) { return exchanged(place, T(*place + value)); }
template <class T, class U>
T atomicOr(T* place, U value) { return exchanged(place, T(*place | value)); }
template <class T, class U>
T atomicMax(T* place, U value) { return exchanged(place, std::max(*place, T(value))); }
template <class T, class U>
T atomicMin(T* place, U value) { return exchanged(place, std::min(*place, T(value))); }

// ----------------------------------------------------------------------------------- host functions

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct { struct { unsigned x, y, z; } clusterDim; } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
    cudaLaunchAttribute* attrs = nullptr;
    unsigned numAttrs = 0;
};

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    *value = which == cudaDevAttrMultiProcessorCount ? 3 : 8;
    return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* place, int value, size_t size, cudaStream_t) {
    memset(place, value, size);
    return cudaSuccess;
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Parameters...),
                               Arguments... arguments) {
    launch_on_cpu(launch->gridDim, int(launch->blockDim.x), launch->dynamicSmemBytes,
                  [&] { kernel(arguments...); });
    return cudaSuccess;
}
