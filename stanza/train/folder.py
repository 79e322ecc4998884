"""Data sets in folders of image files, a folder for every class."""

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stanza.train.classes import check_classes
from stanza.train.pixels import UNREADABLE, WHITE, ImageShape, decode
from systems.data.dataset import Batch, Data, Indices
from systems.schema import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
# Mean and standard deviation of ImageNet pixels in [0, 1]; grey takes the average over channels.
IMAGENET_STATISTICS = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
DECODE_THREADS = min(8, os.cpu_count() or 1)
_report_lock = threading.Lock()
FOLDER_LAYOUTS = (
    "give folder:PATH with PATH/train/<class>/*.jpg and PATH/val/<class>/*.jpg, "
    "or with PATH/<class>/*.jpg"
)


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


def open_folder(source: str, path: Path, image_shape: Sequence[int], classes: int | None) -> Data:
    """Open the image files below a folder.

    Args:
        source: the option's value, for errors.
        classes: the number that the model tells apart; None: any number.
    """
    if len(image_shape) != 3:
        dims = " ".join(map(str, image_shape))
        raise InputError(
            f"--stanza.image-shape {dims}: files have channels, height and width; give three "
            "numbers"
        )
    channels, height, width = image_shape
    if channels not in IMAGENET_STATISTICS:
        raise InputError(
            f"--stanza.data {source}: images have 1 or 3 channels but the model takes "
            f"{channels}; choose another model"
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
    if classes is not None:
        check_classes(source, len(names), classes)

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
    shape = (channels, height, width)
    train = FolderSplit(_labelled(train_files), shape, corrupt)
    test = FolderSplit(_labelled(test_files), shape, corrupt)
    note = "" if separate else ", every 5th file of each class is for testing"
    kind = f"folder {path} ({len(train):,} train and {len(test):,} test images{note})"
    return Data(kind, train, test, shape, len(names), corrupt)


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
