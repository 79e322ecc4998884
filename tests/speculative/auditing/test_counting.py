"""Outputs are counted rightly, and there are as many as the promise needs."""

import itertools

import numpy as np
import pytest
import torch

from speculative.auditing import pairs
from speculative.auditing.counting import LEAST_P, POWER, completed, count, draws, p_value, visible
from speculative.auditing.pairs import GAMMA, Pair, V
from speculative.experiments.chi_square import p_value as chi_square
from speculative.verification.reference_filters import kept

ALL = [pairs.random(), *pairs.adversarial(), *pairs.under_filters()]


@pytest.mark.parametrize("pair", ALL, ids=lambda pair: pair.name)
def test_outputs_have_the_product_of_the_conditional_probabilities(pair: Pair) -> None:
    tables = [x.double().softmax(-1).numpy() for x in pair.target]
    if pair.filters is not None:
        limits = [float(x) for x in pair.filters.numbers]
        for table in tables:
            rows = table.reshape(-1, V)
            keep = [kept(np.log(row), *limits) for row in rows]
            rows *= np.array(keep)
            rows /= rows.sum(-1, keepdims=True)
    expected = [
        tables[0][a] * tables[1][a, b] * tables[2][a, b, c]
        for a, b, c in itertools.product(range(V), repeat=3)
    ]
    np.testing.assert_allclose(pair.outputs, expected, atol=1e-15)
    assert float(pair.drafts.sum()) == pytest.approx(1)


def test_rows_are_those_after_the_draft() -> None:
    pair = pairs.random(3)
    tokens = pairs.sequences(torch.arange(V**GAMMA), GAMMA)
    assert pairs.number(tokens).equal(torch.arange(V**GAMMA))
    for number, (a, b) in enumerate(tokens.tolist()):
        rows = torch.stack([pair.target[0], pair.target[1][a], pair.target[2][a, b]])
        assert pair.target_rows[number].equal(rows)
        assert pair.draft_rows[number].equal(torch.stack([pair.draft[0], pair.draft[1][a]]))


def test_what_is_missing_is_sampled_from_the_target() -> None:
    pair = pairs.random(5)
    generator = torch.Generator().manual_seed(0)
    size = 100_000
    found = torch.full((size, GAMMA + 1), -1)
    found[:, 0] = pair.target[0].double().softmax(-1).multinomial(size, True, generator=generator)
    uniforms = torch.rand(size, GAMMA + 1, generator=generator, dtype=torch.float64)
    whole = completed(pair, found, uniforms)
    assert whole[:, 0].equal(found[:, 0])
    counts = pairs.number(whole).bincount(minlength=V**3)
    assert 1e-3 < p_value(counts, pair.outputs) < 1 - 1e-3


def test_so_many_draws_show_the_error_that_is_promised() -> None:
    """Against simulation: the worst form of an error, where every output is off by the same
    share, is seen as often as is promised."""
    generator = np.random.default_rng(0)
    p = np.full(64, 1 / 64)
    off = p * (1 + 0.02 * np.tile([1, -1], 32) * 2)
    assert np.abs(off - p).sum() / 2 == pytest.approx(0.02)
    size = draws(0.02, 64)
    seen = [chi_square(generator.multinomial(size, off), p * size) < LEAST_P for _ in range(400)]
    assert POWER - 0.04 < np.mean(seen) < POWER + 0.04
    assert visible(size, 64) == pytest.approx(0.02, rel=1e-3)
    assert draws(0.002) == pytest.approx(100 * draws(0.02), rel=1e-3)


def test_impossible_outputs_have_no_p_and_a_sure_one_has() -> None:
    sure = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert p_value(torch.tensor([0, 9, 0]), sure) == 1
    assert p_value(torch.tensor([1, 9, 0]), sure) == 0


def test_counting_stops_when_a_verifier_is_clearly_wrong() -> None:
    pair = pairs.random()
    generator = torch.Generator().manual_seed(0)
    tally = count(pair, lambda z, y, x, _: (x[:, 0] * 0 + GAMMA, x[:, 0]), 10**9, generator, 0)
    assert tally.drawn < 10**6
    assert tally.p < 1e-12
    outside = count(pair, lambda z, y, x, _: (x[:, 0] * 0, x[:, 0] + V), 10**9, generator, 0)
    assert outside.faulty == outside.drawn
