"""Predictions at their limits, against the traffic table, and against formulas worked out by hand.

Where a formula is exact, compute times, bytes and rates are round numbers.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from stanza.layout import layout_of, separated_layout
from stanza.options import Options
from stanza.planner import costs, predict, recurrence
from stanza.planner.costs import Costs, CostsAt, FcLayer
from stanza.planner.plan import load_profile, shipped_profiles
from stanza.planner.predict import Prediction
from stanza.planner.simulated.separation import separated
from stanza.planner.traffic import Sizes, traffic
from systems.clusters.cluster import Link
from systems.profiles.profile import LayerProfile, ModelProfile

BATCH = 4
LINK = Link(bandwidth_bits_per_s=8e6)
"""One byte a microsecond."""
ENDLESS = Link(bandwidth_bits_per_s=math.inf)

COSTS = Costs(
    conv_forward_s=1.0,
    conv_backward=((1.5, 0.0), (0.5, 1e6)),
    fc_forward_s=0.25,
    fc_backward=((0.5, 5e6), (0.0, 0.0)),
    cut_bytes=2e5,
    batch_size=BATCH,
)


def linear(cost: Costs) -> CostsAt:
    """`cost` at any batch, in proportion."""

    def at(batch: int) -> Costs:
        factor = batch / cost.batch_size
        return Costs(
            conv_forward_s=cost.conv_forward_s * factor,
            conv_backward=tuple((s * factor, size) for s, size in cost.conv_backward),
            fc_forward_s=cost.fc_forward_s * factor,
            fc_backward=tuple((s * factor, size) for s, size in cost.fc_backward),
            cut_bytes=cost.cut_bytes * factor,
            batch_size=batch,
        )

    return at


def shares(cost: Costs, workers: int) -> tuple[int, ...]:
    return (cost.batch_size,) * workers


def without_compute(cost: Costs) -> Costs:
    return replace(
        cost,
        conv_forward_s=0.0,
        conv_backward=((0.0, cost.conv_bytes),),
        fc_forward_s=0.0,
        fc_backward=((0.0, cost.fc_bytes),),
    )


def stanza(cost: Costs, conv: int, fc: int, micro: int, link: Link) -> Prediction:
    return recurrence.separated(linear(cost), (cost.batch_size,) * conv, fc, micro, link)


SCHEMES: dict[str, Callable[[Costs, Link], Prediction]] = {
    "ddp": lambda cost, link: predict.ddp(linear(cost), shares(cost, 4), link),
    "ps-blocking": lambda cost, link: predict.ps_blocking(linear(cost), shares(cost, 3), 1, link),
    "ps-pipelined": lambda cost, link: predict.ps_pipelined(linear(cost), shares(cost, 3), 1, link),
    "ps-sharded": lambda cost, link: predict.ps_sharded(linear(cost), shares(cost, 4), link),
    "stanza": lambda cost, link: stanza(cost, 3, 1, 1, link),
    "stanza, two FC workers": lambda cost, link: stanza(cost, 3, 2, 1, link),
    "stanza, micro-batches": lambda cost, link: stanza(cost, 3, 1, 4, link),
}

seconds = st.floats(0, 1)
sizes = st.floats(0, 1e8)
layers = st.lists(st.tuples(seconds, sizes), min_size=1, max_size=6).map(tuple)
any_costs = st.builds(
    Costs,
    conv_forward_s=seconds,
    conv_backward=layers,
    fc_forward_s=seconds,
    fc_backward=layers,
    cut_bytes=sizes,
    batch_size=st.sampled_from([16]),
)
any_link = st.builds(
    Link, bandwidth_bits_per_s=st.floats(1e8, 1e11), latency_s=st.sampled_from([0.0, 50e-6])
)


# Endless bandwidth: compute alone


@pytest.mark.parametrize("name", ["ddp", "ps-blocking", "ps-pipelined", "ps-sharded"])
def test_baselines_only_compute_on_an_endless_link(name: str) -> None:
    assert SCHEMES[name](COSTS, ENDLESS).step_s == pytest.approx(1 + 2 + 0.25 + 0.5)


@pytest.mark.parametrize(("conv", "fc", "served"), [(1, 1, 1), (3, 1, 3), (3, 2, 2), (4, 2, 2)])
def test_stanza_only_computes_on_an_endless_link(conv: int, fc: int, served: int) -> None:
    assert stanza(COSTS, conv, fc, 1, ENDLESS).step_s == pytest.approx(3 + 0.75 * served)


def test_micro_batches_overlap_both_parts_compute() -> None:
    """Two micro-batches of two FC-seconds and 0.5 + 1 CONV-seconds: the FC worker hardly waits."""
    cost = replace(COSTS, fc_forward_s=4.0, fc_backward=((0.0, 0.0),))
    # CONV forward 0.5 | FC 2 | FC 2 | CONV backward 1; the first backward is hidden.
    assert stanza(cost, 1, 1, 2, ENDLESS).step_s == pytest.approx(0.5 + 2 + 2 + 1)


# No compute: the traffic table alone


def table_s(name: str, options: Options, cost: Costs, fc: int = 1) -> dict[str, float]:
    """Seconds that the busiest rank of each role sends in one direction."""
    ranks = 6 if fc == 2 else 4
    made = layout_of(options, ranks, fc, 1)
    table_sizes = Sizes(
        conv_bytes=cost.conv_bytes, fc_bytes=cost.fc_bytes, cut_bytes=cost.cut_bytes / BATCH
    )
    rows = traffic(made, table_sizes, [BATCH] * len(made.data_ranks))
    return {
        role: max(LINK.seconds(rows[rank].sent) for rank in made.ranks(role))
        for role in set(made.roles)
    }


@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [
        ("ddp", Options(scheme="ddp"), 1),
        ("ps-sharded", Options(scheme="ps", ps_placement="colocated"), 1),
        ("ps-blocking", Options(scheme="ps"), 2),  # all in, then all out
    ],
)
def test_baselines_without_compute_take_the_tables_bytes(
    name: str, options: Options, factor: int
) -> None:
    idle = without_compute(COSTS)
    busiest = max(table_s(name, options, idle).values())
    assert SCHEMES[name](idle, LINK).step_s == pytest.approx(factor * busiest)


def test_a_pipelined_server_without_compute_sends_while_it_receives() -> None:
    """Four equal layers: the last is out one layer's time after it is in."""
    idle = replace(
        without_compute(COSTS), conv_backward=((0.0, 1e6),) * 3, fc_backward=((0.0, 1e6),)
    )
    assert predict.ps_pipelined(linear(idle), shares(idle, 3), 1, LINK).step_s == pytest.approx(
        3 * (4 + 1)
    )


