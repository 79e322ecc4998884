"""Checks the arguments of `speculative.decoding.decode.generate` before anything is computed."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.inputs import encoder_positions
from speculative.decoding.sampling import Sampling, check_tokens
from speculative.decoding.whisper import check_features, is_whisper
from speculative.verification.rules import Calibrated, Exact, Rule, Sigmoid, check_rule
from speculative.verification.vocabulary import encoder_vocabulary, vocabulary
from systems.schema import InputError

MASKS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
"""The masks that tell tokens from padding, by the inputs that they belong to."""


def check_options(
    target: Any,
    *,
    gamma: Any,
    rule: Any,
    max_new_tokens: Any,
    do_sample: Any,
    output_log_probabilities: Any,
    seed: Any,
    sampling: Any,
    end_token_ids: Any,
) -> None:
    """Refuse options that `generate` does not take.

    Raises:
        InputError: an option is of another type or out of range, names tokens that the target does
            not have, or does not go with another.
    """
    for name, value in (("gamma", gamma), ("max_new_tokens", max_new_tokens)):
        if not isinstance(value, Integral) or value < 1:
            raise InputError(f"{name} {value!r}: give 1 or more")
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"seed {seed!r}: give an integer of 0 or more")
    if not isinstance(sampling, Sampling):
        raise InputError(f"sampling {sampling!r}: give speculative.decoding.sampling.Sampling(...)")
    sampling.check(vocabulary(target))
    if not isinstance(do_sample, bool):
        raise InputError(f"do_sample {do_sample!r}: give True, or False for greedy decoding")
    if not isinstance(output_log_probabilities, bool):
        raise InputError(
            f"output_log_probabilities {output_log_probabilities!r}: give True or False"
        )
    check_rule(rule)
    if not isinstance(rule, Exact) and (sampling.greedy or not do_sample):
        raise InputError(
            f"rule {rule.name}: greedy decoding compares tokens, so that no rule is used; leave it "
            "out, or sample with a temperature above 0"
        )
    if end_token_ids is not None:
        check_tokens("end_token_ids", end_token_ids, vocabulary(target))


def check_lookup(rule: Rule) -> None:
    """Refuse rules that read the logits of a draft, of which a lookup has none.

    Raises:
        InputError: the rule is an approximation.
    """
    if isinstance(rule, (Sigmoid, Calibrated)):
        raise InputError(
            f"rule {rule.name}: compares the logits of two models, and a Lookup has none; leave it "
            "out"
        )


def check_sequences(
    target: Any,
    draft: Any | None,
    inputs: Mapping[str, Tensor],
    prompts: Sequence[Sequence[int]],
    requests: Sequence[int] | None,
) -> None:
    """Refuse inputs that the models cannot read.

    Args:
        prompts: the tokens that each output starts with
            (`speculative.decoding.inputs.decoder_prompts`).

    Raises:
        InputError: a token is outside the vocabulary, or there is not one request, prompt and
            input for every sequence.
    """
    check_tokens("prompt", {token for prompt in prompts for token in prompt}, vocabulary(target))
    if requests is not None:
        if len(requests) != len(prompts):
            raise InputError(
                f"requests: {len(requests)} numbers for {len(prompts)} sequences; give one for each"
            )
        for number in requests:
            if not isinstance(number, Integral) or number < 0:
                raise InputError(f"requests: {number!r} is no number; give integers of 0 or more")
    for name, x in inputs.items():
        if name in _read_inputs(target) and len(x) != len(prompts):
            raise InputError(
                f"{name} {[*x.shape]}: there are {len(prompts)} prompts; give a row for each"
            )
    if target.config.is_encoder_decoder and "input_ids" in inputs:
        _check_encoder_tokens(target, draft, inputs["input_ids"])


def check_tensors(target: Any, draft: Any | None, inputs: Any) -> None:
    """Refuse inputs of other types and shapes than the models take.

    Raises:
        InputError: `inputs` is no mapping of tensors, a tensor has another dtype or other
            dimensions, or a mask another shape.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"inputs is a {type(inputs).__name__}; give a mapping such as {{'input_ids': tokens}}"
        )
    for name in _read_inputs(target) & inputs.keys():
        x = inputs[name]
        if not isinstance(x, Tensor):
            raise InputError(f"{name} is a {type(x).__name__}; give a tensor")
        if name in MASKS:
            _check_tokens_and_mask(name, x, inputs.get(MASKS[name]))
        elif name == "input_features" and is_whisper(target):
            if x.dim() != 3 or len(x) == 0 or not x.is_floating_point():
                raise InputError(
                    f"{name}: {x.dtype} {[*x.shape]}; give floating point [B, mel bins, frames]"
                )
            check_features(target, draft, x)


def _read_inputs(target: Any) -> set[str]:
    """The names of inputs that the target reads and that are checked here."""
    names = {target.main_input_name, *MASKS, *MASKS.values()}
    if not target.config.is_encoder_decoder:
        names -= {"decoder_input_ids", "decoder_attention_mask"}
    return names


def _check_tokens_and_mask(name: str, tokens: Tensor, mask: Any) -> None:
    """Refuse tokens that are not integers [B, T], and a mask of another shape."""
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputError(f"{name} of {tokens.dtype}: give torch.int64")
    if tokens.dim() != 2 or len(tokens) == 0:
        raise InputError(f"{name} {[*tokens.shape]}: give them as [B, T]")
    if isinstance(mask, Tensor) and mask.shape != tokens.shape:
        raise InputError(
            f"{MASKS[name]} {[*mask.shape]}: give one of {name}'s shape, {[*tokens.shape]}"
        )


def _check_encoder_tokens(target: Any, draft: Any | None, tokens: Tensor) -> None:
    """Refuse tokens [B, T] that an encoder cannot read: too many, or tokens that it does not have.

    Padding is checked too, since an encoder reads it.
    """
    for name, model in (("target", target), ("draft", draft)):
        limit = None if model is None else encoder_positions(model)
        if limit is not None and tokens.shape[1] > limit:
            raise InputError(
                f"input_ids {[*tokens.shape]}: the {name}'s encoder has {limit} positions; "
                "shorten the text"
            )
    if tokens.numel() == 0:
        raise InputError(f"input_ids {[*tokens.shape]}: give a token at least")
    for token in (int(tokens.min()), int(tokens.max())):
        check_tokens("input_ids", (token,), encoder_vocabulary(target))
