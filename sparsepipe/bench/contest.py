"""A contest: several engines do the same task and take turns.

Each engine has a process of its own, so its peak of memory is its own. The processes wait for each
other, and every second round goes the other way round, so whatever else the machine does slows all
of them alike.
"""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sparsepipe.bench.clouds import task
from sparsepipe.bench.contestant import Contestant
from sparsepipe.bench.engines import ENGINES, dense
from sparsepipe.bench.passes import PARTS, Lap
from sparsepipe.bench.task import Task

WARM_UP = 1
"""The rounds at the start that are not counted."""
PATIENCE_S = 8.0
"""An engine that has had three turns or more with a pass and has taken this long sits out the
remaining rounds of it."""
OURS = "native"
Clock = Literal["wall_s", "processor_s"]
"""What counts seconds, of the fields of `Row`."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The task, and the engines that compete."""

    cloud: str
    """The cloud, as `sparsepipe.bench.clouds` names it."""
    channels: int = 0
    """Input and output channels of a layer, a 3x3x3 convolution; 0: no layer."""
    network: str = ""
    """The name of a network; empty: no network."""
    passes: tuple[str, ...] = ("train",)
    """What is timed, of `sparsepipe.bench.passes.PARTS`."""
    device: str = "cpu"
    threads: int = 1
    engines: tuple[str, ...] = tuple(ENGINES)
    memory_limit_bytes: float | None = None
    """How much memory an engine may take beyond what its process has at the start. None: any."""

    @property
    def work(self) -> str:
        """The task in words."""
        return self.network or (f"{self.channels} channels" if self.channels else "kernel maps")

    @property
    def clock(self) -> Clock:
        """The clock that other programs disturb least: the time on a core, where one thread does
        all the work."""
        return "processor_s" if self.device == "cpu" and self.threads == 1 else "wall_s"

    @property
    def name(self) -> str:
        """A name of the contest that can be part of a file's name."""
        cloud = self.cloud.replace(":", "-").replace("~", "-")
        limited = "" if self.memory_limit_bytes is None else "-limited"
        work = self.work.replace(" ", "-")
        return f"{cloud}-{work}-{self.threads}-threads{limited}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one part took one engine in a contest, measured."""

    contest: Contest
    engine: str
    part: str
    """See `sparsepipe.bench.passes.PARTS`."""
    voxels: int
    pairs: int
    """The pairs of voxels in the kernel map of a 3x3x3 convolution."""
    wall_s: tuple[float, ...]
    """Seconds of the part, turn by turn. Empty if the engine has no times."""
    processor_s: tuple[float, ...]
    """Seconds in which the process was given cores, turn by turn."""
    load: float
    """The largest number of processes that wanted a core, as the system averages them over a
    minute: at the contest's start or end."""
    peak_bytes: int
    """The most memory that the whole task took beyond what the process had before."""
    failure: str | None = None
    """The reason why the engine has no times; None if it has."""

    @property
    def seconds(self) -> float:
        """The median of `wall_s`."""
        return statistics.median(self.wall_s)


def run(contest: Contest, repetitions: int = 7) -> list[Row]:
    """Let the engines that compute tasks of this kind compete for some rounds. One that cannot take
    part has one row without times, with the reason as `failure`."""
    work = task(contest.cloud, contest.channels, contest.network)
    load = os.getloadavg()[0]
    engines = [engine for engine in contest.engines if work.kind in ENGINES[engine].kinds]
    failures = {engine: _reason(engine, contest, work) for engine in engines}
    able = [engine for engine in engines if failures[engine] is None]
    contestants = _compete(able, contest, work, WARM_UP + repetitions)
    peaks = {engine: contestant.end() for engine, contestant in contestants.items()}
    failures |= {engine: contestant.failure for engine, contestant in contestants.items()}
    load = max(load, os.getloadavg()[0])

    def row(engine: str, part: str, laps: Sequence[Lap]) -> Row:
        return Row(
            contest=contest,
            engine=engine,
            part=part,
            voxels=len(work.coordinates),
            pairs=work.pairs,
            wall_s=tuple(lap.wall_s for lap in laps),
            processor_s=tuple(lap.processor_s for lap in laps),
            load=load,
            peak_bytes=peaks.get(engine, 0),
            failure=failures[engine],
        )

    rows = []
    for engine in engines:
        if failures[engine] is not None:
            rows.append(row(engine, PARTS[contest.passes[0]][0], ()))
            continue
        for part, laps in contestants[engine].laps.items():
            rows.append(row(engine, part, laps[min(WARM_UP, len(laps) - 1) :]))
    return rows


def _compete(
    engines: Sequence[str], contest: Contest, work: Task, rounds: int
) -> dict[str, Contestant]:
    """Start the engines and let them take turns."""
    contestants = {
        engine: Contestant(
            engine, work, contest.device, contest.threads, contest.memory_limit_bytes
        )
        for engine in engines
    }
    order = list(contestants.values())
    for _ in range(rounds):
        order.reverse()
        for name in contest.passes:
            for contestant in order:
                contestant.play(name, PATIENCE_S)
    return contestants


def _reason(engine: str, contest: Contest, work: Task) -> str | None:
    """The reason why an engine does not take part, or None."""
    if engine == "dense" and contest.memory_limit_bytes is None and dense.too_large(work):
        return dense.too_large(work)
    return ENGINES[engine].missing(contest.device, contest.threads)


def ratios(
    rows: Sequence[Row],
    engine: str,
    part: str = "train",
    *,
    over: str = OURS,
    clock: Clock = "wall_s",
) -> list[float]:
    """How many times longer a part of a contest took `engine` than it took the engine `over`, round
    by round; empty if one of them has no times. Where they sat out different rounds, it is the one
    ratio of the medians."""
    times: dict[str, tuple[float, ...]] = {
        row.engine: getattr(row, clock) for row in rows if row.part == part
    }
    theirs, ours = times.get(engine, ()), times.get(over, ())
    if not theirs or not ours:
        return []
    if len(theirs) == len(ours):
        return [a / b for a, b in zip(theirs, ours, strict=True)]
    return [statistics.median(theirs) / statistics.median(ours)]


def sweep(sides: Sequence[int], channels: Sequence[int], threads: int) -> list[Contest]:
    """Contests of sparse engines and dense convolution on spheres of several sizes, with several
    numbers of channels."""
    engines = (OURS, "minkowski", "spconv", "dense")
    return [
        Contest(cloud=f"sphere:{side}", channels=width, threads=threads, engines=engines)
        for side in sides
        for width in channels
    ]
