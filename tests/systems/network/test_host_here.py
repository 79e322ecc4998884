"""The probe of a machine whose ranks share its cores: what it finds, and where it is kept."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from systems.build import CACHE
from systems.clusters.host import FREE, Cost
from systems.environment import available_cores
from systems.network import host_here

FOUND = replace(FREE, cores=1.5, source="a made up probe")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.distributed
def test_two_ranks_probe_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_here, "load_average", lambda: 0.0)
    host = host_here.host_here(2, 1)
    assert 0 < host.cores <= min(2, available_cores())
    for cost in (host.message, host.ring, host.copy, host.add, host.update):
        assert isinstance(cost, Cost)
        assert 0 < cost.fixed_s < 1
        assert cost.byte_s < 1e-6
    assert host.message.byte_s > 0
    assert 0 <= host.latency_s < 1
    assert 0 < host.step_s < 1
    assert f"2 ranks on {datetime.date.today()}" in host.source
    assert torch.__version__ in host.source
    monkeypatch.setattr(host_here, "answer_of_rank_0", None)  # another probe would need processes
    assert host_here.host_here(2, 1) == host


def test_an_answer_is_kept_for_its_ranks_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    host_here.keep(FOUND, ranks=4, load=0.0)
    assert "delete it to probe again" in capsys.readouterr().err
    assert host_here.kept_host(4, 1) == FOUND
    assert host_here.kept_host(4, 2) is None
    assert host_here.kept_host(3, 1) is None


def test_an_answer_of_ranks_that_are_held_is_kept_for_their_shape() -> None:
    held = replace(FOUND, share=0.4, bandwidth_bits_per_s=1e8)
    host_here.keep(held, 4, 0.0, 0.4, 1e8)
    assert host_here.kept_host(4, 1, 0.4, 1e8) == held
    assert host_here.kept_host(4, 1) is None
    assert host_here.kept_host(4, 1, 0.4, 2e8) is None
    assert host_here.kept_host(4, 1, None, 1e8) is None


def test_a_damaged_answer_is_none(cache: Path) -> None:
    host_here.keep(FOUND, ranks=4, load=0.0)
    (file,) = cache.iterdir()
    file.write_text(file.read_text()[:-40])
    assert host_here.kept_host(4, 1) is None


def test_an_answer_that_cannot_be_kept_is_used_all_the_same(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_text("a file where the folder should be")
    host_here.keep(FOUND, ranks=4, load=0.0)
    assert "the probe is not kept: " in capsys.readouterr().err
    assert host_here.kept_host(4, 1) is None


def test_what_a_busy_machine_has_said_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    host_here.keep(FOUND, ranks=4, load=available_cores() + 3.0)
    assert "the machine was busy before (load average" in capsys.readouterr().err
    assert host_here.kept_host(4, 1) is None
