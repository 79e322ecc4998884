"""A paper's statements find the claims that answer them."""

from systems.figures.claims import Claim, Target, claim
from systems.figures.paper import Statement


def _claim(quantity: str, case: str = "a") -> Claim:
    return claim(f"stanza.{quantity}.{case}.measured", "t", [1.0], Target(least=1.0, unit="x"))


def test_a_statement_is_answered_by_quantities_and_patterns() -> None:
    claims = [_claim(name) for name in ("speedup-over-ps-blocking", "speedup-over-ddp", "bytes")]
    statement = Statement(text="fast", answered_by=("speedup-over-ps-*", "bytes"))
    assert statement.answers(claims) == [claims[0], claims[2]]
    assert Statement(text="fast", answered_by=("speedup",)).answers(claims) == []


def test_quantity_and_case_are_parts_of_the_id() -> None:
    row = _claim("speed-over-dense", "shapes-0.02-64")
    assert (row.quantity, row.case) == ("speed-over-dense", "shapes-0.02-64")
