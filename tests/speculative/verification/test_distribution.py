"""Do emitted tokens follow the target, and are verifiers that are wrong caught? Fixed seeds."""

import pytest
import torch
from torch import Tensor

from speculative.experiments import mutants
from speculative.experiments.chi_square import GAMMA, N, TableModel, Verify, outputs, p_value_of
from speculative.verification import philox
from speculative.verification.verify import sample, verify


def ours(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    decided = verify(z, y, tokens, uniforms=u)
    assert not bool(decided.status.any())
    return decided.accepted, decided.next_token


def from_seed(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    decided = verify(z, y, tokens, seed=20261121, offset=3)
    return decided.accepted, decided.next_token


def from_seeds(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    decided = verify(z, y, tokens, seed=torch.arange(len(tokens)), offset=11)
    return decided.accepted, decided.next_token


@pytest.mark.parametrize(
    ("decide", "pair"),
    [(ours, 1), (ours, 2), (from_seed, 1), (from_seed, 3), (from_seeds, 2), (mutants.correct, 1)],
)
def test_outputs_follow_the_target(decide: Verify, pair: int) -> None:
    target, draft = TableModel(pair), TableModel(pair + 100)
    p = p_value_of(outputs(target, draft, decide, seed=pair), target)
    print(f"{decide.__name__} pair {pair}: p = {p:.3f}")
    assert p > 1e-3


@pytest.mark.parametrize("mutant", mutants.SAMPLING)
def test_mutants_are_caught(mutant: Verify) -> None:
    target, draft = TableModel(1), TableModel(101)
    p = p_value_of(outputs(target, draft, mutant, seed=1), target)
    print(f"{mutant.__name__}: p = {p:.1e}")
    assert p < 1e-6


def test_a_greedy_draft_is_caught() -> None:
    target, draft = TableModel(1), TableModel(101)
    p = p_value_of(outputs(target, draft, ours, seed=1, greedy=True), target)
    print(f"greedy draft: p = {p:.1e}")
    assert p < 1e-6


@pytest.mark.parametrize(("decide", "possible"), [(ours, True), (mutants.residual_floor, False)])
def test_impossible_tokens_never_occur(decide: Verify, possible: bool) -> None:
    """A floor under the residual moves too little mass for chi-square: excluded tokens tell."""
    target, draft = TableModel(1), TableModel(101)
    for table in target.tables:
        table[..., 3] = -torch.inf
    out = outputs(target, draft, decide, seed=6)
    assert bool((out < 3).all()) == possible


def test_the_draft_stream_is_apart_from_the_others() -> None:
    """Drafts sampled by `sample` at the same seeds and positions leave the output's law alone."""
    target, draft = TableModel(7), TableModel(8)
    seeds = torch.arange(N)
    tokens = torch.zeros(N, GAMMA, dtype=torch.int64)
    for t in range(GAMMA):
        tokens[:, t] = sample(draft.rows(tokens)[:, t].contiguous(), seed=seeds, offset=t)
    z, y = target.rows(tokens), draft.rows(tokens)[:, :GAMMA]
    decided = verify(z, y, tokens, seed=seeds, offset=0)
    out = torch.cat([tokens, decided.next_token[:, None]], 1)
    out.scatter_(1, decided.accepted[:, None], decided.next_token[:, None])
    for t in (1, 2):
        fresh = sample(
            target.rows(out[:, :GAMMA])[:, t].contiguous(), seed=seeds, offset=t, stream=philox.NEXT
        )
        out[:, t] = torch.where(decided.accepted < t, fresh, out[:, t])
    assert p_value_of(out, target) > 1e-3
