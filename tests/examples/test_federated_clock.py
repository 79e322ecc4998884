"""When the clients of `examples/federated` start, arrive and count: against closed forms, draws of
their own, and what must hold of any schedule."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from math import sqrt
from typing import Any

import numpy as np
import pytest
from federated.clock import Wire, play
from federated.coordinator import Coordinator, FederatedPlan
from federated.durations import Durations
from federated.options import Options
from federated.planning import closed_form_s, make_plan, seconds_of, wire
from federated.system import SYSTEM, simulated
from hypothesis import given, settings, strategies as st

from systems.clusters.cluster import Cluster, Device, Link, Node


def coordinator_of(options: Options, concurrency: int, goal: int) -> Coordinator:
    return Coordinator(options, FederatedPlan(concurrency=concurrency, goal=goal), seed=0)


def drawn(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws of mean 1, by NumPy's own generators."""
    generator = np.random.default_rng(5)
    return {
        "half-normal": lambda: np.abs(generator.normal(0, sqrt(np.pi / 2), shape)),
        "uniform": lambda: generator.uniform(0, 2, shape),
        "exponential": lambda: generator.exponential(1, shape),
    }[kind]()


@pytest.mark.parametrize("kind", ["half-normal", "uniform", "exponential"])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (10, 10), (100, 100), (77, 100), (5, 50)])
def test_order_statistics_are_those_of_draws(kind: str, k: int, n: int) -> None:
    found = Durations(kind=kind, mean_s=1.0).order_statistic_s(k, n)
    expected = np.partition(drawn(kind, (8000, n)), k - 1)[:, k - 1].mean()
    assert found == pytest.approx(expected, rel=0.03)


def test_known_order_statistics() -> None:
    half = Durations(kind="half-normal", mean_s=1.0)
    assert half.order_statistic_s(1000, 1000) == pytest.approx(4.31, abs=0.01)
    assert half.order_statistic_s(1000, 1300) == pytest.approx(1.50, abs=0.01)
    exponential = Durations(kind="exponential", mean_s=3.0, least_s=1.0)
    assert exponential.order_statistic_s(9, 9) == pytest.approx(
        1 + 2 * sum(1 / i for i in range(1, 10)), rel=1e-3
    )
    uniform = Durations(kind="uniform", mean_s=1.0)
    assert uniform.order_statistic_s(3, 9) == pytest.approx(2 * 3 / 10, rel=1e-6)
    assert Durations(kind="uniform", mean_s=2.0, least_s=2.0).quantile_s(0.7) == 2.0


@given(
    clients=st.integers(12, 40),
    concurrency=st.integers(1, 12),
    goal=st.integers(1, 12),
    in_rounds=st.booleans(),
    lost=st.sampled_from([0.0, 0.3]),
    limit=st.sampled_from([None, 0, 2]),
)
@settings(max_examples=25, deadline=None)
def test_what_holds_of_any_schedule(
    clients: int, concurrency: int, goal: int, in_rounds: bool, lost: float, limit: int | None
) -> None:
    limit = None if in_rounds else limit
    options = Options(scheme="fedavg" if in_rounds else "fedbuff", max_staleness=limit, lost=lost)
    goal = min(goal, concurrency) if in_rounds else goal
    coordinator = coordinator_of(replace(options, clients=clients), concurrency, goal)
    version, ended = 0, Counter[int]()
    seconds = seconds_of(Options(duration="exponential"), 0)
    for event in islice(play(coordinator, Wire(), seconds), 150):
        assert coordinator.version == version + event.stepped
        version = coordinator.version
        ended[event.flight.number] += 1
        assert event.outcome == "taken" or not event.stepped
        assert len(coordinator.flights) <= concurrency
        busy = [flight.client for flight in coordinator.flights.values()]
        assert len(set(busy)) == len(busy)
        if event.stepped:
            assert coordinator.taken == 0
        if event.outcome == "taken":
            assert limit is None or max(coordinator.staleness) <= limit
    assert set(ended.values()) == {1}  # nothing is counted twice
    taken = version * goal + coordinator.taken
    assert coordinator.outcomes["taken"] == taken == sum(coordinator.staleness.values())
    assert not in_rounds or set(coordinator.staleness) <= {0}


