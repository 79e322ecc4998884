"""Reads the flags of a command into a frozen dataclass, with tyro. Every error is one line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import tyro

from systems import schema
from systems.parse_report import captured_report, one_line
from systems.schema import InputError


def parse_flags(
    cls: type[schema.T], flags: Sequence[str], program: str, default: schema.T, more_help: str = ""
) -> schema.T:
    """A `cls` made from flags alone. `--help` among them prints the options and ends the process.

    Args:
        program: the words before the flags, such as "testbed profile stanza".
        default: the values of the flags that are not given.
        more_help: what `--help` says after the docstring of `cls`.

    Raises:
        InputError: the flags cannot be parsed; tyro's report of it, as one line.
    """
    if {"-h", "--help"} & set(flags):
        described = f"{cls.__doc__}\n\n{more_help}" if more_help else None
        tyro.cli(cls, args=["--help"], prog=program, default=default, description=described)
    try:
        with captured_report() as report:
            return tyro.cli(cls, args=list(flags), prog=program, default=default)
    except SystemExit:
        raise InputError(one_line(report.getvalue(), flags)) from None


def refuse_below_one(numbers: Mapping[str, Sequence[int]]) -> None:
    """Raise an InputError for the first flag, by name, that has no values or one below 1."""
    for name, values in numbers.items():
        if not values or min(values) < 1:
            shown = " ".join(map(str, values)) or "(none)"
            raise InputError(f"--{name} {shown}: give whole numbers from 1 on")


@contextmanager
def named_as_given(names: Mapping[str, str]) -> Iterator[None]:
    """Rewrite errors that are raised in the block, so that they name the options of this command.

    Args:
        names: the name of an option elsewhere, and its name here, without dashes: for a command
            whose --model is the --stanza.model of a job, {"stanza.model": "model"}.
    """
    try:
        yield
    except InputError as error:
        elsewhere = "|".join(map(re.escape, names))
        option = rf"(?<![\w-])--({elsewhere})(?![\w-])"
        text = re.sub(option, lambda match: f"--{names[match[1]]}", str(error))
        raise InputError(text) from None
