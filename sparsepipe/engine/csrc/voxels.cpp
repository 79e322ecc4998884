// Voxels on CPUs: those of a larger tensor stride, and the pairs of a kernel map.
//
// Both work in a box around the voxels, whose cells are numbered so that their order is that of the
// keys, and so that one addition leads from all outputs to their neighbours under an offset:
//
//     . . . . .      A cell is as wide as the finer tensor stride. The box has a margin as wide as
//     . 0 1 . .      the kernel reaches, which keeps neighbours inside. Where the box is too empty
//     . . . 2 .      to afford it, pairs are found by walking through the sorted keys.
//
// A key is the fields (batch, x, y, z) packed into an int64, `bits` for each axis
// (engine/coordinates.py).

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace {

constexpr int FIELDS = 5;             // batch and at most four axes
constexpr int64_t MOST = 2147483647;  // cells, since they are numbered in int32
constexpr size_t MOST_KEPT = 1 << 26;  // bytes of a table that are kept for the next one
constexpr int64_t CHUNK = 2048;  // outputs whose neighbours are looked up at once: near each other

struct Box {
  int fields;            // batch and axes
  int32_t low[FIELDS];   // the first cell
  int64_t size[FIELDS];  // cells along each field
  int64_t stride[FIELDS];
  int64_t cells;
};

// The cells of voxels: floor(coordinate / step), [count, fields].
void find_cells(const int64_t* keys, int64_t count, int axes, int bits, const int64_t* steps,
                int32_t* cells) {
  const int64_t half = int64_t(1) << (bits - 1), mask = (int64_t(1) << bits) - 1;
  int shifts[FIELDS];  // of steps that are powers of 2; -1 for others
  for (int axis = 0; axis < axes; ++axis) {
    const bool power = (steps[axis] & (steps[axis] - 1)) == 0;
    shifts[axis] = power ? __builtin_ctzll(steps[axis]) : -1;
  }
  for (int64_t i = 0; i < count; ++i) {
    int64_t key = keys[i];
    for (int axis = axes; axis > 0; --axis) {
      const int64_t value = ((key + half) & mask) - half, step = steps[axis - 1];
      const int shift = shifts[axis - 1];
      key = (key - value) >> bits;
      const int64_t cell = shift < 0 ? value / step - (value % step < 0) : value >> shift;
      cells[i * (axes + 1) + axis] = static_cast<int32_t>(cell);
    }
    cells[i * (axes + 1)] = static_cast<int32_t>(key);
  }
}

// Widens a range of cells to those of some voxels.
void widen(const int32_t* cells, int64_t count, int fields, int32_t* low, int32_t* high) {
  for (int64_t i = 0; i < count; ++i) {
    for (int f = 0; f < fields; ++f) {
      low[f] = std::min(low[f], cells[i * fields + f]);
      high[f] = std::max(high[f], cells[i * fields + f]);
    }
  }
}

// The box from `low` to `high`, with `margin` cells on both sides of each axis.
Box box_of(int fields, const int32_t* low, const int32_t* high, const int64_t* margin) {
  Box box{};
  box.fields = fields;
  box.cells = 1;
  for (int f = fields - 1; f >= 0; --f) {
    const int64_t wide = f && margin ? margin[f - 1] : 0;
    box.low[f] = static_cast<int32_t>(low[f] - wide);
    box.size[f] = int64_t(high[f]) - low[f] + 1 + 2 * wide;
    box.stride[f] = box.cells;
    box.cells = box.cells > MOST / box.size[f] ? MOST : box.cells * box.size[f];
  }
  return box;
}

// The numbers of cells in a box.
void number(const Box& box, const int32_t* cells, int64_t count, int32_t* numbers) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t place = 0;
    for (int f = 0; f < box.fields; ++f) {
      place += (int64_t(cells[i * box.fields + f]) - box.low[f]) * box.stride[f];
    }
    numbers[i] = static_cast<int32_t>(place);
  }
}

// Zeros, kept from call to call, for tables of which few cells are written. Whoever writes a cell
// sets it to 0 again: that is less than filling the table.
template <typename T>
std::vector<T>& kept_zeros() {
  static thread_local std::vector<T> kept;
  return kept;
}

template <typename T>
T* zeros(size_t count) {
  std::vector<T>& kept = kept_zeros<T>();
  if (kept.size() < count) kept.resize(count);
  return kept.data();
}

// Lets go of zeros that are too many to keep.
template <typename T>
void let_go() {
  if (kept_zeros<T>().size() * sizeof(T) > MOST_KEPT) std::vector<T>().swap(kept_zeros<T>());
}

}  // namespace

