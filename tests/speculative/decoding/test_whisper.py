"""Whisper's start tokens are those of transformers' own generate; its input must fit the models."""

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decoding.decode import generate
from speculative.decoding.inputs import decoder_prompts
from speculative.decoding.sampling import Sampling
from systems.schema import InputError
from tests.speculative import models

START, ENGLISH, GERMAN, TRANSCRIBE, TRANSLATE, NO_TIMESTAMPS = 1, 3, 4, 5, 6, 7
FEATURES = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))


def whisper(*, multilingual: bool = True, **settings: Any) -> Any:
    """A tiny model with these settings of its generation config."""
    model = models.make("whisper", seed=3)
    usual: dict[str, Any] = {
        "decoder_start_token_id": START,
        "eos_token_id": 2,
        "is_multilingual": multilingual,
        "no_timestamps_token_id": NO_TIMESTAMPS,
    }
    if multilingual:
        usual["lang_to_id"] = {"<|en|>": ENGLISH, "<|de|>": GERMAN}
        usual["task_to_id"] = {"transcribe": TRANSCRIBE, "translate": TRANSLATE}
    for name, value in {**usual, **settings}.items():
        setattr(model.generation_config, name, value)
    return model


class Begun(Exception):
    """Ends transformers' generate where it begins: its arguments are the start tokens."""


def theirs(model: Any) -> list[list[int]]:
    """What transformers' own generate starts with."""

    def look(module: Any, arguments: Any, named: Any) -> None:
        tokens = named["decoder_input_ids"]
        if tokens.shape[1] > 1:  # a language is detected after the start token alone
            raise Begun(tokens.tolist())

    other = copy.deepcopy(model)
    other.register_forward_pre_hook(look, with_kwargs=True)
    with pytest.raises(Begun) as begun:
        other.generate(input_features=FEATURES, max_new_tokens=1)
    found: list[list[int]] = begun.value.args[0]
    return found


@pytest.mark.parametrize("task", [None, "transcribe", "translate"])
@pytest.mark.parametrize(
    "language", ["en", "<|en|>", "english", "German", "GERMAN", "de", "<|DE|>", None]
)
def test_language_and_task_are_those_of_transformers(language: Any, task: Any) -> None:
    model = whisper(language=language, task=task)
    found = decoder_prompts(model, {"input_features": FEATURES})
    assert found == theirs(model)
    if language is not None:
        token = ENGLISH if language.strip("<|>").lower() in ("en", "english") else GERMAN
        assert found[0][1] == token
        second = TRANSLATE if task == "translate" else TRANSCRIBE
        assert found == [[START, token, second, NO_TIMESTAMPS]] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {"forced_decoder_ids": [[1, None], [2, TRANSCRIBE]]},
        {"forced_decoder_ids": [[1, GERMAN], [2, TRANSLATE], [3, NO_TIMESTAMPS]]},
        {"forced_decoder_ids": [[1, GERMAN], [2, TRANSLATE]], "language": "en"},
        {"forced_decoder_ids": [[1, GERMAN], [2, TRANSCRIBE]], "task": "translate"},
        {"language": ["de", "english", "<|de|>"], "task": "translate"},
        {"multilingual": False},
        {"multilingual": False, "forced_decoder_ids": [[1, NO_TIMESTAMPS]]},
        {"multilingual": False, "forced_decoder_ids": [[1, 9]]},
    ],
)
def test_other_settings_are_those_of_transformers(settings: dict[str, Any]) -> None:
    model = whisper(**settings)
    assert decoder_prompts(model, {"input_features": FEATURES}) == theirs(model)


def test_a_detected_language_does_not_depend_on_dropout_or_dtype() -> None:
    model = whisper()
    model.config.dropout = 0.9
    expected = generate(model, model, {"input_features": FEATURES}, max_new_tokens=4).tokens
    model.train()
    given = {"input_features": FEATURES.double()}
    assert generate(model, model, given, max_new_tokens=4).tokens == expected


