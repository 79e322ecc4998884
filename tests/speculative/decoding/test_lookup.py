"""Drafts that are looked up in the text: what is found, and that the target's law stays."""

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decoding.decode import generate
from speculative.decoding.inputs import decoder_prompts
from speculative.decoding.lookup import Lookup
from speculative.decoding.pace import AdaptiveGamma
from speculative.experiments.enumeration import continuations, p_value
from speculative.verification.rules import Coupled, Sigmoid
from systems.schema import InputError
from tests.speculative import models
from tests.speculative.decoding.test_decode import many


def test_what_followed_last_is_proposed() -> None:
    lookup = Lookup(longest=2)
    assert lookup.propose([1, 2, 3, 1, 2], 2) == [3, 1]
    assert lookup.propose([1, 2, 3, 1, 2, 4, 1, 2], 9) == [4, 1, 2]  # the last place counts
    assert lookup.propose([5, 2, 3, 1, 2], 1) == [3]  # of one token
    assert lookup.propose([1, 2, 3], 4) == []
    assert lookup.propose([9, 2], 4, source=[7, 9, 2, 6]) == [6]
    assert lookup.propose([2, 2], 4) == [2]
    assert Lookup(longest=3, shortest=2).propose([5, 2, 3, 1, 2], 1) == []
    assert lookup.propose([], 3) == []


@pytest.mark.parametrize("kind", models.KINDS)
def test_greedy_text_is_the_target_s_own(kind: str) -> None:
    target = models.make(kind, seed=1, vocabulary=6)
    given = models.inputs(kind, 3, vocabulary=6)
    options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "end_token_ids": []}
    alone = generate(target, None, given, **options)
    helped = generate(target, Lookup(), given, gamma=3, **options)
    assert helped.tokens == alone.tokens
    assert 0 < helped.record.accepted <= helped.record.tested <= helped.record.proposed
    assert helped.record.target_steps < alone.record.target_steps


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_sampled_text_follows_the_target(kind: str) -> None:
    target = models.make(kind, seed=1, vocabulary=3)
    given = models.rows(models.inputs(kind, 2, vocabulary=3), [1])
    expected = continuations(target, given, decoder_prompts(target, given)[0], 4)
    tokens, record = many(target, Lookup(), given, max_new_tokens=4, gamma=2, end_token_ids=[])
    assert record.accepted > 100
    assert p_value(expected, tokens) > 1e-3


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_coupled_text_is_the_target_s_own_at_its_seed(kind: str) -> None:
    """With a model's drafts, with those that are looked up, and with as many as pay."""
    target, draft = (models.make(kind, seed=seed, vocabulary=6) for seed in (1, 2))
    given = models.inputs(kind, 3, vocabulary=6)
    options: dict[str, Any] = {"max_new_tokens": 20, "rule": Coupled(), "seed": 5}
    alone = generate(target, None, given, **options)
    for helper, gamma in ((draft, 3), (Lookup(), 2), (draft, AdaptiveGamma(most=4))):
        helped = generate(target, helper, given, gamma=gamma, **options)
        assert helped.tokens == alone.tokens
        assert helped.record.accepted > 0
    assert generate(target, None, given, **options | {"seed": 6}).tokens != alone.tokens


def test_lengths_and_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"Lookup\(longest=1, shortest=2\): give 1 or more"):
        Lookup(longest=1, shortest=2)
    target = models.make("llama", seed=1)
    given = {"input_ids": torch.tensor([[1, 2]])}
    with pytest.raises(InputError, match="rule sigmoid: compares the logits of two models"):
        generate(target, Lookup(), given, rule=Sigmoid())
