"""Time of the verification region, ours against transformers', over V and gamma; one thread."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from speculative import bench
from speculative.bench import Case
from speculative.experiments import verification_figures as figures
from speculative.experiments.timed import COPY, Timed, read
from systems import schema
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results, measure_once

THREADS = 1
VOCABULARIES = {"quick": (32_000, 51_865, 128_256), "full": (32_000, 51_865, 128_256, 256_000)}
GAMMAS = {"quick": (1, 4, 8), "full": (1, 4, 8, 16)}
REPETITIONS = {"quick": 15, "full": 31}

LEAST_FASTER: Mapping[tuple[str, int, int], float] = {
    ("exact", 32_000, 4): 2.0,
    ("exact", 128_256, 8): 3.0,
    ("sigmoid", 128_256, 1): 20.0,
    ("sigmoid", 128_256, 4): 20.0,
    ("sigmoid", 128_256, 8): 20.0,
}
"""How many times faster than transformers' function, by method, V and gamma."""
METHODS = ("exact", "sigmoid", "calibrated")
SOURCE = "arXiv 2406.11016"


def cases(level: str) -> Iterable[Case]:
    """What is timed at a level."""
    return bench.cases(VOCABULARIES[level], GAMMAS[level], (1,), ("float32",), "cpu", THREADS)


def measure(level: str, folder: Path) -> Results:
    """Time every case; one that an earlier, interrupted run has written stays."""
    parts = {
        f"v-{case.vocabulary}-gamma-{case.gamma}": partial(_rows, case, REPETITIONS[level])
        for case in cases(level)
    }
    return measure_once(folder, {COPY: _copy, **parts})


def _copy() -> list[dict[str, float]]:
    """The bandwidth of a copy on this machine."""
    return [{"bytes_per_s": bench.copy_bandwidth("cpu", THREADS)}]


def _rows(case: Case, repetitions: int) -> Any:
    """The times of every method on one case."""
    return schema.dump(bench.measure(case, repetitions))


def conclude(results: Results, folder: Path) -> Outcome:
    """Figures (a) and (b), the table and the claims."""
    timed = read(results)
    return Outcome(
        figures=(figures.improvement(timed, folder), figures.bandwidth(timed, folder)),
        claims=tuple(_claims(timed)),
        notes=(figures.summary(timed),),
    )


def _claims(timed: Timed) -> Iterator[Claim]:
    """What is claimed of single points, of the slowest point and of the whole grid."""
    for (method, vocabulary, gamma), least in LEAST_FASTER.items():
        yield claim(
            f"speculative.{method}-over-transformers.v-{vocabulary}-gamma-{gamma}.measured",
            f"time of transformers' function over {method}'s, V = {vocabulary:,}, gamma {gamma}",
            [timed.speedup(method, vocabulary, gamma)],
            Target(least=least, unit="x"),
        )
    for method in METHODS:
        yield claim(
            f"speculative.{method}-over-transformers.slowest-point.measured",
            f"the same of {method} at the point of the grid where it gains least: no regression",
            [min(timed.speedup(method, *point) for point in timed.grid())],
            Target(least=1.0, unit="x"),
        )
    yield claim(
        "speculative.calibrated-over-exact.v-128256-gamma-8.measured",
        "exact's time over the calibrated method's, V = 128,256, gamma 8",
        [timed.speedup("calibrated", 128_256, 8, over="exact")],
        Target(least=1.0, unit="x"),
    )
    for method, (low, high) in figures.PAPER.items():
        yield claim(
            f"speculative.{method}-less-time.grid.measured",
            f"time that {method} saves of transformers' function, median over V and gamma",
            [1e2 * (1 - 1 / timed.speedup(method, *point)) for point in timed.grid()],
            Target(least=low, source=f"{SOURCE}, least of its range", unit="%"),
            paper=f"{low} to {high} % (GPU, profiling time)",
        )
