"""Plans for nodes that differ: predictions against the simulator, shares, places, memory."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from stanza.layout import Layout, layout_of, separated_layout
from stanza.options import Options
from stanza.planner import predict as alike, recurrence as alike_recurrence
from stanza.planner.baselines import baseline_options
from stanza.planner.costs import Costs, CostsAt, RanksCostsAt, costs_at as profiled
from stanza.planner.mixed import predict, recurrence
from stanza.planner.mixed.plan import plan_mixed
from stanza.planner.mixed.shares import balanced
from stanza.planner.mixed.streams import delivered
from stanza.planner.plan import Plan, load_profile, plan, with_shares
from stanza.planner.predict import Prediction
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import Simulated
from systems.clusters.cluster import Cluster, Device, Link, Node, load
from systems.clusters.links import Links
from systems.data.shares import even_shares
from systems.profiles.profile import ModelProfile
from systems.schema import InputError, dump, read

SLOWER = 2.5
"""How many times slower the slow device of these tests is."""


@cache
def profile(model: str, kind: str = "V100") -> ModelProfile:
    """The shipped profile, or that of a made-up device that is slower."""
    shipped = load_profile(model)
    return shipped if kind == "V100" else replace(shipped.slowed(SLOWER, "made up"), device=kind)


@cache
def costs_at(model: str, kind: str = "V100") -> CostsAt:
    return profiled(profile(model, kind))


def gigabits(*rates: float) -> Links:
    return Links(tuple(Link(bandwidth_bits_per_s=rate * 1e9, latency_s=50e-6) for rate in rates))


def node(name: str, count: int, kind: str, rate: float, memory_bytes: int | None = None) -> Node:
    link = Link(bandwidth_bits_per_s=rate * 1e9, latency_s=50e-6)
    device = Device(kind=kind, memory_bytes=memory_bytes)
    return Node(name=name, count=count, devices=(device,), link=link)


def lab(*nodes: Node) -> Cluster:
    return Cluster(name="lab", source="made up", nodes=nodes)


MIXED = lab(node("fast", 2, "V100", 25), node("slow", 2, "T4", 10))


def planned(cluster: Cluster = MIXED, model: str = "vgg16", **changes: Any) -> Plan:
    options = Options(model=model, **{"global_batch_size": 128, **changes})
    return plan_mixed(options, cluster, {kind: profile(model, kind) for kind in cluster.kinds})


# Predictions

POINTS: dict[str, tuple[str, tuple[float, ...]]] = {
    "two kinds": ("VVTT", (10, 10, 10, 10)),
    "two rates": ("VVVV", (10, 10, 2.5, 2.5)),
    "slow devices on slow links": ("VVTT", (25, 25, 10, 10)),
    "fast servers": ("TTVV", (10, 10, 25, 25)),
    "eight nodes": ("VVVVTTTT", (25,) * 4 + (10,) * 4),
    "one slow link": ("VVVV", (10, 10, 1, 10)),
}
SHARES = ("equal", "by speed")


def devices(kinds: str, model: str) -> tuple[CostsAt, ...]:
    return tuple(costs_at(model, {"V": "V100", "T": "T4"}[kind]) for kind in kinds)


def shares_of(how: str, at: Sequence[CostsAt], workers: int, *, separated: bool) -> tuple[int, ...]:
    if how == "equal":
        return even_shares(64 * workers, workers)
    return balanced(at[:workers], 64 * workers, separated=separated)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("how", SHARES)
@pytest.mark.parametrize("model", ["alexnet", "vgg16"])
def test_the_planner_and_the_simulator_agree(model: str, how: str, point: str) -> None:
    kinds, rates = POINTS[point]
    at, links, n = devices(kinds, model), gigabits(*rates), len(kinds)
    for servers, scheme in product((0, 1, 2), predict.BASELINES):
        if bool(servers) != (scheme in ("ps-blocking", "ps-pipelined")):
            continue
        shares = shares_of(how, at, n - servers, separated=False)
        predicted = predict.BASELINES[scheme](costs_of(at, shares), links)
        options = replace(Options(ps_servers=servers or 1), **baseline_options(scheme))
        played = play(options, layout_of(options, n, 0, 1), shares, at, links)
        assert played.step_s == pytest.approx(predicted.step_s, rel=0.02), (scheme, servers)
        assert played.samples == predicted.samples
    for fc, micro in product((1, 2), (1, 4)):
        shares = shares_of(how, at, n - fc, separated=True)
        layout = separated_layout(n - fc, fc, micro)
        predicted = recurrence.separated(at, shares, layout, links)
        played = play(Options(), layout, shares, at, links)
        assert played.step_s == pytest.approx(predicted.step_s, rel=0.05), (fc, micro)


def costs_of(at: Sequence[CostsAt], shares: Sequence[int]) -> list[Costs]:
    """What the share of each worker costs it; workers are the first ranks."""
    return [costs(share) for costs, share in zip(at, shares, strict=False)]


def play(
    options: Options, layout: Layout, shares: Sequence[int], at: RanksCostsAt, links: Link | Links
) -> Simulated:
    return played_plan(with_shares(options, shares), layout, at, links)


@given(
    st.sampled_from(["alexnet", "resnet50"]),
    st.lists(
        st.tuples(st.sampled_from("VT"), st.sampled_from([2.5, 10, 25])), min_size=3, max_size=6
    ),
    st.sampled_from([1, 3]),
)
@settings(max_examples=15)
def test_they_agree_on_any_cluster(model: str, nodes: list[tuple[str, float]], micro: int) -> None:
    at, links = devices("".join(k for k, _ in nodes), model), gigabits(*(r for _, r in nodes))
    n = len(nodes)
    shares = shares_of("by speed", at, n - 1, separated=True)
    if min(shares) >= micro:
        layout = separated_layout(n - 1, 1, micro)
        predicted = recurrence.separated(at, shares, layout, links)
        played = play(Options(), layout, shares, at, links)
        assert played.step_s == pytest.approx(predicted.step_s, rel=0.05)
    options, equal = Options(scheme="ddp"), (32,) * n
    played = play(options, layout_of(options, n, 0, 1), equal, at, links)
    assert played.step_s == pytest.approx(predict.ddp(costs_of(at, equal), links).step_s, rel=0.02)


@pytest.mark.parametrize("model", ["alexnet", "resnet50"])
def test_nodes_that_are_alike_are_a_special_case(model: str) -> None:
    """Both ways of predicting and of playing then say the same."""
    at, links, link = costs_at(model), gigabits(*[10.0] * 5), gigabits(10.0).of_node[0]
    of_rank = (at,) * 5
    everywhere, beside = even_shares(130, 5), even_shares(130, 4)
    pairs: list[tuple[Prediction, Prediction]] = [
        (predict.ddp([at(s) for s in everywhere], links), alike.ddp(at, everywhere, link)),
        (
            predict.ps_sharded([at(s) for s in everywhere], links),
            alike.ps_sharded(at, everywhere, link),
        ),
        (
            predict.ps_dedicated([at(s) for s in beside], links, pipelined=False),
            alike.ps_blocking(at, beside, 1, link),
        ),
    ]
    for fc, micro in product((1, 2), (1, 4)):
        conv = even_shares(128, 5 - fc)
        layout = separated_layout(5 - fc, fc, micro)
        pairs.append(
            (
                recurrence.separated(of_rank, conv, layout, links),
                alike_recurrence.separated(at, conv, fc, micro, link),
            )
        )
        ours_s, theirs_s = (
            play(Options(), layout, conv, costs, network).step_s
            for costs, network in ((of_rank, links), (at, link))
        )
        assert ours_s == theirs_s
    for ours, theirs in pairs:
        assert ours.step_s == pytest.approx(theirs.step_s, rel=0.01), ours.scheme
        assert ours.samples == theirs.samples


# Streams


@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 8),
)
def test_streams_end_when_exact_sharing_says(
    nodes: list[tuple[int, list[tuple[int, int]]]], capacity: int
) -> None:
    caps = [cap for cap, _ in nodes]
    ready = [sorted(at for at, _ in messages) for _, messages in nodes]
    sizes = [[size for _, size in messages] for _, messages in nodes]
    found = delivered(ready, sizes, caps, capacity)
    for ours, exact in zip(found, exactly_delivered(ready, sizes, caps, capacity), strict=True):
        assert ours == pytest.approx([float(end) for end in exact], rel=1e-9)


def exactly_delivered(
    ready: list[list[int]], sizes: list[list[int]], caps: list[int], capacity: int
) -> list[list[Fraction]]:
    """The same in fractions, by raising the rates of all together until something is full."""
    ends: list[list[Fraction]] = [[] for _ in ready]
    left = [[Fraction(size) for size in row] for row in sizes]
    now = Fraction(0)
    while any(len(end) < len(row) for end, row in zip(ends, ready, strict=True)):
        waiting = [n for n in range(len(ready)) if len(ends[n]) < len(ready[n])]
        active = [n for n in waiting if ready[n][len(ends[n])] <= now]
        rate, growing, room = dict.fromkeys(active, Fraction(0)), set(active), Fraction(capacity)
        while growing and room:
            step = min(room / len(growing), *(Fraction(caps[n]) - rate[n] for n in growing))
            for n in growing:
                rate[n] += step
            room -= step * len(growing)
            growing = {n for n in growing if rate[n] < caps[n]}
        times = [left[n][len(ends[n])] / rate[n] for n in active]
        times += [ready[n][len(ends[n])] - now for n in waiting if n not in active]
        passed = min(times)
        now += passed
        for n in active:
            left[n][len(ends[n])] -= rate[n] * passed
            if not left[n][len(ends[n])]:
                ends[n].append(now)
    return ends


# Shares


def test_shares_by_speed_balance_the_devices() -> None:
    found = planned(scheme="ddp", batch_shares="auto")
    assert sum(found.shares) == 4 * 32
    seconds = [
        costs_at("vgg16", kind)(share).compute_s
        for kind, share in zip(found.devices, found.shares, strict=True)
    ]
    one_more = max(costs_at("vgg16", kind)(1).compute_s for kind in ("V100", "T4"))
    assert max(seconds) - min(seconds) <= one_more * (1 + 1e-9)
    equal = planned(scheme="ddp")
    assert found.chosen is not None
    assert equal.chosen is not None
    assert found.chosen.step_s < equal.chosen.step_s


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=3), st.integers(1, 9))
@settings(max_examples=30)
def test_no_other_shares_are_better(speeds: list[float], samples: int) -> None:
    at = tuple(profiled(profile("alexnet").slowed(speed, "made up")) for speed in speeds)

    def slowest(shares: Sequence[int]) -> float:
        return max(costs(s).compute_s for costs, s in zip(at, shares, strict=True) if s)

    found = balanced(at, samples, separated=False)
    least = 1 if samples >= len(at) else 0
    every = product(range(least, samples + 1), repeat=len(at))
    best = min(slowest(shares) for shares in every if sum(shares) == samples)
    assert slowest(found) == pytest.approx(best)


def test_numbers_are_those_of_the_nodes_in_order() -> None:
    found = planned(batch_shares="2,2,1,1", fc_workers=1)
    assert found.order == (0, 1, 2, 3)
    assert found.shares == (51, 51, 26)


# Places


def test_fc_workers_run_where_they_are_fastest() -> None:
    """On a slow device: a fast one does more as a CONV worker."""
    found = planned(model="alexnet", fc_workers=1)
    assert found.devices == ("V100", "V100", "T4", "T4")
    other = lab(node("slow", 2, "T4", 10), node("fast", 2, "V100", 25))
    again = planned(other, "alexnet", fc_workers=1)
    assert again.order == (2, 3, 0, 1)
    assert again.devices == ("V100", "V100", "T4", "T4")
    assert again.chosen is not None
    assert found.chosen is not None
    assert again.chosen.samples == found.chosen.samples


def test_a_server_runs_on_the_fast_link() -> None:
    cluster = lab(node("a", 1, "V100", 100), node("b", 3, "V100", 10))
    found = planned(cluster, scheme="ps")
    assert found.order == (1, 2, 3, 0)
    in_order = plan_mixed(
        Options(model="vgg16", scheme="ps", global_batch_size=128),
        cluster,
        {"V100": profile("vgg16")},
        in_order=True,
    )
    assert in_order.order == (0, 1, 2, 3)
    assert in_order.chosen is not None
    assert found.chosen is not None
    assert in_order.chosen.step_s > 1.5 * found.chosen.step_s


@pytest.mark.parametrize("placement", ["dedicated", "colocated", "auto"])
@pytest.mark.parametrize("shares", ["equal", "auto"])
def test_auto_is_never_slower_than_the_best_baseline(placement: Any, shares: str) -> None:
    found = planned(fc_placement=placement, fc_parallel="auto", batch_shares=shares)
    assert found.chosen in found.predictions
    best = max(p.samples_per_s for p in found.predictions if p.scheme != "stanza")
    assert found.chosen is not None
    assert found.chosen.samples_per_s >= best


def test_a_mixed_plan_survives_json() -> None:
    found = planned(batch_shares="auto")
    assert read(Plan, dump(found), "here") == found


# Memory


def test_a_plan_that_does_not_fit_is_refused_by_name() -> None:
    small = lab(node("big", 2, "V100", 25, 32 * 10**9), node("small", 2, "V100", 25, 10**9))
    said = r"node 'small' \(V100\) has 1.0 GB of memory, and rank 2 \(worker\) needs at least"
    with pytest.raises(InputError, match=said):
        planned(small, scheme="ddp")
    # Separated, the two small nodes hold little: the FC worker is on a big one.
    found = planned(small, fc_workers=1, global_batch_size=24)
    assert found.order == (2, 3, 0, 1)


def test_nodes_that_are_alike_are_checked_too() -> None:
    options, cluster = Options(model="vgg16", local_batch_size=400), load("ec2-p3-10g")
    with pytest.raises(InputError, match=r"node 'p3' \(V100\) has 17.2 GB of memory, and rank 0"):
        plan(options, 10, cluster, load_profile("vgg16"))
    assert plan(Options(model="vgg16"), 10, cluster, load_profile("vgg16"))