@pytest.mark.parametrize(("concurrency", "goal"), [(100, 1), (100, 10), (60, 60)])
def test_mean_staleness_is_concurrency_over_goal(concurrency: int, goal: int) -> None:
    coordinator = coordinator_of(Options(clients=500), concurrency, goal)
    seconds = seconds_of(Options(), 1)
    list(islice(play(coordinator, Wire(), seconds), 4000))
    counts = coordinator.staleness
    mean = sum(tau * count for tau, count in counts.items()) / sum(counts.values())
    assert mean == pytest.approx(concurrency / goal, rel=0.05)


def test_one_that_arrives_twice_or_after_its_round_is_late() -> None:
    coordinator = coordinator_of(Options(clients=9, scheme="fedavg"), 3, 2)
    numbers = [flight.number for flight in coordinator.start()]
    assert coordinator.arrived(numbers[0]) == ("taken", False)
    assert coordinator.arrived(numbers[0]) == ("late", False)
    assert coordinator.start() == []  # a round waits
    assert coordinator.arrived(numbers[1]) == ("taken", True)
    assert coordinator.arrived(numbers[2]) == ("late", False)
    assert [flight.version for flight in coordinator.start()] == [1, 1, 1]


def test_a_masked_buffer_with_a_lost_client_is_dropped_whole() -> None:
    options = Options(clients=9, masked=True, staleness_weight="constant")
    coordinator = coordinator_of(options, 6, 3)
    coordinator.start()
    assert coordinator.arrived(0) == ("taken", False)
    assert coordinator.arrived(1, alive=False) == ("lost", False)
    assert coordinator.arrived(2) == ("spoilt", False)
    assert [coordinator.arrived(n)[1] for n in (3, 4, 5)] == [False, False, True]
    assert (coordinator.version, coordinator.outcomes["taken"]) == (1, 3)
    assert coordinator.outcomes["spoilt"] == 2


@pytest.mark.parametrize(
    ("scheme", "over", "kind"),
    [
        ("fedavg", 0.0, "half-normal"),
        ("fedavg", 0.0, "uniform"),
        ("fedavg", 0.0, "exponential"),
        ("fedavg", 0.3, "half-normal"),
        ("fedbuff", 0.0, "exponential"),
        ("fedasync", 0.0, "half-normal"),
    ],
)
def test_the_clock_agrees_with_closed_forms(scheme: Any, over: float, kind: Any) -> None:
    options = Options(
        scheme=scheme,
        over_selection=over,
        concurrency=26,
        clients=80,
        duration=kind,
        least_s=0.2,
        steps=2000 if scheme == "fedasync" else 350,
    )
    found = simulated(SYSTEM.job(options, world_size=1)).result
    assert found["step_s"] == pytest.approx(found["predicted_step_s"], rel=0.03)


def test_messages_take_the_time_of_links() -> None:
    """Clients at 1 Mb/s are waited for; so is a server that cannot take all that they send."""

    def cluster(server_bits_per_s: float) -> Cluster:
        rates = {"server": server_bits_per_s, "client": 1e6}
        links = {name: Link(bandwidth_bits_per_s=rate) for name, rate in rates.items()}
        cpu = (Device(kind="cpu"),)
        nodes = tuple(Node(name=name, devices=cpu, link=link) for name, link in links.items())
        return Cluster(name="test", source="a test", nodes=nodes)

    options = Options(concurrency=50, clients=60, least_s=1.0, steps=200)
    job = SYSTEM.job(options, world_size=1)
    size = 4 * (65 * 32 + 33 * 10)
    plan, way_s = make_plan(job), 2 * size * 8 / 1e6
    narrow, wide = (wire(job, cluster(rate)) for rate in (1e6, 1e9))
    assert closed_form_s(job, plan, wide) == pytest.approx(5 / 50 * (1 + way_s))
    assert closed_form_s(job, plan, narrow) == pytest.approx(5 * size * 8 / 1e6)
    seconds = seconds_of(Options(duration="uniform", least_s=0.5), 0)
    for of in (narrow, wide):
        coordinator = coordinator_of(options, 50, 5)
        times_s = [e.time_s for e in islice(play(coordinator, of, seconds), 1000) if e.stepped]
        step_s = (times_s[-1] - times_s[40]) / (len(times_s) - 41)
        assert step_s == pytest.approx(closed_form_s(job, plan, of), rel=0.03)
