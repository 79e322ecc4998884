"""Greedy texts of every family of transformers: the model's own, or refused, never others."""

import copy
import warnings
from collections import Counter
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from speculative.decoding.decode import generate
from speculative.decoding.reading import _error, reading
from speculative.decoding.sampling import Sampling
from systems.schema import InputError
from tests.speculative.decoding import families

ROWS = [[5, 6, 7, 9, 11, 13, 15], [3, 4, 5], [13, 14, 15, 16, 17]]
NEW = 14
GREEDY = Sampling(top_k=1, suppressed=(families.PADDING,))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    from transformers import logging

    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compared(target: Any, draft: Any, side: str, own: list[list[int]]) -> str:
    """What becomes of the rows, padded on this side: "right", or what is wrong."""
    given = families.batch(ROWS, side)
    try:
        done = generate(target, draft, given, gamma=3, max_new_tokens=NEW, sampling=GREEDY)
    except InputError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"RAW {type(error).__name__}: {error}"
    right = all(x[: len(y)] == y for x, y in zip(done.tokens, own, strict=True))
    return "right" if right else "DIFFERENT"


def results(family: str, name: str) -> dict[str, str]:
    """The row of the table for one family."""
    try:
        target = families.build(family, name)
    except Exception as error:
        return {"cannot be built": " ".join(str(error).split())[:90]}
    try:
        own = [families.own_text(target, row, NEW) for row in ROWS]
    except Exception as error:  # then it must be refused
        own = [[-1]] * len(ROWS)
        failure = {"own pass": f"{type(error).__name__} {' '.join(str(error).split())[:60]}"}
    else:
        failure = {"own tokens": str(sum(map(len, own)))}
    draft = families.perturbed(target)
    found = {
        f"{label}, {side}": compared(target, helper, side, own)
        for label, helper in (("alone", None), ("draft", draft))
        for side in ("left", "right")
    }
    if "refused" not in "".join(found.values()):
        found["way"] = reading(target, families.batch(ROWS, "right")).way
    return found | failure


SOME = ("llama", "bart", "bert", "mamba", "recurrent_gemma", "openai-gpt", "roberta", "t5 seq2seq",
        "bart seq2seq", "gemma3_text", "xlnet")  # fmt: skip
REFUSED = {"xlnet"}


@pytest.mark.parametrize("family", SOME)
def test_some_families(family: str) -> None:
    found = results(*families.families()[family])
    cells = [cell for key, cell in found.items() if "," in key]
    assert len(cells) == 4
    assert all(cell.startswith("refused" if family in REFUSED else "right") for cell in cells), (
        found
    )


@pytest.mark.slow
def test_every_family_is_right_or_refused() -> None:
    table = {}
    for family, (config, name) in families.families().items():
        table[family] = results(config, name)
        print(f"{family:28}", *(f"{k}: {v};" for k, v in table[family].items()), flush=True)
    cells = [cell for row in table.values() for key, cell in row.items() if "," in key]
    print(Counter(cell.split(":")[0] for cell in cells))
    assert not [cell for cell in cells if not cell.startswith(("right", "refused"))]
    assert sum(cell == "right" for cell in cells) > 600


def with_32_positions(model: Any) -> Any:
    """The same model, without the last 96 of its 128 positions."""
    cut = copy.deepcopy(model)
    for name, module in cut.named_modules():
        if "position" in name:
            module.weight.data = module.weight.data[:-96].clone()
    cut.config.max_position_embeddings = 32
    return cut


@pytest.mark.parametrize(("family", "way"), [("bart seq2seq", "even"), ("openai-gpt", "reread")])
@pytest.mark.parametrize("gamma", [3, 20])
def test_rows_that_cannot_be_padded_may_just_fill_the_positions(
    family: str, way: str, gamma: int
) -> None:
    target = families.build(*families.families()[family])
    draft = families.perturbed(target)
    small, helper = with_32_positions(target), with_32_positions(draft)
    given = families.batch(ROWS, "left")
    start = 1 if target.config.is_encoder_decoder else len(ROWS[0])
    options: dict[str, Any] = {
        "gamma": gamma,
        "max_new_tokens": 33 - start,  # no model reads the last one
        "sampling": Sampling(suppressed=(families.PADDING,)),
        "end_token_ids": [],
    }
    for seed in range(2):
        expected = generate(target, draft, given, seed=seed, **options)
        assert generate(small, helper, given, seed=seed, **options).tokens == expected.tokens
        assert expected.record.acceptance_rate
    assert reading(small, given).way == reading(helper, given).way == way


def fsmt() -> Any:
    config = {**SMALL, "langs": ["en", "de"], "src_vocab_size": 60, "tgt_vocab_size": 48}
    return families.lively(
        transformers.FSMTForConditionalGeneration, transformers.FSMTConfig(**config)
    )


def marian() -> Any:
    config = {**SMALL, "vocab_size": 60, "decoder_vocab_size": 48}
    config |= {"share_encoder_decoder_embeddings": False}
    return families.lively(transformers.MarianMTModel, transformers.MarianConfig(**config))


