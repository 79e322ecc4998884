// Sparse convolution on CPUs: gather, multiply and add in registers, with no rows stored between.
//
// A convolution is, for every offset k and every pair (v, u) of input and output rows under it,
//
//     y[u] += x[v] W[k]            x[v] [inner], W[k] [inner, outer], y[u] [outer]
//
// and is computed in tiles. A tile is ROWS pairs of one offset x one panel of output channels:
//
//                  W[k]  inner  +-------+
//                        x      | panel |    one or two vectors wide, copied ("packed") so that the
//                        outer  |       |    loop over input channels reads it in one stream
//                               +-------+
//     x[v0] |------- inner ----| | sums | -> added to y[u0]
//     x[v1] |------------------| | sums | -> added to y[u1]      ROWS x panel sums in registers
//      ...    read where they lie           (v0, u0), (v1, u1), ... are pairs of the offset
//
// Panels are two vectors wide, so that each input value is multiplied twice. The last one is one
// vector wide where that is enough: half of a wider one would be multiplied for nothing.
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
constexpr int VECTORS = 2;       // vectors in the width of all panels but perhaps the last
constexpr int64_t BLOCK = 1024;  // output rows of a task: few enough for the L2 cache
constexpr int64_t TASKS = 8;     // tasks for each thread, at least, so that all end at one time
constexpr int64_t CHUNK = 128;   // pairs whose gradients are packed at once: fit into the L2 cache
constexpr int64_t GROUP = 4;     // panels that are packed at once
constexpr int64_t NEAR = 40960;  // bytes: a chunk's rows, if not more, are read where they lie
constexpr int LINE = 64;         // bytes of a cache line

template <typename T>
using Vector __attribute__((vector_size(BYTES), aligned(alignof(T)))) = T;
template <typename T>
constexpr int LANES = BYTES / sizeof(T);  // numbers in a vector
template <typename T>
constexpr int PANEL = VECTORS* LANES<T>;  // output channels in a panel of VECTORS vectors

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

// The vectors in the width of a panel for so many output channels, or more.
template <typename T>
int vectors(int64_t channels) {
  return channels <= LANES<T> ? 1 : VECTORS;
}

// Adds one row of a tile's sums to memory. The last panel of a matrix may be narrower than its
// vectors; then only `width` numbers are added.
template <typename T, int V>
void add(T* to, const Vector<T>* sums, int64_t width) {
  if (width >= V * LANES<T>) {
    for (int v = 0; v < V; ++v) *reinterpret_cast<Vector<T>*>(to + v * LANES<T>) += sums[v];
    return;
  }
  T values[V * LANES<T>];
  std::memcpy(values, sums, sizeof values);
  for (int64_t c = 0; c < width; ++c) to[c] += values[c];
}

// Copies V vectors, or fewer numbers where there are only `width`.
template <typename T, int V>
void copy(const T* from, int64_t width, T* to) {
  if (width >= V * LANES<T>) {
    for (int v = 0; v < V; ++v) {
      *reinterpret_cast<Vector<T>*>(to + v * LANES<T>) = load(from + v * LANES<T>);
    }
  } else {
    for (int64_t c = 0; c < width; ++c) to[c] = from[c];
  }
}

// What the tiles of an offset and a panel have in common.
template <typename T>
struct Panel {
  const T* x;         // the inputs [., inner]
  const T* weights;   // the packed panel [inner, vectors]
  T* y;               // the outputs [., outer], from the panel's first channel on
  int64_t inner, outer;
  int64_t width;      // the output channels from the panel's first one to the last of all
};

