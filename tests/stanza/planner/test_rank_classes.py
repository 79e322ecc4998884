"""Ranks that cannot differ are played once: the result is that of playing every rank."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from stanza.layout import Layout, separated_layout
from stanza.planner import costs
from stanza.planner.costs import CostsAt
from stanza.planner.plan import load_profile
from stanza.planner.simulated import baselines
from stanza.planner.simulated.cut_classes import cut_classes
from stanza.planner.simulated.separation import separated
from stanza.planner.simulated.steps import Simulated
from systems.clusters.cluster import Link
from systems.data.shares import even_shares

LINK = Link(bandwidth_bits_per_s=10e9, latency_s=50e-6)
Play = Callable[..., Simulated]


@cache
def costs_at(model: str) -> CostsAt:
    return costs.costs_at(load_profile(model))


def same(one: Simulated, other: Simulated) -> None:
    """Both have the same times and loads, up to rounding."""
    assert one.step_s == pytest.approx(other.step_s, rel=1e-12)
    assert one.timeline.end_s == pytest.approx(other.timeline.end_s, rel=1e-12)
    assert one.resources(LINK) == pytest.approx(other.resources(LINK), rel=1e-12)


def both(play: Play, *arguments: Any, **options: Any) -> tuple[Simulated, Simulated]:
    """The result of playing one rank of each class, and of playing every rank."""
    one, other = (play(*arguments, **options, every_rank=every) for every in (False, True))
    assert sorted(rank for c in one.classes for rank in c.ranks) == sorted(
        c.played for c in other.classes
    )
    return one, other


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["alexnet", "vgg16"]), st.integers(1, 8), st.integers(0, 40), st.integers(1, 3)
)
def test_baselines(model: str, workers: int, more: int, servers: int) -> None:
    at, shares = costs_at(model), even_shares(8 * workers + more, workers)
    same(*both(baselines.ddp, at, shares, LINK))
    same(*both(baselines.ps_sharded, at, shares, LINK))
    for pipelined in (False, True):
        same(*both(baselines.ps_dedicated, at, shares, servers, LINK, pipelined=pipelined))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 40), st.sampled_from([1, 2, 4]), st.data())
def test_layer_separation(conv: int, more: int, micro: int, data: st.DataObject) -> None:
    at, shares = costs_at("alexnet"), even_shares(4 * conv + more, conv)
    layout = separated_layout(
        conv,
        data.draw(st.integers(1, conv)),
        micro,
        fc_parallel=data.draw(st.sampled_from(["replicas", "columns"])),
        fc_placement=data.draw(st.sampled_from(["dedicated", "colocated"])),
    )
    same(*both(separated, at, shares, layout, LINK))


def test_the_classes_of_a_layout() -> None:
    """Seven CONV workers of three FC workers: the first two FC workers serve (3, 3), the last
    (3, 2, 2)."""
    layout = separated_layout(7, 3, 1)
    classes = cut_classes(layout, (3, 3, 3, 3, 3, 2, 2), every_rank=False)
    assert [layout.conv_of(rank) for rank in (7, 8, 9)] == [(0, 1, 2), (3, 4), (5, 6)]
    assert [one.ranks for one in classes.conv] == [(0, 1, 2), (3, 4), (5, 6)]
    assert [one.ranks for one in classes.fc] == [(7,), (8,), (9,)]
    pairs = cut_classes(separated_layout(6, 3, 1), (2,) * 6, every_rank=False)
    assert [one.ranks for one in pairs.conv] == [(0, 1, 2, 3, 4, 5)]
    assert [one.ranks for one in pairs.fc] == [(6, 7, 8)]
    assert (pairs.sent, pairs.received) == ([{0: 1}], [{0: 2}])


def large(ranks: int) -> dict[str, tuple[Play, tuple[Any, ...], dict[str, Any]]]:
    """A job of each scheme on so many ranks, with 64 samples and 7 more."""
    at, eighth = costs_at("vgg16"), ranks // 8

    def shares(workers: int) -> tuple[int, ...]:
        return even_shares(64 * workers + 7, workers)

    def stanza(layout: Layout) -> tuple[Play, tuple[Any, ...], dict[str, Any]]:
        return separated, (at, shares(len(layout.ranks("conv"))), layout, LINK), {}

    dedicated = (at, shares(ranks - eighth), eighth, LINK)
    return {
        "ddp": (baselines.ddp, (at, shares(ranks), LINK), {}),
        "ps-pipelined": (baselines.ps_dedicated, dedicated, {"pipelined": True}),
        "ps-sharded": (baselines.ps_sharded, (at, shares(ranks), LINK), {}),
        "stanza": stanza(separated_layout(ranks - eighth, eighth, 4)),
        "colocated": stanza(separated_layout(ranks, eighth, 4, fc_placement="colocated")),
        "columns": stanza(
            separated_layout(ranks, ranks, 4, fc_parallel="columns", fc_placement="colocated")
        ),
    }


@pytest.mark.parametrize("scheme", large(16))
def test_the_number_of_tasks_does_not_grow_with_the_ranks(scheme: str) -> None:
    tasks = []
    for ranks in (256, 1024, 4096):
        play, arguments, options = large(ranks)[scheme]
        tasks.append(len(play(*arguments, **options).timeline.tasks))
    assert tasks[2] <= tasks[1] <= tasks[0]  # larger messages of more servers make fewer buckets
    assert tasks[0] < 2000


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["ddp", "stanza"])
def test_4096_ranks_one_by_one_and_in_classes(scheme: str) -> None:
    play, arguments, options = large(4096)[scheme]
    one, other = both(play, *arguments, **options)
    same(one, other)
    assert len(other.timeline.tasks) > 100_000 > 100 * len(one.timeline.tasks)
