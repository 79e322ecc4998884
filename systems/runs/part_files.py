"""Files of tensors and parts of tensors, by name: `rank-0.safetensors`, `rank-1.safetensors`, ...

    write({"a": tensor, "b": Parts((8, 4), {(0, 0): rows})}, folder)      # on all ranks
    fill({"a": tensor, "b": Parts((8, 4), {(0, 2): columns})}, folder)            # on any rank

A tensor may be written in other parts than it is read in:

    written by rank 0, rank 1        read by rank 0 | rank 1
        +-------------+                  +------+------+
        |   rank 0    |                  |      |      |
        +-------------+       ->         |  0   |   1  |
        |   rank 1    |                  |      |      |
        +-------------+                  +------+------+

So a run can go on in a world with other ranks or roles. Every file describes its own tensors
(`systems.runs.tensor_files`); its notes say where in which tensor its parts belong.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from systems import schema
from systems.runs import tensor_files
from systems.runs.parts import Named, Offsets, as_parts
from systems.runs.tensor_files import DTYPES, TensorFile
from systems.schema import InputError

FILES = "rank-*.safetensors"
PARTS = "parts"
"""The name of the note in a file that says where its parts belong: JSON with a `Part` for each
name."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The place of a part in its tensor."""

    tensor: str
    """The name of the tensor."""
    shape: tuple[int, ...]
    """The shape of the whole tensor."""
    offsets: Offsets
    """Where in the tensor the part begins."""


@dataclass(frozen=True)
class Piece:
    """A part, or a whole tensor, in a file."""

    file: TensorFile
    """The file that has it."""
    name: str
    """Its name in the file."""
    offsets: Offsets
    """Where in the tensor it begins."""
    sizes: tuple[int, ...]
    """Its shape."""


@dataclass(frozen=True)
class Saved:
    """A tensor in the files of a folder."""

    shape: tuple[int, ...]
    """The shape of the whole tensor."""
    dtype: torch.dtype
    """The type of its values."""
    pieces: list[Piece]
    """The pieces that together are its values."""


def write(tensors: Named, folder: Path) -> None:
    """Write this rank's tensors and parts into its file in `folder`, and put it on the disk.

    All ranks must call this together. Of what several ranks have, the lowest rank writes it.

    Raises:
        OSError: this rank could not write; the other ranks do not know.
    """
    pieces = {
        Part(tensor=name, shape=whole.shape, offsets=offsets): piece
        for name, whole in ((name, as_parts(value)) for name, value in tensors.items())
        for offsets, piece in whole.pieces.items()
    }
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, [(part.tensor, part.offsets) for part in pieces])
    rank = dist.get_rank()
    # Of what several ranks have, the lowest one writes it.
    others = {key for keys in everyone[:rank] for key in keys}
    named: dict[str, Tensor] = {}
    parts: dict[str, Any] = {}
    for part, piece in pieces.items():
        if (part.tensor, part.offsets) in others:
            continue
        # A whole tensor has its own name; a part is named by its offsets, and a note describes it.
        if part.shape == tuple(piece.shape):
            named[part.tensor] = piece
        else:
            name = f"{part.tensor}@{','.join(map(str, part.offsets))}"
            named[name], parts[name] = piece, schema.dump(part)
    tensor_files.write(folder / f"rank-{rank}.safetensors", named, {PARTS: schema.to_json(parts)})


def fill(tensors: Named, folder: Path) -> None:
    """Read values from the files in `folder` into these tensors; no other rank is needed.

    Raises:
        InputError: a tensor is not there, has another shape, or has values that the dtype wanted
            does not hold, such as fractions for whole numbers.
    """
    saved = written(folder)
    for name, value in tensors.items():
        wanted, saved_tensor = as_parts(value), saved.get(name)
        if saved_tensor is None or saved_tensor.shape != wanted.shape:
            raise InputError(f"{folder}: has no {name} of shape {list(wanted.shape)}")
        for target in wanted.pieces.values():
            if not torch.can_cast(saved_tensor.dtype, target.dtype):
                raise InputError(
                    f"{folder}: {name} is {saved_tensor.dtype}, which {target.dtype} does not hold"
                )
        missing = sum(piece.numel() for piece in wanted.pieces.values())
        for piece in saved_tensor.pieces:
            missing -= _copy(piece, wanted.pieces)
        if missing:
            raise InputError(f"{folder}: the saved parts of {name} do not make it whole")


