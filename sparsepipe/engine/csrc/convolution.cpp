// Sparse convolution on CPUs: products of gathered rows in registers, no rows in between.
//
// A tile is ROWS pairs of one offset x one panel of output channels. Its sums live in registers
// over all input channels; rows are read where they lie, and each tile is added to its outputs at
// once. Panels of weights are packed, so that a tile reads them in one stream. Every sum has one
// order, whatever the blocks and the threads, so results are the same in every run.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8;  // of a vector; ROWS x VECTORS sums and a panel fit registers
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 6;
#else
constexpr int BYTES = 16, ROWS = 6;
#endif
constexpr int VECTORS = 2;      // of a panel: two products for each value that is broadcast
constexpr int64_t BLOCK = 1024;  // rows of outputs: few enough for the L2 cache
constexpr int64_t TASKS = 8;     // for each thread, at least, so that all end together
constexpr int64_t CHUNK = 128;   // pairs whose gradients are packed: few enough for the L2 cache
constexpr int64_t GROUP = 4;     // panels that are packed together
constexpr int LINE = 64;         // bytes of a cache line

template <typename T>
using Vector __attribute__((vector_size(BYTES), aligned(alignof(T)))) = T;
template <typename T>
constexpr int LANES = BYTES / sizeof(T);
template <typename T>
constexpr int PANEL = VECTORS* LANES<T>;

// P pairs of rows by offset; within one, both ascend. `firsts` [offsets + 1]: where each begins.
struct Map {
  const int32_t *inputs, *outputs;
  const int64_t* firsts;
  int64_t offsets, rows;  // rows of the output
  int threads;
};

int64_t parts(int64_t whole, int64_t part) { return part ? (whole + part - 1) / part : 0; }

template <typename T>
Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

// Adds a tile's row; the last panel may be narrower than its vectors.
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

// COUNT pairs: sums += input row x packed panel [inner, PANEL]. Never inlined: registers suffice.
template <typename T, int COUNT>
__attribute__((noinline)) void multiply(const T* const* inputs, const T* panel, int64_t inner,
                                        T* const* outputs, int64_t width) {
  Vector<T> sums[COUNT][VECTORS] = {};
  for (int64_t c = 0; c < inner; ++c) {
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

// COUNT input channels: gradient [COUNT, PANEL] += input channels x packed rows [pairs, PANEL].
template <typename T, int COUNT>
__attribute__((noinline)) void multiply_outer(const T* const* inputs, int64_t channel,
                                              const T* packed, int64_t pairs, T* gradient,
                                              int64_t stride, int64_t width) {
  Vector<T> sums[COUNT][VECTORS] = {};
  for (int64_t i = 0; i < pairs; ++i) {
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

// The tile functions for `count` rows, known when it runs, at most COUNT.
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

// The panel of a matrix [inner, outer] that begins at column `first`, to [inner, PANEL]. The matrix
// is given as [outer, inner] if `transpose`. What is beyond its columns stays what it was.
template <typename T>
void pack(const T* matrix, int64_t inner, int64_t outer, bool transpose, int64_t first, T* to) {
  const int64_t width = std::min<int64_t>(PANEL<T>, outer - first);
  if (!transpose) {
    for (int64_t c = 0; c < inner; ++c) {
      std::copy_n(matrix + c * outer + first, width, to + c * PANEL<T>);
    }
    return;
  }
  constexpr int64_t STEP = LINE / sizeof(T);
  for (int64_t start = 0; start < inner; start += STEP) {
    const int64_t end = std::min(inner, start + STEP);
    for (int64_t d = 0; d < width; ++d) {
      const T* from = matrix + (first + d) * inner;
      for (int64_t c = start; c < end; ++c) to[c * PANEL<T> + d] = from[c];
    }
  }
}

// y [rows, outer] = sum over offsets of x [., inner] W [offsets, inner, outer]; W is given as
// [offsets, outer, inner] if `transpose`. A task is a block of rows and some of the panels.
template <typename T>
void convolve(const T* x, const T* weight, T* y, const Map& map, int64_t inner, int64_t outer,
              bool transpose) {
  const int64_t blocks = parts(map.rows, BLOCK), count = parts(outer, PANEL<T>);
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
        for (int64_t row = low; row < high; ++row) {
          std::fill(y + row * outer + begin, y + row * outer + end, T(0));
        }
        for (int64_t k = 0; k < map.offsets; ++k) {
          const int32_t *from = map.outputs + map.firsts[k], *to = map.outputs + map.firsts[k + 1];
          from = std::lower_bound(from, to, static_cast<int32_t>(low));
          to = std::lower_bound(from, to, static_cast<int32_t>(high));
          for (int64_t first = begin; first < end && from < to; first += PANEL<T>) {
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

// W' [offsets, inner, outer] = sum over each offset's pairs of x^T y'.
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
          for (int64_t i = 0; i < n; ++i) {
            rows[i] = x + map.inputs[at + i] * inner;
            for (int64_t c = 0; c < inner; c += LINE / sizeof(T)) __builtin_prefetch(rows[i] + c);
            const T* row = y + map.outputs[at + i] * outer;
            for (int64_t first = begin; first < end; first += PANEL<T>) {
              const int64_t width = std::min<int64_t>(PANEL<T>, outer - first);
              std::copy_n(row + first, width, packed.data() + (first - begin) * CHUNK + i * PANEL<T>);
            }
          }
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
