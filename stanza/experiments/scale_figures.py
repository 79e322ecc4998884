"""The figures of the scale experiment.

Lines are simulated, crosses emulated; bars say which they are.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from stanza.experiments import grid
from stanza.experiments.simulated import play, point
from stanza.experiments.targets import (
    AUTO,
    BASELINES,
    MODELS,
    PAPER_RANGE,
)
from stanza.options import Options
from stanza.planner.plan import load_profile, plan, predict_all
from systems.clusters.cluster import Cluster
from systems.figures.draw import (
    Agreement,
    Bars,
    Lines,
    Panel,
    draw,
)
from systems.figures.experiment import Figure, Results

NODES = (2, 4, 8, 16, 32, 64)
GIGABITS = (1, 2, 5, 10, 25, 50, 100)
SCHEMES = ("ps-blocking", "ps-sharded", "ddp", "auto")
Curve = tuple[Sequence[float], Sequence[float]]


def _footnote(results: Results) -> str:
    simulated = "simulated: discrete events, no processes"
    emulated = "; emulated: the trainer over shaped links between network namespaces, layers wait"
    return (
        f"{simulated}{emulated if results else ''}; layer times measured by PipeDream's authors "
        "(speeds of a V100)"
    )


def _tiers(results: Results) -> str:
    return "simulated, emulated" if results else "simulated"


def _figure(
    path: Path, panels: Sequence[Panel], results: Results, *, title: str, caption: str
) -> Figure:
    return Figure(
        path=draw(path, panels, _footnote(results)),
        title=title,
        tier="emulated" if results else "simulated",
        caption=caption,
    )


def speedups(results: Results, target: Cluster, folder: Path) -> Figure:
    """What the planner's choice gains over the baselines, by both tiers."""
    panels = []
    for scheme in BASELINES:
        simulated = [
            [point(m, "auto", target).samples_per_s / point(m, scheme, target).samples_per_s]
            for m in MODELS
        ]
        series: dict[str, list[list[float]]] = {"simulated": simulated}
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
    """Throughput against the number of nodes."""
    panels = [
        Lines(
            series={
                scheme: (
                    NODES,
                    [point(model, scheme, target.with_size(n)).samples_per_s for n in NODES],
                )
                for scheme in SCHEMES
            },
            points=_emulated_over_nodes(model, results),
            points_label="emulated",
            x_label="nodes",
            y_label="samples/s",
            title=f"{model}, 10 Gb/s ({_tiers(results)})",
            logarithmic=True,
            logarithmic_x=True,
        )
        for model in MODELS
    ]
    return _figure(
        folder / "scale-nodes",
        panels,
        results,
        title="Throughput over nodes",
        caption="One parameter server saturates at once; sharded servers and DDP scale. The "
        "planner takes the simpler scheme where separation gains little, so its choice may lie "
        "slightly below the best of them. Lines are simulated, crosses emulated.",
    )


def _emulated_over_nodes(model: str, results: Results) -> dict[str, Curve]:
    sizes = sorted({grid.NODES, grid.FEWER_NODES, *grid.SWEEP_NODES})
    found: dict[str, Curve] = {}
    for scheme in SCHEMES:
        runs = {n: results.get(grid.case_name(model, scheme, n)) for n in sizes}
        points = [(n, grid.throughput(run[0])) for n, run in runs.items() if run]
        if points:
            found[scheme] = ([n for n, _ in points], [rate for _, rate in points])
    return found


def over_rates(results: Results, clusters: dict[int, Cluster], folder: Path) -> Figure:
    """Speed-up against bandwidth."""
    panels = [
        Lines(
            series={
                f"over {scheme}": (
                    GIGABITS,
                    [
                        point(model, "auto", at).samples_per_s
                        / point(model, scheme, at).samples_per_s
                        for at in clusters.values()
                    ],
                )
                for scheme in SCHEMES
                if scheme != "auto"
            },
            points=_emulated_over_rates(model, results),
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


def _emulated_over_rates(model: str, results: Results) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    for scheme in SCHEMES:
        by_rate = grid.over_rates(results, model, scheme) if scheme != "auto" else {}
        if by_rate:
            found[f"over {scheme}"] = (list(by_rate), list(by_rate.values()))
    return found


def over_f(results: Results, target: Cluster, folder: Path) -> Figure:
    """Step time against the number of FC workers, the planner's choice marked."""
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
    numbers = range(1, grid.MOST_FC_WORKERS + 1)
    options, profile = Options(model=model), load_profile(model)
    predictions = predict_all(options, target.size, target, profile)
    by_f = {p.fc_workers: p for p in predictions if p.scheme == "stanza"}
    chosen = plan(dataclasses.replace(options, **AUTO), target.size, target, profile).chosen
    assert chosen is not None  # with a cluster and a profile there is always a prediction
    runs = {f: results.get(grid.case_name(model, f"stanza f={f}", target.size)) for f in numbers}
    emulated = [(f, grid.emulated_s(run[0]) * 1e3) for f, run in runs.items() if run]
    return Lines(
        series={
            "planner": (numbers, [by_f[f].step_s * 1e3 for f in numbers]),
            "simulated": (numbers, [play(options, by_f[f], target).step_s * 1e3 for f in numbers]),
            f"chosen: {chosen.scheme}{chosen.mode}": ([chosen.fc_workers], [chosen.step_s * 1e3]),
        },
        points={"simulated": ([f for f, _ in emulated], [ms for _, ms in emulated])}
        if emulated
        else {},
        points_label="emulated",
        x_label="FC workers (0: no separation)",
        y_label="step time, ms",
        from_zero=True,
        title=f"{model}, 10 nodes, 10 Gb/s ({_tiers(results)})",
    )


def agreement(results: Results, folder: Path) -> Figure:
    """Emulated against simulated step time, every point of the grid."""
    points = grid.compared(results)
    series: dict[str, Curve] = {}
    for scheme in grid.SCHEMES:
        mine = [pair for name, pair in points.items() if f" {scheme} " in name]
        series[scheme] = ([s * 1e3 for s, _ in mine], [e * 1e3 for _, e in mine])
    panel = Agreement(
        series=series,
        x="simulated step time",
        y="emulated step time",
        unit="ms",
        title="Every point of the grid (simulated against emulated)",
        band=grid.AGREE,
    )
    return Figure(
        path=draw(folder / "scale-agreement", [panel], _footnote(results)),
        title="Two ways to the same step time",
        tier="emulated",
        caption="A point in the band: simulator and emulated cluster, which share the profile and "
        "nothing else, agree within 10 %.",
    )
