"""Masks of allowed tokens: what the bits mean, and that they decide as -inf at the others does."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from speculative.experiments.agreement import RULES, TIE, drafted, referred, rows, uniforms_of
from speculative.experiments.chi_square import GAMMA, N, TableModel, outputs, p_value_of
from speculative.verification import masks, philox, status
from speculative.verification.filters import Filters
from speculative.verification.rules import EXACT, Block, Coupled, Exact, Rule
from speculative.verification.tree import verify_tree
from speculative.verification.verify import Verification, sample, verify
from systems.schema import InputError
from tests.speculative.verification.test_filters import MIXED
from tests.speculative.verification.test_verify import both

Decide = Callable[..., Verification]
INF = torch.inf


def allowing(batch: int, count: int, vocabulary: int, seed: int = 0) -> Tensor:
    """What random masks allow, a third of all tokens and one at least: bool [B, rows, V]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch, count, vocabulary, generator=generator)
    return (drawn < 1 / 3) | (drawn == drawn.amin(-1, keepdim=True))


def excluded(logits: Tensor, allowed: Tensor) -> Tensor:
    """The logits with -inf for what is not allowed."""
    return logits.masked_fill(~allowed[:, : logits.shape[1]], -INF)


def constrained(
    batch: int, vocabulary: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, tokens that the draft took from what is allowed, and what is: three draft tokens."""
    target, draft, _ = drafted(batch, 3, vocabulary, seed=vocabulary)
    allowed = allowing(batch, 4, vocabulary)
    generator = torch.Generator().manual_seed(2)
    weights = excluded(draft, allowed).softmax(-1).flatten(0, 1)
    tokens = weights.multinomial(1, generator=generator).view(batch, 3)
    return target.to(dtype), draft.to(dtype), tokens, allowed


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=99))
def test_bits_are_those_of_xgrammar(allowed: list[bool]) -> None:
    mask = masks.packed(torch.tensor(allowed))
    assert mask.dtype == torch.int32
    assert len(mask) == masks.words(len(allowed)) == -(-len(allowed) // 32)
    for i, one in enumerate(allowed):
        assert (int(mask[i // 32]) >> (i % 32)) & 1 == one
    assert masks.unpacked(mask, len(allowed)).tolist() == allowed


@both
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(9, torch.float32), (32, torch.float16), (301, torch.bfloat16), (20_011, torch.float32)],
)
def test_decisions_are_the_reference_s_at_masked_logits(
    decide: Decide, rule: Rule, vocabulary: int, dtype: torch.dtype
) -> None:
    target, draft, tokens, allowed = constrained(8, vocabulary, dtype)
    tokens[::3, 1] = 3  # whether it is allowed or not
    case = target, draft, tokens
    u = uniforms_of(case, rule, 5)
    lengths = torch.tensor([3, 3, 3, 3, 3, 2, 1, 0])
    mask = Filters(allowed=masks.packed(allowed))
    found = rows(decide(*case, rule=rule, filters=mask, seed=5, temperature=0.8, lengths=lengths))
    for_reference = excluded(target, allowed), excluded(draft, allowed), tokens
    expected = referred(for_reference, u, lengths, rule=rule, temperature=0.8)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == theirs[:3] or theirs.margin < TIE


@both
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("filters", [Filters(), MIXED], ids=["alone", "with filters"])
@pytest.mark.parametrize("vocabulary", [700, 20_011])
def test_masks_decide_as_masked_logits_do(
    decide: Decide, rule: Rule, filters: Filters, vocabulary: int
) -> None:
    """With rows that are greedy; the draft's rows too, or as they are, or a draft without logits;
    the log-probabilities likewise. NaN is not seen where it is forbidden."""
    target, draft, tokens, allowed = constrained(8, vocabulary)
    heat = torch.tensor([0.7, 1.0, 0.0, 1.6, 0.7, 0.0, 1.0, 0.3])
    decide = partial(decide, rule=rule, seed=5, temperature=heat)
    drafts: list[tuple[Tensor | None, Tensor | None, bool]] = [
        (draft, excluded(draft, allowed), True),
        (draft, draft, False),
    ]
    if rule in (EXACT, Block(), Coupled()):
        drafts.append((None, None, True))
    for as_it_is, as_seen, of_draft in drafts:
        scores, by = torch.zeros(8, 4), torch.zeros(8, 4)
        plain = replace(filters, of_draft=of_draft)
        seen = excluded(target, allowed)
        expected = decide(seen, as_seen, tokens, filters=plain, log_probabilities=by)
        mask = replace(plain, allowed=masks.packed(allowed))
        unseen = target.clone()
        unseen[~allowed] = torch.nan
        found = decide(unseen, as_it_is, tokens, filters=mask, log_probabilities=scores)
        assert rows(found) == rows(expected)
        assert torch.equal(scores.nan_to_num(9), by.nan_to_num(9))


@both
def test_a_row_that_allows_nothing_is_at_fault(decide: Decide) -> None:
    """The second row of one sequence, the last of another; one that is not reached in a third."""
    target, _, _ = drafted(3, 2, 70, seed=1)
    tokens = target[:, :2].argmax(-1)
    allowed = torch.ones(3, 3, 70, dtype=torch.bool)
    allowed[0, 1], allowed[1, 2], allowed[2, 2] = False, False, False
    tokens[2, 1] = target[2, 1].argmin()
    filters = Filters(allowed=masks.packed(allowed), of_draft=False)
    found = rows(decide(target, None, tokens, filters=filters, temperature=0.01, seed=1))
    assert [(n, fault) for n, _, fault in found] == [
        (1, status.TARGET_LOGITS),
        (2, status.TARGET_LOGITS),
        (1, 0),
    ]


@pytest.mark.parametrize("rule", [EXACT, Block(), Coupled()], ids=["exact", "block", "coupled"])
def test_outputs_follow_the_masked_target(rule: Rule) -> None:
    """A mask of its own for every text: a grammar allows what follows the text so far."""
    target, draft, grammar = TableModel(2), TableModel(102), TableModel(7)
    plain = TableModel(2), TableModel(102)
    for model in (target, draft):
        for i, table in enumerate(grammar.tables):
            allowed = (table > -0.5) | (table == table.amax(-1, keepdim=True))
            model.tables[i] = model.tables[i].masked_fill(~allowed, -INF)

    def decide(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        logits = plain[0].rows(tokens), plain[1].rows(tokens)[:, :GAMMA]
        filters = Filters(allowed=masks.packed(z > -INF))
        decided = verify(*logits, tokens, rule=rule, filters=filters, seed=torch.arange(N))
        assert not bool(decided.status.any())
        return decided.accepted, decided.next_token

    p = p_value_of(outputs(target, draft, decide, seed=4), target)
    print(f"{rule.name}: p = {p:.3f}")
    assert p > 1e-3


@pytest.mark.parametrize("stream", [philox.DRAFT, philox.COUPLED])
@pytest.mark.parametrize("filters", [Filters(), MIXED], ids=["alone", "with filters"])
def test_sampling_under_a_mask_is_that_of_masked_logits(stream: int, filters: Filters) -> None:
    logits = drafted(8, 1, 20_011, seed=4)[0][:, 0]
    allowed = allowing(8, 1, 20_011)
    mask = replace(filters, allowed=masks.packed(allowed))
    found = sample(logits, temperature=0.7, filters=mask, seed=3, stream=stream)
    seen = excluded(logits[:, None], allowed)[:, 0]
    expected = sample(seen, temperature=0.7, filters=filters, seed=3, stream=stream)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("rule", [EXACT, Coupled()])
def test_trees_are_masked_too(rule: Exact | Coupled) -> None:
    parents = [-1, -1, 0, 0]
    z, y = (torch.randn(6, 5, 50, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    tokens = torch.randint(50, (6, 4), generator=torch.Generator().manual_seed(3))
    allowed = allowing(6, 5, 50)
    mask = Filters(allowed=masks.packed(allowed))
    found = verify_tree(z, y, tokens, parents, rule=rule, filters=mask, seed=3)
    z, y = excluded(z, allowed), excluded(y, allowed)
    expected = verify_tree(z, y, tokens, parents, rule=rule, seed=3)
    assert torch.equal(torch.stack(found), torch.stack(expected))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(2, 3, 8, dtype=torch.bool), "allowed: torch.bool [2, 3, 8] does not fit"),
        (torch.ones(2, 1, dtype=torch.int32), "give torch.int32 [2, 3, 1]"),
        (torch.ones(2, 2, 1, dtype=torch.int32), "give torch.int32 [2, 3, 1]"),
        ([1], "allowed is a list; give a tensor"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor, words: str) -> None:
    with pytest.raises(InputError) as refused:
        verify(*drafted(2, 2, 8), filters=Filters(allowed=mask))
    assert words in str(refused.value)
