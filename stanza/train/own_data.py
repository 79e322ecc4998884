"""A data set of one's own, which `--stanza.data` names by its import path.

The path names a function that returns the training samples and the test samples:

    def make():
        return train, test        # test may be None: then nothing is tested

Either may be a data set in torch's manner (`len(samples)`, and `samples[i]` is an image and its
target) or a pair of tensors, all images and all targets. The function may also return a `Data` of
`systems.data.dataset`. It is called with `image_shape` and `classes` (or `num_classes`), if it has
parameters of these names. Every process calls it once, and all must get the same samples in the
same order; it is called on the machine where the samples are read.

Images are float32, all of one shape. Targets are labels int64 from 0 to classes - 1 for the cross
entropy, or, for a loss of one's own, tensors with a row for every sample. Of Python's numbers whole
ones become int64 and others float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from stanza.train.classes import check_classes
from systems import by_path
from systems.data.dataset import Batch, Data, Indices, TensorSplit
from systems.schema import InputError

OPTION = "--stanza.data"
CONTRACT = "give a train and a test data set, each of (image, target), or of two tensors"


@dataclass(frozen=True, eq=False)
class OwnSplit:
    """Samples of a data set in torch's manner, read one by one."""

    samples: Any
    """`len(samples)` and `samples[i]`: an image and its target."""
    where: str
    """The option and its value, for errors."""
    classes: int | None = None
    """Labels are checked to lie below this number; None: targets are no labels."""

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Indices) -> Batch:
        """Read the samples with these numbers."""
        chosen = torch.as_tensor(indices, dtype=torch.int64).tolist()
        read = [self._read(index) for index in chosen]
        try:
            images, targets = default_collate(read)
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"{self.where}: samples {chosen[0]} to {chosen[-1]} do not make a batch: "
                f"{str(error).splitlines()[0]}; give tensors of one shape"
            ) from None
        if isinstance(images, Tensor) and images.dtype != torch.float32:
            _check_image(images, None, f"{self.where}: samples {chosen[0]} to {chosen[-1]}")
        if isinstance(targets, Tensor) and targets.dtype == torch.float64:
            targets = targets.float()
        if self.classes is not None:
            check_labels(targets, self.classes, self.where)
        return images, targets

    def _read(self, index: int) -> Any:
        """Read one sample: an image and its target."""
        try:
            sample = self.samples[index]
        except Exception as error:  # the user's own code runs here
            failure = by_path.failure(error)
            raise InputError(f"{self.where}: sample {index} fails: {failure}") from error
        if not isinstance(sample, Sequence) or len(sample) != 2:
            kind = type(sample).__name__
            raise InputError(
                f"{self.where}: sample {index} is a {kind}; give an image and its target"
            )
        return tuple(sample)


def open_own(source: str, image_shape: tuple[int, ...] | None, classes: int | None) -> Data:
    """Open a data set of one's own.

    Args:
        source: the import path.
        image_shape: the shape that the model takes; None takes that of the data.
        classes: the number of classes that the model tells apart; None takes that of the data, and
            is left at None where targets are no labels.

    Raises:
        InputError: it cannot be imported or made, is no data set, or does not fit the model.
    """
    where = f"{OPTION} {source}"
    data = _made(source, image_shape, classes)
    if isinstance(data, Data):
        _check_shape(data.image_shape, image_shape, where)
        if data.classes is not None and classes is not None:
            check_classes(source, data.classes, classes)
        return data
    if not isinstance(data, Sequence) or len(data) != 2:
        raise InputError(f"{where}: returns a {type(data).__name__}; {CONTRACT}")
    train, test = (_split(part, where) for part in data)
    if not len(train):
        raise InputError(f"{where}: the training data are empty; {CONTRACT}")
    image, target = (value[0] for value in train.batch([0]))
    _check_image(image, image_shape, where)
    if not is_label(target):
        classes = None
    else:
        classes = _classes(data, train, test, classes, source)
        train, test = (_labelled(split, classes, where) for split in (train, test))
    kind = f"{by_path.short(source)} ({len(train):,} train and {len(test):,} test samples)"
    return Data(kind, train, test, tuple(image.shape), classes)


@cache
def _made(source: str, image_shape: tuple[int, ...] | None, classes: int | None) -> Any:
    """Call the user's function, once in a process; returns what it returns."""
    factory = by_path.load(source, OPTION)
    parameters = by_path.named_parameters(factory)
    known = {"image_shape": image_shape, "classes": classes, "num_classes": classes}
    arguments = {k: v for k, v in known.items() if k in parameters and v is not None}
    return by_path.call(factory, source, OPTION, **arguments)


