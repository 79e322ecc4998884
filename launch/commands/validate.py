"""`testbed validate`: predictions against training jobs that other people measured.

    python -m launch validate                                       # the set in $TESTBED_DATA
    python -m launch validate --plans my-plans --out validation     # plans in Sailor's format

Every plan's iteration, gradient reduction and peak memory are predicted from profiles and network
rates, in closed form and in the simulator, and printed beside what was measured.
"""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.records import RUNS
from systems import schema
from systems.flags import parse_flags
from systems.runs import record
from systems.schema import InputError
from systems.validation import memory, sailor, times
from systems.validation.errors import (
    CrossValidation,
    Quantity,
    Row,
    Summary,
    compare,
    cross_validate,
    summaries,
)
from systems.validation.job import LeftOut


@dataclass(frozen=True, kw_only=True)
class ValidateArguments:
    """Compare predictions with jobs that others measured."""

    plans: str | None = None
    """A folder of plans with measurements, in Sailor's format. None: $TESTBED_DATA/sailor/plans."""
    profiles: str | None = None
    """The folder of the profiles. None: the one beside the plans, or in $TESTBED_DATA/sailor."""
    network: str | None = None
    """The network rates, a file or its folder. None: as for the profiles."""
    out: str | None = None
    """A new folder for the figure and validation.json. None: one in runs."""


def main(arguments: Sequence[str]) -> None:
    """Predict all plans, print the tables, draw, write the JSON."""
    flags = parse_flags(ValidateArguments, arguments, "testbed validate", ValidateArguments())
    folders = sailor.find_folders(
        _plans(flags.plans),
        None if flags.profiles is None else Path(flags.profiles),
        None if flags.network is None else Path(flags.network),
    )
    measured, left_out = sailor.read_jobs(folders)
    out = Path(flags.out or RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-validate")
    record.claim_folder(out)
    rows = [compare(job) for job in measured]
    checks = cross_validate(measured)
    kinds = summaries(rows)
    print(f"validate | tier simulated against published | {folders.plans} | {sailor.SOURCE}")
    print("\n".join([*_plan_lines(rows), "", *_kind_lines(kinds), "", *_check_lines(checks)]))
    if left_out:
        print("\n".join(["", "left out", *(f"  {one.name}: {one.why}" for one in left_out)]))
    record.write_json(out / "validation.json", _as_json(rows, kinds, checks, left_out))
    if rows:
        from systems.validation.figures import draw_rows  # takes a second to import

        figure = draw_rows(rows, out, sailor.SOURCE)
        print(f"\nfigure: {figure.path}, .pdf and .csv")
    print(f"every plan: {out / 'validation.json'}")


def _plans(folder: str | None) -> Path:
    """The folder of plans."""
    if folder is not None:
        return Path(folder)
    data = os.environ.get("TESTBED_DATA")
    if data is None:
        raise InputError(
            "--plans (none): TESTBED_DATA is not set; set it to a folder with sailor/plans, or "
            "name a folder of plans"
        )
    return Path(data) / "sailor" / "plans"


def _plan_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table of all plans."""
    width = max([len(row.plan) for row in rows], default=4)
    yield (
        f"{'plan':{width}} {'formula s':>10}{'simulator':>10}{'measured':>10}{'error':>8}"
        f"{'reduction':>11}{'measured':>9}{'error':>8}{'memory GB':>11}{'measured':>9}{'error':>8}"
    )
    for row in rows:
        yield (
            f"{row.plan:{width}} {_number(row.formula.predicted):>10}"
            f"{_beside(row.simulator, 10)}"
            f" {_beside(row.reduction, 10, 9)} {_beside(_in_giga(row.memory), 10, 9)}"
        )
        for note in row.notes:
            yield f"{'':{width}} {note}"


def _beside(quantity: Quantity, *widths: int) -> str:
    """Format a prediction beside the measurement and the error, as cells of a table."""
    first, second = widths[0], widths[-1]
    return (
        f"{_number(quantity.predicted):>{first}}{_number(quantity.measured):>{second}}"
        f"{_signed(quantity.error):>8}"
    )


def _in_giga(quantity: Quantity) -> Quantity:
    """Convert a quantity from bytes to gigabytes."""
    predicted, measured = quantity.predicted, quantity.measured
    return Quantity(
        predicted=None if predicted is None else predicted / 1e9,
        measured=None if measured is None else measured / 1e9,
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.1%}"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _kind_lines(kinds: Sequence[Summary]) -> Iterator[str]:
    """The table of errors by kind of plan."""
    width = max(len(one.kind) for one in kinds)
    yield (
        f"{'median error':{width}}{'plans':>7}{'formula':>10}{'simulator':>11}{'reduction':>11}"
        f"{'memory':>9}   memory within 10 %"
    )
    for one in kinds:
        yield (
            f"{one.kind:{width}}{one.plans:>7}{_share(one.formula):>10}{_share(one.simulator):>11}"
            f"{_share(one.reduction):>11}{_share(one.memory):>9}   {_share(one.memory_within)}"
        )


def _check_lines(checks: Sequence[CrossValidation]) -> Iterator[str]:
    """The table of the properties that were fitted."""
    yield "properties that no profile shows; each plan was left out of the fit once"
    yield (
        f"{'property':18}{'used':>10}{'fitted from':>13}{'to':>10}   {'fitted to':11}{'plans':>6}"
        f"{'error':>8}{'left out':>10}"
    )
    for one in checks:
        yield (
            f"{one.property:18}{one.used:>10.3g}{one.least:>13.3g}{one.largest:>10.3g}   "
            f"{one.quantity:11}{one.plans:>6}{one.error:>8.1%}{one.error_left_out:>10.1%}"
        )
    yield f"{'eager_bytes':18}{times.PROPERTIES.eager_bytes:>10}  not fitted: NCCL's buffer"


def _as_json(
    rows: Sequence[Row],
    kinds: Sequence[Summary],
    checks: Sequence[CrossValidation],
    left_out: Sequence[LeftOut],
) -> dict[str, Any]:
    """Put all results into plain data; errors are fractions, predicted over measured minus 1."""
    return {
        "tier": "simulated",
        "measured_by": sailor.SOURCE,
        "plans": [_row_as_json(row) for row in rows],
        "kinds": [schema.dump(one) for one in kinds],
        "left_out": [schema.dump(one) for one in left_out],
        "properties": {
            "times": schema.dump(times.PROPERTIES),
            "memory": schema.dump(memory.PROPERTIES),
            "cross_validation": [schema.dump(one) for one in checks],
        },
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    """A plan's predictions beside its measurements: the simulator's on top, then all of them."""
    quantities = {
        name: {**dataclasses.asdict(quantity), "error": quantity.error}
        for name, quantity in (
            ("formula_s", row.formula),
            ("simulator_s", row.simulator),
            ("reduction_s", row.reduction),
            ("memory_bytes", row.memory),
        )
    }
    return {
        "plan": row.plan,
        "kind": row.kind,
        "predicted_s": row.simulator.predicted,
        "measured_s": row.simulator.measured,
        "error": row.simulator.error,
        **quantities,
        "notes": list(row.notes),
    }
