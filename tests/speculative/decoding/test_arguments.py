"""Whatever generate cannot use is one line that names it, before anything is computed."""

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decoding.decode import generate
from speculative.decoding.sampling import Sampling
from systems.schema import InputError
from tests.speculative import models

LLAMA, T5 = models.make("llama", seed=1), models.make("t5", seed=1)
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
NAN = float("nan")


def refused(model: Any, inputs: Any, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        generate(model, options.pop("draft", None), inputs, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 0}, "gamma 0: give 1"),
        ({"gamma": 2.5}, "gamma 2.5: give 1"),
        ({"gamma": NAN}, "gamma nan: give 1"),
        ({"gamma": None}, "gamma None: give 1"),
        ({"max_new_tokens": 0}, "max_new_tokens 0: give 1"),
        ({"max_new_tokens": "8"}, "max_new_tokens '8': give 1"),
        ({"seed": -1}, "seed -1: give an integer of 0 or more"),
        ({"seed": 1.5}, "seed 1.5: give an integer"),
        ({"seed": NAN}, "seed nan: give an integer"),
        ({"requests": [1]}, "requests: 1 numbers for 2 sequences"),
        ({"requests": [1, 2, 3]}, "requests: 3 numbers for 2 sequences"),
        ({"requests": [1, -2]}, "requests: -2 is no number"),
        ({"requests": [1, 0.5]}, "requests: 0.5 is no number"),
        (
            {"end_token_ids": [16]},
            "end_token_ids: token 16 is outside the vocabulary; give 0 to 15",
        ),
        ({"end_token_ids": [-1]}, "end_token_ids: -1 is no token"),
        ({"end_token_ids": 2}, "end_token_ids 2: give a sequence of tokens"),
        (
            {"sampling": {"top_k": 1}},
            "sampling {'top_k': 1}: give speculative.decoding.sampling.Sampling",
        ),
        ({"sampling": Sampling(suppressed=(99,))}, "suppressed: token 99 is outside"),
        ({"sampling": Sampling(begin_suppressed=(16,))}, "begin_suppressed: token 16 is outside"),
        ({"rule": "magic"}, "rule 'magic': give"),
        ({"rule": None}, "rule None: give"),
    ],
)
@pytest.mark.parametrize("drafted", [True, False])
def test_options_that_mean_nothing(options: dict[str, Any], words: str, drafted: bool) -> None:
    draft = LLAMA if drafted else None
    assert words in refused(LLAMA, {"input_ids": IDS}, draft=draft, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": [[1, 2]]}, "input_ids is a list; give a tensor"),
        ({"input_ids": IDS.float()}, "input_ids of torch.float32: give torch.int64"),
        ({"input_ids": IDS.bool()}, "input_ids of torch.bool: give torch.int64"),
        ({"input_ids": IDS[0]}, "input_ids [3]: give them as [B, T]"),
        ({"input_ids": IDS[:0]}, "input_ids [0, 3]: give them as [B, T]"),
        ({"input_ids": IDS + 10}, "token 16 is outside the vocabulary; give 0 to 15"),
        ({"attention_mask": IDS[:, :2]}, "attention_mask [2, 2]: give one of input_ids's shape"),
        ({"attention_mask": [[1, 1, 1]] * 2}, "attention_mask is a list; give a tensor"),
    ],
)
@pytest.mark.parametrize("model", [LLAMA, T5], ids=["llama", "t5"])
def test_inputs_that_cannot_be_read(model: Any, change: dict[str, Any], words: str) -> None:
    assert words in refused(model, {"input_ids": IDS, **change})


def test_inputs_are_a_mapping_with_what_the_model_needs() -> None:
    assert "inputs is a Tensor; give a mapping such as {'input_ids'" in refused(LLAMA, IDS)
    assert "inputs have nothing; this model needs input_ids" in refused(LLAMA, {})


def test_masked_tokens_of_a_prompt_may_be_anything_but_an_encoder_reads_them() -> None:
    given = {"input_ids": IDS.clone(), "attention_mask": torch.ones_like(IDS)}
    given["input_ids"][0, 0], given["attention_mask"][0, 0] = -100, 0
    alone = generate(LLAMA, None, {"input_ids": IDS[:1, 1:]}, max_new_tokens=4)
    assert generate(LLAMA, None, given, max_new_tokens=4).tokens[0] == alone.tokens[0]
    assert "input_ids: -100 is no token" in refused(T5, given)


def test_a_row_of_each_input_for_every_sequence() -> None:
    given = {"input_ids": IDS, "decoder_input_ids": torch.tensor([[0]] * 3)}
    assert "input_ids [2, 3]: there are 3 prompts" in refused(T5, given)
    given = {"input_ids": IDS, "decoder_input_ids": torch.tensor([[0], [16]])}
    assert "prompt: token 16 is outside" in refused(T5, given)


def test_an_encoder_has_positions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(T5.config, "max_position_embeddings", 2, raising=False)
    words = "input_ids [2, 3]: the target's encoder has 2 positions"
    assert words in refused(T5, {"input_ids": IDS}, max_new_tokens=1)
