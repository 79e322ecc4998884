"""Schedules as tasks: their bytes are the traffic table's, their times the planner's."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from stanza.layout import Layout, separated_layout
from stanza.options import FcParallel
from stanza.planner import costs, predict, recurrence
from stanza.planner.costs import Costs, CostsAt
from stanza.planner.plan import load_profile, shipped_profiles
from stanza.planner.predict import Prediction
from stanza.planner.simulated import baselines
from stanza.planner.simulated.separation import separated
from stanza.planner.simulated.steps import STEPS, Simulated, segments
from stanza.planner.traffic import Sizes, traffic
from systems.clusters.cluster import Link
from systems.data.shares import even_shares
from systems.fair_links import Resource
from systems.schema import InputError

LINK = Link(bandwidth_bits_per_s=10e9, latency_s=50e-6)
BATCH = 128
NODES = (2, 4, 10)
FC_PARALLEL: tuple[FcParallel, ...] = ("replicas", "columns")

Pair = tuple[Prediction, Simulated]

SCHEMES: dict[str, Callable[[CostsAt, int, int], Pair]] = {
    "ddp": lambda at, batch, n: (
        predict.ddp(at, even_shares(batch, n), LINK),
        baselines.ddp(at, even_shares(batch, n), LINK),
    ),
    "ps-blocking": lambda at, batch, n: (
        predict.ps_blocking(at, even_shares(batch, n - 1), 1, LINK),
        baselines.ps_dedicated(at, even_shares(batch, n - 1), 1, LINK, pipelined=False),
    ),
    "ps-pipelined": lambda at, batch, n: (
        predict.ps_pipelined(at, even_shares(batch, n - 1), 1, LINK),
        baselines.ps_dedicated(at, even_shares(batch, n - 1), 1, LINK, pipelined=True),
    ),
    "ps-sharded": lambda at, batch, n: (
        predict.ps_sharded(at, even_shares(batch, n), LINK),
        baselines.ps_sharded(at, even_shares(batch, n), LINK),
    ),
}
"""Each with the samples of a step and the number of nodes."""


def with_data(scheme: str, nodes: int) -> int:
    return nodes - (scheme in ("ps-blocking", "ps-pipelined"))


@cache
def costs_at(model: str) -> CostsAt:
    return costs.costs_at(load_profile(model))


@pytest.mark.parametrize("model", shipped_profiles())
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("nodes", NODES)
def test_baselines_take_the_predicted_time(model: str, scheme: str, nodes: int) -> None:
    predicted, simulated = SCHEMES[scheme](costs_at(model), BATCH * with_data(scheme, nodes), nodes)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.01)
    assert simulated.samples == predicted.samples


@pytest.mark.parametrize("model", shipped_profiles())
@pytest.mark.parametrize("micro", [1, 4, 16])
@pytest.mark.parametrize("nodes", NODES)
def test_one_fc_worker_takes_the_predicted_time(model: str, micro: int, nodes: int) -> None:
    at = costs_at(model)
    predicted = recurrence.separated(at, (BATCH,) * (nodes - 1), 1, micro, LINK)
    simulated = separated(at, (BATCH,) * (nodes - 1), separated_layout(nodes - 1, 1, micro), LINK)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.01)


@pytest.mark.parametrize("model", shipped_profiles())
@pytest.mark.parametrize("micro", [1, 4, 16])
@pytest.mark.parametrize(("conv", "fc"), [(2, 2), (8, 2), (13, 3), (24, 8), (62, 2)])
def test_several_fc_workers_take_about_the_predicted_time(
    model: str, micro: int, conv: int, fc: int
) -> None:
    """The recurrence knows only roughly how a ring and the cut share an interface."""
    at = costs_at(model)
    predicted = recurrence.separated(at, (BATCH,) * conv, fc, micro, LINK)
    simulated = separated(at, (BATCH,) * conv, separated_layout(conv, fc, micro), LINK)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.1)


@pytest.mark.parametrize("conv_fc", [(3, 1), (4, 2), (5, 2)])
@pytest.mark.parametrize("micro", [1, 4])
def test_stanza_moves_the_bytes_of_the_table(conv_fc: tuple[int, int], micro: int) -> None:
    conv, fc = conv_fc
    at = costs_at("alexnet")
    roles = ("conv",) * conv + ("fc",) * fc
    expected = table("stanza", roles, at(BATCH))
    simulated = separated(at, (BATCH,) * conv, separated_layout(conv, fc, micro), LINK)
    assert moved(simulated) == pytest.approx(expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_baselines_move_the_bytes_of_the_table(scheme: str) -> None:
    at = costs_at("vgg16")
    dedicated = scheme in ("ps-blocking", "ps-pipelined")
    roles = ("worker",) * (3 if dedicated else 4) + ("server",) * dedicated
    _, simulated = SCHEMES[scheme](at, BATCH * with_data(scheme, 4), 4)
    assert moved(simulated) == pytest.approx(table(scheme.split("-")[0], roles, at(BATCH)))


MODES: dict[str, Layout] = {
    "columns": separated_layout(4, 3, 1, fc_parallel="columns"),
    "columns, colocated": separated_layout(
        4, 4, 2, fc_parallel="columns", fc_placement="colocated"
    ),
    "columns, some colocated": separated_layout(
        5, 2, 1, fc_parallel="columns", fc_placement="colocated"
    ),
    "one replica, colocated": separated_layout(4, 1, 4, fc_placement="colocated"),
    "three replicas, colocated": separated_layout(5, 3, 1, fc_placement="colocated"),
}


@pytest.mark.parametrize("layout", MODES.values(), ids=MODES.keys())
def test_every_mode_moves_the_bytes_of_the_table(layout: Layout) -> None:
    at = costs_at("alexnet")
    simulated = separated(at, (BATCH,) * len(layout.ranks("conv")), layout, LINK)
    assert moved(simulated) == pytest.approx(bytes_of(layout, at(BATCH)))


@pytest.mark.parametrize("model", ["alexnet", "vgg16", "resnet50"])
@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("placement", ["dedicated", "colocated"])
def test_one_worker_with_all_columns_is_a_replica(model: str, micro: int, placement: Any) -> None:
    at = costs_at(model)
    replica, columns = (
        separated(
            at,
            (BATCH,) * 4,
            separated_layout(4, 1, micro, fc_parallel=parallel, fc_placement=placement),
            LINK,
        )
        for parallel in FC_PARALLEL
    )
    assert columns.step_s == pytest.approx(replica.step_s, rel=0.01)


@pytest.mark.parametrize("model", ["alexnet", "vgg16", "resnet50"])
@pytest.mark.parametrize("parallel", ["replicas", "columns"])
def test_colocated_workers_share_a_compute_stream(model: str, parallel: Any) -> None:
    """All work is there, and nobody's step is shorter than its work and its bytes."""
    at = costs_at(model)
    layout = separated_layout(4, 4, 1, fc_parallel=parallel, fc_placement="colocated")
    simulated = separated(at, (BATCH,) * 4, layout, LINK)
    assert sum(busy_s(simulated)) == pytest.approx(4 * at(BATCH).compute_s)
    assert simulated.step_s >= max(simulated.resources(LINK).values())


