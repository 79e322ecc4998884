"""Data sets that users name by import path."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sparsepipe.data.own import own_clouds
from systems.schema import InputError

SETS = """
import numpy as np
import torch
from sparsepipe.data.splits import Clouds
from sparsepipe.data.cloud import make_cloud

points = np.arange(12.0).reshape(4, 3)

def clouds(seed, points_asked=5):
    return [(points + seed, None, 1), (points, points, np.array([0, 1, 1, -100]))], [], ("a", "b")

def ready():
    train = [make_cloud(points, None, 0)]
    made = clouds(0)
    return Clouds("ready", Split(train), Split(train), ("a",))

class Split(list):
    def cloud(self, index, epoch=0):
        return self[index]

def nothing():
    return [], [], ("a",)

def number():
    return 3

def odd():
    return [points], [], ("a",)

def halved():
    return [(points, None, 1.5)], [], ("a",)

def halves():
    return [(points, None, [0, 1, 1.5, 1])], [], ("a",)

def unsigned():
    return [(points, None, np.array([0, 1, 2**64 - 1, 1], np.uint64))], [], ("a",)

def complex():
    return [(points * 1j, None, 1)], [], ("a",)

def masked():
    return [(np.ma.masked_equal(points, 5), None, 1)], [], ("a",)

def tensors():
    grown = torch.from_numpy(points).requires_grad_()
    return [(grown, grown.bfloat16(), torch.tensor(1))], [], ("a",)

def ragged():
    return [(points, None, [1, 2])], [], ("a",)
"""


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_sets.py").write_text(SETS)
    return tmp_path / "own_sets.py"


def test_items_become_clouds(sets: Path) -> None:
    data = own_clouds(f"{sets}:clouds", "--data", seed=7, points=100)
    assert data.class_names == ("a", "b")
    assert (len(data.train), len(data.test)) == (2, 0)
    whole, labelled = data.train.cloud(0), data.train.cloud(1)
    assert (whole.label, whole.labels, whole.features.shape) == (1, None, (4, 1))
    assert whole.points[0].tolist() == [7, 8, 9]
    assert labelled.labels is not None
    assert (labelled.label, labelled.labels.tolist()) == (-1, [0, 1, 1, -100])
    assert labelled.labels.dtype == np.int64
    assert own_clouds(f"{sets}:ready", "--data").kind == "ready"
    of_tensors = own_clouds(f"{sets}:tensors", "--data").train.cloud(0)
    assert (of_tensors.label, of_tensors.points.tolist()) == (1, of_tensors.features.tolist())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "returns no clouds for training"),
        ("number", r"returns a int; give \(train, test, class names\)"),
    ],
)
def test_what_is_no_data_set_is_refused(name: str, said: str, sets: Path) -> None:
    with pytest.raises(InputError, match=rf"--data .*own_sets.py:{name}: {said}"):
        own_clouds(f"{sets}:{name}", "--data")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("odd", "too many values"),
        ("ragged", r"labels of shape \[2\] for points"),
        ("halved", "the label: float64 that are not all whole"),
        ("halves", "labels: float64 that are not all whole"),
        ("unsigned", "labels: uint64 that are not all whole, or beyond int64"),
        ("complex", "points are of complex128; give real numbers"),
        ("masked", "points are masked; give real numbers"),
    ],
)
def test_what_is_no_cloud_is_refused(name: str, said: str, sets: Path) -> None:
    data = own_clouds(f"{sets}:{name}", "--data")
    with pytest.raises(InputError, match=rf"--data .*own_sets.py:{name}: cloud 0: .*{said}"):
        data.train.cloud(0)
