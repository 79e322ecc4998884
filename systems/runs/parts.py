"""Tensors and parts of tensors, by name; `systems.runs.part_files` writes and reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

Offsets = tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """Parts of a tensor of this shape, each where it begins."""

    shape: tuple[int, ...]
    pieces: Mapping[Offsets, Tensor]


Named = dict[str, Tensor | Parts]


def as_parts(value: Tensor | Parts) -> Parts:
    """A whole tensor as its only part."""
    if isinstance(value, Parts):
        return value
    return Parts(tuple(value.shape), {(0,) * value.ndim: value})


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[Offsets, Offsets]]:
    """The values `start` to before `stop` of a flattened tensor, as offsets and sizes of boxes of
    it, in order: the end of a row, whole rows, the beginning of a row."""
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
    before = index * prod(shape[1:])
    for offsets, sizes in boxes(shape[1:], start - before, stop - before):
        yield (index, *offsets), (1, *sizes)
