"""Draws what was found: times of verification against the bandwidth, and of convolutions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from systems.figures.draw import Bars, draw
from systems.figures.experiment import Figure


def draw_all(found: dict[str, Any], path: Path) -> Iterator[Path]:
    """Draw the parts that have rows; yields the paths of the pictures, which lie beside `path`."""
    rows = {
        name: [row for row in part["rows"] if "failed" not in row]
        for name, part in found["parts"].items()
    }
    machine = (rows.get("machine") or [{}])[0]
    footnote = f"medians; {machine.get('gpu', 'GPU')}, torch {machine.get('torch', '?')}"
    for name, panels in (
        ("verification", list(_verification(rows.get("verification", [])))),
        ("convolution", list(_convolution(rows.get("convolution", [])))),
    ):
        if panels:
            figure: Figure = draw(
                path.with_name(f"{path.stem}-{name}"),
                panels,
                footnote,
                title=f"{name} on {machine.get('gpu', 'a GPU')}",
                tier="measured",
                caption="",
            )
            yield figure.path


def _verification(rows: list[dict[str, Any]]) -> Iterator[Bars]:
    """For each vocabulary, the share of a copy's rate that every method reaches."""
    for vocabulary in dict.fromkeys(row["vocabulary"] for row in rows):
        mine = [row for row in rows if row["vocabulary"] == vocabulary]
        shares: dict[str, dict[str, float]] = {}
        for row in mine:
            if "share_of_copy" in row and row["method"] != "transformers":
                group = f"B {row['batch']}, {row['gamma']}\n{row['dtype']}"
                shares.setdefault(row["method"], {})[group] = row["share_of_copy"]
        groups = list(dict.fromkeys(group for one in shares.values() for group in one))
        yield Bars(
            groups=groups,
            series={m: [[of.get(g, 0.0)] for g in groups] for m, of in shares.items()},
            unit="bytes of the floor, over a copy's rate",
            title=f"V = {vocabulary:,} (measured)",
            reference=1.0,
        )


def _convolution(rows: list[dict[str, Any]]) -> Iterator[Bars]:
    """For each cloud, the time of the three passes and of a product of as many pairs."""
    passes = {
        "forward": "forward_s",
        "gradient of inputs": "input_gradient_s",
        "gradient of weights": "weight_gradient_s",
        "GEMM of as many pairs": "gemm_of_as_many_pairs_s",
    }
    for cloud in dict.fromkeys(row["cloud"] for row in rows):
        mine = [row for row in rows if row["cloud"] == cloud and passes["forward"] in row]
        ours = [row for row in mine if "engine" not in row]
        if ours:
            yield Bars(
                groups=[f"{row['channels']}\n{row['dtype']}" for row in ours],
                series={name: [[row[key] * 1e6] for row in ours] for name, key in passes.items()},
                unit="us",
                title=f"{cloud} (measured)",
                logarithmic=True,
            )