def two_models() -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 32,
    }
    config: Any = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(vocab_size=60, **sizes),
        transformers.BertConfig(vocab_size=48, pad_token_id=families.PADDING, **sizes),
    )
    config.decoder_start_token_id = 2
    config.pad_token_id = families.PADDING
    return families.lively(transformers.EncoderDecoderModel, config)


SMALL: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "pad_token_id": families.PADDING,
    "decoder_start_token_id": 2,
    "eos_token_id": None,
    "forced_eos_token_id": None,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("build", [marian, two_models])
def test_an_encoder_may_have_a_vocabulary_of_its_own(build: Any) -> None:
    target = build()
    rows = [[5, 59, 48, 52], [50, 3], [55, 56, 57, 58, 59]]
    own = [families.own_text(target, row, NEW) for row in rows]
    read: list[int] = []
    target.get_encoder().register_forward_pre_hook(
        lambda module, args, named: read.extend(named["input_ids"].flatten().tolist()),
        with_kwargs=True,
    )
    for draft in (None, families.perturbed(target)):
        done = generate(
            target, draft, families.batch(rows, "right"), max_new_tokens=NEW, sampling=GREEDY
        )
        assert all(x[: len(y)] == y for x, y in zip(done.tokens, own, strict=True))
    assert {token for row in rows for token in row} <= set(read)
    with pytest.raises(InputError, match="token 60 is outside the vocabulary; give 0 to 59"):
        generate(target, None, families.batch([[60]], "right"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_that_see_those_after_them_are_told_from_rounding(dtype: torch.dtype) -> None:
    """FSMT has no causal mask where its encoder's states are given; its tokens fit (59 of 60)."""
    target = fsmt().to(dtype)
    for given in (families.batch([[5, 59, 48]], "right"), families.batch(ROWS, "right")):
        with pytest.raises(InputError, match=r"change by .* with the tokens that are read after"):
            generate(target, None, given)


def large_llama(dtype: torch.dtype) -> Any:
    """Deep, and with many tokens, so that rounding adds up."""
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=24,
        num_attention_heads=4,
        initializer_range=0.1,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(config).eval()
    return model.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.bfloat16, "highest"), (torch.float32, "medium"), (torch.float32, "highest")],
)
def test_rounding_does_not_make_a_way_wrong(dtype: torch.dtype, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.inference_mode():
            assert reading(large_llama(dtype), {}).way == "padded"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("own", "found", "error"),
    [
        ([3.0, -1.0, 3.0, -1.0], [3.0, -1.0, 3.0, -1.0], 0.0),
        ([3.0, -1.0, 3.0, -1.0], [3.0, -1.0, 3.0, 3.0], 1.0),  # 4 off in one of 4; deviation 2
        ([1.0, -1.0, torch.nan, -1e30], [1.0, -1.0, 7.0, 7.0], 0.0),
        ([1.0, -1.0, 1.0, -1.0], [1.0, -1.0, torch.nan, -1.0], torch.inf),
        ([1.0, -1.0, 1.0, -1.0], [1.0, -1.0, -torch.inf, -1.0], torch.inf),
    ],
)
def test_how_far_logits_are_off(own: list[float], found: list[float], error: float) -> None:
    assert _error(torch.tensor([[found]]), [torch.tensor([own]).double()], [1]) == error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixel_values", "'pixel_values' is not read with LlamaForCausalLM"),
        ("attention_maks", "'attention_maks' is not read .*; perhaps 'attention_mask'"),
    ],
)
def test_inputs_that_are_not_read_are_refused(name: str, message: str) -> None:
    given = families.batch(ROWS, "left")
    given[name] = given["input_ids"]
    with pytest.raises(InputError, match=message):
        generate(families.build(*families.families()["llama"]), None, given)


def test_rotary_positions_that_change_with_the_length() -> None:
    config = transformers.Phi3Config(
        vocab_size=families.VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        original_max_position_embeddings=16,
        pad_token_id=families.PADDING,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 16,
        },
    )
    target = families.lively(transformers.Phi3ForCausalLM, config)
    draft = families.perturbed(target)
    own = [families.own_text(target, row, NEW) for row in ROWS]
    assert compared(target, None, "left", own) == "right"  # the longest row grows beyond 16 tokens
    assert "change beyond 16 tokens" in compared(target, draft, "left", own)
    long = [row * 6 for row in ROWS]  # all are longer from the start
    done = generate(
        target, draft, families.batch(long, "left"), max_new_tokens=NEW, sampling=GREEDY
    )
    for row, tokens in zip(long, done.tokens, strict=True):
        own_tokens = families.own_text(target, row, NEW)
        assert tokens[: len(own_tokens)] == own_tokens


def test_a_head_wider_than_what_can_be_read_is_refused() -> None:
    target = families.build(*families.families()["llama"])
    target.lm_head = torch.nn.Linear(32, families.VOCABULARY + 1)
    with pytest.raises(InputError, match=r"head gives 49 tokens, .* only the first 48"):
        generate(target, None, families.batch(ROWS, "left"), max_new_tokens=2)
