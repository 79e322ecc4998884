"""`examples/federated`, installed as a user's own package would be, under every command."""

import ast
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from federated import experiments
from federated.options import HALVED, Options
from federated.planning import make_plan
from federated.reach import reached_by_all
from federated.system import SYSTEM, emulated_plan, kept

from systems.schema import InputError
from tests.emulation import needs_emulation
from tests.examples.installed import ROOT, imported, launched, read

EXAMPLE = ROOT / "examples" / "federated"
MOST_LINES = 2500
"""Of code, in the example and its tests."""
FEDERATED = ["--system", "federated"]


def result(site: Path, record: Path, *words: str, **ways: Any) -> Any:
    """The result of a command."""
    launched(site, *words, "--out", str(record), **ways)
    return read(record / "result.json")


def test_it_imports_nothing_of_a_system_or_of_the_command_line() -> None:
    assert imported(EXAMPLE) <= {"federated", "systems", "torch", "numpy"}
    files = list(EXAMPLE.rglob("*.py"))
    files += Path(__file__).parent.glob("test_federated*.py")
    assert sum(map(code_lines, files)) <= MOST_LINES


def code_lines(path: Path) -> int:
    """The lines of a file that are neither empty nor a comment or docstring."""
    text, prose = path.read_text(), set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = enumerate(map(str.strip, text.splitlines()), start=1)
    return sum(n not in prose and bool(line) and line[0] != "#" for n, line in numbered)


@pytest.mark.distributed
def test_it_runs_in_one_process_and_is_simulated(site: Path, tmp_path: Path) -> None:
    flags = ["--world-size", "1", "--federated.concurrency", "20", "--federated.steps", "60"]
    simulated, run = (
        result(site, tmp_path / command, command, *FEDERATED, *flags, without_torch=True)
        for command in ("simulate", "run")
    )
    assert simulated["step_s"] == pytest.approx(run["clock_step_s"])  # one clock
    assert simulated["updates"] == run["updates"] == 300
    assert run["closed_form_step_s"] == simulated["predicted_step_s"] == pytest.approx(5 / 20)
    assert (run["tier"], run["clock"]) == ("measured", "virtual")
    assert run["loss"][-1] < run["loss"][0]
    assert run["tests"]["updates"] == [50.0 * (i + 1) for i in range(6)]


@pytest.mark.slow
@pytest.mark.distributed
def test_the_same_job_runs_as_a_server_and_clients(site: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('system = "federated"\nworld_size = 4\n[federated]\nsteps = 30\nmodel = "cnn"')
    shown = launched(site, "run", str(job), "--out", str(tmp_path / "ranks"), "--trace")
    assert "world size 4: a server, 3 clients at once" in shown
    found = read(tmp_path / "ranks" / "result.json")
    downloads, uploads = found["download_bytes"], found["upload_bytes"]
    server, *clients = found["bytes_per_step"]
    assert server["tcp_received"] == pytest.approx(5 * uploads, rel=0.1)
    received = sum(client["tcp_received"] for client in clients)
    assert received == pytest.approx(5 * downloads, rel=0.15)
    spans = read(tmp_path / "ranks" / "trace.json")["traceEvents"]
    assert {"train", "upload"} <= {span["name"] for span in spans}
    one = result(site, tmp_path / "one", "run", str(job), "--world-size", "1")
    assert one["updates"] == found["updates"] == 150


@pytest.mark.slow
def test_a_sweep_of_it_is_drawn(site: Path, tmp_path: Path) -> None:
    over = ["--world-size", "1", "--over", "concurrency=10,100", "scheme=fedavg,fedbuff"]
    launched(site, "sweep", *FEDERATED, *over, "--out", str(tmp_path), without_torch=True)
    with (tmp_path / "sweep.csv").open() as file:
        rows = csv.DictReader(file)
        rates = {(r["scheme"], r["concurrency"]): float(r["samples_per_s"]) for r in rows}
    assert rates["fedbuff", "100"] == pytest.approx(10 * rates["fedbuff", "10"], rel=0.05)
    assert rates["fedavg", "100"] < 0.75 * 10 * rates["fedavg", "10"]


@pytest.mark.slow
@needs_emulation
@pytest.mark.distributed
def test_an_emulated_run_comes_near_its_prediction(site: Path, tmp_path: Path) -> None:
    """All clients train equally long, and in turn send over the server's link."""
    flags = "--cluster ec2-p3-10g --world-size 4 --federated.steps 30 --federated.scheme fedavg"
    times = ["--federated.mean-s", "0.2", "--federated.least-s", "0.2", "--dilate", "1"]
    found = result(site, tmp_path / "record", "emulate", *FEDERATED, *flags.split(), *times)
    assert (found["tier"], "loss" in found) == ("emulated", False)
    assert found["step_s"]["median"] >= 0.2
    assert found["simulated_step_s"] == pytest.approx(found["predicted_step_s"], rel=0.01)
    assert found["staleness"] == 0


@pytest.mark.slow
@needs_emulation
@pytest.mark.distributed
def test_a_slow_client_of_a_shaped_cluster_is_not_waited_for(site: Path, tmp_path: Path) -> None:
    nodes = {"server": (1, 0.3), "client": (2, 0.5), "slow": (1, 0.1)}
    text = 'name = "one-slow"\nsource = "a test"\n' + "".join(
        f'[[nodes]]\nname = "{name}"\ncount = {count}\nlink = {{ bandwidth_bits_per_s = 50e6 }}\n'
        f'devices = [{{ kind = "{share} of a core", core_share = {share} }}]\n'
        for name, (count, share) in nodes.items()
    )
    (tmp_path / "cluster.toml").write_text(text)
    options = "--federated.local-epochs 10 --federated.batch-size 4 --federated.steps"
    found = {}
    for scheme, steps in (("fedavg", 5), ("fedbuff", 15)):
        words = f"--world-size 4 {options} {steps} --federated.scheme {scheme}".split()
        more = ["--federated.buffer-size", "1", "--shape", str(tmp_path / "cluster.toml")]
        found[scheme] = result(site, tmp_path / scheme, "run", *FEDERATED, *words, *more)
        assert found[scheme]["predicted_step_s"] > 0
    rates = {scheme: one["updates"] / one["clock_s"] for scheme, one in found.items()}
    assert rates["fedbuff"] > rates["fedavg"]


@pytest.mark.slow
def test_its_clock_is_reproduced(site: Path, tmp_path: Path) -> None:
    words = "reproduce federated --experiment waiting --level quick --out all"
    launched(site, *words.split(), inside=tmp_path)
    claims = read(tmp_path / "all" / "claims.json")
    ids = ["waiting-error.all", "staleness-error.all", "gain.rounds", "gain.buffers"]
    passed = {f"federated.{id}.simulated": "pass" for id in ids}
    assert {claim["id"]: claim["status"] for claim in claims} == passed
    assert (tmp_path / "all" / "figures" / "federated-waiting.pdf").is_file()


@pytest.mark.slow
def test_the_other_experiments_conclude_from_what_they_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"target": 0.5, "most_updates": 60, "every": 10}
    few = replace(experiments.SMALL, concurrency=10, buffer_size=3, model="linear")
    monkeypatch.setitem(experiments.TASKS, "quick", (few, limits))
    monkeypatch.setitem(experiments.RATES, "quick", (1.0,))
    for one in experiments.EXPERIMENTS[1:]:
        assert one.measure is not None
        measured = one.measure("quick", tmp_path / one.id)
        outcome = one.conclude(measured, tmp_path)
        assert outcome.figures[0].path.is_file()
        assert outcome.claims
    assert {len(one["by_speed"]) for of in measured.values() for one in of} == {0}


