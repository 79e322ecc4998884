"""The scripts around torchrun, as users start them: on one node, on several, under SLURM."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from systems.environment import free_port
from systems.processes import failures
from tests.launch.slurm import install

SCRIPTS = Path("launch/scripts")
STANZA = ["--stanza.steps", "5"]
CLOUDS = ["--sparsepipe.points", "100", "--sparsepipe.test-clouds", "12"]
SPARSEPIPE = ["--sparsepipe.steps", "4", "--sparsepipe.schedule", "gpipe", *CLOUDS]
PATIENCE_S = 90


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """An activated environment, a SLURM, and a port that is free."""
    commands, job_id = install(tmp_path / "bin")
    path = [commands, str(Path(sys.executable).parent), os.environ["PATH"]]
    own = {"PATH": ":".join(path), "MASTER_PORT": str(free_port()), "EXPECTED_JOB": str(job_id)}
    return os.environ | own


def start(command: list[str], variables: dict[str, str], **own: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, env=variables | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def output(process: "subprocess.Popen[str]") -> str:
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, text
    return text


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result["launcher"] == "torchrun"
    return result


@pytest.mark.distributed
def test_one_node_shows_the_rank_that_is_wanted(tmp_path: Path, variables: dict[str, str]) -> None:
    command = [f"{SCRIPTS}/sparsepipe.sh", *SPARSEPIPE, "--out", str(tmp_path / "record")]
    text = output(start(command, variables, NPROC="2", LOG_RANK="1"))
    assert "tier measured" not in text  # rank 0 says so
    assert len(result_of(tmp_path / "record")["loss"]) == 4


@pytest.mark.distributed
@pytest.mark.parametrize(
    "agent",
    ["launch.launchers.torchrun", pytest.param("torch.distributed.run", marks=pytest.mark.slow)],
)
def test_the_reason_of_a_rank_that_is_not_shown_is_printed_and_kept(
    agent: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    command = [sys.executable, "-m", agent, "--nproc-per-node", "2", "--local-ranks-filter", "1"]
    worker = ["-m", "launch", "worker", "launch/jobs/stanza-digits.toml", *STANZA]
    flags = ["--resume", str(tmp_path / "nowhere"), "--out", str(tmp_path / "record")]
    process = start([*command, *worker, *flags], variables)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode not in (0, None)
    reason = f"{tmp_path}/nowhere: no sound checkpoint there"
    assert reason in text
    if agent == "launch.launchers.torchrun":
        assert text.splitlines()[-1].startswith("error: rank ")
        assert reason in text.splitlines()[-1]
    assert any(reason in line["reason"] for line in failures.read(tmp_path / "record"))


@pytest.mark.slow  # SLURM's test below starts two agents too
@pytest.mark.distributed
def test_two_agents_are_two_nodes(tmp_path: Path, variables: dict[str, str]) -> None:
    command = [f"{SCRIPTS}/stanza.sh", *STANZA, "--out", str(tmp_path / "record")]
    own = {"NNODES": "2", "NPROC": "1", "MASTER_ADDR": "localhost"}
    own["JOB"] = "launch/jobs/stanza-digits.toml"
    agents = [start(command, variables, **own) for _ in range(2)]
    texts = [output(agent) for agent in agents]
    assert sum("tier measured" in text for text in texts) == 1
    assert len(result_of(tmp_path / "record")["bytes_per_step"]) == 2


@pytest.mark.distributed
def test_a_pair_is_evaluated(tmp_path: Path, variables: dict[str, str]) -> None:
    for package in ("transformers", "jiwer", "rouge_score"):
        pytest.importorskip(package)
    from speculative.tasks.train_pair import train_pair

    data = tmp_path / "pairs.jsonl"
    rows = [{"document": f"say {i} twice", "summary": f"{i} {i} it is"} for i in range(200)]
    data.write_text("\n".join(map(json.dumps, rows)))
    list(train_pair("summarize", tmp_path, data=f"jsonl:{data}", steps={"target": 1, "draft": 1}))
    models = ["--speculative.target", f"{tmp_path}/target", "--speculative.draft"]
    flags = [*models, f"{tmp_path}/draft", "--speculative.data", f"jsonl:{data}"]
    few = ["--speculative.samples", "4", "--speculative.max-new-tokens", "4"]
    command = [f"{SCRIPTS}/speculative.sh", *flags, *few, "--out", str(tmp_path / "record")]
    text = output(start(command, variables, JOB="launch/jobs/summarize.toml"))
    assert "exact verification, gamma 4" in text
    assert result_of(tmp_path / "record")["samples"] == 4


@pytest.mark.distributed
def test_slurm_starts_an_agent_on_every_node(tmp_path: Path, variables: dict[str, str]) -> None:
    inner = [f"{SCRIPTS}/stanza.sh", *STANZA, "--out", str(tmp_path / "record")]
    command = ["sbatch", "--nodes", "2", f"{SCRIPTS}/slurm.sh", *inner]
    text = output(start(command, variables, NPROC="1"))
    assert f"Submitted batch job {variables['EXPECTED_JOB']}" in text
    assert len(result_of(tmp_path / "record")["bytes_per_step"]) == 2


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_executable_bash(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
