"""Claims: pass, near and off follow from the bounds."""

import pytest
from hypothesis import given, settings, strategies as st

from systems.figures.claims import Target, claim


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
    row = claim(
        "stanza",
        "speedup",
        "alexnet",
        "measured",
        what="test",
        values=[1.0, 3.0, 100.0],
        unit="x",
        target=Target(least=2.0, source="test"),
    )
    assert row.id == "stanza.speedup.alexnet.measured"
    assert (row.ours, row.n, row.status) == (3.0, 3, "pass")
    assert row.spread == (1.0, 100.0)
    assert ">= 2" in row.target


def test_a_single_value_has_no_spread() -> None:
    target = Target(most=1.0, source="test")
    row = claim("a", "b", "c", "simulated", what="t", values=[5.0], unit="x", target=target)
    assert row.spread is None
    assert row.status == "off"


def test_an_error_can_be_judged_by_its_largest_value() -> None:
    target = Target(most=1.0, source="test")
    row = claim(
        "a",
        "gap",
        "c",
        "measured",
        what="t",
        values=[0.1, 0.2, 9.0],
        unit="x",
        target=target,
        judged_by="largest",
    )
    assert (row.ours, row.n, row.status) == (9.0, 3, "off")
    assert row.spread == (0.1, 9.0)  # the value lies within its own range
