"""The planner never predicts less than the best baseline, does as it is told, and says why."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from stanza.models import ARCHITECTURES
from stanza.options import Options
from stanza.planner.candidates import WORTH_IT, predict_all
from stanza.planner.plan import Plan, load_profile, plan, shipped_profiles
from stanza.planner.predict import Prediction
from systems.clusters.cluster import Cluster, Link, load
from systems.profiles import profile as profiles
from systems.schema import InputError, dump, read

MODELS = ("alexnet", "vgg16", "resnet50", "inception-v3")
GIGABIT = 1e9


def paper_cluster(size: int = 10, rate: float = 10 * GIGABIT) -> Cluster:
    """Ten nodes and 10 Gb/s, as the paper's, or as given."""
    return (
        load("ec2-p3-10g")
        .with_size(size)
        .with_link(Link(bandwidth_bits_per_s=rate, latency_s=50e-6))
    )


def made(model: str = "alexnet", size: int = 10, rate: float = 10 * GIGABIT, **more: Any) -> Plan:
    options = Options(model=model, **more)
    return plan(options, size, paper_cluster(size, rate), load_profile(model))


def baselines(predictions: tuple[Prediction, ...]) -> list[Prediction]:
    return [p for p in predictions if p.scheme != "stanza"]


# auto


@given(
    st.sampled_from(MODELS),
    st.floats(GIGABIT, 100 * GIGABIT),
    st.integers(2, 16),
    st.sampled_from(["auto", 1, 4]),
)
def test_auto_is_never_slower_than_the_best_baseline(
    model: str, rate: float, size: int, micro: Any
) -> None:
    found = made(model, size, rate, micro_batches=micro)
    assert found.chosen is not None
    best = max(p.samples_per_s for p in baselines(found.predictions))
    # The simpler scheme is taken where another gains next to nothing.
    assert found.chosen.samples_per_s * WORTH_IT >= best
    assert found.chosen in found.predictions


@given(st.sampled_from(MODELS), st.floats(GIGABIT, 100 * GIGABIT), st.integers(2, 16))
def test_the_layout_is_that_of_the_chosen_prediction(model: str, rate: float, size: int) -> None:
    found = made(model, size, rate)
    chosen, roles = found.chosen, found.layout
    assert chosen is not None
    assert len(roles.roles) == size
    assert roles.scheme == chosen.scheme.partition("-")[0]
    assert len(roles.ranks("fc")) == chosen.fc_workers
    assert roles.micro_batches == chosen.micro_batches
    batch = ARCHITECTURES[model].batch_size
    assert chosen.samples == batch * len(roles.data_ranks)


def test_the_papers_gains_on_its_cluster() -> None:
    """1.34x to 13.9x over a parameter server; most where FC layers hold most parameters."""
    gains = []
    for model in MODELS:
        plain = made(model, fc_workers=1, micro_batches=1)
        server = made(model, scheme="ps").chosen
        assert plain.chosen is not None
        assert server is not None
        gains.append(plain.chosen.samples_per_s / server.samples_per_s)
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] > 1.34
    assert gains[0] < 13.9


def test_separation_is_chosen_where_fc_layers_hold_the_parameters() -> None:
    found = made("alexnet")
    assert found.layout.scheme == "stanza"
    assert "throughput of the best baseline" in found.reason


def test_no_separation_is_chosen_where_it_does_not_pay() -> None:
    """Ten nodes and a link so fast that a node without data is a node lost."""
    found = made("inception-v3", rate=1e15)
    assert found.layout.scheme != "stanza"
    assert not found.layout.ranks("fc")
    assert found.reason.startswith("no separation: ")


def test_one_node_has_nothing_to_separate() -> None:
    found = made(size=1)
    assert [p.scheme for p in found.predictions] == ["ddp"]
    assert found.layout.roles == ("worker",)


