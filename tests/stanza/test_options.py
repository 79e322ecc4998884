"""What a run's options accept and what they say of themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from stanza.layout import layout_of
from stanza.models import ARCHITECTURES
from stanza.options import Options
from stanza.own_options import own_code as own_code_of
from systems.data.batches import share
from systems.data.shares import weighted_shares
from systems.schema import InputError, dump, read
from tests import own_code


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "alexnett"},
            "--stanza.model alexnett: unknown model; perhaps 'alexnet', or one of your own as "
            "path/to/file.py:attribute",
        ),
        (
            {"image_shape": (3, 0)},
            "--stanza.image-shape 3 0: give whole numbers from 1 on, such as 3 32 32",
        ),
        ({"classes": 0}, "--stanza.classes 0: give 1 or more"),
        (
            {"optimizer": "adam"},
            "--stanza.optimizer adam: give sgd, or an import path, module:attribute or "
            "path/to/file.py:attribute",
        ),
        (
            {"schedule": "cosine"},
            "--stanza.schedule cosine: give an import path, module:attribute or "
            "path/to/file.py:attribute",
        ),
        (
            {"optimizer_options": ("nesterov=True",)},
            "--stanza.optimizer-options nesterov=True: nothing takes them; give "
            "--stanza.optimizer as module:attribute too",
        ),
        (
            {"loss": "m:f", "loss_options": ("x",)},
            "--stanza.loss-options x: write NAME=VALUE, such as lr=0.001",
        ),
        (
            {"optimizer": "torch.optim:AdamW", "momentum": 0.5},
            "--stanza.momentum 0.5: belongs to sgd, and the optimizer is torch.optim:AdamW; give "
            "it in --stanza.optimizer-options",
        ),
        (
            {"scheme": "zero2", "schedule": "m:f"},
            "--stanza.schedule m:f: DeepSpeed steps the optimizer of --stanza.scheme zero2 by "
            "itself, at a constant rate; give another scheme",
        ),
        ({"steps": 0}, "--stanza.steps 0: give 1 or more"),
        ({"local_batch_size": 0}, "--stanza.local-batch-size 0: give 1 or more"),
        ({"global_batch_size": -3}, "--stanza.global-batch-size -3: give 1 or more"),
        ({"ps_servers": 0}, "--stanza.ps-servers 0: give 1 or more"),
        ({"fc_workers": -1}, "--stanza.fc-workers -1: give 0 or more"),
        ({"micro_batches": 0}, "--stanza.micro-batches 0: give 1 or more"),
        ({"message_scale": 0.5}, "--stanza.message-scale 0.5: give 1 or more"),
        ({"momentum": -5.0}, "--stanza.momentum -5: give 0 or more, less than 1"),
        ({"weight_decay": -1.0}, "--stanza.weight-decay -1: give 0 or more"),
        ({"learning_rate": float("inf")}, "--stanza.learning-rate inf: give more than 0"),
        (
            {"local_batch_size": 2, "global_batch_size": 96},
            "--stanza.local-batch-size 2: the global batch size is given as 96; give one, and "
            "None for the other",
        ),
        ({"learning_rate": 0.0}, "--stanza.learning-rate 0: give more than 0"),
        ({"learning_rate": float("nan")}, "--stanza.learning-rate nan: give more than 0"),
    ],
)
def test_refuses_with_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Options(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"fc_workers": 0},
        {"fc_workers": "auto", "micro_batches": "auto"},
        {"local_batch_size": 1, "steps": 1},
        {"global_batch_size": 1, "steps": 1},
        {"model": "nowhere.py:Net", "image_shape": (3, 32, 32), "classes": 10},
        {"optimizer": "torch.optim:AdamW", "optimizer_options": ("lr=0.001",)},
    ],
)
def test_accepts(changes: dict[str, Any]) -> None:
    assert Options(**changes)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_a_model_brings_its_own_batch(model: str) -> None:
    options = Options(model=model)
    assert options.shares(3) == (ARCHITECTURES[model].batch_size,) * 3
    assert options.samples_per_step(3) == 3 * ARCHITECTURES[model].batch_size


def test_a_local_batch_grows_with_the_workers() -> None:
    options = Options(local_batch_size=5)
    assert (options.shares(3), options.samples_per_step(3)) == ((5, 5, 5), 15)


@given(st.integers(1, 500), st.integers(1, 20))
def test_a_global_batch_is_shared(batch: int, workers: int) -> None:
    options = Options(global_batch_size=batch)
    parts = [share(batch, workers, index) for index in range(workers)]
    assert options.shares(workers) == tuple(part.stop - part.start for part in parts)
    assert options.shares(workers) == tuple(map(len, torch.arange(batch).tensor_split(workers)))
    assert options.samples_per_step(workers) == batch


@given(
    st.integers(1, 5000), st.lists(st.floats(0.01, 100, allow_nan=False), min_size=1, max_size=12)
)
def test_a_batch_is_shared_in_proportion(batch: int, weights: list[float]) -> None:
    shares = weighted_shares(batch, weights)
    assert sum(shares) == batch
    for part, weight in zip(shares, weights, strict=True):
        assert abs(part - batch * weight / sum(weights)) < 1 + 1e-9


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12))
def test_shares_that_fit_are_taken_as_they_are(parts: list[int]) -> None:
    """So that a plan's shares can be written into a job."""
    options = Options(global_batch_size=sum(parts), batch_shares=",".join(map(str, parts)))
    assert options.shares(len(parts)) == tuple(parts)


