"""torchrun on one machine keeps to loopback; of the ranks that failed the one to blame is told."""

import socket
from argparse import Namespace
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from launch.launchers import torchrun
from systems.environment import LOOPBACK
from systems.processes.failures import keep
from systems.processes.supervise import TOLD, told

COMMAND = ["--nproc-per-node", "2", "-m", "launch", "worker"]


def failures(*ends: tuple[int, int, int]) -> dict[int, ProcessFailure]:
    """Of (rank, exit code, time), in the order in which torchrun saw them."""
    found = {}
    for rank, code, timestamp in ends:
        found[rank] = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="<N/A>")
        found[rank].timestamp = timestamp
    return found


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ([(1, -9, 8), (0, -15, 8), (2, -15, 9)], 1),  # torchrun ended the others
        ([(2, -15, 8), (0, -15, 8), (1, -15, 8)], 2),
        ([(0, 1, 7), (1, -9, 8), (2, -15, 8)], 1),  # rank 0 lost its peer, torchrun looked late
        ([(0, 1, 8), (2, 1, 7)], 2),
        ([(0, 1, 8), (1, -9, 39)], 0),  # rank 1 did not heed torchrun's SIGTERM
    ],
)
def test_the_rank_to_blame_is_found(ends: list[tuple[int, int, int]], first: int) -> None:
    assert torchrun.first_failed(failures(*ends)) == first


def test_it_is_told_beside_torchruns_own_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(flags: Namespace) -> None:
        raise ChildFailedError("launch", failures((1, -9, 8), (0, -15, 8)))

    monkeypatch.setattr("torch.distributed.run.run", fail)
    monkeypatch.setenv(TOLD, str(tmp_path / "told"))
    with pytest.raises(SystemExit) as stop:
        torchrun.main(COMMAND)
    assert stop.value.code == 1
    assert told(tmp_path / "told") == (1, -9)
    assert "Root Cause" in capsys.readouterr().err
    monkeypatch.delenv(TOLD)
    with pytest.raises(SystemExit):
        torchrun.main(COMMAND)
    assert "error: rank 1 was killed by SIGKILL" in capsys.readouterr().err


def test_the_reason_that_the_rank_has_left_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error_file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(error_file))
    keep(1, "no such data\nand the details")
    keep(1, "what came after")
    own = ProcessFailure(local_rank=1, pid=1, exitcode=1, error_file=str(error_file))

    def fail(flags: Namespace) -> None:
        raise ChildFailedError("launch", {1: own})

    monkeypatch.setattr("torch.distributed.run.run", fail)
    with pytest.raises(SystemExit):
        torchrun.main(COMMAND)
    text = capsys.readouterr().err
    assert text.splitlines()[-1] == "error: rank 1 ended with code 1: no such data"
    assert "and the details" in text


@pytest.mark.parametrize(
    ("flags", "alone"),
    [
        ([], True),
        (["--standalone"], True),
        (["--rdzv-backend", "c10d", "--rdzv-endpoint", "node0:0"], True),
        (["--nnodes", "2", "--rdzv-backend", "c10d"], False),
        (["--nnodes", "1:4", "--rdzv-backend", "c10d"], False),
    ],
)
def test_an_agent_without_others_meets_nobody(
    flags: list[str], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Namespace] = []
    monkeypatch.setattr("torch.distributed.run.run", given.append)
    torchrun.main([*flags, *COMMAND])
    assert (given[0].rdzv_backend == torchrun.ALONE) is alone
    assert not alone or given[0].rdzv_endpoint.startswith(f"{LOOPBACK}:")


def refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        torchrun.main([*flags, *COMMAND])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        for flags in (["--master-port", f"{port}"], ["--rdzv-endpoint", f"localhost:{port}"]):
            line = refused(flags, capsys)
            assert line.startswith(f"error: port {port} cannot be listened on: Address already in")
            assert "MASTER_PORT" in line


def test_a_node_without_a_name_needs_an_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.launchers.torchrun.own_address", lambda: None)
    assert "--local-addr" in refused(["--nnodes", "2", "--rdzv-backend", "c10d"], capsys)
    assert "--nnodes two" in refused(["--nnodes", "two"], capsys)
