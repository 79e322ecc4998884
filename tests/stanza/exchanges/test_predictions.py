"""Predictions know how much an exchange sends, or say by name that they do not."""

from dataclasses import replace
from typing import Any

import pytest

from stanza.options import Options
from stanza.planner.candidates import costs_at
from stanza.planner.plan import load_profile, plan
from stanza.planner.predict import unpredicted
from stanza.planner.simulated import played_plan
from stanza.system import SYSTEM
from systems.clusters.cluster import load
from systems.schema import InputError

CLUSTER = load("ec2-p3-10g").with_size(4)
PROFILE = load_profile("alexnet")
DDP = Options(scheme="ddp", model="alexnet")
PS = replace(DDP, scheme="ps")
KNOWN = ("fp16", "bf16", "top-k", "random-k", "1-bit")
SCHEMES = {
    "ddp": DDP,
    "ps-blocking": PS,
    "ps-pipelined": replace(PS, ps_mode="pipelined"),
    "ps-sharded": replace(PS, ps_mode="pipelined", ps_placement="colocated"),
}
OWN = "tests.stanza.exchanges.own:"
UNKNOWN: dict[str, Options] = {
    "powersgd": replace(DDP, exchange="powersgd"),
    "post-local-sgd": replace(DDP, exchange="post-local-sgd"),
    "one's own": replace(PS, exchange=f"{OWN}Identity"),
    "asynchronous": replace(PS, ps_consistency="asynchronous"),
    "stale-synchronous": replace(PS, ps_consistency="stale-synchronous"),
}


def predicted(options: Options) -> Any:
    """The prediction of the options' own scheme."""
    return plan(options, 4, CLUSTER, PROFILE).chosen


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("exchange", KNOWN)
def test_planner_and_simulator_charge_the_compressed_size(scheme: str, exchange: str) -> None:
    options = replace(SCHEMES[scheme], exchange=exchange)
    made, whole = plan(options, 4, CLUSTER, PROFILE), predicted(SCHEMES[scheme])
    assert made.chosen is not None
    assert made.chosen.step_s < whole.step_s
    link = CLUSTER.slowest_link
    played = played_plan(options, made.layout, costs_at(options, PROFILE), link)
    assert played.step_s == pytest.approx(made.chosen.step_s, rel=0.03)


def test_the_bytes_of_an_all_reduce_in_16_bits_and_of_an_all_gather() -> None:
    model_bytes, link = 4 * 61_100_840, CLUSTER.slowest_link

    def busy_s(exchange: str, **changes: Any) -> float:
        made = predicted(replace(DDP, exchange=exchange, **changes))
        found: float = made.resources["all-reduce"]
        return found

    ring_s = link.seconds(2 * model_bytes * 3 / 4) + 6 * link.latency_s
    assert busy_s("plain") == pytest.approx(ring_s)
    ring_s = link.seconds(model_bytes * 3 / 4) + 6 * link.latency_s
    assert busy_s("bf16") == pytest.approx(ring_s)
    # A twentieth of the values, each with its place, from every rank to three others.
    gather_s = link.seconds(3 * model_bytes / 10) + 3 * link.latency_s
    assert busy_s("top-k", exchange_options=("density=0.05",)) == pytest.approx(gather_s)


def test_other_schemes_are_predicted_as_they_are() -> None:
    plain = plan(DDP, 4, CLUSTER, PROFILE).predictions
    compressed = plan(replace(DDP, exchange="bf16"), 4, CLUSTER, PROFILE).predictions
    differing = [a.scheme for a, b in zip(plain, compressed, strict=True) if a != b]
    assert differing == ["ddp"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_can_predict_is_refused_by_name(name: str) -> None:
    options = UNKNOWN[name]
    why = unpredicted(options)
    assert why is not None
    assert why.startswith(("--stanza.exchange", "--stanza.ps-consistency"))
    made = plan(options, 4, CLUSTER, PROFILE)
    assert (made.chosen, made.predictions) == (None, ())
    at = costs_at(options, PROFILE)
    with pytest.raises(InputError) as error:
        played_plan(options, made.layout, at, CLUSTER.slowest_link)
    assert str(error.value) == f"{why}; use testbed run"
    job = SYSTEM.job(options, cluster="ec2-p3-10g", world_size=4)
    assert SYSTEM.training is not None
    assert SYSTEM.training.no_prediction(job) == why
    assert SYSTEM.emulating is not None
    with pytest.raises(InputError, match=r"; use testbed run"):
        SYSTEM.emulating.plan(job)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({}, None),
        ({"exchange": "bf16"}, None),
        ({"exchange": "top-k"}, "--stanza.exchange top-k"),
        ({"exchange": f"{OWN}OBJECT"}, f"--stanza.exchange {OWN}OBJECT"),
        ({"ps_consistency": "asynchronous"}, "--stanza.ps-consistency asynchronous"),
    ],
)
def test_what_a_checkpoint_would_not_hold_rules_it_out(
    changes: dict[str, Any], flag: str | None
) -> None:
    assert SYSTEM.training is not None
    job = SYSTEM.job(replace(PS, **changes), world_size=4)
    assert SYSTEM.training.without_checkpoints(job) == flag
