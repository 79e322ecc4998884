"""The figures of the scale experiment.

Lines are simulated, crosses emulated; bars say which they are.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stanza.experiments import grid
from stanza.experiments.simulated import play, point
from stanza.experiments.targets import AUTO, BASELINES, MODELS, PAPER_RANGE
from stanza.options import Options
from stanza.planner.candidates import predict_all
from stanza.planner.plan import load_profile, plan
from systems.clusters.cluster import Cluster
from systems.figures.draw import Agreement, Bars, Curve, Lines, Panel, draw
from systems.figures.experiment import Figure, Results
from systems.runs.record import Tier

NODES = (2, 4, 8, 16, 32, 64)
GIGABITS = (1, 2, 5, 10, 25, 50, 100)
SCHEMES = ("ps-blocking", "ps-sharded", "ddp", "auto")


def _tiers(results: Results) -> str:
    """Name the tiers that a figure shows, for the panels' titles."""
    return "simulated, emulated" if results else "simulated"


def _figure(
    path: Path, panels: Sequence[Panel], results: Results, *, title: str, caption: str
) -> Figure:
    """Draw panels with the footnote and the tier that all figures of the experiment have."""
    emulated = "; emulated: the trainer over shaped links between network namespaces, layers wait"
    footnote = (
        f"simulated: discrete events, no processes{emulated if results else ''}; layer times "
        "measured by PipeDream's authors (speeds of a V100)"
    )
    tier: Tier = "emulated" if results else "simulated"
    return draw(path, panels, footnote, title=title, tier=tier, caption=caption)


def _speedup(model: str, over: str, at: Cluster) -> float:
    """The simulated throughput of the planner's choice over another scheme's."""
    return point(model, "auto", at).samples_per_s / point(model, over, at).samples_per_s


def speedups(results: Results, target: Cluster, folder: Path) -> Figure:
    """Draw what the planner's choice gains over the baselines, by both tiers."""
    panels = []
    for scheme in BASELINES:
        series = {"simulated": [[_speedup(model, scheme, target)] for model in MODELS]}
        if results:
            for label, mode in (("emulated", "auto"), ("emulated, as published", "as published")):
                series[label] = [grid.speedups(results, m, scheme, of=mode) for m in MODELS]
        one_server = scheme in ("ps-blocking", "ps-pipelined")
        panels.append(
            Bars(
                groups=MODELS,
                series=series,
                unit="speed-up (x)",
                title=f"Over {scheme}, 10 nodes, 10 Gb/s ({_tiers(results)})",
                paper_range=PAPER_RANGE if one_server else None,
                reference=1.0,
                logarithmic=one_server,
            )
        )
    return _figure(
        folder / "scale-speedup",
        panels,
        results,
        title="Speed-ups at the paper's scale",
        caption="The planner's choice (f and micro-batches, or no separation) over one parameter "
        "server, servers beside all workers, and DDP; beside it Stanza as published, with one FC "
        "worker and without micro-batches. Hatched: the range that the paper "
        "reports over parameter servers, measured on V100 nodes without micro-batches.",
    )


def over_nodes(results: Results, target: Cluster, folder: Path) -> Figure:
    """Draw the throughput of every scheme against the number of nodes."""
    clusters = {n: target.with_size(n) for n in NODES}
    emulated_sizes = sorted({grid.NODES, grid.FEWER_NODES, *grid.SWEEP_NODES})
    panels = []
    for model in MODELS:
        simulated = {
            scheme: (NODES, [point(model, scheme, at).samples_per_s for at in clusters.values()])
            for scheme in SCHEMES
        }
        emulated: dict[str, Iterable[tuple[float, float]]] = {}
        for scheme in SCHEMES:
            runs = {n: results.get(grid.case_name(model, scheme, n)) for n in emulated_sizes}
            emulated[scheme] = [(n, grid.throughput(run[0])) for n, run in runs.items() if run]
        panels.append(
            Lines(
                series=simulated,
                points=_curves(emulated),
                points_label="emulated",
                x_label="nodes",
                y_label="samples/s",
                title=f"{model}, 10 Gb/s ({_tiers(results)})",
                logarithmic=True,
                logarithmic_x=True,
            )
        )
    return _figure(
        folder / "scale-nodes",
        panels,
        results,
        title="Throughput over nodes",
        caption="One parameter server saturates at once; sharded servers and DDP scale. The "
        "planner takes the simpler scheme where separation gains little, so its choice may lie "
        "slightly below the best of them. Lines are simulated, crosses emulated.",
    )


