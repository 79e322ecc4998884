"""Clouds stored as they are: LiDAR frames (KITTI's .bin) and arrays (.npy, .npz), in folders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsepipe.data.bad_files import BadFiles, naming
from sparsepipe.data.cloud import Cloud, make_cloud
from systems.schema import InputError

Samples = tuple[tuple[Path, int], ...]  # file and label

SUFFIXES = {"kitti": (".bin",), "points": (".npy", ".npz")}
SPLITS = (("train", "test"), ("training", "testing"), ("train", "val"))
FRAME_COLUMNS = 4  # x, y, z in metres, reflectance


@dataclass(frozen=True)
class Found:
    """The files of both splits with their labels."""

    train: Samples
    test: Samples
    class_names: tuple[str, ...]


def read_kitti(path: Path, label: int = -1) -> Cloud:
    """A LiDAR frame: float32 [N, 4] = x, y, z, reflectance. Features are [N, 1]."""
    with naming(path):
        size = path.stat().st_size
        if size % (4 * FRAME_COLUMNS):
            raise InputError(f"{size} bytes, not a multiple of 16; truncated?")
        frame = np.fromfile(path, dtype="<f4").reshape(-1, FRAME_COLUMNS)
        return make_cloud(frame[:, :3], frame[:, 3:], label)


def read_points(path: Path, label: int = -1) -> Cloud:
    """A cloud from [N, 3 + F] in .npy, or points [N, 3] and perhaps features [N, F] in .npz.

    Features are ones [N, 1] where the file has none.
    """
    with naming(path):
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            if stored.ndim != 2 or stored.shape[1] < 3:
                raise InputError(f"an array of shape {list(stored.shape)}; give [N, 3 + F]")
            more = stored[:, 3:] if stored.shape[1] > 3 else None
            return make_cloud(stored[:, :3], more, label)
        with stored:
            if "points" not in stored:
                raise InputError("no array 'points' in it; give points [N, 3]")
            features = stored.get("features")
            return make_cloud(stored["points"], features, label)


def read_label(path: Path) -> int:
    """The one label in `labels` of an .npz file; -1 if it has none, as .npy files."""
    with naming(path):
        if path.suffix.lower() != ".npz":
            return -1
        with np.load(path, allow_pickle=False) as stored:
            if "labels" not in stored:
                return -1
            labels = stored["labels"]
        if labels.size != 1 or labels.dtype.kind not in "iu" or labels.item() < 0:
            shape, kind = list(labels.shape), labels.dtype
            raise InputError(f"labels {kind} of shape {shape}; give one label, 0 or more")
        return int(labels.item())


def files(folder: Path, suffixes: tuple[str, ...], *, deep: bool = False) -> list[Path]:
    """The files in a folder that end so, sorted; `deep`: in folders of it, too."""
    found = folder.rglob("*") if deep else folder.glob("*")
    return sorted(path for path in found if path.suffix.lower() in suffixes and path.is_file())


def find(root: Path, name: str, bad_files: BadFiles) -> Found:
    """The files of a kitti or points data set, and which of them are for testing.

    Raises InputError if there are no files for training.
    """
    pair = next((p for p in SPLITS if all((root / half).is_dir() for half in p)), None)
    if pair is None:
        samples, class_names = _labelled(root, name, bad_files)
        by_label: dict[int, list[tuple[Path, int]]] = {}
        for sample in samples:
            by_label.setdefault(sample[1], []).append(sample)
        test = {sample for group in by_label.values() for sample in group[4::5]}
        train, tested = tuple(s for s in samples if s not in test), tuple(sorted(test))
    else:
        train, class_names = _labelled(root / pair[0], name, bad_files)
        tested, test_names = _labelled(root / pair[1], name, bad_files, class_names)
        class_names = max(class_names, test_names, key=len)
    if not train:
        raise InputError(f"no files {' or '.join(SUFFIXES[name])} in {root}; check the folder")
    return Found(train, tested, class_names)


def _labelled(
    folder: Path, name: str, bad_files: BadFiles, known: tuple[str, ...] = ()
) -> tuple[Samples, tuple[str, ...]]:
    """Files with labels: none in kitti, by folder, or by what the file says."""
    if name == "kitti":
        return tuple((path, -1) for path in files(folder, SUFFIXES[name], deep=True)), ()
    if files(folder, SUFFIXES[name]):
        return _own_labels(folder, bad_files)
    class_names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if known and (unknown := sorted(set(class_names) - set(known))):
        raise InputError(f"class {unknown[0]} has no training files; give both the same classes")
    class_names = list(known) or class_names
    return tuple(
        (path, label)
        for label, class_name in enumerate(class_names)
        for path in files(folder / class_name, SUFFIXES[name])
    ), tuple(class_names)


def _own_labels(folder: Path, bad_files: BadFiles) -> tuple[Samples, tuple[str, ...]]:
    samples = []
    for path in files(folder, SUFFIXES["points"]):
        try:
            samples.append((path, read_label(path)))
        except InputError as error:
            bad_files.report(path, error, "going on without it")
    labels = {label for _, label in samples}
    if len(labels) > 1 and -1 in labels:
        path = next(path for path, label in samples if label == -1)
        raise InputError(f"{path.name} has no label but others have; give all of them one")
    return tuple(samples), tuple(map(str, range(max(labels, default=-1) + 1)))
