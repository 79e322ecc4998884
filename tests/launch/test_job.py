"""Job files and flags: precedence, round trips, and one-line errors."""

from pathlib import Path

import pytest

from launch import job as jobs
from launch.drivers import DRIVERS
from launch.job import Job
from stanza.options import Options
from systems.schema import InputError

DIGITS = "launch/jobs/stanza-digits.toml"


def written(folder: Path, text: str) -> str:
    path = folder / "job.toml"
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_job_file_which_wins_over_defaults() -> None:
    job = jobs.parse("run", [DIGITS, "--stanza.steps", "7"], jobs.Job())
    assert job.stanza.steps == 7
    assert job.stanza.global_batch_size == 96
    assert job.stanza.momentum == Options().momentum


def test_a_saved_job_reads_back_equal(tmp_path: Path) -> None:
    job = Job(world_size=3, seed=5, stanza=Options(scheme="ps", cut_dtype="bfloat16"))
    jobs.save(job, tmp_path / "job.toml")
    assert jobs.load(tmp_path / "job.toml") == job


@pytest.mark.parametrize("path", sorted(Path("launch/jobs").glob("*.toml")), ids=lambda p: p.stem)
def test_ready_jobs_parse(path: Path) -> None:
    assert jobs.load(path).system in DRIVERS


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stanza.fc-worker", "1"], ["--stanza.fc-worker", "Perhaps", "--stanza.fc-workers"]),
        (["--world-size", "x"], ["--world-size", "'x'", "--help"]),
        (["--stanza.scheme", "foo"], ["--stanza.scheme", "foo", "stanza"]),
        (["--stanza.fc-workers", "-1"], ["--stanza.fc-workers -1", "0 or more"]),
        (["--stanza.model", "alexnett"], ["--stanza.model alexnett", "'alexnet'"]),
        (["--timeout-s", "0"], ["--timeout-s 0"]),
        (["--seed", "-3"], ["--seed -3"]),
        (["--transport", "mpi"], ["--transport mpi", "--launcher mpirun"]),
    ],
)
def test_a_bad_flag_is_one_line(flags: list[str], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        jobs.parse("run", [DIGITS, *flags], jobs.Job())
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fc_workers = 1", ["'fc_workers'", "[stanza]"]),
        ("[stanza]\nfc_worker = 1", ["'fc_worker'", "'fc_workers'"]),
        ("[stanza]\nfc_workers = 1.5", ["fc_workers", "1.5"]),
        ("world_size = true", ["world_size", "True"]),
        ("[stanza", ["not TOML"]),
        ("[stanza]\nsteps = 0", ["steps 0", "1 or more"]),
    ],
)
def test_a_bad_job_file_is_one_line_that_names_the_file(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        jobs.parse("run", [written(tmp_path, text)], jobs.Job())
    message = str(error.value)
    assert "\n" not in message
    assert "job.toml" in message
    assert all(word in message for word in words), message


def test_a_missing_job_file_names_the_ready_ones() -> None:
    with pytest.raises(InputError, match="stanza-digits"):
        jobs.parse("run", ["nowhere.toml"], jobs.Job())
