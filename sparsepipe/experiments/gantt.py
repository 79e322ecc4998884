"""A pipeline's steps over time, as a Gantt chart: one row a rank.

    draw(folder / "pipeline", pipeline.spans, title="... (simulated)", window_s=two_steps(pipeline))

Forward and backward are boxes with their micro-batch's number; white is idle time. Writes PNG, PDF
and the CSV of exactly what was drawn.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from sparsepipe.schedule.lists import ActionKind
from sparsepipe.schedule.play import PlayedSchedule, Span
from systems.figures.draw import COLOURS, SIZE_INCHES, save

COLOUR_OF = {
    ActionKind.FORWARD: COLOURS[0],
    ActionKind.BACKWARD: COLOURS[1],
    ActionKind.REDUCE: COLOURS[2],
    ActionKind.UPDATE: COLOURS[3],
}
HATCHES = ("", "///", "...", "xxx", "+++", "ooo")
"""The hatches of a rank's first, second, ... stage."""
NARROWEST_LABEL = 0.012
"""Boxes narrower than this part of the window have no number."""


def two_steps(pipeline: PlayedSchedule) -> tuple[float, float]:
    """A window of two steps in the middle of the steady state."""
    start_s, end_s = pipeline.steady_s()
    middle_s = max(start_s, (start_s + end_s) / 2 - pipeline.step_s)
    return middle_s, middle_s + 2 * pipeline.step_s


def traced_spans(trace: Path, dilate: float = 1) -> list[Span]:
    """The spans of a run's `trace.json` (systems.runs.trace) that are steps of a schedule, with all
    times divided by `dilate`."""
    events = json.loads(trace.read_text())["traceEvents"]
    steps = [event for event in events if "micro_batch" in event.get("args", {})]
    start_us = min((event["ts"] for event in steps), default=0.0)
    return [
        Span(
            event["pid"],
            event["name"],
            event["args"]["stage"],
            event["args"]["micro_batch"],
            (event["ts"] - start_us) / 1e6 / dilate,
            (event["ts"] + event["dur"] - start_us) / 1e6 / dilate,
        )
        for event in steps
    ]


def draw(
    path: Path,
    spans: Iterable[Span],
    *,
    title: str,
    window_s: tuple[float, float],
    names: Sequence[str] = (),
    footnote: str = "",
) -> Path:
    """Draw what computes inside the window into `path`.png, .pdf and .csv; returns the PNG's path.

    Args:
        title: says the tier.
        names: of the ranks, for the rows; by default their numbers.
    """
    start_s, end_s = window_s
    shown = [
        span
        for span in spans
        if span.action in COLOUR_OF and span.end_s > start_s and span.start_s < end_s
    ]
    ranks = sorted({span.rank for span in shown})
    width, height = SIZE_INCHES
    canvas = Canvas(figsize=(width * 1.4, max(height / 2, 0.6 * len(ranks) + 1.4)))
    canvas.set_layout_engine("constrained")
    axis = canvas.subplots()
    for row, rank in enumerate(ranks):
        _row(axis, row, [span for span in shown if span.rank == rank], window_s)
    labels = [names[rank] if names else f"rank {rank}" for rank in ranks]
    axis.set_yticks(range(len(ranks)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, (end_s - start_s) * 1e3)
    axis.set_xlabel("ms")
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    canvas.legend(handles=_legend(shown), fontsize=7, frameon=False, loc="outside right upper")
    canvas.supxlabel(footnote, fontsize=7, color="#555555")
    return save(canvas, path, _rows(shown, start_s))


def _row(axis: Axes, row: int, spans: Sequence[Span], window_s: tuple[float, float]) -> None:
    """Draw one rank's boxes, cut off at the window, in a row of the chart."""
    start_s, end_s = window_s
    stages = sorted({span.stage for span in spans})
    for span in spans:
        left_s, right_s = max(span.start_s, start_s), min(span.end_s, end_s)
        axis.barh(
            row,
            (right_s - left_s) * 1e3,
            left=(left_s - start_s) * 1e3,
            height=0.8,
            color=COLOUR_OF[ActionKind(span.action)],
            edgecolor="white",
            linewidth=0.5,
            hatch=HATCHES[stages.index(span.stage) % len(HATCHES)],
        )
        if right_s - left_s > NARROWEST_LABEL * (end_s - start_s):
            middle_ms = ((left_s + right_s) / 2 - start_s) * 1e3
            style: dict[str, Any] = {"fontsize": 7, "color": "white", "fontweight": "bold"}
            style |= {"ha": "center", "va": "center", "clip_on": True}
            axis.text(middle_ms, row, str(span.micro_batch), **style)


def _legend(spans: Sequence[Span]) -> list[Patch]:
    """The legend: kinds of step, and the hatches of a rank's stages where one has several."""
    present = {span.action for span in spans}
    handles = [
        Patch(color=COLOUR_OF[action], label=action) for action in COLOUR_OF if action in present
    ]
    stages = [{s.stage for s in spans if s.rank == rank} for rank in {s.rank for s in spans}]
    most = max(map(len, stages), default=0)
    if most < 2:
        return handles
    words = ("first", "second", "third", "fourth", "fifth", "sixth")
    return handles + [
        Patch(facecolor="#999999", edgecolor="white", hatch=hatch, label=f"the rank's {word} stage")
        for hatch, word in zip(HATCHES[:most], words, strict=False)
    ]


def _rows(spans: Sequence[Span], start_s: float) -> Iterator[list[str | float]]:
    """The rows of the CSV; times are in ms from the window's start."""
    yield ["rank", "stage", "step", "micro_batch", "start_ms", "end_ms"]
    for span in spans:
        times = ((span.start_s - start_s) * 1e3, (span.end_s - start_s) * 1e3)
        yield [span.rank, span.stage, span.action, span.micro_batch, *times]
