"""What the words of `--over` mean, and the jobs that they make."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from launch.job import load_job
from launch.sweep.variables import (
    cluster_at,
    find_name,
    in_words,
    job_at,
    parse_variables,
    value_at,
)
from systems.clusters import cluster
from systems.schema import InputError

DIGITS = load_job(Path("launch/jobs/stanza-digits.toml"))
TITANS = load_job(Path("launch/jobs/sparsepipe-titan8.toml"))


@pytest.mark.parametrize(
    ("word", "name", "values"),
    [
        ("scheme=ddp,ps", "scheme", ("ddp", "ps")),
        ("stanza.scheme=ddp", "scheme", ("ddp",)),
        ("nodes=2,4,2", "nodes", (2, 4)),
        ("world-size=2", "nodes", (2,)),
        ("bandwidth=1e9,2.5e9", "bandwidth", (1e9, 2.5e9)),
        ("batch-size=48", "batch-size", (48,)),
        ("global-batch-size=48", "batch-size", (48,)),
        ("micro_batches=auto,4", "micro-batches", ("auto", 4)),
        ("learning-rate=1,0.5", "learning-rate", (1.0, 0.5)),
        ("seed=0,7", "seed", (0, 7)),
        ("trace=True,False", "trace", (True, False)),
        ("profile=None,vgg16", "profile", (None, "vgg16")),
        ("slurm.nodes=1,2", "slurm.nodes", (1, 2)),
        (
            "slurm.options=time=30 gpus=4,time=10",
            "slurm.options",
            (("time=30", "gpus=4"), ("time=10",)),
        ),
        (r"data=folder:a\,b,random", "data", ("folder:a,b", "random")),
    ],
)
def test_a_word_names_an_option_and_values_of_its_type(
    word: str, name: str, values: tuple[Any, ...]
) -> None:
    (variable,) = parse_variables(DIGITS, [word])
    assert (variable.name, variable.values) == (name, values)
    assert [type(value) for value in variable.values] == [type(value) for value in values]


def test_short_words_are_options_of_the_jobs_own_system() -> None:
    assert find_name(TITANS, "schedule", "over") == "schedule"
    (cuts,) = parse_variables(TITANS, ["cuts=3 8,4 9"])
    assert cuts.values == ((3, 8), (4, 9))
    assert find_name(TITANS, "batch-size", "over") == "batch-size"
    assert value_at(TITANS, "schedule") == TITANS.options.schedule


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--over (none)"),
        (["nodes"], "--over nodes: write NAME=VALUE"),
        (["nodes="], "write NAME=VALUE"),
        (["nodes=2,"], "write NAME=VALUE"),
        (["scheem=ddp"], "--over scheem: is no option of this job; perhaps 'scheme'"),
        (["gamma=2"], "--over gamma: is no option"),
        (["nodes=two"], "--over nodes=two: expected a whole number"),
        (["scheme=dpp"], "--over scheme=dpp: expected one of 'stanza', 'ps', 'ddp'"),
        (["bandwidth=fast"], "--over bandwidth=fast: expected a number"),
        (["out=here"], "--over out: a sweep cannot vary it"),
        (["system=sparsepipe"], "--over system: a sweep cannot vary it"),
        (["sparsepipe.model=a"], "--over sparsepipe.model: is no option of this job"),
        (["nodes=2", "world-size=4"], "--over nodes: is there twice"),
        (["batch-size=2", "global-batch-size=4"], "--over batch-size: is there twice"),
    ],
)
def test_bad_words_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_variables(DIGITS, words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_word_with_two_meanings_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"seed": int, "stanza.seed": int}
    monkeypatch.setattr("launch.sweep.variables._options", lambda base: options)
    with pytest.raises(InputError, match=r"--over seed: .*write stanza.seed"):
        find_name(DIGITS, "seed", "over")
    assert find_name(DIGITS, "stanza.seed", "over") == "stanza.seed"


def test_a_job_has_the_values_of_its_point() -> None:
    job = job_at(DIGITS, {"scheme": "ddp", "nodes": 3, "batch-size": 60, "seed": 5})
    assert (job.options.scheme, job.world_size, job.seed) == ("ddp", 3, 5)
    assert (job.options.global_batch_size, job.options.local_batch_size) == (60, None)
    assert job.options.model == DIGITS.options.model
    assert job_at(TITANS, {"batch-size": 60}).options.batch_size == 60


def test_options_that_are_refused_together_say_so() -> None:
    job_at(DIGITS, {"transport": "mpi", "launcher": "mpirun"})
    with pytest.raises(InputError, match="--transport mpi"):
        job_at(DIGITS, {"transport": "mpi"})


def test_all_links_of_a_cluster_get_the_rate() -> None:
    target = cluster_at("titan-8", 5e9)
    (node,) = target.nodes
    assert node.device_link is not None
    rates = [node.link.bandwidth_bits_per_s, node.device_link.bandwidth_bits_per_s]
    assert rates == [5e9, 5e9]
    assert target.with_rate(1.0).nodes == cluster.load("titan-8").with_rate(1.0).nodes
    with pytest.raises(InputError, match="--over bandwidth=0"):
        cluster_at("titan-8", 0.0)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_in_words_are_read_back(value: float) -> None:
    assert float(in_words(value)) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [(1e9, "1e9"), (2.5e-7, "2.5e-7"), (1.0, "1"), ((3, 8), "3+8"), (None, "None")],
)
def test_values_are_short_in_words(value: Any, words: str) -> None:
    assert in_words(value) == words
