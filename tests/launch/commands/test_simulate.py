"""`launch simulate`: the same job files, another tier."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from launch import records
from launch.__main__ import main
from systems.profiles.emulation import Emulation

VGG16 = "launch/jobs/stanza-vgg16-random.toml"


@pytest.mark.parametrize(
    ("flags", "scheme"),
    [
        ([], "stanza"),
        (["--stanza.scheme", "ps"], "ps-blocking"),
        (["--stanza.scheme", "ps", "--stanza.ps-mode", "pipelined"], "ps-pipelined"),
        (["--stanza.scheme", "ddp"], "ddp"),
        (["--stanza.scheme", "single"], "single"),
    ],
)
def test_every_scheme_leaves_a_record_of_its_tier(
    flags: list[str], scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record"
    main(["simulate", VGG16, *flags, "--out", str(out)])
    text = capsys.readouterr().out
    assert "tier simulated" in text.splitlines()[0]
    result = json.loads((out / "result.json").read_text())
    assert (result["tier"], result["scheme"]) == ("simulated", scheme)
    assert result["samples_per_s"] > 0
    run = json.loads((out / "run.json").read_text())
    assert run["again"] == f"python -m launch simulate {out}/job.toml"


def test_a_record_says_how_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command works as it is written, and `run` names it instead of measuring this machine."""
    first = tmp_path / "a record"
    main(["simulate", VGG16, "--stanza.scheme", "ddp", "--out", str(first)])
    command = json.loads((first / "run.json").read_text())["again"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["run", "--again", str(first)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f"its tier is simulated, and `launch run` measures this machine; repeat it with: {command}"
    )

    monkeypatch.setattr(records, "RUNS", tmp_path / "runs")
    main(shlex.split(command)[3:])
    (second,) = (tmp_path / "runs").iterdir()
    assert (second / "result.json").read_bytes() == (first / "result.json").read_bytes()


def test_an_emulated_record_names_its_factors(tmp_path: Path) -> None:
    emulation = Emulation(scale=40.0, dilate=2.0)
    assert records.again(tmp_path / "record", "emulated", emulation) == (
        f"python -m launch emulate {tmp_path}/record/job.toml --scale 40.0 --dilate 2.0"
    )


def test_the_trace_shows_compute_and_both_directions(tmp_path: Path) -> None:
    out = tmp_path / "record"
    main(["simulate", VGG16, "--world-size", "4", "--out", str(out)])
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    tracks = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"rank 0", "rank 0 in", "rank 0 out", "rank 3"} <= tracks


def test_the_mode_that_the_planner_chose_is_in_the_record(tmp_path: Path) -> None:
    out = tmp_path / "record"
    flags = [f"--stanza.fc-{name}=auto" for name in ("workers", "parallel", "placement")]
    main(["simulate", VGG16, *flags, "--world-size", "4", "--out", str(out)])
    job = tomllib.loads((out / "job.toml").read_text())["stanza"]
    chosen = json.loads((out / "run.json").read_text())["plan"]["chosen"]
    names = ("fc_workers", "fc_parallel", "fc_placement", "micro_batches")
    assert [job[name] for name in names] == [chosen[name] for name in names]
    assert (job["fc_parallel"], job["fc_placement"]) == ("columns", "colocated")
    result = json.loads((out / "result.json").read_text())
    assert result["step_s"] == result["predicted_step_s"]


def test_what_is_not_simulated_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--stanza.scheme", "ps", "--stanza.ps-placement", "colocated"]
    with pytest.raises(SystemExit) as stop:
        main(["simulate", VGG16, *flags, "--out", str(tmp_path / "record")])
    assert stop.value.code == 2
    assert "--stanza.ps-mode" in capsys.readouterr().err
