"""Data sets of point clouds by name: generated shapes, meshes, ModelNet40, LiDAR frames, arrays.

`load` opens what the option `--sparsepipe.data` names. `sparsepipe.data.prefetch` makes its clouds
ahead of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from sparsepipe.data import cloud_files, modelnet40, shapes
from sparsepipe.data.bad_files import BadFiles
from sparsepipe.data.cloud import AS_STORED, Cloud, Pose
from sparsepipe.data.mesh_files import SUFFIXES, read_mesh
from sparsepipe.data.splits import (
    TEST,
    TRAIN,
    ArraySplit,
    Clouds,
    FileSplit,
    Making,
    SampledSplit,
    Sampler,
    Split,
)
from sparsepipe.names import Rotation
from systems.schema import InputError

SOURCES = {
    "shapes": "shapes",
    "meshes": "meshes:DIR with *.obj, *.off or *.ply, a class each",
    "modelnet40": "modelnet40:DIR in one of its public layouts",
    "kitti": "kitti:DIR with *.bin (from Python only: it has no labels to train on)",
    "points": "points:DIR with *.npy or *.npz",
}
"""How each data set is named on the command line."""
SHAPES_TRAIN, SHAPES_TEST = 4800, 1200
"""How many clouds of generated shapes there are for training and for testing."""
TRAIN_PER_MESH, TEST_PER_MESH = 200, 50
"""How many clouds of each mesh there are for training and for testing."""
AUGMENTED = Pose(size=(0.8, 1.0), noise=0.005, partial=0.0)
"""How ModelNet40's training clouds vary. Its test clouds are as stored."""


def load(
    source: str,
    *,
    points: int = 2048,
    normals: bool = False,
    rotation: Rotation = "vertical",
    seed: int = 0,
) -> Clouds:
    """Open the data set that the option --sparsepipe.data names.

    shapes          generated surfaces of 12 classes in random poses; half of them lack a part
    meshes:DIR      one class for every OBJ, OFF or PLY file, posed like shapes; train and test
                    clouds are different samples and poses of the same meshes
    modelnet40:DIR  DIR/<class>/train|test/*.off, or DIR/ply_data_train*.h5 and
                    DIR/ply_data_test*.h5, or DIR/modelnet40_train.txt with
                    DIR/<class>/<class>_0001.txt; poses vary in training only
    kitti:DIR       LiDAR frames in metres with the reflectance as their feature; all labels are -1,
                    so a network cannot learn to classify them, and training refuses them
    points:DIR      arrays [N, 3 + F] in *.npy, or `points`, `features` and one label in `labels`
                    in *.npz

    The clouds of the last two are as stored. DIR/train and DIR/test divide them; where these are
    missing, every fifth file is for testing. In points:DIR the folders inside are classes; where
    there are none, the files contain their labels.

    Args:
        points: the largest number of points in a cloud of shapes, meshes or modelnet40.
        normals: whether the features of these three are the normals [N, 3] instead of ones [N, 1].
        rotation: how clouds of these three are rotated at random.
        seed: the seed of poses and samples. The division into train and test does not depend on it.

    Raises:
        InputError: there is no such data, or none of it can be read.
    """
    if points < 1:
        raise InputError(f"--sparsepipe.points {points}: give at least 1")
    if seed < 0:
        raise InputError(f"--sparsepipe.seed {seed}: give 0 or more")
    name, root = _check_source(source)
    making = Making(seed, TRAIN, points, normals, Pose(rotation=rotation))
    if name == "shapes":
        return _load_shapes(making)
    if name == "meshes":
        return _load_meshes(source, root, making)
    if name == "modelnet40":
        return _load_modelnet40(source, root, making)
    return _load_stored(source, name, root, making)


def _check_source(source: str) -> tuple[str, Path]:
    """Split `source` into the name of the data set and its folder, which must be there. The folder
    means nothing for shapes."""
    name, colon, folder = source.partition(":")
    if name not in SOURCES:
        forms = "; ".join(SOURCES.values())
        raise InputError(f"--sparsepipe.data {source}: unknown data; give {forms}")
    root = Path(folder).expanduser()
    if bool(colon) != (name != "shapes") or (colon and not (folder and root.is_dir())):
        problem = "no such folder" if folder and name != "shapes" else "unknown data"
        raise InputError(f"--sparsepipe.data {source}: {problem}; give {SOURCES[name]}")
    return name, root


