"""Of ranks that torchrun sees failed at once, the one that was killed is told."""

from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from launch import torchrun
from systems.supervise import TOLD, told


def failure(rank: int, code: int, timestamp: int) -> ProcessFailure:
    found = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="<N/A>")
    found.timestamp = timestamp
    return found


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ({0: (1, 7), 1: (-9, 8)}, (1, -9)),  # rank 0 lost its peer, and wrote down when
        ({0: (1, 8), 2: (1, 7)}, (2, 1)),
    ],
)
def test_the_cause_is_told(
    ends: dict[int, tuple[int, int]],
    first: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: list[str]) -> None:
        raise ChildFailedError("launch", {r: failure(r, *end) for r, end in ends.items()})

    monkeypatch.setattr("torch.distributed.run.main", fail)
    monkeypatch.setenv(TOLD, str(tmp_path / "told"))
    with pytest.raises(SystemExit) as stop:
        torchrun.main([])
    assert stop.value.code == 1
    assert told(tmp_path / "told") == first
    assert "Root Cause" in capsys.readouterr().err
    monkeypatch.delenv(TOLD)
    with pytest.raises(SystemExit):
        torchrun.main([])
    assert f"error: rank {first[0]} " in capsys.readouterr().err