// The keys of the voxels floor(c / step) * step of some voxels, distinct and sorted. Returns their
// number, or -1 where the box has more than `most` cells, or where one of them lies below -limit.
extern "C" int64_t coarsen(const int64_t* keys, int64_t count, int axes, int bits, int64_t limit,
                           const int64_t* steps, int64_t most, int64_t* coarse) {
  const int fields = axes + 1;
  std::vector<int32_t> cells(count * fields), numbers(count);
  find_cells(keys, count, axes, bits, steps, cells.data());
  int32_t low[FIELDS], high[FIELDS];
  std::copy_n(cells.data(), fields, low);
  std::copy_n(cells.data(), fields, high);
  widen(cells.data(), count, fields, low, high);
  for (int f = 1; f < fields; ++f) {
    if (low[f] * steps[f - 1] < -limit) return -1;  // no key holds it
  }
  const Box box = box_of(fields, low, high, nullptr);
  if (box.cells >= std::min(most, MOST)) return -1;
  // 1. Mark the cells that have a voxel.
  number(box, cells.data(), count, numbers.data());
  const size_t words = (box.cells + 63) / 64;
  uint64_t* marks = zeros<uint64_t>(words);
  for (int64_t i = 0; i < count; ++i) marks[numbers[i] >> 6] |= uint64_t(1) << (numbers[i] & 63);
  // 2. Go through the marks, which have the order of the keys.
  int64_t found = 0;
  for (size_t word = 0; word < words; ++word) {
    for (uint64_t rest = marks[word]; rest; rest &= rest - 1) {
      int64_t cell = int64_t(word) * 64 + __builtin_ctzll(rest), key = 0;
      for (int f = 0; f < fields; ++f) {
        const int64_t value = cell / box.stride[f] + box.low[f];
        cell %= box.stride[f];
        key = key * (int64_t(1) << bits) + (f ? value * steps[f - 1] : value);
      }
      coarse[found++] = key;
    }
    marks[word] = 0;
  }
  let_go<uint64_t>();
  return found;
}

// What is found of a kernel map, and how it is asked for. Offsets are [count, axes], in voxels of the
// finest grid. `same` says that inputs and outputs are the same voxels: then the middle pairs every
// row with itself, and the pairs of an offset are those of the opposite one, swapped. So not all are
// found: origins[k] is k where the pairs of offset k are found, in inputs and outputs [count, room];
// the number of the opposite offset where they are its pairs; and -1 for the middle.
namespace {

struct Search {
  const int64_t *fine, *coarse;
  int64_t fine_count, coarse_count;
  bool same;
  int axes, bits;
  const int64_t *steps, *offsets;
  int64_t count, most, room;
  int32_t *inputs, *outputs;
  int64_t *counts, *origins;
};

// Sets `origins`, and the counts of offsets of which nothing is found.
void choose(const Search& s) {
  for (int64_t k = 0; k < s.count; ++k) {
    const int64_t *offset = s.offsets + k * s.axes, *end = offset + s.axes;
    s.counts[k] = 0;
    s.origins[k] = k;
    if (s.same && std::all_of(offset, end, [](int64_t step) { return step == 0; })) {
      s.counts[k] = s.coarse_count;
      s.origins[k] = -1;
    }
    for (int64_t j = 0; s.same && s.origins[k] == k && j < k; ++j) {
      const int64_t* other = s.offsets + j * s.axes;
      if (std::equal(offset, end, other, [](int64_t a, int64_t b) { return a == -b; })) {
        s.origins[k] = j;
      }
    }
  }
}

// Finds pairs in a table of the box. Returns false where it has more than `most` cells.
bool look_up(const Search& s) {
  const int fields = s.axes + 1;
  // 1. The box around all voxels.
  std::vector<int32_t> cells(s.fine_count * fields), places(s.fine_count);
  find_cells(s.fine, s.fine_count, s.axes, s.bits, s.steps, cells.data());
  int32_t low[FIELDS], high[FIELDS];
  std::copy_n(cells.data(), fields, low);
  std::copy_n(cells.data(), fields, high);
  widen(cells.data(), s.fine_count, fields, low, high);
  const int64_t others_count = s.same ? 0 : s.coarse_count;
  std::vector<int32_t> others(others_count * fields), from(others_count);
  find_cells(s.coarse, others_count, s.axes, s.bits, s.steps, others.data());
  widen(others.data(), others_count, fields, low, high);
  int64_t margin[FIELDS] = {};
  for (int64_t k = 0; k < s.count; ++k) {
    for (int axis = 0; axis < s.axes; ++axis) {
      const int64_t far = std::abs(s.offsets[k * s.axes + axis]) / s.steps[axis];
      margin[axis] = std::max(margin[axis], far);
    }
  }
  const Box box = box_of(fields, low, high, margin);
  if (box.cells >= std::min(s.most, MOST)) return false;
  // 2. The row of each input, plus 1, in its cell.
  int32_t* table = zeros<int32_t>(box.cells);
  number(box, cells.data(), s.fine_count, places.data());
  for (int64_t i = 0; i < s.fine_count; ++i) table[places[i]] = static_cast<int32_t>(i + 1);
  number(box, others.data(), others_count, from.data());
  const int32_t* at = s.same ? places.data() : from.data();
  // 3. How far away the cells of each offset are.
  std::vector<int64_t> shifts(s.count);
  for (int64_t k = 0; k < s.count; ++k) {
    for (int axis = 0; axis < s.axes; ++axis) {
      shifts[k] += s.offsets[k * s.axes + axis] / s.steps[axis] * box.stride[axis + 1];
    }
  }
  // 4. Read the cells from every output's cell on. All offsets of some outputs come before the next
  //    outputs, since their cells are near each other.
  for (int64_t begin = 0; begin < s.coarse_count; begin += CHUNK) {
    const int64_t end = std::min(s.coarse_count, begin + CHUNK);
    for (int64_t k = 0; k < s.count; ++k) {
      if (s.origins[k] != k) continue;
      const int32_t* shifted = table + shifts[k];
      int32_t *in = s.inputs + k * s.room, *out = s.outputs + k * s.room;
      int64_t found = s.counts[k];
      for (int64_t i = begin; i < end; ++i) {  // written always, kept where there is a voxel
        const int32_t row = shifted[at[i]];
        in[found] = row - 1;
        out[found] = static_cast<int32_t>(i);
        found += row != 0;
      }
      s.counts[k] = found;
    }
  }
  for (int64_t i = 0; i < s.fine_count; ++i) table[places[i]] = 0;
  let_go<int32_t>();
  return true;
}

// Finds pairs by walking through the inputs beside the outputs: both ascend.
void walk(const Search& s) {
  for (int64_t k = 0; k < s.count; ++k) {
    if (s.origins[k] != k) continue;
    int64_t move = 0, at = 0, found = 0;
    for (int axis = 0; axis < s.axes; ++axis) {
      move = move * (int64_t(1) << s.bits) + s.offsets[k * s.axes + axis];
    }
    int32_t *in = s.inputs + k * s.room, *out = s.outputs + k * s.room;
    for (int64_t i = 0; i < s.coarse_count; ++i) {
      const int64_t wanted = s.coarse[i] + move;
      while (at < s.fine_count && s.fine[at] < wanted) ++at;
      in[found] = static_cast<int32_t>(at);
      out[found] = static_cast<int32_t>(i);
      found += at < s.fine_count && s.fine[at] == wanted;
    }
    s.counts[k] = found;
  }
}

}  // namespace

