"""Damaged files: what is wrong with one becomes an error of one line, which is reported once."""

import struct
import sys
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from systems.schema import InputError

UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RuntimeError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""The exceptions that damaged files cause in the readers of numpy, h5py and this package.
InputError and UnicodeDecodeError are among them, since they are ValueErrors."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within this context, turn what a damaged file raises into an InputError of one line that
    begins with the path of the file."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, InputError) and str(error).startswith(f"{path}: "):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: {reason.splitlines()[0]}") from error


class BadFiles:
    """The files of a data set that could not be read so far. All splits and threads share one
    list."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, path: Path) -> bool:
        return path in self.paths

    def add(self, paths: Iterable[Path]) -> None:
        """Add files that another process has reported."""
        with self._lock:
            self.paths += [path for path in dict.fromkeys(paths) if path not in self.paths]

    def report(self, path: Path, error: InputError, instead: str) -> None:
        """Add a file to the list and print one line to stderr: what is wrong (`error`) and what
        happens `instead`. A file that is in the list already is not reported again."""
        with self._lock:
            if path not in self.paths:
                self.paths.append(path)
                print(f"bad file {error}; {instead}", file=sys.stderr)
