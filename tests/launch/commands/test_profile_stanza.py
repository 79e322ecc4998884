"""`launch profile`: a file that a planner reads, and refusals in one line."""

from pathlib import Path

import pytest
import torch

from launch.__main__ import main
from systems.profiles import profile


def test_a_sparse_network_is_measured_on_generated_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "profile.json"
    flags = ["--voxel-size", "0.1", "--batch-size", "2", "--repetitions", "1", "--out", str(path)]
    main(["profile", "sparsepipe", "--model", "minkunet14", *flags])
    measured = profile.load(path)
    assert (measured.name, measured.batch_size, len(measured.layers)) == ("minkunet14", 2, 102)
    assert "tier measured" in capsys.readouterr().out


def test_a_profile_says_its_threads_and_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = tmp_path / "profile.json", torch.get_num_threads()
    flags = ["--batch-size", "2", "--threads", "2", "--out", str(path)]
    try:
        main(["profile", "stanza", "--model", "digits-cnn", *flags])
    finally:
        torch.set_num_threads(before)
    measured = profile.load(path)
    assert measured.low is not None
    assert measured.high is not None
    assert 0 < measured.low <= 1 <= measured.high
    said = capsys.readouterr().out
    assert "(median and quartiles)" in said
    assert measured.threads == (None if torch.cuda.is_available() else 2)
    assert (", threads 2: forward" in said) == (measured.threads == 2)


def test_no_threads_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["profile", "stanza", "--threads", "0", "--out", str(tmp_path / "profile.json")])
    assert stop.value.code == 2
    assert "--threads 0: give whole numbers from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "minkvgg"], ["--model minkvgg", "'minkvgg16-bn'"]),
        (["--batch-size", "0"], ["--batch-size 0", "1 or more"]),
        (["--voxel-size", "0"], ["--voxel-size 0"]),
        (["--data", "cubes"], ["cubes", "unknown data"]),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    flags: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["profile", "sparsepipe", *flags, "--out", str(tmp_path / "profile.json")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line
