"""A GPU's rows become claims; the rows are made up here."""

from pathlib import Path

import pytest

from speculative import bench
from speculative.bench import Row
from speculative.experiments import gpu
from systems import schema
from systems.measure import Spread
from systems.runs import record
from systems.schema import InputError

SECONDS = {
    "transformers": 30.0,
    "two softmaxes": 5.0,
    "exact": 2.0,
    "sigmoid": 1.0,
    "calibrated": 1.5,
}


def rows() -> list[Row]:
    def one(case: bench.Case, method: str) -> Row:
        seconds = SECONDS[method] * case.batch * 1e-5
        whole = Spread(median=seconds, low=seconds, high=seconds, n=3)
        has_graph = method != "transformers"
        return Row(
            case=case,
            method=method,
            call_s=whole,
            graph_s=whole if has_graph else None,
            graph_equal=True if has_graph and method != "two softmaxes" else None,
            acceptance=0.7,
            floor_bytes=case.floor_bytes(method),
        )

    grid = [32_000, 128_256], [8], bench.BATCHES["cuda"], bench.LOGITS["cuda"]
    return [one(case, m) for case in bench.cases(*grid, "cuda", 1) for m in bench.METHODS]


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / bench.file_name("cuda")
    saved = {"environment": {"gpus": ["A GPU"]}, "copy_bytes_per_s": 5e11}
    record.write_json(path, {**saved, "rows": schema.dump(rows())})
    return path


def test_a_benchmark_becomes_claims(benchmark: Path, tmp_path: Path) -> None:
    results = gpu.measure("quick", tmp_path / "records")
    benchmark.unlink()
    assert gpu.measure("quick", tmp_path / "records") == results  # it was kept
    outcome = gpu.conclude(results, tmp_path / "figures")
    claims = {c.id: c for c in outcome.claims}
    assert len(claims) == len(outcome.claims) == 2 * (2 + 3) + 1
    shares = claims["speculative.exact-bandwidth.gpu-b-64-float32.measured"]
    floor = 17 * 64 * 128_256 * 4
    assert shares.ours == pytest.approx(floor / (64 * 2e-5) / 5e11)
    faster = claims["speculative.exact-over-transformers.gpu-b-1-bfloat16.measured"]
    assert (faster.ours, faster.status) == (pytest.approx(15), "pass")
    saved = claims["speculative.sigmoid-less-time.gpu-b-1-float32.measured"]
    assert (saved.ours, saved.status) == (pytest.approx(100 * 29 / 30), "pass")
    assert claims["speculative.graph-replays-unlike.gpu.measured"].ours == 0
    assert outcome.figures[0].path.is_file()
    assert outcome.notes[0].count("\n") == 3 + len(rows())


def test_without_a_gpu_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    results = gpu.measure("quick", tmp_path / "records")
    outcome = gpu.conclude(results, tmp_path / "figures")
    assert (results, outcome.claims) == ({}, ())
    assert "testbed bench speculative --device cuda" in outcome.notes[0]


def test_a_file_of_something_else_is_refused(benchmark: Path, tmp_path: Path) -> None:
    benchmark.write_text('{"rows": [], "copy_bytes_per_s": 1, "environment": {"gpus": []}}')
    with pytest.raises(InputError, match="no benchmark of a GPU"):
        gpu.measure("quick", tmp_path / "records")
