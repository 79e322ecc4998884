// Sparse convolution on CPUs: gather, multiply and add in registers, with no rows stored between.
//
// A convolution is, for every offset k and every pair (v, u) of input and output rows under it,
//
//     y[u] += x[v] W[k]            x[v] [inner], W[k] [inner, outer], y[u] [outer]
//
// and is computed in tiles. A tile is ROWS pairs of one offset x one panel of output channels:
//
//                  W[k]  inner  +-------+
//                        x      | panel |    PANEL channels, copied ("packed") so that the loop
//                        outer  |       |    over input channels reads them in one stream
//                               +-------+
//     x[v0] |------- inner ----| | sums | -> added to y[u0]
//     x[v1] |------------------| | sums | -> added to y[u1]      ROWS x PANEL sums in registers
//      ...    read where they lie           (v0, u0), (v1, u1), ... are pairs of the offset
//
// Every sum is taken in one order, whatever the blocks and the number of threads, so results are
// the same in every run. Each task writes numbers that no other task writes, so threads never wait
// for each other.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8;  // the bytes of a vector; the rows of a tile: ROWS x VECTORS
                                     // sums and VECTORS weights fit into the registers
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 6;
#else
constexpr int BYTES = 16, ROWS = 6;
#endif
constexpr int VECTORS = 2;       // vectors in a panel's width: each input value is multiplied twice
constexpr int64_t BLOCK = 1024;  // output rows of a task: few enough for the L2 cache
constexpr int64_t TASKS = 8;     // tasks for each thread, at least, so that all end at one time
constexpr int64_t CHUNK = 128;   // pairs whose gradients are packed at once: fit into the L2 cache
constexpr int64_t GROUP = 4;     // panels that are packed at once
constexpr int LINE = 64;         // bytes of a cache line

template <typename T>
using Vector __attribute__((vector_size(BYTES), aligned(alignof(T)))) = T;
template <typename T>
constexpr int LANES = BYTES / sizeof(T);  // numbers in a vector
template <typename T>
constexpr int PANEL = VECTORS* LANES<T>;  // output channels in a panel

// A kernel map: pair i is (inputs[i], outputs[i]), and those of offset k are from firsts[k] to
// before firsts[k + 1]. Under one offset, input and output rows both ascend.
struct Map {
  const int32_t *inputs, *outputs;
  const int64_t* firsts;  // [offsets + 1]
  int64_t offsets, rows;  // `rows` is the number of rows of the output
  int threads;            // how many threads to use
};

// How many parts of a size make up the whole, the last one perhaps smaller.
int64_t parts(int64_t whole, int64_t part) { return part ? (whole + part - 1) / part : 0; }

// A vector of numbers from any address.
template <typename T>
Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

// Adds one row of a tile's sums to memory. The last panel of a matrix may be narrower than PANEL;
// then only `width` numbers are added.
template <typename T>
void add(T* to, const Vector<T>* sums, int64_t width) {
  if (width >= PANEL<T>) {
    for (int v = 0; v < VECTORS; ++v) {
      *reinterpret_cast<Vector<T>*>(to + v * LANES<T>) += sums[v];
    }
    return;
  }
  T values[PANEL<T>];
  std::memcpy(values, sums, sizeof values);
  for (int64_t c = 0; c < width; ++c) to[c] += values[c];
}

