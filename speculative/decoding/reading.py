"""Finds out how a model can be read when the rows of a batch have different lengths.

Sequences of a batch accept different numbers of draft tokens, so after the first step their texts
have different lengths: the rows are uneven. A transformers model still wants one rectangle of
tokens, and whether it gives each row the logits that the row would have alone depends on how the
model counts positions and what it keeps of the past. There are three ways, from the fastest:

- padded: rows of different lengths share a cache and are padded on the left. The model must take
  position ids or have relative positions, and keep nothing but keys and values.
- even: only rows of equal lengths share a cache. This serves models that count positions from the
  cache's first slot (BART, M2M100 and the like).
- reread: nothing is kept, and all tokens are read each time. This serves models whose cache cannot
  go back (recurrent and hybrid models) and models that have none. It is right, and slow.

    padded                 even                        reread
    [ . . a b c ]          [ a b c ]  one group        [ a b c     ]  from its first token,
    [ d e f g h ]          [ d e f g h ]  another      [ d e f g h ]  in every pass

No list of model families can be complete, so every model is tried once when it is first met. Two
short texts of different lengths are read, taken back in part and read again, in one way after the
other. The first way whose logits are those of the model's own pass over each text alone is taken.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.cached_model import CachedModel
from speculative.decoding.encoder import Encoded, encode, first_and_half, takes_padding
from speculative.decoding.even_rows import EvenRows, Reader, RereadModel, read_at_once
from speculative.decoding.inputs import positions
from speculative.verification.vocabulary import vocabulary
from systems.schema import InputError

Way = Callable[[Any, Encoded | None, int], Reader]
"""Makes a reader of a model, of what its encoder made of the inputs, and of a number of rows."""


def even(model: Any, encoded: Encoded | None, batch: int) -> Reader:
    """A reader whose rows share a cache only while they are equally long."""
    lengths = None if encoded is None else encoded.lengths
    return EvenRows(CachedModel(model, encoded, batch), lengths, positions(model))


def reread(model: Any, encoded: Encoded | None, batch: int) -> Reader:
    """A reader that gives a model all tokens from the first one in every pass."""
    lengths = None if encoded is None else encoded.lengths
    return EvenRows(RereadModel(model, encoded, batch), lengths, positions(model))


WAYS: dict[str, Way] = {"padded": CachedModel, "even": even, "reread": reread}
"""All ways, from the fastest."""
LENGTHS = (28, 10)
"""Lengths of the two texts that a model is tried with; less where it has fewer positions."""
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3}
"""How far the logits of a token may be from the model's own, by dtype: the root mean square of the
differences, in standard deviations of the logits. A wrong position makes a distance of about 1."""
NARROW_TOLERANCE = 0.08
"""The same for narrower dtypes, and for float32 where matrix products are narrower. Rounding makes
a distance of 0.03 to 0.04 in 24 layers of bfloat16; tokens that see those after them make 0.11 and
more."""


@dataclass(frozen=True)
class Reading:
    """How one model is read."""

    way: str
    """A key of `WAYS`."""
    misplaced: int | None
    """The padding token, if the positions of the tokens behind it depend on the way; else None."""
    encodes_together: bool
    """Whether the encoder reads rows of different lengths in one pass."""


_readings: weakref.WeakKeyDictionary[Any, Reading] = weakref.WeakKeyDictionary()
"""The models that were tried, with the outcome."""


def make_reader(
    model: Any, inputs: Mapping[str, Tensor], batch: int, *, text_lengths: range, ahead: int
) -> Reader:
    """Make a reader of the fastest kind that is right for this model.

    Args:
        model: a transformers causal or encoder-decoder model.
        inputs: see `speculative.decoding.decode.generate`.
        batch: how many sequences there are.
        text_lengths: from the length of the shortest prompt to the longest text that a row may have
            to hold.
        ahead: how many tokens beyond the next one are scored in one pass.

    Raises:
        InputError: no kind is right for it.
    """
    found = reading(model, inputs)
    way = found.way
    limit = _changes_frequencies(model, text_lengths)
    if limit is not None:
        way = "reread"
        if ahead:
            raise InputError(
                f"{type(model).__name__}: its rotary positions change beyond {limit} tokens, and "
                f"this text may grow to {text_lengths.stop - 1}; shorten it, or decode without a "
                "draft"
            )
    encoded = None
    if model.config.is_encoder_decoder:
        encoded = encode(model, inputs, together=found.encodes_together)
    return WAYS[way](model, encoded, batch)


def reading(model: Any, inputs: Mapping[str, Tensor]) -> Reading:
    """The way in which this model is read, found out by a trial when it is first met.

    Raises:
        InputError: no way is right for it, with the reason.
    """
    if model not in _readings:
        trial = _Trial(model, inputs)
        way = trial.first_right()
        padding = _padding_token(model)
        right = padding is None or not _Trial(model, inputs, padding).fault(WAYS[way])
        _readings[model] = Reading(way, None if right else padding, trial.encodes_together())
    return _readings[model]


class _Trial:
    """Compares ways of reading two short texts with the model's own pass over each text alone.

    Args:
        inputs: an encoder reads their first row, and one half of it for the second text.
        inserted: a token that both texts contain; None: none in particular.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor], inserted: int | None = None):
        self._model = model
        width = int(model.get_input_embeddings().weight.shape[0])
        width = min(width, vocabulary(model))
        usable = torch.tensor([n for n in range(width) if n != _padding_token(model)])
        generator = torch.Generator().manual_seed(0)
        self._texts = []
        most = min(LENGTHS[0], positions(model) or LENGTHS[0])
        for length in (most, min(LENGTHS[1], max(most // 2, 5))):
            text = usable[torch.randint(len(usable), (length,), generator=generator)]
            if inserted is not None:
                text[max(length - 7, 0) : length - 1 : 2] = inserted
            self._texts.append(text.to(model.device))
        self._encoder_inputs: list[dict[str, Tensor]] = [{}, {}]
        if model.config.is_encoder_decoder:
            self._encoder_inputs = first_and_half(model, inputs)

    @cached_property
    def own(self) -> list[Tensor]:
        """The model's own logits of each text alone, read at once, float64 [T, V]."""
        logits = [
            read_at_once(self._model, arguments, text[None])[0].double()
            for arguments, text in zip(self._encoder_inputs, self._texts, strict=True)
        ]
        if logits[0].shape[-1] > vocabulary(self._model):
            raise InputError(
                f"its head gives {logits[0].shape[-1]} tokens, of which it can read only the first "
                f"{vocabulary(self._model)} (vocab_size)"
            )
        return logits

    def first_right(self) -> str:
        """The name of the first of `WAYS` that has no fault.

        Raises:
            InputError: all have one; the message is the last one's.
        """
        fault = ""
        for name, way in WAYS.items():
            fault = self.fault(way)
            if not fault:
                return name
        raise InputError(f"{type(self._model).__name__} cannot continue texts here: {fault}")

    def encodes_together(self) -> bool:
        """Whether the encoder gives both texts, one of them padded, the states of each alone."""
        if not self._encoder_inputs[0]:
            return False

        def error(states: Tensor, alone: Tensor) -> float:
            """How far states [T, H] are from the text's own, in tolerances."""
            worst = _error(states[None], [alone.double()], [len(alone)])
            return worst / _tolerance(self._model.dtype)

        try:  # as in `fault`
            return takes_padding(self._model, self._encoder_inputs, error)
        except Exception:
            return False

    def fault(self, way: Way) -> str:
        """What is wrong with reading the model in this way; empty: nothing."""
        try:  # The model may be anybody's: whatever it raises is a reason not to read it so.
            worst = max(self._errors(way))
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if worst <= _tolerance(self._model.dtype):
            return ""
        return (
            f"the logits of a token change by {worst:.2g} standard deviations with the tokens that "
            "are read after it; give a causal model (for encoders like BERT set is_decoder)"
        )

    def _errors(self, way: Way) -> Iterator[float]:
        """The errors of the steps of a trial: read the start of both texts, then all the rest, go
        back unevenly, and read one token again.

        The start is short, so that tokens that see those after them are off by far more than by
        rounding.
        """
        own = self.own
        encoded = None
        if self._encoder_inputs[0]:
            encoded = Encoded.joined([encode(self._model, x) for x in self._encoder_inputs])
        reader = way(self._model, encoded, len(own))
        rest = min(map(len, self._texts)) - 2
        ends = [len(text) - rest for text in self._texts]
        prefixes = [text[:end] for text, end in zip(self._texts, ends, strict=True)]
        padded = [torch.nn.functional.pad(x, (max(ends) - len(x), 0)) for x in prefixes]
        yield _error(reader.read(torch.stack(padded), ends, keep=2), own, ends)
        ends = [len(text) for text in self._texts]
        yield _error(reader.read(self._before(ends, rest), keep=rest), own, ends)
        reader.rewind([ends[0] - 3, ends[1] - 1])
        ends = [ends[0] - 2, ends[1]]
        yield _error(reader.read(self._before(ends, 1), keep=1), own, ends)

    def _before(self, ends: Sequence[int], count: int) -> Tensor:
        """The `count` tokens of both texts before these ends, int64 [2, count]."""
        return torch.stack([t[n - count : n] for t, n in zip(self._texts, ends, strict=True)])


def _tolerance(dtype: torch.dtype) -> float:
    """How far logits of this dtype may be from the model's own: see `TOLERANCES`."""
    try:
        exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch refuses to answer where one backend was given another precision
        exact = False
    if dtype == torch.float32 and not exact:
        return NARROW_TOLERANCE
    return TOLERANCES.get(dtype, NARROW_TOLERANCE)


def _error(logits: Tensor, own: Sequence[Tensor], ends: Sequence[int]) -> float:
    """How far the logits [rows, T, V] of the worst of the T tokens before `ends` are from the
    model's own: see `TOLERANCES`.

    Where the model's own logits are not finite, or masked with a large number, they are not
    compared. NaN in the place of a finite number makes the error infinite.
    """
    worst = 0.0
    for row, whole, end in zip(logits.double(), own, ends, strict=True):
        right = whole[end - len(row) : end]
        usable = right.abs() < 1e9  # not NaN either
        if usable.any():
            spread = right[usable].std(correction=0).clamp(min=1e-12)
            squares = ((row - right) / spread).square().where(usable, 0).sum(-1)
            errors = (squares / usable.sum(-1).clamp(min=1)).sqrt()
            worst = max(worst, float(errors.nan_to_num(nan=torch.inf, posinf=torch.inf).max()))
    return worst


def _padding_token(model: Any) -> int | None:
    """The padding token in a model's config; None: there is none, or it is no token."""
    config = model.config.get_text_config(decoder=True)
    token = getattr(config, "pad_token_id", None)
    return token if isinstance(token, int) and 0 <= token < config.vocab_size else None


def _changes_frequencies(model: Any, text_lengths: range) -> int | None:
    """The length beyond which a model's rotary positions turn at another rate, if texts grow beyond
    it; else None.

    What was kept of the shorter text is then of no use, and no pass is right for the tokens on both
    sides of that length (longrope: Phi-3, MiniCPM3).
    """
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, Mapping))]
    name = "original_max_position_embeddings"
    for kind in kinds:
        if kind.get("rope_type", kind.get("type")) == "longrope":
            limit = int(kind.get(name) or getattr(config, name, None) or 0)
            if text_lengths.start <= limit < text_lengths.stop - 1:
                return limit
    return None
