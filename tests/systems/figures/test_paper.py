"""A paper's statements find the claims that answer them."""

from systems.figures.claims import Claim, Target, claim
from systems.figures.paper import Answer, Paper, Statement


def _claim(quantity: str, case: str = "a") -> Claim:
    return claim(f"stanza.{quantity}.{case}.measured", "t", [1.0], Target(least=1.0, unit="x"))


def test_a_statement_is_answered_by_quantities_and_patterns() -> None:
    claims = [_claim(name) for name in ("speedup-over-ps-blocking", "speedup-over-ddp", "bytes")]
    assert Answer(quantity="speedup-over-ps-*", sentence="").claims(claims) == [claims[0]]
    assert Answer(quantity="bytes", sentence="").claims(claims) == [claims[2]]
    assert Answer(quantity="speedup", sentence="").claims(claims) == []


def test_a_paper_says_what_a_quantity_means() -> None:
    answer = Answer(quantity="speedup-over-*", sentence="Throughput over a baseline.")
    statement = Statement(text="It is fast.", answers=(answer,))
    paper = Paper(title="", arxiv="", idea="", figure="", statements=(statement,))
    assert paper.sentence("speedup-over-ddp") == "Throughput over a baseline."
    assert paper.sentence("bytes") is None


def test_quantity_and_case_are_parts_of_the_id() -> None:
    row = _claim("speed-over-dense", "shapes-0.02-64")
    assert (row.quantity, row.case) == ("speed-over-dense", "shapes-0.02-64")
