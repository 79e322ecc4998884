"""The checkpoint of a pair's training: one file, from which training goes on after an interruption.

Reading the file runs no code that could be in it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from systems import disk, schema
from systems.runs import tensor_files
from systems.runs.state import MODEL, OPTIMIZER, named_tensors
from systems.runs.tensor_files import TensorFile
from systems.schema import InputError

NOTE = "training"
"""The name of the file's note that is a `Position` in JSON."""
REMEDY = "remove it to train from the beginning"
"""The end of all messages about a file."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a training has come."""

    step: int
    """How many steps are done."""
    steps: int
    """How many steps there will be."""
    elapsed_s: float
    """Seconds that the steps so far took."""


def save(
    path: Path, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint. An interruption of the writing leaves the file before it in place.

    Raises:
        DiskError: the file cannot be written, for example because the disk is full.
    """
    tensors: dict[str, Tensor] = {f"{MODEL}/{n}": t for n, t in named_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{OPTIMIZER}/{name}/{key}"] = value
    note = schema.to_json(schema.dump(position))
    with disk.whole(path) as partial:
        tensor_files.write(partial, tensors, {NOTE: note})


def read_position(path: Path) -> Position:
    """Read how far training had come when a checkpoint was written.

    Raises:
        InputError: the file is no checkpoint of a training.
    """
    note = _file(path).notes.get(NOTE, "")
    try:
        table = json.loads(note)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: says no position; {REMEDY}") from None
    return schema.read(Position, table, str(path))


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the parameters, the buffers, and the optimizer's state from a checkpoint.

    Raises:
        InputError: the checkpoint belongs to another model.
    """
    file = _file(path)
    for name, tensor in named_tensors(model).items():
        entry = file.entries.get(f"{MODEL}/{name}")
        if entry is None or entry.shape != tuple(tensor.shape):
            raise InputError(f"{path}: is of another model, without its {name}; {REMEDY}")
        tensor.detach().copy_(file.tensor(f"{MODEL}/{name}"))
    for name, parameter in model.named_parameters():
        prefix = f"{OPTIMIZER}/{name}/"
        for key in (entry for entry in file.entries if entry.startswith(prefix)):
            value = file.tensor(key)
            if value.shape == parameter.shape:  # A number of steps stays on the CPU.
                value = value.to(parameter.device)
            optimizer.state[parameter][key.removeprefix(prefix)] = value


def _file(path: Path) -> TensorFile:
    """Open a checkpoint.

    Raises:
        InputError: it is no file of tensors.
    """
    try:
        return TensorFile(path)
    except InputError as error:
        raise InputError(f"{error}; {REMEDY}") from None
