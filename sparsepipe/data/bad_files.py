"""Damaged files: what is wrong becomes one line that names the file; each is told once, counted."""

import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from systems.schema import InputError

# What damaged files raise in numpy's readers, h5py and ours. UnicodeDecodeError is a ValueError,
# and so is InputError.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into an InputError of one line that names the file."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, InputError) and str(error).startswith(f"{path}: "):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: {reason.splitlines()[0]}") from error


class BadFiles:
    """The files that could not be read so far, shared by all splits and threads of a data set."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, path: Path) -> bool:
        return path in self.paths

    def report(self, path: Path, error: InputError, instead: str) -> None:
        """Count this file and tell stderr why, unless that was done before."""
        with self._lock:
            if path not in self.paths:
                self.paths.append(path)
                print(f"bad file {error}; {instead}", file=sys.stderr)
