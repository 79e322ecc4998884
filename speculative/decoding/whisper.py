"""Knows what Whisper's output starts with, and which spectrograms it takes.

The start tokens are those of transformers' own `generate`, which reads the generation config:
`language` (a code, a token or a name: 'de', '<|de|>', 'German'; a list has one for every sequence),
`task` (transcribe or translate), and `forced_decoder_ids` of older checkpoints where neither is
set. A multilingual model whose language is not set detects it.
"""

from typing import Any

import torch
from torch import Tensor

from systems.modes import evaluating
from systems.schema import InputError, remedy

TASKS = ("transcribe", "translate")
CODE_LENGTH = 2
"""Most languages' codes have so many letters; a longer word is a name."""


def is_whisper(model: Any) -> bool:
    """Whether a model is a Whisper, which this module is about."""
    return bool(model.config.model_type == "whisper")


def prompts(model: Any, features: Tensor) -> list[list[int]]:
    """The tokens that every sequence's output starts with, in lists.

    Args:
        features: log-mel spectrograms [B, mel bins, frames].

    Raises:
        InputError: a language or task that the model does not have.
    """
    language = getattr(model.generation_config, "language", None)
    if isinstance(language, list | tuple):
        if len(language) != len(features):
            raise InputError(
                f"generation_config.language {language!r}: names {len(language)} languages for "
                f"{len(features)} sequences; give one for each"
            )
        return [_start(model, _language(model, each)) for each in language]
    if not _must_detect(model):
        token = None if language is None else _language(model, language)
        return [_start(model, token)] * len(features)
    with torch.inference_mode(), evaluating(model):
        detected = model.detect_language(
            input_features=features.to(model.device, model.dtype),
            generation_config=model.generation_config,
            num_segment_frames=features.shape[-1],
        )
    return [_start(model, token) for token in detected.tolist()]


def check_features(target: Any, draft: Any | None, features: Tensor) -> None:
    """Refuse spectrograms that one of the models does not take.

    Raises:
        InputError: other mel bins or frames than a model has.
    """
    models = {"target": target, **({} if draft is None else {"draft": draft})}
    taken = {name: _taken(model) for name, model in models.items() if is_whisper(model)}
    if all([*features.shape[1:]] == shape for shape in taken.values()):
        return
    takes = ", ".join(
        f"the {name} takes [B, {bins}, {frames}] (num_mel_bins {bins})"
        for name, (bins, frames) in taken.items()
    )
    advice = "give what the target's feature extractor makes"
    if taken["target"] != taken.get("draft", taken["target"]):
        advice = "give a draft that takes the target's input"
    raise InputError(f"input_features {[*features.shape]}: {takes}; {advice}")


def _taken(model: Any) -> list[int]:
    """The mel bins and frames that a model takes; its second convolution halves the frames."""
    return [model.config.num_mel_bins, 2 * model.config.max_source_positions]


def _must_detect(model: Any) -> bool:
    """Whether the language must be detected: neither the config nor the forced tokens of older
    checkpoints say it."""
    config = model.generation_config
    if getattr(config, "language", None) is not None or not _is_multilingual(config):
        return False
    forced = _forced(model)
    return not forced or forced[0] is None


def _start(model: Any, language: int | None) -> list[int]:
    """The start tokens, with this language's token; None: the forced one, or no language."""
    config = model.generation_config
    tokens = [config.decoder_start_token_id, *_forced(model)]
    if language is not None:
        tokens[1:2] = [language]
    tokens += _task(config)
    last = getattr(config, "no_timestamps_token_id", None)
    if tokens[-1] != last:
        tokens.append(last)
    return [token for token in tokens if token is not None]


def _forced(model: Any) -> list[int | None]:
    """The tokens that an older checkpoint forces after the start; None in the list stands for a
    language that is to be detected.

    As in transformers, `language` and `task` win over them: then the list is empty.
    """
    config = model.generation_config
    if getattr(config, "language", None) is not None or getattr(config, "task", None) is not None:
        return []
    forced = getattr(config, "forced_decoder_ids", None)
    if forced is None:
        forced = getattr(model.config, "forced_decoder_ids", None)
    if not forced:
        return []
    places = [place for place, _ in forced]
    if places != [*range(1, len(places) + 1)]:
        raise InputError(
            f"generation_config.forced_decoder_ids {forced}: forces places {places}; "
            "give all from 1 on, or set language and task instead"
        )
    return [token for _, token in forced]


def _is_multilingual(config: Any) -> bool:
    """Whether a model has several languages, by its generation config.

    Raises:
        InputError: the config says so, but does not list them.
    """
    has_languages = bool(getattr(config, "lang_to_id", None))
    multilingual = getattr(config, "is_multilingual", has_languages)
    if multilingual and not has_languages:
        raise InputError(
            "generation_config.is_multilingual True: lang_to_id is missing; load the "
            "generation_config.json of the checkpoint"
        )
    return bool(multilingual)


def _language(model: Any, language: Any) -> int | None:
    """The token of a language that is named as transformers allows it; None: the model has English
    only.

    Raises:
        InputError: no word, or a language that the model does not have.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    config = model.generation_config
    if not isinstance(language, str):
        raise InputError(f"generation_config.language {language!r}: give a word such as 'german'")
    word = language.lower()
    code = TO_LANGUAGE_CODE.get(word, word)
    if not _is_multilingual(config):
        if code not in ("en", "<|en|>"):
            raise InputError(
                f"generation_config.language {language!r}: this model has English only; leave it "
                "out, or give a multilingual model"
            )
        return None
    for token in (code, f"<|{code}|>"):
        if token in config.lang_to_id:
            return int(config.lang_to_id[token])
    names = {
        name for name, short in TO_LANGUAGE_CODE.items() if f"<|{short}|>" in config.lang_to_id
    }
    codes = {token.strip("<|>") for token in config.lang_to_id}
    candidates = codes if len(word.strip("<|>")) <= CODE_LENGTH else names | codes
    raise InputError(
        f"generation_config.language {language!r}: the model does not have it; "
        f"{remedy(word.strip('<|>'), candidates)}"
    )


def _task(config: Any) -> list[int]:
    """The task's token in a list, empty for none. Where a language is set and no task, the task is
    to transcribe.

    Raises:
        InputError: a task that there is not, or that the model does not have.
    """
    task, language = getattr(config, "task", None), getattr(config, "language", None)
    if task is not None and task not in TASKS:
        raise InputError(f"generation_config.task {task!r}: {remedy(str(task), TASKS)}")
    if not _is_multilingual(config):
        if task == "translate":
            raise InputError(
                "generation_config.task 'translate': this model has English only; leave it out, "
                "or give a multilingual model"
            )
        return []
    tokens = getattr(config, "task_to_id", None) or {}
    if task is None:
        return [tokens["transcribe"]] if language is not None and "transcribe" in tokens else []
    if task not in tokens:
        raise InputError(
            f"generation_config.task {task!r}: task_to_id has no token for it; load the "
            "generation_config.json of the checkpoint"
        )
    return [tokens[task]]
