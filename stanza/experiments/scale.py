"""The paper's models at other scales: nodes, bandwidths, FC workers; simulated, and emulated where
this machine can.
"""

from collections.abc import Sequence
from pathlib import Path

from stanza.experiments import grid, scale_figures as figures
from stanza.experiments.simulated import at_rate, point
from stanza.experiments.targets import CLUSTER, MODELS, OVER_DDP
from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results


def conclude(results: Results, folder: Path) -> Outcome:
    """Figures over scales, each tier's speed-ups, and how well the tiers agree."""
    target = cluster.load(CLUSTER)
    clusters = {gigabits: at_rate(target, gigabits) for gigabits in figures.GIGABITS}
    claims = [c for model in MODELS for c in _claims(model, target, list(clusters.values()))]
    drawn = [
        figures.speedups(results, target, folder),
        figures.over_nodes(results, target, folder),
        figures.over_rates(results, clusters, folder),
        figures.over_f(results, target, folder),
    ]
    notes: tuple[str, ...] = ()
    if results:
        drawn.append(figures.agreement(results, folder))
        notes = (grid.calibration(results), grid.table(results), grid.modes_table(results))
    return Outcome(
        figures=tuple(drawn),
        claims=(*claims, *grid.claims(results)),
        notes=notes,
        comparisons=tuple(grid.comparisons(results)),
    )


def _claims(model: str, target: Cluster, clusters: Sequence[Cluster]) -> list[Claim]:
    over_ddp = [
        point(model, "auto", at).samples_per_s / point(model, "ddp", at).samples_per_s
        for at in clusters
    ]
    agreement = [
        point(model, scheme, at).predicted_over_simulated
        for scheme in figures.SCHEMES
        for at in (*clusters, *(target.with_size(n) for n in figures.NODES))
    ]
    here = point(model, "auto", target).samples_per_s / point(model, "ddp", target).samples_per_s
    return [
        claim(
            "stanza",
            "chosen-over-ddp",
            model,
            "simulated",
            what="the planner's choice over DDP with overlap, 10 nodes, 10 Gb/s, float32",
            values=[here],
            unit="x",
            target=Target(least=OVER_DDP[model], source="this project's target"),
        ),
        claim(
            "stanza",
            "least-chosen-over-ddp",
            model,
            "simulated",
            what="the least of auto over DDP from 1 to 100 Gb/s, 10 nodes",
            values=[min(over_ddp)],
            unit="x",
            target=Target(least=0.98, source="f = 0 is among the choices; within 2 %"),
        ),
        claim(
            "stanza",
            "planner-over-simulator",
            model,
            "simulated",
            what="the planner's step time over the simulator's, all schemes and scales: the "
            "one furthest from 1",
            values=[max(agreement, key=lambda ratio: abs(ratio - 1))],
            unit="x",
            target=Target(least=0.9, most=1.1, source="two models of one schedule, within 10 %"),
        ),
    ]
