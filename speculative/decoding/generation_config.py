"""Honours what a model's generation config says about its text, or refuses it by name.

Published models come with a `generation_config`, which transformers' own `generate` reads: BART
repeats no three words, NLLB starts with a language, Qwen2.5 has a repetition penalty. Our greedy
text is the target's own, so these entries count here too. How tokens are sampled (do_sample,
temperature, top-k, top-p, min-p) and how long a text may be is said in the call instead.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from speculative.decoding.processors import Processor, Unpadded
from speculative.decoding.sampling import Sampling
from speculative.verification.vocabulary import vocabulary
from systems.schema import InputError

REFUSED: dict[str, tuple[Any, str]] = {
    "num_beams": (1, "beam search is not done here"),
    "num_beam_groups": (1, "beam search is not done here"),
    "constraints": (None, "beam search is not done here"),
    "force_words_ids": (None, "beam search is not done here"),
    "num_return_sequences": (1, "every row gets one text; repeat rows to get more"),
    "penalty_alpha": (0, "contrastive search is not done here"),
    "dola_layers": (None, "layers are not contrasted here"),
    "token_healing": (False, "prompts are not changed here"),
    "guidance_scale": (1, "it keeps a state that rejected draft tokens would spoil"),
    "watermarking_config": (None, "texts get no watermark here"),
    "return_timestamps": (False, "timestamps are not decoded here"),
    "no_speech_threshold": (None, "no segment is left out here"),
    "logprob_threshold": (None, "no segment is decoded again here"),
    "compression_ratio_threshold": (None, "no segment is decoded again here"),
    "encoder_repetition_penalty": (1, "it is not applied here"),
    "encoder_no_repeat_ngram_size": (0, "it is not applied here"),
}
"""The entries that decoding cannot honour, with the value that changes nothing, and the reason."""
REFUSED_IN_SAMPLING: dict[str, tuple[Any, str]] = {
    "typical_p": (1, "not a filter of Sampling"),
    "epsilon_cutoff": (0, "not a filter of Sampling"),
    "eta_cutoff": (0, "not a filter of Sampling"),
    "top_h": (None, "not a filter of Sampling"),
}
"""The same for entries that count only where tokens are sampled."""


def check_config(model: Any, *, samples: bool) -> None:
    """Refuse entries of a model's generation config that decoding would not honour.

    Args:
        samples: whether tokens are sampled, not chosen greedily.

    Raises:
        InputError: names the entry, its value, and the value that changes nothing.
    """
    refused = {**REFUSED, **REFUSED_IN_SAMPLING} if samples else REFUSED
    for name, (neutral, reason) in refused.items():
        value = getattr(model.generation_config, name, None)
        if value not in (None, False, neutral):
            raise InputError(
                f"generation_config.{name} {value!r}: {reason}; set it to {neutral} in the "
                "target's generation config"
            )


def suppressing(model: Any, sampling: Sampling) -> Sampling:
    """The same sampling without the tokens that a model's generation config suppresses (Whisper's
    does): everywhere, and as the first of a text."""
    config, count = model.generation_config, vocabulary(model)

    def with_own(tokens: tuple[int, ...], name: str) -> tuple[int, ...]:
        own = getattr(config, name, None) or ()
        return tuple(dict.fromkeys([*tokens, *(token for token in own if 0 <= token < count)]))

    begin = sampling.begin_suppressed
    if not _given(config, "forced_bos_token_id"):
        begin = with_own(begin, "begin_suppress_tokens")
    everywhere = with_own(sampling.suppressed, "suppress_tokens")
    return dataclasses.replace(sampling, suppressed=everywhere, begin_suppressed=begin)


def config_processors(
    model: Any, width: int, limit: int, ends: Sequence[int]
) -> tuple[Processor, ...]:
    """The logits processors that a model's generation config asks for, in transformers' order.

    Args:
        width: how many tokens the prompts have, with their padding.
        limit: how many tokens are generated at the most.
        ends: the tokens that end a sequence.

    Raises:
        InputError: transformers refuses a value.
    """
    try:
        return (*_by_tokens(model, list(ends)), *_by_length(model, width, limit, list(ends)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the target's generation_config: {' '.join(str(error).split())}"
        ) from None


def _by_tokens(model: Any, ends: list[int]) -> Iterator[Processor]:
    """The processors that look at which tokens a text has."""
    import transformers as hf

    config = model.generation_config
    if _given(config, "sequence_bias"):
        yield hf.SequenceBiasLogitsProcessor(sequence_bias=config.sequence_bias)
    if _given(config, "repetition_penalty", neutral=1):
        yield Unpadded(hf.RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    if _given(config, "no_repeat_ngram_size", neutral=0):
        yield hf.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size)
    if _given(config, "bad_words_ids"):
        yield hf.NoBadWordsLogitsProcessor(config.bad_words_ids, ends or None)


def _by_length(model: Any, width: int, limit: int, ends: list[int]) -> Iterator[Processor]:
    """The processors that look at how long a text is."""
    import transformers as hf

    config, device = model.generation_config, model.device
    if ends and _given(config, "min_length", neutral=0):
        yield hf.MinLengthLogitsProcessor(config.min_length, ends, device=device)
    if ends and _given(config, "min_new_tokens", neutral=0):
        least = config.min_new_tokens
        yield hf.MinNewTokensLengthLogitsProcessor(width, least, ends, device=device)
    if _given(config, "forced_bos_token_id"):
        yield hf.ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id)
    if _given(config, "forced_eos_token_id"):
        token = config.forced_eos_token_id
        yield hf.ForcedEOSTokenLogitsProcessor(width + limit, token, device=device)
    if _given(config, "remove_invalid_values", neutral=False):
        yield hf.InfNanRemoveLogitsProcessor()
    if ends and _given(config, "exponential_decay_length_penalty"):
        decay = config.exponential_decay_length_penalty
        yield hf.ExponentialDecayLengthPenalty(decay, ends, width)
    if _given(config, "begin_suppress_tokens") and _given(config, "forced_bos_token_id"):
        first = width + (width == 1)  # behind the forced token
        tokens = config.begin_suppress_tokens
        yield hf.SuppressTokensAtBeginLogitsProcessor(tokens, first, device=device)


def _given(config: Any, name: str, neutral: Any = None) -> bool:
    """Whether a config has an entry that is not neutral."""
    value = getattr(config, name, None)
    return value is not None and value != neutral