def test_more_micro_batches_than_samples_are_not_considered() -> None:
    found = made(local_batch_size=3)
    assert {p.micro_batches for p in found.predictions} <= {1, 2}


def test_a_global_batch_is_shared_by_every_scheme() -> None:
    """All schemes are predicted with its samples, whether or not their workers divide it."""
    for samples in (90, 97):
        found = made(global_batch_size=samples, fc_parallel="auto", fc_placement="auto")
        assert {p.samples for p in found.predictions} == {samples}


def test_a_narrow_cut_makes_separation_faster() -> None:
    def separated(**changes: Any) -> float:
        return max(p.samples_per_s for p in made(**changes).predictions if p.fc_workers == 1)

    narrow = separated(micro_batches=1, cut_dtype="bfloat16")
    assert narrow > separated(micro_batches=1)


AUTO: dict[str, Any] = {"fc_parallel": "auto", "fc_placement": "auto"}


@given(st.sampled_from(MODELS), st.floats(GIGABIT, 100 * GIGABIT), st.integers(2, 8))
@settings(max_examples=20)
def test_more_to_choose_from_is_never_slower(model: str, rate: float, size: int) -> None:
    usual, free = made(model, size, rate).chosen, made(model, size, rate, **AUTO)
    assert usual is not None
    assert free.chosen is not None
    assert free.chosen.samples_per_s >= usual.samples_per_s
    if free.layout.scheme == "stanza":
        assert free.layout.fc_parallel == free.chosen.fc_parallel
        assert free.layout.fc_placement == free.chosen.fc_placement
        assert len(free.layout.ranks("fc")) == free.chosen.fc_workers


def test_auto_tries_replicas_and_columns_on_all_nodes() -> None:
    found = made("alexnet", size=6, micro_batches=2, **AUTO)
    modes = [(p.mode, p.fc_workers) for p in found.predictions if p.scheme == "stanza"]
    assert modes == [("", 1), ("", 2), ("", 3), (" columns colocated", 6)]


def test_auto_passes_over_columns_that_a_network_does_not_have() -> None:
    found = made("inception-v3", size=4, micro_batches=1, **AUTO)
    assert all(p.mode == "" for p in found.predictions)
    with pytest.raises(InputError, match=r"give --stanza\.fc-parallel replicas"):
        made("inception-v3", size=4, micro_batches=1, fc_parallel="columns")


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({"fc_workers": 2, "fc_parallel": "columns"}, "conv conv conv fc fc"),
        ({"fc_workers": 1, "fc_placement": "colocated"}, "conv+fc conv conv conv conv"),
        ({"fc_workers": 5, "fc_parallel": "columns", "fc_placement": "colocated"}, "conv+fc " * 5),
    ],
)
def test_a_given_mode_is_planned(changes: dict[str, Any], roles: str) -> None:
    found = made("vgg16", 5, micro_batches=2, **changes)
    assert found.layout.roles == tuple(roles.split())
    assert found.chosen is not None
    assert found.chosen.samples == 128 * len(found.layout.data_ranks)
    assert set(found.chosen.resources) == {"compute", "network"}
    assert read(Plan, json.loads(json.dumps(dump(found))), "plan.json") == found


@pytest.mark.parametrize("name", ["fc_parallel", "fc_placement"])
def test_every_auto_needs_a_profile(name: str) -> None:
    changes: dict[str, Any] = {name: "auto"}
    with pytest.raises(
        InputError, match=f"--stanza.{name.replace('_', '-')} auto: needs a profile"
    ):
        plan(Options(fc_workers=1, **changes), 4, None, None)


# As given


@pytest.mark.parametrize("fc", [1, 2, 3, 5])
@pytest.mark.parametrize("micro", [1, 3])
def test_given_numbers_are_honoured(fc: int, micro: int) -> None:
    found = made("resnet50", fc_workers=fc, micro_batches=micro)
    assert found.layout.roles == ("conv",) * (10 - fc) + ("fc",) * fc
    assert found.layout.micro_batches == micro
    assert found.chosen is not None
    assert (found.chosen.fc_workers, found.chosen.micro_batches) == (fc, micro)
    assert found.reason == "as given"


