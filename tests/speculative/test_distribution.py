"""Do emitted tokens follow the target? Joint chi-square over complete outputs, with fixed seeds.

A model here is a table: logits of the next token given all tokens before. Outputs are the accepted
draft tokens and the token after them, completed to gamma + 1 tokens by sampling from the target;
then they must be distributed as the target alone.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speculative import philox
from speculative.verify import sample, verify
from tests.speculative import mutants

V, GAMMA, N = 4, 2, 200_000
Verify = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Model:
    """Logits [V] after nothing, [V, V] after one token, [V, V, V] after two."""

    def __init__(self, seed: int, spread: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tables = [torch.randn(*[V] * (t + 1), generator=generator) * spread for t in range(3)]

    def rows(self, tokens: Tensor) -> Tensor:
        """Logits after each prefix of `tokens` [N, G]: [N, G + 1, V]."""
        first = self.tables[0].expand(len(tokens), V)
        after_one = self.tables[1][tokens[:, 0]]
        return torch.stack([first, after_one, self.tables[2][tokens[:, 0], tokens[:, 1]]], 1)

    def joint(self) -> Tensor:
        """Probability of every output, [V, V, V]."""
        a, b, c = (table.double().softmax(-1) for table in self.tables)
        return a[:, None, None] * b[:, :, None] * c


def outputs(
    target: Model, draft: Model, decide: Verify, seed: int, *, greedy: bool = False
) -> Tensor:
    """N outputs, [N, GAMMA + 1]. `greedy`: the draft's best tokens instead of sampled ones."""
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        return logits.softmax(-1).multinomial(1, generator=generator)[:, 0]

    tokens = torch.zeros(N, GAMMA, dtype=torch.int64)
    for t in range(GAMMA):
        logits = draft.rows(tokens)[:, t]
        tokens[:, t] = logits.argmax(-1) if greedy else draw(logits)
    u = torch.rand(N, GAMMA + V, generator=generator)
    z, y = target.rows(tokens), draft.rows(tokens)[:, :GAMMA]
    accepted, following = decide(z, y, tokens, u)
    out = torch.cat([tokens, following[:, None]], 1)
    out.scatter_(1, accepted[:, None], following[:, None])
    for t in (1, 2):  # complete what a rejection cut short
        fresh = draw(target.rows(out[:, :GAMMA])[:, t])
        out[:, t] = torch.where(accepted < t, fresh, out[:, t])
    return out


def p_value(out: Tensor, target: Model) -> float:
    """Of a chi-square test that `out` follows the target; 0 if an impossible output occurred."""
    cells = (out[:, 0] * V + out[:, 1]) * V + out[:, 2]
    counts = torch.bincount(cells, minlength=V**3).double()
    expected = target.joint().flatten() * len(out)
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    often = expected >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    hoped = torch.cat([expected[often], expected[~often].sum()[None]])
    if hoped[-1] < 5:
        observed[-2] += observed[-1]
        hoped[-2] += hoped[-1]
        observed, hoped = observed[:-1], hoped[:-1]
    statistic = ((observed - hoped) ** 2 / hoped).sum()
    freedom = torch.tensor(len(hoped) - 1.0, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


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
    target, draft = Model(pair, 1.0), Model(pair + 100, 1.0)
    p = p_value(outputs(target, draft, decide, seed=pair), target)
    print(f"{decide.__name__} pair {pair}: p = {p:.3f}")
    assert p > 1e-3


@pytest.mark.parametrize("mutant", mutants.SAMPLING)
def test_mutants_are_caught(mutant: Verify) -> None:
    target, draft = Model(1, 1.0), Model(101, 1.0)
    p = p_value(outputs(target, draft, mutant, seed=1), target)
    print(f"{mutant.__name__}: p = {p:.1e}")
    assert p < 1e-6


def test_a_greedy_draft_is_caught() -> None:
    target, draft = Model(1, 1.0), Model(101, 1.0)
    p = p_value(outputs(target, draft, ours, seed=1, greedy=True), target)
    print(f"greedy draft: p = {p:.1e}")
    assert p < 1e-6


@pytest.mark.parametrize(("decide", "possible"), [(ours, True), (mutants.residual_floor, False)])
def test_impossible_tokens_never_occur(decide: Verify, possible: bool) -> None:
    """A floor under the residual moves too little mass for chi-square: excluded tokens tell."""
    target, draft = Model(1, 1.0), Model(101, 1.0)
    for table in target.tables:
        table[..., 3] = -torch.inf
    out = outputs(target, draft, decide, seed=5)
    assert bool((out < 3).all()) == possible


def test_the_draft_stream_is_apart_from_the_others() -> None:
    """Drafts sampled by `sample` at the same seeds and positions leave the output's law alone."""
    target, draft = Model(7, 1.0), Model(8, 1.0)
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
            target.rows(out[:, :GAMMA])[:, t].contiguous(),
            seed=seeds,
            offset=t,
            stream=philox.NEXT,
        )
        out[:, t] = torch.where(decided.accepted < t, fresh, out[:, t])
    assert p_value(out, target) > 1e-3
