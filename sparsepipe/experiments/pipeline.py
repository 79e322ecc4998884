"""Plans for unequal devices against data parallelism, equal splits and the bound."""

from collections.abc import Callable, Iterator
from pathlib import Path

from sparsepipe.experiments import pipeline_figures as figures, pipeline_grid as grid
from sparsepipe.experiments.pipeline_grid import (
    AGREE,
    BASELINES,
    COMPARED,
    DDP,
    EQUAL_SPLIT,
    FAST,
    MIXED,
    PLAN,
    RATES,
    VIRTUAL,
)
from systems.figures.claims import OWN, Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.runs.record import Tier

OVER_DDP = {10: 1.2, 1: 2.0}
"""The least throughput over DDP, by Gb/s."""
OVER_EQUAL_SPLIT = 1.3
AS_FAST = 0.98
BUSY = 0.9
ABOVE_BOUND = 0.10
BEST_KNOWN_S = {"1 + 1": 1.175, "1 + 3": 0.662, "2 + 2": 0.588, "2 + 6": 0.331, "4 + 4": 0.294}
"""The best of two contiguous stages and data parallelism by speed, from the same profiles."""
COMMUNICATION = 1.02
"""The most that a plan may take over those, as it also sends messages."""

StepTime = Callable[[str, str, float], float | None]
"""The seconds of a step by cluster, planner and link rate, if they are known."""


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw, and judge each tier."""
    drawn = [
        figures.throughput(results, folder),
        figures.bounds(results, folder),
        *figures.gantts(results, folder),
        figures.scaling(results, folder),
    ]
    claims = [*_gains("simulated", grid.simulated_s), *_of_the_bound()]
    if results:
        drawn.append(figures.agreement(results, folder))
        claims += _gains("emulated", lambda *where: grid.emulated_s(results, *where))
        claims += _of_the_emulation(results)
    return Outcome(
        figures=tuple(drawn),
        claims=tuple(claims),
        notes=(grid.points_table(results),),
        comparisons=tuple(grid.comparisons(results)),
    )


def _gains(tier: Tier, step_s: StepTime) -> Iterator[Claim]:
    """Claim what the plan gains over the baselines, wherever the step times of both are known."""
    for cluster in MIXED:
        for rate in RATES:
            for who, least in ((DDP, OVER_DDP[rate]), (EQUAL_SPLIT, OVER_EQUAL_SPLIT)):
                ours, theirs = step_s(cluster, PLAN, rate), step_s(cluster, who, rate)
                if ours is not None and theirs is not None:
                    yield claim(
                        f"sparsepipe.over-{who}.{cluster} {rate}g.{tier}",
                        f"throughput of the plan over {who}, TitanV + TitanXp {cluster}, {rate} "
                        "Gb/s",
                        [theirs / ours],
                        Target(least=least, unit="x"),
                    )
    over_best = []
    for cluster in COMPARED:
        for rate in RATES:
            ours = step_s(cluster, PLAN, rate)
            baselines = [step_s(cluster, who, rate) for who in BASELINES]
            if ours is not None:
                over_best.append(min(s for s in baselines if s is not None) / ours)
    yield claim(
        f"sparsepipe.over-the-best-baseline.grid.{tier}",
        f"throughput of the plan over the best baseline, the least of {len(over_best)} clusters "
        "and rates",
        [min(over_best)],
        Target(least=AS_FAST, source=f"{OWN}: never slower, within 2 %", unit="x"),
    )


def _of_the_bound() -> Iterator[Claim]:
    """Claim, at 10 GB/s, the plan against the best plan made by hand, and virtual stages against
    the bound."""
    for cluster, best_s in BEST_KNOWN_S.items():
        yield claim(
            f"sparsepipe.plan-over-best-known.{cluster}.simulated",
            "predicted step of the plan over the best of two contiguous stages and data "
            f"parallelism by speed, {best_s * 1e3:.0f} ms, TitanV + TitanXp {cluster}, 10 GB/s",
            [grid.predicted_s(cluster, PLAN, FAST) / best_s],
            Target(most=COMMUNICATION, source=f"{OWN}: 2 % for messages", unit="x"),
        )
    for cluster in ("1 + 1", "2 + 2"):
        yield claim(
            f"sparsepipe.virtual-stages-above-bound.{cluster}.simulated",
            f"predicted step with virtual stages above the fractional bound, {cluster}, 10 GB/s",
            [grid.point(cluster, VIRTUAL, FAST).plan.above_bound],
            Target(most=ABOVE_BOUND, unit="fraction"),
        )


def _of_the_emulation(results: Results) -> Iterator[Claim]:
    """Claim how well emulated steps agree with their predictions."""
    points = grid.ran(results)
    ratios = {
        where: (grid.emulated_s(results, *where) or 0.0) / grid.predicted_s(*where)
        for where in points
    }
    within = [abs(ratio - 1) <= AGREE for ratio in ratios.values()]
    yield claim(
        "sparsepipe.emulated-agrees-with-predicted.grid.emulated",
        f"part of {len(points)} plans whose emulated step is within 10 % of the predicted one",
        [sum(within) / len(within)],
        Target(least=0.9, unit="fraction"),
    )
    yield claim(
        "sparsepipe.utilisation-of-slowest-stage.grid.emulated",
        "part of the steady state in which the device with the most work computes, the least of "
        "all plans",
        [min(_busiest(results, *where) for where in points if where[1] in (PLAN, VIRTUAL))],
        Target(least=BUSY, unit="fraction"),
    )
    for cluster, who, rate in points:
        if rate == FAST:
            yield from _at_ten_gigabytes(cluster, who, ratios[cluster, who, rate])


def _at_ten_gigabytes(cluster: str, who: str, over_predicted: float) -> Iterator[Claim]:
    """An emulated step against its prediction and, for virtual stages, against the bound."""
    plan = grid.point(cluster, who, FAST).plan
    above = over_predicted * plan.prediction.step_s / plan.bound_s - 1
    yield claim(
        f"sparsepipe.emulated-over-predicted.{who} {cluster}.emulated",
        f"emulated step of the {who} over its prediction, {cluster}, 10 GB/s; {above:.1%} above "
        "the fractional bound",
        [over_predicted],
        Target(least=1 - AGREE, most=1 + AGREE, source=f"{OWN}: within 10 %", unit="x"),
    )
    if who == VIRTUAL:
        yield claim(
            f"sparsepipe.virtual-stages-above-bound.{cluster}.emulated",
            f"emulated step with virtual stages above the fractional bound, {cluster}, 10 GB/s",
            [above],
            Target(most=ABOVE_BOUND, unit="fraction"),
        )


def _busiest(results: Results, cluster: str, who: str, rate: float) -> float:
    """The utilisation of the device with the most work."""
    run = grid.run_of(results, cluster, who, rate)
    assert run is not None  # it is one of those that ran
    work = run["predicted_compute_s"]
    return float(run["utilisation"][work.index(max(work))])
