"""Plans for ranks that share one machine: what is busy at once shares its cores."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from stanza.layout import layout_of, separated_layout
from stanza.options import Options
from stanza.planner.candidates import costs_at, predict_all
from stanza.planner.plan import Plan, enlarged, load_profile, plan
from stanza.planner.predict import BUCKET_BYTES
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import segments, steps_on
from stanza.system.plan_command import describe_plan
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.clusters.cluster import Cluster, Link, load
from systems.clusters.host import FREE, Cost, Host
from systems.schema import dump, read

PROFILE = load_profile("alexnet")
OPTIONS = Options(
    model="alexnet", global_batch_size=96, fc_parallel="auto", fc_placement="auto", micro_batches=2
)
LAPTOP = replace(
    FREE,
    source="a probe of 4 ranks on 2026-01-01, a made up machine",
    cores=1.8,
    latency_s=20e-6,
    step_s=5e-4,
    message=Cost(fixed_s=1e-4, byte_s=3e-10),
    ring=Cost(fixed_s=1e-4, byte_s=6e-10),
    copy=Cost(fixed_s=5e-6, byte_s=1e-10),
    add=Cost(fixed_s=5e-6, byte_s=1e-10),
    update=Cost(fixed_s=5e-5, byte_s=2e-10),
)


def here(host: Host, ranks: int = 4) -> Cluster:
    return load("local").with_size(ranks).with_kind(PROFILE.device).on(host)


def step_times(target: Cluster) -> dict[tuple[Any, ...], float]:
    predictions = predict_all(OPTIONS, target.size, target, PROFILE)
    return {
        (p.scheme, p.fc_workers, p.micro_batches, p.mode): p.step_s
        for p in predictions
        if p.mode != " columns colocated"  # the recurrences know none
    }


def test_ranks_with_a_core_each_and_free_messages_are_a_cluster_of_infinite_links() -> None:
    free = step_times(here(replace(FREE, cores=8.0)))
    fast = load("ec2-p3-10g").with_size(4).with_link(Link(bandwidth_bits_per_s=1e18))
    assert free == pytest.approx(step_times(fast), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1.0, 1.8, 3.0]), st.integers(2, 5))
def test_no_step_is_shorter_than_the_cores_are_busy(cores: float, ranks: int) -> None:
    target = here(replace(LAPTOP, cores=cores), ranks)
    for prediction in predict_all(OPTIONS, ranks, target, PROFILE):
        assert prediction.step_s >= prediction.resources["cores"] * (1 - 1e-9)


def test_on_one_core_all_that_is_done_follows_one_another() -> None:
    """Without latency a core never waits, so the step takes the core time of all ranks."""
    target = here(replace(LAPTOP, cores=1.0, latency_s=0.0))
    for prediction in predict_all(OPTIONS, 4, target, PROFILE):
        if prediction.mode != " columns colocated":  # its ranks wait for one another
            assert prediction.step_s == pytest.approx(prediction.resources["cores"], rel=0.02)


def test_one_process_pays_for_its_layers_its_step_and_its_update() -> None:
    options = Options(model="alexnet", scheme="single", global_batch_size=96)
    at = costs_at(options, PROFILE)
    played = played_plan(options, layout_of(options, 1, 0, 1), at, LAPTOP)
    parameters = sum(1 for layer in PROFILE.layers if layer.parameter_bytes) * 2
    update_s = parameters * 5e-5 + PROFILE.parameter_bytes * 2e-10
    assert played.step_s == pytest.approx(at(96).compute_s + 5e-4 + update_s)


def test_servers_pay_for_sums_updates_and_messages() -> None:
    """One server, three workers, blocking: 6 messages of the model, 2 sums and an update of it; a
    copy of it each way on every worker."""
    options = Options(model="alexnet", scheme="ps", global_batch_size=96)
    at = costs_at(options, PROFILE)
    played = played_plan(options, layout_of(options, 4, 0, 1), at, LAPTOP)
    size = PROFILE.parameter_bytes
    core_s = 3 * (at(32).compute_s + 5e-4) + 6 * (1e-4 + 3e-10 * size)
    buckets = sum(1 for _, b in segments(at(32).backward, SMALLEST_MESSAGE_BYTES) if b)
    core_s += 6 * 1e-4 * (buckets - 1)  # every bucket is a message
    core_s += (2 + 6) * (5e-6 + 1e-10 * size) + 5e-5 + 2e-10 * size
    assert played.resources(LAPTOP)["cores"] == pytest.approx(core_s / 1.8)


SHAPED = replace(LAPTOP, cores=4.0, share=0.4, bandwidth_bits_per_s=1e9)


@pytest.mark.parametrize("host", [LAPTOP, SHAPED], ids=["shared", "held"])
def test_separation_is_planned_as_every_rank_plays_it(host: Host) -> None:
    options = replace(OPTIONS, fc_workers="auto", micro_batches=1)
    at = costs_at(options, PROFILE)
    planned = [p for p in predict_all(options, 4, here(host), PROFILE) if p.scheme == "stanza"]
    assert len({p.fc_workers for p in planned}) > 1
    for found in planned:
        dedicated = found.fc_workers if found.fc_placement == "dedicated" else 0
        layout = separated_layout(
            4 - dedicated,
            found.fc_workers,
            1,
            fc_parallel=found.fc_parallel,
            fc_placement=found.fc_placement,
        )
        played = played_plan(options, layout, at, host, steps=steps_on(host))
        assert found.step_s == pytest.approx(played.step_s)


def test_a_plan_for_one_machine_says_what_it_was_made_with() -> None:
    found = plan(replace(OPTIONS, fc_workers="auto"), 4, here(LAPTOP), PROFILE)
    assert found.host == LAPTOP
    assert read(Plan, json.loads(json.dumps(dump(found))), "plan.json") == found
    text = describe_plan(found, "alexnet", here(LAPTOP), "")
    assert "4 nodes of local that share 1.80 cores" in text
    assert LAPTOP.source in text


def test_held_ranks_whose_messages_are_free_are_a_cluster_of_slow_devices() -> None:
    """With short periods and as many cores as ranks, a share of a quarter makes every layer four
    times slower, behind the same links."""
    link = Link(bandwidth_bits_per_s=10e9)
    box = replace(FREE, cores=4.0, share=0.25, period_s=1e-4, bandwidth_bits_per_s=10e9)
    options = replace(OPTIONS, fc_workers=1, fc_parallel="replicas", fc_placement="dedicated")
    quick = PROFILE.slowed(0.25, "core seconds")
    held = predict_all(options, 4, here(box), quick)
    slow = predict_all(options, 4, load("ec2-p3-10g").with_size(4).with_link(link), PROFILE)
    for ours, theirs in zip(held, slow, strict=True):
        assert (ours.scheme, ours.fc_workers) == (theirs.scheme, theirs.fc_workers)
        assert ours.step_s == pytest.approx(theirs.step_s, rel=0.03)


def test_messages_take_a_held_rank_from_its_computing() -> None:
    """A rank's own threads share its quota: what its messages take, its layers do not get."""
    box = replace(LAPTOP, cores=4.0, share=0.25, bandwidth_bits_per_s=1e12, latency_s=0.0)
    free = replace(FREE, cores=4.0, share=0.25, bandwidth_bits_per_s=1e12)
    options = replace(OPTIONS, scheme="ddp")
    at = costs_at(options, PROFILE)
    layout = layout_of(options, 4, 0, 1)
    paid, unpaid = (played_plan(options, layout, at, host).step_s for host in (box, free))
    rounds = sum(1 for _, size in segments(at(24).backward, BUCKET_BYTES) if size) * 6
    ring_s = rounds * 1e-4 + 6e-10 * PROFILE.parameter_bytes * 1.5
    parameters = sum(1 for layer in PROFILE.layers if layer.parameter_bytes)
    others_s = 5e-4 + parameters * 2 * (5e-6 + 5e-5) + PROFILE.parameter_bytes * (1e-10 + 2e-10)
    assert paid - unpaid == pytest.approx((ring_s + others_s) / 0.25, rel=0.05)


