"""Data sets of images with labels: scikit-learn's digits, folders of image files, and noise.

`open_data` opens the data set that `--stanza.data` names. `stanza.train.batches` decides which
samples a step uses.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from PIL import Image

from stanza.layout import Layout
from stanza.models import ARCHITECTURES
from stanza.options import Options
from stanza.train.pixels import UNREADABLE, WHITE, ImageShape, decode
from systems.schema import InputError

if TYPE_CHECKING:
    from torch import Tensor

Indices: TypeAlias = "Sequence[int] | Tensor"
"""The numbers of some samples: int64 [B]."""
Batch: TypeAlias = "tuple[Tensor, Tensor]"
"""Images float32 [B, C, H, W] and labels int64 [B]."""

SOURCES = "digits, folder:PATH or random"
FOLDER_LAYOUTS = (
    "give folder:PATH with PATH/train/<class>/*.jpg and PATH/val/<class>/*.jpg, "
    "or with PATH/<class>/*.jpg"
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
# Mean and standard deviation of ImageNet pixels in [0, 1]; grey takes the average over channels.
IMAGENET_STATISTICS = {
    1: ((0.449,), (0.226,)),
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
DECODE_THREADS = min(8, os.cpu_count() or 1)

DIGITS, DIGITS_TRAIN = 1797, 1437
RANDOM_TRAIN = 8192
RANDOM_TEST = 256
RANDOM_STRIDE = 499

_report_lock = threading.Lock()


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
    classes: int
    """The number of classes. Labels lie in [0, classes)."""
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


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """Image files, which are decoded when a batch asks for them.

    A file that cannot be read is named on stderr once, with the reason. The next file that can be
    read takes its place, so that batches keep their size and do not depend on who reads them.
    """

    samples: tuple[tuple[str, int], ...]
    """The path and the label of every sample."""
    image_shape: ImageShape
    corrupt: list[Path]
    """The list to which files that cannot be read are added."""

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Indices) -> Batch:
        """Read and decode the samples with these numbers, in several threads."""
        import torch

        # Pillow registers its formats on first use, and threads that race there fail to see some.
        Image.init()
        chosen = torch.as_tensor(indices, dtype=torch.int64).tolist()
        channels, height, width = self.image_shape
        pixels = np.empty((len(chosen), height, width, channels), dtype=np.float32)
        labels = torch.empty(len(chosen), dtype=torch.int64)
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            for row, (image, label) in enumerate(pool.map(self._read, chosen)):
                pixels[row] = image
                labels[row] = label
        mean, deviation = (torch.tensor(values) for values in IMAGENET_STATISTICS[channels])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        images.div_(WHITE).sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1))
        return images, labels

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        """The pixels float32 [H, W, C] and the label of a sample, or of the next readable one."""
        for candidate in range(index, index + len(self)):
            path, label = self.samples[candidate % len(self)]
            try:
                return decode(path, self.image_shape), label
            except UNREADABLE as error:
                self._report(Path(path), error)
        raise InputError(
            f"none of the {len(self):,} images can be read, the first of them {self.samples[0][0]}"
        )

    def _report(self, path: Path, error: Exception) -> None:
        """Name an unreadable file on stderr, unless that has been done."""
        with _report_lock:
            if path in self.corrupt:
                return
            self.corrupt.append(path)
            print(f"unreadable image {path}: {error}; using the next one instead", file=sys.stderr)


def data_for(options: Options, layout: Layout, seed: int) -> Data:
    """Open the data set of a run with this layout.

    Raises:
        InputError: there are no such data, or they do not fit the model, or do not fill a batch.
    """
    architecture = ARCHITECTURES[options.model]
    data = open_data(
        options.data,
        image_shape=architecture.image_shape,
        classes=architecture.classes,
        seed=seed,
    )
    workers = len(layout.data_ranks)
    samples = options.samples_per_step(workers)
    if samples > len(data.train):
        option = "global" if options.global_batch_size else "local"
        size = options.global_batch_size or options.local_batch(workers)
        raise InputError(
            f"--stanza.{option}-batch-size {size}: a step of {workers} workers needs {samples} "
            f"samples, {options.data} has {len(data.train)}; give a smaller batch"
        )
    return data


def open_data(source: str, *, image_shape: ImageShape, classes: int, seed: int = 0) -> Data:
    """Open the data set that the option --stanza.data names.

    digits       1,797 real grey images of 1x8x8 that scikit-learn ships: 1,437 train, 360 test.
    folder:PATH  PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*, where every 5th
                 file of each class is for testing. Classes are numbered in the order of their
                 names.
    random       noise with random labels, for measuring speed.

    Args:
        image_shape: the (C, H, W) that the model takes.
        classes: the number of classes that the model tells apart.
        seed: decides the noise. It changes nothing in the other data sets.

    Raises:
        InputError: there are no such data, or they do not fit the model.
    """
    name, _, path = source.partition(":")
    if source == "digits":
        return _digits(image_shape, classes)
    if source == "random":
        return _random(image_shape, classes, seed)
    if name == "folder" and path:
        return _folder(source, Path(path).expanduser(), image_shape, classes)
    raise InputError(f"--stanza.data {source}: unknown data; give {SOURCES}")


def _digits(image_shape: ImageShape, classes: int) -> Data:
    """Open scikit-learn's digits."""
    if image_shape != (1, 8, 8):
        wanted = "x".join(map(str, image_shape))
        raise InputError(
            f"--stanza.data digits: images are 1x8x8 but the model takes {wanted}; "
            "choose a model for 1x8x8 or other data"
        )
    _check_classes("digits", 10, classes)
    file = _digits_file()

    @cache
    def parts() -> tuple[Batch, Batch]:
        import torch

        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)  # 64 pixels and the label
        images = torch.tensor(rows[:, :-1] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        labels = torch.tensor(rows[:, -1])
        order = torch.from_numpy(np.random.default_rng(0).permutation(DIGITS))
        train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
        # The statistics are those of the training images alone: mean 0.305, deviation 0.376.
        images = (images - images[train].mean()) / images[train].std()
        return (images[train], labels[train]), (images[test], labels[test])

    return Data(
        f"digits ({DIGITS:,} real images, scikit-learn)",
        TensorSplit(DIGITS_TRAIN, lambda: parts()[0]),
        TensorSplit(DIGITS - DIGITS_TRAIN, lambda: parts()[1]),
        image_shape,
        classes=10,
    )


def _digits_file() -> Path:
    """The file of the digits in scikit-learn, found without importing it, which takes a second."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _random(image_shape: ImageShape, classes: int, seed: int) -> Data:
    """Make noise with random labels."""

    @cache
    def parts() -> tuple[Batch, Batch]:
        generator = np.random.default_rng(seed)
        train = _noise(RANDOM_TRAIN, image_shape, classes, generator)
        return train, _noise(RANDOM_TEST, image_shape, classes, generator)

    train = TensorSplit(RANDOM_TRAIN, lambda: parts()[0])
    test = TensorSplit(RANDOM_TEST, lambda: parts()[1])
    return Data("random (synthetic)", train, test, image_shape, classes)


def _noise(
    length: int, image_shape: ImageShape, classes: int, generator: np.random.Generator
) -> Batch:
    """Make `length` images of noise with random labels.

    The images are overlapping windows on one strip of noise, which takes a few megabytes.
    """
    import torch

    size = int(np.prod(image_shape))
    strip = generator.standard_normal(size + (length - 1) * RANDOM_STRIDE, dtype=np.float32)
    images = torch.from_numpy(strip).unfold(0, size, RANDOM_STRIDE).view(length, *image_shape)
    return images, torch.from_numpy(generator.integers(classes, size=length))


def _folder(source: str, path: Path, image_shape: ImageShape, classes: int) -> Data:
    """Open the image files below a folder. `source` is the option's value, for errors."""
    if image_shape[0] not in IMAGENET_STATISTICS:
        raise InputError(
            f"--stanza.data {source}: images have 1 or 3 channels but the model takes "
            f"{image_shape[0]}; choose another model"
        )
    if not path.is_dir():
        raise InputError(f"--stanza.data {source}: no such folder; {FOLDER_LAYOUTS}")
    separate = (path / "train").is_dir() and (path / "val").is_dir()
    train_root, test_root = (path / "train", path / "val") if separate else (path, path)
    names = _class_names(train_root)
    if not names:
        raise InputError(
            f"--stanza.data {source}: no class folders in {train_root}; {FOLDER_LAYOUTS}"
        )
    if unknown := sorted(set(_class_names(test_root)) - set(names)):
        raise InputError(
            f"--stanza.data {source}: class {unknown[0]} is in val but not in train; "
            "give both the same classes"
        )
    _check_classes(source, len(names), classes)

    train_files, test_files = _image_files(train_root, names), _image_files(test_root, names)
    if [] in train_files:
        empty = train_root / names[train_files.index([])]
        raise InputError(f"--stanza.data {source}: no images in {empty}; {FOLDER_LAYOUTS}")
    if not separate:
        test_files = [files[4::5] for files in train_files]
        train_files = [[f for n, f in enumerate(files, 1) if n % 5] for files in train_files]
    if not any(test_files):
        remedy = f"add some to {test_root}" if separate else "give a class at least 5 images"
        raise InputError(f"--stanza.data {source}: no test images; {remedy}")

    corrupt: list[Path] = []
    train = FolderSplit(_labelled(train_files), image_shape, corrupt)
    test = FolderSplit(_labelled(test_files), image_shape, corrupt)
    note = "" if separate else ", every 5th file of each class is for testing"
    kind = f"folder {path} ({len(train):,} train and {len(test):,} test images{note})"
    return Data(kind, train, test, image_shape, len(names), corrupt)


def _class_names(root: Path) -> list[str]:
    """The names of the folders in `root`, sorted, except hidden ones."""
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _image_files(root: Path, names: list[str]) -> list[list[str]]:
    """List the image files of each class, sorted. A class without a folder has none."""
    folders = [root / name for name in names]
    listing = [sorted(os.listdir(folder)) if folder.is_dir() else [] for folder in folders]
    return [
        [os.path.join(folder, n) for n in files if n.lower().endswith(IMAGE_SUFFIXES)]
        for folder, files in zip(folders, listing, strict=True)
    ]


def _labelled(files: list[list[str]]) -> tuple[tuple[str, int], ...]:
    """Join the files of all classes, each with its class's number."""
    return tuple((path, label) for label, paths in enumerate(files) for path in paths)


def _check_classes(source: str, in_data: int, classes: int) -> None:
    """Refuse data with more classes than the model tells apart."""
    if in_data > classes:
        raise InputError(
            f"--stanza.data {source}: {in_data} classes but the model has {classes}; "
            "choose a model with more classes"
        )