def written(folder: Path) -> Mapping[str, Saved]:
    """The tensors that the files in `folder` describe, by name; values are not read.

    Raises:
        InputError: there are no such files, or their parts do not make whole tensors.
    """
    paths = sorted(folder.glob(FILES))
    if not paths:
        pickles = any(folder.glob("*.distcp")) or (folder / ".metadata").exists()
        raise InputError(f"{folder}: {OLD if pickles else f'there are no tensors ({FILES})'}")
    tensors: dict[str, Saved] = {}
    for path in paths:
        file = TensorFile(path)
        for part, piece in _pieces(file, path):
            dtype = DTYPES[file.entries[piece.name].dtype]
            saved = tensors.setdefault(part.tensor, Saved(part.shape, dtype, []))
            if (saved.shape, saved.dtype) != (part.shape, dtype):
                raise InputError(f"{path}: other files have {part.tensor} with another shape")
            saved.pieces.append(piece)
    # Together the pieces are the whole tensor if none overlap and they have as many values.
    for name, saved in tensors.items():
        if sum(prod(piece.sizes) for piece in saved.pieces) != prod(saved.shape):
            raise InputError(f"{folder}: the saved parts of {name} do not make it whole")
        if any(_overlap(*pair) for pair in itertools.combinations(saved.pieces, 2)):
            raise InputError(f"{folder}: the saved parts of {name} overlap")
    return tensors


def _overlap(one: Piece, other: Piece) -> bool:
    """Whether two pieces of one tensor have values in common."""
    sides = zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    return all(max(a, b) < min(a + m, b + n) for a, m, b, n in sides)


OLD = (
    "it was written as pickles by an older version, and is not read, because pickles can run "
    "code; train again with this version"
)
"""What is said of a checkpoint of torch.distributed.checkpoint."""


def _pieces(file: TensorFile, path: Path) -> Iterator[tuple[Part, Piece]]:
    """The pieces in a file, each with its place in its tensor.

    Raises:
        InputError: a piece lies outside of its tensor.
    """
    try:
        parts = json.loads(file.notes.get(PARTS, "{}"))
    except (ValueError, RecursionError):
        parts = None
    if not isinstance(parts, dict):
        raise InputError(f"{path}: its note {PARTS!r} is not a JSON object")
    for name, entry in file.entries.items():
        part = Part(tensor=name, shape=entry.shape, offsets=(0,) * len(entry.shape))
        if name in parts:
            part = schema.read(Part, parts[name], f"{path}: {name}")
        if not len(part.shape) == len(part.offsets) == len(entry.shape) or not all(
            0 <= offset <= offset + size <= length
            for offset, size, length in zip(part.offsets, entry.shape, part.shape, strict=True)
        ):
            raise InputError(f"{path}: {name} lies outside of {part.tensor}")
        yield part, Piece(file, name, part.offsets, entry.shape)


def _copy(piece: Piece, wanted: Mapping[Offsets, Tensor]) -> int:
    """Copy from a saved piece all values that the wanted parts, by offsets, have in common with it;
    returns their number."""
    copied, values = 0, None
    for offsets, target in wanted.items():
        # The box that both have in common, by its corners in the whole tensor.
        begin = [max(a, b) for a, b in zip(piece.offsets, offsets, strict=True)]
        end = [
            min(a + size, b + length)
            for a, size, b, length in zip(
                piece.offsets, piece.sizes, offsets, target.shape, strict=True
            )
        ]
        if any(first >= last for first, last in zip(begin, end, strict=True)):
            continue
        if values is None:
            values = piece.file.tensor(piece.name)
        there = target[_box(begin, end, offsets)]
        there.copy_(values[_box(begin, end, piece.offsets)])
        copied += there.numel()
    return copied


def _box(begin: list[int], end: list[int], offsets: Offsets) -> tuple[slice, ...]:
    """The slices of a part that cut out the box from `begin` to `end` of the whole tensor.

    The part begins at `offsets` of the tensor.
    """
    return tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, offsets, strict=True))
