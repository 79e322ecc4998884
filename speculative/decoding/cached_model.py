"""A reader that keeps the keys and values of what a transformers model has read.

Sequences accept different numbers of draft tokens, so their caches grow unevenly. Rows are kept
aligned at their right end. A rewind moves the slots of every row (one gather per layer, or a plain
crop where all rows move alike), so that new tokens always come after the last slot:

    after reading      a b c d e      rewind to      . . . a b      read on     . . . a b x y
    two rows of 5      f g h i j      2 and 4        . f g h i                  . f g h i z u

What is left over is padding on the left (the dots). Attention masks and position ids hide it in
most models; `speculative.decoding.reading` finds out in which, and how the others are read.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.encoder import Encoded
from speculative.decoding.inputs import positions
from speculative.verification.vocabulary import readable, vocabulary
from systems.schema import InputError

CACHE_NAMES = ("cache", "past_key_values")
"""The names, new and old, of the argument and output in which models keep keys and values."""

AHEAD = 16
"""Masks and positions are made for so many slots more than are read, so that the next reads up to a
rewind find theirs."""


class CachedModel:
    """A reader (`speculative.decoding.even_rows.Reader`) with a cache.

    Args:
        model: a transformers causal or encoder-decoder model with attention in every layer.
        encoded: what the encoder made of the inputs; None: the model has no encoder.
        batch: how many rows there are.

    Raises:
        InputError: the model takes no cache.
    """

    def __init__(self, model: Any, encoded: Encoded | None, batch: int) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self.lengths = [0] * batch
        """How many tokens each row has read."""
        self._model = model
        self._positions = positions(model)
        self._vocabulary = vocabulary(model)
        self._encoded = encoded
        self._parameters = set(inspect.signature(model.forward).parameters)
        self._cache: Any = DynamicCache()
        if encoded is not None:
            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._prefix = "" if encoded is None else "decoder_"
        names = [name for name in CACHE_NAMES if name in self._parameters]
        if not names:
            raise InputError(f"{type(model).__name__}: takes no cache of keys and values")
        self._cache_name = names[0]
        self._padding: tuple[Tensor, Tensor] | None = None

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Read on in every row.

        Args:
            tokens: int64 [B, T]; a token that the model does not have is read as its last one.
            real: how many of each row's last tokens are read, the others before them being padding,
                which only the first call may have. None: all.
            keep: for how many of the last tokens logits are returned.

        Returns:
            Logits [B, keep, V].

        Raises:
            InputError: the model keeps what it has read in another place or shape.
        """
        count, slots_before = tokens.shape[1], self._width()
        added = real or [count] * len(self.lengths)
        self.lengths = [n + m for n, m in zip(self.lengths, added, strict=True)]
        arguments = {
            "use_cache": True,
            "return_dict": True,
            f"{self._prefix}input_ids": readable(tokens, self._vocabulary),
            self._cache_name: self._cache,
            **({} if self._encoded is None else self._encoded.arguments),
            **self._places(slots_before, count),
        }
        if "logits_to_keep" in self._parameters:
            arguments["logits_to_keep"] = keep
        output = self._model(**arguments)
        self._check(output, slots_before + count)
        logits: Tensor = output.logits[:, -keep:]
        return logits

    def rewind(self, lengths: Sequence[int]) -> None:
        """Let every row b forget all but its first `lengths[b]` tokens."""
        slots_before, width = self._width(), max(lengths)
        self._padding = None
        starts = [slots_before - n for n in self.lengths]
        shifts = [start - (width - n) for start, n in zip(starts, lengths, strict=True)]
        self.lengths = list(lengths)
        if len(set(shifts)) == 1 and shifts[0] >= 0:
            self._change(self._own_layers(), lambda x: x[:, :, shifts[0] : shifts[0] + width])
            return
        device = self._model.device
        slots = torch.arange(width, device=device) + torch.tensor(shifts, device=device)[:, None]
        slots = slots.clamp(min=0)[:, None, :, None]  # Padding may hold anything finite.
        self._change(
            self._own_layers(), lambda x: x.gather(2, slots.expand(-1, x.shape[1], -1, x.shape[3]))
        )

    def select(self, rows: Sequence[int]) -> "CachedModel":
        """A model that has read these rows, in this order; this one stays as it is."""
        chosen = copy.copy(self)
        chosen.lengths = [self.lengths[row] for row in rows]
        chosen._padding = None
        chosen._cache = _copied(self._cache)
        layers = chosen._own_layers()
        if self._encoded is not None:
            chosen._encoded = self._encoded.select(rows)
            width = chosen._encoded.states.shape[1]
            cross = chosen._cache.cross_attention_cache.layers
            self._change(cross, lambda x: x[list(rows), :, :width])
        self._change(layers, lambda x: x[list(rows)])
        return chosen

    def _places(self, slots_before: int, count: int) -> dict[str, Tensor]:
        """The attention mask and position ids for `count` new tokens, where padding makes them
        necessary."""
        width = slots_before + count
        fits = self._positions is None or width <= self._positions
        if min(self.lengths) == width and fits:
            return {}
        if self._padding is None or self._padding[0].shape[1] < width:
            self._padding = self._behind_padding(width)
        mask, numbers = self._padding
        places = {f"{self._prefix}attention_mask": mask[:, :width].contiguous()}
        if f"{self._prefix}position_ids" in self._parameters:
            places[f"{self._prefix}position_ids"] = numbers[:, width - count : width].contiguous()
        return places

    def _behind_padding(self, width: int) -> tuple[Tensor, Tensor]:
        """Which slots are no padding, and the positions of the tokens in them: int64 [B, slots],
        for `width` slots, which are all read, and some that the next reads add."""
        slots = torch.arange(width + AHEAD, device=self._model.device)
        starts = torch.tensor([width - n for n in self.lengths], device=slots.device)[:, None]
        # A row near its end is read beyond it as far as the others are. Nobody looks there.
        last = None if self._positions is None else self._positions - 1
        return (slots >= starts).long(), (slots - starts).clamp(min=0, max=last)

    def _check(self, output: Any, width: int) -> None:
        """Refuse a model that did not add what it has read to our cache, now `width` slots wide."""
        if getattr(output, self._cache_name, None) is not self._cache or self._width() != width:
            raise InputError(
                f"{type(self._model).__name__}: does not keep what it reads as keys and values in "
                "the cache that it is given"
            )

    def _own_layers(self) -> list[Any]:
        """The cache's layers for the tokens themselves, without those for the encoder's states."""
        cache = self._cache if self._encoded is None else self._cache.self_attention_cache
        return list(cache.layers)

    def _width(self) -> int:
        """How many slots each row has in the cache."""
        return int(self._cache.get_seq_length())

    def _change(self, layers: list[Any], change: Callable[[Tensor], Tensor]) -> None:
        """Replace the keys and values [B, heads, slots, width] of layers by what `change` makes of
        them.

        Raises:
            InputError: a layer does not keep one slot for every token.
        """
        from transformers.cache_utils import DynamicLayer

        for layer in layers:
            if type(layer) is not DynamicLayer:
                raise InputError(
                    f"{type(self._model).__name__}: its {type(layer).__name__} cannot go back "
                    "token by token"
                )
            if layer.keys is None or layer.values is None:  # nothing has been read yet
                continue
            layer.keys, layer.values = change(layer.keys), change(layer.values)


def _copied(cache: Any) -> Any:
    """A copy of a cache whose layers can change without changing the original's layers."""
    copied = copy.copy(cache)
    for name, value in vars(cache).items():
        if name == "layers":
            copied.layers = [copy.copy(layer) for layer in value]
        elif name.endswith("attention_cache"):
            setattr(copied, name, _copied(value))
        elif name == "is_updated":
            copied.is_updated = dict(value)
    return copied
