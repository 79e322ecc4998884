"""The figures of the pipeline experiment; every title says its tier."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sparsepipe.experiments import pipeline_grid as grid
from sparsepipe.experiments.gantt import draw as draw_gantt, traced_spans, two_steps
from sparsepipe.experiments.pipeline_grid import (
    BASELINES,
    BATCH_SIZE,
    BY_SPEED,
    CLUSTERS,
    COMPARED,
    DDP,
    EQUAL_SPLIT,
    FAST,
    PLAN,
    RATES,
    VIRTUAL,
)
from sparsepipe.schedule.play import Span
from systems.figures.draw import (
    Agreement,
    Bars,
    Lines,
    Panel,
    draw,
)
from systems.figures.experiment import Figure, Results
from systems.runs.record import Tier

HOW: dict[Tier, str] = {
    "simulated": "discrete events, no processes",
    "emulated": "the runtime over shaped links between network namespaces, layers wait",
}
FOOTNOTE = (
    "MinkVGG16-BN, batch 128, layer times of TitanV and TitanXp measured by SparsePipe's authors; "
    + "; ".join(f"{tier}: {how}" for tier, how in HOW.items())
)
SCALED = (PLAN, DDP, EQUAL_SPLIT)
MOST_DEVICES = 8


def throughput(results: Results, folder: Path) -> Figure:
    """The plan against its baselines, each tier in a panel."""
    panels: list[Panel] = []
    for rate in RATES:
        rows: dict[str, list[list[float]]] = {}
        for who in (PLAN, *BASELINES):
            rows[who] = [[BATCH_SIZE / grid.simulated_s(c, who, rate)] for c in COMPARED]
        panels.append(_throughput(COMPARED, rows, rate, "simulated"))
        ran = [c for c in COMPARED if grid.run_of(results, c, PLAN, rate) is not None]
        emulated = {
            who: [
                [BATCH_SIZE / s] if (s := grid.emulated_s(results, c, who, rate)) else []
                for c in ran
            ]
            for who in grid.EMULATED
        }
        known = {who: rows for who, rows in emulated.items() if any(rows)}
        if ran:
            panels.append(_throughput(ran, known, rate, "emulated"))
    return Figure(
        path=draw(folder / "pipeline-throughput", panels, FOOTNOTE),
        title="Throughput of the plan and of its baselines",
        tier="emulated" if results else "simulated",
        caption="DDP waits for all gradients in every step, equal shares, all-reduce beside the "
        "backward pass. The homogeneous planner takes all devices for the mean device. Plan, equal "
        "split and homogeneous planner are asynchronous; GPipe flushes.",
    )


def _throughput(
    clusters: Sequence[str], rows: dict[str, list[list[float]]], rate: float, tier: str
) -> Bars:
    return Bars(
        groups=clusters,
        series=rows,
        unit="samples/s",
        title=f"TitanV + TitanXp at {rate:g} Gb/s ({tier})",
        value_format="{:.0f}",
    )


def bounds(results: Results, folder: Path) -> Figure:
    """Step times at 10 GB/s beside the fractional bound."""
    clusters = [cluster for cluster in CLUSTERS if cluster != "4 + 0"]
    series: dict[str, list[list[float]]] = {
        DDP: [[grid.predicted_s(c, DDP, FAST) * 1e3] for c in clusters],
        BY_SPEED: [[grid.predicted_s(c, BY_SPEED, FAST) * 1e3] for c in clusters],
        PLAN: [[grid.predicted_s(c, PLAN, FAST) * 1e3] for c in clusters],
        VIRTUAL: [[grid.predicted_s(c, VIRTUAL, FAST) * 1e3] for c in clusters],
        "fractional bound": [[grid.point(c, PLAN, FAST).plan.bound_s * 1e3] for c in clusters],
    }
    for who in (PLAN, VIRTUAL):
        row = [[s * 1e3] if (s := grid.emulated_s(results, c, who, FAST)) else [] for c in clusters]
        if any(row):
            series[f"{who}, emulated"] = row
    tiers = "predicted, emulated where said" if results else "predicted"
    panel = Bars(
        groups=clusters,
        series=series,
        unit="ms per step of 128 samples",
        title=f"TitanV + TitanXp at 10 GB/s ({tiers})",
        value_format="{:.0f}",
    )
    return Figure(
        path=draw(folder / "pipeline-bound", [panel], FOOTNOTE),
        title="Distance from the fractional bound",
        tier="emulated" if results else "simulated",
        caption="The bound divides layers at will among devices and sends nothing: no plan can be "
        "faster. Virtual stages let a device hold several runs of layers, those that it is "
        "relatively best at.",
    )


def agreement(results: Results, folder: Path) -> Figure:
    """Emulated over predicted: steps, and what every device computes."""
    points = grid.ran(results)
    steps: dict[str, tuple[list[float], list[float]]] = {}
    devices: dict[str, tuple[list[float], list[float]]] = {}
    for cluster, who, rate in points:
        run = grid.run_of(results, cluster, who, rate)
        assert run is not None  # it is one of those that ran
        x, y = steps.setdefault(who, ([], []))
        x.append(run["predicted_step_s"] * 1e3)
        y.append(run["mean_step_s"] * 1e3)
        x, y = devices.setdefault(who, ([], []))
        for predicted_s, emulated_s in zip(
            run["predicted_compute_s"], run["compute_s"], strict=True
        ):
            if predicted_s:
                x.append(predicted_s * 1e3)
                y.append(emulated_s * 1e3)
    panels = [
        Agreement(
            series=series,
            x=f"predicted {what}",
            y=f"emulated {what}",
            unit="ms",
            title=f"{title} (predicted against emulated)",
            band=0.1,
        )
        for series, what, title in (
            (steps, "step", "Every plan"),
            (devices, "computation", "Every device of every plan"),
        )
    ]
    return Figure(
        path=draw(folder / "pipeline-agreement", panels, FOOTNOTE),
        title="Predicted against emulated",
        tier="emulated",
        caption="A point in the band agrees within 10 %. Right: what a device's stages compute in "
        "a step; samples are whole, so small shares are rounded.",
    )


def gantts(results: Results, folder: Path) -> list[Figure]:
    """Two steady steps of the plan for 2 + 2 devices, and of virtual stages on 1 + 1: simulated,
    and where they were run emulated."""
    found = []
    for name, where in (
        ("pipeline-gantt", grid.DRAWN[0]),
        ("pipeline-gantt-virtual", grid.DRAWN[1]),
    ):
        played = grid.point(*where).played
        found.append(_gantt(folder / name, where, "simulated", played.spans, two_steps(played)))
        run = grid.run_of(results, *where)
        if run is None:
            continue
        spans = traced_spans(Path(run["record"], "trace.json"), run["emulation"]["dilate"])
        # As many mini-batches fill the pipeline as drain it: the steady state is in the middle.
        middle_s = max(span.end_s for span in spans) / 2
        window_s = (middle_s - run["mean_step_s"], middle_s + run["mean_step_s"])
        found.append(_gantt(folder / f"{name}-emulated", where, "emulated", spans, window_s))
    return found


def _gantt(
    path: Path,
    where: tuple[str, str, float],
    tier: Tier,
    spans: Iterable[Span],
    window_s: tuple[float, float],
) -> Figure:
    cluster, who, rate = where
    planned = grid.point(*where)
    kinds = [planned.profile_of_rank[rank].device for rank in range(len(planned.links))]
    return Figure(
        path=draw_gantt(
            path,
            spans,
            title=f"Two steady steps, {who}, TitanV + TitanXp {cluster}, {rate:g} Gb/s ({tier})",
            window_s=window_s,
            names=[f"rank {rank} ({kind})" for rank, kind in enumerate(kinds)],
            footnote=f"MinkVGG16-BN, batch 128; {tier}: {HOW[tier]}",
        ),
        title=f"Two steady steps: {who}, {cluster}, {tier}",
        tier=tier,
        caption="Numbers are mini-batches; white is idle time.",
    )


def scaling(results: Results, folder: Path) -> Figure:
    """Throughput over the number of devices, as many of each kind as there can be."""
    counts = range(1, MOST_DEVICES + 1)
    named = {n: _half(n) for n in counts}
    series = {
        who: (
            list(counts),
            [BATCH_SIZE / grid.simulated_s(named[n], who, RATES[0]) for n in counts],
        )
        for who in SCALED
    }
    points: dict[str, tuple[list[float], list[float]]] = {}
    for who in SCALED:
        for cluster, n in (("1 + 1", 2), ("2 + 2", 4), ("4 + 4", 8)):
            step_s = grid.emulated_s(results, cluster, who, RATES[0])
            if step_s is not None:
                x, y = points.setdefault(who, ([], []))
                x.append(n)
                y.append(BATCH_SIZE / step_s)
    bound = [BATCH_SIZE / grid.point(named[n], PLAN, RATES[0]).plan.bound_s for n in counts]
    panel = Lines(
        series={**series, "fractional bound": (list(counts), bound)},
        points=points,
        points_label="emulated",
        x_label="devices, half TitanV (one more where odd), half TitanXp",
        y_label="samples/s",
        title=f"Strong scaling at {RATES[0]} Gb/s (simulated{', emulated' if results else ''})",
        from_zero=True,
    )
    return Figure(
        path=draw(folder / "pipeline-scaling", [panel], FOOTNOTE),
        title="Strong scaling",
        tier="emulated" if results else "simulated",
        caption="A step has 128 samples whatever the number of devices. Lines are simulated, "
        "crosses emulated.",
    )


def _half(count: int) -> str:
    """So many devices, one TitanV more where the number is odd."""
    second = count // 2
    first = f"TitanV={count - second}"
    return f"{first},TitanXp={second}" if second else first
