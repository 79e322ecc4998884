"""Data sets that users name by import path."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sparsepipe.data.own import own_clouds
from systems.schema import InputError

SETS = """
import numpy as np
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
    ("name", "said"), [("odd", "too many values"), ("ragged", r"labels of shape \[2\] for points")]
)
def test_what_is_no_cloud_is_refused(name: str, said: str, sets: Path) -> None:
    data = own_clouds(f"{sets}:{name}", "--data")
    with pytest.raises(InputError, match=rf"--data .*own_sets.py:{name}: cloud 0: .*{said}"):
        data.train.cloud(0)
