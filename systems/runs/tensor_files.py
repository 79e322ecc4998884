"""Tensors by name in one file, in the safetensors format: JSON that describes bytes.

    write(path, {"weight": tensor}, {"step": "7"})
    file = TensorFile(path)
    file.notes["step"], file.tensor("weight")

Nothing in such a file can run code when it is read, whoever made it. The format is open to
everybody: `safetensors.torch.load_file(path)` gives the same tensors.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from systems import schema
from systems.schema import InputError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LENGTH_BYTES = 8
"""The bytes at the beginning of a file that give the length of its JSON, little-endian."""
NOTES = "__metadata__"
"""The key of the JSON that describes no tensor."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where the bytes of a tensor are. The names of the fields are the format's."""

    dtype: str
    """The format's name of its dtype, a key of DTYPES."""
    shape: tuple[int, ...]
    """Its shape."""
    data_offsets: tuple[int, ...]
    """Where its bytes begin and end, counted from the end of the JSON."""


def write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors into a file and put it on the disk.

    Args:
        path: the file.
        tensors: by name.
        notes: texts that belong to them, by name.

    Raises:
        OSError: the file could not be written, such as on a full disk.
        InputError: the dtype of a tensor has no name in the format.
    """
    table: dict[str, Any] = {NOTES: dict(notes)}
    position = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise InputError(f"{name}: tensors of {tensor.dtype} cannot be saved")
        end = position + tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    header = schema.to_json(table).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)  # so that the tensors' bytes are aligned
    with path.open("wb") as file:
        file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
        for tensor in tensors.values():
            file.write(_bytes(tensor.detach().cpu().contiguous()).numpy().data)
        file.flush()
        os.fsync(file.fileno())


class TensorFile:
    """A file of tensors whose description has been read; values are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Read and check the description.

        Raises:
            InputError: the file cannot be read, or is not in the format.
        """
        self._path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(LENGTH_BYTES), "little")
                self._begin = LENGTH_BYTES + length
                if self._begin > size:
                    raise self._damaged("it is in another format, or cut short")
                table = json.loads(file.read(length))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except InputError:
            raise
        except (ValueError, RecursionError):
            raise self._damaged("its description is no JSON") from None
        if not isinstance(table, dict):
            raise self._damaged("its description is no table")
        notes = table.pop(NOTES, {})
        if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
            raise self._damaged(f"its {NOTES} is no table of texts")
        self.notes: dict[str, str] = notes
        self.entries: dict[str, Entry] = {
            name: self._checked(name, entry, size - self._begin) for name, entry in table.items()
        }

    def tensor(self, name: str) -> Tensor:
        """Read the values of a tensor, to the CPU."""
        entry = self.entries[name]
        values = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        with self._path.open("rb") as file:
            file.seek(self._begin + entry.data_offsets[0])
            read = file.readinto(_bytes(values).numpy().data)
        if read != values.numel() * values.element_size():
            raise self._damaged("it has become shorter")
        return values

    def _checked(self, name: str, table: Any, most: int) -> Entry:
        """The entry in a table of the description, checked against `most` bytes of values."""
        entry = schema.read(Entry, table, f"{self._path}: {name}")
        if entry.dtype not in DTYPES:
            raise self._damaged(f"{name} has the dtype {entry.dtype!r}")
        possible = min(entry.shape, default=0) >= 0 and prod(max(n, 1) for n in entry.shape) < 2**63
        if not possible or len(entry.data_offsets) != 2:
            raise self._damaged(f"{name} has no possible shape and place")
        begin, end = entry.data_offsets
        expected = prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if not 0 <= begin <= end <= most or end - begin != expected:
            raise self._damaged(f"the bytes of {name} are not all there")
        return entry

    def _damaged(self, what: str) -> InputError:
        """The error that says what is wrong with this file."""
        return InputError(f"{self._path}: is not a safetensors file: {what}")


def _bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor, uint8 [bytes]."""
    return tensor.reshape(-1).view(torch.uint8)