// The pairs (input row, output row) of a kernel map, in a table of at most `most` cells where that
// is enough. Returns the number of all pairs, see `Search`.
extern "C" int64_t find_pairs(const int64_t* fine, int64_t fine_count, const int64_t* coarse,
                              int64_t coarse_count, int same, int axes, int bits,
                              const int64_t* steps, const int64_t* offsets, int64_t offset_count,
                              int64_t most, int64_t room, int32_t* inputs, int32_t* outputs,
                              int64_t* counts, int64_t* origins) {
  const Search search{fine,    coarse,       fine_count, coarse_count, same != 0, axes,
                      bits,    steps,        offsets,    offset_count, most,      room,
                      inputs,  outputs,      counts,     origins};
  choose(search);
  if (!look_up(search)) walk(search);
  int64_t total = 0;
  for (int64_t k = 0; k < offset_count; ++k) {
    if (origins[k] >= 0) counts[k] = counts[origins[k]];
    total += counts[k];
  }
  return total;
}

// Joins what `find_pairs` has found to all pairs, sorted by offset and then by row.
extern "C" int64_t join_pairs(const int32_t* found_inputs, const int32_t* found_outputs,
                              int64_t room, int64_t offset_count, const int64_t* counts,
                              const int64_t* origins, int32_t* inputs, int32_t* outputs) {
  int64_t first = 0;
  for (int64_t k = 0; k < offset_count; ++k) {
    const int64_t from = origins[k], count = counts[k];
    if (from < 0) {
      for (int64_t i = 0; i < count; ++i) inputs[first + i] = outputs[first + i] = int32_t(i);
    } else {
      const bool swapped = from != k;
      std::copy_n((swapped ? found_outputs : found_inputs) + from * room, count, inputs + first);
      std::copy_n((swapped ? found_inputs : found_outputs) + from * room, count, outputs + first);
    }
    first += count;
  }
  return first;
}

// The input rows of pairs, sorted by output row, those of one output ascending; and where the pairs
// of each output start, [rows + 1].
extern "C" void sort_by_output(const int32_t* inputs, const int32_t* outputs, int64_t count,
                               int64_t rows, int32_t* starts, int32_t* sorted) {
  std::fill_n(starts, rows + 1, 0);
  for (int64_t i = 0; i < count; ++i) ++starts[outputs[i] + 1];
  for (int64_t row = 0; row < rows; ++row) starts[row + 1] += starts[row];
  std::vector<int32_t> next(starts, starts + rows);
  for (int64_t i = 0; i < count; ++i) sorted[next[outputs[i]]++] = inputs[i];
  for (int64_t row = 0; row < rows; ++row) std::sort(sorted + starts[row], sorted + starts[row + 1]);
}
