"""Runs a sweep, whichever command asks for it: checks all points, runs those that have no result,
prints the table, and writes the CSV and the figure.
"""

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from launch.commands.sweep_asked import Asked, check_drawn, check_values, reasons_against
from launch.commands.sweep_tiers import Running, run_points
from launch.sweep.groups import group, without_effect
from launch.sweep.picture import Picture, draw_sweep
from launch.sweep.points import Point, Sweep
from launch.sweep.rows import Row, arranged, read_row, values_of, write_csv
from launch.sweep.table import EFFICIENCY, EXPLAINED, Table
from launch.sweep.variables import NODES, counted, parse_setting
from systems.runs import record
from systems.runs.record import Tier
from systems.schema import InputError


def run_sweep(asked: Asked) -> None:
    """Run a sweep, or go on with it.

    Raises:
        InputError: whatever is wrong with all points; nothing has been run or written then.
        SystemExit: every point has failed, or the sweep was interrupted.
    """
    sweep, flags = asked.sweep, asked.flags
    baseline = dict(parse_setting(sweep.base, word, "baseline") for word in flags.baseline)
    check_values(asked)
    x = check_drawn(asked, baseline)
    reasons = reasons_against(asked)
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
    """Gather what all points of a command have in common when they are run."""
    flags = asked.flags
    return Running(
        sweep=asked.sweep,
        scale=asked.scale,
        dilate=asked.dilate,
        tensorboard=flags.tensorboard,
        named=asked.named,
    )


def _refused(sweep: Sweep, points: Iterable[Point], reason: str) -> Iterator[Point]:
    """Yield the points of a tier of which none can be run, and note the reason at each."""
    for point in points:
        sweep.note(point, reason)
        yield point


def _left_to_others(sweep: Sweep, points: Iterable[Point]) -> Iterator[Point]:
    """Write the jobs of points, for whoever starts them elsewhere; yields these points."""
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