// A tile: for COUNT pairs, multiplies the input row by the panel, V vectors wide, and adds the
// result to the output row.
template <typename T, int V, int COUNT>
inline __attribute__((always_inline)) void multiply(const Panel<T>& panel, const int32_t* from,
                                                    const int32_t* to) {
  const T* inputs[COUNT];
#pragma GCC unroll 16
  for (int r = 0; r < COUNT; ++r) inputs[r] = panel.x + from[r] * panel.inner;
  const T* weights = panel.weights;
  Vector<T> sums[COUNT][V] = {};
  for (int64_t c = 0; c < panel.inner; ++c) {  // an input channel: its weights, COUNT input values
    Vector<T> values[V];
    for (int v = 0; v < V; ++v) values[v] = load(weights + (c * V + v) * LANES<T>);
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] += inputs[r][c] * values[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < COUNT; ++r) add<T, V>(panel.y + to[r] * panel.outer, sums[r], panel.width);
}

// The tile of fewer pairs than COUNT, a number that is known only at run time. (Each number of rows
// has a function of its own, whose sums are in registers.)
template <typename T, int V, int COUNT>
__attribute__((noinline)) void multiply_some(int64_t count, const Panel<T>& panel,
                                             const int32_t* from, const int32_t* to) {
  if constexpr (COUNT > 1) {
    if (count < COUNT) return multiply_some<T, V, COUNT - 1>(count, panel, from, to);
    multiply<T, V, COUNT>(panel, from, to);
  } else if (count) {
    multiply<T, V, 1>(panel, from, to);
  }
}

// All tiles of an offset and a panel: pair i is (from[i], to[i]). It is never inlined, so that the
// compiler gives all registers to it.
template <typename T, int V>
__attribute__((noinline)) void multiply_all(const Panel<T>& panel, const int32_t* from,
                                            const int32_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + ROWS <= count; i += ROWS) multiply<T, V, ROWS>(panel, from + i, to + i);
  multiply_some<T, V, ROWS - 1>(count - i, panel, from + i, to + i);
}

// Rows where they lie: row i is number rows[i] of those from `first` on.
template <typename T>
struct Gathered {
  const T* first;
  const int32_t* rows;
  int64_t length;
  const T* operator[](int64_t i) const { return first + rows[i] * length; }
};

// The same, looked up before.
template <typename T>
struct Found {
  const T* const* rows;
  int64_t length;
  const T* operator[](int64_t i) const { return rows[i]; }
};

// Rows that lie together.
template <typename T>
struct Packed {
  const T* first;
  int64_t length;
  const T* operator[](int64_t i) const { return first + i * length; }
};

// The tile of a weight's gradient: for COUNT input channels from `channel` on, multiplies the
// channels of all pairs' input rows by the gradients, V vectors, of their output rows and adds the
// result to gradient [COUNT, V vectors], whose rows are `stride` numbers apart.
template <typename T, int V, int COUNT, typename Inputs, typename Outputs>
__attribute__((noinline)) void multiply_outer(Inputs inputs, int64_t channel, Outputs outputs,
                                              int64_t pairs, T* gradient, int64_t stride,
                                              int64_t width) {
  Vector<T> sums[COUNT][V] = {};
  for (int64_t i = 0; i < pairs; ++i) {  // one pair: its output's gradient, and COUNT input values
    const T *row = inputs[i] + channel, *output = outputs[i];
    Vector<T> values[V];
    for (int v = 0; v < V; ++v) values[v] = load(output + v * LANES<T>);
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] += row[r] * values[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < COUNT; ++r) add<T, V>(gradient + r * stride, sums[r], width);
}

template <typename T, int V, int COUNT, typename... Arguments>
void multiply_outer_some(int64_t count, Arguments... arguments) {
  if constexpr (COUNT > 1) {
    if (count < COUNT) return multiply_outer_some<T, V, COUNT - 1>(count, arguments...);
  }
  multiply_outer<T, V, COUNT>(arguments...);
}

// All tiles of a chunk of pairs and a panel. A narrow panel leaves registers for twice the rows.
template <typename T, int V, typename Inputs, typename Outputs>
void multiply_outer_all(Inputs inputs, Outputs outputs, int64_t pairs, T* gradient,
                        int64_t stride, int64_t width) {
  constexpr int COUNT = ROWS * VECTORS / V;
  for (int64_t c = 0; c < inputs.length; c += COUNT) {
    multiply_outer_some<T, V, COUNT>(std::min<int64_t>(COUNT, inputs.length - c), inputs, c,
                                     outputs, pairs, gradient + c * stride, stride, width);
  }
}

