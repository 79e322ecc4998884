"""The grid of plans: clusters of TitanV and TitanXp, link rates, and who plans.

Every point is known three times: predicted by the planner, played by the simulator, and, where it
was run, emulated: the runtime over shaped links, around layers that wait.
"""

import functools
from collections.abc import Mapping
from typing import Any

from sparsepipe.options import Options
from sparsepipe.train.planned import ProfiledPlan, plan_pipeline
from systems.clusters.cluster import load
from systems.figures.experiment import Case, Comparison, Level, Results, compare_step_times
from systems.figures.text import table

Place = tuple[str, str, float]
"""A point of the grid: the cluster's devices, who plans, and the link rate in Gb/s."""
CLUSTER = "titan-8"
BATCH_SIZE = 128
STEADY = 6
"""Emulated mini-batches of the steady state."""
AGREE = 0.1
"""Predicted and emulated times should agree this well."""
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
"""The clusters on which the plan is compared with its baselines."""
MIXED = ("1 + 1", "2 + 2", "4 + 4")
"""The clusters that speed-ups are claimed on."""
RATES = (10, 1)
"""Link rates in Gb/s."""
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
    """The options of a point; `cluster` is one of `CLUSTERS`, or numbers like "TitanV=1"."""
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
    """The plan of a point, made and played once."""
    return plan_pipeline(options(cluster, who, rate), load(CLUSTER))


def case_name(cluster: str, who: str, rate: float) -> str:
    """The name of an emulated point."""
    return f"{cluster.replace(' ', '')} {who} {rate:g}g"


def devices(cluster: str) -> int:
    """The number of devices of a cluster."""
    named = CLUSTERS.get(cluster, cluster)
    return sum(int(word.partition("=")[2]) for word in named.split(","))


def _level(cluster: str, who: str, rate: float) -> Level:
    """Return the least level at which a point is emulated: quick where a speed-up is claimed of it,
    else full."""
    small = cluster in ("1 + 1", "2 + 2") and who in (PLAN, DDP, EQUAL_SPLIT)
    large = cluster == "4 + 4" and rate == RATES[0] and who in (PLAN, DDP)
    return "quick" if small or large else "full"


EMULATED_POINTS: dict[Place, Level] = {
    **{(c, who, r): _level(c, who, r) for c in COMPARED for r in RATES for who in EMULATED},
    **{(c, who, FAST): "quick" for c in ("1 + 1", "2 + 2") for who in (PLAN, VIRTUAL)},
    **{(c, PLAN, FAST): "full" for c in ("1 + 3", "2 + 6", "4 + 4")},
}
"""The points that are emulated, with the least level at which they are."""
DRAWN: tuple[Place, ...] = (("2 + 2", PLAN, 10), ("1 + 1", VIRTUAL, FAST))
"""The points whose steps are drawn."""
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
    """The seconds of a step that the planner predicts."""
    return point(cluster, who, rate).plan.prediction.step_s


def simulated_s(cluster: str, who: str, rate: float) -> float:
    """The seconds of a step that the simulator finds."""
    return point(cluster, who, rate).played.step_s


def run_of(results: Results, cluster: str, who: str, rate: float) -> Mapping[str, Any] | None:
    """The result of a point's emulated run, if there is one."""
    runs = results.get(case_name(cluster, who, rate))
    return runs[0] if runs else None


def emulated_s(results: Results, cluster: str, who: str, rate: float) -> float | None:
    """The seconds of a step in the emulated steady state, if the point was run."""
    run = run_of(results, cluster, who, rate)
    return None if run is None else float(run["mean_step_s"])


def ran(results: Results) -> list[Place]:
    """The points that were emulated."""
    return [where for where in EMULATED_POINTS if run_of(results, *where) is not None]


def comparisons(results: Results) -> list[Comparison]:
    """Compare the predicted with the emulated step time of every point that was emulated."""
    return [
        compare_step_times(
            f"TitanV + TitanXp {cluster}, {rate:g} Gb/s, {who}",
            predicted_s(cluster, who, rate),
            [emulated_s(results, cluster, who, rate) or 0.0],
            predicted_by="planner",
            tier="emulated",
        )
        for cluster, who, rate in ran(results)
    ]


def points_table(results: Results) -> str:
    """Write a table of all points with their schedules, in Markdown."""
    compared: list[Place] = [
        (c, who, r) for c in COMPARED for r in RATES for who in (PLAN, *BASELINES)
    ]
    others = [where for where in EMULATED_POINTS if where not in compared]
    columns = "V + Xp, Gb/s, who plans, stages' replicas, in flight, predicted, simulated, "
    return table(
        f"{columns}emulated, above the bound".split(", "),
        [_row(results, *where) for where in (*compared, *others)],
        "Milliseconds a step of 128 samples; `off` marks more than 10 % between predicted and "
        "emulated:",
    )


def _row(results: Results, cluster: str, who: str, rate: float) -> tuple[object, ...]:
    """A point's row of the table."""
    planned = point(cluster, who, rate)
    plan, order = planned.plan, planned.order
    step_s = emulated_s(results, cluster, who, rate)
    off = step_s is not None and abs(step_s / plan.prediction.step_s - 1) > AGREE
    return (
        cluster,
        f"{rate:g}",
        who,
        [len(stage) for stage in planned.stages],
        f"{plan.schedule.micro_batches} micro" if order is None else order.in_flight,
        f"{plan.prediction.step_s * 1e3:.0f}",
        f"{planned.played.step_s * 1e3:.0f}",
        "" if step_s is None else f"{step_s * 1e3:.0f}" + (" **off**" if off else ""),
        f"{plan.above_bound:.1%}",
    )
