"""`make gpu` on a CPU: its lines run, a part that fails or takes too long leaves what it had, and a
second call goes on. `make gpu DRY=1` runs all parts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.gpu.__main__ as program
from tests.gpu import figures, parts
from tests.gpu.parts import FULL, PARTS, SMALL, Part, Row, Scale
from tests.gpu.verdict import wrong

ROOT = Path(__file__).parents[1]
MODULE = "tests.test_dry_gpu"
GOOD = {"cloud": "sphere:4", "channels": 4, "dtype": "float32", "forward_s": 1e-5}


def dry_run(out: Path, *names: str) -> dict[str, Any]:
    """What `make gpu DRY=1` finds in some parts."""
    command = [sys.executable, "-m", "tests.dry_gpu", "--name", "dry", "--out", str(out)]
    done = subprocess.run(
        [*command, *(("--parts", *names) if names else ())],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((out / "gpu-dry.json").read_text())
    for name, part in found["parts"].items():
        assert part["end"] == "done", (name, part)
        assert part["rows"]
    return found


@pytest.mark.slow
def test_a_part_on_a_cpu(tmp_path: Path) -> None:
    versions, rates = dry_run(tmp_path, "machine")["parts"]["machine"]["rows"]
    assert versions["gpu"] == "an imitated GPU"
    assert rates["copy_bytes_per_s"] > 0


@pytest.mark.slow
def test_all_parts_on_a_cpu(tmp_path: Path) -> None:
    found = dry_run(tmp_path)
    assert list(found["parts"]) == [part.name for part in PARTS]
    assert len(found["parts"]["agreement"]["rows"]) == 2 * 3 * 5 * 2  # sizes, dtypes, rules
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"gpu-dry-verification.png", "gpu-dry-convolution.png"}
    assert {row.get("ranks") for row in found["parts"]["ranks"]["rows"]} == {1, 2}


def test_the_parts_have_eight_minutes() -> None:
    assert sum(part.limit_s for part in PARTS) <= program.LIMIT_S == 480
    assert len(FULL.checked) == 7


# The driver, with made-up parts in real processes.


def fine(scale: Scale) -> Iterator[Row]:
    yield {"cpu": 1.5}


def fails(scale: Scale) -> Iterator[Row]:
    yield {"cpu": 1.0}
    raise ValueError("no such kernel")


def hangs(scale: Scale) -> Iterator[Row]:
    yield {"cpu": 2.0}
    subprocess.run(["sleep", "100"])


MADE_UP = tuple(Part(name, MODULE, 20, "made up") for name in ("fine", "fails", "hangs"))


def run(folder: Path, names: list[str], limit_s: float = 60) -> dict[str, Any]:
    chosen = [part for part in MADE_UP if part.name in names]
    return program.run_all(chosen, folder / "gpu-x.json", limit_s, FULL, MODULE)


def test_a_part_that_fails_leaves_its_rows_and_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, ["fine", "fails"])
    assert found["parts"]["fine"]["rows"] == [{"cpu": 1.5}]
    failed = found["parts"]["fails"]
    assert failed["end"] == "failed with code 1"
    first, reason = failed["rows"]
    assert (first, reason["failed"]) == ({"cpu": 1.0}, "ValueError('no such kernel')")
    assert failed["errors"][-1] == "ValueError: no such kernel"
    assert wrong(found) == ["fails failed with code 1: ValueError: no such kernel"]
    # A second call repeats what is not done, and that alone.
    again = run(tmp_path, ["fine", "fails"])
    assert again["parts"]["fine"] == found["parts"]["fine"]
    assert "fine: done before" in capfd.readouterr().out


@pytest.mark.slow
def test_a_part_ends_at_its_limit_with_all_that_it_has_started(tmp_path: Path) -> None:
    found = run(tmp_path, ["hangs"], limit_s=20)
    hung = found["parts"]["hangs"]
    assert hung["end"].startswith("cut short after ")
    assert hung["rows"] == [{"cpu": 2.0}]
    assert wrong(found) == []


def test_without_time_left_nothing_begins(tmp_path: Path) -> None:
    assert run(tmp_path, ["fine"], limit_s=1)["parts"] == {}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"unlike_again": 1}, "decisions differ"),
        ({"unlike_pytorch": 3, "unlike_again": 0}, "decisions differ"),
        ({"faults": 1}, "decisions differ"),
        ({"same_again": False}, "another result at a second call"),
        ({"graph_equal": False}, "another result at a second call"),
        ({"scheme": "ps", "difference": 0.1}, "not one process's parameters"),
        ({"command": "pytest x", "exit_code": 1, "output": ["1 failed"]}, "pytest x ended with 1"),
    ],
)
def test_what_is_wrong_is_said(row: Row, said: str) -> None:
    (line,) = wrong({"parts": {"p": {"end": "done", "errors": [], "rows": [row]}}})
    assert line.startswith(said)


def test_what_is_right_is_not_said() -> None:
    rows = [
        {"unlike_pytorch": 1, "unlike_again": 0, "faults": 0},
        {"same_again": True, "graph_equal": None, "difference": 1e-6},
        {"command": "pytest x", "exit_code": 5, "output": ["deselected"]},
    ]
    assert wrong({"parts": {"p": {"end": "done", "errors": [], "rows": rows}}}) == []


def test_what_is_not_done_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    part = {"end": "cut short after 20 s", "errors": [], "rows": [], "took_s": 20.0}
    assert program.summarize({"parts": {"hangs": part}}, Path("found.json")) == 0
    assert "hangs: cut short after 20 s; call this again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"median": 1.23456e-3, "low": 1.0}, "0.001235"),
        (["ssss", "16 skipped"], "16 skipped"),
        ("python -m pytest " + 70 * "x", 60 * "x"),
        ([9, 0], "[9, 0]"),
    ],
)
def test_values_are_said_in_short(value: object, said: str) -> None:
    assert program._short(value) == said


def test_scales_have_the_same_subjects() -> None:
    assert SMALL.clouds
    assert set(vars(SMALL)) == set(vars(FULL))
    assert parts.PARTS[0].name == "machine"
    assert list(figures.draw_all({"parts": {}}, Path("none"))) == []


if __name__ == "__main__":
    _, _, name, path = sys.argv
    program.run_part(next(part for part in MADE_UP if part.name == name), Path(path), SMALL)
