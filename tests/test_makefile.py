"""What make would do: which torch it installs, and with whose Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALLED = ("-W", "pyproject.toml", ".venv/installed")
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
has_gpu = any(Path(file).exists() for file in ("/dev/nvidiactl", "/dev/dxg"))

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def would_do(*words: str, **variables: str) -> str:
    """The commands that make would run, without pip's own variables unless they are given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        ["make", "-n", *words],
        cwd=ROOT,
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_torch_is_a_cpu_build_where_there_is_no_gpu() -> None:
    assert (CPU_INDEX in would_do(*INSTALLED)) == (not has_gpu)


@pytest.mark.parametrize("name", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"])
def test_sources_of_packages_that_the_user_has_set_stay(name: str) -> None:
    assert CPU_INDEX not in would_do(*INSTALLED, **{name: "/wheels"})


@pytest.mark.parametrize("target", ["reproduce", "lint", "gpu", "docs"])
def test_a_python_that_is_there_is_taken_as_it_is(target: str) -> None:
    commands = would_do(target, "VENV=system", "PYTHON=/opt/python3")
    assert "/opt/python3 -m " in commands
    assert "pip" not in commands
    assert ".venv" not in commands


def test_gpu_runs_the_program_or_walks_it_on_a_cpu() -> None:
    assert "-m tests.gpu --name h200 --out results" in would_do("gpu", "NAME=h200")
    assert "-m tests.dry_gpu --name dry --out build/gpu" in would_do("gpu", "DRY=1")
