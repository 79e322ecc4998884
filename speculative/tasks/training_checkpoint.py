"""Where the training of a pair goes on after an interruption: one file, which can run no code."""

import json
from contextlib import suppress
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
"""The file's note with a `Position`, in JSON."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a training has come."""

    step: int
    """Steps that are done."""
    steps: int
    """Steps that there will be."""
    elapsed_s: float


def save(
    path: Path, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a file, whole or not at all: an interruption leaves the one before.

    Raises:
        DiskError: the disk is full, say.
    """
    tensors: dict[str, Tensor] = {f"{MODEL}/{n}": t for n, t in named_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{OPTIMIZER}/{name}/{key}"] = value
    partial = path.with_name(path.name + ".partial")
    with disk.writing(path):
        try:
            note = schema.to_json(schema.dump(position))
            tensor_files.write(partial, tensors, {NOTE: note})
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def read_position(path: Path) -> Position:
    """How far the training has come that a file is of.

    Raises:
        InputError: it is no such file.
    """
    note = _file(path).notes.get(NOTE, "")
    try:
        table = json.loads(note)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: says no position; {REMEDY}") from None
    return schema.read(Position, table, str(path))


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the parameters, the buffers, and what the optimizer keeps for the parameters.

    Raises:
        InputError: the file is of another model.
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
            like = value.shape == parameter.shape  # else a number of steps, which stays on the CPU
            optimizer.state[parameter][key.removeprefix(prefix)] = (
                value.to(parameter.device) if like else value
            )


REMEDY = "remove it to train from the beginning"


def _file(path: Path) -> TensorFile:
    try:
        return TensorFile(path)
    except InputError as error:
        raise InputError(f"{error}; {REMEDY}") from None
