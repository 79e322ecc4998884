"""Answers of verifiers are read, whatever their form, and refused in one line."""

from typing import Any

import pytest
import torch
from torch import Tensor

from speculative.auditing.verifier import emitted, one_by_one, takes_filters, under
from speculative.verification.filters import Filters
from systems.schema import InputError

TOKENS = torch.tensor([[1, 2], [3, 0], [2, 2]])
GIVEN = torch.zeros(3, 3, 4), torch.zeros(3, 2, 4), TOKENS, torch.Generator()
EMITTED = torch.tensor([[0, -1, -1], [3, 1, -1], [2, 2, 3]])


def answer(found: Any) -> Tensor:
    return emitted(lambda *_: found, *GIVEN)


def test_counts_and_tokens_mean_the_same() -> None:
    counts = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3])
    assert answer(counts).equal(EMITTED)
    assert answer([x.int() for x in counts]).equal(EMITTED)
    assert answer((*counts, "more")).equal(EMITTED)
    assert answer(EMITTED.int()).equal(EMITTED)


def test_nothing_counts_after_a_gap_or_a_missing_token() -> None:
    gap = torch.tensor([[0, -1, 2], [-1, 1, 1], [2, 2, 3]])
    assert answer(gap).tolist() == [[0, -1, -1], [-1, -1, -1], [2, 2, 3]]
    faulty = torch.tensor([0, 1, 2]), torch.tensor([-1, -7, 3])
    assert answer(faulty).tolist() == [[-1, -1, -1], [3, -1, -1], [2, 2, 3]]


def test_a_verifier_of_one_sequence_gets_one() -> None:
    seen = []

    def verify(z: Tensor, y: Tensor, tokens: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
        seen.append((z.shape, y.shape, tokens.tolist()))
        return tokens[:, 0] * 0, tokens[:, 1]

    found = emitted(one_by_one(verify), *GIVEN)
    assert found[:, 0].tolist() == [2, 0, 2]
    assert seen == [((1, 3, 4), (1, 2, 4), [row]) for row in TOKENS.tolist()]


def test_filters_reach_a_verifier_that_takes_them() -> None:
    def verify(
        z: Tensor, y: Tensor, tokens: Tensor, _: torch.Generator, filters: Filters | None = None
    ) -> tuple[Tensor, Tensor]:
        top_k = 0 if filters is None else int(filters.top_k)
        return tokens[:, 0] * 0, torch.full_like(tokens[:, 0], top_k)

    for one in (verify, one_by_one(verify)):
        assert takes_filters(one)
        assert emitted(under(one, Filters(top_k=3)), *GIVEN)[:, 0].tolist() == [3, 3, 3]
        assert emitted(under(one, None), *GIVEN)[:, 0].tolist() == [0, 0, 0]
    for without in (lambda *_: None, one_by_one(lambda *_: None), max):
        assert not takes_filters(without)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "returned a NoneType; give (accepted, next_token)"),
        ((1, 2), "accepted is a int; return a tensor"),
        ((torch.zeros(3), torch.zeros(3)), "accepted is torch.float32 [3]; return integers [3]"),
        ((torch.tensor([0]), torch.tensor([0])), "accepted is torch.int64 [1]"),
        ((torch.tensor([0, 3, 0]), torch.tensor([0, 0, 0])), "accepted is outside 0 to 2"),
        (torch.zeros(3, 2).int(), "the emitted tokens is torch.int32 [3, 2]; return integers"),
    ],
)
def test_another_answer_is_refused(found: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        answer(found)
    assert words in str(refused.value)
