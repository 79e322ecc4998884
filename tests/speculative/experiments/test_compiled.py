"""What ptxas says becomes claims; test_build.py compiles the kernels themselves."""

from pathlib import Path

import pytest

from speculative.experiments import compiled
from speculative.verification import build

SAID = """
ptxas info    : Function properties for walk
    48 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers
ptxas info    : Function properties for finish
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers
"""


def test_spills_are_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(compiled, "kernels", lambda nvcc, architecture: compiled.read(SAID))
    results = compiled.measure("full", tmp_path)
    outcome = compiled.conclude(results, tmp_path)
    assert [c.id.split(".")[2] for c in outcome.claims] == ["sm-80", "sm-90", "sm-100"]
    assert [(c.ours, c.status) for c in outcome.claims] == [(12, "off")] * 3
    assert "sm_90: 80" in outcome.notes[0]


def test_without_nvcc_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    outcome = compiled.conclude(compiled.measure("quick", tmp_path), tmp_path)
    assert (outcome.claims, outcome.notes) == ((), ("No nvcc here.",))
