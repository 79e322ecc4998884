import dataclasses
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decode import generate
from speculative.experiments.enumeration import continuations, p_value
from speculative.faults import LogitsError
from speculative.generation import Record
from speculative.inputs import decoder_prompts
from speculative.sampling import Sampling
from systems.schema import InputError
from tests.speculative import models

SAMPLES = 8000
BATCH = 1000


def many(
    target: Any, draft: Any, given: dict[str, torch.Tensor], **options: Any
) -> tuple[list[list[int]], Record]:
    """`SAMPLES` continuations of one sequence."""
    repeated = {name: x.expand(BATCH, *x.shape[1:]) for name, x in given.items()}
    tokens: list[list[int]] = []
    record = Record()
    for start in range(0, SAMPLES, BATCH):
        numbers = range(start, start + BATCH)
        done = generate(target, draft, repeated, requests=numbers, seed=1, **options)
        tokens += done.tokens
        record += done.record
    return tokens, record


def pair(kind: str, vocabulary: int = 16) -> list[Any]:
    return [models.make(kind, seed=seed, vocabulary=vocabulary) for seed in (1, 2)]


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.7, top_k=3, top_p=0.9, begin_suppressed=(1,))],
    ids=["plain", "restricted"],
)
def test_exact_follows_the_target(kind: str, sampling: Sampling) -> None:
    target, draft = pair(kind, vocabulary=4)
    given = models.rows(models.inputs(kind, 2, vocabulary=4), [1])
    prompt = decoder_prompts(target, given)[0]
    expected = continuations(target, given, prompt, 4, sampling, end=3)
    options: dict[str, Any] = {
        "sampling": sampling,
        "max_new_tokens": 4,
        "gamma": 2,
        "end_token_ids": [3],
    }
    tokens, record = many(target, draft, given, **options)
    assert p_value(expected, tokens) > 1e-3
    assert 0.02 < (record.acceptance_rate or 0) < 0.95
    drafted, _ = many(draft, None, given, **options)
    assert p_value(expected, drafted) < 1e-6  # the test can tell target from draft


def test_sigmoid_does_not_follow_the_target() -> None:
    target, draft = pair("llama", vocabulary=4)
    given = {"input_ids": torch.tensor([[1, 2]])}
    tokens, record = many(
        target, draft, given, method="sigmoid", max_new_tokens=3, gamma=2, end_token_ids=[]
    )
    assert p_value(continuations(target, given, [1, 2], 3), tokens) < 1e-6
    assert (record.acceptance_rate or 0) > 0.99


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("drafted", [True, False])
def test_tokens_do_not_depend_on_the_batch(kind: str, drafted: bool) -> None:
    target, draft = pair(kind)
    draft = draft if drafted else None
    given = models.inputs(kind, 5)
    options: dict[str, Any] = {"seed": 3, "gamma": 3, "max_new_tokens": 20, "end_token_ids": [2]}
    together = generate(target, draft, given, **options)
    assert len({len(tokens) for tokens in together.tokens}) > 1  # they end unevenly
    for chosen in ([4], [2, 0]):
        some = generate(target, draft, models.rows(given, chosen), requests=chosen, **options)
        assert some.tokens == [together.tokens[i] for i in chosen]
    again = generate(target, draft, given, **options)
    assert again.tokens == together.tokens
    other = generate(target, draft, given, **{**options, "seed": 4})
    assert other.tokens != together.tokens


def test_padding_may_be_on_either_side() -> None:
    target, draft = pair("llama")
    given = models.inputs("llama", 4)
    flipped = {name: x.clone() for name, x in given.items()}
    for row, n in enumerate(given["attention_mask"].sum(1).tolist()):
        for name, x in given.items():
            flipped[name][row] = x[row].roll(n)
    assert generate(target, draft, given).tokens == generate(target, draft, flipped).tokens


def test_a_draft_equal_to_the_target_is_always_accepted() -> None:
    target = models.make("t5", seed=1)
    options: dict[str, Any] = {"gamma": 4, "max_new_tokens": 10, "end_token_ids": []}
    record = generate(target, target, models.inputs("t5", 3), **options).record
    assert record == dataclasses.replace(
        record, new_tokens=30, target_steps=6, tested=24, accepted=24
    )
    assert record.tokens_per_target_step == 5
    assert min(record.draft_s, record.target_s, record.verify_s, record.rest_s) > 0


def test_target_alone_takes_a_step_per_token() -> None:
    target = models.make("gpt2", seed=1)
    done = generate(target, None, models.inputs("gpt2", 3), max_new_tokens=5, end_token_ids=[])
    assert done.record.target_steps == done.record.new_tokens == 15
    assert done.record.acceptance_rate is None


def test_an_output_stops_after_its_end_token() -> None:
    target, draft = pair("llama")
    options: dict[str, Any] = {"max_new_tokens": 30, "end_token_ids": [2, 5]}
    for tokens in generate(target, draft, models.inputs("llama", 8), **options).tokens:
        assert not {2, 5} & set(tokens[:-1])
        assert tokens[-1] in (2, 5) or len(tokens) == 30


@pytest.mark.parametrize("which", ["target", "draft"])
def test_bad_logits_end_the_run(which: str) -> None:
    target, draft = pair("llama")
    broken = target if which == "target" else draft
    broken.lm_head.weight.data[3] = float("nan")
    with pytest.raises(LogitsError, match=r"sequence 0, token 0: .*logits"):
        generate(target, draft, models.inputs("llama", 2))


def test_dropout_is_off_and_every_module_keeps_its_mode() -> None:
    target, draft = pair("gpt2")
    given = models.inputs("gpt2", 2)
    expected = generate(target, draft, given).tokens
    for model in (target, draft):
        model.train()
        model.transformer.h[0].eval()  # frozen
    before = [[module.training for module in model.modules()] for model in (target, draft)]
    assert generate(target, draft, given).tokens == expected
    draft.lm_head.weight.data[3] = float("nan")
    with pytest.raises(LogitsError):
        generate(target, draft, given)
    after = [[module.training for module in model.modules()] for model in (target, draft)]
    assert after == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0}, "gamma 0: give 1"),
        ({"max_new_tokens": 0}, "max_new_tokens 0: give 1"),
        ({"max_new_tokens": 125}, "it has 128 positions"),
        ({"draft": models.make("llama", seed=2, vocabulary=17)}, "17 tokens, the target 16"),
        ({"draft": models.make("t5", seed=2)}, "two of a kind"),
        ({"inputs": {"input_features": torch.zeros(1, 2)}}, "needs input_ids"),
        ({"inputs": {"input_ids": torch.zeros(1, 0, dtype=torch.int64)}}, "prompt is empty"),
        ({"method": "magic"}, "method 'magic'"),
        ({"alpha": 1.0, "beta": 0.0}, "alpha must be below beta"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    target, draft = pair("llama")
    options = {"target": target, "draft": draft, "inputs": models.inputs("llama", 2)} | change
    with pytest.raises(InputError, match=message):
        generate(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature 0: give more"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": 0.0}, "top_p 0"),
    ],
)
def test_bad_sampling(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**options)
