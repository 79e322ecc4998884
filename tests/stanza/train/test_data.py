import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from stanza.train.data import open_data
from systems.data import fashion_mnist
from systems.data.batches import prefetch
from systems.schema import InputError
from tests.pickles import pickled

RGB = (3, 16, 16)


def write_images(folder: Path, count: int, colour: tuple[int, int, int] = (255, 0, 0)) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (24, 20), colour).save(folder / f"{number}.png")


def write_split_folder(root: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        write_images(root / split / "blue", count, (0, 0, 255))
        write_images(root / split / "red", count, (255, 0, 0))


# Digits and random


def test_digits_do_not_depend_on_the_seed() -> None:
    first, second = (
        open_data("digits", image_shape=(1, 8, 8), classes=10, seed=seed).test.batch([0, 7, 3])
        for seed in (0, 1)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_random_is_seeded_and_small() -> None:
    def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        data = open_data("random", image_shape=(3, 224, 224), classes=1000, seed=seed)
        assert "synthetic" in data.kind
        return data.train.batch(torch.tensor([5, len(data.train) - 1, 5]))

    images, labels = batch(0)
    assert (images.shape, images.dtype) == ((3, 3, 224, 224), torch.float32)
    assert labels.dtype == torch.int64
    assert 0 <= labels.min() <= labels.max() < 1000
    assert images.is_contiguous()
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images, batch(0)[0])
    assert not torch.equal(images, batch(1)[0])


# Grey images of 28 x 28


def test_the_small_networks_take_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the files' names are looked at: nothing is read before a batch is asked for."""
    monkeypatch.setattr(fashion_mnist, "folder", lambda: Path("here"))
    data = open_data("fashion-mnist", image_shape=(1, 28, 28), classes=96)
    assert (len(data.train), len(data.test), data.classes) == (60_000, 10_000, 10)
    with pytest.raises(InputError, match="images are 1x28x28 but the model takes 3x224x224"):
        open_data("fashion-mnist", image_shape=(3, 224, 224), classes=1000)
    with pytest.raises(InputError, match="10 classes but the model has 5"):
        open_data("fashion-mnist", image_shape=(1, 28, 28), classes=5)


# Folders


def test_folder_with_train_and_val(tmp_path: Path) -> None:
    write_split_folder(tmp_path)
    data = open_data(f"folder:{tmp_path}", image_shape=RGB, classes=5)
    assert data.kind == f"folder {tmp_path} (8 train and 4 test images)"
    assert data.classes == 2
    images, labels = data.train.batch([7, 0])
    assert (images.shape, images.dtype, labels.tolist()) == ((2, *RGB), torch.float32, [1, 0])
    red = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(images[0], red.view(3, 1, 1).expand(RGB))
    assert data.train.batch([])[0].shape == (0, *RGB)
    assert data.corrupt == []


def test_folder_without_train_and_val_tests_on_every_fifth_file(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 11)
    write_images(tmp_path / "b", 3)
    (tmp_path / "a" / "README.txt").write_text("not an image, and not named as one")
    data = open_data(f"folder:{tmp_path}", image_shape=RGB, classes=2)
    assert (len(data.train), len(data.test)) == (12, 2)
    assert "every 5th file of each class" in data.kind
    assert data.train.batch(range(12))[1].tolist() == [0] * 9 + [1] * 3


def test_grey_model_gets_grey_images(tmp_path: Path) -> None:
    write_split_folder(tmp_path)
    Image.new("L", (9, 30), 255).save(tmp_path / "train" / "red" / "0.png")
    data = open_data(f"folder:{tmp_path}", image_shape=(1, 8, 12), classes=2)
    images, _ = data.train.batch([4])
    torch.testing.assert_close(images, torch.full((1, 1, 8, 12), (1 - 0.449) / 0.226))


def test_colour_model_gets_the_centre_of_wide_grey_images(tmp_path: Path) -> None:
    write_split_folder(tmp_path)
    pixels = np.zeros((16, 48), dtype=np.uint8)
    pixels[:, 16:32] = 255
    Image.fromarray(pixels).save(tmp_path / "train" / "red" / "0.png")
    images, _ = open_data(f"folder:{tmp_path}", image_shape=RGB, classes=2).train.batch([4])
    assert (images > 2).all()


def test_corrupt_files_are_named_once_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split_folder(tmp_path)
    truncated = tmp_path / "train" / "blue" / "3.png"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:1000])
    text = tmp_path / "train" / "red" / "3.png"
    text.write_bytes(pickled(tmp_path / "trace"))

    data = open_data(f"folder:{tmp_path}", image_shape=RGB, classes=2)
    first, second = data.train.batch(range(8)), data.train.batch(range(8))
    # File 3 gives way to file 4, the first red one; the last file to file 0, a blue one.
    assert first[1].tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    assert torch.equal(first[0][3], first[0][4])
    assert torch.equal(first[0], second[0])
    assert sorted(data.corrupt) == [truncated, text]
    assert not (tmp_path / "trace").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(any(str(path) in line for line in lines) for path in (truncated, text))


