"""What transformers models need before decoding: prompts, end tokens, and a fitting pair."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from systems.schema import InputError

POSITION_LIMITS = ("max_position_embeddings", "max_target_positions")


def vocabulary(model: Any) -> int:
    """Width of a model's logits."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def check_pair(target: Any, draft: Any | None, longest: int) -> None:
    """Refuse models that cannot work together.

    Args:
        longest: tokens that either model may have to hold.

    Raises:
        InputError: other vocabularies, kinds or devices, or positions that a model does not have.
    """
    for name, model in (("target", target), ("draft", draft)):
        limit = None if model is None else _positions(model)
        if limit is not None and longest > limit:
            raise InputError(
                f"{name}: prompt, max_new_tokens and gamma make {longest} tokens; "
                f"it has {limit} positions; shorten one"
            )
    if draft is None:
        return
    if vocabulary(target) != vocabulary(draft):
        raise InputError(
            f"draft: has {vocabulary(draft)} tokens, the target {vocabulary(target)}; give a draft "
            "with the target's vocabulary"
        )
    if target.config.is_encoder_decoder != draft.config.is_encoder_decoder:
        raise InputError(
            "draft: one of target and draft has an encoder, the other none; give two of a kind"
        )
    if target.device != draft.device:
        raise InputError(f"draft is on {draft.device}, target on {target.device}; move one")


def decoder_prompts(model: Any, inputs: Mapping[str, Tensor]) -> list[list[int]]:
    """The tokens that generation starts after, a list per sequence, padding left out.

    Raises:
        InputError: no inputs that this model understands, or an empty prompt.
    """
    if not model.config.is_encoder_decoder:
        return _unpadded(inputs, "input_ids", "attention_mask")
    if "decoder_input_ids" in inputs:
        return _unpadded(inputs, "decoder_input_ids", "decoder_attention_mask")
    name = model.main_input_name
    if name not in inputs:
        raise InputError(f"inputs have {', '.join(inputs)}; this model needs {name}")
    return [start_tokens(model) for _ in range(len(inputs[name]))]


def start_tokens(model: Any) -> list[int]:
    """What an encoder-decoder model's output starts with: for Whisper its control tokens too."""
    config = model.generation_config
    tokens = [config.decoder_start_token_id]
    if tokens == [None]:
        raise InputError(
            "inputs have no decoder_input_ids, and the model no decoder_start_token_id"
        )
    if getattr(config, "is_multilingual", False):
        language = getattr(config, "language", None) or "en"
        tokens += [config.lang_to_id[f"<|{language}|>"], config.task_to_id["transcribe"]]
    if getattr(config, "no_timestamps_token_id", None) is not None:
        tokens.append(config.no_timestamps_token_id)
    return tokens


def end_tokens(model: Any) -> tuple[int, ...]:
    """The tokens that end a sequence, by the model's generation config; there may be none."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return ()
    return (ends,) if isinstance(ends, int) else tuple(ends)


def _positions(model: Any) -> int | None:
    config = model.config.get_text_config(decoder=True)
    for name in POSITION_LIMITS:
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    return None


def _unpadded(inputs: Mapping[str, Tensor], name: str, mask_name: str) -> list[list[int]]:
    if name not in inputs:
        raise InputError(f"inputs have {', '.join(inputs)}; this model needs {name}")
    tokens = inputs[name]
    if tokens.dim() != 2:
        raise InputError(f"{name} {list(tokens.shape)}: give them as [B, T]")
    mask = inputs.get(mask_name)
    kept = tokens >= 0 if mask is None else mask.bool()
    prompts = [row[real].tolist() for row, real in zip(tokens, kept, strict=True)]
    if not prompts or not all(prompts):
        raise InputError(f"{name}: a prompt is empty; give a token at least")
    return prompts
