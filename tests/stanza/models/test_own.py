"""A network of a user's own is made with what it asks for, or refused in one line."""

from pathlib import Path

import pytest
import torch

from stanza.models import build_model, inputs_of
from systems.schema import InputError
from tests import own_code

pytestmark = pytest.mark.usefixtures("own_folder")

OTHERS = """
from torch import nn

image_shape, classes = (2, 4, 4), 5


def linear(num_classes, image_shape):
    channels, height, width = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def shape_alone(image_shape, **others):
    assert not others
    return nn.Flatten()


def deep(depth):
    return nn.Identity()


def number():
    return 3


class Odd(nn.Identity):
    image_shape = "big"


class Many(nn.Identity):
    classes = 0
"""


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    own_code.write(own_folder)
    (own_folder / "others.py").write_text(OTHERS)


def test_a_class_is_called_with_the_classes_that_are_known() -> None:
    images = torch.zeros(2, 1, 8, 8)
    assert build_model("net.py:Net")(images).shape == (2, 3)
    assert build_model("net.py:Net", classes=7)(images).shape == (2, 7)


def test_the_module_tells_where_the_function_does_not() -> None:
    assert inputs_of("others.py:linear").image_shape == (2, 4, 4)
    assert build_model("others.py:linear")(torch.zeros(3, 2, 4, 4)).shape == (3, 5)
    wide = build_model("others.py:linear", classes=9, image_shape=(1, 3, 3))
    assert wide(torch.zeros(3, 1, 3, 3)).shape == (3, 9)


def test_lazy_layers_get_their_shapes_and_named_arguments_alone_are_given() -> None:
    assert build_model("others.py:lazy")[1].weight.shape == (5, 32)  # type: ignore[index]
    assert build_model("others.py:shape_alone")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("others.py:deep", "wants the argument depth"),
        ("others.py:number", "makes a int; give a class or a function that makes an nn.Module"),
        ("others.py:Odd", "image_shape = 'big'; write channels"),
        ("others.py:Many", "classes = 0; write a whole number"),
        ("others.py:Net", "has no attribute Net"),
        ("gone.py:Net", "no file gone.py"),
    ],
)
def test_what_is_no_network_is_one_line(name: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        build_model(name)
    assert str(error.value).startswith(f"--stanza.model {name}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_argument_that_nobody_has_said_names_the_option() -> None:
    Path("silent.py").write_text("def build(classes, image_shape): ...\n")
    with pytest.raises(InputError, match=r"wants the argument classes, .* give --stanza.classes"):
        build_model("silent.py:build")
    with pytest.raises(InputError, match=r"image_shape, .* give --stanza.image-shape"):
        build_model("silent.py:build", classes=3)
