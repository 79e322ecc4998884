"""Sums of which the server sees nothing but the whole, as secure aggregation gives them.

The K clients of a buffer stand in a ring, and each two neighbours share a stream of random words.
A client adds the one that it shares with the next and takes away the one that it shares with the
one before: in the sum all of them cancel, modulo 2^32. Updates are fixed-point words of 32 bits
for that, as many bytes as float32. A buffer without one of its clients is noise, and is dropped.

This shows what such sums cost and forbid. It is no cryptography: here the streams follow from the
job's seed, where real clients agree on keys.
"""

import numpy as np
import torch
from torch import Tensor

from federated.durations import MASK, draws

ONE = float(2**20)
"""The fixed-point word of 1.0: sums may reach 2^11, and rounding is up to 2^-21 a client."""


class Masks:
    """The masks of all buffers of a job."""

    def __init__(self, goal: int, seed: int) -> None:
        self._goal, self._seed = goal, seed
        self._sums: dict[int, np.ndarray] = {}

    def hide(self, delta: Tensor, number: int) -> Tensor:
        """What the client of a flight sends: uint8 [4 P]."""
        words = np.rint(delta.double().cpu().numpy() * ONE).astype(np.int64).astype(np.uint32)
        next_one = number + 1 if (number + 1) % self._goal else number + 1 - self._goal
        hidden = words + self._stream(number, len(words)) - self._stream(next_one, len(words))
        return torch.from_numpy(hidden.view(np.uint8))

    def add(self, message: Tensor, number: int) -> None:
        """Add a message to its buffer."""
        words, buffer = message.cpu().numpy().view(np.uint32), number // self._goal
        self._sums[buffer] = self._sums.get(buffer, np.uint32(0)) + words

    def drop(self, number: int) -> None:
        """Drop the buffer of a flight whose client was lost."""
        self._sums.pop(number // self._goal, None)

    def total(self, number: int, like: Tensor) -> Tensor:
        """The sum of the updates in the buffer of a flight, all of which have come."""
        words = self._sums.pop(number // self._goal).view(np.int32)
        return torch.from_numpy(words.astype(np.float64) / ONE).to(like)

    def _stream(self, number: int, length: int) -> np.ndarray:
        generator = draws(self._seed, MASK, number)
        return generator.integers(2**32, size=length, dtype=np.uint32)
