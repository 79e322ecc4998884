"""The exact rules beside the token rule: block, coupled, greedy; drafts without probabilities."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from speculative.experiments import mutants
from speculative.experiments.agreement import (
    RULES,
    Case,
    differences,
    drafted,
    rows,
    unlike_at_large_vocabulary,
)
from speculative.experiments.chi_square import GAMMA, TableModel, Verify, outputs, p_value_of
from speculative.verification import philox
from speculative.verification.rules import EXACT, Block, Coupled, Rule
from speculative.verification.verify import Verification, sample, verify
from systems.schema import InputError
from tests.speculative.verification.test_verify import both

Decide = Callable[..., Verification]
EXACT_RULES = (EXACT, Block(), Coupled())
INF = torch.inf


def from_seeds(
    z: Tensor, y: Tensor, tokens: Tensor, u: Tensor, *, rule: Rule, given: bool = False
) -> tuple[Tensor, Tensor]:
    decided = verify(z, None if given else y, tokens, rule=rule, seed=torch.arange(len(z)))
    assert not bool(decided.status.any())
    return decided.accepted, decided.next_token


@pytest.mark.parametrize("rule", EXACT_RULES)
@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "given"])
def test_outputs_follow_the_target(rule: Rule, greedy: bool) -> None:
    """Drafts that were sampled, and drafts of likeliest tokens, which come without logits."""
    target, draft = TableModel(2), TableModel(102)
    decide: Verify = partial(from_seeds, rule=rule, given=greedy)
    p = p_value_of(outputs(target, draft, decide, seed=4, greedy=greedy), target)
    print(f"{rule.name}: p = {p:.3f}")
    assert p > 1e-3


@pytest.mark.parametrize("mutant", mutants.BLOCK)
def test_mutants_of_block_are_caught(mutant: Verify) -> None:
    target, draft = TableModel(1), TableModel(101)
    p = p_value_of(outputs(target, draft, mutant, seed=1), target)
    print(f"{mutant.__name__}: p = {p:.1e}")
    assert p < 1e-6


def test_the_textbook_s_block_is_right() -> None:
    target, draft = TableModel(1), TableModel(101)
    assert p_value_of(outputs(target, draft, mutants.correct_block, seed=1), target) > 1e-3


def test_block_accepts_no_fewer_than_the_token_rule() -> None:
    """20 random pairs; over all of them it accepts more."""
    gains = []
    for pair in range(20):
        target, draft, tokens = drafted(1, 4, 50, seed=pair, spread=1.5)
        n = 20_000
        generator = torch.Generator().manual_seed(pair)
        flat = draft[0].softmax(-1)
        tokens = flat.multinomial(n, replacement=True, generator=generator).t().contiguous()
        case = target.expand(n, -1, -1), draft.expand(n, -1, -1), tokens
        token, block = (
            verify(*case, rule=rule, seed=pair).accepted.double() for rule in (EXACT, Block())
        )
        gains.append(float(block.mean() - token.mean()))
        noise = float((token.var() / n + block.var() / n).sqrt())
        assert gains[-1] > -3 * noise
    print(f"block accepts {sum(gains) / 20:.3f} tokens a step more")
    assert sum(gains) / 20 > 0.01


@both
@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_coupled_emits_what_the_target_takes_alone(decide: Decide, gamma: int) -> None:
    """Whatever was drafted: good guesses, bad ones, or the draft's tokens by the same noise."""
    seeds, batch = torch.arange(12) + 5, 12
    target, draft, random_tokens = drafted(batch, gamma, 4099, seed=gamma)

    def taken(logits: Tensor, t: int) -> Tensor:
        return sample(
            logits[:, t], temperature=0.9, seed=seeds, offset=7 + t, stream=philox.COUPLED
        )

    alone = torch.stack([taken(target, t) for t in range(gamma + 1)], 1)
    by_noise = torch.stack([taken(draft, t) for t in range(gamma)], 1)
    means = []
    for tokens in (alone[:, :-1].contiguous(), by_noise, random_tokens):
        decided = decide(
            target, None, tokens, rule=Coupled(), temperature=0.9, seed=seeds, offset=7
        )
        means.append(float(decided.accepted.double().mean()))
        for b, (n, token, status) in enumerate(rows(decided)):
            assert status == 0
            assert tokens[b, :n].tolist() == alone[b, :n].tolist()
            assert token == int(alone[b, n])
    assert means[0] == gamma
    assert means[1] > 0.3 * gamma


