"""Writes files whole or not at all, and says in one line that a disk is full."""

import csv
import errno
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from systems.schema import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's error numbers for a full disk, and for a user's quota that is used up."""


class DiskError(InputError):
    """A file could not be written. Its text is one line that names the folder."""

    def __init__(self, text: str, *, everywhere: bool = False) -> None:
        """Make the error with its text.

        Args:
            everywhere: whether all ranks of the run raise it with the same text.
        """
        super().__init__(text)
        self.everywhere = everywhere


def is_full(error: BaseException) -> bool:
    """Whether an error of the system says that the disk is full."""
    return isinstance(error, OSError) and error.errno in FULL


def reason(error: OSError) -> str:
    """Say why a file could not be written: "disk full", or what the system says."""
    if is_full(error):
        return "disk full"
    return (error.strerror or str(error) or type(error).__name__).lower()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's error of a write in the block into one that names the file and its folder.

    Raises:
        DiskError: the system refused a write.
    """
    try:
        yield
    except OSError as error:
        text = f"{reason(error)}: {path.name} could not be written in {path.parent}"
        raise DiskError(text) from None


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, whole or not at all; see `write_text`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. If it fails, a file that was there before stays.

    Raises:
        DiskError: the file could not be written.
    """
    with whole(path) as partial:
        partial.write_text(text)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the block the path of a new file to write, which replaces `path` when the block ends.

    If the block fails, its file is removed, and a file that was there before stays.

    Raises:
        DiskError: the system refused a write.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            yield partial
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
