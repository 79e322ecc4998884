"""`examples/local_sgd`, installed as a user's own package would be, under every command."""

import csv
from pathlib import Path

import pytest

from systems.schema import InputError
from tests.emulation import needs_emulation
from tests.examples.installed import ROOT, imported, launch, launched, read

EXAMPLE = ROOT / "examples" / "local_sgd"
PROFILE = ROOT / "stanza" / "profiles" / "vgg16.json"
PARAMETER_BYTES = 4 * (65 * 512 + 513 * 10)
SYSTEM = ["--system", "local_sgd"]
ON_A_CLUSTER = [*SYSTEM, "--cluster", "ec2-p3-10g", "--profile", str(PROFILE)]


def all_reduce_s(ranks: int, bandwidth_bits_per_s: float) -> float:
    """The seconds in which a ring all-reduce moves the parameters of VGG-16."""
    size = sum(layer["parameter_bytes"] for layer in read(PROFILE)["layers"])
    return float(2 * (ranks - 1) / ranks * size * 8 / bandwidth_bits_per_s)


def test_it_is_small_and_imports_nothing_of_a_system_or_of_the_command_line() -> None:
    assert imported(EXAMPLE) <= {"local_sgd", "systems", "torch"}
    lines = [line for path in EXAMPLE.rglob("*.py") for line in path.read_text().splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= 250


@pytest.mark.distributed
def test_it_runs_and_sends_a_period_th_of_the_bytes(site: Path, tmp_path: Path) -> None:
    flags = "--launcher local --world-size 3 --local_sgd.period 4 --local_sgd.steps 16 --trace"
    words = ["run", *SYSTEM, *flags.split(), "--out", str(tmp_path / "record")]
    shown = launched(site, *words, without_torch=True)
    assert "tier measured | average every 4 steps | world size 3: 3 replicas" in shown
    result = read(tmp_path / "record" / "result.json")
    expected = 2 * 2 / 3 * PARAMETER_BYTES / 4
    for counted in result["bytes_per_step"]:
        assert counted["tcp_sent"] == pytest.approx(expected, rel=0.02)
        assert counted["tcp_received"] == pytest.approx(expected, rel=0.02)
    assert result["step_s"]["n"] == 3  # means over periods of four steps, without the first
    assert result["loss"][-1] < result["loss"][0]
    spans = read(tmp_path / "record" / "trace.json")["traceEvents"]
    assert {"compute", "average"} <= {span["name"] for span in spans}


def test_its_simulation_is_its_prediction(site: Path, tmp_path: Path) -> None:
    out = ["--local_sgd.period", "8", "--out", str(tmp_path / "record")]
    shown = launched(site, "simulate", *ON_A_CLUSTER, *out, without_torch=True)
    assert "tier simulated | 4 replicas, averaged every 8 steps" in shown
    result = read(tmp_path / "record" / "result.json")
    assert result["step_s"] == pytest.approx(result["predicted_step_s"])


def test_a_sweep_of_it_is_drawn(site: Path, tmp_path: Path) -> None:
    over = ["--over", "period=1,4", "nodes=2,3", "bandwidth=1e9,10e9", "--baseline", "period=1"]
    launched(site, "sweep", *ON_A_CLUSTER, *over, "--out", str(tmp_path), without_torch=True)
    with (tmp_path / "sweep.csv").open() as file:
        steps = {
            (row["period"], row["nodes"], float(row["bandwidth_bits_per_s"])): float(row["step_s"])
            for row in csv.DictReader(file)
        }
    assert len(steps) == 8
    for nodes in ("2", "3"):
        for rate in (1e9, 10e9):
            saved_s = steps["1", nodes, rate] - steps["4", nodes, rate]
            assert saved_s == pytest.approx(3 / 4 * all_reduce_s(int(nodes), rate), rel=1e-3)
    assert (tmp_path / "speed-up.png").is_file()


@needs_emulation
@pytest.mark.distributed
def test_an_emulated_run_comes_near_its_prediction(site: Path, tmp_path: Path) -> None:
    flags = "--world-size 3 --local_sgd.period 2 --local_sgd.steps 6 --dilate 0.7"
    launched(site, "emulate", *ON_A_CLUSTER, *flags.split(), "--out", str(tmp_path / "record"))
    result = read(tmp_path / "record" / "result.json")
    assert (result["tier"], "loss" in result) == ("emulated", False)
    assert result["simulated_step_s"] == pytest.approx(result["predicted_step_s"])
    sent_s = max(row["tcp_sent"] for row in result["bytes_per_step"]) * 8 / 10e9
    assert sent_s == pytest.approx(all_reduce_s(3, 10e9) / 2, rel=0.02)
    assert result["step_s"]["median"] > 0.95 * result["predicted_step_s"]


@pytest.mark.distributed
def test_its_experiment_is_reproduced(site: Path, tmp_path: Path) -> None:
    words = ["reproduce", "local_sgd", "--level", "quick", "--quiet", "--out", "all"]
    launched(site, *words, inside=tmp_path)
    claims = {claim["id"]: claim for claim in read(tmp_path / "all" / "claims.json")}
    assert {claim["system"] for claim in claims.values()} == {"local_sgd"}
    assert claims["local_sgd.bytes-over-table.all.measured"]["status"] == "pass"
    assert claims["local_sgd.accuracy-lost.all.measured"]["ours"] < 0.05
    assert (tmp_path / "all" / "figures" / "local-sgd-period.pdf").is_file()
    report = (tmp_path / "all" / "report.html").read_text()
    assert "Bytes and accuracy against the steps between two averages" in report


def test_doctor_and_help_know_it(site: Path) -> None:
    assert "ok   system local_sgd: local_sgd.system:SYSTEM" in launch(site, "doctor").stdout
    assert "--local-sgd.period" in launched(site, "run", *SYSTEM, "--help")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--local_sgd.batch-size 7",
            "--local_sgd.batch-size 7: the 4 ranks take equal parts; give a multiple of 4",
        ),
        (
            "--local_sgd.period 3 --checkpoint-every 4",
            "--checkpoint-every 4: replicas differ between averages; give a multiple of "
            "--local_sgd.period 3",
        ),
        (
            "--launcher mpirun --transport mpi",
            "--transport mpi: averages travel by torch; leave it out",
        ),
        ("--local-sgd.period 0", "--local_sgd.period 0: give whole numbers from 1 on"),
    ],
)
def test_bad_input_is_one_line(flags: str, said: str, site: Path) -> None:
    refused = launch(site, "run", *SYSTEM, *flags.split(), without_torch=True)
    assert refused.stderr == f"error: {said}\n"


def test_a_prediction_needs_a_profile_of_the_clusters_devices() -> None:
    from local_sgd.system import SYSTEM

    assert SYSTEM.simulate is not None
    for profile, said in ((None, "give one taken on cpu"), (str(PROFILE), "was taken on V100")):
        with pytest.raises(InputError, match=said):
            SYSTEM.simulate(SYSTEM.job(profile=profile))