def test_stanza_without_compute_takes_the_tables_bytes() -> None:
    """In at the FC worker, out again, then the CONV workers' ring."""
    idle = without_compute(COSTS)
    table = table_s("stanza", Options(), idle)
    ring_s = table["conv"] - LINK.seconds(idle.cut_bytes)
    expected = table["fc"] + table["fc"] + ring_s
    assert stanza(idle, 3, 1, 1, LINK).step_s == pytest.approx(expected)
    assert stanza(idle, 3, 1, 1, LINK).step_s == pytest.approx(0.6 + 0.6 + 2 * 2 / 3)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_cross_the_cut_both_ways_at_once(micro: int) -> None:
    """Each direction takes one after the other; the last one out leaves as the last one is in."""
    cut_s = 3 * LINK.seconds(COSTS.cut_bytes)
    idle = replace(without_compute(COSTS), conv_backward=((0.0, 0.0),))
    assert stanza(idle, 3, 1, micro, LINK).step_s == pytest.approx(cut_s * (1 + 1 / micro))


def test_the_exchange_of_fc_workers_shares_their_interfaces_with_the_cut() -> None:
    """Four CONV and two FC workers: a ring moves both ways at one pace, so what the cut takes of
    either direction delays it. The simulator, which shares max-min fairly, agrees."""
    idle = without_compute(COSTS)
    table = table_s("stanza", Options(), idle, fc=2)
    cut_s = 2 * LINK.seconds(idle.cut_bytes)
    fc_ring_s = table["fc"] - cut_s
    assert fc_ring_s == pytest.approx(5.0)  # it is what the next step waits for
    assert stanza(idle, 4, 2, 1, LINK).step_s == pytest.approx(fc_ring_s + 2 * cut_s)
    simulated = separated(linear(idle), shares(idle, 4), separated_layout(4, 2, 1), LINK)
    assert simulated.step_s == pytest.approx(fc_ring_s + 2 * cut_s)


