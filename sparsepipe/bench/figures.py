"""The figure of contests: how many times longer others take than our engine."""

from collections.abc import Sequence
from pathlib import Path

from sparsepipe.bench.contest import OURS, Row, ratios
from sparsepipe.bench.passes import PARTS
from sparsepipe.bench.published import DURATIONS, SPEEDS
from systems.figures.draw import Bars, Panel, draw
from systems.figures.experiment import Figure
from systems.figures.text import machine

UNITS = {"wall_s": f"time over {OURS}'s", "processor_s": f"time on a core over {OURS}'s"}
"""What bars show, by the clock."""
SHORT_WAYS = {"stride 2": "down", "transposed": "up"}
"""How strided kernel maps are called below bars."""


def draw_contests(rows: Sequence[Row], folder: Path) -> Figure:
    """Draw a panel for training and for inference of layers, for networks and for kernel maps, and
    beside them what others have published."""
    timed = [row for row in rows if row.wall_s]
    first = rows[0].contest
    where = f"{first.device}, {first.threads} thread(s)"
    layers = [row for row in timed if row.contest.channels]
    networks = [row for row in timed if row.contest.network]
    maps = [row for row in timed if row.part in PARTS["maps"]]
    panels = [
        _panel([row for row in layers if row.part == "train"], "Layers, forward and backward"),
        _panel([row for row in layers if row.part == "infer"], "Layers, inference"),
        _panel([row for row in networks if row.part in ("train", "infer")], "Networks"),
        _panel(maps, "Kernel maps"),
    ]
    return draw(
        folder / "sparse-engines",
        [*(panel for panel in panels if panel is not None), _published_speeds(), _durations()],
        f"bars: medians of rounds in which engines take turns, dots: rounds; {where}; {machine()}",
        title="Sparse convolution, engine by engine",
        tier="measured",
        caption="How many times longer others take than this package's engine, on the same voxels, "
        "in turns; kernel maps of stride 2 lead down, transposed ones up. Published values are of "
        "other networks on other devices.",
    )


def _panel(rows: Sequence[Row], title: str) -> Bars | None:
    """Bars of every engine over ours; None where only ours has times."""
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(_case(row), []).append(row)
    others = dict.fromkeys(row.engine for row in rows if row.engine != OURS)
    if not others:
        return None
    clock = rows[0].contest.clock
    alone = f", {next(iter(others))}" if len(others) == 1 else ""  # it has no legend
    return Bars(
        groups=list(cases),
        series={
            engine: [ratios(case, engine, case[0].part, clock=clock) for case in cases.values()]
            for engine in others
        },
        unit=UNITS[clock],
        title=f"{title}{alone} (measured)",
        reference=1.0,
        logarithmic=True,
    )


def _case(row: Row) -> str:
    """What a group of bars has in common, in short lines."""
    kind = row.contest.cloud.replace(":", "~").partition("~")[0]
    if row.part in PARTS["maps"]:
        _, kernel, *way = row.part.split(" ", 2)
        first = [kernel, *(SHORT_WAYS[word] for word in way)]
    else:
        first = row.contest.work.removeprefix("mink").removesuffix("-bn").split(" ")
        first += [row.part] if row.contest.network else []
    count = f"{row.voxels / 1e3:.0f}k" if row.voxels >= 1000 else str(row.voxels)
    return "\n".join([*first, count, kind])


def _published_speeds() -> Panel:
    """The speeds that others have published: a group for each slower engine and work."""
    groups = dict.fromkeys((one.engine, one.what) for one in SPEEDS)
    series: dict[str, dict[tuple[str, str], float]] = {}
    for one in SPEEDS:
        label = f"over {one.over} on {one.hardware}, {one.how}"
        series.setdefault(label, {})[one.engine, one.what] = one.times
    return Bars(
        groups=[f"{engine}\n{what}".replace(" ", "\n") for engine, what in groups],
        series={
            label: [[found[group]] if group in found else [] for group in groups]
            for label, found in series.items()
        },
        unit="time over the faster one's",
        title="Other engines on GPUs (published)",
        reference=1.0,
        published=tuple(series),
    )


def _durations() -> Panel:
    """The times that spconv's author has published."""
    devices = list(dict.fromkeys(one.hardware for one in DURATIONS))
    parts = ("forward", "backward")
    return Bars(
        groups=[device.replace(" ", "\n") for device in devices],
        series={
            part: [
                [
                    one.milliseconds
                    for one in DURATIONS
                    if (one.part, one.hardware) == (part, device)
                ]
                for device in devices
            ]
            for part in parts
        },
        unit="ms",
        title=f"{DURATIONS[0].engine} on its own network, float16 (published)",
        published=parts,
    )
