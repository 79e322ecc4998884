"""Data sets of a user's own: what they may be, and what is refused in one line."""

from pathlib import Path

import pytest
import torch

from stanza.options import Options
from stanza.train.data import input_of, open_data
from systems.data.dataset import Data
from systems.schema import InputError
from tests import own_code

pytestmark = pytest.mark.usefixtures("own_folder")

WRONG = """
import torch
from systems.data.dataset import Data, TensorSplit

IMAGES, LABELS = torch.zeros(10, 1, 8, 8), torch.arange(10) % 3


class Samples:
    def __init__(self, image=IMAGES[0], label=lambda index: 1):
        self.image, self.label = image, label

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.image, self.label(index)


def alone(): return IMAGES
def three(): return IMAGES, LABELS, LABELS
def unequal(): return (IMAGES, LABELS[:5]), None
def empty(): return [], None
def numbers(): return 3, 4
def bytes(): return (IMAGES.byte(), LABELS), None
def negative(): return (IMAGES, LABELS - 1), None
def picture(): return Samples(image="a picture"), None
def images_alone(): return [IMAGES[0]] * 10, None
def failing(): return Samples(label=lambda index: 1 // (index - 3)), None
def beyond(): return Samples(label=lambda index: 9 * (index == 3)), None
def wider(): return [(image.to([torch.float32, torch.float64][n == 3]), 1)
                    for n, image in enumerate(IMAGES)], None
def floats(): return Samples(label=lambda index: 0.5 * index), None
def mixed(): return Samples(label=lambda index: [1, [2]][index == 3]), None
def sized(classes, image_shape):
    return (torch.zeros(classes, *image_shape), torch.arange(classes)), None
def ours():
    split = TensorSplit(10, lambda: (IMAGES, LABELS))
    return Data("mine", split, split, (1, 8, 8), 3)
"""


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    own_code.write(own_folder)
    (own_folder / "wrong.py").write_text(WRONG)


def opened(name: str, classes: int | None = 3) -> Data:
    return open_data(name, image_shape=(1, 8, 8), classes=classes)


def test_pairs_of_tensors_and_data_sets_of_samples_give_the_same() -> None:
    one, other = opened("data.py:make"), opened("data.py:pairs")
    assert one.kind == "data.py:make (48 train and 12 test samples)"
    assert (one.image_shape, one.classes) == (other.image_shape, other.classes) == ((1, 8, 8), 3)
    for ours, theirs in ((one.train, other.train), (one.test, other.test)):
        assert len(ours) == len(theirs)
        (images, labels), (same, equal) = ours.batch([5, 0]), theirs.batch([5, 0])
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.equal(images, same)
        assert torch.equal(labels, equal)


def test_the_data_tell_what_nobody_else_does() -> None:
    data = open_data("data.py:make", image_shape=None, classes=None)
    assert (data.image_shape, data.classes) == ((1, 8, 8), 3)
    assert input_of(Options(model="net.py:Net", data="data.py:pairs")) == ((1, 8, 8), 3)
    digits = open_data("digits", image_shape=None, classes=None)
    assert (digits.image_shape, digits.classes) == ((1, 8, 8), 10)
    with pytest.raises(InputError, match=r"--stanza.image-shape None: neither"):
        open_data("random", image_shape=None, classes=3)
    with pytest.raises(InputError, match=r"--stanza.classes None: neither"):
        open_data("random", image_shape=(1, 8, 8), classes=None)


def test_a_factory_may_ask_what_the_model_takes_and_return_our_own_data() -> None:
    assert len(opened("wrong.py:sized").train) == 3
    assert opened("wrong.py:ours").kind == "mine"
    with pytest.raises(InputError, match="3 classes but the model has 2"):
        opened("wrong.py:ours", classes=2)


def test_targets_that_are_no_labels_have_no_classes() -> None:
    assert opened("data.py:places").classes is None
    floats = opened("wrong.py:floats")
    assert floats.classes is None
    assert floats.train.batch([1, 2])[1].tolist() == [0.5, 1.0]
    assert floats.train.batch([1])[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alone", "returns a Tensor; give a train and a test data set"),
        ("three", "returns a tuple; give a train and a test data set"),
        ("unequal", "10 images and 5 targets"),
        ("empty", "the training data are empty"),
        ("numbers", "returns a int among others"),
        ("bytes", "images are uint8; give float32"),
        ("negative", "the label -1 is no class"),
        ("picture", "images are str; give float32"),
        ("images_alone", "sample 0 is a Tensor; give an image and its target"),
        ("nothing", "has no attribute nothing"),
    ],
)
def test_what_is_no_data_set_is_one_line(name: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        opened(f"wrong.py:{name}")
    assert str(error.value).startswith(f"--stanza.data wrong.py:{name}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_images_of_another_shape_than_the_models_are_refused() -> None:
    with pytest.raises(InputError, match="images are 1x8x8 but the model takes 3x32x32"):
        open_data("data.py:make", image_shape=(3, 32, 32), classes=3)
    with pytest.raises(InputError, match="3 classes but the model has 2"):
        opened("data.py:pairs", classes=2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("failing", r"sample 3 fails: ZeroDivisionError: .*wrong.py:\d+"),
        ("beyond", "the label 9 is no class, as there are 3; give labels from 0 to 2"),
        ("mixed", "samples 0 to 9 do not make a batch"),
        ("wider", "samples 0 to 9: images are float64; give float32"),
    ],
)
def test_a_bad_sample_is_named_when_it_is_read(name: str, said: str) -> None:
    data = opened(f"wrong.py:{name}")
    with pytest.raises(InputError, match=said):
        data.train.batch(range(10))
