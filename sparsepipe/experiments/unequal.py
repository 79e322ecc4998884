"""Unequal devices for real: a narrow MinkVGG16-BN trains on clusters in this machine.

Each rank is a process behind a link of its own, held to its share of a core (tier `shaped`). The
plan is made from layers that are timed there, and is compared with what one does without a planner:
stages of equally many layers, as they are and with GPipe's schedule, DDP, and data parallelism
with shares by speed. At level full there are three clusters, two rates and three seeds, and on one
cluster all train until the loss is low; level quick runs none of it.

`unequal_grid` says what is run, and `unequal_figures` draws what is found.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from sparsepipe.experiments import unequal_figures as figures
from sparsepipe.experiments.pipeline_grid import EQUAL_SPLIT, PLAN
from sparsepipe.experiments.unequal_grid import LOSS, SCHEMES, Point, Trained
from systems.figures.claims import OWN, Claim, Target, claim
from systems.figures.experiment import Comparison, Outcome, Results, compare_step_times
from systems.figures.shaped import AGREE, left_out, predictions
from systems.network.namespaces import unavailable

OVER_EQUAL_SPLIT = 1.3
"""The least throughput over stages of equally many layers, where shares are 3:1."""


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw the throughputs, and judge what the plan gains and how well it was predicted."""
    if not results:
        return left_out(unavailable() or "all its runs are of level full")
    trained = Trained(results)
    return Outcome(
        figures=(figures.drawn(trained, folder),),
        claims=tuple(_claims(trained)),
        notes=figures.notes(trained),
        comparisons=tuple(_comparisons(trained)),
    )


def _claims(trained: Trained) -> Iterator[Claim]:
    """Make all claims."""
    for row in trained.rows.values():
        for scheme in SCHEMES[1:]:
            if PLAN in row and scheme in row:
                yield from _gains(row[PLAN], row[scheme])
        if PLAN in row:
            yield _of_the_plan(row[PLAN])
    points = trained.points
    yield predictions(
        "sparsepipe.predicted-agrees-with-measured.grid.shaped",
        "points (cluster x rate x scheme)",
        [median(point.steps_s) / point.predicted_s for point in points],
    )


def _gains(ours: Point, theirs: Point) -> Iterator[Claim]:
    """Claim what the plan gains over a baseline: in samples per second, and in time to a loss."""
    three_to_one = theirs.scheme == EQUAL_SPLIT and ours.box.startswith("3:1")
    least = OVER_EQUAL_SPLIT if three_to_one else 1.0
    yield claim(
        f"sparsepipe.over-{theirs.scheme}.{ours.place}.shaped",
        f"throughput of the plan over {theirs.scheme}, {ours.where}",
        _ratios(theirs.steps_s, ours.steps_s),
        Target(least=least, unit="x"),
    )
    sooner = _ratios(theirs.seconds_to_loss(), ours.seconds_to_loss())
    if sooner:
        yield claim(
            f"sparsepipe.sooner-than-{theirs.scheme}.{ours.place}.shaped",
            f"how many times sooner the plan reaches a loss of {LOSS:g} than {theirs.scheme}, "
            f"{ours.where}",
            sooner,
            Target(least=1.0, unit="x"),
        )


def _ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Divide one by the other, seed by seed; there is nothing where one of them is missing."""
    return [a / b for a, b in zip(slow, fast, strict=False)]


def _of_the_plan(plan: Point) -> Claim:
    """Claim how well the plan's step time was predicted."""
    return claim(
        f"sparsepipe.measured-over-predicted.{plan.place}.shaped",
        f"measured step of the plan over its prediction, {plan.where}",
        [step_s / plan.predicted_s for step_s in plan.steps_s],
        Target(least=1 - AGREE, most=1 + AGREE, source=f"{OWN}: within {AGREE:.0%}", unit="x"),
    )


def _comparisons(trained: Trained) -> Iterator[Comparison]:
    """The step time of every point, predicted and found."""
    for point in trained.points:
        yield compare_step_times(
            f"{point.place}, {point.scheme}",
            point.predicted_s,
            point.steps_s,
            predicted_by="planner",
            tier="shaped",
        )
