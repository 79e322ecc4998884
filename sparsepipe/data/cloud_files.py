"""Clouds that are stored as points: LiDAR frames (KITTI's .bin) and arrays (.npy, .npz) in
folders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsepipe.data.bad_files import BadFiles, naming
from sparsepipe.data.cloud import Cloud, make_cloud
from systems.schema import InputError

Samples = tuple[tuple[Path, int], ...]
"""Files, each with the label of its cloud."""

SUFFIXES = {"kitti": (".bin",), "points": (".npy", ".npz")}
"""The endings of the files of each data set."""
SPLITS = (("train", "test"), ("training", "testing"), ("train", "val"))
"""Names of the two folders that divide a data set."""
KINDS = ("no label", "one label", "a label for each point")
"""What a file may have, by the number of its labels."""
IGNORED = -100
"""The label of points that are not learnt; torch's losses leave it out."""
MOST_CLASSES = 2**20
"""Labels are below this. Larger ones are -1 in an unsigned type, or none at all."""
FRAME_COLUMNS = 4
"""A LiDAR frame has x, y and z in metres, and the reflectance."""


@dataclass(frozen=True)
class LabelledFiles:
    """The files of a data set."""

    train: Samples
    """The files for training, with their labels."""
    test: Samples
    """The files for testing, with their labels."""
    class_names: tuple[str, ...]
    """The name of each label; empty where nothing is labelled."""


def read_kitti(path: Path, label: int = -1) -> Cloud:
    """Read a LiDAR frame, float32 [N, 4] = (x, y, z, reflectance). The cloud's features [N, 1] are
    the reflectance.

    Raises:
        InputError: the file cannot be read or is truncated.
    """
    with naming(path):
        size = path.stat().st_size
        if size % (4 * FRAME_COLUMNS):
            raise InputError(f"{size} bytes, not a multiple of 16: is it truncated?")
        frame = np.fromfile(path, dtype="<f4").reshape(-1, FRAME_COLUMNS)
        return make_cloud(frame[:, :3], frame[:, 3:], label)


def read_points(path: Path, label: int = -1) -> Cloud:
    """Read a cloud from an array [N, 3 + F] in an .npy file, or from the arrays `points` [N, 3]
    and, if it is there, `features` [N, F] of an .npz file. Without features, each point gets the
    feature 1. An array `labels` [N] labels the points, unless the cloud has a label already.

    Raises:
        InputError: the file cannot be read, or its arrays have other shapes.
    """
    with naming(path):
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            if stored.ndim != 2 or stored.shape[1] < 3:
                raise InputError(f"the array has shape {list(stored.shape)}; give [N, 3 + F]")
            more = stored[:, 3:] if stored.shape[1] > 3 else None
            return make_cloud(stored[:, :3], more, label)
        with stored:
            if "points" not in stored:
                raise InputError("the file has no array 'points'; give points [N, 3]")
            features = stored.get("features")
            labels = stored.get("labels") if label == -1 else None
            return make_cloud(stored["points"], features, label, labels)


def read_labels(path: Path) -> np.ndarray:
    """Read the array `labels` of an .npz file: one label for the cloud, or [N] for its points. It
    is empty for an .npz file without that array and for an .npy file.

    Raises:
        InputError: the file cannot be read, or `labels` are no such numbers.
    """
    with naming(path):
        if path.suffix.lower() != ".npz":
            return np.zeros(0, np.int64)
        with np.load(path, allow_pickle=False) as stored:
            labels: np.ndarray = stored.get("labels", np.zeros(0, np.int64))
        known = labels[labels != IGNORED] if labels.dtype.kind == "i" else labels
        if labels.ndim > 1 or labels.dtype.kind not in "iu" or known.min(initial=0) < 0:
            shape, kind = list(labels.shape), labels.dtype
            raise InputError(
                f"labels are {kind} of shape {shape}; give one label for the cloud, or one for "
                f"each point: 0 or more, or {IGNORED} for points whose label is unknown"
            )
        if known.max(initial=0) >= MOST_CLASSES:
            raise InputError(
                f"the label {known.max()} is too large for a class: give labels below "
                f"{MOST_CLASSES}, or {IGNORED} for points whose label is unknown"
            )
        return labels.astype(np.int64).reshape(-1)


