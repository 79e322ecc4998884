"""The benchmarks as users start them: a table, rows with their machine, and a figure."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from sparsepipe.system.bench_command import with_data

BENCH = [sys.executable, "-m", "launch", "bench"]


@pytest.mark.distributed
def test_every_engine_that_is_here_has_its_rows(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    flags = ["--clouds", "sphere:12", "shapes~150", "--channels", "4", "--repetitions", "2"]
    flags += ["--networks", "--engines", "native", "spconv", "torchsparse", "dense", "gemm"]
    done = subprocess.run(
        [*BENCH, "sparse", *flags, "--out", str(folder)], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert "tier measured" in done.stdout
    assert "without torchsparse: " in done.stdout
    saved = json.loads((folder / "rows.json").read_text())
    assert saved["environment"]["packages"]["torch"]
    assert saved["command"][:5] == ["python", "-m", "launch", "bench", "sparse"]
    with (folder / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    measured = [line for line in table if line["tier"] == "measured" and line["n"] == "2"]
    timed = {(line["engine"], line["part"], line["cloud"]) for line in measured}
    for cloud in ("sphere:12", "shapes~150"):
        steps = {("native", part, cloud) for part in ("train", "forward", "backward", "infer")}
        maps = {
            ("native", f"map {map_}", cloud) for map_ in ("3^3", "2^3 stride 2", "3^3 transposed")
        }
        assert steps | maps | {("dense", "infer", cloud), ("gemm", "train", cloud)} <= timed
    for line in measured:
        assert float(line["low_quartile_ms"]) <= float(line["median_ms"])
        assert min(float(line[name]) for name in ("processor_ms", "load", "times")) >= 0
        assert (line["device"], line["threads"], line["over"]) == ("cpu", "1", "native")
    others = [line for line in table if line["tier"] == "published"]
    assert all(line["source"] and line["device"] and not line["cloud"] for line in others)
    assert "A100" in (folder / "table.md").read_text()
    assert (folder / "sparse-engines.png").is_file()
    assert "Kernel maps" not in (folder / "sparse-engines.csv").read_text()  # ours alone has them


def test_no_data_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path))
    assert list(with_data()) == ["shapes~2000", "shapes~10000", "shapes~48000"]
    assert "no data for kitti~2000" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "sparse", "--clouds", "kitti~2000"])
    assert "cloud 'kitti~2000': no data in $TESTBED_DATA/lidar" in capsys.readouterr().err


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
        (["sparse", "--channels", "-3"], "--channels -3"),
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
