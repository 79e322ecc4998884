"""Pipelined jobs that other people measured, predicted as our own pipelines are: by simulation.

The data are not part of this repository: without $TESTBED_DATA/sailor nothing is drawn or claimed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.figures.text import table
from systems.validation import sailor
from systems.validation.errors import WITHIN, Row, compare, cross_validate
from systems.validation.figures import draw_rows
from systems.validation.job import MIXED

CASES: dict[str, tuple[float, Callable[[Row], bool]]] = {
    "micro-batch 2+": (5.0, lambda row: row.kind.endswith("2+")),
    "one kind of GPU": (10.0, lambda row: row.kind != MIXED),
    "mixed GPUs": (15.0, lambda row: row.kind == MIXED),
}
"""The largest median error that is wanted, in per cent, and the plans it is of."""


def conclude(results: Results, folder: Path) -> Outcome:
    """Predict the plans that are there, draw and judge."""
    del results  # nothing was run
    plans = Path(os.environ.get("TESTBED_DATA", "")) / "sailor" / "plans"
    if not plans.is_dir():
        note = "No measured jobs here: $TESTBED_DATA/sailor/plans is not there. Nothing is claimed."
        return Outcome(figures=(), claims=(), notes=(note,))
    jobs, left_out = sailor.read_jobs(sailor.find_folders(plans, None, None))
    rows = [compare(job) for job in jobs]
    checked = table(
        ("property", "used", "fitted between", "median error", "of plans left out"),
        [
            (
                one.property,
                f"{one.used:.3g}",
                f"{one.least:.3g} and {one.largest:.3g}",
                f"{one.error:.1%}",
                f"{one.error_left_out:.1%}",
            )
            for one in cross_validate(jobs)
        ],
        above="Properties that no profile shows, fitted with each plan left out once:",
    )
    return Outcome(
        figures=(draw_rows(rows, folder, sailor.SOURCE, name="published-pipelines"),),
        claims=tuple(_claims(rows)),
        notes=(checked, *(f"Left out: {one.name}: {one.why}." for one in left_out)),
    )


def _claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """The errors of iterations by kind of plan, and the memory of all plans."""
    for case, (most, belongs) in CASES.items():
        errors = [abs(e) * 100 for r in rows if belongs(r) and (e := r.simulator.error) is not None]
        if errors:
            yield claim(
                f"sparsepipe.error-of-iteration.{case}.simulated",
                f"error of simulated iterations against measured ones, {case}",
                errors,
                Target(most=most, unit="%"),
            )
    near = [abs(e) <= WITHIN for r in rows if (e := r.memory.error) is not None]
    if near:
        yield claim(
            "sparsepipe.memory-within-10-percent.all plans.simulated",
            "plans whose peak memory is predicted within 10 %",
            [100 * sum(near) / len(near)],
            Target(least=80.0, unit="%"),
        )
