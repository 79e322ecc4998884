"""Who plans, simulates or starts ranks imports no torch, which takes seconds: only ranks need it.

Every test runs one process that refuses to import torch; the ranks that it starts may.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.job import load_job
from tests.systems.validation.synthetic import plan, write, write_costs

REFUSING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "torch", "torch is imported"

sys.meta_path.insert(0, Refuse())
"""
JOBS = Path(__file__).parents[2] / "launch" / "jobs"


def refusing(code: str, *arguments: str) -> str:
    """What the code prints; `arguments` are the process's."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSING + code, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(*words: str) -> str:
    """What `launch` prints for these words."""
    return refusing("from launch.__main__ import main\nmain(sys.argv[1:])", *words)


@pytest.mark.parametrize(
    "words",
    [
        "plan stanza --model vgg16 --cluster ec2-p3-10g",
        "plan sparsepipe",
        f"simulate {JOBS}/stanza-vgg16-random.toml --out",
        f"simulate {JOBS}/sparsepipe-titan8.toml --out",
        f"sweep {JOBS}/stanza-vgg16-random.toml --over nodes=2 scheme=ddp --baseline nodes=2 --out",
    ],
)
def test_planning_and_simulating_need_no_torch(words: str, tmp_path: Path) -> None:
    out = [str(tmp_path / "record")] if words.endswith("--out") else []
    assert "tier simulated" in command(*words.split(), *out)


def test_validating_needs_no_torch(tmp_path: Path) -> None:
    write_costs(tmp_path)
    write(tmp_path / "plans/one.json", plan([[("A", 1)]]))
    words = ["--plans", str(tmp_path / "plans"), "--out", str(tmp_path / "out")]
    assert "tier simulated" in command("validate", *words)


def test_what_starts_ranks_needs_no_torch(tmp_path: Path) -> None:
    job, out = JOBS / "stanza-digits.toml", tmp_path / "record"
    small = ["--stanza.steps", "1", "--stanza.scheme", "single", "--world-size", "1"]
    command("run", str(job), *small, "--launcher", "local", "--out", str(out))
    assert (out / "result.json").is_file()


@pytest.mark.parametrize(
    "name", ["stanza-digits", "sparsepipe-shapes-single", "stanza-vgg16-random", "summarize"]
)
def test_checking_and_planning_a_run_need_no_torch(name: str, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "config.json").write_text("{}")
    code = """
import dataclasses
from pathlib import Path
from launch.commands.run import prepare_run
from launch.job import load_job
from tests.systems.validation.synthetic import plan, write, write_costs
job = load_job(Path(sys.argv[1]))
if job.system == "speculative":
    job = job.with_options(target=sys.argv[2], draft=sys.argv[2])
print(prepare_run(dataclasses.replace(job, out=sys.argv[3])))
"""
    record = tmp_path / "record"
    printed = refusing(code, str(JOBS / f"{name}.toml"), str(pair), str(record))
    assert printed.strip() == str(record)
    assert load_job(record / "job.toml").name == load_job(JOBS / f"{name}.toml").name
