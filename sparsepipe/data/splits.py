"""The clouds of a data set, numbered: sampled anew, held in memory, or read from files.

A cloud depends on (seed, split, index, epoch) alone, so it does not matter who makes it, when, or
how many others are at work.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from sparsepipe.data.bad_files import BadFiles, naming
from sparsepipe.data.cloud import Cloud, Pose, make_cloud
from systems.schema import InputError

TRAIN, TEST = 0, 1  # part of every seed: no train cloud is a test cloud

# A number of points and a generator to points and normals, both float64 [at most count, 3].
Sampler = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class Split(Protocol):
    """The clouds of one split, numbered from 0 to len - 1."""

    def __len__(self) -> int: ...

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """The cloud of this number, in training with another pose and other points each epoch."""
        ...


@dataclass(frozen=True)
class Clouds:
    """A data set: `kind` describes it in records, labels lie in [0, len(class_names)) or are -1.

    `bad_files` grows while clouds are read: the files that could not be, each once.
    """

    kind: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    bad_files: BadFiles = field(default_factory=BadFiles)


@dataclass(frozen=True)
class Making:
    """How the clouds of one split are made of points and normals."""

    seed: int
    split: int
    points: int
    normals: bool
    pose: Pose

    def generator(self, index: int, epoch: int) -> np.random.Generator:
        """Of its own for every cloud; test clouds are the same in all epochs."""
        epoch = epoch if self.split == TRAIN else 0
        return np.random.default_rng((self.seed, self.split, epoch, index))

    def cloud(
        self,
        points: np.ndarray,
        normals: np.ndarray | None,
        label: int,
        generator: np.random.Generator,
    ) -> Cloud:
        """At most `points` of the points [N, 3], placed; features are normals or ones."""
        if len(points) > self.points:
            rows = generator.permutation(len(points))[: self.points]
            points, normals = points[rows], None if normals is None else normals[rows]
        points, normals = self.pose.place(points, normals, generator)
        return make_cloud(points, normals if self.normals else None, label)


@dataclass(frozen=True)
class SampledSplit:
    """Clouds sampled anew from surfaces, one sampler a class, classes in turn."""

    samplers: tuple[Sampler, ...]
    clouds: int
    making: Making

    def __len__(self) -> int:
        return self.clouds

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Cloud number `index`: see `Split`."""
        _check_index(index, len(self))
        generator = self.making.generator(index, epoch)
        label = index % len(self.samplers)
        points, normals = self.samplers[label](self.making.points, generator)
        return self.making.cloud(points, normals, label, generator)


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Clouds in memory: points float32 [M, N, 3], labels int64 [M]."""

    points: np.ndarray
    labels: np.ndarray
    making: Making

    def __len__(self) -> int:
        return len(self.labels)

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Cloud number `index`: see `Split`."""
        _check_index(index, len(self))
        generator = self.making.generator(index, epoch)
        return self.making.cloud(self.points[index], None, int(self.labels[index]), generator)


@dataclass(frozen=True, eq=False)
class FileSplit:
    """A file for every cloud, read when the cloud is asked for.

    A file that cannot be read is named once on stderr and counted in `bad_files`. The next
    readable file takes its place, so that mini-batches keep their size.
    """

    samples: tuple[tuple[Path, int], ...]  # file and label
    read: Callable[[Path, int, np.random.Generator], Cloud]
    generator: Callable[[int, int], np.random.Generator]
    bad_files: BadFiles

    def __len__(self) -> int:
        return len(self.samples)

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Cloud number `index`: see `Split`."""
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
    if not 0 <= index < length:
        raise IndexError(f"cloud {index}: there are {length}, counted from 0")