def test_tuning_takes_the_rate_that_reaches_the_target_first() -> None:
    limits = {"target": 0.7, "most_updates": 120, "every": 10}
    options = replace(experiments.SMALL, concurrency=6, buffer_size=3, model="linear")
    (found,) = reached_by_all(options, (1e-3, 1.0), (0,), limits)
    assert found["server_learning_rate"] == 1.0
    assert found["reached"]
    assert sum(found["accuracies"][-3:]) / 3 >= 0.7 > sum(found["accuracies"][-4:-1]) / 3


@pytest.mark.parametrize(
    ("options", "ranks", "said"),
    [
        ({"concurrency": 4}, 4, "4: 4 ranks are a server and 3 clients; give 0 or 3"),
        ({"concurrency": 200}, 1, "200: there are 100 clients"),
        ({"clients": 2000}, 1, "--federated.clients 2000: digits has 1437 samples"),
        ({"over_selection": 0.3}, 1, "0.3: fedbuff has no rounds"),
        ({"speed_follows_data": True}, 1, "add --federated.steady"),
        ({"masked": True}, 1, "staleness-weight polynomial: with --federated.masked the server"),
        ({"least_s": 2.0}, 1, "--federated.least-s 2: give 0 to 1"),
        ({"upload": HALVED}, 3, "half-adapters: clients keep a factor, so that each of the 2"),
        ({"upload": HALVED, "scheme": "fedavgm"}, 1, "fedavgm: with --federated.upload half-"),
        ({"upload": HALVED, "server_optimizer": "adam"}, 1, "adam: with --federated.upload half-"),
        ({"data": "ml-100k"}, 1, "mlp: ml-100k has no images, but users and films; give factors"),
        ({"model": "factors"}, 1, "factors: digits has images; give mlp"),
        ({"alpha": 0.0}, 1, "--federated.alpha 0: give more than 0"),
        ({"buffer_size": 0}, 1, "--federated.buffer-size 0: give whole numbers from 1 on"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], ranks: int, said: str) -> None:
    with pytest.raises(InputError) as refused:
        make_plan(SYSTEM.job(Options(**options), world_size=ranks))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_clients_keep_is_in_no_checkpoint_and_not_emulated() -> None:
    job = SYSTEM.job(Options(upload=HALVED, clients=2), world_size=3, cluster="ec2-p3-10g")
    assert kept(job) == "--federated.upload half-adapters"
    assert kept(job.with_options(upload="full")) is None
    with pytest.raises(InputError, match=r"--federated.upload half-adapters: clients that wait"):
        emulated_plan(job)
