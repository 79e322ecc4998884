"""Claims: pass, near and off follow from the bounds."""

import pytest
from hypothesis import given, settings, strategies as st

from systems.figures.claims import Target, claim, slug


@pytest.mark.parametrize(
    ("ours", "status"), [(1.0, "pass"), (0.95, "near"), (0.89, "off"), (2.0, "pass"), (2.1, "near")]
)
def test_status_follows_from_the_bounds(ours: float, status: str) -> None:
    assert Target(least=1.0, most=2.0, source="test").judge(ours) == status


@settings(deadline=None)
@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_only_a_value_within_the_bounds_passes(bound: float, ours: float) -> None:
    assert (Target(least=bound, source="test").judge(ours) == "pass") == (ours >= bound)
    assert (Target(most=bound, source="test").judge(ours) == "pass") == (ours <= bound)


def test_a_claim_is_judged_by_its_median() -> None:
    target = Target(least=2.0, unit="x", source="test")
    row = claim("stanza.speedup.alexnet.measured", "test", [1.0, 3.0, 100.0], target)
    assert (row.id, row.system, row.tier) == (
        "stanza.speedup.alexnet.measured",
        "stanza",
        "measured",
    )
    assert (row.ours, row.unit, row.n, row.status) == (3.0, "x", 3, "pass")
    assert row.spread == (1.0, 100.0)
    assert ">= 2" in row.target


def test_a_single_value_has_no_spread() -> None:
    row = claim("a.b.c.simulated", "t", [5.0], Target(most=1.0))
    assert row.spread is None
    assert row.status == "off"
    assert row.target == "<= 1 (this project's target)"


def test_an_error_can_be_judged_by_its_largest_value() -> None:
    row = claim("a.gap.c.measured", "t", [0.1, 0.2, 9.0], Target(most=1.0), judged_by="largest")
    assert (row.ours, row.n, row.status) == (9.0, 3, "off")
    assert row.spread == (0.1, 9.0)  # the value lies within its own range


def test_words_become_an_id() -> None:
    row = claim("sparsepipe.over-GPipe, equal split.1 + 1 10g.emulated", "t", [1.0], Target())
    assert row.id == "sparsepipe.over-gpipe-equal-split.1+1-10g.emulated"
    assert (row.quantity, row.case) == ("over-gpipe-equal-split", "1+1-10g")
    assert slug("transformers' loop m=4 sm_90") == "transformers-loop-m4-sm-90"


def test_the_name_of_a_system_stays_as_it_is() -> None:
    made = claim("local_sgd.bytes over table.H=4 b_c.measured", "bytes", [1.0], Target())
    assert (made.id, made.system) == ("local_sgd.bytes-over-table.h4-b-c.measured", "local_sgd")


@pytest.mark.parametrize("id", ["a.b.measured", "a.b.c.guessed"])
def test_an_id_has_four_parts_and_ends_with_a_tier(id: str) -> None:
    with pytest.raises(ValueError, match="an id is system"):
        claim(id, "t", [1.0], Target())
