"""The paper's models at other scales: nodes, bandwidths, FC workers; simulated, and emulated where
this machine can.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from stanza.experiments import grid, grid_claims, scale_figures as figures
from stanza.experiments.simulated import at_rate, point
from stanza.experiments.targets import AS_FAST, CLUSTER, MODELS, OVER_DDP
from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw the figures over scales; judge each tier's speed-ups and how well the tiers agree."""
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
        notes = (grid.calibration(results), grid.points_table(results), grid.modes_table(results))
    return Outcome(
        figures=tuple(drawn),
        claims=(*claims, *grid_claims.claims(results)),
        notes=notes,
        comparisons=tuple(grid.comparisons(results)),
    )


def _claims(model: str, target: Cluster, clusters: Sequence[Cluster]) -> Iterator[Claim]:
    """Make the claims about the simulated scales of a model; `clusters` are those of all rates."""

    def over_ddp(at: Cluster) -> float:
        return point(model, "auto", at).samples_per_s / point(model, "ddp", at).samples_per_s

    yield claim(
        f"stanza.chosen-over-ddp.{model}.simulated",
        "the planner's choice over DDP with overlap, 10 nodes, 10 Gb/s, float32",
        [over_ddp(target)],
        Target(least=OVER_DDP[model], unit="x"),
    )
    yield claim(
        f"stanza.least-chosen-over-ddp.{model}.simulated",
        "the least of auto over DDP from 1 to 100 Gb/s, 10 nodes",
        [min(over_ddp(at) for at in clusters)],
        AS_FAST,
    )
    agreement = [
        point(model, scheme, at).predicted_over_simulated
        for scheme in figures.SCHEMES
        for at in (*clusters, *(target.with_size(n) for n in figures.NODES))
    ]
    yield claim(
        f"stanza.planner-over-simulator.{model}.simulated",
        "the planner's step time over the simulator's, all schemes and scales: the one furthest "
        "from 1",
        [max(agreement, key=lambda ratio: abs(ratio - 1))],
        Target(least=0.9, most=1.1, source="two models of one schedule, within 10 %", unit="x"),
    )
