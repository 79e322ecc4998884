"""Greedy decoding with any draft is the target's own greedy text."""

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decoding.decode import generate
from speculative.decoding.inputs import decoder_prompts
from speculative.decoding.sampling import Sampling
from speculative.verification.rules import Sigmoid
from speculative.verification.status import DRAFT_TOKEN, TARGET_LOGITS, LogitsError
from speculative.verification.verify import sample, verify
from systems.schema import InputError
from tests.speculative import models
from tests.speculative.decoding import families

ENDS = {"llama": [2], "gpt2": [2], "t5": [9], "bart": [13], "whisper": []}
"""A token that ends some texts, by the kind of model; transformers cuts it off Whisper's."""


def pair(kind: str) -> tuple[Any, Any]:
    """A target, and a draft that agrees with it often."""
    if kind == "bart":
        target = families.build("bart", "BartForConditionalGeneration")
    else:
        target = models.make(kind, seed=1)
    return target, families.perturbed(target)


def inputs(kind: str, batch: int) -> dict[str, torch.Tensor]:
    """Uneven inputs that do not hold BART's padding token."""
    given = models.inputs("llama" if kind == "bart" else kind, batch)
    if kind == "bart":
        given["input_ids"] = (given["input_ids"] + 3) * given["attention_mask"]
    return given


def theirs(model: Any, given: dict[str, torch.Tensor], length: int, ends: list[int]) -> list[Any]:
    """transformers' own greedy texts, each up to its end."""
    options: dict[str, Any] = {"eos_token_id": ends, "pad_token_id": 0} if ends else {}
    options["suppress_tokens"] = [0]  # which transformers would take for padding behind an end
    output = model.generate(**given, max_new_tokens=length, do_sample=False, **options)
    texts = []
    for row in output[:, -length:].tolist():
        first = next((n for n, token in enumerate(row) if token in ends), length)
        texts.append(row[: first + 1])
    return texts


@pytest.mark.parametrize("kind", ENDS)
def test_the_text_is_that_of_the_models_own_generate(kind: str) -> None:
    target, draft = pair(kind)
    options: dict[str, Any] = {"max_new_tokens": 12, "end_token_ids": ENDS[kind]}
    options["sampling"] = Sampling(suppressed=(0,))
    given = inputs(kind, 5)
    padded = models.padded_right(given) if "attention_mask" in given else given
    # BART counts positions from the first slot, so that transformers needs padding on the right.
    expected = theirs(target, padded if kind == "bart" else given, 12, ENDS[kind])
    assert len(set(map(len, expected))) > 1 or kind == "whisper"  # they end unevenly
    done = generate(target, draft, given, do_sample=False, **options)
    assert done.tokens == expected
    assert done.record.accepted > 0
    assert generate(target, draft, padded, do_sample=False, **options).tokens == expected
    alone = models.rows(given, [1])
    assert generate(target, draft, alone, do_sample=False, **options).tokens == expected[1:2]
    options["sampling"] = Sampling(temperature=0, suppressed=(0,))
    assert generate(target, None, given, seed=9, **options).tokens == expected


@pytest.mark.parametrize("kind", ["gpt2", "whisper"])
def test_a_prompt_may_fill_all_positions(kind: str) -> None:
    target, draft = pair(kind)
    given = models.inputs(kind, 3)
    if kind == "whisper":
        given["decoder_input_ids"] = torch.randint(16, (3, 6))
    longest = max(map(len, decoder_prompts(target, given)))
    small, helper = (models.with_positions(model, longest) for model in (target, draft))
    options: dict[str, Any] = {"max_new_tokens": 1, "sampling": Sampling(suppressed=(0,))}
    expected = generate(target, draft, given, do_sample=False, **options).tokens
    if kind == "gpt2":
        assert expected == theirs(small, given, 1, [])
    for helping in (helper, None):
        done = generate(small, helping, given, do_sample=False, **options)
        assert done.tokens == expected
    with pytest.raises(InputError, match=f"^target: .* make {longest + 2} tokens"):
        generate(small, helper, given, max_new_tokens=2)


@pytest.mark.parametrize(("wide", "narrow"), [("draft", "target"), ("target", "draft")])
def test_a_draft_may_be_padded_to_another_vocabulary(wide: str, narrow: str) -> None:
    by_role = {wide: models.make("llama", seed=1), narrow: models.make("llama", 2, vocabulary=12)}
    given = models.inputs("llama", 4, vocabulary=12)
    expected = generate(by_role["target"], None, given, do_sample=False, max_new_tokens=20)
    done = generate(by_role["target"], by_role["draft"], given, do_sample=False, max_new_tokens=20)
    assert done.tokens == expected.tokens


@pytest.mark.parametrize("which", ["target", "draft"])
def test_bad_logits_end_the_run(which: str) -> None:
    target, draft = pair("llama")
    broken = target if which == "target" else draft
    broken.lm_head.weight.data[3] = float("nan")
    with pytest.raises(LogitsError, match=f"sequence 0, token 0: .*the {which}'s logits"):
        generate(target, draft, models.inputs("llama", 2), do_sample=False)


def test_the_lowest_of_equal_tokens_and_the_first_that_differs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(3, (200, 4, 5), generator=generator).float()
    drafted = torch.randint(2, (200, 3), generator=generator)
    logits[:50, 2, 1], drafted[50:100, 1] = torch.nan, -1
    decided = verify(logits, None, drafted, temperature=0.0)
    for row, accepted, token, status in zip(
        range(200), *(x.tolist() for x in decided), strict=True
    ):
        count = 0
        while count < 3 and _first_of_greatest(logits[row, count]) == drafted[row, count] != -1:
            count += 1
        assert accepted == count
        bad_draft = count < 3 and drafted[row, count] == -1
        assert token == (-1 if bad_draft else _first_of_greatest(logits[row, count]))
        assert status == (DRAFT_TOKEN if bad_draft else (token == -1) * TARGET_LOGITS)


def _first_of_greatest(row: torch.Tensor) -> int:
    values = row.tolist()
    return -1 if row.isnan().any() else values.index(max(values))


def test_rows_without_a_choice() -> None:
    inf = float("inf")
    logits = torch.tensor([[-inf, -inf], [0, inf], [-inf, 1]])
    assert sample(logits, temperature=0.0).tolist() == [-1, -1, 1]


def test_no_rule_but_the_exact_one() -> None:
    target, draft = pair("llama")
    for options in ({"do_sample": False}, {"sampling": Sampling(temperature=0)}):
        with pytest.raises(InputError, match="rule sigmoid: greedy decoding compares tokens"):
            generate(target, draft, models.inputs("llama", 1), rule=Sigmoid(), **options)
    with pytest.raises(InputError, match="do_sample 0: give True, or False"):
        generate(target, draft, models.inputs("llama", 1), do_sample=0)  # type: ignore[arg-type]
