"""Batches of a data set, on every rank its share of them."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from stanza.workers.targets import Targets, check_targets, rows
from systems.data.batches import consecutive, permutation
from systems.data.shares import even_shares, weighted_shares
from systems.schema import InputError


class Samples(Protocol):
    """A data set as torch has them: numbered samples, each an image [C, H, W] and its target."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The sample with this number."""
        ...


class Loader:
    """Yields, in every pass, all batches of an epoch: images [b, C, H, W] and their targets.

    A global batch is the same whatever the scheme and the number of ranks. Ranks with data take
    even shares of it, or others that they were given; ranks without data, and some at the end of an
    epoch, get batches of no samples, whose tensors have the shapes and dtypes of the others.
    """

    def __init__(
        self, dataset: Samples, batch_size: int, *, shuffle: bool, drop_last: bool, **reading: Any
    ) -> None:
        """Read the first sample; see `stanza.library.trained.Trained.loader`."""
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise InputError(
                f"dataset: a {type(dataset).__name__} has no numbered samples; give one with "
                "__len__ and __getitem__"
            )
        if not 1 <= batch_size <= len(dataset):
            raise InputError(
                f"batch_size={batch_size}: give 1 to {len(dataset)}, the samples of the data set"
            )
        self.dataset, self.batch_size = dataset, batch_size
        self._shuffle, self._drop_last, self._reading = shuffle, drop_last, reading
        self.images, self.targets = self._first()

    def __len__(self) -> int:
        """The number of batches."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def batches(
        self,
        ranks: Sequence[int],
        rank: int,
        *,
        weights: Sequence[float] | None = None,
        seed: int,
        epoch: int,
    ) -> Iterator[tuple[list[int], Tensor, Targets]]:
        """Yield the batches of one epoch: the samples of each of `ranks`, the images, the targets.

        Args:
            ranks: those that have data.
            rank: the one whose share is read.
            weights: how the samples of a batch are shared among `ranks`; None: evenly.
        """
        length, size = len(self.dataset), self.batch_size
        order = permutation(length, seed, epoch) if self._shuffle else torch.arange(length)
        sizes, own = [], []
        for start in range(0, len(self) * size, size):
            batch = order[start : start + size]
            parts = consecutive(
                even_shares(len(batch), len(ranks))
                if weights is None
                else weighted_shares(len(batch), weights)
            )
            sizes.append([part.stop - part.start for part in parts])
            own.append(batch[parts[ranks.index(rank)]] if rank in ranks else batch[:0])
        read: DataLoader[Any] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=[part.tolist() for part in own if len(part)],
            # What draws in other processes differs by epoch and rank; nothing is drawn here.
            generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 4096 + rank),
            **self._reading,
        )
        arriving = iter(read)
        for of_ranks, part in zip(sizes, own, strict=True):
            images, targets = next(arriving) if len(part) else (self.images, self.targets)
            yield of_ranks, images, targets

    def _first(self) -> tuple[Tensor, Targets]:
        """A batch of no samples, made of the first sample.

        Raises:
            InputError: a sample is not an image and its target.
        """
        collate = self._reading.get("collate_fn") or default_collate
        batch = collate([self.dataset[0]])
        pair = isinstance(batch, tuple | list) and len(batch) == 2
        if not pair or not isinstance(batch[0], Tensor):
            raise InputError(
                f"dataset: its samples are collated to a {type(batch).__name__}; give pairs of an "
                "image, as a tensor, and its target"
            )
        images, targets = batch
        check_targets(targets, len(images))
        return images[:0], rows(targets, slice(0))