def forget() -> None:
    """Free what the user's functions have returned, in a process that has only checked it."""
    _made.cache_clear()


def _split(part: Any, where: str) -> OwnSplit | TensorSplit:
    """The training or the test samples."""
    if part is None:
        return OwnSplit((), where)
    if isinstance(part, torch.utils.data.TensorDataset):
        part = part.tensors
    if isinstance(part, (tuple, list)) and len(part) == 2 and all(map(_is_array, part)):
        images, targets = (torch.as_tensor(values) for values in part)
        if len(images) != len(targets):
            raise InputError(
                f"{where}: {len(images)} images and {len(targets)} targets; give as many of both"
            )
        return TensorSplit(len(images), lambda: (images, targets))
    if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
        raise InputError(f"{where}: returns a {type(part).__name__} among others; {CONTRACT}")
    return OwnSplit(part, where)


def _is_array(value: Any) -> bool:
    """Whether a value is a tensor, or an array of NumPy, with samples."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def _check_image(image: Any, image_shape: tuple[int, ...] | None, where: str) -> None:
    """Refuse an image that is no float32 tensor, or not of the shape that the model takes."""
    if not isinstance(image, Tensor) or image.dtype != torch.float32:
        kind = str(image.dtype) if isinstance(image, Tensor) else type(image).__name__
        raise InputError(
            f"{where}: images are {kind.removeprefix('torch.')}; give float32, such as "
            "image.float() / 255"
        )
    _check_shape(tuple(image.shape), image_shape, where)


def _check_shape(
    own_shape: tuple[int, ...], image_shape: tuple[int, ...] | None, where: str
) -> None:
    """Refuse images of another shape than the model takes."""
    if image_shape is not None and own_shape != image_shape:
        shapes = ["x".join(map(str, shape)) for shape in (own_shape, image_shape)]
        raise InputError(
            f"{where}: images are {shapes[0]} but the model takes {shapes[1]}; give other data, "
            "another model or --stanza.image-shape"
        )


def is_label(target: Any) -> bool:
    """Whether the target of one sample is a class: a single int64."""
    return isinstance(target, Tensor) and target.dtype == torch.int64 and target.dim() == 0


def _classes(
    parts: Sequence[Any],
    train: OwnSplit | TensorSplit,
    test: OwnSplit | TensorSplit,
    classes: int | None,
    source: str,
) -> int | None:
    """The number of classes, as the model says or else the data; None if nobody does."""
    numbers = [_classes_told(part) for part in parts]
    numbers += [
        _most(split.samples[1]) for split in (train, test) if isinstance(split, TensorSplit)
    ]
    in_data = max((number for number in numbers if number is not None), default=None)
    if in_data is not None and classes is not None:
        check_classes(source, in_data, classes)
    return classes or in_data


def _classes_told(part: Any) -> int | None:
    """Read the number of classes from the attributes that data sets in torch's manner often
    have."""
    names = getattr(part, "classes", None)
    if isinstance(names, int) or isinstance(getattr(part, "num_classes", None), int):
        return int(names if isinstance(names, int) else part.num_classes)
    if isinstance(names, Sequence):
        return len(names)
    targets = getattr(part, "targets", None)
    return None if targets is None else _most(torch.as_tensor(targets))


def _most(labels: Tensor) -> int | None:
    """Return one more than the largest label; None without any label."""
    return int(labels.max()) + 1 if labels.numel() and not labels.is_floating_point() else None


def _labelled(
    split: OwnSplit | TensorSplit, classes: int | None, where: str
) -> OwnSplit | TensorSplit:
    """The samples, whose labels are checked: all at once in memory, else as they are read."""
    if isinstance(split, OwnSplit):
        return OwnSplit(split.samples, where, classes)
    if classes is not None:
        check_labels(split.samples[1], classes, where)
    return split


def check_labels(labels: Any, classes: int, where: str) -> None:
    """Refuse labels that are no classes."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise InputError(f"{where}: some targets are no int64 labels and others are; give one kind")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.max()) if int(labels.max()) >= classes else int(labels.min())
        raise InputError(
            f"{where}: the label {wrong} is no class, as there are {classes}; give labels from 0 "
            f"to {classes - 1}, or more --stanza.classes"
        )