def test_zero_fc_workers_is_the_best_baseline() -> None:
    found = made("alexnet", fc_workers=0)
    best = max(baselines(found.predictions), key=lambda p: p.samples_per_s)
    assert found.chosen == best
    assert not found.layout.ranks("fc")


@pytest.mark.parametrize(
    ("changes", "scheme", "roles"),
    [
        ({"scheme": "ddp"}, "ddp", "w" * 10),
        ({"scheme": "ps"}, "ps-blocking", "w" * 9 + "s"),
        ({"scheme": "ps", "ps_mode": "pipelined"}, "ps-pipelined", "w" * 9 + "s"),
        ({"scheme": "ps", "ps_servers": 3}, "ps-blocking", "w" * 7 + "sss"),
        (
            {"scheme": "ps", "ps_mode": "pipelined", "ps_placement": "colocated"},
            "ps-sharded",
            "w" * 10,
        ),
    ],
)
def test_a_given_baseline_is_predicted(changes: dict[str, Any], scheme: str, roles: str) -> None:
    found = made(**changes)
    assert found.chosen is not None
    assert found.chosen.scheme == scheme
    assert "".join(role[0] for role in found.layout.roles) == roles
    assert found.layout.scheme == changes["scheme"]


@pytest.mark.parametrize(
    "changes", [{"scheme": "single"}, {"scheme": "ps", "ps_placement": "colocated"}]
)
def test_a_scheme_without_a_prediction_runs_as_given(changes: dict[str, Any]) -> None:
    found = made(**changes)
    assert found.chosen is None
    assert found.layout.scheme == changes["scheme"]
    assert found.layout.roles[0] == "worker"


# Without figures


@pytest.mark.parametrize("missing", ["cluster", "profile", "both"])
def test_auto_needs_a_cluster_and_a_profile(missing: str) -> None:
    cluster = paper_cluster() if missing == "profile" else None
    profile = load_profile("alexnet") if missing == "cluster" else None
    with pytest.raises(InputError) as error:
        plan(Options(model="alexnet"), 10, cluster, profile)
    assert str(error.value).startswith("--stanza.fc-workers auto: ")
    assert "\n" not in str(error.value)


def test_numbers_need_neither() -> None:
    found = plan(Options(fc_workers=2), 5, None, None)
    assert found.layout.roles == ("conv",) * 3 + ("fc",) * 2
    assert found.layout.micro_batches == 1
    assert found.chosen is None
    assert found.predictions == ()


