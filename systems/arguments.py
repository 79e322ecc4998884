"""Errors that name the arguments of the library where the command line has flags."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from systems.schema import InputError


@contextmanager
def named_as_arguments() -> Iterator[None]:
    """Rewrite errors that are raised in the block: `--stanza.fc-workers 9` is `fc_workers=9`."""
    try:
        yield
    except InputError as error:
        raise InputError(as_arguments(str(error))) from error


def as_arguments(text: str) -> str:
    """The text of an error with the names of arguments in place of those of flags."""
    text = re.sub(r"--world-size (\d+)", r"a world of \1", text)

    def argument(match: re.Match[str]) -> str:
        value = f"={match[2]}" if match[2] else ""
        return match[1].replace("-", "_") + value

    return re.sub(r"--(?:[a-z_]+\.)?([a-z][a-z-]*)(?: ([\w./-]+))?", argument, text)
