"""transformers' logits processors and stopping criteria, as its own generate applies them."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers as hf

from speculative.decoding.decode import generate
from speculative.decoding.inputs import decoder_prompts
from speculative.experiments.enumeration import continuations, p_value
from speculative.tasks.pairs import summary_tokenizer
from systems.schema import InputError
from tests.speculative import models
from tests.speculative.decoding import families

SAMPLES = 3000
END = 9


class Processed:
    """A model whose last logits are those that processors make, for `continuations`."""

    def __init__(self, model: Any, processors: Any) -> None:
        self.model, self.config, self.processors = model, model.config, processors

    def __call__(self, **inputs: Any) -> Any:
        output = self.model(**inputs)
        text = inputs.get("decoder_input_ids", inputs.get("input_ids"))
        output.logits[:, -1] = self.processors(text, output.logits[:, -1])
        return output


def pair(kind: str = "llama") -> tuple[Any, Any]:
    target = models.make(kind, seed=1)
    return target, families.perturbed(target)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_samples_follow_the_processed_distribution(kind: str) -> None:
    target, draft = (models.make(kind, seed=seed, vocabulary=4) for seed in (1, 2))
    given = models.rows(models.inputs(kind, 2, vocabulary=4), [1])
    prompt = decoder_prompts(target, given)[0]
    given = {name: x[:, x.shape[1] - len(prompt) :] for name, x in given.items()}
    chosen: list[Any] = [
        hf.RepetitionPenaltyLogitsProcessor(1.5),
        hf.TemperatureLogitsWarper(0.7),
        hf.TopKLogitsWarper(3),
    ]
    processors = hf.LogitsProcessorList(chosen)
    many = {name: x.expand(SAMPLES, -1) for name, x in given.items()}
    options: dict[str, Any] = {"gamma": 2, "max_new_tokens": 3, "end_token_ids": []}
    done = generate(target, draft, many, logits_processor=processors, **options)
    expected = continuations(Processed(target, processors), given, prompt, 3)
    assert p_value(expected, done.tokens) > 1e-3
    assert 0.02 < (done.record.acceptance_rate or 0) < 0.95
    plain = generate(target, draft, many, **options)
    assert p_value(expected, plain.tokens) < 1e-6  # the test can tell


def lists() -> dict[str, Any]:
    """Processors that look at the text, and at its length."""
    return {
        "repetition": hf.RepetitionPenaltyLogitsProcessor(1.8),
        "n-grams": hf.NoRepeatNGramLogitsProcessor(2),
        "length": hf.MinNewTokensLengthLogitsProcessor(6, 8, END),
        "suppressed": hf.SuppressTokensLogitsProcessor([0]),
    }


@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_text_with_processors_is_that_of_transformers(side: str) -> None:
    target, draft = pair()
    given = models.inputs("llama", 5)
    processors = hf.LogitsProcessorList(lists().values())
    output = target.generate(
        **given,
        max_new_tokens=12,
        do_sample=False,
        logits_processor=processors,
        eos_token_id=END,
        pad_token_id=0,
    )
    expected = [_cut(row) for row in output[:, 6:].tolist()]
    assert min(map(len, expected)) >= 8
    given = given if side == "left" else models.padded_right(given)
    options: dict[str, Any] = {"max_new_tokens": 12, "end_token_ids": [END], "do_sample": False}
    for helper in (draft, None):
        done = generate(target, helper, given, logits_processor=processors, **options)
        assert done.tokens == expected
    plain = generate(target, draft, given, **options)
    assert plain.tokens != expected


def _cut(row: list[int]) -> list[int]:
    """A text up to its end token, or to the padding that stands behind a stop."""
    ends = [n + (token == END) for n, token in enumerate(row) if token in (0, END)]
    return row[: ends[0]] if ends else row


def stops_at_5(tokens: Tensor, scores: Any) -> Tensor:
    return tokens[:, -1] == 5


class ManyTokens(hf.StoppingCriteria):
    """Stops all rows at a length; older criteria give one bool."""

    def __call__(self, input_ids: Any, scores: Any, **named: Any) -> Any:
        return input_ids.shape[1] >= 6 + 9


@pytest.mark.parametrize(
    "criteria",
    [[stops_at_5], [stops_at_5, hf.MaxLengthCriteria(6 + 7)], [ManyTokens()]],
    ids=["a token", "a length", "one bool"],
)
def test_stopping_criteria_stop_where_transformers_stops(criteria: Any) -> None:
    target, draft = pair()
    given = models.inputs("llama", 5)
    keep = [hf.SuppressTokensLogitsProcessor([0]), hf.NoRepeatNGramLogitsProcessor(2)]
    output = target.generate(
        **given,
        max_new_tokens=12,
        do_sample=False,
        logits_processor=hf.LogitsProcessorList(keep),
        stopping_criteria=hf.StoppingCriteriaList(criteria),
        pad_token_id=0,
        eos_token_id=END,
    )
    expected = [_cut(row) for row in output[:, 6:].tolist()]
    assert max(map(len, expected)) < 12 or len(set(map(len, expected))) > 1
    done = generate(
        *(target, draft, given),
        max_new_tokens=12,
        do_sample=False,
        logits_processor=keep,
        stopping_criteria=criteria,
        end_token_ids=[END],
    )
    assert done.tokens == expected
    assert done.record.new_tokens == sum(map(len, expected))


def test_stop_strings_end_a_text() -> None:
    tokenizer = summary_tokenizer(["say it again and again"])
    target, draft = pair()
    given = models.inputs("llama", 4)
    options: dict[str, Any] = {"max_new_tokens": 20, "seed": 1, "end_token_ids": []}
    whole = generate(target, draft, given, **options)
    string = tokenizer.decode(whole.tokens[0][4:6])
    assert string.strip()
    cut = generate(target, draft, given, stop_strings=string, tokenizer=tokenizer, **options)
    for long, short in zip(whole.tokens, cut.tokens, strict=True):
        assert long[: len(short)] == short
        assert string not in tokenizer.decode(short[:-1])
        assert len(short) == 20 or string in tokenizer.decode(short)
    assert len(cut.tokens[0]) <= 6


def test_tokens_do_not_depend_on_the_batch() -> None:
    target, draft = pair()
    given = models.inputs("llama", 4)
    options: dict[str, Any] = {"max_new_tokens": 10, "logits_processor": [lists()["n-grams"]]}
    given["input_ids"] += 1 - given["attention_mask"]  # not the padding that transformers uses
    together = generate(target, draft, given, **options).tokens
    alone = models.rows(given, [2])
    assert generate(target, draft, alone, requests=[2], **options).tokens == together[2:3]


def test_a_processor_cannot_change_what_the_models_gave() -> None:
    target, draft = pair()
    given = models.inputs("llama", 2)
    seen = []

    def spoils(tokens: Tensor, scores: Tensor) -> Tensor:
        seen.append((tokens.shape[1], scores.dtype))
        scores.fill_(0.0)
        scores[:, 3] = 1.0
        return scores

    options: dict[str, Any] = {"max_new_tokens": 6, "end_token_ids": [], "do_sample": False}
    done = generate(
        target.bfloat16(), draft.bfloat16(), given, logits_processor=[spoils], **options
    )
    assert done.tokens == [[3] * 6] * 2
    assert {kind for _, kind in seen} == {torch.float32}
    assert min(width for width, _ in seen) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits_processor": lists()["n-grams"]}, "logits_processor is a NoRepeatNGram.*; give a"),
        ({"logits_processor": ["mine"]}, "logits_processor: 'mine' cannot be called"),
        ({"logits_processor": [lambda a, b, beams: b]}, "function wants beams too"),
        ({"logits_processor": [lambda a, b: b[:1]]}, r"function gave \[1, 16\] for scores \[2, 16"),
        (
            {"logits_processor": [hf.PrefixConstrainedLogitsProcessor(lambda i, t: [1], 1)]},
            "PrefixConstrainedLogitsProcessor knows rows by their places.*one sequence at a time",
        ),
        (
            {"logits_processor": [hf.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, None)]},
            "UnbatchedClassifierFreeGuidanceLogitsProcessor must see every token",
        ),
        ({"stopping_criteria": stops_at_5}, "stopping_criteria is a function; give a list"),
        ({"stop_strings": ["a"]}, "stop_strings .*: give the tokenizer too"),
        ({"stop_strings": [1], "tokenizer": "any"}, "give a string, or a list of strings"),
        ({"stop_strings": "", "tokenizer": "any"}, "give a string, or a list of strings"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    target, draft = pair()
    with pytest.raises(InputError, match=message):
        generate(target, draft, models.inputs("llama", 2), **options)
