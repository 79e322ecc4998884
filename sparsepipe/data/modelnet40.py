"""ModelNet40 in its three public layouts: folders of OFF meshes, HDF5 files, and text with normals.

The OFF meshes have z up. The other two layouts were exported with y up and are turned here.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsepipe.data.bad_files import BadFiles, naming
from sparsepipe.data.cloud import check_finite
from sparsepipe.data.cloud_files import LabelledFiles, Samples
from sparsepipe.data.mesh_files import read_mesh
from systems.schema import InputError

LAYOUTS = (
    "give DIR with <class>/train/*.off and <class>/test/*.off, with ply_data_train*.h5 and "
    "ply_data_test*.h5, or with modelnet40_train.txt and <class>/<class>_0001.txt"
)
Stack = tuple[np.ndarray, np.ndarray]
"""The points, float32 [M, N, 3], and the labels, int64 [M], of M objects."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """The data set in the HDF5 layout, which is read into memory at once."""

    train: Stack
    test: Stack
    class_names: tuple[str, ...]


def find(root: Path, bad_files: BadFiles) -> LabelledFiles | Arrays:
    """Find the data set in a folder, in whichever layout it is there. HDF5 files that cannot be
    read are added to `bad_files`.

    Raises:
        InputError: the folder has none of the layouts, or no training objects.
    """
    if any(root.glob("ply_data_train*.h5")):
        return _find_arrays(root, bad_files)
    is_text = (root / "modelnet40_train.txt").is_file()
    objects = _find_texts(root) if is_text else _find_meshes(root)
    if not objects.train:
        raise InputError(f"no training objects in {root}; {LAYOUTS}")
    return objects


def read(path: Path, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Read an object: draw `count` points from the surface of a mesh, or take all stored points of
    a text file.

    Returns:
        Points and normals, both float64 [N, 3].
    """
    if path.suffix == ".off":
        return read_mesh(path).sample(count, generator)
    return read_text(path)


def read_text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a text file with lines x,y,z,nx,ny,nz.

    Returns:
        Points and normals, both float64 [N, 3], with z up.

    Raises:
        InputError: the file cannot be read, or a line is not like that.
    """
    with naming(path):
        text = path.read_text(encoding="ascii")
        lines = text.split()
        if not lines:
            raise InputError("no points")
        if any(line.count(",") != 5 for line in lines):
            wrong = next(line for line in lines if line.count(",") != 5)
            raise InputError(f"the line {wrong[:60]!r} is not x,y,z,nx,ny,nz")
        table = np.array(list(map(float, ",".join(lines).split(",")))).reshape(-1, 6)
        check_finite(table[:, :3], "point")
        check_finite(table[:, 3:], "normal")
        return z_up(table[:, :3]), z_up(table[:, 3:])


def z_up(points: np.ndarray) -> np.ndarray:
    """Turn points or normals [..., 3] that have y up so that z is up."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def _find_meshes(root: Path) -> LabelledFiles:
    """List the files of the layout of OFF meshes. A folder that contains `train` is a class."""
    class_names = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
    train, test = (
        tuple(
            (path, label)
            for label, name in enumerate(class_names)
            for path in sorted((root / name / split).glob("*.off"))
        )
        for split in ("train", "test")
    )
    return LabelledFiles(train, test, tuple(class_names))


def _find_texts(root: Path) -> LabelledFiles:
    """List the files of the layout of texts, which names its classes and objects in text files."""
    names_file = root / "modelnet40_shape_names.txt"
    class_names = _lines(names_file)
    labels = {name: label for label, name in enumerate(class_names)}

    def samples(listing: Path) -> Samples:
        """The files that a listing of objects names, with their labels."""
        files = []
        for object_name in _lines(listing):
            class_name = object_name.rpartition("_")[0]  # night_stand_0001 is a night_stand
            if class_name not in labels:
                raise InputError(
                    f"{listing}: {object_name!r} is not of a class in {names_file.name}"
                )
            files.append((root / class_name / f"{object_name}.txt", labels[class_name]))
        return tuple(files)

    train, test = (samples(root / f"modelnet40_{split}.txt") for split in ("train", "test"))
    return LabelledFiles(train, test, tuple(class_names))


def _lines(path: Path) -> list[str]:
    """The words of a text file, which has one on each line."""
    with naming(path):
        return path.read_text(encoding="utf-8").split()


def _find_arrays(root: Path, bad_files: BadFiles) -> Arrays:
    """Read the HDF5 layout. Files that cannot be read are added to `bad_files`."""
    if importlib.util.find_spec("h5py") is None:
        raise InputError("HDF5 files need h5py; run: pip install h5py")
    train, test = (_read_stacks(root, split, bad_files) for split in ("train", "test"))
    if not len(train[1]):
        raise InputError(f"none of the files ply_data_train*.h5 in {root} can be read; {LAYOUTS}")
    names_file = root / "shape_names.txt"
    classes = int(max(train[1].max(), test[1].max(initial=0))) + 1
    class_names = _lines(names_file) if names_file.is_file() else list(map(str, range(classes)))
    if len(class_names) < classes:
        raise InputError(
            f"{names_file}: it has {len(class_names)} names, but labels go up to {classes - 1}"
        )
    return Arrays(train, test, tuple(class_names))


def _read_stacks(root: Path, split: str, bad_files: BadFiles) -> Stack:
    """Read all HDF5 files of a split, "train" or "test", and join their objects."""
    points, labels = [np.empty((0, 2048, 3), np.float32)], [np.empty(0, np.int64)]
    for path in sorted(root.glob(f"ply_data_{split}*.h5")):
        try:
            stack = _read_stack(path)
        except InputError as error:
            bad_files.report(path, error, "going on without it")
            continue
        points.append(stack[0])
        labels.append(stack[1])
    return np.concatenate(points[1:] or points), np.concatenate(labels)


def _read_stack(path: Path) -> Stack:
    """Read the objects of one HDF5 file."""
    import h5py

    with naming(path):
        with h5py.File(path) as file:
            points, labels = np.asarray(file["data"][:]), np.asarray(file["label"][:]).ravel()
        if points.ndim != 3 or points.shape[2] != 3 or len(points) != len(labels):
            shapes = f"{list(points.shape)} and label {list(labels.shape)}"
            raise InputError(f"data {shapes}; expected [M, N, 3] and [M, 1]")
        if points.shape[1] == 0 or labels.min(initial=0) < 0:
            raise InputError("some clouds have no points, or some labels are below 0")
        check_finite(points.reshape(-1, 3), "point")
        return z_up(points).astype(np.float32), labels.astype(np.int64)
