"""A run's record: one folder that says what was run, how, and what came out.

job.toml             the resolved job; `testbed run --again FOLDER` runs it again
run.json             command, tier, roles, plan, environment; written before the first step
steps/rank-0.jsonl   one line for every step of a rank. It is written at once, so that it can be
                     read when the rank dies. A number that is NaN or infinite is null
steps/last           number of the last step, known once the ranks have opened their data
trace.json           spans for chrome://tracing or ui.perfetto.dev, if asked for
failures.jsonl       why ranks failed, one line each (systems.processes.failures)
result.json          the summary; only a run that ended well has one

What a tier means
-----------------
Every number of the testbed says how it came about:

                computation           messages                  what its seconds are
    measured    real                  real, on real links       those of this very machine
    shaped      real, on a share of   real, on links held to    those of a cluster of such links
                a core each           a chosen rate             and such shares
    emulated    waits from a profile  real, on links held to    those of devices that are not here
                                      a chosen rate
    simulated   none                  none                      those of a model of the schedule

A shaped run trains as a measured one does, and comes to the same parameters. It shows a cluster's
ratio of computing to communicating, not a GPU's own behaviour.

An emulated run is the program itself: the same processes, buffers and messages, around layers that
wait as long as a profile says. It finds what a model of the program leaves out, such as contention
and the order of messages, but its losses mean nothing. A simulated run has no processes at all:
`systems.simulate` plays the tasks of the schedule. Numbers of two tiers are never drawn as one
series.
"""

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from systems import disk
from systems.schema import InputError, count_not_finite, load_json, to_json

Tier = Literal["measured", "shaped", "emulated", "simulated"]
"""How a number came about, see above."""
QUIET = "TESTBED_QUIET"
"""The environment variable that keeps ranks from printing lines of progress, if it is set."""


@dataclass(frozen=True)
class Step:
    """What one rank measured in one step."""

    index: int
    """The number of the step, from 0."""
    metrics: Mapping[str, float]
    """What was measured, by a name that ends with its unit, such as `step_s`."""


class StepWriter:
    """Appends this rank's steps to `steps/rank-N.jsonl`."""

    def __init__(self, folder: Path, rank: int, first_step: int = 0) -> None:
        """Open the file of `rank` in the record `folder`.

        What an earlier attempt has written there stays as far as it is about steps before
        `first_step`; it is read into `earlier`. The rest is removed.
        """
        path = steps_file(folder, rank)
        with disk.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.earlier = [s for s in read_steps(folder, rank) if s.index < first_step]
        disk.write_text(path, "".join(map(_line, self.earlier)))
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, step: Step) -> None:
        """Write one step as one line, without a buffer: it stays if this process dies.

        Raises:
            DiskError: the line could not be written, such as on a full disk; earlier lines stay.
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
    """The path of a rank's steps in the record `folder`."""
    return folder / "steps" / f"rank-{rank}.jsonl"


def write_last(folder: Path, last: int) -> None:
    """Write down the number of the last step that the run will do."""
    path = folder / "steps" / "last"
    with disk.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, f"{last}\n")


def read_last(folder: Path) -> int | None:
    """The number of the last step that the run will do; None if it is not known yet."""
    path = folder / "steps" / "last"
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text else None


def _line(step: Step) -> str:
    """Write one step as a line of JSON."""
    return to_json({"step": step.index, **step.metrics}) + "\n"


def read_step(line: str | bytes) -> Step:
    """The step in one line of a steps file.

    A metric that is null there was no finite number; here it is NaN.

    Raises:
        ValueError: the line was cut off, or is no step.
    """
    try:
        table = json.loads(line)
    except RecursionError:
        table = None
    if not isinstance(table, dict) or type(table.get("step")) is not int:
        raise ValueError("the line is no step")
    index = table.pop("step")
    if not all(value is None or isinstance(value, int | float) for value in table.values()):
        raise ValueError("a metric is no number")
    return Step(index, {k: math.nan if v is None else v for k, v in table.items()})