// Packs the panel of a matrix [inner, outer] that begins at column `first`: copies it to [inner,
// vectors]. The matrix lies in memory as [outer, inner] if `transpose`. Numbers of the panel beyond
// the last column keep whatever value they had; their sums are never added.
template <typename T>
void pack(const T* matrix, int64_t inner, int64_t outer, bool transpose, int64_t first, T* to) {
  const int64_t stride = vectors<T>(outer - first) * LANES<T>;
  const int64_t width = std::min<int64_t>(stride, outer - first);
  if (!transpose) {
    for (int64_t c = 0; c < inner; ++c) {
      std::copy_n(matrix + c * outer + first, width, to + c * stride);
    }
    return;
  }
  constexpr int64_t STEP = LINE / sizeof(T);  // reads whole cache lines, one from each column
  for (int64_t start = 0; start < inner; start += STEP) {
    const int64_t end = std::min(inner, start + STEP);
    for (int64_t d = 0; d < width; ++d) {
      const T* from = matrix + (first + d) * inner;
      for (int64_t c = start; c < end; ++c) to[c * stride + d] = from[c];
    }
  }
}

// How many numbers the packed weight of a convolution has; 0 where there is one block of outputs:
// then each panel is needed once, and packed when its turn comes.
template <typename T>
int64_t packed(const Map& map, int64_t inner, int64_t outer) {
  return map.rows > BLOCK ? map.offsets * inner * parts(outer, LANES<T>) * LANES<T> : 0;
}

// The convolution y [rows, outer] = sum over offsets of x [., inner] W [offsets, inner, outer],
// where W lies in memory as [offsets, outer, inner] if `transpose`. A task is a block of output rows
// and a part of the panels, so that no two tasks write the same numbers. All panels are packed once,
// into `packed`, which has room for as many numbers as the function of that name says.
template <typename T>
void convolve(const T* x, const T* weight, T* y, T* packed, const Map& map, int64_t inner,
              int64_t outer, bool transpose) {
  const int64_t blocks = parts(map.rows, BLOCK), count = parts(outer, PANEL<T>);
  const int64_t size = inner * parts(outer, LANES<T>) * LANES<T>;  // of the packed panels
  // Where there are too few blocks to keep all threads busy, the panels are split as well.
  const int64_t split = std::clamp<int64_t>(parts(TASKS * map.threads, blocks), 1, count);
#pragma omp parallel num_threads(map.threads)
  {
    if (blocks > 1) {
#pragma omp for
      for (int64_t k = 0; k < map.offsets; ++k) {
        for (int64_t first = 0; first < outer; first += PANEL<T>) {
          pack(weight + k * inner * outer, inner, outer, transpose, first,
               packed + k * size + first * inner);
        }
      }
    }
    std::vector<T> own(blocks > 1 ? 0 : inner * PANEL<T>);
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
          const int32_t *to = map.outputs + map.firsts[k], *last = map.outputs + map.firsts[k + 1];
          to = std::lower_bound(to, last, static_cast<int32_t>(low));
          last = std::lower_bound(to, last, static_cast<int32_t>(high));
          if (to == last) continue;
          const int32_t* from = map.inputs + (to - map.outputs);
          for (int64_t first = begin; first < end; first += PANEL<T>) {
            // 3. Go through the pairs with each panel of the weight, tile by tile.
            const T* weights = packed + k * size + first * inner;
            if (blocks == 1) {
              pack(weight + k * inner * outer, inner, outer, transpose, first, own.data());
              weights = own.data();
            }
            const Panel<T> panel{x, weights, y + first, inner, outer, outer - first};
            (vectors<T>(outer - first) == 1 ? multiply_all<T, 1> : multiply_all<T, VECTORS>)(
                panel, from, to, last - to);
          }
        }
      }
    }
  }
}

