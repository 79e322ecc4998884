"""Adaptive gamma takes what pays, and stops drafting where nothing does."""

import time
from typing import Any

import pytest

from speculative.decoding.pace import AdaptiveGamma, Pace
from systems.schema import InputError


def gammas(
    rate: float, token_s: float, step_s: float, more_s: float = 0.0, steps: int = 60
) -> list[int]:
    """The gammas of a pace whose draft tokens are accepted at a rate and take so many seconds, as
    a step of the target does, and for every draft token more."""
    pace, chosen = Pace(8), []
    for step in range(steps):
        gamma = pace.gamma()
        chosen.append(gamma)
        prompt_s = 100.0 if step == 0 else 0.0
        pace.saw(
            gamma,
            tested=100 * min(gamma, 1),
            accepted=round(100 * rate) * min(gamma, 1),
            draft_s=gamma * token_s + prompt_s,
            other_s=step_s + gamma * more_s + prompt_s,
        )
    return chosen


def best(rate: float, token_s: float, step_s: float, more_s: float) -> int:
    def tokens_per_s(gamma: int) -> float:
        tokens = (1 - rate ** (gamma + 1)) / (1 - rate)
        return tokens / (gamma * token_s + step_s + gamma * more_s)

    return max(range(9), key=tokens_per_s)


@pytest.mark.parametrize(
    ("rate", "token_s", "more_s"),
    [(0.8, 0.1, 0.0), (0.5, 0.1, 0.0), (0.9, 0.01, 0.02), (0.6, 0.4, 0.1), (0.3, 0.5, 0.0)],
)
def test_the_gamma_of_most_tokens_per_second_is_found(
    rate: float, token_s: float, more_s: float
) -> None:
    expected = best(rate, token_s, 1.0, more_s)
    chosen = gammas(rate, token_s, 1.0, more_s)[40:60]
    assert max(set(chosen), key=chosen.count) == expected


def test_a_draft_that_costs_too_much_rests_and_is_tried_again() -> None:
    chosen = gammas(0.5, 2.0, 1.0, steps=100)
    assert chosen[:5] == [8, 8, 8, 0, 0]
    assert [gamma for gamma in chosen[5:] if gamma] == [4] * 3
    assert chosen[32] == chosen[64] == 4


def test_no_gamma_below_1_is_the_most() -> None:
    with pytest.raises(InputError, match=r"AdaptiveGamma\(most=0\): give 1 or more"):
        AdaptiveGamma(most=0)


def test_texts_stay_the_target_s_and_a_slow_draft_stops() -> None:
    pytest.importorskip("transformers")
    from speculative.decoding.decode import generate
    from tests.speculative import models

    target, draft = (models.make("llama", seed=seed, vocabulary=6) for seed in (1, 2))
    given = models.inputs("llama", 2, vocabulary=6)
    options: dict[str, Any] = {"max_new_tokens": 60, "do_sample": False, "end_token_ids": []}
    alone = generate(target, None, given, **options)
    forward = draft.forward

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.05)
        return forward(*arguments, **named)

    draft.forward = slow
    found = generate(target, draft, given, gamma=AdaptiveGamma(most=4), **options)
    assert found.tokens == alone.tokens
    assert found.record.proposed < 4 * found.record.target_steps / 2
