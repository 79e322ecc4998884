"""Predicted beside measured, for every plan, by kind of plan, and cross-validated.

An error is predicted over measured, minus 1: -0.05 is a prediction 5 % too low.

[Note: cross-validation]
A property that no profile shows, such as how long the host keeps a GPU waiting, is fitted to the
plans of a set. A fit can follow its own plans closely and others badly. So each plan is left out
once: the property is fitted to the others, with the value that makes their mean error least, and
the plan is predicted with that value. If the errors found so are as small as those with the value
that the testbed uses, it was not fitted to single plans. Errors count up to a limit, so that no
plan that nothing explains chooses the value.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

from systems.validation import formula, memory, played, times
from systems.validation.job import MIXED, MeasuredJob

COUNTED = 0.2
"""The largest error that counts in a fit; see [Note: cross-validation]."""
WITHIN = 0.1
"""How near memory should be predicted."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something predicted and measured. None: it was not predicted, or not measured."""

    predicted: float | None
    measured: float | None

    @property
    def error(self) -> float | None:
        """The relative error: predicted over measured, minus 1."""
        if self.predicted is None or self.measured is None:
            return None
        return self.predicted / self.measured - 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """A plan, predicted beside measured."""

    plan: str
    kind: str
    formula: Quantity
    """Seconds of an iteration in closed form."""
    simulator: Quantity
    """The same, played in the simulator."""
    reduction: Quantity
    """Seconds of the first stage's gradient reduction, in the simulator."""
    memory: Quantity
    """Bytes of the fullest GPU."""
    notes: tuple[str, ...]


def compare(job: MeasuredJob) -> Row:
    """Predict a plan both ways."""
    stages, measured = times.stage_times(job), job.measured
    closed = formula.predict(stages, job.micro_batches)
    simulated = played.predict(stages, job.micro_batches)
    return Row(
        plan=job.name,
        kind=job.kind,
        formula=Quantity(predicted=closed.seconds, measured=measured.iteration_s),
        simulator=Quantity(predicted=simulated.seconds, measured=measured.iteration_s),
        reduction=Quantity(predicted=simulated.reduction_s, measured=measured.reduction_s),
        memory=Quantity(predicted=memory.predict(job), measured=measured.memory_bytes),
        notes=job.notes,
    )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Errors without their signs, over plans of a kind. None: no plan gives the quantity."""

    kind: str
    plans: int
    formula: float | None
    """The median error of the iteration's seconds in closed form."""
    simulator: float | None
    """The same in the simulator."""
    reduction: float | None
    """The median error of the reduction's seconds."""
    memory: float | None
    """The median error of the memory."""
    memory_within: float | None
    """The share of plans whose memory is predicted within 10 %."""


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """The errors of every kind of plan, of those on one kind of GPU, and of all plans."""
    chosen = {kind: [row for row in rows if row.kind == kind] for kind in {r.kind for r in rows}}
    alike = [row for row in rows if row.kind != MIXED]
    parts = [*sorted(chosen.items()), ("one kind of GPU", alike), ("all plans", list(rows))]
    return [_summary(kind, those) for kind, those in parts]


def _summary(kind: str, rows: Sequence[Row]) -> Summary:
    """The errors of some plans."""
    bytes_errors = _sizes(row.memory.error for row in rows)
    return Summary(
        kind=kind,
        plans=len(rows),
        formula=_median(_sizes(row.formula.error for row in rows)),
        simulator=_median(_sizes(row.simulator.error for row in rows)),
        reduction=_median(_sizes(row.reduction.error for row in rows)),
        memory=_median(bytes_errors),
        memory_within=mean(e <= WITHIN for e in bytes_errors) if bytes_errors else None,
    )


def _sizes(errors: Iterator[float | None]) -> list[float]:
    """The errors that there are, without their signs."""
    return [abs(error) for error in errors if error is not None]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """What leaving out each plan once says about a property; see [Note: cross-validation]."""

    property: str
    used: float
    """The value that the testbed uses."""
    least: float
    """The smallest of the values that were fitted with a plan left out."""
    largest: float
    plans: int
    quantity: str
    """What it was fitted to."""
    error: float
    """The median error of these plans with the value used."""
    error_left_out: float
    """The median error of each with the value fitted to the others."""


def cross_validate(jobs: Sequence[MeasuredJob]) -> list[CrossValidation]:
    """Cross-validate every property that was fitted. Without two plans that tell, leave it out."""

    def iteration(job: MeasuredJob, value: float) -> Quantity:
        stages = times.stage_times(job, replace(times.PROPERTIES, host_s=value))
        predicted = formula.predict(stages, job.micro_batches).seconds
        return Quantity(predicted=predicted, measured=job.measured.iteration_s)

    def reduction(job: MeasuredJob, value: float) -> Quantity:
        stages = times.stage_times(job, replace(times.PROPERTIES, ring_bytes_per_s=value))
        predicted = formula.predict(stages, job.micro_batches).reduction_s
        replicated = len(job.stages[0].replicas) > 1  # else nothing passes through a ring
        measured = job.measured.reduction_s if replicated else None
        return Quantity(predicted=predicted, measured=measured)

    def context(job: MeasuredJob, value: float) -> Quantity:
        properties = replace(memory.PROPERTIES, context_bytes=value)
        predicted = memory.predict(job, properties)
        return Quantity(predicted=predicted, measured=job.measured.memory_bytes)

    def cached(job: MeasuredJob, value: float) -> Quantity:
        properties = replace(memory.PROPERTIES, cached_share=value)
        predicted = memory.predict(job, properties)
        return Quantity(predicted=predicted, measured=job.measured.memory_bytes)

    used = times.PROPERTIES
    memory_properties = memory.PROPERTIES
    validations = [
        _left_out("host_s", used.host_s, "iteration", iteration, jobs),
        _left_out("ring_bytes_per_s", used.ring_bytes_per_s, "reduction", reduction, jobs),
        _left_out("context_bytes", memory_properties.context_bytes, "memory", context, jobs),
        _left_out("cached_share", memory_properties.cached_share, "memory", cached, jobs),
    ]
    return [one for one in validations if one is not None]


def _left_out(
    name: str,
    used: float,
    quantity: str,
    predict: Callable[[MeasuredJob, float], Quantity],
    jobs: Sequence[MeasuredJob],
) -> CrossValidation | None:
    """Fit a property to all plans but one, and predict that one with it; every plan in turn."""
    values = [used * step / 10 for step in range(0 if used < 1 else 2, 31)]
    # The error of every plan with every value; plans that do not tell are left out.
    errors = [
        {value: abs(error) for value in values if (error := predict(job, value).error) is not None}
        for job in jobs
    ]
    errors = [each for each in errors if each]
    if len(errors) < 2:
        return None
    # For each plan the value with which all others are predicted best.
    fitted = [
        min(values, key=lambda value: mean(min(o[value], COUNTED) for o in errors if o is not own))
        for own in errors
    ]
    return CrossValidation(
        property=name,
        used=used,
        least=min(fitted),
        largest=max(fitted),
        plans=len(errors),
        quantity=quantity,
        error=median(each[used] for each in errors),
        error_left_out=median(each[value] for each, value in zip(errors, fitted, strict=True)),
    )
