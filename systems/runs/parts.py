"""Tensors and parts of tensors, by name; `systems.runs.part_files` writes and reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

Offsets = tuple[int, ...]
"""Where in a tensor a part begins: an index for each dimension."""


@dataclass(frozen=True)
class Parts:
    """Parts of a tensor, which together need not be the whole."""

    shape: tuple[int, ...]
    """The shape of the whole tensor."""
    pieces: Mapping[Offsets, Tensor]
    """The parts, by the offsets at which they begin in the tensor."""


Named = dict[str, Tensor | Parts]
"""Whole tensors and parts of tensors, by the names of the tensors."""


def as_parts(value: Tensor | Parts) -> Parts:
    """The parts of a value; a whole tensor is its own only part."""
    if isinstance(value, Parts):
        return value
    return Parts(tuple(value.shape), {(0,) * value.ndim: value})


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[Offsets, Offsets]]:
    """The values from `start` to before `stop` of a flattened tensor, as boxes of the tensor.

    A stretch of a matrix is at most three boxes: the end of a row, whole rows, and the beginning of
    a row. With more dimensions, the ends are cut into boxes in the same way. Values 2 to 8 of a
    tensor of shape (3, 4):

        . . a a        a: offsets (0, 2), sizes (1, 2)
        b b b b        b: offsets (1, 0), sizes (1, 4)
        c . . .        c: offsets (2, 0), sizes (1, 1)

    Yields:
        The offsets and the sizes of every box, in the order of the values.
    """
    if start >= stop:
        return
    if len(shape) < 2:
        yield (start,) * len(shape), (stop - start,) * len(shape)
        return
    row = prod(shape[1:])
    first, end = -(-start // row), stop // row  # the whole rows
    if first > end:  # all lies within one row
        yield from _in_row(shape, end, start, stop)
        return
    yield from _in_row(shape, first - 1, start, first * row)
    if first < end:
        yield (first, *(0 for _ in shape[1:])), (end - first, *shape[1:])
    yield from _in_row(shape, end, end * row, stop)


def _in_row(
    shape: Sequence[int], index: int, start: int, stop: int
) -> Iterator[tuple[Offsets, Offsets]]:
    """The boxes of the values from `start` to before `stop`, all of which lie in row `index`."""
    before = index * prod(shape[1:])
    for offsets, sizes in boxes(shape[1:], start - before, stop - before):
        yield (index, *offsets), (1, *sizes)
