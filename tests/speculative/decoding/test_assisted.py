import copy
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decoding.assisted import assisted
from speculative.decoding.decode import generate
from speculative.decoding.inputs import decoder_prompts
from speculative.experiments.enumeration import continuations, draft_always, p_value
from speculative.verification.rules import Sigmoid
from speculative.verification.status import LogitsError
from systems.schema import InputError
from tests.speculative import models

SAMPLES = 400
LENGTH = 2


def pair(kind: str, vocabulary: int = 3) -> tuple[Any, Any]:
    target, draft = (models.make(kind, seed=s, vocabulary=vocabulary) for s in (1, 2))
    draft_always(draft, gamma=2)
    return target, draft


def one(kind: str, vocabulary: int = 3) -> dict[str, torch.Tensor]:
    given = models.rows(models.inputs(kind, 2, vocabulary=vocabulary), [1])
    if kind != "whisper":  # without padding
        given = {name: x[:, given["attention_mask"][0].bool()] for name, x in given.items()}
    return given


def many(
    target: Any, draft: Any, given: dict[str, torch.Tensor], samples: int = SAMPLES
) -> list[list[int]]:
    start = len(decoder_prompts(target, given)[0])
    found = []
    for _ in range(samples):
        tokens = target.generate(
            **given,
            assistant_model=draft,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=LENGTH,
        )
        found.append(tokens[0, start:].tolist())
    return found


@pytest.mark.parametrize("kind", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_generate_follows_the_target(kind: str) -> None:
    target, draft = pair(kind)
    given = one(kind)
    expected = continuations(target, given, decoder_prompts(target, given)[0], LENGTH)
    torch.manual_seed(0)
    with assisted(target):
        assert p_value(expected, many(target, draft, given)) > 1e-3
    if kind == "t5":
        return
    with assisted(target, rule=Sigmoid()):  # an approximation: mostly the draft's distribution
        assert p_value(expected, many(target, draft, given)) < 1e-4


@pytest.mark.parametrize("kind", models.KINDS)
def test_our_verification_is_called_and_nothing_stays(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, draft = pair(kind)
    cls, decoding = type(target), type(target)._assisted_decoding
    calls = []

    def spy(*arguments: Any, **options: Any) -> Any:
        calls.append(options["offset"])
        return verify(*arguments, **options)

    from speculative.verification.verify import verify

    monkeypatch.setattr("speculative.decoding.assisted.verify", spy)
    torch.manual_seed(0)
    with assisted(target):
        assert isinstance(target, cls)
        outputs = many(target, draft, one(kind), samples=3)
    assert calls
    assert len(set(calls)) == len(calls)  # every verification has random numbers of its own
    assert all(0 <= token < 3 for tokens in outputs for token in tokens)
    assert type(target) is cls
    assert cls._assisted_decoding is decoding
    torch.manual_seed(0)
    with assisted(target):
        assert many(target, draft, one(kind), samples=3) == outputs
    calls.clear()
    many(target, draft, one(kind), samples=1)
    assert not calls


def test_the_class_comes_back_after_an_error() -> None:
    target, _ = pair("llama")
    cls = type(target)
    with pytest.raises(RuntimeError, match="mine"), assisted(target):
        raise RuntimeError("mine")
    assert type(target) is cls


def test_bad_logits_end_the_run() -> None:
    target, draft = pair("llama")
    target.lm_head.weight.data[1] = float("nan")
    with assisted(target), pytest.raises(LogitsError, match="target's logits"):
        many(target, draft, one("llama"), samples=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give assistant_model"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens: drafts without"),
        ({"custom_generate": "mine"}, "custom_generate: leaves"),
        (
            {"assistant_model": "draft", "assistant_ensemble_weight": 0.5},
            "assistant_ensemble_weight: mixes",
        ),
        ({"assistant_model": "draft", "guidance_scale": 1.5}, "guidance_scale: keeps"),
        ({"assistant_model": "draft", "num_beams": 2}, "num_beams: leaves assisted decoding"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str) -> None:
    target, draft = pair("llama")
    if options.get("assistant_model"):
        options = {**options, "assistant_model": draft}
    with assisted(target), pytest.raises(InputError, match=message):
        target.generate(**one("llama"), **options, max_new_tokens=LENGTH)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("guidance_scale", 1.5, "guidance_scale: keeps"), ("num_beams", 2, "num_beams: leaves")],
)
def test_an_option_in_a_generation_config_is_refused_too(
    name: str, value: Any, message: str
) -> None:
    target, draft = pair("llama")
    setattr(target.generation_config, name, value)
    for do_sample in (True, False):
        with assisted(target), pytest.raises(InputError, match=message):
            target.generate(**one("llama"), assistant_model=draft, do_sample=do_sample)