def test_no_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the name of the file."""
    write_split_folder(tmp_path)
    picture = tmp_path / "train" / "red" / "3.png"
    Image.new("RGB", (8, 8)).save(picture, "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was started"))
    data = open_data(f"folder:{tmp_path}", image_shape=RGB, classes=2)
    data.train.batch(range(8))
    assert data.corrupt == [picture]
    assert str(picture) in capsys.readouterr().err


def test_folder_of_corrupt_files_only(tmp_path: Path) -> None:
    write_split_folder(tmp_path)
    for path in (tmp_path / "val").rglob("*.png"):
        path.write_bytes(b"")
    data = open_data(f"folder:{tmp_path}", image_shape=RGB, classes=2)
    with pytest.raises(ValueError, match="none of the 4 images can be read"):
        data.test.batch([0])


def test_prefetch_keeps_order_and_passes_errors_on(tmp_path: Path) -> None:
    write_split_folder(tmp_path)
    train = open_data(f"folder:{tmp_path}", image_shape=RGB, classes=2).train
    orders = [[0, 4], [5, 1, 6], [2], [7]]
    labels = [batch[1].tolist() for batch in prefetch(train, orders)]
    assert labels == [[0, 1], [1, 0, 1], [0], [1]]

    endless = prefetch(train, itertools.cycle(orders))
    assert [len(next(endless)[1]) for _ in range(6)] == [2, 3, 1, 1, 2, 3]
    endless.close()

    digits = open_data("digits", image_shape=(1, 8, 8), classes=10).train
    batches = prefetch(digits, [[0], [9999]])
    assert next(batches)[0].shape == (1, 1, 8, 8)
    with pytest.raises(IndexError):
        next(batches)


# Errors


@pytest.mark.parametrize(
    ("source", "image_shape", "classes", "message"),
    [
        (
            "cifar",
            RGB,
            10,
            "cifar: unknown data; give fashion-mnist, mnist-5k, digits, folder:PATH",
        ),
        ("folder:", RGB, 10, "folder:: unknown data"),
        ("folder:/does/not/exist", RGB, 10, "no such folder; give folder:PATH"),
        ("digits", RGB, 10, "images are 1x8x8 but the model takes 3x16x16"),
        ("digits", (1, 8, 8), 9, "10 classes but the model has 9"),
        ("folder:{empty}", RGB, 10, "no class folders in"),
        ("folder:{no_images}", RGB, 10, "no images in"),
        ("folder:{no_val}", RGB, 10, "no images in .*train"),
        ("folder:{few}", RGB, 10, "no test images; give a class at least 5"),
        ("folder:{good}", RGB, 1, "2 classes but the model has 1"),
        ("folder:{good}", (2, 8, 8), 2, "1 or 3 channels but the model takes 2"),
        ("folder:{more_in_val}", RGB, 10, "class green is in val but not in train"),
    ],
)
def test_errors_take_one_line_and_name_the_option(
    tmp_path: Path, source: str, image_shape: tuple[int, int, int], classes: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_images" / "a").mkdir(parents=True)
    write_images(tmp_path / "no_val" / "train" / "a", 1)
    write_images(tmp_path / "few" / "a", 4)
    write_split_folder(tmp_path / "good")
    write_split_folder(tmp_path / "more_in_val")
    write_images(tmp_path / "more_in_val" / "val" / "green", 1)
    for folder in tmp_path.iterdir():
        source = source.replace(f"{{{folder.name}}}", str(folder))

    with pytest.raises(ValueError, match=message) as error:
        open_data(source, image_shape=image_shape, classes=classes)
    assert str(error.value).startswith(f"--stanza.data {source}: ")
    assert "\n" not in str(error.value)
