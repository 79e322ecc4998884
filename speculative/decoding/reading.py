"""How a model can be read: with rows of all lengths together, with even rows, or from the start.

No list of families can be complete, so every model is tried once. Two short texts of different
lengths are read, taken back in part and read again, in one way after the other; the first way
whose logits are those of the model's own pass over each text alone is taken. From the fastest:

- padded: rows of different lengths share a cache and are padded on the left. The model must take
  position ids or have relative positions, and keep nothing but keys and values.
- even: only rows of equal lengths share a cache. This serves models that count positions from the
  cache's first slot (BART, M2M100 and the like).
- reread: nothing is kept, and all tokens are read each time. This serves models whose cache cannot
  go back (recurrent and hybrid models) and models that have none. It is right, and slow.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.cached_model import CachedModel
from speculative.decoding.encoder import Encoded, encode
from speculative.decoding.even_rows import EvenRows, Reader, RereadModel
from speculative.decoding.inputs import positions
from speculative.verification.vocabulary import encoder_vocabulary, readable, vocabulary
from systems.schema import InputError

Way = Callable[[Any, Encoded | None, int], Reader]


def even(model: Any, encoded: Encoded | None, batch: int) -> Reader:
    """Rows share a cache while they are equally long."""
    lengths = None if encoded is None else encoded.lengths
    return EvenRows(CachedModel(model, encoded, batch), lengths, positions(model))


def reread(model: Any, encoded: Encoded | None, batch: int) -> Reader:
    """Every text is read from its start each time."""
    lengths = None if encoded is None else encoded.lengths
    return EvenRows(RereadModel(model, encoded, batch), lengths, positions(model))


WAYS: dict[str, Way] = {"padded": CachedModel, "even": even, "reread": reread}
LENGTHS = (28, 10)
"""Tokens of the two texts that a model is tried with; fewer where it has fewer positions."""
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3}
"""How far the logits of a token may be from the model's own: the root mean square of the
differences, in standard deviations of the logits. A wrong position makes it about 1."""
NARROW_TOLERANCE = 0.08
"""The same for narrower dtypes, and for float32 where matrix products are narrower; rounding makes
it 0.03 to 0.04 in 24 layers of bfloat16, and tokens that see those after them 0.11 and more."""


@dataclass(frozen=True)
class Reading:
    """How one model is read."""

    way: str
    """A key of `WAYS`."""
    misplaced: int | None
    """The padding token, if the places of the tokens behind it depend on the way; else None."""


_found: weakref.WeakKeyDictionary[Any, Reading] = weakref.WeakKeyDictionary()


def reader(
    model: Any, inputs: Mapping[str, Tensor], batch: int, *, held: range, ahead: int
) -> Reader:
    """A reader of the fastest kind that is right for this model.

    Args:
        model: a transformers causal or encoder-decoder model.
        inputs: see `speculative.decoding.decode.generate`.
        batch: number of sequences.
        held: from the tokens of the shortest prompt to the most that a row may have to hold.
        ahead: tokens that are scored in one pass beyond the next one.

    Raises:
        InputError: there is none.
    """
    way = reading(model, inputs).way
    turns = _changes_frequencies(model, held)
    if turns is not None:
        way = "reread"
        if ahead:
            raise InputError(
                f"{type(model).__name__}: its rotary positions change beyond {turns} tokens, and "
                f"this text may grow to {held.stop - 1}; shorten it, or decode without a draft"
            )
    encoded = encode(model, inputs) if model.config.is_encoder_decoder else None
    return WAYS[way](model, encoded, batch)


def reading(model: Any, inputs: Mapping[str, Tensor]) -> Reading:
    """How this model is read, found out when it is first met.

    Raises:
        InputError: no way is right for it, with the reason.
    """
    if model not in _found:
        trial = _Trial(model, inputs)
        way = trial.first_right()
        padding = _padding_token(model)
        right = padding is None or not _Trial(model, inputs, padding).fault(WAYS[way])
        _found[model] = Reading(way, None if right else padding)
    return _found[model]


class _Trial:
    """Two texts, the model's own logits for them, and how other ways of reading compare.

    Args:
        inputs: of which an encoder reads the first row, and one half of it for the second text.
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
        self._given: list[dict[str, Tensor]] = [{}, {}]
        if model.config.is_encoder_decoder:
            self._given = _first_and_half(model, inputs)

    @cached_property
    def own(self) -> list[Tensor]:
        """The model's own logits of each text alone, read at once, float64 [T, V]."""
        found = [
            RereadModel.whole(self._model, given, text[None])[0].double()
            for given, text in zip(self._given, self._texts, strict=True)
        ]
        if found[0].shape[-1] > vocabulary(self._model):
            raise InputError(
                f"its head gives {found[0].shape[-1]} tokens, of which it can read only the first "
                f"{vocabulary(self._model)} (vocab_size)"
            )
        return found

    def first_right(self) -> str:
        """The first of `WAYS` that has no fault."""
        fault = ""
        for name, way in WAYS.items():
            fault = self.fault(way)
            if not fault:
                return name
        raise InputError(f"{type(self._model).__name__} cannot continue texts here: {fault}")

    def fault(self, way: Way) -> str:
        """What is wrong with reading this model so; empty: nothing."""
        try:  # any model of anybody's: what it raises is a reason not to read it so
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
        """Read the start of both texts, all the rest, go back unevenly, and read one token again.

        The start is short, so that tokens that see those after them are off by far more than
        rounding makes them.
        """
        own = self.own
        encoded = None
        if self._given[0]:
            encoded = Encoded.joined([encode(self._model, given) for given in self._given])
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
        return torch.stack([t[n - count : n] for t, n in zip(self._texts, ends, strict=True)])


