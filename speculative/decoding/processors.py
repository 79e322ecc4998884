"""transformers' logits processors and stopping criteria, called for rows of different lengths.

Both are called with `input_ids` [rows, length] and expect all rows to have generated equally many
tokens. Sequences of a batch accept different numbers of draft tokens, so here they are called for
the rows of each length by themselves. `input_ids` are what transformers would show at that length:
the prompts with the padding of the batch on their left, then the new tokens.

    rows            . . a b | x y            one call for these two rows    . . a b | x y
                    c d e f | z                                             g h i j | u v
                    g h i j | u v            and one for this row           c d e f | z

Target and draft get the same processors, as in transformers: then p and q are the distributions
that the processors make, and verification is as exact as without them.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from systems.schema import InputError

Processor = Callable[[Tensor, Tensor], Tensor]
"""Takes int64 [rows, length] and scores float32 [rows, V], and gives scores of the same shape."""
Criterion = Callable[[Tensor, Any], Any]
"""Takes int64 [rows, length] and None, and says which rows are done, bool [rows]."""

WITH_A_STATE = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "ClassifierFreeGuidanceLogitsProcessor",
    "SynthIDTextWatermarkLogitsProcessor",
    "WhisperNoSpeechDetection",
}
"""Processors that expect a call for every token of the text and no other, or rows in pairs."""
BY_ROW = {
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EncoderNoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
}
"""Processors that know the rows of the batch by their places."""
WITH_SCORES = {"ConfidenceCriteria"}
"""Criteria that read the scores, which they are not given."""


@dataclass(frozen=True)
class Unpadded:
    """A processor that is shown texts without their padding."""

    processor: Processor

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        return self.processor(tokens, scores)


def check_processors(processors: Any, batch: int) -> tuple[Processor, ...]:
    """The processors as a tuple.

    Args:
        processors: a LogitsProcessorList or another sequence; None: there are none.
        batch: how many sequences there are.

    Raises:
        InputError: one is not called as transformers' are, or cannot be right here.
    """
    checked = _callables("logits_processor", processors)
    for each in checked:
        name = type(each).__name__
        if name in WITH_A_STATE:
            raise InputError(
                f"logits_processor: {name} must see every token of the text once, and here it "
                "would see rejected draft tokens; leave it out"
            )
        if name in BY_ROW and batch > 1:
            raise InputError(
                f"logits_processor: {name} knows rows by their places, and here rows of different "
                "lengths are processed apart; decode one sequence at a time with it"
            )
    return checked


def check_criteria(criteria: Any, stop_strings: Any, tokenizer: Any) -> tuple[Criterion, ...]:
    """The stopping criteria as a tuple, with one for the stop strings.

    Raises:
        InputError: a criterion is not called as transformers' are or reads scores, or stop strings
            have no tokenizer.
    """
    checked = _callables("stopping_criteria", criteria)
    for each in checked:
        if type(each).__name__ in WITH_SCORES:
            raise InputError(
                f"stopping_criteria: {type(each).__name__} reads scores, which are not kept here; "
                "leave it out"
            )
    if stop_strings is None:
        return checked
    strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
    if not isinstance(strings, list | tuple) or not all(isinstance(s, str) and s for s in strings):
        raise InputError(f"stop_strings {stop_strings!r}: give a string, or a list of strings")
    if tokenizer is None:
        raise InputError(f"stop_strings {stop_strings!r}: give the tokenizer too, tokenizer=...")
    from transformers import StopStringCriteria

    return (*checked, StopStringCriteria(tokenizer, list(strings)))


def _callables(name: str, given: Any) -> tuple[Any, ...]:
    """The members of a list as a tuple; None has none.

    Raises:
        InputError: it is no list, or a member cannot be called with two arguments alone.
    """
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise InputError(f"{name} is a {type(given).__name__}; give a list of them, [...]")
    for each in given:
        if not callable(each):
            raise InputError(f"{name}: {each!r} cannot be called; give transformers' or functions")
        parameters = inspect.signature(each).parameters.values()
        starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in starred]
        if len(needed) > 2:
            raise InputError(
                f"{name}: {type(each).__name__} wants {', '.join(needed[2:])} too, which "
                "there is not in this decoding; leave it out"
            )
    return tuple(given)


def processed(
    processors: Sequence[Processor],
    logits: Tensor,
    texts: Sequence[Sequence[int]],
    draft_tokens: Tensor,
    paddings: Sequence[int],
) -> Tensor:
    """The scores that the processors make of logits.

    Args:
        logits: floating point [B, T, V], for the T last of these D + 1 places: after a text, and
            after each of its draft tokens.
        texts: every row's prompt with its padding, and its new tokens.
        draft_tokens: int64 [B, D].
        paddings: how many tokens of every text are its prompt's padding.

    Returns:
        float32 [B, T, V], or the logits themselves if there are no processors.
    """
    if not processors:
        return logits
    count = logits.shape[1]
    skipped = draft_tokens.shape[1] + 1 - count
    apart = paddings if any(isinstance(each, Unpadded) for each in processors) else None
    scores = torch.empty_like(logits, dtype=torch.float32)
    for rows, read in _by_length(texts, logits.device, apart):
        ids = torch.cat([read, draft_tokens[rows].clamp(min=0)], 1)
        for t in range(count):
            seen = ids[:, : read.shape[1] + skipped + t]
            values = logits[rows, t].float().clone()  # a processor may write into it
            for processor in processors:
                hidden = paddings[rows[0]] if isinstance(processor, Unpadded) else 0
                values = processor(seen[:, hidden:], values)
            if values.shape != scores[rows, t].shape:
                raise InputError(
                    f"logits_processor: {type(processor).__name__} gave {[*values.shape]} for "
                    f"scores {[*scores[rows, t].shape]}; give the same shape"
                )
            scores[rows, t] = values
    return scores


def until_stopped(
    criteria: Sequence[Criterion],
    texts: Sequence[Sequence[int]],
    new: Sequence[Sequence[int]],
    device: torch.device,
) -> list[int | None]:
    """How many of its new tokens every row keeps up to the first after which a criterion stops it.

    Args:
        texts: every row's prompt with its padding, and what it had generated before.
        new: the tokens that follow, one at least.
        device: where the criteria get the tokens.

    Returns:
        A number for every row; None where no criterion stops it.
    """
    stops: list[int | None] = [None] * len(texts)
    for rows, read in _by_length(texts, device):
        for t in range(max(len(new[row]) for row in rows)):
            going = [i for i, row in enumerate(rows) if stops[row] is None and t < len(new[row])]
            if not going:
                break
            added = torch.tensor([new[rows[i]][: t + 1] for i in going], device=device)
            ids = torch.cat([read[going], added], 1)
            done = torch.zeros(len(going), dtype=torch.bool)
            for criterion in criteria:
                done |= torch.as_tensor(criterion(ids, None)).cpu()
            for i, stopped in zip(going, done.tolist(), strict=True):
                if stopped:
                    stops[rows[i]] = t + 1
    return stops


def _by_length(
    texts: Sequence[Sequence[int]], device: torch.device, paddings: Sequence[int] | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """The rows of every length, and their texts int64 [rows, length]; with `paddings`, those of
    every length and padding."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault((len(text), paddings[row] if paddings else 0), []).append(row)
    for rows in groups.values():
        yield rows, torch.tensor([list(texts[row]) for row in rows], device=device)