// The tile of a convolution: for COUNT pairs, multiplies the input row [inner] by the packed panel
// [inner, PANEL] and adds the result to the output row. It is never inlined, so that the compiler
// gives all registers to it.
template <typename T, int COUNT>
__attribute__((noinline)) void multiply(const T* const* inputs, const T* panel, int64_t inner,
                                        T* const* outputs, int64_t width) {
  Vector<T> sums[COUNT][VECTORS] = {};
  for (int64_t c = 0; c < inner; ++c) {  // one input channel: its weights, and COUNT input values
    Vector<T> weights[VECTORS];
    for (int v = 0; v < VECTORS; ++v) weights[v] = load(panel + c * PANEL<T> + v * LANES<T>);
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
      for (int v = 0; v < VECTORS; ++v) sums[r][v] += inputs[r][c] * weights[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < COUNT; ++r) add<T>(outputs[r], sums[r], width);
}

// The tile of a weight's gradient: for COUNT input channels from `channel` on, multiplies the
// channels of all pairs' input rows by the packed gradients [pairs, PANEL] of their output rows and
// adds the result to gradient [COUNT, PANEL], whose rows are `stride` numbers apart.
template <typename T, int COUNT>
__attribute__((noinline)) void multiply_outer(const T* const* inputs, int64_t channel,
                                              const T* packed, int64_t pairs, T* gradient,
                                              int64_t stride, int64_t width) {
  Vector<T> sums[COUNT][VECTORS] = {};
  for (int64_t i = 0; i < pairs; ++i) {  // one pair: its output's gradient, and COUNT input values
    const T* row = inputs[i] + channel;
    Vector<T> values[VECTORS];
    for (int v = 0; v < VECTORS; ++v) values[v] = load(packed + i * PANEL<T> + v * LANES<T>);
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
      for (int v = 0; v < VECTORS; ++v) sums[r][v] += row[r] * values[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < COUNT; ++r) add<T>(gradient + r * stride, sums[r], width);
}

// Calls the tile function for `count` rows, at most COUNT, a number that is known only at run time.
// (Each number of rows has a function of its own, whose sums are in registers.)
template <typename T, int COUNT = ROWS, typename... Arguments>
void multiply_some(int64_t count, Arguments... arguments) {
  if constexpr (COUNT > 1) {
    if (count < COUNT) return multiply_some<T, COUNT - 1>(count, arguments...);
  }
  multiply<T, COUNT>(arguments...);
}

template <typename T, int COUNT = ROWS, typename... Arguments>
void multiply_outer_some(int64_t count, Arguments... arguments) {
  if constexpr (COUNT > 1) {
    if (count < COUNT) return multiply_outer_some<T, COUNT - 1>(count, arguments...);
  }
  multiply_outer<T, COUNT>(arguments...);
}

// Packs the panel of a matrix [inner, outer] that begins at column `first`: copies it to [inner,
// PANEL]. The matrix lies in memory as [outer, inner] if `transpose`. Numbers of the panel beyond
// the last column keep whatever value they had; their sums are never added.
template <typename T>
void pack(const T* matrix, int64_t inner, int64_t outer, bool transpose, int64_t first, T* to) {
  const int64_t width = std::min<int64_t>(PANEL<T>, outer - first);
  if (!transpose) {
    for (int64_t c = 0; c < inner; ++c) {
      std::copy_n(matrix + c * outer + first, width, to + c * PANEL<T>);
    }
    return;
  }
  constexpr int64_t STEP = LINE / sizeof(T);  // reads whole cache lines, one from each column
  for (int64_t start = 0; start < inner; start += STEP) {
    const int64_t end = std::min(inner, start + STEP);
    for (int64_t d = 0; d < width; ++d) {
      const T* from = matrix + (first + d) * inner;
      for (int64_t c = start; c < end; ++c) to[c * PANEL<T> + d] = from[c];
    }
  }
}

// The convolution y [rows, outer] = sum over offsets of x [., inner] W [offsets, inner, outer],
// where W lies in memory as [offsets, outer, inner] if `transpose`. A task is a block of output rows
// and a part of the panels, so that no two tasks write the same numbers.
template <typename T>
void convolve(const T* x, const T* weight, T* y, const Map& map, int64_t inner, int64_t outer,
              bool transpose) {
  const int64_t blocks = parts(map.rows, BLOCK), count = parts(outer, PANEL<T>);
  // Where there are too few blocks to keep all threads busy, the panels are split as well.
  const int64_t split = std::clamp<int64_t>(parts(TASKS * map.threads, blocks), 1, count);
#pragma omp parallel num_threads(map.threads)
  {
    std::vector<T> panel(inner * PANEL<T>);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t part = 0; part < split; ++part) {
        const int64_t low = block * BLOCK, high = std::min(map.rows, low + BLOCK);
        const int64_t begin = part * count / split * PANEL<T>;
        const int64_t end = std::min(outer, (part + 1) * count / split * PANEL<T>);
        // 1. Set the task's outputs to 0.
        for (int64_t row = low; row < high; ++row) {
          std::fill(y + row * outer + begin, y + row * outer + end, T(0));
        }
        for (int64_t k = 0; k < map.offsets; ++k) {
          // 2. Find the offset's pairs whose outputs lie in the block: output rows ascend.
          const int32_t *from = map.outputs + map.firsts[k], *to = map.outputs + map.firsts[k + 1];
          from = std::lower_bound(from, to, static_cast<int32_t>(low));
          to = std::lower_bound(from, to, static_cast<int32_t>(high));
          for (int64_t first = begin; first < end && from < to; first += PANEL<T>) {
            // 3. Pack a panel of the weight, and go through the pairs with it, tile by tile.
            pack(weight + k * inner * outer, inner, outer, transpose, first, panel.data());
            for (const int32_t* at = from; at < to; at += ROWS) {
              const int64_t n = std::min<int64_t>(ROWS, to - at);
              const T* inputs[ROWS];
              T* outputs[ROWS];
              for (int64_t r = 0; r < n; ++r) {
                inputs[r] = x + map.inputs[at - map.outputs + r] * inner;
                outputs[r] = y + at[r] * outer + first;
              }
              multiply_some<T>(n, inputs, panel.data(), inner, outputs, outer - first);
            }
          }
        }
      }
    }
  }
}