# Batches that do not divide

RATES = (1e9, 1e10, 1e11)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(shipped_profiles())),
    st.sampled_from(RATES),
    st.integers(2, 8),
    st.integers(1, 2),
    st.integers(1, 8),
    st.integers(0, 200),
)
def test_uneven_shares_take_the_predicted_time(
    model: str, rate: float, conv: int, fc: int, micro: int, more: int
) -> None:
    """Any batch that gives every worker a sample for each micro-batch."""
    at, link = costs_at(model), replace(LINK, bandwidth_bits_per_s=rate)
    batch = conv * micro + more
    shares = even_shares(batch, conv)
    predicted = recurrence.separated(at, shares, fc, micro, link)
    simulated = separated(at, shares, separated_layout(conv, fc, micro), link)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.02 if fc == 1 else 0.1)
    assert predicted.samples == simulated.samples == batch


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(SCHEMES)),
    st.sampled_from(sorted(shipped_profiles())),
    st.integers(3, 9),
    st.integers(64, 500),
)
def test_baselines_with_uneven_shares_take_the_predicted_time(
    scheme: str, model: str, nodes: int, batch: int
) -> None:
    predicted, simulated = SCHEMES[scheme](costs_at(model), batch, nodes)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.02)
    assert predicted.samples == simulated.samples == batch


