"""The log-probabilities that decoding gives are those of the target in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers as hf

from speculative.decoding.decode import generate, stream
from speculative.decoding.generation import Generation
from speculative.decoding.lookup import Lookup
from speculative.decoding.pace import AdaptiveGamma
from speculative.decoding.sampling import Sampling
from speculative.verification.rules import Block, Calibrated, Coupled, Rule, Sigmoid
from systems.schema import InputError
from tests.speculative import models

BATCH = 3
PLAIN = Sampling()
WARM = Sampling(temperature=0.7)
FILTERED = Sampling(temperature=0.8, top_k=9, top_p=0.9, min_p=0.05)
SUPPRESSED = Sampling(top_p=0.8, suppressed=(3, 7), begin_suppressed=(5,))
NO_TOKENS: Any = torch.empty(1, 0, dtype=torch.int64)  # which warpers do not look at
OPTIONS: dict[str, Any] = {"max_new_tokens": 14, "gamma": 3, "seed": 3, "end_token_ids": [2]}


def decoded(kind: str, draft: Any = None, **options: Any) -> tuple[Any, Any, Generation]:
    """The target, its inputs, and what it decoded, with log-probabilities."""
    target, given = models.make(kind, seed=1), models.inputs(kind, BATCH)
    draft = models.make(kind, seed=2) if draft == "model" else draft
    options = {**OPTIONS, **options}
    return target, given, generate(target, draft, given, output_log_probabilities=True, **options)


def wide_logits(target: Any, given: dict[str, Tensor], row: int, tokens: list[int]) -> Tensor:
    """The target's logits in float64 of the places of these new tokens, [T, V], read at once."""
    wide = copy.deepcopy(target).double().eval()
    real = given["attention_mask"][row].bool()
    prompt = given["input_ids"][row][real].tolist()
    with torch.no_grad():
        if not target.config.is_encoder_decoder:
            return wide(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        start = target.generation_config.decoder_start_token_id
        ids = torch.tensor([[start, *tokens]])
        return wide(input_ids=torch.tensor([prompt]), decoder_input_ids=ids).logits[0, :-1]


def reference(logits: Tensor, sampling: Sampling | None) -> Tensor:
    """The log-softmax in float64 after suppression and transformers' own warpers; None: greedy."""
    if sampling is None:
        return logits.log_softmax(-1)
    logits = logits.clone()
    logits[:, list(sampling.suppressed)] = -torch.inf
    logits[0, list(sampling.begin_suppressed)] = -torch.inf
    logits = hf.TemperatureLogitsWarper(sampling.temperature)(NO_TOKENS, logits)
    if sampling.top_k:
        logits = hf.TopKLogitsWarper(sampling.top_k)(NO_TOKENS, logits)
    if sampling.top_p < 1:
        logits = hf.TopPLogitsWarper(sampling.top_p)(NO_TOKENS, logits)
    if sampling.min_p:
        logits = hf.MinPLogitsWarper(sampling.min_p)(NO_TOKENS, logits)
    return logits.log_softmax(-1)


def assert_right(
    target: Any, given: dict[str, Tensor], found: Generation, sampling: Sampling | None
) -> None:
    assert found.log_probabilities is not None
    for row, (tokens, own) in enumerate(zip(found.tokens, found.log_probabilities, strict=True)):
        logits = reference(wide_logits(target, given, row, tokens), sampling)
        expected = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(own).double(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("draft", ["model", None, Lookup()])
@pytest.mark.parametrize("sampling", [None, PLAIN, WARM, FILTERED, SUPPRESSED])
def test_they_are_the_targets_own(kind: str, draft: Any, sampling: Sampling | None) -> None:
    options = {"do_sample": False} if sampling is None else {"sampling": sampling}
    target, given, found = decoded(kind, draft, **options)
    assert_right(target, given, found, sampling)


@pytest.mark.parametrize("rule", [Block(), Coupled(), Sigmoid(), Calibrated(0.1, 0.9, -0.9)])
def test_they_are_the_targets_own_by_every_rule(rule: Rule) -> None:
    target, given, found = decoded("llama", "model", rule=rule, sampling=FILTERED)
    assert_right(target, given, found, FILTERED)


def test_steps_without_a_draft_have_them_too() -> None:
    target, given, found = decoded("llama", "model", gamma=AdaptiveGamma(most=3))
    assert_right(target, given, found, PLAIN)


@pytest.mark.parametrize("draft", ["model", None])
def test_greedy_ones_are_transition_scores_of_transformers(draft: Any) -> None:
    """After the processors that the generation config asks for."""
    target, given = models.make("llama", seed=1), models.inputs("llama", 1)
    target.generation_config.update(repetition_penalty=1.3, no_repeat_ngram_size=3)
    helper = models.make("llama", seed=2) if draft else None
    found = generate(
        target, helper, given, do_sample=False, max_new_tokens=12, output_log_probabilities=True
    )
    real = given["input_ids"][:, given["attention_mask"][0].bool()]
    theirs = target.generate(
        input_ids=real,
        attention_mask=torch.ones_like(real),
        do_sample=False,
        max_new_tokens=12,
        output_scores=True,
        return_dict_in_generate=True,
    )
    scores = target.compute_transition_scores(
        theirs.sequences, theirs.scores, normalize_logits=True
    )
    assert found.tokens[0] == theirs.sequences[0, real.shape[1] :].tolist()
    assert found.log_probabilities is not None
    torch.testing.assert_close(torch.tensor(found.log_probabilities), scores, rtol=0, atol=1e-4)


def test_a_stream_has_those_of_its_tokens_so_far() -> None:
    target, draft = models.make("llama", seed=1), models.make("llama", seed=2)
    given = models.inputs("llama", BATCH)
    steps = stream(target, draft, given, output_log_probabilities=True, **OPTIONS)
    for _ in steps:
        assert steps.log_probabilities is not None
        lengths = [len(tokens) for tokens in steps.tokens]
        assert [len(values) for values in steps.log_probabilities] == lengths
    assert_right(target, given, steps.generation, PLAIN)


def test_there_are_none_unless_they_are_asked_for() -> None:
    target, given = models.make("llama", seed=1), models.inputs("llama", 1)
    assert generate(target, None, given, max_new_tokens=2).log_probabilities is None
    with pytest.raises(InputError, match="output_log_probabilities 1: give True or False"):
        generate(target, None, given, output_log_probabilities=1)  # type: ignore[arg-type]
