"""Finds out what a network returns for images of a shape, without computing if possible."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from systems.modes import evaluating
from systems.schema import InputError

SAMPLES = 5
"""The number of images in a dry run. Batch norm wants more than one, and networks rarely have five
channels, for which it could be mistaken."""


def dry_run(
    network: nn.Module, image_shape: Sequence[int], name: str, *, samples: int = SAMPLES
) -> Any:
    """Return what `network` returns for images [samples, *image_shape], in its own mode and dtype.

    It runs on the meta device, which computes nothing, or, where an operation cannot, on zeros.
    Buffers, random numbers and modes stay as they are.

    Raises:
        InputError: the network does not run on such images. The error calls it `name`.
    """
    images = _images(network, samples, image_shape)
    try:
        with torch.no_grad(), torch.device("meta"):
            meta = {key: value.detach().to("meta") for key, value in _tensors(network)}
            return torch.func.functional_call(network, meta, (images.to("meta"),))
    except Exception:  # it may be a custom operation, or code that reads values
        return trial_run(network, image_shape, name, samples=samples)


def trial_run(network: nn.Module, image_shape: Sequence[int], name: str, *, samples: int) -> Any:
    """Return what `network` returns for zeros [samples, *image_shape], by computing it.

    Small networks are faster this way, since PyTorch takes a second to prepare its meta device.

    Raises:
        InputError: the network does not run on such images. The error calls it `name`.
    """
    images = _images(network, samples, image_shape)
    buffers = {key: value.detach().clone() for key, value in network.named_buffers()}
    with torch.random.fork_rng(devices=_gpus(network)):
        return _refusing(
            lambda: torch.func.functional_call(network, buffers, (images,)), name, image_shape
        )


def materialise(model: nn.Module, image_shape: Sequence[int]) -> None:
    """Give lazy layers (such as nn.LazyLinear) their shapes, by running images through the model.

    Their weights are drawn from torch's generator, as in any first forward pass.

    Raises:
        InputError: the model does not run on such images, or does not use a lazy layer.
    """
    name = type(model).__name__
    if not any(is_lazy(value) for _, value in _tensors(model)):
        return
    with evaluating(model), torch.no_grad():
        _refusing(lambda: model(_images(model, 1, image_shape)), name, image_shape)
    for key, value in _tensors(model):
        if is_lazy(value):
            raise InputError(
                f"{name} has a lazy layer that images do not reach, and {key} thus no shape; "
                "remove the layer, or give it its shape"
            )


def _refusing(forward: Callable[[], Any], name: str, image_shape: Sequence[int]) -> Any:
    """Call `forward`, and turn whatever it raises into one line about images of this shape."""
    try:
        with torch.no_grad():
            return forward()
    except Exception as error:  # the network's own code runs here
        shape = "x".join(map(str, image_shape))
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} does not take images of {shape}: {reason}; check the image shape"
        ) from error


def _gpus(network: nn.Module) -> list[int]:
    """The GPUs that hold a part of the network, and whose random numbers it may draw."""
    return sorted({value.device.index for _, value in _tensors(network) if value.is_cuda})


def _tensors(network: nn.Module) -> chain[tuple[str, Tensor]]:
    """The parameters and buffers of a network, with their names."""
    return chain(network.named_parameters(), network.named_buffers())


def _images(network: nn.Module, samples: int, image_shape: Sequence[int]) -> Tensor:
    """Make images of zeros on the network's device, in the dtype of its first parameter."""
    tensors = [value for _, value in _tensors(network)]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())
    device = next((t.device for t in tensors), None)
    return torch.zeros(samples, *image_shape, dtype=dtype, device=device)
