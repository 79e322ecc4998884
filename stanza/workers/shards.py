"""What travels between a worker and a parameter server, for the server's slice of one bucket.

A worker and the server have one of these each, of the same kind, about the same values:

    worker                                        server
    push(gradients) --- message ----------------> gradients(message)
    pulled(message) <-- message ----------------- pull()

`Plain` sends gradients and parameters as they are. `Encoded` sends both by a codec. Parameters with
few bits would be of no use, so what is pulled is the change since the last pull. The server knows
what the workers have made of the messages so far, and encodes how far its parameters are from that:
what one message has lost is in the next one.
"""

from typing import Protocol

import torch
from torch import Tensor

from stanza.exchanges.codec import CodecFactory, Packer


class Shard(Protocol):
    """One side of the exchange of a slice [n] of a bucket."""

    def push_buffer(self) -> Tensor:
        """Allocate a buffer for a message with gradients."""
        ...

    def pull_buffer(self) -> Tensor:
        """Allocate a buffer for a message with parameters."""
        ...

    def push(self, gradients: Tensor) -> Tensor:
        """Encode the gradients [n] into a message; on the worker."""
        ...

    def gradients(self, message: Tensor) -> Tensor:
        """Decode a message into gradients [n]; on the server."""
        ...

    def pull(self) -> Tensor:
        """Encode the parameters into a message; on the server."""
        ...

    def pulled(self, message: Tensor) -> None:
        """Set the parameters as a message says; on the worker."""
        ...


class Plain:
    """Gradients and parameters travel as they are."""

    def __init__(self, values: Tensor) -> None:
        """Exchange `values` [n]: the server's parameters, or the worker's copy of them."""
        self._values = values

    def push_buffer(self) -> Tensor:
        """See `Shard`."""
        return torch.zeros_like(self._values)

    def pull_buffer(self) -> Tensor:
        """Return the worker's copy itself: parameters arrive where they belong."""
        return self._values

    def push(self, gradients: Tensor) -> Tensor:
        """See `Shard`."""
        return gradients

    def gradients(self, message: Tensor) -> Tensor:
        """See `Shard`."""
        return message

    def pull(self) -> Tensor:
        """See `Shard`."""
        return self._values.detach()

    def pulled(self, message: Tensor) -> None:
        """Do nothing: the parameters have arrived in their place."""


class Encoded:
    """Gradients and changes of the parameters travel by a codec."""

    def __init__(self, values: Tensor, make: CodecFactory) -> None:
        """Exchange `values` [n], which are the same on both sides now."""
        self._values = values.detach()
        self._told = self._values.clone()
        self._gradients = Packer(make, self._values, feedback=True)
        self._changes = Packer(make, self._values, feedback=False)

    def push_buffer(self) -> Tensor:
        """See `Shard`."""
        return self._gradients.buffer()

    def pull_buffer(self) -> Tensor:
        """See `Shard`."""
        return self._changes.buffer()

    def push(self, gradients: Tensor) -> Tensor:
        """See `Shard`."""
        return self._gradients.pack(gradients)

    def gradients(self, message: Tensor) -> Tensor:
        """See `Shard`."""
        return self._gradients.unpack(message)

    def pull(self) -> Tensor:
        """See `Shard`."""
        message = self._changes.pack(self._values - self._told)
        self._told += self._changes.unpack(message)
        return message

    def pulled(self, message: Tensor) -> None:
        """See `Shard`."""
        self._values += self._changes.unpack(message)


def shard(values: Tensor, codec: CodecFactory | None) -> Shard:
    """Make one side of the exchange of `values`. Without a codec they travel as they are. A slice
    may be empty, where there are more servers than values."""
    return Plain(values) if codec is None or not len(values) else Encoded(values, codec)