def numbers(values: Iterable[float | None]) -> list[float]:
    """A list of numbers from JSON; null, which stands for a number that was not finite, is NaN."""
    return [math.nan if value is None else value for value in values]


def not_finite(everyone: Sequence[Sequence[Step]], summary: Any) -> dict[str, int]:
    """Count the numbers of a run that are NaN or infinite, and that are null in its JSON.

    Args:
        everyone: the steps of every rank.
        summary: what was made of them: plain data.

    Returns:
        Entries for the result of the run: `not_finite_values`, how many there are in the steps and
        the summary, and `first_not_finite_step`, the first step that has one. Empty if there are
        none.
    """
    counts = [(s.index, count_not_finite(s.metrics)) for steps in everyone for s in steps]
    total = sum(count for _, count in counts) + count_not_finite(summary)
    steps = [index for index, count in counts if count]
    first = {"first_not_finite_step": min(steps)} if steps else {}
    return {"not_finite_values": total, **first} if total else {}


def former_steps(folder: Path, world_size: int, first_step: int) -> list[list[Step]]:
    """The steps of ranks that are no longer there, because the world has shrunk to `world_size`.

    Only steps before `first_step` are returned. Later ones are removed from the record: the smaller
    world does them again.
    """
    former: list[list[Step]] = []
    for rank in itertools.count(world_size):
        if not steps_file(folder, rank).is_file():
            return former
        with StepWriter(folder, rank, first_step) as writer:
            former.append(writer.earlier)
    raise AssertionError("ranks end somewhere")


def read_steps(folder: Path, rank: int) -> list[Step]:
    """The steps of one rank; a last line that was cut off when the rank was killed is left out."""
    steps: list[Step] = []
    if not steps_file(folder, rank).is_file():
        return steps
    for line in steps_file(folder, rank).read_bytes().splitlines():
        try:
            steps.append(read_step(line))
        except ValueError:
            break
    return steps


def claim_folder(folder: Path) -> None:
    """Make the folder of a run.

    Raises:
        InputError: the folder holds files already (nothing is overwritten), or cannot be made.
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
    """Refuse a value of `--out` at which no new file can be written.

    Raises:
        InputError: the file exists already, or its folder does not exist.
    """
    if path.exists():
        raise InputError(f"--out {path}: exists already; give another name")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: {path.parent} is no folder; make it first")


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON, whole or not at all; NaN and infinity become null."""
    disk.write_text(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a record.

    Raises:
        InputError: there is no such file, or it is not JSON.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: no record there ({path.name} is missing)")
    return load_json(path)


def read_run(folder: Path) -> dict[str, Any]:
    """What was known of a run before its first step: the file `run.json` of its record.

    Raises:
        InputError: there is no such file, or it lacks something that every record has.
    """
    path = folder / "run.json"
    run = read_json(path)
    if not isinstance(run, dict):
        raise InputError(f"{path}: is no table: copy the whole record again")
    kinds = {"tier": str, "system": str, "environment": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(run.get(key), kind)]
    wrong += ["plan"] * ("plan" not in run)
    wrong += ["own_code_sha256"] * (not isinstance(run.get("own_code_sha256", {}), dict))
    if wrong:
        raise InputError(f"{path}: has no {wrong[0]}: copy the whole record again")
    return run


def once(path: Path, find: Callable[[], Any], *, told: str | None = None) -> Any:
    """Call `find` and keep what it returns as JSON at `path`; if the file exists, only read it.

    So an experiment that was interrupted goes on without repeating what it has found already.

    Args:
        told: a line to print before `find` is called.
    """
    if not path.is_file():
        if told is not None:
            print(f"  {told}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, find())
    return read_json(path)


def command_line() -> list[str]:
    """The words of this process's command, as a user can type them again."""
    return ["python", "-m", "launch", *sys.argv[1:]]
