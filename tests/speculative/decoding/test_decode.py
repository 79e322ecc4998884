from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from speculative.decoding.decode import generate
from speculative.decoding.generation import Record
from speculative.decoding.inputs import decoder_prompts
from speculative.decoding.sampling import Sampling
from speculative.experiments.enumeration import continuations, p_value
from speculative.verification.rules import Sigmoid
from speculative.verification.status import LogitsError
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
    [Sampling(), Sampling(temperature=0.7, top_k=3, top_p=0.9, min_p=0.1, begin_suppressed=(1,))],
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


@pytest.mark.parametrize(
    ("kind", "wide", "narrow", "sampling"),
    [
        ("llama", "draft", "target", Sampling()),
        ("llama", "target", "draft", Sampling(top_k=4, temperature=0.8, begin_suppressed=(5,))),
        ("t5", "target", "draft", Sampling()),
    ],
)
def test_exact_follows_the_target_whatever_the_padding_of_vocabularies(
    kind: str, wide: str, narrow: str, sampling: Sampling
) -> None:
    by_role = {
        wide: models.make(kind, seed=1, vocabulary=6),
        narrow: models.make(kind, seed=2, vocabulary=4),
    }
    target, draft = by_role["target"], by_role["draft"]
    given = {"input_ids": torch.tensor([[1, 5 if wide == "target" else 3, 2]])}
    prompt = decoder_prompts(target, given)[0]
    options: dict[str, Any] = {"sampling": sampling, "max_new_tokens": 3, "gamma": 2}

    def look(target_logits: Tensor, draft_logits: Tensor, drafted: Tensor) -> None:
        assert target_logits.shape[-1] == draft_logits.shape[-1] == target.config.vocab_size
        assert (draft_logits[..., 4:] == -torch.inf).all()
        assert int(drafted.max()) < 4  # tokens that both have

    tokens, record = many(target, draft, given, end_token_ids=[3], observe=look, **options)
    expected = continuations(target, given, prompt, 3, sampling, end=3)
    assert p_value(expected, tokens) > 1e-3
    assert 0.02 < (record.acceptance_rate or 0) < 0.95
    if wide == "target":
        assert {4, 5} & {token for each in tokens for token in each}  # what the draft lacks


@pytest.mark.parametrize("kind", ["gpt2", "whisper"])
@pytest.mark.parametrize("gamma", [3, 20])
def test_prompt_and_output_may_just_fill_the_positions(kind: str, gamma: int) -> None:
    target, draft = pair(kind)
    given = models.inputs(kind, 5)
    longest = max(map(len, decoder_prompts(target, given)))
    options: dict[str, Any] = {"gamma": gamma, "max_new_tokens": 10, "end_token_ids": [2]}
    small, helper = (models.with_positions(model, longest + 9) for model in (target, draft))
    for seed in range(4):  # rows end unevenly, each time otherwise
        expected = generate(target, draft, given, seed=seed, **options)
        assert expected.record.tokens_per_target_step > 1
        assert generate(small, helper, given, seed=seed, **options).tokens == expected.tokens
    few = models.with_positions(draft, longest + 8)
    with pytest.raises(InputError, match=f"^draft: .* make {longest + 10} tokens, .*; it has"):
        generate(small, few, given, **options)


def test_longer_outputs_begin_with_shorter_ones() -> None:
    target, draft = pair("llama")
    options: dict[str, Any] = {"gamma": 4, "seed": 3, "end_token_ids": []}
    given = models.inputs("llama", 3)
    longest = generate(target, draft, given, max_new_tokens=12, **options).tokens
    for length in range(1, 12):
        shorter = generate(target, draft, given, max_new_tokens=length, **options)
        assert shorter.tokens == [tokens[:length] for tokens in longest]


def test_sigmoid_does_not_follow_the_target() -> None:
    target, draft = pair("llama", vocabulary=4)
    given = {"input_ids": torch.tensor([[1, 2]])}
    tokens, record = many(
        target, draft, given, rule=Sigmoid(), max_new_tokens=3, gamma=2, end_token_ids=[]
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
    flipped = models.padded_right(given)
    assert generate(target, draft, given).tokens == generate(target, draft, flipped).tokens


def test_a_draft_equal_to_the_target_is_always_accepted() -> None:
    target = models.make("t5", seed=1)
    options: dict[str, Any] = {"gamma": 4, "max_new_tokens": 10, "end_token_ids": []}
    record = generate(target, target, models.inputs("t5", 3), **options).record
    counted = {
        "new_tokens": 30,
        "target_steps": 6,
        "proposed": 24,
        "tested_by_position": [6] * 4,
        "accepted_by_position": [6] * 4,
    }
    assert counted.items() <= vars(record).items()
    assert (record.tested, record.accepted, record.acceptance_rate) == (24, 24, 1)
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


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_top_k_1_is_the_greedy_text_of_transformers_on_ties_too(kind: str) -> None:
    target, draft = pair(kind)
    tied = 0

    def tie(model: Any, given: Any, output: Any) -> None:
        nonlocal tied
        output.logits = output.logits.clamp(max=1).round()  # so that many are equal
        best = output.logits == output.logits.amax(-1, keepdim=True)
        tied += int((best.sum(-1) > 1).sum())

    for model in (target, draft):
        model.register_forward_hook(tie)
    given = models.rows(models.inputs(kind, 2), [1])
    given = {name: x[:, given["attention_mask"][0].bool()] for name, x in given.items()}
    start = len(decoder_prompts(target, given)[0])
    greedy = target.generate(**given, do_sample=False, max_new_tokens=20)[0, start:].tolist()
    assert tied > 10
    options: dict[str, Any] = {"max_new_tokens": 20, "end_token_ids": []}
    for helper in (None, draft):
        for seed in range(3):
            greedily = Sampling(top_k=1, temperature=0.5 + seed)
            done = generate(target, helper, given, sampling=greedily, seed=seed, **options)
            assert done.tokens == [greedy]


@pytest.mark.parametrize("drafted", [True, False])
def test_float64_models_give_the_same_texts(drafted: bool) -> None:
    target, draft = pair("llama")
    given = models.inputs("llama", 3)
    options: dict[str, Any] = {"seed": 1, "max_new_tokens": 10}
    expected = generate(target, draft if drafted else None, given, **options)
    done = generate(target.double(), draft.double() if drafted else None, given, **options)
    assert done.tokens == expected.tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 126}, "it has 128 positions"),
        ({"draft": models.make("t5", seed=2)}, "two of a kind"),
        ({"inputs": {"input_features": torch.zeros(1, 2)}}, "perhaps 'input_ids'"),
        ({"inputs": {"input_ids": torch.zeros(1, 0, dtype=torch.int64)}}, "prompt is empty"),
        ({"rule": "magic"}, "rule 'magic': give"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    target, draft = pair("llama")
    options = {"target": target, "draft": draft, "inputs": models.inputs("llama", 2)} | change
    with pytest.raises(InputError, match=message):
        generate(**options)
