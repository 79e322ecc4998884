"""Tensors and parts of tensors, by name; `systems.part_files` writes and reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # a second to import
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
    from torch.distributed.checkpoint.planner import WriteItem

Offsets = tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """Parts of a tensor of this shape, each where it begins. torch.distributed.checkpoint asks for
    them through these methods, as it does of a DTensor."""

    shape: tuple[int, ...]
    pieces: Mapping[Offsets, Tensor]

    def size(self) -> torch.Size:
        """Of the whole."""
        return torch.Size(self.shape)

    def __create_chunk_list__(self) -> list["ChunkStorageMetadata"]:
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

        return [
            ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=piece.size())
            for offsets, piece in self.pieces.items()
        ]

    def __create_write_items__(self, fqn: str, _: object) -> list["WriteItem"]:
        from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties
        from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=chunk,
                    properties=TensorProperties.create_from_tensor(piece),
                    size=self.size(),
                ),
            )
            for chunk, piece in zip(self.__create_chunk_list__(), self.pieces.values(), strict=True)
        ]


Named = dict[str, Tensor | Parts]


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