def _first_and_half(model: Any, inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The first row of an encoder's inputs without padding, and again; of tokens only one half."""
    name = model.main_input_name
    if name not in inputs:
        raise InputError(f"inputs have {', '.join(inputs)}; this model needs {name}")
    given = inputs[name][:1]
    if given.is_floating_point():
        given = given.to(model.dtype)
        return [{name: given}, {name: given}]
    given = readable(given, encoder_vocabulary(model))
    if "attention_mask" in inputs:
        given = given[:, inputs["attention_mask"][0].bool()]
    return [{name: given}, {name: given[:, : (given.shape[1] + 1) // 2]}]


def _tolerance(dtype: torch.dtype) -> float:
    """How far logits may be from the model's own: see `TOLERANCES`."""
    try:
        exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # single backends have been given another precision
        exact = False
    if dtype == torch.float32 and not exact:
        return NARROW_TOLERANCE
    return TOLERANCES.get(dtype, NARROW_TOLERANCE)


def _error(logits: Tensor, own: Sequence[Tensor], ends: Sequence[int]) -> float:
    """How far the logits of the worst token before `ends` are off: see `TOLERANCES`.

    Where the model's own are not finite, or masked with a large number, they are not compared. NaN
    in the place of a finite number makes the error infinite.
    """
    worst = 0.0
    for found, whole, end in zip(logits.double(), own, ends, strict=True):
        right = whole[end - len(found) : end]
        usable = right.abs() < 1e9  # not NaN either
        if usable.any():
            spread = right[usable].std(correction=0).clamp(min=1e-12)
            squares = ((found - right) / spread).square().where(usable, 0).sum(-1)
            errors = (squares / usable.sum(-1).clamp(min=1)).sqrt()
            worst = max(worst, float(errors.nan_to_num(nan=torch.inf, posinf=torch.inf).max()))
    return worst


def _padding_token(model: Any) -> int | None:
    config = model.config.get_text_config(decoder=True)
    token = getattr(config, "pad_token_id", None)
    return token if isinstance(token, int) and 0 <= token < config.vocab_size else None


def _changes_frequencies(model: Any, held: range) -> int | None:
    """The length beyond which rotary positions turn at another rate, if a text grows beyond it.

    What was kept of the shorter text is then of no use, and no pass is right for the tokens on both
    sides (longrope: Phi-3, MiniCPM3).
    """
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, Mapping))]
    name = "original_max_position_embeddings"
    for kind in kinds:
        if kind.get("rope_type", kind.get("type")) == "longrope":
            limit = int(kind.get(name) or getattr(config, name, None) or 0)
            if held.start <= limit < held.stop - 1:
                return limit
    return None
