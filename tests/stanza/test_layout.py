"""The role of every rank, and who serves whom."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from stanza.layout import Layout, layout_of
from stanza.options import FcParallel, Options
from systems.schema import InputError


def roles(world_size: int, fc: int = 1, **changes: Any) -> str:
    """The roles of a run, as their first letters."""
    made = layout_of(Options(**changes), world_size, fc, 1)
    return "".join(role[0] for role in made.roles)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (roles(4), "cccf"),
        (roles(5, 2), "cccff"),
        (roles(2), "cf"),
        (roles(4, 0), "wwww"),  # no separation
        (roles(1, 0), "w"),
        (roles(3, scheme="ddp"), "www"),
        (roles(3, scheme="ps"), "wws"),
        (roles(5, scheme="ps", ps_servers=2), "wwwss"),
        (roles(3, scheme="ps", ps_placement="colocated"), "www"),
        (roles(3, scheme="single"), "wii"),
        (roles(5, 2, fc_parallel="columns"), "cccff"),
        (roles(1, scheme="single"), "w"),
    ],
)
def test_roles(found: str, expected: str) -> None:
    assert found == expected


def test_nothing_to_separate_is_ddp() -> None:
    made = layout_of(Options(), 3, 0, 4)
    assert (made.scheme, made.micro_batches) == ("ddp", 1)


def test_the_planners_answers_are_kept() -> None:
    made = layout_of(Options(), 5, 2, 4)
    assert (made.scheme, made.micro_batches) == ("stanza", 4)
    assert made.ranks("conv") == made.data_ranks == (0, 1, 2)
    assert made.ranks("fc") == (3, 4)


@given(st.integers(1, 40), st.data())
def test_fc_workers_share_the_conv_workers_evenly(conv: int, data: st.DataObject) -> None:
    fc = data.draw(st.integers(1, conv))
    made = layout_of(Options(), conv + fc, fc, 1)
    assert len(made.ranks("conv")) == conv
    served = [made.conv_of(rank) for rank in made.ranks("fc")]
    assert [rank for part in served for rank in part] == list(made.ranks("conv"))
    sizes = [len(part) for part in served]
    assert max(sizes) - min(sizes) <= 1
    for rank, part in zip(made.ranks("fc"), served, strict=True):
        assert all(made.fc_of(worker) == (rank,) for worker in part)


@given(st.integers(1, 20), st.sampled_from(["stanza", "ps", "ddp", "single"]), st.integers(0, 8))
def test_every_rank_has_one_role_and_ranks_with_data_come_first(
    world_size: int, scheme: str, fc: int
) -> None:
    try:
        made = layout_of(Options(scheme=scheme, global_batch_size=64), world_size, fc, 1)  # type: ignore[arg-type]
    except InputError:
        return
    assert len(made.roles) == world_size
    assert made.data_ranks == tuple(range(len(made.data_ranks)))
    assert made.data_ranks


@given(st.integers(1, 40), st.data(), st.sampled_from(["replicas", "columns"]))
def test_colocated_fc_workers_are_conv_workers_as_well(
    nodes: int, data: st.DataObject, parallel: FcParallel
) -> None:
    fc = data.draw(st.integers(1, nodes))
    options = Options(fc_placement="colocated", fc_parallel=parallel)
    made = layout_of(options, nodes, fc, 1)
    assert made.fc_placement == "colocated"
    assert made.ranks("conv") == made.data_ranks == tuple(range(nodes))
    assert len(made.ranks("fc")) == made.roles.count("conv+fc") == fc
    assert all(rank in made.fc_of(rank) for rank in made.ranks("fc"))  # near its own activations
    served = [rank for worker in made.ranks("fc") for rank in made.conv_of(worker)]
    assert sorted(served) == sorted(
        range(nodes) if parallel == "replicas" else [*range(nodes)] * fc
    )


def test_columns_are_every_conv_workers() -> None:
    made = layout_of(Options(fc_parallel="columns"), 5, 2, 1)
    assert made.fc_placement == "dedicated"
    assert [made.fc_of(rank) for rank in range(3)] == [(3, 4)] * 3
    assert [made.conv_of(rank) for rank in (3, 4)] == [(0, 1, 2)] * 2


def test_description() -> None:
    both = layout_of(Options(fc_placement="colocated", fc_parallel="columns"), 3, 2, 1)
    assert both.describe() == "2 conv+fc (0, 2), 1 conv (1); FC layers in columns"
    made = Layout(scheme="stanza", roles=("conv", "conv", "conv", "fc"))
    assert made.describe() == "3 conv (0-2), 1 fc (3)"


@pytest.mark.parametrize(
    ("options", "world_size", "fc", "micro", "words"),
    [
        (Options(), 1, 1, 1, ["--world-size 1", "--stanza.fc-workers 1", "give --world-size 2"]),
        (Options(), 3, 3, 1, ["--world-size 3", "--stanza.fc-workers 3", "give --world-size 4"]),
        (Options(fc_placement="colocated"), 2, 3, 1, ["--world-size 2", "give --world-size 3"]),
        (Options(), 5, 3, 1, ["--stanza.fc-workers 3", "2 CONV workers", "give at most 2"]),
        (
            Options(scheme="ps", ps_servers=2),
            2,
            0,
            1,
            ["--world-size 2", "--stanza.ps-servers 2", "give --world-size 3"],
        ),
        (
            Options(local_batch_size=4),
            3,
            1,
            8,
            ["--stanza.micro-batches 8", "4 samples", "give at most 4"],
        ),
        (
            Options(global_batch_size=7),
            3,
            1,
            4,
            ["--stanza.micro-batches 4", "3 samples", "give at most 3"],
        ),
        (
            Options(scheme="ddp", global_batch_size=2),
            3,
            0,
            1,
            ["--stanza.global-batch-size 2", "3 workers", "give at least 3"],
        ),
        (
            Options(global_batch_size=2),
            4,
            1,
            1,
            ["--stanza.global-batch-size 2", "3 workers", "give at least 3"],
        ),
    ],
)
def test_refuses_with_one_clear_line(
    options: Options, world_size: int, fc: int, micro: int, words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        layout_of(options, world_size, fc, micro)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_the_largest_numbers_that_are_offered_are_accepted() -> None:
    assert layout_of(Options(), 5, 2, 1).roles.count("fc") == 2
    assert layout_of(Options(local_batch_size=4), 3, 1, 4).micro_batches == 4
    assert layout_of(Options(global_batch_size=3), 4, 1, 1).scheme == "stanza"
