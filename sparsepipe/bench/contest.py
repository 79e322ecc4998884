"""A contest: several engines do the same task and take turns pass by pass.

Each engine has a process of its own, so its peak of memory is its own. The processes wait for each
other, so whatever else the machine does slows all of them alike.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsepipe.bench.clouds import task
from sparsepipe.bench.contestant import Contestant
from sparsepipe.bench.engines import ENGINES, KERNEL, Task, unavailable
from sparsepipe.engine.tensor import SparseTensor
from systems.measure import timed

DENSE_OPERATIONS = 1e12
"""The largest number of floating-point operations of a pass for which the dense engine takes
part."""
WARM_UP = 2
"""The passes at the start that are not counted."""
PATIENCE_S = 8.0
"""An engine that has been timed at least once and has taken this long sits out the remaining
rounds."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The task, and the engines that compete."""

    cloud: str
    """The cloud, as `sparsepipe.bench.clouds.task` names it."""
    channels: int
    """Input and output channels of a 3x3x3 convolution; 0: a training step of MinkVGG16-BN, without
    the optimizer."""
    threads: int = 1
    engines: tuple[str, ...] = tuple(ENGINES)
    memory_limit_bytes: float | None = None
    """How much memory an engine may take beyond what its process has at the start. None: any."""

    @property
    def name(self) -> str:
        """A name of the contest that can be part of a file's name."""
        work = f"{self.channels}-channels" if self.channels else "minkvgg16"
        limited = "" if self.memory_limit_bytes is None else "-limited"
        return f"{self.cloud.replace(':', '-')}-{work}-{self.threads}-threads{limited}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one engine in a contest."""

    contest: Contest
    engine: str
    voxels: int
    pass_s: tuple[float, ...]
    """Seconds of each pass, round by round. The kernel map of a layer was made before. Empty if the
    engine failed."""
    map_s: float | None = None
    """Seconds to make the kernel map, the median; None if the engine has none."""
    peak_bytes: int
    """The largest amount of memory beyond what the process had before."""
    operations: float
    """Floating-point operations of one pass over the pairs of voxels; 0 for a network."""
    matrix_operations_per_s: float
    """The rate of a matrix product of as many channels, measured just before; 0 for a network."""
    failure: str | None = None
    """The reason why the engine has no times; None if it has."""

    @property
    def seconds(self) -> float:
        """The median of `pass_s`."""
        return statistics.median(self.pass_s)

    @property
    def of_matrix_rate(self) -> float:
        """The rate of a pass divided by the rate of a matrix product."""
        return self.operations / self.seconds / self.matrix_operations_per_s


def run(contest: Contest, repetitions: int = 7) -> list[Row]:
    """Let the engines compete for some rounds. An engine that cannot take part has no times, and
    its row has the reason as `failure`."""
    work = task(contest.cloud, contest.channels)
    operations = 3 * 2.0 * _pairs(work) * contest.channels**2
    rate = matrix_rate(contest.channels, contest.threads) if contest.channels else 0.0
    reasons = {engine: _reason(engine, contest, work) for engine in contest.engines}
    contestants = {
        engine: Contestant(
            engine, contest.cloud, contest.channels, contest.threads, contest.memory_limit_bytes
        )
        for engine, reason in reasons.items()
        if reason is None
    }
    for _ in range(WARM_UP + repetitions):
        for contestant in contestants.values():
            contestant.play(PATIENCE_S)
    rows = []
    for engine, reason in reasons.items():
        seconds: list[float] = []
        map_s, peak_bytes = None, 0
        if engine in contestants:
            contestant = contestants[engine]
            map_s, peak_bytes = contestant.end()
            reason = contestant.failure
            seconds = contestant.seconds[min(WARM_UP, len(contestant.seconds) - 1) :]
        rows.append(
            Row(
                contest=contest,
                engine=engine,
                voxels=len(work.coordinates),
                pass_s=() if reason else tuple(seconds),
                map_s=map_s,
                peak_bytes=peak_bytes,
                operations=operations,
                matrix_operations_per_s=rate,
                failure=reason,
            )
        )
    return rows


def dense_operations(work: Task) -> float:
    """The floating-point operations of the dense convolution, forward and backward: three products
    of as many operations, of 27 offsets each."""
    return 3 * 2 * 27 * work.channels**2 * float(work.side) ** 3 * work.batch_size


def _pairs(work: Task) -> int:
    """The number of pairs in the kernel map of the task's convolution."""
    tensor = SparseTensor(torch.zeros(len(work.coordinates), 1), work.coordinates)
    return sum(tensor.maps.kernel_map(KERNEL).counts)


def _reason(engine: str, contest: Contest, work: Task) -> str | None:
    """The reason why an engine does not take part, or None."""
    too_long = dense_operations(work) > DENSE_OPERATIONS and contest.memory_limit_bytes is None
    if engine == "dense" and too_long:
        return "a pass would take minutes"
    return unavailable(engine, contest.threads)


def matrix_rate(channels: int, threads: int, rows: int = 8192) -> float:
    """Measure the floating-point operations per second of the matrix product [rows, channels] x
    [channels, channels]."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left, right = torch.randn(rows, channels), torch.randn(channels, channels)
    out = torch.empty(rows, channels)
    seconds = timed(lambda: torch.mm(left, right, out=out), warm_up=5, repetitions=30).median
    torch.set_num_threads(before)
    return 2.0 * rows * channels**2 / seconds


def ratios(rows: Sequence[Row], engine: str, over: str = "native") -> list[float]:
    """How many times longer `engine` took than the engine `over`, round by round; empty if one of
    them has no times. Where they sat out different rounds, it is the one ratio of the medians."""
    times = {row.engine: row.pass_s for row in rows}
    theirs, ours = times.get(engine, ()), times.get(over, ())
    if not theirs or not ours:
        return []
    if len(theirs) == len(ours):
        return [a / b for a, b in zip(theirs, ours, strict=True)]
    return [statistics.median(theirs) / statistics.median(ours)]


def sweep(sides: Sequence[int], channels: Sequence[int], threads: int) -> list[Contest]:
    """Contests of all engines on spheres of several sizes, with several numbers of channels."""
    return [
        Contest(cloud=f"sphere:{side}", channels=width, threads=threads)
        for side in sides
        for width in channels
    ]
