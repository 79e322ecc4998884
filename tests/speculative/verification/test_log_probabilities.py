"""The log-probabilities of emitted tokens, held to log_softmax in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from speculative.experiments.agreement import RULES, Case, drafted, rows
from speculative.verification.filters import Filters
from speculative.verification.rules import EXACT, Block, Calibrated, Coupled, Rule, Sigmoid
from speculative.verification.verify import Verification, verify
from systems.schema import InputError
from tests.speculative.verification.test_filters import MIXED, filtered_draft, masked
from tests.speculative.verification.test_verify import both

Decide = Callable[..., Verification]
HEAT = torch.tensor([0.7, 1.0, 0.0, 1.6, 0.7, 0.0, 1.0, 0.3])


def expected(target: Tensor, tokens: Tensor, decided: Verification, heat: Tensor) -> Tensor:
    """What log_softmax says of the emitted tokens, float64 [B, G + 1]; target logits are masked."""
    found = torch.full(target.shape[:2], torch.nan, dtype=torch.float64)
    for b, (n, following, _) in enumerate(rows(decided)):
        emitted = [*tokens[b, :n].tolist(), *([following] if following >= 0 else [])]
        for t, token in enumerate(emitted):
            by = (target[b, t].double() / heat[b].double()).log_softmax(-1)
            found[b, t] = by[token] if heat[b] > 0 else 0.0
    return found


def check(decide: Decide, case: Case, filters: Filters | None, **options: object) -> Verification:
    """Log-probabilities are right, and asking for them changes no decision."""
    target, _, tokens = case
    options = {"seed": 5, "temperature": HEAT, **options}
    if filters is not None:
        options["filters"] = filters
        target = torch.cat(
            [
                masked(row[None], only(filters, b), float(HEAT[b]) or 1.0)
                for b, row in enumerate(target)
            ]
        )
    scores = torch.zeros(tokens.shape[0], tokens.shape[1] + 1)
    decided = decide(*case, log_probabilities=scores, **options)
    assert rows(decided) == rows(decide(*case, **options))
    by = expected(target, tokens, decided, HEAT)
    torch.testing.assert_close(scores.double(), by, rtol=2e-6, atol=5e-6, equal_nan=True)
    return decided


def only(filters: Filters, b: int) -> Filters:
    """The filters of one sequence of a batch."""
    numbers: list[Any] = [x[b : b + 1] for x in filters.numbers if isinstance(x, Tensor)]
    top_k, top_p, min_p = numbers
    return Filters(top_k=top_k, top_p=top_p, min_p=min_p)


@both
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(5, torch.float32), (300, torch.bfloat16), (300, torch.float16), (20_011, torch.float32)],
)
def test_they_are_those_of_log_softmax(
    decide: Decide, rule: Rule, vocabulary: int, dtype: torch.dtype
) -> None:
    """Temperatures of their own for all rows, of which two are greedy; drafts of all lengths."""
    target, draft, tokens = drafted(8, 3, vocabulary, seed=vocabulary)
    tokens[1::2] = target[1::2, :3].argmax(-1)
    case = target.to(dtype), draft.to(dtype), tokens
    lengths = torch.tensor([3, 3, 3, 3, 2, 1, 0, 3])
    decided = check(decide, case, None, rule=rule, lengths=lengths)
    assert bool((decided.accepted * (HEAT > 0)).any())


@both
@pytest.mark.parametrize("rule", RULES)
def test_they_are_those_of_the_filtered_target(decide: Decide, rule: Rule) -> None:
    case = filtered_draft(drafted(8, 3, 700, seed=2), MIXED, 0.9)
    check(decide, case, MIXED, rule=rule)


@both
@pytest.mark.parametrize("rule", [EXACT, Block(), Coupled()])
def test_drafts_may_come_without_logits(decide: Decide, rule: Rule) -> None:
    target, _, tokens = drafted(8, 3, 40, seed=3)
    tokens[:, 0] = target[:, 0].argmax(-1)
    decided = check(decide, (target, None, tokens), None, rule=rule)
    assert bool((decided.accepted > 0).any())


@both
@pytest.mark.parametrize("rule", RULES)
def test_there_are_none_where_nothing_is_emitted(decide: Decide, rule: Rule) -> None:
    """Of sequences: sound, a fault of the target, a token outside, a length, all excluded."""
    target = drafted(5, 2, 50, seed=1)[0]
    draft = target[:, :2].clone()
    tokens = target[:, :2].argmax(-1)
    target[1, 1], target[4, 2] = torch.nan, -torch.inf
    tokens[2, 1] = 50
    scores = torch.zeros(5, 3)
    decided = decide(
        target,
        draft,
        tokens,
        rule=rule,
        lengths=torch.tensor([2, 2, 2, 3, 2]),
        seed=1,
        temperature=0.2,
        log_probabilities=scores,
    )
    emitted = decided.accepted + (decided.next_token >= 0)
    assert scores.isfinite().sum(-1).tolist() == emitted.tolist()
    assert scores.isnan().sum(-1).tolist() == (3 - emitted).tolist()


@both
@pytest.mark.parametrize("rule", [Sigmoid(), Calibrated(0.1, 0.9, -0.9)])
def test_a_fault_that_the_rule_does_not_see_is_nan(decide: Decide, rule: Rule) -> None:
    target = drafted(1, 1, 50, seed=1)[0]
    draft, tokens = target[:, :1].clone(), torch.zeros(1, 1, dtype=torch.int64)
    target[0, 0, 7] = torch.inf
    scores = torch.zeros(1, 2)
    uniforms = torch.full((1, 52), 0.1)
    decided = decide(target, draft, tokens, rule=rule, uniforms=uniforms, log_probabilities=scores)
    assert rows(decided)[0][0] == 1
    assert scores.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.empty(2, 4), "log_probabilities: torch.float32 [2, 4] does not fit"),
        (torch.empty(2, 3).double(), "give torch.float32 [2, 3]"),
        (torch.empty(3, 2).t(), "log_probabilities is not contiguous"),
        (True, "log_probabilities is a bool; give a tensor"),
    ],
)
def test_what_does_not_fit_is_refused(given: Tensor, words: str) -> None:
    with pytest.raises(InputError) as refused:
        verify(*drafted(2, 2, 8), log_probabilities=given)
    assert words in str(refused.value)
