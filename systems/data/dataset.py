"""What a data set of images is: samples with labels, some to train with and some to test with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Indices: TypeAlias = "Sequence[int] | Tensor"
"""The numbers of some samples: int64 [B]."""
Batch: TypeAlias = "tuple[Tensor, Tensor]"
"""Images float32 [B, C, H, W] and labels int64 [B]; other targets where the loss is one's own."""


class Split(Protocol):
    """The training samples or the test samples of a data set, numbered from 0 to len - 1."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def batch(self, indices: Indices) -> Batch:
        """Read the samples with these numbers; images are normalised."""
        ...


@dataclass(frozen=True)
class Data:
    """A data set."""

    kind: str
    """What the data are, for people and records."""
    train: Split
    test: Split
    image_shape: tuple[int, ...]
    """Channels, height and width."""
    classes: int | None
    """The number of classes. Labels lie in [0, classes). None: the targets are no labels."""
    corrupt: list[Path] = field(default_factory=list)
    """The files that could not be read so far. The list grows while samples are read."""


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """Samples in memory, made when the first batch is asked for: whoever only checks that the data
    are there needs no torch."""

    length: int
    make: Callable[[], Batch]
    """Makes images float32 [N, C, H, W] and labels int64 [N]."""

    def __len__(self) -> int:
        return self.length

    @cached_property
    def samples(self) -> Batch:
        """All images and labels."""
        return self.make()

    def batch(self, indices: Indices) -> Batch:
        """Pick the samples with these numbers."""
        import torch

        images, labels = self.samples
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return images[chosen], labels[chosen]


def zeros(samples: int, kind: str) -> Data:
    """Make data for layers that compute nothing: `samples` samples to train with, each a single
    zero in class 0, and none to test with."""

    def split(length: int) -> TensorSplit:
        def make() -> Batch:
            import torch

            return torch.zeros(length, 1), torch.zeros(length, dtype=torch.int64)

        return TensorSplit(length, make)

    return Data(kind, split(samples), split(0), image_shape=(1,), classes=None)
