"""Models that cannot read padded rows: rows are read together only while they are equally long."""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from speculative.decoding.encoder import Encoded
from speculative.verification.vocabulary import readable, vocabulary


class Reader(Protocol):
    """Reads tokens, gives logits, and can go back."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens that each row holds."""

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Append tokens int64 [B, T], row b's last `real[b]` of them; logits [B, keep, V]."""

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[b]` tokens of row b."""

    def select(self, rows: Sequence[int]) -> "Reader":
        """A reader that holds these rows, in this order."""


class RereadModel:
    """Keeps no state but the tokens, and gives them all to the model each time.

    That is right for every causal model, whatever it keeps of a text or forgets, and it is slow:
    reading n tokens one by one costs n (n + 1) / 2 tokens. Rows must be equally long.
    """

    def __init__(self, model: Any, encoded: Encoded | None, batch: int) -> None:
        self._model = model
        self._encoded = encoded
        self._vocabulary = vocabulary(model)
        self._tokens = torch.empty(batch, 0, dtype=torch.int64, device=model.device)

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row holds."""
        return [self._tokens.shape[1]] * len(self._tokens)

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Append tokens to every row: see `Reader`."""
        self._tokens = torch.cat([self._tokens, readable(tokens, self._vocabulary)], 1)
        given = {} if self._encoded is None else self._encoded.arguments()
        return self.whole(self._model, given, self._tokens, keep=keep)

    @staticmethod
    def whole(
        model: Any, given: Mapping[str, Any], tokens: Tensor, *, keep: int | None = None
    ) -> Tensor:
        """Logits [B, keep, V] of the last of tokens int64 [B, T], read at once, without a cache.

        Args:
            model: a transformers causal or encoder-decoder model.
            given: what an encoder is given, or what it made of that; empty: there is none.
            keep: how many; None: all T.
        """
        keep = tokens.shape[1] if keep is None else keep
        name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
        arguments = {**given, name: tokens, "return_dict": True}
        wanted = {"use_cache": False, "logits_to_keep": keep}
        takes = inspect.signature(model.forward).parameters
        arguments |= {name: value for name, value in wanted.items() if name in takes}
        logits: Tensor = model(**arguments).logits[:, -keep:]
        return logits

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget tokens: see `Reader`."""
        self._tokens = self._tokens[:, : lengths[0]]

    def select(self, rows: Sequence[int]) -> "RereadModel":
        """A reader of these rows."""
        encoded = None if self._encoded is None else self._encoded.select(rows)
        chosen = RereadModel(self._model, encoded, len(rows))
        chosen._tokens = self._tokens[list(rows)]
        return chosen


class EvenRows:
    """Divides rows into groups of equal lengths, each with a reader of its own.

    A group is divided when its rows become unequal, and stays so.

    Args:
        reader: of all rows, before anything is read.
        encoded_lengths: states of each row's encoder; None: there is no encoder.
        positions: how many tokens a row can hold; None: any number. Draft tokens of a row near its
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
        """Tokens that each row holds."""
        held = {
            row: length
            for rows, reader in self._groups
            for row, length in zip(rows, reader.lengths, strict=True)
        }
        return [held[row] for row in range(len(held))]

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Append tokens to every row: see `Reader`. Logits beyond the positions are 0."""
        counts = real or [tokens.shape[1]] * len(tokens)
        self._divide(counts)
        found: dict[int, Tensor] = {}
        for rows, reader in self._groups:
            count, held = counts[rows[0]], reader.lengths[0]
            room = count if self._positions is None else min(count, self._positions - held)
            if room:
                fitting = tokens[rows, -count:][:, :room]
                logits = reader.read(fitting, keep=max(keep - (count - room), 1))
                logits = F.pad(logits, (0, 0, 0, keep - logits.shape[1]))
                found |= zip(rows, logits, strict=True)
        nothing = torch.zeros_like(next(iter(found.values())))  # one row at least has room
        return torch.stack([found.get(row, nothing) for row in range(len(tokens))])

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget tokens: see `Reader`."""
        self._divide(lengths)
        for rows, reader in self._groups:
            reader.rewind([lengths[row] for row in rows])

    def select(self, rows: Sequence[int]) -> "EvenRows":
        """A reader of these rows."""
        chosen = object.__new__(EvenRows)
        chosen._positions = self._positions
        places = {row: place for place, row in enumerate(rows)}
        chosen._groups = []
        for held, reader in self._groups:
            kept = [i for i, row in enumerate(held) if row in places]
            if kept:
                part = reader if len(kept) == len(held) else reader.select(kept)
                chosen._groups.append(([places[held[i]] for i in kept], part))
        return chosen

    def _divide(self, keys: Sequence[Hashable]) -> None:
        """Let only rows with equal keys stay in one group."""
        divided = []
        for rows, reader in self._groups:
            parts: dict[Hashable, list[int]] = {}
            for i, row in enumerate(rows):
                parts.setdefault(keys[row], []).append(i)
            for kept in parts.values():
                part = reader if len(parts) == 1 else reader.select(kept)
                divided.append(([rows[i] for i in kept], part))
        self._groups = divided