# Formulas


@given(any_costs, st.integers(1, 16), st.floats(1e6, 1e11))
def test_blocking_server_formula(cost: Costs, workers: int, rate: float) -> None:
    """The paper's: compute, and all parameters of all workers in and out of one interface."""
    model_bytes = cost.conv_bytes + cost.fc_bytes
    expected = cost.compute_s + 2 * workers * model_bytes * 8 / rate
    predicted = predict.ps_blocking(
        linear(cost), shares(cost, workers), 1, Link(bandwidth_bits_per_s=rate)
    )
    assert predicted.step_s == pytest.approx(expected, rel=1e-12)
    assert predicted.samples == workers * cost.batch_size


@given(any_costs, st.integers(2, 12), any_link)
def test_stanza_formula_for_one_fc_worker_and_one_micro_batch(
    cost: Costs, conv: int, link: Link
) -> None:
    """Nothing overlaps but the CONV exchange, of one bucket here, so it follows the backward."""
    cost = replace(cost, conv_backward=((cost.conv_backward_s, 1e7),))
    rate = link.bandwidth_bits_per_s
    assert rate is not None
    cut_s = conv * cost.cut_bytes * 8 / rate + link.latency_s
    ring_s = 2 * (conv - 1) * (1e7 / conv * 8 / rate + link.latency_s)
    fc_s = conv * (cost.fc_forward_s + cost.fc_backward_s)
    expected = cost.conv_forward_s + cut_s + fc_s + cut_s + cost.conv_backward_s + ring_s
    assert stanza(cost, conv, 1, 1, link).step_s == pytest.approx(expected)


def test_ddp_reduces_buckets_during_the_backward_pass() -> None:
    """30 MiB close a bucket, 20 MiB wait for the end of the pass."""
    link, mib = Link(bandwidth_bits_per_s=8 * 1024**2), 1024**2
    backward = ((1.0, 30.0 * mib), (40.0, 20.0 * mib), (0.5, 0.0))
    cost = replace(COSTS, conv_backward=backward, fc_backward=())
    # Forward 1.25; bucket 1 ready at 2.25 and reduced in 30; bucket 2 at 42.75, reduced in 20.
    assert predict.ddp(linear(cost), shares(cost, 2), link).step_s == pytest.approx(42.75 + 20)
    # A step cannot end before the backward pass does.
    small = replace(cost, conv_backward=((1.0, 30.0 * mib), (40.0, 0.0)))
    assert predict.ddp(linear(small), shares(small, 2), link).step_s == pytest.approx(42.25)


def test_one_worker_exchanges_nothing() -> None:
    assert predict.ddp(linear(COSTS), (BATCH,), LINK).step_s == COSTS.compute_s
    assert predict.ps_sharded(linear(COSTS), (BATCH,), LINK).step_s == COSTS.compute_s


# Order


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@given(any_costs, any_link, st.floats(1, 100))
def test_more_bandwidth_is_never_slower(
    scheme: Callable[[Costs, Link], Prediction], cost: Costs, link: Link, factor: float
) -> None:
    assert link.bandwidth_bits_per_s is not None
    faster = replace(link, bandwidth_bits_per_s=link.bandwidth_bits_per_s * factor)
    assert scheme(cost, faster).step_s <= scheme(cost, link).step_s * (1 + 1e-9)


@given(any_costs, any_link, st.integers(1, 12), st.integers(1, 4))
def test_pipelining_a_server_never_hurts(
    cost: Costs, link: Link, workers: int, servers: int
) -> None:
    everyone = linear(cost), shares(cost, workers), servers, link
    blocking = predict.ps_blocking(*everyone).step_s
    assert predict.ps_pipelined(*everyone).step_s <= blocking * (1 + 1e-9)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@given(any_costs, any_link)
def test_no_step_is_shorter_than_its_busiest_resource(
    scheme: Callable[[Costs, Link], Prediction], cost: Costs, link: Link
) -> None:
    predicted = scheme(cost, link)
    assert predicted.step_s >= predicted.resources[predicted.busiest] * (1 - 1e-9)
    assert predicted.busiest in predicted.resources


# Steady state


