"""The table of a hang: every rank has its line, and the culprit is the one that is named."""

from hypothesis import given, strategies as st

from systems.processes.hangs import Doing, State, cycle, table, verdict, waited_for

NOW = 1_700_000_000.0


def doing(state: State, peers: tuple[int, ...] = (), what: str = "gradient") -> Doing:
    return Doing(role="conv", state=state, operation=what, peers=peers, since=NOW - 7)


def test_a_chain_of_waits_ends_at_the_rank_that_waits_for_nobody() -> None:
    ranks = [doing("waiting", (1,)), doing("waiting", (2,), "activation"), doing("busy")]
    assert waited_for(ranks) == [2]
    assert "everybody waits for rank 2 (conv), which is not waiting" in verdict(ranks)


def test_a_silent_rank_goes_before_a_busy_one() -> None:
    ranks = [doing("waiting", (1, 2)), doing("busy"), doing("silent")]
    assert waited_for(ranks) == [2]


def test_ranks_at_one_barrier_do_not_wait_for_each_other() -> None:
    barrier = [doing("waiting", tuple(p for p in range(4) if p != r), "barrier") for r in range(3)]
    late = doing("waiting", (1,), "gradient")
    assert waited_for([*barrier, late]) == []
    assert waited_for([*barrier, doing("busy")]) == [3]


def test_a_busy_rank_for_which_nobody_waits_is_not_named() -> None:
    ranks = [doing("waiting", (1,)), doing("busy"), doing("busy")]
    assert waited_for(ranks) == [1]


def test_ranks_that_wait_in_a_ring_are_shown_as_one() -> None:
    ranks = [doing("waiting", (1,), "a"), doing("waiting", (2,), "b"), doing("waiting", (1,), "c")]
    assert waited_for(ranks) == []
    assert cycle(ranks) == [1, 2, 1]
    assert verdict(ranks).endswith("rank 1 (conv) waits for rank 2 (conv) waits for rank 1 (conv)")


def test_a_rank_that_nobody_answers_is_cut_off_itself() -> None:
    ranks = [doing("waiting", (1,)), doing("silent"), doing("silent")]
    assert verdict(ranks).startswith("no other rank answers rank 0 (conv): its network is cut")


def test_the_table_has_a_line_for_every_rank() -> None:
    ranks = [doing("waiting", (1, 2, 3), "barrier"), *[doing("busy")] * 3]
    head, *rows, last = table(ranks, NOW).splitlines()
    assert head.split() == ["rank", "role", "operation", "peers", "since"]
    assert rows[0].split()[:4] == ["0", "conv", "barrier", "all"]
    assert rows[0].endswith("(7 s)")
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "3"]
    assert "rank 1 (conv), rank 2 (conv), rank 3 (conv), which are" in last


@given(st.data())
def test_whoever_is_named_does_not_wait(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 6))
    rank = st.integers(0, size - 1)
    ranks = [
        doing(
            data.draw(st.sampled_from(("waiting", "busy", "silent"))),
            tuple(p for p in data.draw(st.sets(rank)) if p != own),
            data.draw(st.sampled_from("ab")),
        )
        for own in range(size)
    ]
    named = waited_for(ranks)
    assert all(ranks[r].state != "waiting" for r in named)
    assert bool(named) == any(r.state != "waiting" for r in ranks)
    assert table(ranks, NOW).count("\n") == size + 1
