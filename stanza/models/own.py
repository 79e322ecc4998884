"""A network of one's own, which `--stanza.model` names by its import path.

The path names a class or a function that makes an `nn.Module`. It is called with `classes` (or
`num_classes`) and `image_shape`, if it has parameters of these names. Attributes `image_shape`,
`classes` and `batch_size`, of itself or of its module, tell what the network takes:

    class Net(nn.Module):
        image_shape, classes = (3, 32, 32), 10
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from systems import by_path
from systems.schema import InputError

if TYPE_CHECKING:
    from torch import nn

OPTION = "--stanza.model"
REMEDIES = {
    "classes": "--stanza.classes, such as 10",
    "num_classes": "--stanza.classes, such as 10",
    "image_shape": "--stanza.image-shape, such as 3 32 32",
}
"""How to say what a factory asks for, by the name of its parameter."""


def told_shape(name: str) -> tuple[int, ...] | None:
    """The shape of one image that the network says it takes; None if it does not say."""
    value = _told(name, "image_shape")
    if value is None:
        return None
    if not isinstance(value, Sequence) or not value or not all(map(_is_count, value)):
        raise InputError(
            f"{OPTION} {name}: image_shape = {value!r}; write channels, height and width, such as "
            "(3, 32, 32)"
        )
    return tuple(value)


def told_count(name: str, attribute: str) -> int | None:
    """The number of classes, or of samples in a batch, that the network tells; None if it does
    not."""
    value = _told(name, attribute)
    if value is not None and not _is_count(value):
        raise InputError(
            f"{OPTION} {name}: {attribute} = {value!r}; write a whole number from 1 on"
        )
    return value


def build(name: str, classes: int | None, image_shape: Sequence[int] | None) -> "nn.Module":
    """Make the network, with those of the arguments that it names.

    Raises:
        InputError: it cannot be imported or made, wants what is not known, or is no nn.Module.
    """
    from torch import nn

    factory = by_path.load(name, OPTION)
    shape = None if image_shape is None else tuple(image_shape)
    known = {"classes": classes, "num_classes": classes, "image_shape": shape}
    parameters = by_path.named_parameters(factory)
    for parameter, required in parameters.items():
        if required and parameter in known and known[parameter] is None:
            raise InputError(
                f"{OPTION} {name}: wants the argument {parameter}, which nobody has said; give "
                f"{REMEDIES[parameter]}"
            )
    arguments = {k: v for k, v in known.items() if k in parameters and v is not None}
    network = by_path.call(factory, name, OPTION, **arguments)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{OPTION} {name}: makes a {type(network).__name__}; give a class or a function that "
            "makes an nn.Module"
        )
    return network


def _told(name: str, attribute: str) -> Any:
    """An attribute of what the path names, or else of its module."""
    module = by_path.load_module(name, OPTION)
    return getattr(by_path.load(name, OPTION), attribute, getattr(module, attribute, None))


def _is_count(value: Any) -> bool:
    """Whether a value is a whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
