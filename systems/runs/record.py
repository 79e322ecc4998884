"""A run's record: one folder that says what was run, how, and what came out.

job.toml             the resolved job; `launch run --again FOLDER` runs it again
run.json             command, tier, roles, plan, environment; written before the first step
steps/rank-0.jsonl   one line a step and rank, flushed at once: readable when a rank dies; a number
                     that is NaN or infinite is null
steps/last           number of the last step, known once the ranks have opened their data
trace.json           spans for chrome://tracing or ui.perfetto.dev, if asked for
failures.jsonl       why ranks failed, if any did, a line each (systems.processes.failures)
result.json          the summary; only a run that ended well has one
"""

import itertools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from systems import disk
from systems.gpus import gpu_names
from systems.schema import InputError, count_not_finite, to_json

Tier = Literal["measured", "emulated", "simulated"]
QUIET = "TESTBED_QUIET"
"""A variable; where it is set, ranks print no lines of progress."""


@dataclass(frozen=True)
class Step:
    """What one rank measured in one step; units are in the names."""

    index: int
    metrics: Mapping[str, float]


class StepWriter:
    """Appends this rank's steps to `steps/rank-N.jsonl`."""

    def __init__(self, folder: Path, rank: int, first_step: int = 0) -> None:
        """Keep what an earlier attempt has written of the steps before `first_step`."""
        path = steps_file(folder, rank)
        with disk.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.earlier = [s for s in read_steps(folder, rank) if s.index < first_step]
        disk.write_text(path, "".join(map(_line, self.earlier)))
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, step: Step) -> None:
        """Write one line and hand it to the operating system.

        Raises:
            DiskError: the disk is full, say; earlier lines stay.
        """
        with disk.writing(self._path):
            line = _line(step).encode()
            while line:
                line = line[self._file.write(line) :]

    def __enter__(self) -> "StepWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def steps_file(folder: Path, rank: int) -> Path:
    """Where a rank's steps are."""
    return folder / "steps" / f"rank-{rank}.jsonl"


def write_last(folder: Path, last: int) -> None:
    """Note the number of the last step."""
    path = folder / "steps" / "last"
    with disk.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, f"{last}\n")


def read_last(folder: Path) -> int | None:
    """The number of the last step, if it is known already."""
    path = folder / "steps" / "last"
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text else None


def _line(step: Step) -> str:
    return to_json({"step": step.index, **step.metrics}) + "\n"


def read_step(line: str | bytes) -> Step:
    """The step in one line of a steps file. A metric that is null there was not finite: NaN.

    Raises:
        json.JSONDecodeError: half a line.
    """
    table = json.loads(line)
    return Step(table.pop("step"), {k: math.nan if v is None else v for k, v in table.items()})


def numbers(values: Iterable[float | None]) -> list[float]:
    """A list of numbers from JSON, where null stands for one that was not finite: NaN."""
    return [math.nan if value is None else value for value in values]


def not_finite(everyone: Sequence[Sequence[Step]], summary: Any) -> dict[str, int]:
    """What a run's result says of numbers that are null in its JSON; nothing if there are none.

    Args:
        everyone: every rank's steps.
        summary: what was made of them.

    Returns:
        `not_finite_values`, how many there are in the steps and the summary, and
        `first_not_finite_step`, the first step that has one.
    """
    of_step = [(s.index, count_not_finite(s.metrics)) for steps in everyone for s in steps]
    found = sum(count for _, count in of_step) + count_not_finite(summary)
    steps = [index for index, count in of_step if count]
    first = {"first_not_finite_step": min(steps)} if steps else {}
    return {"not_finite_values": found, **first} if found else {}


def former_steps(folder: Path, world_size: int, first_step: int) -> list[list[Step]]:
    """The steps before `first_step` of ranks that a smaller world of `world_size` no longer has;
    later ones, which it does again, are removed."""
    former: list[list[Step]] = []
    for rank in itertools.count(world_size):
        if not steps_file(folder, rank).is_file():
            return former
        with StepWriter(folder, rank, first_step) as writer:
            former.append(writer.earlier)
    raise AssertionError("ranks end somewhere")


def read_steps(folder: Path, rank: int) -> list[Step]:
    """The steps of one rank; a last line cut off by a killed process is left out."""
    steps: list[Step] = []
    if not steps_file(folder, rank).is_file():
        return steps
    for line in steps_file(folder, rank).read_text().splitlines():
        try:
            steps.append(read_step(line))
        except json.JSONDecodeError:
            break
    return steps


def claim_folder(folder: Path) -> None:
    """Make a run's folder.

    Raises:
        InputError: it holds something already; nothing is overwritten.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"--out {folder}: holds files already; give an empty or new folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; give an empty or new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror}; give another folder") from None


def check_new_file(path: Path) -> None:
    """Raise an InputError if `--out` names a file that exists, or one in no folder."""
    if path.exists():
        raise InputError(f"--out {path}: exists already; give another name")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: {path.parent} is no folder; make it first")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; see `systems.schema.to_json`."""
    disk.write_text(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read one of a record's files.

    Raises:
        InputError: no such file, or not JSON.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: no record there ({path.name} is missing)")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def once(path: Path, find: Callable[[], Any], *, told: str | None = None) -> Any:
    """What `find` gives, as JSON at `path`; read from there if an earlier run has got so far.

    Args:
        told: what is printed before it is found.
    """
    if not path.is_file():
        if told is not None:
            print(f"  {told}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, find())
    return read_json(path)


def environment() -> dict[str, Any]:
    """Software and hardware of this process, as far as they bear on a measurement."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("systems-testbed", "torch", "numpy")},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": gpu_names(),
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_commit() -> str | None:
    """The source's commit, marked where files differ from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def command_line() -> list[str]:
    """This process's command, as a user can type it again."""
    return ["python", "-m", "launch", *sys.argv[1:]]
