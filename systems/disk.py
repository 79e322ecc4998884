"""Files that a run writes, and the one line that says so when the disk is full."""

import csv
import errno
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from systems.schema import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system answers where no byte is left, on the disk or in the user's quota."""


class DiskError(InputError):
    """A file could not be written. Its text is one line that names the folder."""

    def __init__(self, text: str, *, everywhere: bool = False) -> None:
        """`everywhere`: all ranks of the run raise it with the same text."""
        super().__init__(text)
        self.everywhere = everywhere


def is_full(error: BaseException) -> bool:
    """Whether an error of the system says that the disk is full."""
    return isinstance(error, OSError) and error.errno in FULL


def reason(error: OSError) -> str:
    """ "disk full", or what the system says."""
    if is_full(error):
        return "disk full"
    return (error.strerror or str(error) or type(error).__name__).lower()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file and its folder in the error of a write that fails.

    Raises:
        DiskError: the system refused a write in the block.
    """
    try:
        yield
    except OSError as error:
        told = f"{reason(error)}: {path.name} could not be written in {path.parent}"
        raise DiskError(told) from None


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV; see `write_text`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: where it fails, the file that was there stays.

    Raises:
        DiskError: see `writing`.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            partial.write_text(text)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
