"""Time of the verification region, ours against transformers', over V and gamma; one thread."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from speculative import bench
from speculative.bench import Case
from speculative.experiments import verification_figures as figures
from speculative.experiments.timed import COPY, Timed, read
from systems import schema
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.runs import record

THREADS = 1
VOCABULARIES = {
    "quick": (32_000, 51_865, 128_256),
    "full": (32_000, 51_865, 128_256, 256_000),
}
GAMMAS = {"quick": (1, 4, 8), "full": (1, 4, 8, 16)}
REPETITIONS = {"quick": 15, "full": 31}

OWN = "this project's target"
LEAST_FASTER: Mapping[tuple[str, int, int], float] = {
    ("exact", 32_000, 4): 2.0,
    ("exact", 128_256, 8): 3.0,
    ("sigmoid", 128_256, 1): 20.0,
    ("sigmoid", 128_256, 4): 20.0,
    ("sigmoid", 128_256, 8): 20.0,
}
"""Times faster than transformers' function, by method, V and gamma."""
METHODS = ("exact", "sigmoid", "calibrated")
SOURCE = "arXiv 2406.11016"


def cases(level: str) -> Iterable[Case]:
    """What is timed at a level."""
    return bench.cases(VOCABULARIES[level], GAMMAS[level], (1,), ("float32",), "cpu", THREADS)


def measure(level: str, folder: Path) -> Results:
    """Time every case; one that an earlier, interrupted run has written stays."""
    results = {COPY: record.once(folder / f"{COPY}.json", _copy)}
    for case in cases(level):
        name = f"v-{case.vocabulary}-gamma-{case.gamma}"
        find = partial(_rows, case, REPETITIONS[level])
        results[name] = record.once(folder / f"{name}.json", find, told=name)
    return results


def _copy() -> list[dict[str, float]]:
    return [{"bytes_per_s": bench.copy_bandwidth("cpu", THREADS)}]


def _rows(case: Case, repetitions: int) -> Any:
    return schema.dump(bench.measure(case, repetitions))


def conclude(results: Results, folder: Path) -> Outcome:
    """Figures (a) and (b), the table and the claims."""
    timed = read(results)
    return Outcome(
        figures=(figures.improvement(timed, folder), figures.bandwidth(timed, folder)),
        claims=tuple(_claims(timed)),
        notes=(figures.table(timed),),
    )


def _claims(timed: Timed) -> Iterable[Claim]:
    for (method, vocabulary, gamma), least in LEAST_FASTER.items():
        yield _claim(
            f"{method}-over-transformers",
            f"v-{vocabulary}-gamma-{gamma}",
            f"time of transformers' function over {method}'s, V = {vocabulary:,}, gamma {gamma}",
            [timed.speedup(method, vocabulary, gamma)],
            Target(least=least, source=OWN),
        )
    for method in METHODS:
        yield _claim(
            f"{method}-over-transformers",
            "slowest-point",
            f"the same of {method} at the point of the grid where it gains least: no regression",
            [min(timed.speedup(method, *point) for point in timed.grid())],
            Target(least=1.0, source=OWN),
        )
    yield _claim(
        "calibrated-over-exact",
        "v-128256-gamma-8",
        "exact's time over the calibrated method's, V = 128,256, gamma 8",
        [timed.speedup("calibrated", 128_256, 8, over="exact")],
        Target(least=1.0, source=OWN),
    )
    for method, (low, high) in figures.PAPER.items():
        gains = [1e2 * (1 - 1 / timed.speedup(method, *point)) for point in timed.grid()]
        yield claim(
            *("speculative", f"{method}-less-time", "grid", "measured"),
            what=f"time that {method} saves of transformers' function, median over V and gamma",
            paper=f"{low} to {high} % (GPU, profiling time)",
            values=gains,
            unit="%",
            target=Target(least=low, source=f"{SOURCE}, least of its range"),
        )


def _claim(quantity: str, case: str, what: str, values: Sequence[float], target: Target) -> Claim:
    return claim(
        *("speculative", quantity, case, "measured"),
        what=what,
        values=values,
        unit="x",
        target=target,
    )