def files(folder: Path, suffixes: tuple[str, ...], *, deep: bool = False) -> list[Path]:
    """The files in a folder whose names end in one of the suffixes, sorted. With `deep`, the files
    in folders inside it as well."""
    paths = folder.rglob("*") if deep else folder.glob("*")
    return sorted(path for path in paths if path.suffix.lower() in suffixes and path.is_file())


def find(root: Path, name: str, bad_files: BadFiles) -> LabelledFiles:
    """List the files of the data set `name`, "kitti" or "points", in the folder `root`.

    Folders like `train` and `test` divide them. Where there are none, every fifth file of each
    class is for testing. Files whose labels cannot be read are added to `bad_files`.

    Raises:
        InputError: there are no files for training, or labels that do not fit together.
    """
    folders = next((p for p in SPLITS if all((root / half).is_dir() for half in p)), None)
    if folders is None:
        samples, class_names = _labelled(root, name, bad_files)
        by_label: dict[int, list[tuple[Path, int]]] = {}
        for sample in samples:
            by_label.setdefault(sample[1], []).append(sample)
        fifths = {sample for group in by_label.values() for sample in group[4::5]}
        train, test = tuple(s for s in samples if s not in fifths), tuple(sorted(fifths))
    else:
        train, class_names = _labelled(root / folders[0], name, bad_files)
        test, test_names = _labelled(root / folders[1], name, bad_files, class_names)
        class_names = max(class_names, test_names, key=len)
    if not train:
        raise InputError(f"no files {' or '.join(SUFFIXES[name])} in {root}; check the folder")
    return LabelledFiles(train, test, class_names)


def _labelled(
    folder: Path, name: str, bad_files: BadFiles, train_names: tuple[str, ...] = ()
) -> tuple[Samples, tuple[str, ...]]:
    """The files in a folder with their labels, and the names of the classes.

    KITTI's frames have no labels. Other files get theirs from the folder that they are in, or,
    where they are in none, from what they say themselves. `train_names` are the classes of the
    training files, if these were listed before; the folder may not have others.
    """
    if name == "kitti":
        return tuple((path, -1) for path in files(folder, SUFFIXES[name], deep=True)), ()
    if files(folder, SUFFIXES[name]):
        return _own_labels(folder, bad_files)
    folders = [path for path in folder.iterdir() if path.is_dir()]
    class_names = sorted(path.name for path in folders if not path.name.startswith("."))
    if train_names and (unknown := sorted(set(class_names) - set(train_names))):
        raise InputError(
            f"class {unknown[0]} has no training files; give both splits the same classes"
        )
    class_names = list(train_names) or class_names
    return tuple(
        (path, label)
        for label, class_name in enumerate(class_names)
        for path in files(folder / class_name, SUFFIXES[name])
    ), tuple(class_names)


def _own_labels(folder: Path, bad_files: BadFiles) -> tuple[Samples, tuple[str, ...]]:
    """The files in a folder with the labels that they contain, and the labels' names, which are
    their numbers. A file that labels its points has the label -1 here."""
    samples, kinds, highest = [], dict[str, Path](), -1
    for path in files(folder, SUFFIXES["points"]):
        try:
            labels = read_labels(path)
        except InputError as error:
            bad_files.report(path, error, "going on without it")
            continue
        kinds.setdefault(KINDS[min(len(labels), 2)], path)
        samples.append((path, int(labels[0]) if len(labels) == 1 else -1))
        highest = max(highest, int(labels.max(initial=-1)))
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise InputError(
            f"{first.name} has {one} but {second.name} has {other}; label all of them alike"
        )
    return tuple(samples), tuple(map(str, range(highest + 1)))
