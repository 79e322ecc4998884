"""Runs a sweep, whichever command asks for it: checks all points, runs those that have no result,
prints the table, and writes the CSV and the figure.
"""

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.commands.sweep_tiers import Running, measured_anew, run_points, why_not
from launch.sweep.groups import group, without_effect
from launch.sweep.picture import Picture, choose_x, draw_sweep
from launch.sweep.points import Point, Sweep
from launch.sweep.rows import Row, arranged, read_row, values_of, write_csv
from launch.sweep.table import EFFICIENCY, EXPLAINED, Table
from launch.sweep.variables import NODES, Variable, counted, in_words, job_at, parse_setting
from systems.flags import named_as_given, refuse_below_one
from systems.job import Job, job_alone
from systems.progress.table import ProgressFlags
from systems.runs import record
from systems.runs.record import Tier
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class SweepFlags(Job, ProgressFlags):
    """The flags of all sweeps, beside those of the job."""

    repetitions: int = 1
    """How often every point is run. All points follow one another before any is repeated, with a
    seed that is larger by 1. A simulation is deterministic and is played once."""
    baseline: tuple[str, ...] = ()
    """What the figure shows the speed-up over, such as scheme=ddp: the points that differ in
    nothing else. Without it, it shows samples per second."""
    x: str | None = None
    """The variable on the x axis of the figure. None takes nodes, else bandwidth, else the first
    one with numbers."""
    elsewhere: bool = False
    """Run nothing here. Write a job file for every point, which `launch worker` starts under
    torchrun or srun on several nodes, and make the table of those that have been run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below_one({"repetitions": [self.repetitions]})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one command asks of a sweep."""

    sweep: Sweep
    varied: tuple[Variable, ...]
    tiers: tuple[Tier, ...]
    flags: SweepFlags
    named: Mapping[str, str]
    """What the command calls options that errors name; see `systems.flags.named_as_given`."""
    kind: str
    """The name of the table."""
    scale: float | None = None
    dilate: float | None = None
    """The two factors of every emulated point; None chooses them for each."""

    @property
    def names(self) -> list[str]:
        """What is varied."""
        return [variable.name for variable in self.varied]

    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the values; those of the last variable change fastest."""
        lists = (variable.values for variable in self.varied)
        return [dict(zip(self.names, values, strict=True)) for values in itertools.product(*lists)]


def base_of(flags: SweepFlags) -> Job:
    """The job that a sweep varies."""
    return dataclasses.replace(job_alone(flags), out=None)


def run_sweep(asked: Asked) -> None:
    """Run a sweep, or go on with it.

    Raises:
        InputError: whatever is wrong with all points; nothing has been run or written then.
        SystemExit: every point has failed, or the sweep was interrupted.
    """
    sweep, flags = asked.sweep, asked.flags
    baseline = dict(parse_setting(sweep.base, word, "baseline") for word in flags.baseline)
    _check_values(asked)
    x = _check_drawn(asked, baseline)
    reasons = _reasons(asked)
    flags.apply()
    sweep.claim()
    rows = {point.name: read_row(sweep, point) for point in sweep.points()}
    new = _run(asked, reasons, rows)
    _conclude(asked, arranged(rows.values()), x, baseline)
    others = len(rows) - len(new)
    beside = f", with {counted(others, 'point')} of earlier sweeps" if others else ""
    print(f"table: {sweep.folder}/{asked.kind}.csv{beside}")
    if flags.elsewhere:
        _say_what_to_start(sweep, new)
    elif all(row.error for row in new):
        raise SystemExit(1)


def _run(asked: Asked, reasons: Mapping[Tier, str | None], rows: dict[str, Row]) -> list[Row]:
    """Run the points that have no result, and print the row of every point; returns these rows.

    Args:
        rows: all rows of the sweep by the names of their points, into which the new ones go. They
            are written as the table after every point.

    Raises:
        SystemExit, KeyboardInterrupt: the sweep was interrupted, which has said how it goes on.
    """
    sweep, new = asked.sweep, []
    table = Table({variable.name: variable.values for variable in asked.varied})
    print(f"{sweep.base.name} | tier {', '.join(asked.tiers)} | {sweep.folder}\n{table.header()}")
    try:
        for point in _ended(asked, reasons):
            row = rows[point.name] = read_row(sweep, point)
            new.append(row)
            print(table.line(row), flush=True)
            write_csv(arranged(rows.values()), sweep.folder / f"{asked.kind}.csv")
    except (KeyboardInterrupt, SystemExit):
        command = shlex.join(record.command_line())
        print(f"{counted(len(rows), 'point')} in the table; go on with: {command}", file=sys.stderr)
        raise
    return new


def _check_values(asked: Asked) -> None:
    """Make the jobs of all combinations.

    Raises:
        InputError: a value is refused in every combination, the first of them; or the seed is
            varied and repeated.
    """
    repetitions = asked.flags.repetitions
    if "seed" in asked.names and repetitions > 1:
        raise InputError(
            f"--repetitions {repetitions}: each has a seed of its own, and --over varies the seed; "
            "leave one of them out"
        )
    faults: dict[tuple[str, Any], list[str]] = {}
    for values in asked.combinations():
        fault = ""
        try:
            with named_as_given(asked.named):
                asked.sweep.job(Point(tier="simulated", repetition=0, values=values))
        except InputError as error:
            fault = str(error)
        for pair in values.items():
            faults.setdefault(pair, []).append(fault)
    refused = [of_value[0] for of_value in faults.values() if all(of_value)]
    if refused:
        raise InputError(refused[0])


def _check_drawn(asked: Asked, baseline: Mapping[str, Any]) -> str | None:
    """The variable of the x axis; None: no variable has numbers.

    Raises:
        InputError: `--x` or `--baseline` names what is not varied.
    """
    values = {variable.name: list(variable.values) for variable in asked.varied}
    for point in asked.sweep.points():
        for name, value in point.values.items():
            values.setdefault(name, []).append(value)
    for name, value in baseline.items():
        if value not in values.get(name, []):
            varied = " ".join(map(in_words, dict.fromkeys(values.get(name, []))))
            known = f"varies it over {varied}" if varied else "does not vary it"
            raise InputError(
                f"--baseline {name}={in_words(value)}: this sweep {known}; add the value to --over"
            )
    return choose_x(values, asked.flags.x)


def _reasons(asked: Asked) -> dict[Tier, str | None]:
    """Why no point of a tier can be run; None if some can.

    Raises:
        InputError: none of the tiers can be run.
    """
    if asked.flags.elsewhere:
        if asked.tiers != ("measured",):
            raise InputError(
                f"--elsewhere: real ranks run there, and --tier is {' '.join(asked.tiers)}; add "
                "--tier measured"
            )
        return {"measured": None}
    reasons = {tier: why_not(asked.sweep.base, tier, asked.names) for tier in asked.tiers}
    if reasons.get("simulated", "") is None:
        reasons["simulated"] = _never_known(asked)
    if all(reasons.values()):
        raise InputError(str(next(iter(reasons.values()))))
    return reasons


def _never_known(asked: Asked) -> str | None:
    """Why every simulated point would have to be measured first; None if one need not be."""
    found: list[str | None] = []
    for values in asked.combinations():
        try:
            found.append(measured_anew(job_at(asked.sweep.base, values), asked.names))
        except InputError:  # the point says so itself
            continue
    return found[0] if found and all(found) else None


def _ended(asked: Asked, reasons: Mapping[Tier, str | None]) -> Iterator[Point]:
    """Run all points that have no result; yields every point when it has ended, those that had
    ended before first. A repetition begins when all points of the one before have ended."""
    sweep = asked.sweep
    for repetition in range(asked.flags.repetitions):
        for tier, reason in reasons.items():
            if tier == "simulated" and repetition > 0:
                continue
            points = [
                Point(tier=tier, repetition=repetition, values=values)
                for values in asked.combinations()
            ]
            todo = [point for point in points if not sweep.has_result(point)]
            yield from (point for point in points if sweep.has_result(point))
            if reason is not None:
                yield from _refused(sweep, todo, reason)
            elif asked.flags.elsewhere:
                yield from _left_to_others(sweep, todo)
            else:
                yield from run_points(_running(asked), tier, todo)


def _running(asked: Asked) -> Running:
    """How the points of a command are run."""
    flags = asked.flags
    return Running(
        sweep=asked.sweep,
        scale=asked.scale,
        dilate=asked.dilate,
        tensorboard=flags.tensorboard,
        named=asked.named,
    )


def _refused(sweep: Sweep, points: Iterable[Point], reason: str) -> Iterator[Point]:
    """Points of a tier of which none can be run."""
    for point in points:
        sweep.note(point, reason)
        yield point


def _left_to_others(sweep: Sweep, points: Iterable[Point]) -> Iterator[Point]:
    """Points whose jobs are written, for whoever starts them."""
    for point in points:
        try:
            sweep.save_job(point)
        except InputError as error:
            sweep.note(point, str(error))
        else:
            sweep.note(point)
        yield point


def _conclude(
    asked: Asked, rows: Sequence[Row], x: str | None, baseline: Mapping[str, Any]
) -> None:
    """Print what the columns mean and how the points compare, and draw the figure."""
    values = values_of(rows)
    groups = group(rows, list(values), baseline)
    print(EXPLAINED)
    if NODES in values:
        print(EFFICIENCY)
    if groups:
        print(Table(values).comparison(groups, " ".join(asked.flags.baseline)))
    for name in without_effect(groups):
        print(f"warning: {name} changes nothing here: simulated points are equal at all its values")
    ran = [row for row in rows if not row.error]
    picture = Picture(
        job=asked.sweep.base,
        x=x,
        baseline=baseline,
        machines={
            tier: list(dict.fromkeys(row.machine for row in ran if row.point.tier == tier))
            for tier in dict.fromkeys(row.point.tier for row in ran)
        },
        failed=len(rows) - len(ran),
    )
    drawn = draw_sweep(picture, groups, asked.sweep.folder)
    print(f"figure: {drawn or 'nothing to draw'}")


def _say_what_to_start(sweep: Sweep, rows: Iterable[Row]) -> None:
    """Name the jobs that nobody has run yet."""
    left = [row for row in rows if row.is_open]
    if not left:
        return
    print(
        f"left to run: {counted(len(left), 'point')}."
        "\nOn the nodes of each, as your cluster starts ranks:"
    )
    for row in left:
        path = sweep.job_file(row.point)
        print(f"  {row.job.world_size} ranks: python -m launch worker {path}")
    print("Then the same command makes the table.")
