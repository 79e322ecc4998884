// Voxels on CPUs: those of a larger tensor stride, and the pairs of a kernel map.
//
// Both work in a box around the voxels, whose cells are numbered so that their order is that of the
// keys, and so that one addition leads from all outputs to their neighbours under an offset:
//
//     . . . . .      A cell is as wide as the finer tensor stride. The box has a margin as wide as
//     . 0 1 . .      the kernel reaches, which keeps neighbours inside. Where the box is too empty
//     . . . 2 .      to afford it, nothing is done, and the caller takes another way.
//
// A key is the fields (batch, x, y, z) packed into an int64, `bits` for each axis
// (engine/coordinates.py).

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

constexpr int FIELDS = 5;             // batch and at most four axes
constexpr int64_t MOST = 2147483647;  // cells, since they are numbered in int32

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
  for (int64_t i = 0; i < count; ++i) {
    int64_t key = keys[i];
    for (int axis = axes; axis > 0; --axis) {
      const int64_t value = ((key + half) & mask) - half, step = steps[axis - 1];
      key = (key - value) >> bits;
      const int64_t cell = value / step - (value % step < 0);
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

struct Free {
  void operator()(void* block) const { std::free(block); }
};

}  // namespace

// The keys of the voxels floor(c / step) * step of some voxels, distinct and sorted. Returns their
// number, or -1 where the box has more than `most` cells.
extern "C" int64_t coarsen(const int64_t* keys, int64_t count, int axes, int bits,
                           const int64_t* steps, int64_t most, int64_t* coarse) {
  const int fields = axes + 1;
  std::vector<int32_t> cells(count * fields), numbers(count);
  find_cells(keys, count, axes, bits, steps, cells.data());
  int32_t low[FIELDS], high[FIELDS];
  std::copy_n(cells.data(), fields, low);
  std::copy_n(cells.data(), fields, high);
  widen(cells.data(), count, fields, low, high);
  const Box box = box_of(fields, low, high, nullptr);
  if (box.cells >= std::min(most, MOST)) return -1;
  // 1. Mark the cells that have a voxel.
  number(box, cells.data(), count, numbers.data());
  std::vector<uint64_t> marks((box.cells + 63) / 64);
  for (int64_t i = 0; i < count; ++i) marks[numbers[i] >> 6] |= uint64_t(1) << (numbers[i] & 63);
  // 2. Go through the marks, which have the order of the keys.
  int64_t found = 0;
  for (size_t word = 0; word < marks.size(); ++word) {
    for (uint64_t rest = marks[word]; rest; rest &= rest - 1) {
      int64_t cell = int64_t(word) * 64 + __builtin_ctzll(rest), key = 0;
      for (int f = 0; f < fields; ++f) {
        const int64_t value = cell / box.stride[f] + box.low[f];
        cell %= box.stride[f];
        key = key * (int64_t(1) << bits) + (f ? value * steps[f - 1] : value);
      }
      coarse[found++] = key;
    }
  }
  return found;
}

// The pairs (input row, output row) of a kernel map under each offset, sorted by offset and then by
// row. `same` says that inputs and outputs are the same voxels: then the pairs of an offset are
// those of the opposite one, swapped. Offsets are [offsets, axes], in voxels of the finest grid.
// `inputs` and `outputs` have room for `offsets` x the smaller number of voxels, and one more.
// Returns the number of pairs, or -1 where the box has more than `most` cells.
extern "C" int64_t find_pairs(const int64_t* fine, int64_t fine_count, const int64_t* coarse,
                              int64_t coarse_count, int same, int axes, int bits,
                              const int64_t* steps, const int64_t* offsets, int64_t offset_count,
                              int64_t most, int32_t* inputs, int32_t* outputs, int64_t* counts) {
  const int fields = axes + 1;
  // 1. The box around all voxels.
  std::vector<int32_t> cells(fine_count * fields), places(fine_count);
  find_cells(fine, fine_count, axes, bits, steps, cells.data());
  int32_t low[FIELDS], high[FIELDS];
  std::copy_n(cells.data(), fields, low);
  std::copy_n(cells.data(), fields, high);
  widen(cells.data(), fine_count, fields, low, high);
  std::vector<int32_t> others;
  if (!same) {
    others.resize(coarse_count * fields);
    find_cells(coarse, coarse_count, axes, bits, steps, others.data());
    widen(others.data(), coarse_count, fields, low, high);
  }
  int64_t margin[FIELDS] = {};
  for (int64_t k = 0; k < offset_count; ++k) {
    for (int axis = 0; axis < axes; ++axis) {
      margin[axis] = std::max(margin[axis], std::abs(offsets[k * axes + axis]) / steps[axis]);
    }
  }
  const Box box = box_of(fields, low, high, margin);
  if (box.cells >= std::min(most, MOST)) return -1;
  // 2. The row of each input, plus 1, in its cell. (Pages that nobody writes to stay unused.)
  std::unique_ptr<int32_t, Free> table(static_cast<int32_t*>(std::calloc(box.cells, 4)));
  if (!table) return -1;
  number(box, cells.data(), fine_count, places.data());
  for (int64_t i = 0; i < fine_count; ++i) {
    table.get()[places[i]] = static_cast<int32_t>(i + 1);
  }
  if (!same) {
    places.resize(coarse_count);
    number(box, others.data(), coarse_count, places.data());
  }
  // 3. Under each offset, read the cell that lies there from every output's cell.
  int64_t found = 0;
  std::vector<int64_t> firsts(offset_count);
  for (int64_t k = 0; k < offset_count; ++k) {
    const int64_t* offset = offsets + k * axes;
    firsts[k] = found;
    int64_t shift = 0, opposite = -1;
    bool middle = true;
    for (int axis = 0; axis < axes; ++axis) {
      shift += offset[axis] / steps[axis] * box.stride[axis + 1];
      middle = middle && offset[axis] == 0;
    }
    for (int64_t j = 0; same && !middle && j < k && opposite < 0; ++j) {
      const int64_t* other = offsets + j * axes;
      bool is = true;
      for (int axis = 0; axis < axes; ++axis) is = is && other[axis] == -offset[axis];
      if (is) opposite = j;
    }
    if (same && middle) {
      for (int64_t i = 0; i < coarse_count; ++i) inputs[found + i] = outputs[found + i] = int32_t(i);
      found += coarse_count;
    } else if (opposite >= 0) {
      std::memmove(inputs + found, outputs + firsts[opposite], counts[opposite] * 4);
      std::memmove(outputs + found, inputs + firsts[opposite], counts[opposite] * 4);
      found += counts[opposite];
    } else {
      const int32_t* shifted = table.get() + shift;
      for (int64_t i = 0; i < coarse_count; ++i) {  // written always, kept where there is a voxel
        const int32_t row = shifted[places[i]];
        inputs[found] = row - 1;
        outputs[found] = static_cast<int32_t>(i);
        found += row != 0;
      }
    }
    counts[k] = found - firsts[k];
  }
  return found;
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
