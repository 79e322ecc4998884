"""`testbed validate`: tables, a figure, and the JSON of every plan."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from tests.systems.validation.synthetic import plan, write, write_costs


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three plans, one of which has no profile."""
    monkeypatch.delenv("TESTBED_DATA", raising=False)
    write_costs(tmp_path)
    folder = tmp_path / "plans"
    write(folder / "good.json", plan([[("A", 2)] * 2, [("A", 2)] * 2], real=0.2))
    write(folder / "deep/er/mixed.json", plan([[("A", 1)], [("B", 1)]], real=0.5))
    write(folder / "missing.json", plan([[("A", 1)]], mbs=3))
    return folder


def test_every_plan_is_printed_drawn_and_written(
    plans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["validate", "--plans", str(plans), "--out", str(out)])
    text = capsys.readouterr().out
    assert "tier simulated against published" in text.splitlines()[0]
    assert "mixed GPUs" in text
    assert "host_s" in text
    assert "missing: no profile of TINY-1 on A at micro-batch 3" in text
    assert all((out / f"validation.{kind}").is_file() for kind in ("png", "pdf", "csv"))
    written = json.loads((out / "validation.json").read_text())
    found = {one["plan"]: one for one in written["plans"]}
    assert set(found) == {"good", "deep/er/mixed"}
    good = found["good"]
    assert good["measured_s"] == 0.2
    assert good["error"] == pytest.approx(good["predicted_s"] / 0.2 - 1)
    assert good["memory_bytes"]["measured"] == 5 * 10**9
    assert [one["name"] for one in written["left_out"]] == ["missing"]


def test_a_folder_of_nothing_but_unusable_plans_is_told(
    plans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "deep/er/mixed"):
        (plans / f"{name}.json").unlink()
    main(["validate", "--plans", str(plans), "--out", str(tmp_path / "out")])
    assert "left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--plans (none): TESTBED_DATA is not set"),
        (["--plans", "nowhere"], "--plans nowhere: no such folder"),
        (["--plan", "x"], "--plan"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TESTBED_DATA", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["validate", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert told in error
    assert error.count("\n") == 1
