"""What the figure of a sweep shows, and on which axis."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure as Canvas

from launch.installed import system
from launch.sweep.groups import Group, group
from launch.sweep.picture import Picture, choose_x, draw_sweep
from launch.sweep.points import Point
from launch.sweep.rows import Row
from systems.figures import draw
from systems.schema import InputError

NAMES = ("scheme", "nodes", "seed")


def row(rate: float | None, repetition: int = 0, tier: Any = "measured", **values: Any) -> Row:
    return Row(
        point=Point(tier=tier, repetition=repetition, values={**values, "seed": 7}),
        job=system("stanza").job(world_size=values["nodes"], seed=7),
        samples_per_s=rate,
    )


ROWS = [
    row(10.0, scheme="ddp", nodes=2),
    row(30.0, scheme="stanza", nodes=2),
    row(10.0, 1, scheme="ddp", nodes=2),
    row(20.0, 1, scheme="stanza", nodes=2),
    row(50.0, 2, scheme="stanza", nodes=2),  # its baseline has failed
    row(None, 2, scheme="ddp", nodes=2),
    row(4.0, scheme="ddp", nodes=4),
    row(2.0, scheme="stanza", nodes=4),
    row(1.0, scheme="ddp", nodes=8, tier="simulated"),
    row(5.0, scheme="stanza", nodes=8, tier="simulated"),
]


def drawn(groups: Sequence[Group], folder: Path, **baseline: Any) -> list[dict[str, str]]:
    picture = Picture(
        job=system("stanza").job(),
        x="nodes",
        baseline=baseline,
        machines={"measured": ["a machine"], "simulated": [""]},
        failed=1,
    )
    png = draw_sweep(picture, groups, folder)
    assert png is not None
    with png.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


def test_speed_ups_pair_the_repetitions() -> None:
    (_, stanza), *_ = [
        [g for g in group(ROWS, NAMES, {"scheme": "ddp"}) if g.values["nodes"] == nodes]
        for nodes in (2, 4)
    ]
    assert stanza.samples_per_s == (30.0, 20.0, 50.0)
    assert stanza.speed_ups == (3.0, 2.0)


def test_tiers_have_a_panel_each_and_the_baseline_is_a_line_at_1(tmp_path: Path) -> None:
    rows = drawn(group(ROWS, NAMES, {"scheme": "ddp"}), tmp_path, scheme="ddp")
    found = [(row["panel"].split(", ")[1], row["series"], float(row["x"])) for row in rows]
    values = [float(row["value"]) for row in rows]
    assert dict(zip(found, values, strict=True)) == {
        ("measured", "stanza", 2.0): 2.5,
        ("measured", "stanza", 4.0): 0.5,
        ("measured", "stanza, least", 2.0): 2.0,
        ("measured", "stanza, least", 4.0): 0.5,
        ("measured", "stanza, largest", 2.0): 3.0,
        ("measured", "stanza, largest", 4.0): 0.5,
        ("simulated", "stanza", 8.0): 5.0,
    }
    assert {row["panel"].rpartition(", ")[2] for row in rows} == {"n=1-2", "n=1"}


def test_the_smallest_world_may_be_the_baseline(tmp_path: Path) -> None:
    rows = drawn(group(ROWS[6:8] + ROWS[:2], NAMES, {"nodes": 2}), tmp_path, nodes=2)
    assert {(row["series"], row["value"]) for row in rows} == {
        ("ddp", "0.4"),
        ("stanza", repr(2 / 30)),
    }


def test_without_a_baseline_every_series_is_drawn(tmp_path: Path) -> None:
    rows = drawn(group(ROWS, NAMES, {}), tmp_path)
    assert {row["series"].partition(",")[0] for row in rows} == {"ddp", "stanza"}
    assert {row["unit"] for row in rows} == {"samples/s"}


def test_panels_compare_at_a_glance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One y range for all tiers, ticks where something ran, and rates with their unit."""
    canvases: list[Canvas] = []
    save = draw.save

    def saved(canvas: Canvas, path: Path, rows: Any) -> Path:
        canvases.append(canvas)
        return save(canvas, path, rows)

    monkeypatch.setattr(draw, "save", saved)
    points = [
        row(rate, tier=tier, scheme="ddp", nodes=nodes, bandwidth=bandwidth)
        for tier, rate in (("measured", 10.0), ("simulated", 300.0))
        for nodes in (2, 3, 5)
        for bandwidth in (5e8, 1e10)
    ]
    points = [replace(each, bandwidth_bits_per_s=each.point.values["bandwidth"]) for each in points]
    rows = drawn(group(points, ("bandwidth", *NAMES), {}), tmp_path)
    assert {row["series"] for row in rows} == {"0.5 Gb/s", "10 Gb/s"}
    measured, simulated = canvases[0].axes
    assert measured.get_ylim() == simulated.get_ylim()
    assert simulated.get_ylim()[0] == 0
    assert simulated.get_ylim()[1] > 300
    assert list(measured.get_xticks()) == list(simulated.get_xticks()) == [2, 3, 5]


@pytest.mark.parametrize(
    ("values", "x"),
    [
        ({"seed": [0, 1], "nodes": [2, 4]}, "nodes"),
        ({"nodes": [2], "bandwidth": [1e9, 1e10]}, "bandwidth"),
        ({"scheme": ["ddp", "ps"], "micro-batches": [1, 2]}, "micro-batches"),
        ({"micro-batches": ["auto", 2], "steps": [4]}, "steps"),
        ({"scheme": ["ddp", "ps"], "trace": [True, False]}, None),
    ],
)
def test_the_x_axis_is_the_first_variable_with_numbers(
    values: dict[str, list[Any]], x: str | None
) -> None:
    assert choose_x(values, None) == x


def test_another_x_axis_must_have_numbers() -> None:
    values: dict[str, list[Any]] = {"scheme": ["ddp"], "nodes": [2, 4], "seed": [0, 1]}
    assert choose_x(values, "seed") == "seed"
    with pytest.raises(InputError, match=r"--x scheme: .*with numbers: nodes, seed"):
        choose_x(values, "scheme")