def _load_shapes(making: Making) -> Clouds:
    """The generated shapes."""
    samplers = [partial(shapes.sample, name) for name in shapes.CLASSES]
    kind = f"shapes (synthetic, {len(samplers)} classes of surfaces)"
    return _sampled(kind, samplers, tuple(shapes.CLASSES), SHAPES_TRAIN, SHAPES_TEST, making)


def _load_meshes(source: str, root: Path, making: Making) -> Clouds:
    """A class for each mesh file in the folder `root`. A file that cannot be read is reported and
    has no class."""
    bad_files = BadFiles()
    class_names, samplers = [], []
    for path in cloud_files.files(root, SUFFIXES):
        try:
            samplers.append(read_mesh(path).sample)
            class_names.append(path.stem)
        except InputError as error:
            bad_files.report(path, error, "going on without its class")
    if not samplers:
        raise InputError(f"--sparsepipe.data {source}: no usable file; give {SOURCES['meshes']}")
    train, test = TRAIN_PER_MESH * len(samplers), TEST_PER_MESH * len(samplers)
    kind = f"meshes {root} ({len(samplers)} classes)"
    clouds = _sampled(kind, samplers, tuple(class_names), train, test, making)
    return replace(clouds, bad_files=bad_files)


def _sampled(
    kind: str,
    samplers: Sequence[Sampler],
    class_names: tuple[str, ...],
    train: int,
    test: int,
    making: Making,
) -> Clouds:
    """A data set whose clouds are sampled anew each time: `train` and `test` clouds, one class for
    each of the samplers."""
    return Clouds(
        kind,
        SampledSplit(tuple(samplers), train, making),
        SampledSplit(tuple(samplers), test, replace(making, split=TEST)),
        class_names,
    )


def _load_modelnet40(source: str, root: Path, making: Making) -> Clouds:
    """ModelNet40 in the folder `root`: training clouds are augmented, test clouds are as stored."""
    train = replace(making, pose=replace(AUGMENTED, rotation=making.pose.rotation))
    test = replace(making, split=TEST, pose=AS_STORED)
    bad_files = BadFiles()
    try:
        objects = modelnet40.find(root, bad_files)
        if isinstance(objects, modelnet40.Arrays):
            if making.normals:
                raise InputError(
                    "this layout of ModelNet40 has no normals; leave out --sparsepipe.normals"
                )
            splits: list[Split] = [
                ArraySplit(*objects.train, train),
                ArraySplit(*objects.test, test),
            ]
        else:
            splits = [
                _files(samples, partial(_modelnet40_cloud, how), how, bad_files)
                for samples, how in ((objects.train, train), (objects.test, test))
            ]
    except InputError as error:
        raise InputError(f"--sparsepipe.data {source}: {error}") from None
    kind = f"modelnet40 {root} ({len(splits[0]):,} train and {len(splits[1]):,} test clouds)"
    return Clouds(kind, splits[0], splits[1], objects.class_names, bad_files)


def _modelnet40_cloud(
    making: Making, path: Path, label: int, generator: np.random.Generator
) -> Cloud:
    """The cloud of one of ModelNet40's files, in a random pose."""
    points, normals = modelnet40.read(path, making.points, generator)
    return making.cloud(points, normals, label, generator)


def _load_stored(source: str, name: str, root: Path, making: Making) -> Clouds:
    """The clouds of the data set "kitti" or "points" in the folder `root`, as they are stored."""
    if making.normals:
        raise InputError(
            f"--sparsepipe.normals with {source}: the files contain the features; leave it out"
        )
    bad_files = BadFiles()
    try:
        read = cloud_files.read_kitti if name == "kitti" else cloud_files.read_points
        listed = cloud_files.find(root, name, bad_files)
        splits = [
            _files(samples, lambda path, label, _: read(path, label), making, bad_files)
            for samples in (listed.train, listed.test)
        ]
    except InputError as error:
        raise InputError(f"--sparsepipe.data {source}: {error}") from None
    kind = f"{name} {root} ({len(splits[0]):,} train and {len(splits[1]):,} test clouds)"
    return Clouds(kind, splits[0], splits[1], listed.class_names, bad_files)


def _files(
    samples: tuple[tuple[Path, int], ...],
    read: Callable[[Path, int, np.random.Generator], Cloud],
    making: Making,
    bad_files: BadFiles,
) -> FileSplit:
    """A split of files, of which at least one can be read."""
    split = FileSplit(samples, read, making.generator, bad_files)
    if len(split):
        split.cloud(0)  # raises an error if no file can be read, before training starts
    return split
