"""`examples/federated`, installed as a user's own package would be, under every command."""

import ast
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from federated import experiments
from federated.options import Options
from federated.planning import make_plan
from federated.reach import reached_by_all
from federated.system import SYSTEM

from systems.schema import InputError
from tests.emulation import needs_emulation
from tests.examples.installed import ROOT, install, launched

EXAMPLE = ROOT / "examples" / "federated"
MOST_LINES = 2500
"""Of code, in the example and its tests."""
FEDERATED = ["--system", "federated"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is installed."""
    folder = tmp_path_factory.mktemp("environment") / "site"
    install(EXAMPLE, folder)
    return folder


def result(record: Path) -> Any:
    return json.loads((record / "result.json").read_text())


def test_it_imports_nothing_of_a_system_or_of_the_command_line() -> None:
    files, imported = sorted(EXAMPLE.rglob("*.py")), set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names <= {"federated", "systems", "torch", "numpy"}
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
    out = {command: tmp_path / command for command in ("simulate", "run")}
    for command, folder in out.items():
        launched(site, command, *FEDERATED, *flags, "--out", str(folder), without_torch=True)
    simulated, run = result(out["simulate"]), result(out["run"])
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
    found = result(tmp_path / "ranks")
    downloads, uploads = found["download_bytes"], found["upload_bytes"]
    server, *clients = found["bytes_per_step"]
    assert server["tcp_received"] == pytest.approx(5 * uploads, rel=0.1)
    assert sum(client["tcp_received"] for client in clients) == pytest.approx(
        5 * downloads, rel=0.15
    )
    spans = json.loads((tmp_path / "ranks" / "trace.json").read_text())["traceEvents"]
    assert {"train", "upload"} <= {span["name"] for span in spans}
    launched(site, "run", str(job), "--world-size", "1", "--out", str(tmp_path / "one"))
    assert result(tmp_path / "one")["updates"] == found["updates"] == 150


@pytest.mark.slow
def test_a_sweep_of_it_is_drawn(site: Path, tmp_path: Path) -> None:
    over = ["--world-size", "1", "--over", "concurrency=10,100", "scheme=fedavg,fedbuff"]
    launched(site, "sweep", *FEDERATED, *over, "--out", str(tmp_path), without_torch=True)
    with (tmp_path / "sweep.csv").open() as file:
        rates = {
            (row["scheme"], row["concurrency"]): float(row["samples_per_s"])
            for row in csv.DictReader(file)
        }
    assert rates["fedbuff", "100"] == pytest.approx(10 * rates["fedbuff", "10"], rel=0.05)
    assert rates["fedavg", "100"] < 0.75 * 10 * rates["fedavg", "10"]


@pytest.mark.slow
@needs_emulation
@pytest.mark.distributed
def test_an_emulated_run_comes_near_its_prediction(site: Path, tmp_path: Path) -> None:
    """All clients train equally long, and in turn send over the server's link."""
    flags = "--cluster ec2-p3-10g --world-size 4 --federated.steps 30 --federated.scheme fedavg"
    times = ["--federated.mean-s", "0.2", "--federated.least-s", "0.2", "--dilate", "1"]
    words = [*FEDERATED, *flags.split(), *times, "--out", str(tmp_path / "record")]
    launched(site, "emulate", *words)
    found = result(tmp_path / "record")
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
        out = ["--federated.buffer-size", "1", "--out", str(tmp_path / scheme)]
        shape = ["--shape", str(tmp_path / "cluster.toml")]
        launched(site, "run", *FEDERATED, *words, *out, *shape)
        found[scheme] = result(tmp_path / scheme)
        assert found[scheme]["predicted_step_s"] > 0
    rates = {scheme: one["updates"] / one["clock_s"] for scheme, one in found.items()}
    assert rates["fedbuff"] > rates["fedavg"]


@pytest.mark.slow
def test_its_clock_is_reproduced(site: Path, tmp_path: Path) -> None:
    words = "reproduce federated --experiment waiting --level quick --out all"
    launched(site, *words.split(), inside=tmp_path)
    claims = json.loads((tmp_path / "all" / "claims.json").read_text())
    assert {claim["id"]: claim["status"] for claim in claims} == {
        "federated.waiting-error.all.simulated": "pass",
        "federated.staleness-error.all.simulated": "pass",
        "federated.gain.rounds.simulated": "pass",
        "federated.gain.buffers.simulated": "pass",
    }
    assert (tmp_path / "all" / "figures" / "federated-waiting.pdf").is_file()


@pytest.mark.slow
def test_the_other_experiments_conclude_from_what_they_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"target": 0.5, "most_updates": 60, "every": 10}
    few = replace(experiments.SMALL, concurrency=10, buffer_size=3, model="linear")
    monkeypatch.setitem(experiments.TASKS, "quick", (few, limits))
    monkeypatch.setitem(experiments.RATES, "quick", (1.0,))
    for name in ("target", "concurrency", "bias", "uploads"):
        measured = getattr(experiments, f"measure_{name}")("quick", tmp_path / name)
        outcome = getattr(experiments, f"conclude_{name}")(measured, tmp_path)
        assert outcome.figures[0].path.is_file()
        assert outcome.claims
    assert {len(one["by_speed"]) for of in measured.values() for one in of} == {0}


def test_tuning_takes_the_rate_that_reaches_the_target_first() -> None:
    limits = {"target": 0.7, "most_updates": 120, "every": 10}
    options = replace(experiments.SMALL, concurrency=6, buffer_size=3, model="linear")
    (found,) = reached_by_all(options, experiments.job_of, (1e-3, 1.0), (0,), limits)
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
        ({"alpha": 0.0}, 1, "--federated.alpha 0: give more than 0"),
        ({"buffer_size": 0}, 1, "--federated.buffer-size 0: give whole numbers from 1 on"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], ranks: int, said: str) -> None:
    with pytest.raises(InputError) as refused:
        make_plan(SYSTEM.job(Options(**options), world_size=ranks))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
