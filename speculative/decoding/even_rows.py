"""Readers for models that cannot read padded rows.

Such a model may still read several rows together while they are equally long. `EvenRows` keeps
rows in groups of equal lengths, each with a reader of its own, and divides a group when its rows
become uneven. `RereadModel` is the slowest reader, which is right for every causal model.
"""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from speculative.decoding.encoder import Encoded
from speculative.verification.vocabulary import readable, vocabulary


class Reader(Protocol):
    """Reads tokens with a model, gives logits, and can go back."""

    @property
    def lengths(self) -> Sequence[int]:
        """How many tokens each row has read."""

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Read on in every row.

        Args:
            tokens: int64 [B, T].
            real: how many of each row's last tokens are read, the others before them being padding;
                None: all.
            keep: for how many of the last tokens logits are returned.

        Returns:
            Logits [B, keep, V].
        """

    def rewind(self, lengths: Sequence[int]) -> None:
        """Let every row b forget all but its first `lengths[b]` tokens."""

    def select(self, rows: Sequence[int]) -> "Reader":
        """A reader that has read these rows, in this order."""


class RereadModel:
    """A reader that keeps nothing but the tokens, and gives them all to the model in every pass.

    That is right for every causal model, whatever the model keeps of a text or forgets, and it is
    slow: reading n tokens one by one costs n (n + 1) / 2 tokens. Rows must be equally long.
    """

    def __init__(self, model: Any, encoded: Encoded | None, batch: int) -> None:
        self._model = model
        self._encoded = encoded
        self._vocabulary = vocabulary(model)
        self._tokens = torch.empty(batch, 0, dtype=torch.int64, device=model.device)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has read."""
        return [self._tokens.shape[1]] * len(self._tokens)

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Read on in every row: see `Reader`."""
        self._tokens = torch.cat([self._tokens, readable(tokens, self._vocabulary)], 1)
        arguments = {} if self._encoded is None else self._encoded.arguments
        return read_at_once(self._model, arguments, self._tokens, keep=keep)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Let rows forget tokens: see `Reader`."""
        self._tokens = self._tokens[:, : lengths[0]]

    def select(self, rows: Sequence[int]) -> "RereadModel":
        """A reader that has read these rows: see `Reader`."""
        encoded = None if self._encoded is None else self._encoded.select(rows)
        chosen = RereadModel(self._model, encoded, len(rows))
        chosen._tokens = self._tokens[list(rows)]
        return chosen


def read_at_once(
    model: Any, encoder_arguments: Mapping[str, Any], tokens: Tensor, *, keep: int | None = None
) -> Tensor:
    """The logits [B, keep, V] of the last tokens, all read in one pass without a cache.

    Args:
        model: a transformers causal or encoder-decoder model.
        encoder_arguments: the inputs of the encoder, or what it made of them; empty: there is none.
        tokens: int64 [B, T].
        keep: for how many of the last tokens; None: all T.
    """
    keep = tokens.shape[1] if keep is None else keep
    name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    arguments = {**encoder_arguments, name: tokens, "return_dict": True}
    optional = {"use_cache": False, "logits_to_keep": keep}
    parameters = inspect.signature(model.forward).parameters
    arguments |= {name: value for name, value in optional.items() if name in parameters}
    logits: Tensor = model(**arguments).logits[:, -keep:]
    return logits


class EvenRows:
    """A reader that keeps rows in groups of equal lengths, each with a reader of its own.

    A group is divided when its rows become uneven, and stays divided.

    Args:
        reader: a reader of all rows that has not read anything.
        encoded_lengths: how many states the encoder made of each row; None: there is no encoder.
        positions: how many tokens a row can have; None: any number. Draft tokens of a row near its
            end may go beyond them. They are not read, since nobody looks at what would follow them.
    """

    def __init__(
        self, reader: Reader, encoded_lengths: Sequence[int] | None, positions: int | None
    ) -> None:
        self._positions = positions
        self._groups = [(list(range(len(reader.lengths))), reader)]
        if encoded_lengths is not None:
            self._divide(encoded_lengths)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has read."""
        lengths = {
            row: length
            for rows, reader in self._groups
            for row, length in zip(rows, reader.lengths, strict=True)
        }
        return [lengths[row] for row in range(len(lengths))]

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Read on in every row: see `Reader`. Logits beyond the positions are 0."""
        counts = real or [tokens.shape[1]] * len(tokens)
        self._divide(counts)
        logits_of: dict[int, Tensor] = {}
        for rows, reader in self._groups:
            count, length = counts[rows[0]], reader.lengths[0]
            room = count if self._positions is None else min(count, self._positions - length)
            if room:
                fitting = tokens[rows, -count:][:, :room]
                logits = reader.read(fitting, keep=max(keep - (count - room), 1))
                logits = F.pad(logits, (0, 0, 0, keep - logits.shape[1]))
                logits_of |= zip(rows, logits, strict=True)
        nothing = torch.zeros_like(next(iter(logits_of.values())))  # one row at least has room
        return torch.stack([logits_of.get(row, nothing) for row in range(len(tokens))])

    def rewind(self, lengths: Sequence[int]) -> None:
        """Let rows forget tokens: see `Reader`."""
        self._divide(lengths)
        for rows, reader in self._groups:
            reader.rewind([lengths[row] for row in rows])

    def select(self, rows: Sequence[int]) -> "EvenRows":
        """A reader that has read these rows: see `Reader`."""
        chosen = object.__new__(EvenRows)
        chosen._positions = self._positions
        places = {row: place for place, row in enumerate(rows)}
        chosen._groups = []
        for members, reader in self._groups:
            kept = [i for i, row in enumerate(members) if row in places]
            if kept:
                part = reader if len(kept) == len(members) else reader.select(kept)
                chosen._groups.append(([places[members[i]] for i in kept], part))
        return chosen

    def _divide(self, keys: Sequence[Hashable]) -> None:
        """Divide every group whose rows have different keys."""
        divided = []
        for rows, reader in self._groups:
            parts: dict[Hashable, list[int]] = {}
            for i, row in enumerate(rows):
                parts.setdefault(keys[row], []).append(i)
            for kept in parts.values():
                part = reader if len(parts) == 1 else reader.select(kept)
                divided.append(([rows[i] for i in kept], part))
        self._groups = divided
