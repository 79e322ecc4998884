"""Scripts for SLURM: what they ask for, and that they run; a SLURM of one machine executes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.launchers.slurm import ranks_per_node, submit, write_script
from systems.job import SlurmOptions
from systems.schema import InputError
from tests.launch.slurm import install

RUN = [sys.executable, "-m", "launch", "run", "launch/jobs/stanza-digits.toml"]
FLAGS = ["--launcher", "slurm", "--world-size", "2", "--slurm.nodes", "2", "--stanza.steps", "5"]
PATIENCE_S = 90


def test_the_script_asks_for_nodes_and_whatever_else_is_wanted(tmp_path: Path) -> None:
    options = SlurmOptions(nodes=2, options=("partition=gpu", "exclusive"))
    script = write_script(options, "my job", 8, tmp_path)
    text = script.read_text()
    asked = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "#SBATCH --job-name='my job'",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --output={tmp_path}/slurm-%j.out",
        "#SBATCH --partition=gpu",
        "#SBATCH --exclusive",
    ]
    assert "--nnodes 2" in text
    assert "--nproc-per-node 4" in text
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.distributed
def test_run_submits_a_script_that_trains_on_two_nodes(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    commands, job_id = install(tmp_path / "bin")
    done = subprocess.run(
        [*RUN, *FLAGS, "--out", str(folder)],
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"Submitted batch job {job_id}", f"  record: {folder}"]
    assert json.loads((folder / "run.json").read_text())["launcher"] == "slurm"
    result = json.loads((folder / "result.json").read_text())
    assert result["launcher"] == "torchrun"  # which SLURM starts on every node
    assert len(result["loss"]) == 5
    assert [row["role"] for row in result["bytes_per_step"]] == ["conv", "fc"]


def test_without_sbatch_the_script_is_there_to_be_taken_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    script = write_script(SlurmOptions(), "job", 4, tmp_path)
    with pytest.raises(InputError, match=f"no sbatch on PATH.*sbatch {script}"):
        submit(script)
    assert script.is_file()


def test_what_sbatch_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InputError, match=r"sbatch refuses .*: sbatch: error: invalid partition"):
        submit(write_script(SlurmOptions(), "job", 4, tmp_path))


def test_ranks_are_spread_evenly() -> None:
    assert ranks_per_node(SlurmOptions(nodes=2), 8) == 4
    with pytest.raises(InputError, match=r"--slurm.nodes 3: 8 ranks cannot be spread evenly"):
        ranks_per_node(SlurmOptions(nodes=3), 8)


@pytest.mark.parametrize("option", ["--partition=gpu", "partition gpu", "p", "time=1 2"])
def test_options_are_long_ones_without_dashes(option: str) -> None:
    with pytest.raises(InputError, match="partition=gpu"):
        SlurmOptions(options=(option,))
    with pytest.raises(InputError, match=r"--slurm.nodes 0: give 1 or more"):
        SlurmOptions(nodes=0)