def over_rates(results: Results, clusters: dict[int, Cluster], folder: Path) -> Figure:
    """Draw the speed-up of the planner's choice over every baseline against the link rate."""
    baselines = [scheme for scheme in SCHEMES if scheme != "auto"]
    panels = [
        Lines(
            series={
                f"over {scheme}": (
                    GIGABITS,
                    [_speedup(model, scheme, at) for at in clusters.values()],
                )
                for scheme in baselines
            },
            points=_curves(
                {
                    f"over {scheme}": grid.over_rates(results, model, scheme).items()
                    for scheme in baselines
                }
            ),
            points_label="emulated",
            x_label="bandwidth, Gb/s",
            y_label="speed-up of auto (x)",
            title=f"{model}, 10 nodes ({_tiers(results)})",
            logarithmic=True,
            logarithmic_x=True,
            reference=1.0,
        )
        for model in MODELS
    ]
    return _figure(
        folder / "scale-bandwidth",
        panels,
        results,
        title="Speed-up over bandwidth",
        caption="Where a curve reaches 1, separation no longer pays and the planner chooses none. "
        "Lines are simulated, crosses emulated.",
    )


def _curves(points: Mapping[str, Iterable[tuple[float, float]]]) -> dict[str, Curve]:
    """Turn lists of points (x, y) into curves; a series without points is left out."""
    lists = {name: list(pairs) for name, pairs in points.items()}
    return {
        name: ([x for x, _ in pairs], [y for _, y in pairs])
        for name, pairs in lists.items()
        if pairs
    }


def over_f(results: Results, target: Cluster, folder: Path) -> Figure:
    """Draw the step time against the number of FC workers, the planner's choice marked."""
    panels = [_over_f(model, results, target) for model in MODELS]
    return _figure(
        folder / "scale-fc-workers",
        panels,
        results,
        title="Step time over FC workers",
        caption="The planner's recurrence, the simulator and, as crosses, emulation; micro-batches "
        "chosen for each f. Curves: FC workers on nodes of their own, replicas; the chosen point "
        "may also have columns on all nodes. A step of fewer CONV workers has fewer samples: the "
        "planner's choice is by samples per second, not by step time. At 0 it separates nothing.",
    )


def _over_f(model: str, results: Results, target: Cluster) -> Lines:
    """Make the panel of a model's step times by the planner, the simulator and, as crosses,
    emulation."""
    numbers = range(1, grid.MOST_FC_WORKERS + 1)
    options, profile = Options(model=model), load_profile(model)
    predictions = predict_all(options, target.size, target, profile)
    by_f = {p.fc_workers: p for p in predictions if p.scheme == "stanza"}
    chosen = plan(dataclasses.replace(options, **AUTO), target.size, target, profile).chosen
    assert chosen is not None  # with a cluster and a profile there is always a prediction
    runs = {f: results.get(grid.case_name(model, f"stanza f={f}", target.size)) for f in numbers}
    emulated = {"simulated": [(f, grid.emulated_s(run[0]) * 1e3) for f, run in runs.items() if run]}
    return Lines(
        series={
            "planner": (numbers, [by_f[f].step_s * 1e3 for f in numbers]),
            "simulated": (numbers, [play(options, by_f[f], target).step_s * 1e3 for f in numbers]),
            f"chosen: {chosen.scheme}{chosen.mode}": ([chosen.fc_workers], [chosen.step_s * 1e3]),
        },
        points=_curves(emulated),
        points_label="emulated",
        x_label="FC workers (0: no separation)",
        y_label="step time, ms",
        from_zero=True,
        title=f"{model}, 10 nodes, 10 Gb/s ({_tiers(results)})",
    )


def agreement(results: Results, folder: Path) -> Figure:
    """Draw emulated over simulated step time, every point of the grid."""
    points = grid.compared(results)
    series: dict[str, Curve] = {}
    for scheme in grid.SCHEMES:
        pairs = [pair for name, pair in points.items() if f" {scheme} " in name]
        series[scheme] = ([s * 1e3 for s, _ in pairs], [e * 1e3 for _, e in pairs])
    panel = Agreement(
        series=series,
        x="simulated step time",
        y="emulated step time",
        unit="ms",
        title="Every point of the grid (simulated against emulated)",
        band=grid.AGREE,
    )
    return _figure(
        folder / "scale-agreement",
        [panel],
        results,
        title="Two ways to the same step time",
        caption="A point in the band: simulator and emulated cluster, which share the profile and "
        "nothing else, agree within 10 %.",
    )
