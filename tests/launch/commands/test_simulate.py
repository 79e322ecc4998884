"""`testbed simulate`: the same job files, another tier."""

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from launch import records
from launch.__main__ import main
from systems.profiles.emulation import Emulation

ROOT = Path(__file__).parents[3]
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
        f"its tier is simulated, and `testbed run` measures this machine; repeat it with: {command}"
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


PLAIN = """
name = "ten"
source = "invented"
[[nodes]]
name = "n"
count = 4
devices = [{ kind = "V100" }]
link = { bandwidth_bits_per_s = 10e9, latency_s = 50e-6 }
"""
SCHEMES = (["stanza"], ["ps"], ["ps", "--stanza.ps-mode", "pipelined"], ["ddp"])


def simulated(folder: Path, text: str, *flags: str) -> dict[str, Any]:
    """The result of a job of four ranks on the cluster that a TOML text describes."""
    (folder / "c.toml").write_text(text)
    out = folder / f"record-{len(list(folder.iterdir()))}"
    words = ["simulate", VGG16, "--world-size", "4", "--cluster", str(folder / "c.toml")]
    main([*words, "--out", str(out), *flags])
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_topology_without_bottlenecks_is_the_plain_cluster(
    scheme: list[str], tmp_path: Path
) -> None:
    flags = ["--stanza.scheme", *scheme]
    plain = simulated(tmp_path, PLAIN, *flags)
    racks = simulated(tmp_path, PLAIN + "[racks]\nnodes = 2\n", *flags)
    assert racks["step_s"] == pytest.approx(plain["step_s"])
    blocked = simulated(tmp_path, PLAIN + "[racks]\nnodes = 2\noversubscription = 8.0\n", *flags)
    assert blocked["step_s"] > racks["step_s"]


def test_compressed_gradients_cross_racks_where_they_are_summed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An all-gather is known on one switch only; casts are summed as whole gradients are."""
    racks = PLAIN + "[racks]\nnodes = 2\n"
    ddp = ["--stanza.scheme", "ddp", "--stanza.exchange"]
    cast = simulated(tmp_path, racks, *ddp, "fp16")
    assert cast["step_s"] == pytest.approx(simulated(tmp_path, PLAIN, *ddp, "fp16")["step_s"])
    with pytest.raises(SystemExit):
        simulated(tmp_path, racks, *ddp, "top-k")
    assert "--stanza.exchange top-k" in capsys.readouterr().err
    on_a_switch = PLAIN + "[[faults.stragglers]]\nrank = 0\nfactor = 1.0\n"
    gathered = simulated(tmp_path, on_a_switch, *ddp, "top-k", "--stanza.steps", "5")
    assert gathered["steps_s"][-1] == pytest.approx(
        simulated(tmp_path, PLAIN, *ddp, "top-k")["step_s"]
    )


def test_two_devices_share_the_interface_of_their_node(tmp_path: Path) -> None:
    """A ring enters a node once, so half of the interface for each device is too little."""
    pairs = PLAIN.replace("count = 4", "count = 2").replace(
        '"V100" }]', '"V100", count = 2 }]\ndevice_link = { bandwidth_bits_per_s = 100e9 }'
    )
    single = PLAIN.replace("10e9", "5e9")
    ddp = ["--stanza.scheme", "ddp"]
    assert (
        simulated(tmp_path, pairs, *ddp)["step_s"]
        < 0.8 * simulated(tmp_path, single, *ddp)["step_s"]
    )
    assert simulated(tmp_path, pairs, *ddp)["predicted_step_s"] == pytest.approx(
        simulated(tmp_path, single, *ddp)["predicted_step_s"]
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_straggler_slows_every_scheme(
    scheme: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = PLAIN + "[[faults.stragglers]]\nrank = 0\nfactor = 3.0\n"
    flags = ["--stanza.scheme", *scheme, "--stanza.steps", "6"]
    result = simulated(tmp_path, slow, *flags)
    assert len(result["steps_s"]) == 6
    assert result["step_s"] == pytest.approx(sum(result["steps_s"]) / 6)
    # Servers have so little room left that a worker is hardly waited for.
    assert result["step_s"] > 1.02 * result["step_s_without_faults"]
    assert result["step_s_without_faults"] == pytest.approx(
        simulated(tmp_path, PLAIN, *flags)["step_s"], rel=0.1
    )
    assert "faults: rank 0 x3" in capsys.readouterr().out


def test_faults_come_and_go_with_the_steps(tmp_path: Path) -> None:
    fault = "[[faults.links]]\nnode = 1\nfactor = 0.5\nfrom_s = 1.0\nuntil_s = 2.0\n"
    flags = ["--stanza.scheme", "ddp", "--stanza.steps", "20"]
    result = simulated(tmp_path, PLAIN + fault, *flags)
    healthy_s = result["step_s_without_faults"]
    slower = [s > healthy_s * 1.01 for s in result["steps_s"]]
    assert any(slower)
    assert not slower[0]
    assert not slower[-1]


def test_a_pipeline_takes_them_too(tmp_path: Path) -> None:
    text = (ROOT / "systems/clusters/titan-8.toml").read_text()
    job = ["simulate", "launch/jobs/sparsepipe-titan8.toml", "--sparsepipe.steps", "8"]
    for name, more in (("plain", ""), ("slow", "[[faults.stragglers]]\nrank = 0\nfactor = 2.0\n")):
        (tmp_path / f"{name}.toml").write_text(text + more)
        main([*job, "--cluster", str(tmp_path / f"{name}.toml"), "--out", str(tmp_path / name)])
    plain, slow = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("plain", "slow")
    )
    assert slow["step_s"] > 1.1 * plain["step_s"]
    # Filling and draining count too.
    assert slow["step_s_without_faults"] == pytest.approx(plain["step_s"], rel=0.3)
