"""Tensors and parts of tensors, by name, through torch.distributed.checkpoint.

    write({"a": tensor, "b": Parts((8, 4), {(0, 0): rows})}, folder)      # on all ranks
    fill({"a": tensor, "b": Parts((8, 4), {(0, 2): columns})}, folder)            # on any rank

Several ranks may give one tensor, or its parts; what is read may be parted in other ways.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

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

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [
            ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=piece.size())
            for offsets, piece in self.pieces.items()
        ]

    def __create_write_items__(self, fqn: str, _: object) -> list[WriteItem]:
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


def write(tensors: Named, folder: Path) -> None:
    """Write what all ranks have into `folder`, and put it on the disk; all ranks must come. What
    several of them have is written by the lowest.

    Raises:
        RuntimeError: a rank is gone, or could not write.
    """
    planner = _SavePlanner(flatten_state_dict=False, dedup_save_to_lowest_rank=True)
    try:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder), planner=planner)
    except dcp.CheckpointException as error:  # it is no Exception, and would pass all handlers
        raise RuntimeError(f"{folder} was not written: {_reason(error)}") from None


def fill(tensors: Named, folder: Path) -> None:
    """Read the tensors in place; no other rank is needed.

    Raises:
        RuntimeError: one is not there, or of another shape.
    """
    planner = _LoadPlanner(flatten_state_dict=False)
    reader = dcp.FileSystemReader(folder)
    try:
        with warnings.catch_warnings():  # that one process loads alone
            warnings.simplefilter("ignore", UserWarning)
            dcp.load(tensors, storage_reader=reader, planner=planner, no_dist=True)
    except dcp.CheckpointException as error:
        raise RuntimeError(f"{folder} was not read: {_reason(error)}") from None


def written(folder: Path) -> Mapping[str, Any]:
    """What is there, by name: `size` and `properties.dtype` of whole tensors."""
    found: Mapping[str, Any] = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    return found


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


def _reason(error: dcp.CheckpointException) -> str:
    rank, (cause, _) = next(iter(error.failures.items()))
    return f"rank {rank}: {(str(cause) or type(cause).__name__).splitlines()[0]}"


class _SavePlanner(dcp.DefaultSavePlanner):
    def lookup_object(self, index: MetadataIndex) -> Any:
        found = _part(self.state_dict, index)
        return super().lookup_object(index) if found is None else found


class _LoadPlanner(dcp.DefaultLoadPlanner):
    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        super().set_up_planner({}, metadata, is_coordinator)  # it drops values of unknown types
        self.state_dict = self.original_state_dict = state_dict

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        found = _part(self.state_dict, index)
        return super().lookup_tensor(index) if found is None else found


def _part(tensors: Any, index: MetadataIndex) -> Tensor | None:
    value = tensors[index.fqn]
    return value.pieces[tuple(index.offset or ())] if isinstance(value, Parts) else None