// The gradient of the weight: gradient[k] [inner, outer] = sum over the pairs (v, u) of offset k of
// the outer products of x[v] and y[u], where y is the gradient of the output. A task is an offset
// and a group of panels.
template <typename T>
void weight_gradient(const T* x, const T* y, T* gradient, const Map& map, int64_t inner,
                     int64_t outer) {
  const int64_t count = parts(outer, PANEL<T>);
  const bool few = map.offsets * parts(count, GROUP) < TASKS * map.threads;
  const int64_t group = (few ? 1 : GROUP) * PANEL<T>;
  std::memset(gradient, 0, map.offsets * inner * outer * sizeof(T));
#pragma omp parallel num_threads(map.threads)
  {
    std::vector<T> packed(GROUP * CHUNK * PANEL<T>);
    const T* rows[CHUNK];
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t k = 0; k < map.offsets; ++k) {
      for (int64_t begin = 0; begin < outer; begin += group) {
        const int64_t end = std::min(outer, begin + group);
        for (int64_t at = map.firsts[k]; at < map.firsts[k + 1]; at += CHUNK) {
          const int64_t n = std::min<int64_t>(CHUNK, map.firsts[k + 1] - at);
          // 1. For a chunk of pairs: look up the input rows, and pack the gradients of the outputs.
          for (int64_t i = 0; i < n; ++i) {
            rows[i] = x + map.inputs[at + i] * inner;
            for (int64_t c = 0; c < inner; c += LINE / sizeof(T)) __builtin_prefetch(rows[i] + c);
            const T* row = y + map.outputs[at + i] * outer;
            for (int64_t first = begin; first < end; first += PANEL<T>) {
              const int64_t width = std::min<int64_t>(PANEL<T>, outer - first);
              std::copy_n(row + first, width, packed.data() + (first - begin) * CHUNK + i * PANEL<T>);
            }
          }
          // 2. Add their outer products to the gradient, tile by tile.
          for (int64_t c = 0; c < inner; c += ROWS) {
            for (int64_t first = begin; first < end; first += PANEL<T>) {
              multiply_outer_some<T>(std::min<int64_t>(ROWS, inner - c), rows, c,
                                     packed.data() + (first - begin) * CHUNK, n,
                                     gradient + (k * inner + c) * outer + first, outer,
                                     outer - first);
            }
          }
        }
      }
    }
  }
}

}  // namespace

#define EXPORT(T, name)                                                                          \
  extern "C" void convolve_##name(const T* x, const T* weight, T* y, const Map* map,             \
                                  int64_t inner, int64_t outer, int transpose) {                 \
    convolve(x, weight, y, *map, inner, outer, transpose != 0);                                  \
  }                                                                                              \
  extern "C" void weight_gradient_##name(const T* x, const T* y, T* gradient, const Map* map,    \
                                         int64_t inner, int64_t outer) {                         \
    weight_gradient(x, y, gradient, *map, inner, outer);                                         \
  }

EXPORT(float, float32)
EXPORT(double, float64)
