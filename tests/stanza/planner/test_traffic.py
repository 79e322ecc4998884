"""The traffic table, against figures worked out by hand, and as a flow that loses nothing."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from stanza.layout import Layout, layout_of
from stanza.options import Options
from stanza.planner.traffic import Sizes, sizes_of, traffic
from systems.data.batches import share
from systems.schema import InputError

# P_conv = 120 and P_fc = 600 bytes, 10 bytes of activations a sample.
SIZES = Sizes(conv_bytes=120, fc_bytes=600, cut_bytes=10)


def table(world_size: int, fc: int = 1, samples: list[int] | None = None, **changes: Any) -> Any:
    """Bytes sent and received, by rank."""
    made = layout_of(Options(**changes), world_size, fc, 1)
    rows = traffic(made, SIZES, samples or [4] * len(made.data_ranks))
    return [(row.sent, row.received) for row in rows]


def test_one_server_takes_everybodys_gradients() -> None:
    assert table(4, scheme="ps") == [(720, 720)] * 3 + [(3 * 720, 3 * 720)]


def test_two_servers_halve_that() -> None:
    assert table(5, scheme="ps", ps_servers=2) == [(720, 720)] * 3 + [(1080, 1080)] * 2


def test_colocated_servers_move_what_a_ring_moves() -> None:
    # 2 * 720 * 2/3
    expected = [(960, 960)] * 3
    assert table(3, scheme="ps", ps_placement="colocated") == expected
    assert table(3, scheme="ddp") == expected


def test_a_single_process_moves_nothing() -> None:
    assert table(3, scheme="single", samples=[4]) == [(0, 0)] * 3
    assert table(1, scheme="ddp") == [(0, 0)]
    assert table(2, 1)[0] == (40, 40)  # one CONV worker has nobody to share gradients with


def test_stanza_with_one_fc_worker() -> None:
    # CONV: 4 samples * 10 + ring of 120 over 3 = 40 + 160; FC: 3 * 40.
    assert table(4) == [(200, 200)] * 3 + [(120, 120)]


def test_stanza_with_two_fc_workers_and_unequal_shares() -> None:
    # The first FC worker has two CONV workers; FC workers share 600 bytes in a ring: 600.
    conv = [(40 + 160,) * 2, (30 + 160,) * 2, (20 + 160,) * 2]
    assert table(5, 2, [4, 3, 2]) == [*conv, (70 + 600,) * 2, (20 + 600,) * 2]


def test_columns_halve_what_an_fc_worker_takes_and_exchange_outputs() -> None:
    # Three CONV workers send 40 bytes, 20 to each FC worker; these exchange the outputs of twelve
    # samples, 5 bytes each, and their gradients: half of 60 twice.
    made = layout_of(Options(fc_parallel="columns"), 5, 2, 1)
    rows = traffic(made, replace(SIZES, fc_output_bytes=5), [4] * 3)
    assert [row.sent for row in rows] == [40 + 160] * 3 + [60 + 60] * 2
    assert [row.received for row in rows] == [row.sent for row in rows]


def test_a_colocated_fc_worker_takes_its_own_activations_for_nothing() -> None:
    # Rank 0 is the FC worker of ranks 0 and 1, rank 2 its own: a ring of 120 over three each, and
    # one of 600 over the two.
    made = layout_of(Options(fc_placement="colocated"), 3, 2, 1)
    rows = traffic(made, SIZES, [4] * 3)
    assert [row.sent for row in rows] == [160 + 40 + 600, 160 + 40, 160 + 600]


def test_colocated_columns_leave_a_slice_at_home() -> None:
    # Each sends two thirds of its 40 bytes away, and as an FC worker as many gradients.
    made = layout_of(Options(fc_placement="colocated", fc_parallel="columns"), 3, 3, 1)
    rows = traffic(made, SIZES, [4] * 3)
    assert [row.sent for row in rows] == pytest.approx([160 + 2 * 40 * 2 / 3] * 3)


@given(
    st.integers(1, 12),
    st.sampled_from(["stanza", "ps", "colocated", "ddp", "single"]),
    st.integers(0, 6),
    st.integers(1, 4),
    st.integers(12, 200),
)
def test_what_is_sent_is_received(
    world_size: int, scheme: str, fc: int, servers: int, batch: int
) -> None:
    placement: Any = "colocated" if scheme == "colocated" else "dedicated"
    name: Any = "ps" if scheme == "colocated" else scheme
    options = Options(
        scheme=name, ps_placement=placement, ps_servers=servers, global_batch_size=batch
    )
    try:
        made = layout_of(options, world_size, fc, 1)
    except InputError:
        return
    rows = traffic(made, SIZES, shares(made, batch))
    assert len(rows) == world_size
    assert sum(row.sent for row in rows) == pytest.approx(sum(row.received for row in rows))
    if made.scheme == "stanza":
        activations = batch * SIZES.cut_bytes
        fc_sent = sum(rows[rank].sent for rank in made.ranks("fc"))
        assert fc_sent == pytest.approx(activations + 2 * SIZES.fc_bytes * (fc - 1))


def shares(made: Layout, batch: int) -> list[int]:
    workers = len(made.data_ranks)
    parts = [share(batch, workers, index) for index in range(workers)]
    return [part.stop - part.start for part in parts]


def test_sizes_of_a_separated_model() -> None:
    sizes = sizes_of(Options(model="alexnet"))
    assert sizes == Sizes(conv_bytes=4 * 2_469_696, fc_bytes=4 * 58_631_144, cut_bytes=4 * 9216)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_cut_halves_the_activations_only(dtype: Any) -> None:
    exact = sizes_of(Options())
    narrow = sizes_of(Options(cut_dtype=dtype))
    assert narrow == replace(exact, cut_bytes=exact.cut_bytes / 2)


def test_columns_exchange_the_outputs_of_every_linear() -> None:
    sizes = sizes_of(Options(model="alexnet", fc_parallel="columns"))
    assert sizes.fc_output_bytes == 4 * (4096 + 4096 + 1000)
    with pytest.raises(InputError, match=r"AuxLogits.fc \(Linear\)"):
        sizes_of(Options(model="inception-v3", fc_parallel="columns"))


def test_without_separation_the_whole_model_moves() -> None:
    sizes = sizes_of(Options(model="alexnet", scheme="ddp"))
    assert sizes == Sizes(conv_bytes=4 * 61_100_840, fc_bytes=0, cut_bytes=0)


def test_stanza_moves_less_than_the_parameter_server_of_the_paper() -> None:
    """Ten nodes, AlexNet, a batch of 256 a worker: the busiest interface of each scheme."""
    sizes = sizes_of(Options(model="alexnet"))
    stanza = traffic(layout_of(Options(), 10, 1, 1), sizes, [256] * 9)
    server = traffic(layout_of(Options(scheme="ps"), 10, 0, 1), sizes, [256] * 9)
    busiest = max(row.sent for row in stanza)
    assert busiest == 9 * 256 * 9216 * 4
    assert max(row.sent for row in server) == 9 * 4 * 61_100_840
    assert 25 < max(row.sent for row in server) / busiest < 26