@both
@pytest.mark.parametrize("rule", RULES)
def test_rows_of_temperature_0_are_greedy(decide: Decide, rule: Rule) -> None:
    target, draft, tokens = drafted(8, 3, 300, seed=3)
    target[:, :, 7] = target[:, :, 5] = target.amax(-1) + 1  # ties: the lower number
    tokens[::2, 0], tokens[::4, 1] = 5, 7
    heat = torch.tensor([0.0, 0.8]).repeat(4)
    together = rows(decide(target, draft, tokens, rule=rule, temperature=heat, seed=9))
    assert [together[b] for b in (0, 2, 4, 6)] == [(1, 5, 0)] * 4
    warm = rows(decide(target, draft, tokens, rule=rule, temperature=0.8, seed=9))
    assert together[1::2] == warm[1::2]
    assert rows(decide(target, None if rule in EXACT_RULES else draft, tokens, rule=rule,
                       temperature=0.0))[::2] == [(1, 5, 0)] * 4  # fmt: skip


@both
@given(data=st.data())
def test_adversarial_logits(decide: Decide, data: st.DataObject) -> None:
    """Ties, excluded tokens, equal and one-hot rows, ragged lengths, drafts without logits."""
    gamma, vocabulary = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7))
    values = st.sampled_from([-INF, -50.0, -1.0, 0.0, 0.5, 3.0, 80.0])
    row = st.lists(values, min_size=vocabulary, max_size=vocabulary)
    target, draft = (torch.tensor([[data.draw(row) for _ in range(n)]]) for n in (gamma + 1, gamma))
    if data.draw(st.booleans()):
        draft = target[:, :gamma].clone()
    tokens = torch.tensor([[data.draw(st.integers(-1, vocabulary)) for _ in range(gamma)]])
    case: Case = target, data.draw(st.sampled_from([None, draft])), tokens
    wrong, _ = differences(
        case,
        decide,
        data.draw(st.integers(0, 2**32)),
        rule=data.draw(st.sampled_from(EXACT_RULES)),
        lengths=torch.tensor([data.draw(st.integers(0, gamma))]),
        temperature=data.draw(st.sampled_from([0.0, 0.7])),
    )
    assert wrong == 0


@pytest.mark.parametrize("mutant", mutants.FINE)
def test_fine_errors_are_caught_at_a_large_vocabulary(mutant: Verify) -> None:
    """Chi-square over four tokens passes them; decisions at given numbers differ."""
    assert unlike_at_large_vocabulary(mutants.correct) == 0
    assert unlike_at_large_vocabulary(mutant) > 0


def test_approximations_want_the_draft_s_logits() -> None:
    target, _, tokens = drafted(1, GAMMA, 8)
    for rule in RULES:
        if rule not in EXACT_RULES:
            with pytest.raises(InputError, match=f"the rule {rule.name} compares two logits"):
                verify(target, None, tokens, rule=rule)


def test_a_tensor_of_temperatures_has_one_for_every_row() -> None:
    target, draft, tokens = drafted(2, 1, 8)
    with pytest.raises(InputError, match=r"temperature: torch.float32 \[3\]"):
        verify(target, draft, tokens, temperature=torch.ones(3))


def test_greedy_sampling_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [torch.nan, 0.0, 0.0], [-INF, -INF, -INF]])
    for heat in (0.0, torch.zeros(3)):
        assert sample(logits, temperature=heat).tolist() == [1, -1, -1]