// Copies the gradients of n pairs' outputs, those of the panels from channel `begin` to `end`, to
// [panels, CHUNK, vectors], and looks up the input rows, which are needed next.
template <typename T>
void pack_outputs(Gathered<T> inputs, Gathered<T> outputs, int64_t n, int64_t begin, int64_t end,
                  const T** rows, T* packed) {
  for (int64_t i = 0; i < n; ++i) {
    rows[i] = inputs[i];
    for (int64_t c = 0; c < inputs.length; c += LINE / sizeof(T)) __builtin_prefetch(rows[i] + c);
    for (int64_t first = begin; first < end; first += PANEL<T>) {
      T* to = packed + (first - begin) * CHUNK;
      const int64_t width = outputs.length - first;
      if (vectors<T>(width) == 1) {
        copy<T, 1>(outputs[i] + first, width, to + i * LANES<T>);
      } else {
        copy<T, VECTORS>(outputs[i] + first, width, to + i * PANEL<T>);
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
  // Short rows are read where they lie; packing them takes as long as half of the products. But a
  // vector must not reach beyond the last number.
  const int64_t chunk_bytes = CHUNK * (inner + outer) * sizeof(T);
  const bool in_place = outer % LANES<T> == 0 && chunk_bytes <= NEAR;
  std::memset(gradient, 0, map.offsets * inner * outer * sizeof(T));
#pragma omp parallel num_threads(map.threads)
  {
    std::vector<T> packed(GROUP * CHUNK * PANEL<T>);
    const T* rows[CHUNK];
    const Found<T> found{rows, inner};
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t k = 0; k < map.offsets; ++k) {
      for (int64_t begin = 0; begin < outer; begin += group) {
        const int64_t end = std::min(outer, begin + group);
        for (int64_t at = map.firsts[k]; at < map.firsts[k + 1]; at += CHUNK) {
          const int64_t n = std::min<int64_t>(CHUNK, map.firsts[k + 1] - at);
          const Gathered<T> inputs{x, map.inputs + at, inner}, outputs{y, map.outputs + at, outer};
          // 1. For a chunk of pairs: look up the input rows, and pack the gradients of the outputs.
          if (!in_place) pack_outputs(inputs, outputs, n, begin, end, rows, packed.data());
          // 2. Add their outer products to the gradient, tile by tile.
          for (int64_t first = begin; first < end; first += PANEL<T>) {
            const int64_t width = outer - first;
            const Gathered<T> there{y + first, map.outputs + at, outer};
            const T* panel = packed.data() + (first - begin) * CHUNK;
            T* to = gradient + k * inner * outer + first;
            if (in_place && vectors<T>(width) == 1) {
              multiply_outer_all<T, 1>(inputs, there, n, to, outer, width);
            } else if (in_place) {
              multiply_outer_all<T, VECTORS>(inputs, there, n, to, outer, width);
            } else if (vectors<T>(width) == 1) {
              multiply_outer_all<T, 1>(found, Packed<T>{panel, LANES<T>}, n, to, outer, width);
            } else {
              multiply_outer_all<T, VECTORS>(found, Packed<T>{panel, PANEL<T>}, n, to, outer,
                                             width);
            }
          }
        }
      }
    }
  }
}

}  // namespace

#define EXPORT(T, name)                                                                          \
  extern "C" int64_t packed_##name(const Map* map, int64_t inner, int64_t outer) {               \
    return packed<T>(*map, inner, outer);                                                        \
  }                                                                                              \
  extern "C" void convolve_##name(const T* x, const T* weight, T* y, T* packed, const Map* map,  \
                                  int64_t inner, int64_t outer, int transpose) {                 \
    convolve(x, weight, y, packed, *map, inner, outer, transpose != 0);                          \
  }                                                                                              \
  extern "C" void weight_gradient_##name(const T* x, const T* y, T* gradient, const Map* map,    \
                                         int64_t inner, int64_t outer) {                         \
    weight_gradient(x, y, gradient, *map, inner, outer);                                         \
  }

EXPORT(float, float32)
EXPORT(double, float64)
