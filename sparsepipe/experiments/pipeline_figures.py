"""The figures of the pipeline experiment; every title says its tier."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
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
from systems.figures.draw import Agreement, Bars, Curve, Lines, Panel, draw
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


def _figure(
    path: Path, panels: Sequence[Panel], results: Results, *, title: str, caption: str
) -> Figure:
    """Draw panels with the footnote and the tier that all figures of the experiment have."""
    tier: Tier = "emulated" if results else "simulated"
    return draw(path, panels, FOOTNOTE, title=title, tier=tier, caption=caption)


def throughput(results: Results, folder: Path) -> Figure:
    """Draw the plan against its baselines, each tier and link rate in a panel."""
    panels: list[Panel] = []
    for rate in RATES:
        ran = [c for c in COMPARED if grid.run_of(results, c, PLAN, rate) is not None]
        panels.append(_throughput(COMPARED, grid.simulated_s, rate, "simulated"))
        if ran:
            panels.append(_throughput(ran, partial(grid.emulated_s, results), rate, "emulated"))
    return _figure(
        folder / "pipeline-throughput",
        panels,
        results,
        title="Throughput of the plan and of its baselines",
        caption="DDP waits for all gradients in every step, equal shares, all-reduce beside the "
        "backward pass. The homogeneous planner takes all devices for the mean device. Plan, equal "
        "split and homogeneous planner are asynchronous; GPipe flushes.",
    )


def _throughput(
    clusters: Sequence[str],
    step_s: Callable[[str, str, float], float | None],
    rate: float,
    tier: Tier,
) -> Bars:
    """Draw the samples per second of everyone who plans, cluster by cluster; `step_s` gives the
    tier's step times."""
    series = {
        who: [[BATCH_SIZE / s] if (s := step_s(c, who, rate)) else [] for c in clusters]
        for who in (PLAN, *BASELINES)
    }
    return Bars(
        groups=clusters,
        series={who: rows for who, rows in series.items() if any(rows)},
        unit="samples/s",
        title=f"TitanV + TitanXp at {rate:g} Gb/s ({tier})",
        value_format="{:.0f}",
    )


def bounds(results: Results, folder: Path) -> Figure:
    """Draw step times at 10 GB/s beside the fractional bound."""
    clusters = [cluster for cluster in CLUSTERS if cluster != "4 + 0"]
    series = {
        who: [[grid.predicted_s(c, who, FAST) * 1e3] for c in clusters]
        for who in (DDP, BY_SPEED, PLAN, VIRTUAL)
    }
    series["fractional bound"] = [[grid.point(c, PLAN, FAST).plan.bound_s * 1e3] for c in clusters]
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
    return _figure(
        folder / "pipeline-bound",
        [panel],
        results,
        title="Distance from the fractional bound",
        caption="The bound divides layers at will among devices and sends nothing: no plan can be "
        "faster. Virtual stages let a device hold several runs of layers, those that it is "
        "relatively best at.",
    )


def agreement(results: Results, folder: Path) -> Figure:
    """Draw emulated over predicted times: steps, and what every device computes."""
    steps: dict[str, tuple[list[float], list[float]]] = {}
    devices: dict[str, tuple[list[float], list[float]]] = {}
    for cluster, who, rate in grid.ran(results):
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
            band=grid.AGREE,
        )
        for series, what, title in (
            (steps, "step", "Every plan"),
            (devices, "computation", "Every device of every plan"),
        )
    ]
    return _figure(
        folder / "pipeline-agreement",
        panels,
        results,
        title="Predicted against emulated",
        caption="A point in the band agrees within 10 %. Right: what a device's stages compute in "
        "a step; samples are whole, so small shares are rounded.",
    )


def gantts(results: Results, folder: Path) -> list[Figure]:
    """Draw two steady steps of the plan for 2 + 2 devices, and of virtual stages on 1 + 1.

    Both are simulated, and emulated where they were run.
    """
    drawn = []
    for name, where in zip(("pipeline-gantt", "pipeline-gantt-virtual"), grid.DRAWN, strict=True):
        played = grid.point(*where).played
        drawn.append(_gantt(folder / name, where, "simulated", played.spans, two_steps(played)))
        run = grid.run_of(results, *where)
        if run is None:
            continue
        spans = traced_spans(Path(run["record"], "trace.json"), run["emulation"]["dilate"])
        # As many mini-batches fill the pipeline as drain it: the steady state is in the middle.
        middle_s = max(span.end_s for span in spans) / 2
        window_s = (middle_s - run["mean_step_s"], middle_s + run["mean_step_s"])
        drawn.append(_gantt(folder / f"{name}-emulated", where, "emulated", spans, window_s))
    return drawn


def _gantt(
    path: Path, where: grid.Place, tier: Tier, spans: Iterable[Span], window_s: tuple[float, float]
) -> Figure:
    """Draw the steps of one tier inside a window of time."""
    cluster, who, rate = where
    planned = grid.point(*where)
    kinds = [planned.profile_of_rank[rank].device for rank in range(len(planned.links))]
    png = draw_gantt(
        path,
        spans,
        title=f"Two steady steps, {who}, TitanV + TitanXp {cluster}, {rate:g} Gb/s ({tier})",
        window_s=window_s,
        names=[f"rank {rank} ({kind})" for rank, kind in enumerate(kinds)],
        footnote=f"MinkVGG16-BN, batch 128; {tier}: {HOW[tier]}",
    )
    return Figure(
        path=png,
        title=f"Two steady steps: {who}, {cluster}, {tier}",
        tier=tier,
        caption="Numbers are mini-batches; white is idle time.",
    )


def scaling(results: Results, folder: Path) -> Figure:
    """Draw throughput over the number of devices, half of them of each kind."""
    rate = RATES[0]
    halves = {n: _half(n) for n in range(1, MOST_DEVICES + 1)}
    series: dict[str, Curve] = {
        who: (
            list(halves),
            [BATCH_SIZE / grid.simulated_s(half, who, rate) for half in halves.values()],
        )
        for who in SCALED
    }
    bounds_s = [grid.point(half, PLAN, rate).plan.bound_s for half in halves.values()]
    series["fractional bound"] = (list(halves), [BATCH_SIZE / bound_s for bound_s in bounds_s])
    points: dict[str, Curve] = {}
    for who in SCALED:
        step_s = {
            n: grid.emulated_s(results, cluster, who, rate)
            for cluster, n in (("1 + 1", 2), ("2 + 2", 4), ("4 + 4", 8))
        }
        rates = {n: BATCH_SIZE / seconds for n, seconds in step_s.items() if seconds is not None}
        if rates:
            points[who] = (list(rates), list(rates.values()))
    panel = Lines(
        series=series,
        points=points,
        points_label="emulated",
        x_label="devices, half TitanV (one more where odd), half TitanXp",
        y_label="samples/s",
        title=f"Strong scaling at {rate} Gb/s (simulated{', emulated' if results else ''})",
        from_zero=True,
    )
    return _figure(
        folder / "pipeline-scaling",
        [panel],
        results,
        title="Strong scaling",
        caption="A step has 128 samples whatever the number of devices. Lines are simulated, "
        "crosses emulated.",
    )


def _half(count: int) -> str:
    """The options' words for so many devices, with one TitanV more where the number is odd."""
    second = count // 2
    first = f"TitanV={count - second}"
    return f"{first},TitanXp={second}" if second else first
