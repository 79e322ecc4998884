"""Schedules as tasks: their bytes are the traffic table's, their times the planner's."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

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
from systems.schema import InputError

LINK = Link(bandwidth_bits_per_s=10e9, latency_s=50e-6)
BATCH = 128
NODES = (2, 4, 10)
FC_PARALLEL: tuple[FcParallel, ...] = ("replicas", "columns")

Pair = tuple[Prediction, Simulated]

SCHEMES: dict[str, Callable[[Costs, int], Pair]] = {
    "ddp": lambda cost, n: (predict.ddp(cost, n, LINK), baselines.ddp(cost, n, LINK)),
    "ps-blocking": lambda cost, n: (
        predict.ps_blocking(cost, n - 1, 1, LINK),
        baselines.ps_dedicated(cost, n - 1, 1, LINK, pipelined=False),
    ),
    "ps-pipelined": lambda cost, n: (
        predict.ps_pipelined(cost, n - 1, 1, LINK),
        baselines.ps_dedicated(cost, n - 1, 1, LINK, pipelined=True),
    ),
    "ps-sharded": lambda cost, n: (
        predict.ps_sharded(cost, n, LINK),
        baselines.ps_sharded(cost, n, LINK),
    ),
}


def costs_at(model: str) -> CostsAt:
    return costs.costs_at(load_profile(model))


@pytest.mark.parametrize("model", shipped_profiles())
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("nodes", NODES)
def test_baselines_take_the_predicted_time(model: str, scheme: str, nodes: int) -> None:
    predicted, simulated = SCHEMES[scheme](costs_at(model)(BATCH), nodes)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.01)
    assert simulated.samples == predicted.samples


@pytest.mark.parametrize("model", shipped_profiles())
@pytest.mark.parametrize("micro", [1, 4, 16])
@pytest.mark.parametrize("nodes", NODES)
def test_one_fc_worker_takes_the_predicted_time(model: str, micro: int, nodes: int) -> None:
    at = costs_at(model)
    predicted = recurrence.separated(at, BATCH, nodes - 1, 1, micro, LINK)
    simulated = separated(at, BATCH, separated_layout(nodes - 1, 1, micro), LINK)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.01)


@pytest.mark.parametrize("model", shipped_profiles())
@pytest.mark.parametrize("micro", [1, 4, 16])
@pytest.mark.parametrize(("conv", "fc"), [(2, 2), (8, 2), (13, 3), (24, 8), (62, 2)])
def test_several_fc_workers_take_about_the_predicted_time(
    model: str, micro: int, conv: int, fc: int
) -> None:
    """The recurrence knows only roughly how a ring and the cut share an interface."""
    at = costs_at(model)
    predicted = recurrence.separated(at, BATCH, conv, fc, micro, LINK)
    simulated = separated(at, BATCH, separated_layout(conv, fc, micro), LINK)
    assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.1)


@pytest.mark.parametrize("conv_fc", [(3, 1), (4, 2), (5, 2)])
@pytest.mark.parametrize("micro", [1, 4])
def test_stanza_moves_the_bytes_of_the_table(conv_fc: tuple[int, int], micro: int) -> None:
    conv, fc = conv_fc
    at = costs_at("alexnet")
    roles = ("conv",) * conv + ("fc",) * fc
    expected = table("stanza", roles, at(BATCH))
    assert moved(separated(at, BATCH, separated_layout(conv, fc, micro), LINK)) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_baselines_move_the_bytes_of_the_table(scheme: str) -> None:
    cost = costs_at("vgg16")(BATCH)
    dedicated = scheme in ("ps-blocking", "ps-pipelined")
    roles = ("worker",) * (3 if dedicated else 4) + ("server",) * dedicated
    _, simulated = SCHEMES[scheme](cost, 4)
    assert moved(simulated) == pytest.approx(table(scheme.split("-")[0], roles, cost))


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
    assert moved(separated(at, BATCH, layout, LINK)) == pytest.approx(bytes_of(layout, at(BATCH)))


@pytest.mark.parametrize("model", ["alexnet", "vgg16", "resnet50"])
@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("placement", ["dedicated", "colocated"])
def test_one_worker_with_all_columns_is_a_replica(model: str, micro: int, placement: Any) -> None:
    at = costs_at(model)
    replica, columns = (
        separated(
            at,
            BATCH,
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
    simulated = separated(at, BATCH, layout, LINK)
    busy_s = sum(simulated.timeline.busy_s(f"rank {rank}") for rank in range(4)) / STEPS
    assert busy_s == pytest.approx(4 * at(BATCH).compute_s)
    assert simulated.step_s >= max(simulated.resources(LINK).values())


def test_columns_of_what_is_no_chain_are_refused() -> None:
    with pytest.raises(InputError, match=r"give --stanza\.fc-parallel replicas"):
        separated(
            costs_at("inception-v3"), BATCH, separated_layout(4, 2, 1, fc_parallel="columns"), LINK
        )


def table(scheme: str, roles: tuple[str, ...], cost: Costs) -> dict[tuple[int, str], float]:
    return bytes_of(Layout(scheme=scheme, roles=roles), cost)  # type: ignore[arg-type]


def bytes_of(layout: Layout, cost: Costs) -> dict[tuple[int, str], float]:
    """The traffic table by interface."""
    sizes = Sizes(
        conv_bytes=cost.conv_bytes,
        fc_bytes=cost.fc_bytes,
        cut_bytes=cost.cut_bytes / cost.batch_size,
        fc_output_bytes=sum(layer.output_bytes for layer in cost.fc_layers) / cost.batch_size,
    )
    rows = traffic(layout, sizes, (cost.batch_size,) * len(layout.data_ranks))
    ways = {"out": [row.sent for row in rows], "in": [row.received for row in rows]}
    return {(rank, way): values[rank] for way, values in ways.items() for rank in range(len(rows))}


def moved(simulated: Simulated) -> dict[tuple[int, str], float]:
    """Bytes of one step by interface."""
    total: Counter[tuple[int, str]] = Counter()
    for task in simulated.timeline.tasks:
        for interface, size in task.loads.items():
            total[interface] += size / STEPS  # type: ignore[assignment]
    return dict(total)


def test_layers_join_into_buckets_that_lose_nothing() -> None:
    backward = [(1.0, 10.0), (2.0, 0.0), (3.0, 50.0), (4.0, 5.0)]
    assert segments(backward, 10) == [(1.0, 10.0), (5.0, 50.0), (4.0, 5.0)]
    assert segments(backward, float("inf")) == [(10.0, 65.0)]


def test_a_thousand_nodes_of_any_scheme() -> None:
    at = costs_at("vgg16")
    for scheme in ("ddp", "ps-blocking", "ps-sharded"):
        predicted, simulated = SCHEMES[scheme](at(BATCH), 1000)
        assert simulated.step_s == pytest.approx(predicted.step_s, rel=0.01)
    simulated = separated(at, BATCH, separated_layout(900, 100, 4), LINK)
    assert simulated.samples == 900 * BATCH
