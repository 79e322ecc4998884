"""ModelNet40 in its three public layouts, on hand-written files."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from sparsepipe.data.load import load
from systems.schema import InputError
from tests.pickles import pickled
from tests.sparsepipe.data.test_load import TRIANGLE, labels_of, same, write


def write_off_layout(root: Path) -> None:
    for name in ("night_stand", "bed"):
        for split, count in (("train", 3), ("test", 2)):
            for number in range(count):
                write(root / name / split / f"{name}_{number:04}.off", TRIANGLE)


def test_modelnet40_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_off_layout(tmp_path)
    write(tmp_path / "bed" / "train" / "bed_0001.off", "OFF\n3 1 0\n0 0 0\n")
    data = load(f"modelnet40:{tmp_path}", points=50, normals=True)
    assert data.class_names == ("bed", "night_stand")
    for _ in range(2):
        assert labels_of(data) == ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    # The next readable file takes the place of the damaged one, with samples of its own.
    assert not same(data.train.cloud(1), data.train.cloud(2))
    assert len(data.bad_files) == 1
    assert capsys.readouterr().err.count("bed_0001.off") == 1
    cloud = data.test.cloud(0)
    assert cloud.points.shape == cloud.features.shape == (50, 3)
    assert np.ptp(cloud.points[:, 2]) == pytest.approx(1)  # z, twice as long, is up


def text_rows(points: int) -> str:
    return "".join(f"{i / points},{2 * i / points},0.5,0,1,0\n" for i in range(points))


def write_text_layout(root: Path) -> None:
    write(root / "modelnet40_shape_names.txt", "bed\nnight_stand\n")
    write(root / "modelnet40_train.txt", "bed_0001\nnight_stand_0001\n")
    write(root / "modelnet40_test.txt", "night_stand_0002\n")
    for name in ("bed/bed_0001", "night_stand/night_stand_0001", "night_stand/night_stand_0002"):
        write(root / f"{name}.txt", text_rows(30))


def test_modelnet40_text(tmp_path: Path) -> None:
    write_text_layout(tmp_path)
    data = load(f"modelnet40:{tmp_path}", points=20, normals=True)
    assert data.class_names == ("bed", "night_stand")
    assert labels_of(data) == ([0, 1], [1])
    cloud = data.test.cloud(0)
    assert cloud.points.shape == (20, 3)
    assert np.array_equal(cloud.features, np.tile([0, 0, 1], (20, 1)))  # y was up
    assert np.ptp(cloud.points, axis=0)[1] == 0
    assert not same(data.train.cloud(0, 0), data.train.cloud(0, 1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no points"),
        ("1,2,3\n", "the line '1,2,3' is not"),
        ("1,2,3,0,0,nan\n", "normal 0"),
        ("1,inf,3,0,0,1\n", "point 0"),
        ("1,a,3,0,0,1\n", "'a'"),
    ],
)
def test_modelnet40_bad_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    write_text_layout(tmp_path)
    write(tmp_path / "bed" / "bed_0001.txt", content)
    data = load(f"modelnet40:{tmp_path}")
    assert data.train.cloud(0).label == 1
    assert reason in capsys.readouterr().err


def test_modelnet40_text_of_an_unknown_class(tmp_path: Path) -> None:
    write_text_layout(tmp_path)
    write(tmp_path / "modelnet40_test.txt", "sofa_0001\n")
    with pytest.raises(InputError, match="'sofa_0001' is not of a class"):
        load(f"modelnet40:{tmp_path}")


def test_modelnet40_hdf5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    generator = np.random.default_rng(0)
    for name, labels in (("train0", [0, 2]), ("train1", [1]), ("test0", [2])):
        with h5py.File(tmp_path / f"ply_data_{name}.h5", "w") as file:
            file["data"] = generator.random((len(labels), 2048, 3), dtype=np.float32)
            file["label"] = np.array(labels, dtype=np.uint8)[:, None]
    write(tmp_path / "ply_data_train2.h5", b"damaged")
    write(tmp_path / "ply_data_train4.h5", pickled(tmp_path / "trace"))
    with h5py.File(tmp_path / "ply_data_train3.h5", "w") as file:
        file["data"] = np.zeros((2, 5))
    data = load(f"modelnet40:{tmp_path}", points=1024)
    assert labels_of(data) == ([0, 2, 1], [2])
    assert data.class_names == ("0", "1", "2")
    assert data.test.cloud(0).points.shape == (1024, 3)
    assert len(data.bad_files) == 3
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert not (tmp_path / "trace").exists()
    with pytest.raises(InputError, match="has no normals"):
        load(f"modelnet40:{tmp_path}", normals=True)


def test_modelnet40_hdf5_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "ply_data_train0.h5", b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install h5py"):
        load(f"modelnet40:{tmp_path}")


# Stored clouds
