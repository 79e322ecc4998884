"""Ranks and nodes that are lost under torchrun: the run goes on from its last checkpoint."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import records
from launch.__main__ import main
from launch.planning import plan_job
from sparsepipe.options import Options as SparsePipeOptions
from sparsepipe.system import SYSTEM as SPARSEPIPE
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from systems.environment import Environment, environment, free_port
from systems.runs.manifest import FOLDER, MANIFEST
from systems.runs.record import read_json, read_steps
from systems.schema import InputError
from tests.kills import RUNS, disturb, faults_of, moment, start
from tests.pickles import pickled, plant
from tests.ranks import ranks_of

DIGITS = "launch/jobs/stanza-digits.toml"
PATIENCE_S = 240
JOB = STANZA.job(Options(fc_workers=1))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--checkpoint-every", "-1"], "--checkpoint-every -1: give steps, or 0: never"),
        (["--checkpoint-keep", "0"], "--checkpoint-keep 0: give 1 or more"),
        (["--max-restarts", "-1"], "--max-restarts -1: give 0 or more"),
        (["--max-restarts", "1", "--launcher", "mpirun"], "mpirun does not start lost ranks again"),
        (["--resume", "nowhere"], "--resume nowhere: no sound checkpoint there; give the record"),
        (
            ["--system", "speculative", "--checkpoint-every", "1"],
            "system speculative saves no checkpoints",
        ),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", DIGITS, *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


@pytest.mark.parametrize("name", [".metadata", "rank-0.safetensors"])
def test_a_checkpoint_of_a_stranger_is_refused_before_ranks_start(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / FOLDER / "step-00000001"
    theirs.mkdir(parents=True)
    (theirs / MANIFEST).write_text(
        json.dumps({"checkpoint": {"step": 1, "samples_seen": 1, "layout": "", "files": {}}})
    )
    plant(theirs, name, pickled(tmp_path / "trace"))
    for folder in (theirs, tmp_path):
        with pytest.raises(SystemExit) as stop:
            main(["run", DIGITS, "--resume", str(folder)])
        assert stop.value.code == 2
        *passed_over, line = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: --resume {folder}: ")
        assert len(passed_over) == (folder == tmp_path)
    assert not (tmp_path / "trace").exists()


def test_jobs_for_other_worlds_leave_open_what_was_planned_for_theirs() -> None:
    many = STANZA.job(Options(fc_workers=2, scheme="stanza"))
    fewer = STANZA.planning.resized(many, 3)
    assert (fewer.world_size, fewer.options.fc_workers) == (3, 1)
    servers = STANZA.job(Options(scheme="ps", ps_servers=3))
    assert STANZA.planning.resized(servers, 2).options.ps_servers == 1
    cut = SPARSEPIPE.job(SparsePipeOptions(scheme="pipeline", cuts=(3, 9)))
    assert SPARSEPIPE.planning.resized(cut, 2).options.cuts is None


def test_torchrun_says_whether_it_restarts() -> None:
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a"}
    told |= {"MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "one"}
    assert not environment({**told, "TORCHELASTIC_MAX_RESTARTS": "0"}).elastic
    place = environment({**told, "TORCHELASTIC_MAX_RESTARTS": "3"})
    assert place.elastic
    assert place.run_id == "one"


def _place(run_id: str, attempt: str) -> Environment:
    return Environment(
        launcher="torchrun",
        rank=0,
        world_size=4,
        local_rank=0,
        local_world_size=4,
        master_address="127.0.0.1",
        master_port=1,
        attempt=attempt,
        run_id=run_id,
    )


def test_a_later_attempt_finds_the_record_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_job(JOB, may_measure=False)
    assert records.earlier_attempt(JOB, plan, _place("one", "0")) is None
    one = records.create_record(JOB, plan, run_id="one")
    assert records.earlier_attempt(JOB, plan, _place("two", "1")) is None
    assert records.earlier_attempt(JOB, plan, _place("one", "0")) == one  # a node was lost
    (one / "result.json").write_text("{}")
    assert records.earlier_attempt(JOB, plan, _place("one", "0")) is None  # another run
    assert records.earlier_attempt(JOB, plan, _place("one", "1")) == one  # killed at its very end


def test_a_run_that_was_cut_short_goes_on_in_its_folder(tmp_path: Path) -> None:
    job = STANZA.job(JOB.options, out=str(tmp_path / "run"))
    plan = plan_job(job, may_measure=False)
    folder = records.create_record(job, plan)
    with pytest.raises(InputError, match="holds files already"):
        records.create_record(job, plan)
    (folder / FOLDER).mkdir()
    fewer = plan_job(STANZA.job(job.options, world_size=3), may_measure=False)
    assert records.create_record(job, fewer) == folder
    run = read_json(folder / "run.json")
    assert run["plan"]["layout"]["roles"] == ["conv", "conv", "fc"]
    assert len(run["earlier_plans"]) == 1


@pytest.mark.distributed
def test_a_killed_rank_is_started_again(tmp_path: Path) -> None:
    """That it ends with the same parameters, and that every kind of run does, is a slow test's."""
    folder = tmp_path / "run"
    process = start("ddp", folder)
    log = folder / "steps" / "rank-1.jsonl"
    while not (log.is_file() and log.read_text().count("\n") > 25):
        assert process.poll() is None, folder.with_suffix(".log").read_text()
        time.sleep(0.02)
    os.kill(ranks_of(folder)[1], signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 0
    assert "resuming after step " in folder.with_suffix(".log").read_text()
    for rank in (0, 1):
        assert [step.index for step in read_steps(folder, rank)] == list(range(151))
    assert ranks_of(folder) == {}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", RUNS)
def test_killed_runs_end_like_undisturbed_ones(kind: str, tmp_path: Path) -> None:
    whole, chance = tmp_path / "whole", random.Random(kind)
    assert start(kind, whole).wait(PATIENCE_S) == 0
    for number in range(5):
        outcome = disturb(kind, whole, tmp_path / str(number), *moment(kind, chance))
        assert outcome.faults == []


def _agent(number: int, port: int, job: list[str]) -> subprocess.Popen[bytes]:
    """A node of two or three; the first holds the rendezvous."""
    conf = f"is_host={int(number == 0)},last_call_timeout=5,keep_alive_interval=1"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2:3"]
    torchrun += ["--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", "127.0.0.1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    torchrun += ["--rdzv-id", f"test-{port}", "--rdzv-conf", conf]
    return subprocess.Popen(
        [*torchrun, "-m", "launch", "worker", *job],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("stanza", "3 ranks, 2 conv (0-1), 1 fc (2)", "2 ranks, 1 conv (0), 1 fc (1)"),
        ("sparsepipe", "3 ranks, stage 0, layers 0-", "2 ranks, stage 0, layers 0-"),
    ],
)
def test_a_lost_node_is_planned_around(kind: str, before: str, after: str, tmp_path: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    _, job = RUNS[kind]
    job = [word for word in job if word not in ("--sparsepipe.cuts", "20")]
    flags = [*job, "--checkpoint-every", "10", "--out", str(folder)]
    agents = [_agent(number, port, flags) for number in range(3)]
    try:
        log, deadline = folder / "steps" / "rank-0.jsonl", time.monotonic() + PATIENCE_S
        while not (log.is_file() and log.read_text().count("\n") > 15):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        agents[2].kill()
        texts = [agent.communicate(timeout=PATIENCE_S)[0].decode() for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents[:2]] == [0, 0]
    (line,) = [
        line for line in "".join(texts).splitlines() if line.startswith("resuming after step")
    ]
    assert f"; planned anew: {before}" in line
    assert f" -> {after}" in line
    steps = [step.index for step in read_steps(folder, 0)]
    assert steps == list(range(steps[-1] + 1))
    resumed = int(line.split()[3])
    assert len(read_steps(folder, 2)) == resumed
    assert faults_of(0, folder, folder) == []
