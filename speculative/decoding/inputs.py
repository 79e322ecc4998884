"""Finds what decoding needs of transformers models: prompts, end tokens, and numbers of
positions."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from speculative.decoding import whisper
from systems.schema import InputError, remedy

DECODER_INPUTS = ("decoder_input_ids", "decoder_attention_mask")
POSITION_LIMITS = (
    "max_position_embeddings",
    "max_target_positions",
    "max_decoder_position_embeddings",
)
"""The names of the number of a decoder's positions in configs."""


def check_pair(target: Any, draft: Any | None, longest: int) -> None:
    """Refuse models that cannot work together.

    Args:
        longest: how many tokens the longest prompt and its output have together. Nothing follows
            the last one, so no model reads it, and it needs no position.

    Raises:
        InputError: the models are of different kinds or on different devices, or one has too few
            positions.
    """
    for name, model in (("target", target), ("draft", draft)):
        limit = None if model is None else positions(model)
        if limit is not None and longest - 1 > limit:
            raise InputError(
                f"{name}: prompt and max_new_tokens make {longest} tokens, of which all but the "
                f"last are read; it has {limit} positions; shorten one"
            )
    if draft is None:
        return
    if target.config.is_encoder_decoder != draft.config.is_encoder_decoder:
        raise InputError(
            "draft: one of target and draft has an encoder, the other none; give two of a kind"
        )
    if target.device != draft.device:
        raise InputError(f"draft is on {draft.device}, target on {target.device}; move one")


def check_names(model: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that decoding would not read.

    Raises:
        InputError: names the input, and the one that was perhaps meant.
    """
    names = ["input_ids", "attention_mask"]
    if model.config.is_encoder_decoder:
        names = [model.main_input_name, "attention_mask", *DECODER_INPUTS]
    for name in inputs:
        if name not in names:
            raise InputError(
                f"inputs: {name!r} is not read with {type(model).__name__}; {remedy(name, names)}; "
                "leave it out"
            )
    tokens, mask = DECODER_INPUTS
    if mask in inputs and tokens not in inputs:
        raise InputError(f"inputs: {mask!r} is not read without {tokens!r}; give both or none")


def check_padding(model: Any, misplaced: int | None, texts: Sequence[Sequence[int]]) -> None:
    """Refuse texts that contain the padding token, if the model takes it for padding (M2M100).

    Args:
        misplaced: the padding token of such a model (`speculative.decoding.reading.Reading`), or
            None.

    Raises:
        InputError: names the sequence of the batch and the token.
    """
    for number, text in enumerate(texts if misplaced is not None else []):
        if misplaced in text:
            raise InputError(
                f"row {number} of the batch contains token {misplaced}, which "
                f"{type(model).__name__} takes for padding and counts no position for, so that its "
                "text is not defined; "
                f"leave it out of prompts, and give Sampling(suppressed=({misplaced},))"
            )


def decoder_prompts(model: Any, inputs: Mapping[str, Tensor]) -> list[list[int]]:
    """The tokens after which generation starts, a list for every sequence without its padding.

    Raises:
        InputError: an input is missing, a prompt is empty, or nothing says what the output of an
            encoder-decoder model starts with.
    """
    if not model.config.is_encoder_decoder:
        return _unpadded(inputs, "input_ids", "attention_mask")
    if "decoder_input_ids" in inputs:
        return _unpadded(inputs, "decoder_input_ids", "decoder_attention_mask")
    name = model.main_input_name
    if name not in inputs:
        raise InputError(f"inputs have {', '.join(inputs) or 'nothing'}; this model needs {name}")
    start = _start_token(model)
    if whisper.is_whisper(model):
        return whisper.prompts(model, inputs[name])
    return [[start] for _ in range(len(inputs[name]))]


def paddings(model: Any, inputs: Mapping[str, Tensor], count: int) -> list[list[int]]:
    """The padding of every prompt, whichever side it was on: `count` lists of tokens, all of which
    make up the width of the batch together with the prompts."""
    encoder_decoder = model.config.is_encoder_decoder
    name, mask = DECODER_INPUTS if encoder_decoder else ("input_ids", "attention_mask")
    if name not in inputs:
        return [[] for _ in range(count)]
    real = _real(inputs, name, mask)
    return [row[~keep].clamp(min=0).tolist() for row, keep in zip(inputs[name], real, strict=True)]


def sources(model: Any, inputs: Mapping[str, Tensor], count: int) -> list[list[int]]:
    """The tokens that an encoder reads, without padding, for each of `count` sequences; empty lists
    where there is no encoder, or it reads something else."""
    if not model.config.is_encoder_decoder or "input_ids" not in inputs:
        return [[] for _ in range(count)]
    return _unpadded(inputs, "input_ids", "attention_mask")


def end_tokens(model: Any) -> tuple[int, ...]:
    """The tokens that end a sequence, as the model's generation config says; there may be none."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return ()
    return (ends,) if isinstance(ends, int) else tuple(ends)


def _start_token(model: Any) -> int:
    """The token that an encoder-decoder model's output starts with.

    Raises:
        InputError: the generation config does not say it.
    """
    start = model.generation_config.decoder_start_token_id
    if start is None:
        raise InputError(
            "inputs have no decoder_input_ids, and the model no decoder_start_token_id"
        )
    return int(start)


def positions(model: Any) -> int | None:
    """How many tokens a model's decoder can hold; None: any number."""
    return _limit(model.config.get_text_config(decoder=True), POSITION_LIMITS)


def encoder_positions(model: Any) -> int | None:
    """How many tokens a model's encoder can read; None: any number."""
    config = model.config.get_text_config(encoder=True)
    return _limit(config, ("max_encoder_position_embeddings", "max_position_embeddings"))


def _limit(config: Any, names: Sequence[str]) -> int | None:
    """The first of these entries of a config that is a limit: where there is none, configs say -1
    or nothing."""
    entries = (getattr(config, name, None) for name in names)
    return next((int(n) for n in entries if n is not None and n > 0), None)


def _unpadded(inputs: Mapping[str, Tensor], name: str, mask_name: str) -> list[list[int]]:
    """The tokens of an input where its mask is not 0, or without a mask those that are not
    negative, a list for every row.

    Raises:
        InputError: the input is missing, or a row is empty.
    """
    if name not in inputs:
        raise InputError(f"inputs have {', '.join(inputs) or 'nothing'}; this model needs {name}")
    real = _real(inputs, name, mask_name)
    prompts = [row[keep].tolist() for row, keep in zip(inputs[name], real, strict=True)]
    if not prompts or not all(prompts):
        raise InputError(f"{name}: a prompt is empty; give a token at least")
    return prompts


def _real(inputs: Mapping[str, Tensor], name: str, mask_name: str) -> Tensor:
    """Which tokens of an input are no padding, bool [B, T]."""
    mask = inputs.get(mask_name)
    return inputs[name] >= 0 if mask is None else mask.bool()