@pytest.mark.parametrize("kind", models.KINDS)
def test_greedy_calls_are_counted(kind: str) -> None:
    target, draft = pair(kind, vocabulary=16)
    given = one(kind, vocabulary=16)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}
    alone = target.generate(**given, **options)
    with assisted(target) as statistics:
        assert target.generate(**given, assistant_model=draft, **options).equal(alone)
    assert statistics.new_tokens == 12
    # transformers' draft leaves the last token to the target
    assert 0 <= statistics.target_steps - statistics.tested_by_position[0] <= 1
    ours = generate(target, draft, given, gamma=2, max_new_tokens=12, do_sample=False).record
    assert statistics.accepted <= ours.accepted <= statistics.accepted + 1
    same = copy.deepcopy(target)
    draft_always(same, gamma=2)
    with assisted(target) as statistics:
        target.generate(**given, assistant_model=same, **options)
    assert statistics.acceptance_rate_by_position == [1, 1]
    assert statistics.target_steps == 4
    with (
        assisted(target, rule=Sigmoid()),
        pytest.raises(InputError, match=r"do_sample=False: .* no rule sigmoid"),
    ):
        target.generate(**given, assistant_model=draft, **options)


def test_statistics_of_sampled_calls_add_up() -> None:
    target, draft = pair("llama", vocabulary=16)
    torch.manual_seed(0)
    with assisted(target) as statistics:
        outputs = many(target, draft, one("llama", vocabulary=16), samples=5)
    assert statistics.new_tokens == sum(map(len, outputs)) == 5 * LENGTH
    assert statistics.proposed >= statistics.tested >= statistics.accepted
    assert statistics.new_tokens == statistics.target_steps + statistics.accepted
    assert len(statistics.acceptance_rate_by_position) == len(statistics.tested_by_position)


def test_bad_logits_end_a_greedy_run_too() -> None:
    target, draft = pair("llama")
    target.lm_head.weight.data[1] = float("nan")
    with assisted(target), pytest.raises(LogitsError, match="target's logits"):
        target.generate(**one("llama"), assistant_model=draft, do_sample=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rule": "magic"}, "rule 'magic': give"), ({"seed": 0.5}, "seed 0.5: give an integer")],
)
def test_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    target, _ = pair("llama")
    with pytest.raises(InputError, match=message), assisted(target, **options):
        pass


def test_a_draft_of_another_vocabulary_is_sent_to_our_own_loop() -> None:
    target, draft = pair("llama")[0], models.make("llama", seed=2, vocabulary=4)
    message = "assistant_model: has 4 tokens, the target 3; .* speculative.generate"
    with assisted(target), pytest.raises(InputError, match=message):
        target.generate(**one("llama"), assistant_model=draft, do_sample=True)


def test_a_model_that_cannot_generate_is_refused() -> None:
    with pytest.raises(InputError, match="no assisted decoding"), assisted(torch.nn.Linear(1, 1)):
        pass


@pytest.mark.parametrize("names", ["candidate_input_ids", "a, b"])
def test_an_unknown_version_is_refused(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = eval(f"lambda {names}: None")
    monkeypatch.setattr("transformers.generation.utils._speculative_sampling", function)
    target, _ = pair("llama")
    with pytest.raises(InputError, match="is unknown"), assisted(target):
        pass
