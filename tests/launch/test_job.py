"""Job files and flags: precedence, round trips, and one-line errors."""

from dataclasses import replace
from pathlib import Path

import pytest

from launch import job as jobs
from launch.installed import names
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from systems.flags import named_as_given
from systems.job import Job
from systems.schema import InputError

DIGITS = "launch/jobs/stanza-digits.toml"


def written(folder: Path, text: str) -> str:
    path = folder / "job.toml"
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_job_file_which_wins_over_defaults() -> None:
    job = jobs.parse_job("run", [DIGITS, "--stanza.steps", "7"], Job)
    assert job.options.steps == 7
    assert job.options.global_batch_size == 96
    assert job.options.momentum == Options().momentum


def test_a_saved_job_reads_back_equal(tmp_path: Path) -> None:
    job = STANZA.job(Options(scheme="ps", cut_dtype="bfloat16"), world_size=3, seed=5)
    jobs.save_job(job, tmp_path / "job.toml")
    assert jobs.load_job(tmp_path / "job.toml") == job


@pytest.mark.parametrize("path", sorted(Path("launch/jobs").glob("*.toml")), ids=lambda p: p.stem)
def test_ready_jobs_parse(path: Path) -> None:
    assert jobs.load_job(path).system in names()


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
        jobs.parse_job("run", [DIGITS, *flags], Job)
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
        jobs.parse_job("run", [written(tmp_path, text)], Job)
    message = str(error.value)
    assert "\n" not in message
    assert "job.toml" in message
    assert all(word in message for word in words), message


def test_a_missing_job_file_names_the_ready_ones() -> None:
    with pytest.raises(InputError, match="stanza-digits"):
        jobs.parse_job("run", ["nowhere.toml"], Job)


FILES = """
cluster = "my.toml"
profile = "taken.json"
resume = "earlier"
[stanza]
data = "folder:images"
[sparsepipe]
plan = "plan.json"
profiles = "tv,taken.json"
data = "meshes:images"
[speculative]
data = "jsonl:rows.jsonl,text,summary"
target = "pair/{task}"
draft = "hub/name"
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job file and all that it names; the working directory is another one, which
    has some of the same names."""
    folder, elsewhere = tmp_path / "jobs", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        (place / "images").mkdir(parents=True)
        (place / "my.toml").touch()
    for name in ("taken.json", "plan.json", "rows.jsonl"):
        (folder / name).touch()
    for name in ("earlier", "pair/summarize"):
        (folder / name).mkdir(parents=True)
    written(folder, FILES)
    monkeypatch.chdir(elsewhere)
    return folder


def test_paths_in_a_job_file_are_looked_for_beside_it(beside: Path) -> None:
    job = jobs.parse_job("run", ["../jobs/job.toml"], Job)
    assert (job.cluster, job.profile) == (f"{beside}/my.toml", f"{beside}/taken.json")
    assert job.resume == f"{beside}/earlier"
    assert job.options.data == f"folder:{beside}/images"
    job = jobs.parse_job("run", ["../jobs/job.toml", "--system", "sparsepipe"], Job)
    assert job.options.plan == f"{beside}/plan.json"
    assert job.options.profiles == f"tv,{beside}/taken.json"
    assert job.options.data == f"meshes:{beside}/images"
    job = jobs.parse_job("run", ["../jobs/job.toml", "--system=speculative"], Job)
    assert job.options.data == f"jsonl:{beside}/rows.jsonl,text,summary"
    assert job.options.target_path == f"{beside}/pair/summarize"
    assert job.options.draft == "hub/name"


def test_what_is_not_beside_a_job_file_is_looked_for_in_the_working_directory(
    beside: Path, tmp_path: Path
) -> None:
    (beside / "my.toml").unlink()
    (beside / "taken.json").unlink()
    job = jobs.parse_job("run", ["../jobs/job.toml"], Job)
    assert job.cluster == f"{tmp_path}/elsewhere/my.toml"
    assert job.profile == "taken.json"  # nowhere: errors say what the user has written


def test_paths_in_flags_are_of_the_working_directory(beside: Path, tmp_path: Path) -> None:
    flags = ["--cluster", "my.toml", "--stanza.data", "folder:images", "--out", "kept"]
    job = jobs.parse_job("run", ["../jobs/job.toml", *flags], Job)
    assert job.cluster == f"{tmp_path}/elsewhere/my.toml"
    assert job.options.data == f"folder:{tmp_path}/elsewhere/images"
    assert job.out == "kept"
    named = jobs.parse_job("run", ["--cluster", "local", "--profile", "vgg16"], Job)
    assert (named.cluster, named.profile, named.options.data) == ("local", "vgg16", "digits")


def test_a_saved_job_means_the_same_from_every_folder(
    beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = STANZA.job(Options(data="folder:images"), cluster="my.toml")
    (tmp_path / "record").mkdir()
    jobs.save_job(given, tmp_path / "record" / "job.toml")
    monkeypatch.chdir(beside)  # which has those names too
    found = jobs.load_job(tmp_path / "record" / "job.toml")
    there = f"{tmp_path}/elsewhere"
    expected = given.with_options(data=f"folder:{there}/images")
    assert found == replace(expected, cluster=f"{there}/my.toml")


def test_errors_name_the_option_that_was_given() -> None:
    names = {"stanza.model": "model", "world-size": "nodes"}
    said = "--stanza.model x: --world-size 3, --world-sizes 4, --stanza.model-x; not world-size"
    with pytest.raises(InputError) as error, named_as_given(names):
        raise InputError(said)
    assert str(error.value) == (
        "--model x: --nodes 3, --world-sizes 4, --stanza.model-x; not world-size"
    )


@pytest.mark.parametrize("name", ["a{b}", "models/{", "x" * 300])
def test_any_name_of_a_model_or_a_checkpoint_can_be_read(name: str) -> None:
    flags = ["--system", "speculative", "--speculative.target", name, "--resume", name]
    job = jobs.parse_job("run", flags, Job)
    assert (job.options.target, job.resume) == (name, name)
    assert job.options.target_path == name
