"""The benchmarks as users start them: a table, rows with their machine, and a figure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main

BENCH = [sys.executable, "-m", "launch", "bench"]


@pytest.mark.distributed
def test_every_engine_that_is_installed_has_its_rows(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    flags = ["--resolutions", "12", "20", "--channels", "4", "--repetitions", "2"]
    done = subprocess.run(
        [*BENCH, "sparse", *flags, "--out", str(folder)], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert "tier measured" in done.stdout
    saved = json.loads((folder / "rows.json").read_text())
    timed = {
        (row["engine"], row["contest"]["cloud"])
        for row in saved["rows"]
        if len(row["pass_s"]) == 2 and min(row["pass_s"]) > 0
    }
    sides = ("sphere:12", "sphere:20")
    assert {(engine, side) for engine in ("native", "dense") for side in sides} <= timed
    assert saved["environment"]["packages"]["torch"]
    assert (folder / "sparse-against-dense.png").is_file()
    assert "native" in (folder / "sparse-against-dense.csv").read_text()


@pytest.mark.distributed
@pytest.mark.slow
def test_verification_has_rows_of_every_method(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "rows.json"
    flags = ["--vocabularies", "300", "--gammas", "1", "3", "--batches", "2", "--repetitions", "2"]
    done = subprocess.run(
        [*BENCH, "speculative", *flags, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "tier measured" in done.stdout
    saved = json.loads(out.read_text())
    assert len(saved["rows"]) == 2 * 5
    assert saved["copy_bytes_per_s"] > 0
    assert saved["command"][:5] == ["python", "-m", "launch", "bench", "speculative"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dense"], "bench dense: names no system"),
        (["sparse", "--threads", "0"], "--threads 0"),
        (["sparse", "--resolutions", "-3"], "--resolutions -3"),
        (["speculative", "--gammas", "0"], "--gammas 0"),
        (["speculative", "--out", "no/rows.json"], "--out no/rows.json"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert said in text
    assert len(text.splitlines()) == 1