def test_shares_are_those_of_the_ranks_with_data() -> None:
    options = Options(global_batch_size=30, batch_shares="4,1,1,7")
    assert (options.shares(3), options.shares(2)) == ((20, 5, 5), (24, 6))
    with pytest.raises(InputError, match="says 4 shares for 5 workers"):
        options.shares(5)
    with pytest.raises(InputError, match="says 4 shares for 3 ranks"):
        layout_of(options, 3, 1, 1)
    with pytest.raises(InputError, match="auto: the speeds of the devices are not known"):
        Options(batch_shares="auto").shares(2)
    with pytest.raises(InputError, match="4,1,1,700: leaves a worker without samples of 30"):
        layout_of(replace(options, scheme="ddp", batch_shares="4,1,1,700"), 4, 0, 1)


@pytest.mark.parametrize("shares", ["", "3,", "3,0", "3,-1", "evenly", "nan,1", "inf,1"])
def test_refuses_shares_that_are_no_numbers(shares: str) -> None:
    with pytest.raises(InputError, match=r"--stanza\.batch-shares"):
        Options(batch_shares=shares)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "stanza"),
        ({"scheme": "ddp"}, "ddp"),
        ({"scheme": "single"}, "single"),
        ({"scheme": "ps"}, "ps-blocking"),
        ({"scheme": "ps", "ps_mode": "pipelined"}, "ps-pipelined"),
        ({"scheme": "ps", "ps_mode": "pipelined", "ps_placement": "colocated"}, "ps-sharded"),
        ({"scheme": "ps", "ps_placement": "colocated"}, "ps-sharded-blocking"),
    ],
)
def test_scheme_name(changes: dict[str, Any], name: str) -> None:
    assert Options(**changes).scheme_name == name


def test_options_are_a_table_of_a_job_file() -> None:
    options = Options(fc_workers=2, global_batch_size=60, cut_dtype="bfloat16")
    assert read(Options, dump(options), "job.toml: stanza") == options
    with pytest.raises(InputError, match="unknown key 'fc_worker'"):
        read(Options, {"fc_worker": 1}, "job.toml: stanza")


def test_own_code_is_told_and_nothing_else() -> None:
    assert own_code_of(Options(model="vgg16", data="folder:images")) == ()
    own = Options(
        model="net.py:Net", data="data.py:make", optimizer="o:f", schedule="s:f", loss="l:f"
    )
    assert own_code_of(own) == ("net.py:Net", "data.py:make", "o:f", "s:f", "l:f")
    assert read(Options, dump(own), "job.toml") == own


@pytest.mark.usefixtures("own_folder")
def test_what_the_options_say_wins_over_what_the_model_says() -> None:
    own_code.write(Path())
    told = Options(model="net.py:Net").inputs
    assert (told.image_shape, told.classes, told.batch_size) == ((1, 8, 8), None, 8)
    said = Options(model="net.py:Net", image_shape=(3, 4, 4), classes=7).inputs
    assert (said.image_shape, said.classes) == ((3, 4, 4), 7)
    built_in = Options(model="alexnet", image_shape=(3, 64, 64)).inputs
    assert (built_in.image_shape, built_in.classes) == ((3, 64, 64), 1000)
    assert Options(model="net.py:Net").shares(2) == (8, 8)
