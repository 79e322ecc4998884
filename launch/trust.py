"""Asks before code runs that a record names and the user has not written.

A job may name code by its import path, such as a model: `mypackage.networks:Net`. In a job file or
a flag these are the user's own words. A record may come from somebody else, so what its job names
is imported only if the user allows it.
"""

import sys
from collections.abc import Sequence

from systems.schema import InputError


def allow(code: Sequence[str], where: str) -> None:
    """Ask on the terminal whether code may run.

    Args:
        code: the import paths; without any, nothing is asked.
        where: the flag and the record that name the code.

    Raises:
        InputError: the answer is no, or there is no terminal to ask on.
    """
    if not code:
        return
    names = ", ".join(code)
    if sys.stdin.isatty():
        print(f"{where}: runs the code of {names}. Run it? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise InputError(f"{where}: runs the code of {names}; if you trust it, add --trust")