@pytest.mark.parametrize("scheme", ["ps", "ddp", "single"])
def test_baselines_need_neither(scheme: Any) -> None:
    assert plan(Options(scheme=scheme), 3, None, None).layout.scheme == scheme


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        ({"fc_workers": 6}, 10, ["--stanza.fc-workers 6", "5"]),
        ({"fc_workers": 7, "fc_placement": "colocated"}, 6, ["--stanza.fc-workers 7", "6"]),
        ({"fc_workers": 1}, 1, ["--stanza.fc-workers 1"]),
        ({"scheme": "ps", "ps_servers": 3}, 3, ["--world-size 3", "give --world-size 4"]),
        (
            {"fc_workers": 1, "micro_batches": 8, "local_batch_size": 4},
            3,
            ["--stanza.micro-batches 8", "give at most 4"],
        ),
        ({"micro_batches": 8, "global_batch_size": 15}, 3, ["micro-batches 8", "give at most 7"]),
        ({"fc_workers": 1, "global_batch_size": 3}, 5, ["global-batch-size 3", "at least 4"]),
        ({"fc_workers": "auto", "global_batch_size": 3}, 5, ["global-batch-size 3", "at least 5"]),
    ],
)
def test_refuses_with_one_clear_line(changes: dict[str, Any], size: int, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        made(size=size, **changes)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


# Records


@pytest.mark.parametrize("changes", [{}, {"fc_workers": 0}, {"scheme": "ps"}])
def test_a_plan_survives_json(changes: dict[str, Any]) -> None:
    found = made("vgg16", **changes)
    assert read(Plan, json.loads(json.dumps(dump(found))), "plan.json") == found


def test_a_plan_without_predictions_survives_json() -> None:
    found = plan(Options(fc_workers=1), 4, None, None)
    assert read(Plan, json.loads(json.dumps(dump(found))), "plan.json") == found


def test_a_plan_names_its_sources() -> None:
    found = made("vgg16")
    assert found.profile.startswith("vgg16, batch ")
    assert load_profile("vgg16").source in found.profile
    assert found.bandwidth_bits_per_s == 10 * GIGABIT


def test_every_number_of_fc_workers_is_predicted_once() -> None:
    cluster, profile = paper_cluster(), load_profile("vgg16")
    predictions = predict_all(Options(model="vgg16"), 10, cluster, profile)
    assert [p.scheme for p in baselines(predictions)] == [
        "ps-blocking",
        "ps-pipelined",
        "ps-sharded",
        "ddp",
    ]
    assert [p.fc_workers for p in predictions if p.scheme == "stanza"] == [1, 2, 3, 4, 5]


# Profiles


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_name_their_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.source


def test_a_profile_may_be_a_file(tmp_path: Path) -> None:
    profiles.save(load_profile("alexnet"), tmp_path / "mine.json")
    assert load_profile(str(tmp_path / "mine.json")) == load_profile("alexnet")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alexnett", ["--profile alexnett", "perhaps 'alexnet'", "testbed profile"]),
        ("nowhere.json", ["nowhere.json", "no such file"]),
    ],
)
def test_an_unknown_profile_is_refused(name: str, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load_profile(name)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_baselines_without_a_sample_for_every_worker_are_left_out() -> None:
    fits = made(size=5, fc_workers=2, global_batch_size=3)
    assert baselines(fits.predictions) == []
    assert fits.chosen is not None
    assert fits.chosen.samples == 3
    beside_a_server = made(size=5, fc_workers=1, global_batch_size=4)
    assert {p.scheme for p in baselines(beside_a_server.predictions)} == {
        "ps-blocking",
        "ps-pipelined",
    }


def test_a_small_network_is_predicted_with_as_many_buckets_as_the_one_it_stands_for() -> None:
    """AlexNet with a hundredth of its bytes behind links of a hundredth of the rate: with messages
    scaled every scheme takes the real one's time, and DDP takes longer without."""
    real, target = load_profile("alexnet"), load("ec2-p3-10g").with_size(4)
    tiny = dataclasses.replace(
        real,
        layers=tuple(
            dataclasses.replace(
                layer,
                activation_bytes=round(layer.activation_bytes / 100),
                parameter_bytes=round(layer.parameter_bytes / 100),
            )
            for layer in real.layers
        ),
    )
    slow = target.with_link(Link(bandwidth_bits_per_s=1e8))
    options = Options(model="alexnet", scheme="ddp")
    expected = plan(options, 4, target.with_link(Link(bandwidth_bits_per_s=1e10)), real)
    scaled = plan(dataclasses.replace(options, message_scale=100), 4, slow, tiny)
    unscaled = plan(options, 4, slow, tiny)
    for ours, theirs in zip(scaled.predictions, expected.predictions, strict=True):
        assert ours.step_s == pytest.approx(theirs.step_s, rel=1e-4)
    assert scaled.bandwidth_bits_per_s == 1e8
    assert unscaled.chosen is not None
    assert scaled.chosen is not None
    assert unscaled.chosen.step_s > scaled.chosen.step_s
