"""The ready jobs hold options that exist."""

import tomllib
from pathlib import Path

import pytest

from speculative.options import Options
from systems import schema

JOBS = Path(__file__).parents[3] / "launch" / "jobs"


@pytest.mark.parametrize("name", ["summarize", "transcribe", "pronounce"])
def test_ready_jobs(name: str) -> None:
    table = tomllib.loads((JOBS / f"{name}.toml").read_text())
    options = schema.read(Options, table["speculative"], name)
    assert options.task == table["name"] == name
    assert options.target_path == f"runs/pairs/{name}/target"
