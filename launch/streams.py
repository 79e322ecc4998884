"""Lets a program go on when the reader of its output has gone; what it prints then is lost.

`testbed run ... | head -1` must not end a training, nor must a terminal that is closed. Only the
standard library is imported: this must run where a foreign package shadows ours.
"""

import errno
import io
import os
import sys
from typing import Any, TextIO


def outlive_readers() -> None:
    """Make stdout and stderr safe against readers that end early, in this process and in those that
    it starts."""
    for descriptor in (0, 1, 2):  # the number of a closed one would go to the next file opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            os.set_inheritable(descriptor, True)  # it may be the very number that was opened
    sys.stdout, sys.stderr = _text(sys.stdout, 1), _text(sys.stderr, 2)


class _Descriptor(io.FileIO):
    """A file descriptor that becomes the null device when its reader has gone."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._of_terminal = self.isatty()

    def write(self, data: Any, /) -> int:
        """Write all or a part of `data`; returns the number of bytes."""
        try:
            return super().write(data) or 0
        except OSError as error:
            closed = self._of_terminal and error.errno == errno.EIO
            if not closed and not isinstance(error, BrokenPipeError):
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


def _text(stream: TextIO | None, descriptor: int) -> io.TextIOWrapper:
    """A stream like the one that Python has made of a descriptor, with the same encoding, which
    outlives its reader."""
    encoding, errors, at_once = "utf-8", "backslashreplace", False
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        encoding, errors = stream.encoding, stream.errors or errors
        at_once = stream.line_buffering or stream.write_through
    buffered = io.BufferedWriter(_Descriptor(descriptor))
    return io.TextIOWrapper(buffered, encoding, errors, line_buffering=at_once)
