"""Codecs: how a vector of gradients becomes messages and comes back; with error feedback.

A codec may lose something. `ErrorFeedback` keeps what was lost and adds it to the next vector
(1-bit SGD, Seide et al. 2014; Karimireddy et al., arXiv 1901.09847, algorithm 1):

    p = gradient + left          what ought to be sent in this step
    messages = encode(p)         what is sent
    left = p - decode(messages)  what is left for the next step

So after any number of steps, all that was sent and what is left add up to the sum of all gradients.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from systems.schema import InputError


class Codec(Protocol):
    """Encodes a vector into messages, and decodes them.

    The number, shapes and dtypes of the messages depend on the size of the vector alone, for a
    receiver must know them before they arrive. What `decode` returns depends on the messages alone,
    for it is called on other ranks than `encode`. A codec whose attribute `error_feedback` is true
    is given what it has lost once more.
    """

    def encode(self, values: Tensor) -> Sequence[Tensor]:
        """The messages that stand for the vector `values` [n], which is left unchanged."""
        ...

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        """The vector [size] for which the messages stand, in its dtype."""
        ...


CodecFactory = Callable[[], Codec]
"""Makes a codec for one vector, which it then encodes in every step."""


class ErrorFeedback:
    """A codec that gives another one what it has lost once more."""

    def __init__(self, codec: Codec) -> None:
        """Wrap `codec`. Nothing is left at first."""
        self._codec = codec
        self.left: Tensor | None = None
        """What the messages so far have not said of the vectors so far."""

    def encode(self, values: Tensor) -> Sequence[Tensor]:
        """Encode the vector and what is left of those before it."""
        wanted = values.clone() if self.left is None else values + self.left
        messages = self._codec.encode(wanted)
        self.left = wanted - self._codec.decode(messages, len(wanted))
        return messages

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        """Decode the messages."""
        return self._codec.decode(messages, size)


class Packer:
    """Turns vectors of one size into one string of bytes each, by a codec, and back."""

    def __init__(self, make: CodecFactory, like: Tensor, *, feedback: bool) -> None:
        """Make a codec for vectors like `like` [n].

        Args:
            feedback: whether a codec that asks for error feedback gets it here.

        Raises:
            InputError: the codec makes no messages of a vector, or no vector of messages.
        """
        self._size = len(like)
        first = make()
        messages = _checked(first.encode(torch.zeros_like(like)))
        _check_vector(first.decode(messages, self._size), self._size)
        self._kinds = [(message.shape, message.dtype) for message in messages]
        self.nbytes = sum(message.nbytes for message in messages)
        """The number of bytes of a packed vector."""
        codec = make()
        wanted = feedback and getattr(codec, "error_feedback", False)
        self._codec: Codec = ErrorFeedback(codec) if wanted else codec
        self._device = like.device

    def buffer(self) -> Tensor:
        """Allocate a buffer for a packed vector, uint8 [nbytes]."""
        return torch.empty(self.nbytes, dtype=torch.uint8, device=self._device)

    def pack(self, values: Tensor) -> Tensor:
        """Encode the vector `values` [n]; returns uint8 [nbytes].

        Raises:
            InputError: the messages have other shapes than those of another vector of this size.
        """
        messages = _checked(self._codec.encode(values))
        kinds = [(message.shape, message.dtype) for message in messages]
        if kinds != self._kinds:
            raise InputError(
                f"{_CODEC}: encode returns {_described(kinds)}, and of zeros "
                f"{_described(self._kinds)}; let shapes and dtypes depend on the size alone"
            )
        return torch.cat([message.contiguous().view(-1).view(torch.uint8) for message in messages])

    def unpack(self, packed: Tensor) -> Tensor:
        """Decode a packed vector; returns it, [n]."""
        messages, begin = list[Tensor](), 0
        for shape, dtype in self._kinds:
            end = begin + shape.numel() * dtype.itemsize
            # A copy begins where its dtype can be read; a part of the string need not.
            messages.append(packed[begin:end].clone().view(dtype).view(shape))
            begin = end
        values = self._codec.decode(messages, self._size)
        _check_vector(values, self._size)
        return values


_CODEC = "--stanza.exchange"
"""What errors name: a codec does not know by which name it was found."""


def _checked(messages: Sequence[Tensor]) -> Sequence[Tensor]:
    """Refuse what are no messages."""
    if isinstance(messages, Tensor) or not all(isinstance(each, Tensor) for each in messages):
        raise InputError(f"{_CODEC}: encode returns no list of tensors; give one, even for one")
    return messages


def _check_vector(values: Tensor, size: int) -> None:
    """Refuse what is no vector of this size."""
    if not isinstance(values, Tensor) or values.shape != (size,):
        shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"{_CODEC}: decode returns {shape} for {size} values; give [{size}]")


def _described(kinds: Sequence[tuple[torch.Size, torch.dtype]]) -> str:
    """Describe the shapes and dtypes of messages, for errors."""
    return ", ".join(f"{str(dtype).removeprefix('torch.')} {list(shape)}" for shape, dtype in kinds)