@pytest.mark.parametrize("micro", [3, 4, 8])
def test_every_micro_batch_is_charged_its_own_samples(micro: int) -> None:
    """42 samples on five workers are 9, 9, 8, 8, 8, in however many parts they cross the cut."""
    at, shares = costs_at("alexnet"), even_shares(42, 5)
    simulated = separated(at, shares, separated_layout(5, 1, micro), LINK)
    busy = busy_s(simulated)
    assert busy[:5] == pytest.approx(
        [at(n).conv_forward_s + at(n).conv_backward_s for n in (9, 9, 8, 8, 8)]
    )
    assert busy[5] == pytest.approx(at(42).fc_forward_s + at(42).fc_backward_s)
    predicted = recurrence.separated(at, shares, 1, micro, LINK).resources
    assert predicted["conv compute"] == pytest.approx(busy[0])
    assert predicted["FC compute"] == pytest.approx(busy[5])
    cut_s = LINK.seconds(at(42).cut_bytes) + micro * LINK.latency_s
    assert predicted["cut in"] == predicted["cut out"] == pytest.approx(cut_s)


@pytest.mark.parametrize("layout", MODES.values(), ids=MODES.keys())
def test_uneven_shares_move_the_bytes_of_the_table(layout: Layout) -> None:
    at, workers = costs_at("alexnet"), len(layout.ranks("conv"))
    shares = even_shares(8 * workers + 2, workers)
    simulated = separated(at, shares, layout, LINK)
    assert simulated.samples == sum(shares)
    assert moved(simulated) == pytest.approx(bytes_of(layout, at(BATCH), shares))


def test_columns_of_what_is_no_chain_are_refused() -> None:
    with pytest.raises(InputError, match=r"give --stanza\.fc-parallel replicas"):
        separated(
            costs_at("inception-v3"),
            (BATCH,) * 4,
            separated_layout(4, 2, 1, fc_parallel="columns"),
            LINK,
        )


def table(scheme: str, roles: tuple[str, ...], cost: Costs) -> dict[tuple[int, str], float]:
    return bytes_of(Layout(scheme=scheme, roles=roles), cost)  # type: ignore[arg-type]


def bytes_of(
    layout: Layout, cost: Costs, shares: Sequence[int] | None = None
) -> dict[tuple[int, str], float]:
    """The traffic table by interface. Without `shares` each worker has the batch of `cost`."""
    sizes = Sizes(
        conv_bytes=cost.conv_bytes,
        fc_bytes=cost.fc_bytes,
        cut_bytes=cost.cut_bytes / cost.batch_size,
        fc_output_bytes=sum(layer.output_bytes for layer in cost.fc_layers) / cost.batch_size,
    )
    rows = traffic(layout, sizes, shares or (cost.batch_size,) * len(layout.data_ranks))
    ways = {"out": [row.sent for row in rows], "in": [row.received for row in rows]}
    return {(rank, way): values[rank] for way, values in ways.items() for rank in range(len(rows))}


def moved(simulated: Simulated) -> dict[Resource, float]:
    """Bytes of one step by interface, of every rank."""
    ranks = {one.played: one.ranks for one in simulated.classes}
    total: Counter[Resource] = Counter()
    for task in simulated.timeline.tasks:
        for (played, way), size in task.loads.items():
            assert isinstance(played, int)
            for rank in ranks[played]:
                total[rank, way] += size / STEPS  # type: ignore[assignment]
    return dict(total)


def busy_s(simulated: Simulated) -> list[float]:
    """Busy seconds of every rank in one step."""
    of_rank = {
        rank: simulated.timeline.busy_s(f"rank {one.played}") / STEPS
        for one in simulated.classes
        for rank in one.ranks
    }
    return [of_rank[rank] for rank in sorted(of_rank)]


def test_layers_join_into_buckets_that_lose_nothing() -> None:
    backward = [(1.0, 10.0), (2.0, 0.0), (3.0, 50.0), (4.0, 5.0)]
    assert segments(backward, 10) == [(1.0, 10.0), (5.0, 50.0), (4.0, 5.0)]
    assert segments(backward, float("inf")) == [(10.0, 65.0)]


def test_a_thousand_nodes_of_any_scheme() -> None:
    at = costs_at("vgg16")
    for scheme in ("ddp", "ps-blocking", "ps-sharded"):
        predicted, simulated = SCHEMES[scheme](at, BATCH * with_data(scheme, 1000), 1000)
        assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.01)
    simulated = separated(at, (BATCH,) * 900, separated_layout(900, 100, 4), LINK)
    assert simulated.samples == 900 * BATCH
