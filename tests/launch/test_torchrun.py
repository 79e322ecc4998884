"""Of the ranks that torchrun reports as failed, the one to blame is told."""

from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from launch import torchrun
from systems.supervise import TOLD, told


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
    def fail(arguments: list[str]) -> None:
        raise ChildFailedError("launch", failures((1, -9, 8), (0, -15, 8)))

    monkeypatch.setattr("torch.distributed.run.main", fail)
    monkeypatch.setenv(TOLD, str(tmp_path / "told"))
    with pytest.raises(SystemExit) as stop:
        torchrun.main([])
    assert stop.value.code == 1
    assert told(tmp_path / "told") == (1, -9)
    assert "Root Cause" in capsys.readouterr().err
    monkeypatch.delenv(TOLD)
    with pytest.raises(SystemExit):
        torchrun.main([])
    assert "error: rank 1 was killed by SIGKILL" in capsys.readouterr().err
