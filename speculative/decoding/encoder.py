"""Runs the encoder of an encoder-decoder model once, and keeps its states for all steps."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.whisper import is_whisper
from speculative.verification.vocabulary import encoder_vocabulary, readable
from systems.schema import InputError


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

    def arguments(self) -> dict[str, Any]:
        """The arguments by which the model's forward pass takes these states."""
        arguments: dict[str, Any] = {"encoder_outputs": self.kind(last_hidden_state=self.states)}
        width = self.states.shape[1]
        if min(self.lengths) < width:
            ends = torch.tensor(self.lengths, device=self.states.device)[:, None]
            arguments["attention_mask"] = (torch.arange(width, device=ends.device) < ends).long()
        return arguments


def encode(model: Any, inputs: Mapping[str, Tensor]) -> Encoded:
    """Run the encoder.

    Sequences of tokens are read without their padding, those of one length together, since an
    encoder that counts positions from the first slot would give tokens behind padding other ones.

    Args:
        model: an encoder-decoder model of transformers.
        inputs: the input that `model.main_input_name` names, and `attention_mask` if it is padded.

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
        return _without_padding(model, name, x, mask.bool())
    encoded = _forward(model, {name: x})
    if not _takes(model.get_encoder(), "attention_mask") or not torch.equal(
        encoded.states, _forward(model, {name: x, "attention_mask": mask}).states
    ):
        raise InputError(
            f"attention_mask: {name} has rows of different lengths, which only inputs of tokens "
            "may have; decode rows of one length together, without padding"
        )
    return encoded


def _without_padding(model: Any, name: str, tokens: Tensor, mask: Tensor) -> Encoded:
    """Encode tokens int64 [B, T] where mask is true, the rows of each length by themselves."""
    counts = mask.sum(1)
    order: list[int] = []
    parts = []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        parts.append(_forward(model, {name: tokens[rows][mask[rows]].view(len(rows), count)}))
        order += rows.tolist()
    return Encoded.joined(parts).select([order.index(row) for row in range(len(tokens))])


def _takes(module: Any, name: str) -> bool:
    """Whether a module's forward pass has an argument of this name."""
    return name in inspect.signature(module.forward).parameters


def _forward(model: Any, arguments: dict[str, Tensor]) -> Encoded:
    """One forward pass of the model's encoder; all its states count."""
    output = model.get_encoder()(**arguments, return_dict=True)
    states = output.last_hidden_state
    return Encoded(states, (states.shape[1],) * len(states), type(output))
