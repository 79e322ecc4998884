"""Figures come as PNG and PDF with the CSV of exactly what was drawn."""

import csv
from dataclasses import replace
from pathlib import Path

from systems.figures.draw import Agreement, Bars, Lines, Panel, draw

BARS = Bars(
    groups=["alexnet", "vgg16"],
    series={"stanza": [[3.0, 5.0, 4.0], [2.0]], "ddp": [[1.0], []]},
    unit="x",
    title="speed-up (simulated)",
    paper_range=(1.34, 13.9),
    reference=1.0,
    logarithmic=True,
)
LINES = Lines(
    series={"stanza": ([0, 1, 2], [2.3, 1.0, 0.5]), "ddp": ([0, 1], [2.3, 1.1])},
    x_label="step",
    y_label="loss",
    title="loss (measured)",
)


def drawn(path: Path, *panels: Panel) -> Path:
    """The PNG of a figure of these panels."""
    figure = draw(path, panels, "footnote", title="A figure", tier="measured", caption="Text.")
    assert (figure.title, figure.tier, figure.caption) == ("A figure", "measured", "Text.")
    return figure.path


def rows_of(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))


def test_every_figure_has_png_pdf_and_csv(tmp_path: Path) -> None:
    png = drawn(tmp_path / "new" / "figure", BARS, LINES)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert png.with_suffix(".csv").is_file()


def test_the_csv_holds_every_value_and_the_papers(tmp_path: Path) -> None:
    rows = rows_of(drawn(tmp_path / "figure", BARS).with_suffix(".csv"))
    title = BARS.title
    assert rows[0] == ["panel", "series", "x", "value", "unit"]
    assert [title, "paper", "", "13.9", "x"] in rows
    values = [row[3] for row in rows if row[1] == "stanza" and row[2] == "alexnet"]
    assert values == ["3.0", "5.0", "4.0"]
    assert len(rows) == 1 + 2 + 5


def test_the_csv_of_error_bars_holds_their_ends(tmp_path: Path) -> None:
    spread = {"ddp": ([2.0, 1.0], [2.5, 1.1])}
    lines = replace(LINES, spread=spread, legend_below=True)
    rows = rows_of(drawn(tmp_path / "figure", lines).with_suffix(".csv"))
    assert ["loss (measured)", "ddp, least", "1", "1.0", "loss"] in rows
    assert ["loss (measured)", "ddp, largest", "0", "2.5", "loss"] in rows
    assert len(rows) == 1 + 5 + 4


def test_the_csv_of_lines_holds_every_point(tmp_path: Path) -> None:
    rows = rows_of(drawn(tmp_path / "figure", LINES).with_suffix(".csv"))
    assert ["loss (measured)", "stanza", "2", "0.5", "loss"] in rows
    assert len(rows) == 1 + 5


def test_a_figure_is_the_same_file_each_time(tmp_path: Path) -> None:
    first = drawn(tmp_path / "a", LINES)
    second = drawn(tmp_path / "b", LINES)
    assert first.read_bytes() == second.read_bytes()


def test_crosses_and_agreement_are_in_the_csv(tmp_path: Path) -> None:
    crosses = replace(LINES, points={"stanza": ([1], [1.1])}, points_label="emulated")
    panel = Agreement(
        series={"ddp": ([400.0], [404.0])},
        x="simulated step time",
        y="emulated step time",
        unit="ms",
        title="two tiers",
        band=0.1,
    )
    rows = rows_of(drawn(tmp_path / "figure", crosses, panel).with_suffix(".csv"))
    assert ["loss (measured)", "stanza, emulated", "1", "1.1", "loss"] in rows
    assert ["two tiers", "ddp", "400.0", "404.0", "ms"] in rows
