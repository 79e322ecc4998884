"""Rules as values: what they refuse, and how they travel to the kernels and back."""

from collections.abc import Callable

import pytest

from speculative.verification import problem
from speculative.verification.rules import RULES, Calibrated, Exact, Rule, Sigmoid, decoded
from systems.schema import InputError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "numbers", "words"),
    [
        (Sigmoid, (-1e4, "1"), "beta '1': give a number"),
        (Sigmoid, (NAN, 1e4), "alpha nan"),
        (Sigmoid, (-1e4, INF), "beta inf"),
        (Sigmoid, (-1e4, -1e4), "alpha must be below beta"),
        (Sigmoid, (1.0, 1.0), "alpha 1.0, beta 1.0"),
        (Calibrated, (NAN, 1.0, -1.0), "give finite numbers"),
        (Calibrated, (None, 1.0, -1.0), "intercept None: give a number"),
    ],
)
def test_bad_numbers_are_one_line(
    kind: Callable[..., Rule], numbers: tuple[object, ...], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        kind(*numbers)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("rule", [Exact(), Sigmoid(-2.0, 3.0), Calibrated(0.1, 0.9, -0.8)])
def test_the_kernels_are_given_all_of_a_rule(rule: Rule) -> None:
    assert decoded(rule.code, rule.parameters) == rule
    assert list(problem.Parameters(*rule.parameters))[: len(rule.parameters)] == rule.parameters


def test_codes_and_names_are_those_of_one_rule() -> None:
    assert sorted(rule.code for rule in RULES) == list(range(len(RULES)))
    assert len({rule.name for rule in RULES}) == len(RULES)
