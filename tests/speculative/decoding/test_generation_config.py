"""What a model's generation config says about its text counts as in transformers, or is refused."""

from typing import Any

import pytest

pytest.importorskip("transformers")

from speculative.decoding.decode import generate
from speculative.decoding.sampling import Sampling
from speculative.tasks.pairs import summary_tokenizer
from systems.schema import InputError
from tests.speculative import models
from tests.speculative.decoding import families

END, PADDING, LENGTH = 9, 0, 12
HONOURED: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.8},
    "n-grams": {"no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": [[12], [4, 14], [END]]},
    "length": {"min_length": 14},
    "new tokens": {"min_new_tokens": 7},
    "end": {"forced_eos_token_id": END},
    "start": {"forced_bos_token_id": 4, "begin_suppress_tokens": [2, 3]},
    "suppressed": {"suppress_tokens": [1, 6], "begin_suppress_tokens": [3, 8]},
    "bias": {"sequence_bias": [[[3], 1.5], [[8, 2], -3.0]]},
    "decay": {"exponential_decay_length_penalty": (2, 1.4)},
    "several": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
}


def text_of(target: Any, given: dict[str, Any]) -> list[list[int]]:
    """transformers' greedy text, each row up to its end token."""
    output = target.generate(**given, max_new_tokens=LENGTH, do_sample=False)
    rows = output[:, 1 if target.config.is_encoder_decoder else given["input_ids"].shape[1] :]
    return [row[: row.index(END) + 1] if END in row else row for row in rows.tolist()]


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("changes", HONOURED.values(), ids=HONOURED)
def test_greedy_text_is_that_of_transformers(kind: str, changes: dict[str, Any]) -> None:
    target = models.make(kind, seed=1)
    draft = families.perturbed(target)
    given = models.inputs(kind, 6)
    target.generation_config.update(eos_token_id=END, pad_token_id=PADDING)
    plain = text_of(target, given)
    target.generation_config.update(**changes)
    expected = text_of(target, given)
    if kind == "llama" or "forced_bos_token_id" in changes:
        assert expected != plain  # the entry does something
    for helper in (draft, None):
        done = generate(target, helper, given, max_new_tokens=LENGTH, do_sample=False)
        assert done.tokens == expected


def test_a_penalty_does_not_see_padding() -> None:
    """A token that is an end and a padding at once, as in GPT-2, is not made less likely by it."""
    target = models.make("llama", seed=3)
    target.generation_config.repetition_penalty = 3.0
    given = models.inputs("llama", 6)
    options: dict[str, Any] = {"max_new_tokens": LENGTH, "do_sample": False}
    together = generate(target, None, given, **options).tokens
    for row, tokens in enumerate(together):
        mask = given["attention_mask"][row].bool()
        alone = {name: x[row : row + 1, mask] for name, x in given.items()}
        assert generate(target, None, alone, **options).tokens == [tokens]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 4),
        ("num_return_sequences", 2),
        ("guidance_scale", 1.5),
        ("penalty_alpha", 0.6),
        ("dola_layers", "high"),
        ("encoder_repetition_penalty", 1.2),
        ("encoder_no_repeat_ngram_size", 3),
        ("token_healing", True),
    ],
)
def test_what_decoding_does_not_do_is_refused(name: str, value: Any) -> None:
    target = models.make("t5", seed=1)
    setattr(target.generation_config, name, value)
    for greedy in (True, False):
        with pytest.raises(InputError, match=rf"generation_config\.{name} {value!r}: .* set it to"):
            generate(target, None, models.inputs("t5", 1), do_sample=not greedy)


@pytest.mark.parametrize("name", ["typical_p", "epsilon_cutoff", "eta_cutoff"])
def test_filters_that_sampling_lacks_are_refused_where_tokens_are_sampled(name: str) -> None:
    target = models.make("llama", seed=1)
    given = models.inputs("llama", 1)
    options: dict[str, Any] = {"max_new_tokens": 2}
    greedy = generate(target, None, given, do_sample=False, **options).tokens
    setattr(target.generation_config, name, 0.3)
    assert generate(target, None, given, do_sample=False, **options).tokens == greedy
    assert generate(target, None, given, sampling=Sampling(top_k=1), **options).tokens == greedy
    with pytest.raises(InputError, match=rf"generation_config\.{name} 0\.3: not a filter"):
        generate(target, None, given, **options)


def test_values_that_transformers_refuses_are_one_line() -> None:
    target = models.make("llama", seed=1)
    target.generation_config.no_repeat_ngram_size = -2
    with pytest.raises(InputError, match=r"generation_config: .*-2"):
        generate(target, None, models.inputs("llama", 1))


def test_stop_strings_of_the_config_need_a_tokenizer() -> None:
    target = models.make("llama", seed=1)
    target.generation_config.stop_strings = ["a"]
    given = models.inputs("llama", 1)
    with pytest.raises(InputError, match=r"stop_strings .*tokenizer"):
        generate(target, None, given)
    generate(target, None, given, tokenizer=summary_tokenizer(["a b"]), max_new_tokens=2)
