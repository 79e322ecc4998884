"""Files of tensors and parts of tensors, by name, through torch.distributed.checkpoint.

    write({"a": tensor, "b": Parts((8, 4), {(0, 0): rows})}, folder)      # on all ranks
    fill({"a": tensor, "b": Parts((8, 4), {(0, 2): columns})}, folder)            # on any rank

Several ranks may give one tensor, or its parts; what is read may be parted in other ways.

torch.distributed.checkpoint takes a second to import: import this where it is used.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from systems.parts import Named, Parts


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
