"""The numbered clouds of a data set: sampled anew, kept in memory, or read from files.

A cloud depends on (seed, split, index, epoch) alone. So it does not matter which thread or process
makes it, when, or how many others are at work.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from sparsepipe.data.bad_files import BadFiles, naming
from sparsepipe.data.cloud import Cloud, Pose, make_cloud
from systems.schema import InputError

TRAIN, TEST = 0, 1
"""The numbers of the splits. They are part of every seed, so no train cloud is a test cloud."""

Sampler = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""A function that draws at most as many points from a surface as it is asked for. It takes that
number and a random generator, and returns points and normals, both float64 [N, 3]."""


class Split(Protocol):
    """The clouds for training, or those for testing, numbered from 0 to len(split) - 1."""

    def __len__(self) -> int: ...

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Make the cloud of this number. A cloud for training has another pose and other points in
        each epoch.

        Raises:
            IndexError: there is no cloud of this number.
            InputError: no file of the split can be read.
        """
        ...


@dataclass(frozen=True)
class Clouds:
    """A data set."""

    kind: str
    """What the data set is, in words for records of runs."""
    train: Split
    test: Split
    class_names: tuple[str, ...]
    """The name of each label; empty where all labels are -1, which means unknown."""
    bad_files: BadFiles = field(default_factory=BadFiles)
    """The files that could not be read. The list grows while clouds are read."""


@dataclass(frozen=True)
class Making:
    """How the clouds of one split are made of points and normals."""

    seed: int
    split: int
    """TRAIN or TEST."""
    points: int
    """The largest number of points in a cloud."""
    normals: bool
    """Whether features are the normals [N, 3] instead of ones [N, 1]."""
    pose: Pose
    """How clouds are posed at random."""

    def generator(self, index: int, epoch: int) -> np.random.Generator:
        """The random generator of one cloud. Test clouds are the same in all epochs."""
        epoch = epoch if self.split == TRAIN else 0
        return np.random.default_rng((self.seed, self.split, epoch, index))

    def cloud(
        self,
        points: np.ndarray,
        normals: np.ndarray | None,
        label: int,
        generator: np.random.Generator,
    ) -> Cloud:
        """Make a cloud of points and normals [N, 3] in a random pose. Points above the largest
        number are left out at random."""
        if len(points) > self.points:
            rows = generator.permutation(len(points))[: self.points]
            points, normals = points[rows], None if normals is None else normals[rows]
        points, normals = self.pose.place(points, normals, generator)
        return make_cloud(points, normals if self.normals else None, label)


@dataclass(frozen=True)
class SampledSplit:
    """Clouds that are sampled anew from surfaces. Cloud i is of class i modulo the number of
    classes."""

    samplers: tuple[Sampler, ...]
    """What draws points of each class."""
    clouds: int
    """How many clouds there are."""
    making: Making

    def __len__(self) -> int:
        return self.clouds

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Make cloud number `index`, as `Split.cloud` says."""
        _check_index(index, len(self))
        generator = self.making.generator(index, epoch)
        label = index % len(self.samplers)
        points, normals = self.samplers[label](self.making.points, generator)
        return self.making.cloud(points, normals, label, generator)


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Clouds that are kept in memory."""

    points: np.ndarray
    """float32 [M, N, 3]: the points of M clouds."""
    labels: np.ndarray
    """int64 [M]: the label of each cloud."""
    making: Making

    def __len__(self) -> int:
        return len(self.labels)

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Make cloud number `index`, as `Split.cloud` says."""
        _check_index(index, len(self))
        generator = self.making.generator(index, epoch)
        return self.making.cloud(self.points[index], None, int(self.labels[index]), generator)


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Clouds in files, one in each, which are read when they are asked for.

    A file that cannot be read is named once on stderr and counted in `bad_files`. The next
    readable file takes its place, so that mini-batches keep their size.
    """

    samples: tuple[tuple[Path, int], ...]
    """The files, each with the label of its cloud."""
    read: Callable[[Path, int, np.random.Generator], Cloud]
    """Reads the cloud in a file, given its label and a random generator."""
    generator: Callable[[int, int], np.random.Generator]
    """Makes the random generator of a cloud, given its number and the epoch."""
    bad_files: BadFiles

    def __len__(self) -> int:
        return len(self.samples)

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Make cloud number `index`, as `Split.cloud` says."""
        _check_index(index, len(self))
        for candidate in range(index, index + len(self)):
            path, label = self.samples[candidate % len(self)]
            if path in self.bad_files:
                continue
            try:
                with naming(path):
                    return self.read(path, label, self.generator(index, epoch))
            except InputError as error:
                self.bad_files.report(path, error, "using the next one instead")
        raise InputError(
            f"none of the {len(self):,} files can be read, the first of them {self.samples[0][0]}"
        )


def _check_index(index: int, length: int) -> None:
    """Raise IndexError if a split of `length` clouds has no cloud number `index`."""
    if not 0 <= index < length:
        raise IndexError(f"cloud {index}: there are {length}, counted from 0")