@pytest.mark.parametrize("exchange", ["bf16", "top-k"])
def test_an_exchange_makes_its_own_scheme_quicker_and_no_other(exchange: str) -> None:
    box = replace(LAPTOP, cores=4.0, share=0.25, bandwidth_bits_per_s=1e9)
    plain, compressed = (
        {p.scheme: p.step_s for p in predict_all(options, 4, here(box), PROFILE)}
        for options in (
            replace(OPTIONS, fc_workers=1, scheme="ddp"),
            replace(OPTIONS, fc_workers=1, scheme="ddp", exchange=exchange),
        )
    )
    assert compressed.pop("ddp") < plain.pop("ddp")
    assert compressed == plain


def test_a_host_on_which_all_is_larger_takes_as_long() -> None:
    box = replace(LAPTOP, share=0.25, bandwidth_bits_per_s=1e9)
    small = here(box).with_link(Link(bandwidth_bits_per_s=1e9))
    options = replace(OPTIONS, scheme="ddp", message_scale=10.0)
    target, profile = enlarged(options, small, PROFILE)
    assert isinstance(target.network, Host)
    assert target.network.bandwidth_bits_per_s == 1e10
    assert profile.parameter_bytes == pytest.approx(10 * PROFILE.parameter_bytes, rel=1e-6)
    for name in ("message", "ring", "copy", "add", "update"):
        before, after = getattr(box, name), getattr(target.network, name)
        assert after.seconds(10e6) == pytest.approx(before.seconds(1e6))