@pytest.mark.parametrize("profile", shipped_profiles())
@pytest.mark.parametrize("micro", [1, 4, 16])
def test_the_period_is_read_off_in_the_steady_state(
    profile: str, micro: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = costs.costs_at(load_profile(profile))

    def periods(steps: int) -> list[float]:
        monkeypatch.setattr(recurrence, "STEADY_STEPS", steps)
        return [
            recurrence.separated(
                at, (128,) * (10 - fc), fc, micro, Link(bandwidth_bits_per_s=rate)
            ).step_s
            for fc in range(1, 6)
            for rate in (1e9, 1e10, 1e11)
        ]

    steps = recurrence.STEADY_STEPS
    settled = periods(50)
    assert periods(steps) == pytest.approx(settled)
    assert periods(steps - 1) == pytest.approx(settled)


# Profiles


@pytest.mark.parametrize("name", shipped_profiles())
@pytest.mark.parametrize(("conv", "fc"), [(9, 1), (8, 2), (7, 3), (5, 5)])
def test_fc_time_grows_with_the_conv_workers_of_an_fc_worker(name: str, conv: int, fc: int) -> None:
    at = costs.costs_at(load_profile(name))
    own_s = at(64).fc_forward_s + at(64).fc_backward_s
    predicted = recurrence.separated(at, (64,) * conv, fc, 1, LINK)
    assert predicted.resources["FC compute"] == pytest.approx(own_s * math.ceil(conv / fc))
    cut_s = LINK.seconds(at(64).cut_bytes) * math.ceil(conv / fc)
    assert predicted.resources["cut in"] == pytest.approx(cut_s)


@pytest.mark.parametrize("name", shipped_profiles())
def test_costs_account_for_the_whole_profile(name: str) -> None:
    profile = load_profile(name)
    cost = costs.costs_at(profile)(profile.batch_size)
    assert cost.compute_s == pytest.approx(profile.forward_s + profile.backward_s)
    assert cost.conv_bytes + cost.fc_bytes == profile.parameter_bytes


def layer(name: str, operation: str, *, size: int = 0, reads: str = "") -> LayerProfile:
    """One second forward and two backward, a tenth of each fixed, at a batch of ten."""
    return LayerProfile(
        name=name,
        operation=operation,
        forward_s=1.0,
        backward_s=2.0,
        activation_bytes=400,
        parameter_bytes=size,
        inputs=(reads,) if reads else (),
        fixed_forward_s=0.1,
        fixed_backward_s=0.2,
    )


SMALL = ModelProfile(
    name="small",
    device="any",
    batch_size=10,
    source="made up",
    layers=(
        layer("c", "Conv2d(3, 4)", size=70),
        layer("r", "ReLU()", reads="c"),
        layer("f", "Linear(10, 10)", size=300, reads="r"),
    ),
)


def test_costs_are_parted_by_the_cut() -> None:
    assert costs.costs_at(SMALL)(10) == Costs(
        conv_forward_s=2.0,
        conv_backward=((2.0, 0), (2.0, 70)),
        fc_forward_s=1.0,
        fc_backward=((2.0, 300),),
        cut_bytes=400,
        batch_size=10,
        fc_layers=(FcLayer(forward_s=1.0, backward_s=2.0, output_bytes=400),),
    )


def test_costs_scale_but_for_their_fixed_parts() -> None:
    cost = costs.costs_at(SMALL)(20)
    assert cost.fc_forward_s == pytest.approx(0.1 + 2 * 0.9)
    assert cost.fc_backward_s == pytest.approx(0.2 + 2 * 1.8)
    assert (cost.cut_bytes, cost.fc_bytes) == (800, 300)


def test_a_narrow_cut_halves_what_crosses() -> None:
    assert costs.costs_at(SMALL, wire_bytes_per_value=2)(10).cut_bytes == 200


def test_micro_batches_pay_fixed_costs_each() -> None:
    one = recurrence.separated(costs.costs_at(SMALL), (10,), 1, 1, ENDLESS)
    five = recurrence.separated(costs.costs_at(SMALL), (10,), 1, 5, ENDLESS)
    assert one.resources["FC compute"] == pytest.approx(3.0)
    assert five.resources["FC compute"] == pytest.approx(5 * 0.3 + 2.7)


def test_throughput() -> None:
    predicted = stanza(COSTS, 3, 1, 1, LINK)
    assert predicted.samples == 3 * BATCH
    assert predicted.samples_per_s == pytest.approx(12 / predicted.step_s)
