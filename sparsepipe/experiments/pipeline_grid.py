"""The grid of plans: clusters of TitanV and TitanXp, link rates, and who plans.

Every point is known three times: predicted by the planner, played by the simulator, and, where it
was run, emulated: the runtime over shaped links, around layers that wait.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal

from sparsepipe.options import Options
from sparsepipe.train.planned import ProfiledPlan, plan_pipeline
from systems.clusters.cluster import load
from systems.figures.experiment import Case, Comparison, Results

CLUSTER = "titan-8"
BATCH_SIZE = 128
STEADY = 6
"""Emulated mini-batches of the steady state."""
CLUSTERS = {
    "1 + 1": "TitanV=1,TitanXp=1",
    "2 + 2": "TitanV=2,TitanXp=2",
    "1 + 3": "TitanV=1,TitanXp=3",
    "4 + 4": "TitanV=4,TitanXp=4",
    "2 + 6": "TitanV=2,TitanXp=6",
    "4 + 0": "TitanV=4",
}
"""Numbers of TitanV + TitanXp."""
COMPARED = ("1 + 1", "2 + 2", "1 + 3", "4 + 4", "4 + 0")
"""On these the plan is held against its baselines."""
MIXED = ("1 + 1", "2 + 2", "4 + 4")
"""Those that speed-ups are claimed on."""
RATES = (10, 1)
"""Gb/s."""
FAST = 80
"""Gb/s: the 10 GB/s that the authors plan with."""
PLAN, VIRTUAL = "plan", "virtual stages"
DDP, EQUAL_SPLIT, HOMOGENEOUS = "DDP", "equal split", "homogeneous planner"
GPIPE, BY_SPEED = "GPipe, equal split", "data parallel by speed"
WHO: dict[str, dict[str, Any]] = {
    PLAN: {},
    # Asynchronous data parallelism would not be DDP, which waits for all gradients.
    DDP: {"planner": "data parallel, equal shares", "schedule": "1f1b", "micro_batches": 1},
    EQUAL_SPLIT: {"planner": "equal split by layers"},
    HOMOGENEOUS: {"planner": "homogeneous planner"},
    GPIPE: {"planner": "equal split by layers", "schedule": "gpipe"},
    BY_SPEED: {"planner": "data parallel, shares by speed"},
    VIRTUAL: {"virtual_stages": 4},
}
BASELINES = (DDP, EQUAL_SPLIT, HOMOGENEOUS, GPIPE, BY_SPEED)
EMULATED = (PLAN, *BASELINES)


def options(cluster: str, who: str, rate: float) -> Options:
    """A point of the grid; `cluster` is one of `CLUSTERS` or numbers of devices as they have."""
    return Options(
        scheme="pipeline",
        batch_size=BATCH_SIZE,
        steps=STEADY,
        devices=CLUSTERS.get(cluster, cluster),
        bandwidth_bits_per_s=rate * 1e9,
        **WHO[who],
    )


@functools.cache
def point(cluster: str, who: str, rate: float) -> ProfiledPlan:
    """Its plan."""
    return plan_pipeline(options(cluster, who, rate), load(CLUSTER))


def case_name(cluster: str, who: str, rate: float) -> str:
    """The name of an emulated point."""
    return f"{cluster.replace(' ', '')} {who} {rate:g}g"


def devices(cluster: str) -> int:
    """How many."""
    named = CLUSTERS.get(cluster, cluster)
    return sum(int(word.partition("=")[2]) for word in named.split(","))


def _level(cluster: str, who: str, rate: float) -> Literal["quick", "full"]:
    """Quick is what speed-ups are claimed of; eight ranks take longest."""
    small = cluster in ("1 + 1", "2 + 2") and who in (PLAN, DDP, EQUAL_SPLIT)
    large = cluster == "4 + 4" and rate == RATES[0] and who in (PLAN, DDP)
    return "quick" if small or large else "full"


EMULATED_POINTS: dict[tuple[str, str, float], Literal["quick", "full"]] = {
    **{(c, who, r): _level(c, who, r) for c in COMPARED for r in RATES for who in EMULATED},
    **{(c, who, FAST): "quick" for c in ("1 + 1", "2 + 2") for who in (PLAN, VIRTUAL)},
    **{(c, PLAN, FAST): "full" for c in ("1 + 3", "2 + 6", "4 + 4")},
}
"""With the least level at which they are run."""
DRAWN: tuple[tuple[str, str, float], ...] = (("2 + 2", PLAN, 10), ("1 + 1", VIRTUAL, FAST))
"""Those whose steps are drawn."""
CASES = tuple(
    Case(
        name=case_name(*where),
        options=options(*where),
        nodes=devices(where[0]),
        level=level,
        trace=where in DRAWN,
    )
    for where, level in EMULATED_POINTS.items()
)


def predicted_s(cluster: str, who: str, rate: float) -> float:
    """Seconds of a step, by the planner."""
    return point(cluster, who, rate).plan.prediction.step_s


def simulated_s(cluster: str, who: str, rate: float) -> float:
    """Likewise, by the simulator."""
    return point(cluster, who, rate).played.step_s


def run_of(results: Results, cluster: str, who: str, rate: float) -> Mapping[str, Any] | None:
    """The emulated run, if there is one."""
    runs = results.get(case_name(cluster, who, rate))
    return runs[0] if runs else None


def emulated_s(results: Results, cluster: str, who: str, rate: float) -> float | None:
    """Likewise, in the emulated steady state."""
    run = run_of(results, cluster, who, rate)
    return None if run is None else float(run["mean_step_s"])


def ran(results: Results) -> list[tuple[str, str, float]]:
    """The points that were emulated."""
    return [where for where in EMULATED_POINTS if run_of(results, *where) is not None]


def comparisons(results: Results) -> list[Comparison]:
    """Predicted and emulated step time of those points."""
    return [
        Comparison(
            what=f"TitanV + TitanXp {cluster}, {rate:g} Gb/s, {who}: step time",
            predicted=predicted_s(cluster, who, rate) * 1e3,
            predicted_by="planner",
            found=(emulated_s(results, cluster, who, rate) or 0.0) * 1e3,
            unit="ms",
            tier="emulated",
            n=1,
        )
        for cluster, who, rate in ran(results)
    ]


def table(results: Results) -> str:
    """All points, with their schedules."""
    lines = [
        "Milliseconds a step of 128 samples; `off` marks more than 10 % between predicted and "
        "emulated:",
        "",
        "| V + Xp | Gb/s | who plans | stages' replicas | in flight | predicted | simulated "
        "| emulated | above the bound |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    grid: list[tuple[str, str, float]] = [
        (c, who, r) for c in COMPARED for r in RATES for who in (PLAN, *BASELINES)
    ]
    grid += [where for where in EMULATED_POINTS if where not in grid]
    for cluster, who, rate in grid:
        planned = point(cluster, who, rate)
        plan = planned.plan
        emulated = emulated_s(results, cluster, who, rate)
        ratio = None if emulated is None else emulated / plan.prediction.step_s
        told = "" if emulated is None else f"{emulated * 1e3:.0f}"
        mark = " **off**" if ratio is not None and abs(ratio - 1) > 0.1 else ""
        order = planned.order
        flight = f"{plan.schedule.micro_batches} micro" if order is None else str(order.in_flight)
        lines.append(
            f"| {cluster} | {rate:g} | {who} | {[len(stage) for stage in planned.stages]} "
            f"| {flight} | {plan.prediction.step_s * 1e3:.0f} | {planned.played.step_s * 1e3:.0f} "
            f"| {told}{mark} | {plan.above_bound:.1%} |"
        )
    return "\n".join(lines)
