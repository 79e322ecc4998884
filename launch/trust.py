"""Asks before code runs that a record names and the user has not written.

A job may name code by its import path, such as a model: `mypackage.networks:Net`. In a job file or
a flag these are the user's own words. A record may come from somebody else, so what its job names
is imported only if the user allows it.
"""

import sys
from collections.abc import Mapping, Sequence

from systems import by_path
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


def warn_of_changes(code: Sequence[str], recorded: Mapping[str, str], where: str) -> None:
    """Print a line of warning if files with the code have changed since the record was made.

    Args:
        code: the import paths that will run.
        recorded: the SHA-256 of each file then; see `systems.by_path.digests`.
        where: the flag and the record, for the line.
    """
    changed = [
        file
        for file, digest in by_path.digests(code).items()
        if recorded.get(file, digest) != digest
    ]
    if changed:
        files, have = ", ".join(changed), "has" if len(changed) == 1 else "have"
        print(f"warning: {where}: {files} {have} changed since; the new code runs", file=sys.stderr)
