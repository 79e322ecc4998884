"""Runs the encoder of an encoder-decoder model once, and keeps its states for all steps.

Short rows of tokens are read together, padded on the right behind a mask, if a trial shows that the
encoder then gives each row the states that it gives the row alone. The passes of small models take
about as long for a batch as for one row.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.whisper import is_whisper
from speculative.verification.vocabulary import encoder_vocabulary, readable
from systems.schema import InputError

TOGETHER = 128
"""Rows of no more tokens are read together. Longer ones fill a pass by themselves, and would be
padded with more."""


@dataclass(frozen=True)
class Encoded:
    """The encoder's states of every sequence, padded on the right."""

    states: Tensor
    """Floating point [B, S, H]."""
    lengths: tuple[int, ...]
    """How many of its S states belong to each sequence."""
    kind: type
    """The class of the encoder's output."""

    @classmethod
    def joined(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """The sequences of all parts, one after the other."""
        rows = [row[:n] for part in parts for row, n in zip(part.states, part.lengths, strict=True)]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return cls(padded, tuple(map(len, rows)), parts[0].kind)

    def select(self, rows: Sequence[int]) -> "Encoded":
        """These sequences, in this order; states that are padding in all of them are cut off."""
        lengths = tuple(self.lengths[row] for row in rows)
        return replace(self, states=self.states[list(rows), : max(lengths)], lengths=lengths)

    @cached_property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments by which the model's forward pass takes these states, made once for all
        steps."""
        arguments: dict[str, Any] = {"encoder_outputs": self.kind(last_hidden_state=self.states)}
        width = self.states.shape[1]
        if min(self.lengths) < width:
            ends = torch.tensor(self.lengths, device=self.states.device)[:, None]
            arguments["attention_mask"] = (torch.arange(width, device=ends.device) < ends).long()
        return arguments


def encode(model: Any, inputs: Mapping[str, Tensor], *, together: bool = False) -> Encoded:
    """Run the encoder.

    Sequences of tokens are read without the padding that they come with, since an encoder that
    counts positions from the first slot would give tokens behind padding other ones.

    Args:
        model: an encoder-decoder model of transformers.
        inputs: the input that `model.main_input_name` names, and `attention_mask` if it is padded.
        together: whether rows of different lengths may share a pass (`takes_padding`). Those of one
            length do in any case.

    Raises:
        InputError: the input is missing, or it is padded, not made of tokens, and the padding
            changes the states.
    """
    name = model.main_input_name
    if name not in inputs:
        raise InputError(f"inputs have {', '.join(inputs)}; this model needs {name}")
    x, mask = inputs[name], inputs.get("attention_mask")
    floating = x.is_floating_point()
    x = x.to(model.dtype) if floating else readable(x, encoder_vocabulary(model))
    if mask is None or bool(mask.all()) or is_whisper(model):  # Whisper reads no mask.
        return _forward(model, {name: x})
    if x.dim() == 2 and not floating:
        return _without_padding(model, name, x, mask.bool(), together)
    encoded = _forward(model, {name: x})
    if not _takes(model.get_encoder(), "attention_mask") or not torch.equal(
        encoded.states, _forward(model, {name: x, "attention_mask": mask}).states
    ):
        raise InputError(
            f"attention_mask: {name} has rows of different lengths, which only inputs of tokens "
            "may have; decode rows of one length together, without padding"
        )
    return encoded


def takes_padding(
    model: Any, rows: Sequence[Mapping[str, Tensor]], error: Callable[[Tensor, Tensor], float]
) -> bool:
    """Whether an encoder gives rows that are padded on the right the states of each row alone, but
    for rounding.

    Args:
        rows: inputs of one row each, without padding. Rows that are not tokens, or of one length,
            show nothing.
        error: how far states [T, H] are from those of the row alone; at most 1 is rounding.
    """
    tokens = [row[model.main_input_name][0] for row in rows]
    lengths = [len(row) for row in tokens]
    if tokens[0].is_floating_point() or tokens[0].dim() != 1 or len(set(lengths)) == 1:
        return False
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    mask = torch.arange(padded.shape[1], device=padded.device) < padded.new_tensor(lengths)[:, None]
    states = _without_padding(model, model.main_input_name, padded, mask, True).states
    alone = [encode(model, row).states[0] for row in rows]
    return all(error(s[:n], a) <= 1 for s, a, n in zip(states, alone, lengths, strict=True))


def first_and_half(model: Any, inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Two inputs of an encoder: the first row without padding, and the same row again, or half of
    it if it consists of tokens."""
    name = model.main_input_name
    if name not in inputs:
        raise InputError(f"inputs have {', '.join(inputs)}; this model needs {name}")
    row = inputs[name][:1]
    if row.is_floating_point():
        row = row.to(model.dtype)
        return [{name: row}, {name: row}]
    row = readable(row, encoder_vocabulary(model))
    if "attention_mask" in inputs:
        row = row[:, inputs["attention_mask"][0].bool()]
    return [{name: row}, {name: row[:, : (row.shape[1] + 1) // 2]}]


def _without_padding(
    model: Any, name: str, tokens: Tensor, mask: Tensor, together: bool
) -> Encoded:
    """Encode tokens int64 [B, T] where mask is true: short rows at once if they may be read
    `together`, and the others of each length by themselves."""
    counts = mask.sum(1)
    shares = counts.clamp(min=TOGETHER) if together else counts  # equal for rows of one pass
    order: list[int] = []
    parts = []
    for share in shares.unique().tolist():
        rows = (shares == share).nonzero()[:, 0]
        parts.append(_one_pass(model, name, tokens[rows][mask[rows]], counts[rows]))
        order += rows.tolist()
    return Encoded.joined(parts).select([order.index(row) for row in range(len(tokens))])


def _one_pass(model: Any, name: str, tokens: Tensor, counts: Tensor) -> Encoded:
    """Encode rows of so many tokens, whose tokens int64 [sum of counts] come one after the other,
    padded on the right where they are of different lengths."""
    real = torch.arange(int(counts.max()), device=tokens.device) < counts[:, None]
    if bool(real.all()):
        return _forward(model, {name: tokens.view(real.shape)})
    padded = tokens.new_zeros(real.shape).masked_scatter(real, tokens)
    encoded = _forward(model, {name: padded, "attention_mask": real.long()})
    return replace(encoded, lengths=tuple(counts.tolist()))


def _takes(module: Any, name: str) -> bool:
    """Whether a module's forward pass has an argument of this name."""
    return name in inspect.signature(module.forward).parameters


def _forward(model: Any, arguments: dict[str, Tensor]) -> Encoded:
    """One forward pass of the model's encoder; all its states count."""
    output = model.get_encoder()(**arguments, return_dict=True)
    states = output.last_hidden_state
    return Encoded(states, (states.shape[1],) * len(states), type(output))
