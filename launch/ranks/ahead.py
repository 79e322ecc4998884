"""Imports what ranks need, once, in the process that forks them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from launch import installed, job as jobs
from systems import dynamo
from systems.schema import InputError


def import_ahead(words: Sequence[str]) -> None:
    """Import the modules of the systems whose jobs `testbed worker` runs with these words. Whatever
    is wrong with the jobs or the modules is left to the ranks, which say so."""
    dynamo.postpone()
    with suppress(InputError, ImportError, OSError):
        for system in set(_systems(words)):
            for module in installed.system(system).rank_modules:
                import_module(module)


def _systems(words: Sequence[str]) -> Iterator[str]:
    """The system of every job: of the records after `--records`, or of the command line."""
    if words[:1] == ["--records"]:
        yield from (jobs.load_job(Path(folder) / "job.toml").system for folder in words[1:])
    elif (wanted := jobs.wanted_system(words)) is not None:
        yield wanted
    elif words and not words[0].startswith("-"):
        yield jobs.load_job(Path(words[0])).system
