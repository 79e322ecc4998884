"""Job files and command lines: flags win over the job file (TOML), which wins over the defaults.

    python -m launch run launch/jobs/stanza-digits.toml --stanza.fc-workers 1 --world-size 4

Which system the job is of decides which options it has, so the system is found first: the flag
`--system`, the job file, or else the default. Tables of other installed systems in a job file are
left unread.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import tomli_w

from launch import installed
from systems import disk, schema
from systems.flags import parse_flags
from systems.job import J, Job, job_fields, job_type, with_absolute_files
from systems.schema import InputError, remedy

JOBS = Path(__file__).parent / "jobs"
"""The ready job files of the built-in systems."""


def load_job(path: Path, system: str | None = None) -> Job:
    """The job in a TOML file.

    Args:
        system: the system to run instead of the one that the file names.

    Raises:
        InputError: there is no such file, it is not TOML, or it holds a key or a value that no
            option has.
    """
    if not path.is_file():
        raise InputError(f"job {path}: no such file; {_ready_jobs()}")
    table = schema.load_table(path)
    name = system or table.get("system", installed.DEFAULT)
    if not isinstance(name, str):
        raise InputError(f"{path}: system = {name!r}: expected str")
    with _named_in_file(path) if system is None else nullcontext():
        cls = job_type(Job, name, installed.system(name).options)
    table = _without_other_systems(table, cls, str(path)) | {"system": name}
    return with_absolute_paths(schema.read(cls, table, str(path)), path.parent, Path())


@contextmanager
def _named_in_file(path: Path) -> Iterator[None]:
    """Let errors about the flag --system name the key in a job file instead."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("--system ", "system = ", 1)
        raise InputError(f"{path}: {text}") from None


def _ready_jobs() -> str:
    """The ready job files, in words."""
    folders = [JOBS, *(s.jobs for s in installed.all_systems() if s.jobs is not None)]
    here = Path.cwd()
    return "; ".join(
        f"ready jobs in {folder.relative_to(here) if folder.is_relative_to(here) else folder}: "
        + ", ".join(sorted(path.name for path in folder.glob("*.toml")))
        for folder in folders
    )


def _without_other_systems(table: dict[str, Any], cls: type[Job], where: str) -> dict[str, Any]:
    """The table of a job without the options of systems that are installed and do not run.

    Raises:
        InputError: it holds a table that belongs to no installed system.
    """
    known, others = {f.name for f in dataclasses.fields(cls)}, set(installed.names())
    for key, value in table.items():
        if isinstance(value, dict) and key not in known | others:
            raise InputError(f"{where}: unknown table {key!r}; {remedy(key, known | others)}")
    return {key: value for key, value in table.items() if key in known or key not in others}


def save_job(job: Job, path: Path) -> None:
    """Write a job as TOML. `load_job` reads an equal job from it, in whatever working directory."""
    disk.write_text(path, tomli_w.dumps(schema.dump(with_absolute_paths(job, Path()))))


def with_absolute_paths(job: J, *folders: Path) -> J:
    """The job with absolute paths instead of relative ones, for all files that it reads, those in
    the options of its system too. See `systems.job.with_absolute_files`."""
    options: Any = installed.system_of(job).absolute_paths(job.options, folders)
    changed: dict[str, Any] = {job.system: options}
    return dataclasses.replace(with_absolute_files(job, *folders), **changed)


def parse_job(command: str, arguments: Sequence[str], cls: type[J]) -> J:
    """The job that a command line means: an optional job file, then flags.

    Args:
        cls: `Job`; a command with flags of its own gives a subclass.

    Raises:
        InputError: there is no such flag, or it does not accept the value.
    """
    flags, wanted = list(arguments), wanted_system(arguments)
    if not flags or flags[0].startswith("-"):
        default = installed.system(wanted or installed.DEFAULT).command_job(cls)
        return parse_job_flags(f"{command} [JOB.toml]", flags, default)
    job = load_job(Path(flags.pop(0)), wanted)
    return parse_job_flags(f"{command} JOB.toml", flags, with_flags(cls, job))


def with_flags(cls: type[J], job: Job) -> J:
    """The job with the flags of a command's own, at their defaults."""
    return installed.system_of(job).command_job(cls, **job_fields(job))


def parse_job_flags(command: str, flags: Sequence[str], default: J) -> J:
    """The job that flags make of another one. `--help` among them prints the flags of its system.

    Raises:
        InputError: there is no such flag, or it does not accept the value.
    """
    _refuse_other_systems(flags, default.system)
    others = ", ".join(name for name in installed.names() if name != default.system)
    more_help = f"These are the flags of the system {default.system}."
    if others:
        more_help += f" For those of another one, {others}, add --system NAME."
    parsed = parse_flags(type(default), flags, f"testbed {command}", default, more_help)
    return with_absolute_paths(parsed, Path())


def wanted_system(flags: Sequence[str]) -> str | None:
    """The value of the flag --system; None without it."""
    wanted = None
    for flag, following in zip(flags, [*flags[1:], ""], strict=False):
        if flag == "--system":
            wanted = following
        elif flag.startswith("--system="):
            wanted = flag.partition("=")[2]
    return wanted


def _refuse_other_systems(flags: Sequence[str], system: str) -> None:
    """Raise an InputError for the first flag that is of an installed system which does not run."""
    for flag in flags:
        name, dot, _ = flag.removeprefix("--").partition(".")
        name = name.replace("-", "_")
        if flag.startswith("--") and dot and name != system and name in installed.names():
            raise InputError(
                f"{flag}: is an option of {name}, and the job runs {system}; leave it out, or add "
                f"--system {name}"
            )