def test_the_greedy_text_is_that_of_transformers() -> None:
    model = whisper(language="german", task="translate", eos_token_id=None)
    expected = copy.deepcopy(model).generate(
        input_features=FEATURES, max_new_tokens=12, do_sample=False
    )
    found = generate(
        *(model, models.make("whisper", seed=4), {"input_features": FEATURES}),
        max_new_tokens=12,
        sampling=Sampling(top_k=1),
    )
    assert found.tokens == expected[:, -12:].tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "englisch"}, "language 'englisch': .* perhaps 'english'"),
        ({"language": "xx"}, "language 'xx': .* known: de, en$"),
        ({"language": "french"}, "language 'french': the model does not have it"),
        ({"language": 3}, "language 3: give a word such as 'german'"),
        ({"language": ["de", "en"]}, "names 2 languages for 3 sequences"),
        ({"language": ["de", "en", None]}, "language None: give a word"),
        ({"language": "de", "multilingual": False}, "language 'de': this model has English only"),
        ({"task": "translation"}, "task 'translation': perhaps 'translate'"),
        ({"task": "translate", "multilingual": False}, "'translate': this model has English only"),
        ({"task": "translate", "task_to_id": {}}, "task 'translate': task_to_id has no token"),
        ({"lang_to_id": None}, "is_multilingual True: lang_to_id is missing"),
        ({"forced_decoder_ids": [[2, 3]]}, r"forces places \[2\]; give all from 1"),
        ({"return_timestamps": True}, "return_timestamps True: timestamps are not decoded"),
        ({"decoder_start_token_id": None}, "no decoder_start_token_id"),
    ],
)
def test_what_a_model_does_not_have_is_refused_by_name(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generate(whisper(**settings), None, {"input_features": FEATURES})


def with_bins(bins: int, positions: int = 8) -> Any:
    """A pretended shape: it is refused before anything is computed."""
    model = models.make("whisper", seed=1)
    model.config.num_mel_bins, model.config.max_source_positions = bins, positions
    return model


@pytest.mark.parametrize(
    ("target", "draft", "shape", "message"),
    [
        (
            *(with_bins(80), with_bins(80), (1, 128, 16)),
            r"^input_features \[1, 128, 16\]: the target takes \[B, 80, 16\] \(num_mel_bins 80\), "
            r"the draft takes \[B, 80, 16\] \(num_mel_bins 80\); give what the target's feature",
        ),
        (
            *(with_bins(80), with_bins(128), (1, 80, 16)),
            r"^input_features \[1, 80, 16\]: the target takes \[B, 80, 16\] \(num_mel_bins 80\), "
            r"the draft takes \[B, 128, 16\] \(num_mel_bins 128\); give a draft that takes",
        ),
        (with_bins(128), with_bins(80), (1, 80, 16), r"target takes \[B, 128, 16\]"),
        (with_bins(128), None, (1, 80, 16), r"target takes \[B, 128, 16\] \(num_mel_bins 128\); g"),
        (
            with_bins(8),
            None,
            (1, 8, 15),
            r"input_features \[1, 8, 15\]: the target takes \[B, 8, 1",
        ),
        (with_bins(8), with_bins(8, 9), (1, 8, 16), r"the draft takes \[B, 8, 18\]"),
        (with_bins(8), None, (8, 16), r"torch.float32 \[8, 16\]; give floating point \[B, mel"),
        (with_bins(8), None, (0, 8, 16), r"\[0, 8, 16\]; give floating point"),
    ],
)
def test_spectrograms_of_another_shape_are_one_line_by_name(
    target: Any, draft: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generate(target, draft, {"input_features": torch.zeros(shape)})
    with pytest.raises(InputError, match=r"input_features: torch\.int64"):
        generate(target, draft, {"input_features": torch.zeros(1, 8, 16).long()})


def test_the_encoder_runs_once_in_a_call_with_a_mask_too() -> None:
    model, runs = whisper(), 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    given = {"input_features": FEATURES, "attention_mask": torch.ones(3, 16, dtype=torch.int64)}
    given["attention_mask"][0, 9:] = 0
    options: dict[str, Any] = {"seed": 3, "max_new_tokens": 4}
    given |= {"decoder_input_ids": torch.tensor([[START]] * 3)}
    expected = generate(model, None, {**given, "attention_mask": torch.ones(3, 16)}, **options)
    model.get_encoder().register_forward_hook(count)
    assert generate(model, None, given, **options).tokens == expected.tokens
    assert runs == 1
