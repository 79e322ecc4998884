"""Data sets by name: every layout written by hand, sound and damaged."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsepipe.data import load as clouds
from sparsepipe.data.cloud import Cloud
from sparsepipe.data.cloud_files import read_labels, read_points
from sparsepipe.data.load import load
from sparsepipe.data.splits import Clouds
from systems.schema import InputError
from tests.pickles import archive, array, pickled, saved_by_torch

TRIANGLE = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 0 2\n3 0 1 2\n"


def same(a: Cloud, b: Cloud) -> bool:
    equal = np.array_equal(a.points, b.points) and np.array_equal(a.features, b.features)
    return equal and a.label == b.label


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_npz(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def labels_of(data: Clouds) -> tuple[list[int], list[int]]:
    train, test = (
        [split.cloud(i).label for i in range(len(split))] for split in (data.train, data.test)
    )
    return train, test


# Generated


def test_shapes() -> None:
    data = load("shapes", points=256)
    assert "synthetic" in data.kind
    assert len(data.class_names) == 12
    assert (len(data.train), len(data.test)) == (clouds.SHAPES_TRAIN, clouds.SHAPES_TEST)
    for index in range(24):
        cloud = data.train.cloud(index)
        assert (cloud.points.dtype, cloud.features.dtype) == (np.float32, np.float32)
        assert 20 < len(cloud.points) <= 256
        assert cloud.features.shape == (len(cloud.points), 1)
        assert (cloud.features == 1).all()
        assert cloud.label == index % 12
        assert cloud.points.min() >= -1e-6
        assert cloud.points.max() <= 1 + 1e-6


def test_clouds_depend_on_seed_split_index_and_epoch_alone() -> None:
    data, again, other = (load("shapes", points=64, seed=seed) for seed in (0, 0, 1))
    backwards = [again.train.cloud(i) for i in reversed(range(12))][::-1]
    for index in range(12):
        cloud = data.train.cloud(index)
        assert same(cloud, backwards[index])
        assert same(data.train.cloud(index, 3), again.train.cloud(index, 3))
        assert not same(cloud, data.train.cloud(index, 1))
        assert not same(cloud, data.train.cloud(index + 12))
        assert not same(cloud, data.test.cloud(index))
        assert not same(cloud, other.train.cloud(index))
        assert same(data.test.cloud(index, 0), data.test.cloud(index, 5))


def test_normals_are_features() -> None:
    cloud = load("shapes", points=64, normals=True, rotation="full").train.cloud(0)
    assert np.linalg.norm(cloud.features, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("index", [-1, 1200])
def test_no_such_cloud(index: int) -> None:
    with pytest.raises(IndexError, match=f"cloud {index}: there are 1200"):
        load("shapes").test.cloud(index)


def test_meshes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "b.off", TRIANGLE)
    write(tmp_path / "c.obj", "v 0 0 0\nv 1 1 1\n")
    write(tmp_path / "a.ply", "ply\n")
    write(tmp_path / "notes.txt", "")
    data = load(f"meshes:{tmp_path}", points=16)
    assert data.class_names == ("b", "c")
    assert labels_of(data)[1] == [0, 1] * 50
    assert data.bad_files.paths == [tmp_path / "a.ply"]
    assert capsys.readouterr().err.startswith(
        f"bad file {tmp_path / 'a.ply'}: the file is truncated"
    )
    assert len(data.train.cloud(1).points) in (1, 2)


def test_kitti(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        frame = np.full((number + 1, 4), number, dtype="<f4")
        write(tmp_path / "velodyne" / f"{number:06}.bin", frame.tobytes())
    write(tmp_path / "velodyne" / "000001.bin", b"17 bytes in total")
    write(tmp_path / "velodyne" / "000002.bin", b"")
    data = load(f"kitti:{tmp_path}")
    assert (len(data.train), len(data.test), data.class_names) == (5, 1, ())
    cloud = data.train.cloud(3)
    assert (cloud.points.shape, cloud.features.shape, cloud.label) == ((4, 3), (4, 1), -1)
    assert (cloud.features == 3).all()
    assert same(data.train.cloud(1), cloud)
    assert same(data.train.cloud(2), cloud)
    assert len(data.test.cloud(0).points) == 5
    report = capsys.readouterr().err
    assert "17 bytes, not a multiple of 16" in report
    assert "no points" in report
    assert len(data.bad_files) == 2


def test_points_in_class_folders(tmp_path: Path) -> None:
    for name in ("ape", "bee"):
        for number in range(5):
            path = tmp_path / name / f"{number}.npy"
            path.parent.mkdir(exist_ok=True)
            np.save(path, np.full((3, 5), number))
    data = load(f"points:{tmp_path}")
    assert data.class_names == ("ape", "bee")
    assert labels_of(data) == ([0] * 4 + [1] * 4, [0, 1])
    assert data.test.cloud(0).features.tolist() == [[4, 4]] * 3


def test_points_with_their_own_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = np.zeros((4, 3))
    for split in ("train", "test"):
        write_npz(tmp_path / split / "a.npz", points=place, labels=np.array([2]))
        write_npz(tmp_path / split / "b.npz", points=place, features=place, labels=np.int64(0))
    write_npz(tmp_path / "train" / "c.npz", points=place, labels=np.zeros((4, 2)))
    write(tmp_path / "train" / "d.npz", b"PK damaged")
    data = load(f"points:{tmp_path}")
    assert data.class_names == ("0", "1", "2")
    assert labels_of(data) == ([2, 0], [2, 0])
    assert data.train.cloud(0).features.shape == (4, 1)
    assert data.train.cloud(1).features.shape == (4, 3)
    assert "give one label" in capsys.readouterr().err
    assert len(data.bad_files) == 2


def test_labels_of_points(tmp_path: Path) -> None:
    place = np.arange(12).reshape(4, 3)
    for name, labels in (("a", [0, 3, -100, 1]), ("b", [1, 1, 1, 1])):
        write_npz(tmp_path / f"{name}.npz", points=place, labels=np.array(labels))
    data = load(f"points:{tmp_path}")
    assert data.class_names == ("0", "1", "2", "3")
    of_points = data.train.cloud(0).labels
    assert of_points is not None
    assert of_points.tolist() == [0, 3, -100, 1]
    write_npz(tmp_path / "c.npz", points=place, labels=2)
    with pytest.raises(InputError, match=r"a\.npz has a label for each point but c\.npz has one"):
        load(f"points:{tmp_path}")
    write_npz(tmp_path / "c.npz", points=place, labels=np.array([1, 2]))
    with pytest.raises(InputError, match=r"labels of shape \[2\] for points \[4, 3\]"):
        read_points(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"pts": np.zeros((4, 3))}, "no array 'points'"),
        ({"points": np.zeros((0, 3))}, "no points"),
        ({"points": np.zeros((4, 2))}, r"points of shape \[4, 2\]"),
        ({"points": np.zeros((4, 3)), "features": np.zeros((3, 1))}, "one row a point"),
        ({"points": np.full((4, 3), np.nan)}, "point 0"),
        ({"points": np.array([["a", "b", "c"]])}, "points are of <U1; give real numbers"),
        ({"points": np.ones((4, 3)) * 1j}, "points are of complex128"),
        ({"points": np.array([[None, None, None]])}, "Object arrays cannot be loaded"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    write_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match="none of the 1 files can be read"):
        load(f"points:{tmp_path}")
    with pytest.raises(InputError, match=reason):
        read_points(tmp_path / "a.npz")


@pytest.mark.parametrize("cut", [1, 60, 100, 130])
def test_truncated_arrays(tmp_path: Path, cut: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    content = (tmp_path / "a.npy").read_bytes()
    write(tmp_path / "a.npy", content[:cut])
    with pytest.raises(InputError, match=r"a\.npy: "):
        read_points(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.npy", pickled),
        ("a.npy", saved_by_torch),
        ("a.npy", array),
        ("a.npz", pickled),
        ("a.npz", saved_by_torch),
        ("a.npz", archive),
    ],
)
def test_files_of_strangers_run_no_code(
    tmp_path: Path, name: str, make: Callable[[Path], bytes]
) -> None:
    write(tmp_path / name, make(tmp_path / "trace"))
    for read in (read_points, read_labels):
        with suppress(InputError):
            read(tmp_path / name)
    with pytest.raises(InputError, match=r"none of the 1 files can be read|no files \.npy"):
        load(f"points:{tmp_path}")
    assert not (tmp_path / "trace").exists()


def test_labels_in_some_files_only(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", points=np.zeros((1, 3)), labels=1)
    write_npz(tmp_path / "b.npz", points=np.zeros((1, 3)))
    with pytest.raises(InputError, match=r"a\.npz has one label but b\.npz has no label"):
        load(f"points:{tmp_path}")


def test_a_test_class_without_training_files(tmp_path: Path) -> None:
    write_npz(tmp_path / "train" / "ape" / "a.npz", points=np.zeros((1, 3)))
    write_npz(tmp_path / "test" / "bee" / "a.npz", points=np.zeros((1, 3)))
    with pytest.raises(InputError, match="class bee has no training files"):
        load(f"points:{tmp_path}")


# Names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("shape", "unknown data"),
        ("shapes:", "unknown data"),
        ("shapes:DIR", "unknown data; give shapes"),
        ("meshes", "unknown data; give meshes:DIR"),
        ("kitti:", "unknown data; give kitti:DIR"),
        ("points:/no/such", "no such folder; give points:DIR"),
    ],
)
def test_unknown_data(source: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--sparsepipe.data {source}: {message}") as error:
        load(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["meshes", "modelnet40", "kitti", "points"])
def test_a_folder_without_usable_files(name: str, tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "")
    with pytest.raises(InputError, match=f"--sparsepipe.data {name}:{tmp_path}: ") as error:
        load(f"{name}:{tmp_path}")
    assert "\n" not in str(error.value)


def test_other_bad_options(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--sparsepipe\.points 0"):
        load("shapes", points=0)
    with pytest.raises(InputError, match=r"--sparsepipe\.seed -1"):
        load("shapes", seed=-1)
    with pytest.raises(InputError, match=r"--sparsepipe\.normals with kitti"):
        load(f"kitti:{tmp_path}", normals=True)


# Real data


def real(folder: str) -> Path:
    path = Path(os.environ.get("TESTBED_DATA", "")) / folder
    if "TESTBED_DATA" not in os.environ or not path.is_dir():
        pytest.skip(f"TESTBED_DATA names no folder with {folder}")
    return path


def test_real_meshes() -> None:
    data = load(f"meshes:{real('meshes')}", points=512)
    assert len(data.class_names) == 12
    assert not len(data.bad_files)
    for index in range(24):
        cloud = data.train.cloud(index)
        assert 100 < len(cloud.points) <= 512
        assert cloud.label == index % 12


def test_real_lidar_frame() -> None:
    data = load(f"kitti:{real('lidar')}")
    cloud = data.train.cloud(0)
    assert cloud.points.shape == (17238, 3)
    assert 0 <= cloud.features.min() <= cloud.features.max() <= 1
    assert np.abs(cloud.points).max() < 120  # metres, the range of the scanner


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("b", "a", ".ipynb_checkpoints"):
        for number in range(5):
            write_npz(tmp_path / name / f"{number}.npz", points=np.ones((1, 3)))
    data = load(f"points:{tmp_path}")
    assert data.class_names == ("a", "b")
    assert [data.train.cloud(index).label for index in range(len(data.train))] == [0] * 4 + [1] * 4


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    for labels, reason in (
        (np.full(4, 0.5), "labels are float64"),
        (np.full(4, 2**32 - 1, np.uint32), "the label 4294967295 is too large for a class"),
    ):
        write_npz(tmp_path / "a.npz", points=np.ones((4, 3)), labels=labels)
        with pytest.raises(InputError, match=reason):
            read_labels(tmp_path / "a.npz")


def test_damage_in_any_byte_is_named(tmp_path: Path) -> None:
    """Whatever the libraries raise: numpy's parser of headers, zipfile on unknown methods."""
    write_npz(tmp_path / "a.npz", points=np.ones((2, 3)), labels=1)
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    for name in ("a.npz", "a.npy"):
        content = (tmp_path / name).read_bytes()
        for place in range(0, len(content), 3):
            for byte in (0, 13, 40, 255):
                write(tmp_path / name, content[:place] + bytes([byte]) + content[place + 1 :])
                for read in (read_points, read_labels):
                    with suppress(InputError):
                        read(tmp_path / name)
