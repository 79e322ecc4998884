"""How the points of a sweep are run: in ranks of their own, in shared emulated worlds, or not."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from launch.__main__ import main
from launch.commands import sweep_tiers
from systems.job import Job
from tests import shaped
from tests.emulation import needs_emulation
from tests.launch.commands.test_sweep import DIGITS, VGG16, refused, table

SHORT = ["--launcher", "local", "--stanza.steps", "4", "--stanza.warm-up-steps", "1"]


@pytest.mark.distributed
def test_a_measured_point_has_the_figures_of_its_record(tmp_path: Path) -> None:
    over = ["--over", "batch-size=48,2000", "--world-size", "2", "--stanza.scheme", "ddp"]
    main([*DIGITS, *SHORT, *over, "--tier", "measured", "--out", str(tmp_path)])
    row, too_large = table(tmp_path / "sweep.csv")
    assert (too_large["batch_size"], row["batch_size"], row["nodes"]) == ("2000", "48", "2")
    assert "1437" in too_large["error"]  # there are not more samples
    result = json.loads(Path(row["record"], "result.json").read_text())
    assert float(row["samples_per_s"]) == result["samples_per_s"]
    assert int(row["batch_size"]) == result["samples_per_step"]
    assert row["measured_steps"] == "3"
    assert 0 < float(row["step_s"]) <= float(row["step_p90_s"]) <= float(row["step_p99_s"])
    assert float(row["utilisation"]) > 0
    assert int(row["peak_memory_bytes"]) > 2**20
    assert "cores" in row["machine"]


def test_all_points_have_their_turn_before_any_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speed-ups are those of one repetition: what slows the machine down slows both points."""
    rates = {("ddp", 0): 10.0, ("single", 0): 20.0, ("ddp", 1): 4.0, ("single", 1): 12.0}
    turns: list[tuple[str, int]] = []

    def run(job: Job, folders: list[Path], **_: Any) -> int:
        turns.append((job.options.scheme, job.seed))
        result = {"tier": "measured", "samples_per_s": rates[job.options.scheme, job.seed]}
        (folders[0] / "result.json").write_text(json.dumps({**result, "usage": []}))
        return 0

    monkeypatch.setattr(sweep_tiers, "run_ranks", run)
    flags = ["--tier", "measured", "--repetitions", "2", "--baseline", "scheme=ddp"]
    over = ["--over", "scheme=ddp,single", "nodes=1"]
    main([*DIGITS, *over, *flags, "--out", str(tmp_path)])
    assert turns == list(rates)
    drawn = {row["series"]: float(row["value"]) for row in table(tmp_path / "speed-up.csv")}
    ratios = [20 / 10, 12 / 4]
    assert drawn == {
        "single": median(ratios),
        "single, least": min(ratios),
        "single, largest": max(ratios),
    }


@needs_emulation
@pytest.mark.distributed
def test_emulated_points_share_a_world_and_are_drawn_beside_simulated_ones(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ["--stanza.model", "alexnet", "--stanza.steps", "3", "--stanza.warm-up-steps", "1"]
    small += ["--stanza.local-batch-size", "None", "--stanza.global-batch-size", "101"]
    over = ["--over", "scheme=stanza,ddp", "nodes=1,2", "--scale", "1000", "--dilate", "0.5"]
    main([*VGG16, *small, *over, "--tier", "simulated", "emulated", "--out", str(tmp_path)])
    assert "2 runs on 2 emulated nodes" in capfd.readouterr().out
    rows = {(r["tier"], r["scheme"], r["nodes"]): r for r in table(tmp_path / "sweep.csv")}
    assert "a single node has no link" in rows["emulated", "ddp", "1"]["error"]
    emulated = rows["emulated", "ddp", "2"]
    assert float(emulated["bandwidth_bits_per_s"]) == 10e9
    assert {row["batch_size"] for row in rows.values() if not row["error"]} == {"101"}
    assert float(emulated["step_s"]) > float(rows["simulated", "ddp", "1"]["step_s"])
    panels = {row["panel"] for row in table(tmp_path / "samples-per-s.csv")}
    assert len(panels) == 2


def test_a_world_that_ends_early_fails_one_point_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folders: list[Path], **_: Any) -> int:
        for folder in folders:
            if "ddp" in folder.name:
                return 3
            (folder / "result.json").write_text('{"tier": "emulated", "samples_per_s": 1.0}')
        return 0

    monkeypatch.setattr(sweep_tiers, "run_emulated", run)
    monkeypatch.setattr(sweep_tiers, "unavailable", lambda: None)
    over = ["--over", "scheme=stanza,ddp,ps", "nodes=4", "--tier", "emulated"]
    main([*VGG16, *over, "--out", str(tmp_path)])
    rows = {row["scheme"]: row for row in table(tmp_path / "sweep.csv")}
    assert "ended with code 3" in rows["ddp"]["error"]
    assert [rows[name]["samples_per_s"] for name in ("stanza", "ps")] == ["1.0", "1.0"]


def test_shaped_points_of_one_cluster_share_a_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds: list[int] = []

    def run(folders: list[Path], **_: Any) -> int:
        worlds.append(len(folders))
        for folder in folders:
            (folder / "result.json").write_text('{"tier": "shaped", "samples_per_s": 1.0}')
        return 0

    monkeypatch.setattr(sweep_tiers, "run_shaped", run)
    monkeypatch.setattr(sweep_tiers, "measure_shaped", lambda job, shape: shaped.measured(shape))
    monkeypatch.setattr(sweep_tiers, "unavailable", lambda: None)
    monkeypatch.setattr("launch.commands.shape.check_available", lambda: None)
    digits = ["sweep", "launch/jobs/stanza-digits.toml", "--cluster", "four-100m"]
    over = ["--over", "scheme=stanza,ddp", "bandwidth=1e8,1e9", "--tier", "shaped"]
    main([*digits, *over, "--out", str(tmp_path)])
    assert worlds == [2, 2]
    rows = table(tmp_path / "sweep.csv")
    assert sorted(float(row["bandwidth_bits_per_s"]) for row in rows) == [1e8, 1e8, 1e9, 1e9]
    assert {row["tier"] for row in rows} == {"shaped"}


def test_a_tier_that_cannot_be_is_a_row_beside_one_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep_tiers, "unavailable", lambda: "no network namespaces")
    command = [*VGG16, "--over", "nodes=2", "--out", str(tmp_path / "sweep"), "--tier", "emulated"]
    assert "--tier emulated: no network namespaces" in refused(command, capsys)
    assert not (tmp_path / "sweep").exists()
    main([*command, "simulated"])
    emulated, simulated = table(tmp_path / "sweep" / "sweep.csv")
    assert (emulated["tier"], emulated["error"]) == (
        "emulated",
        "--tier emulated: no network namespaces",
    )
    assert simulated["error"] == ""
