"""In which types numbers are multiplied and summed: wide sums, torch.autocast, mixed types."""

import torch
from torch import Tensor

from systems.schema import InputError


def widened(tensor: Tensor) -> Tensor:
    """The tensor in the type that sums are taken in: float32, or float64 if it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as torch.autocast hands them to PyTorch's own convolutions and linear layers.

    Where autocast is on for the first tensor's device, they come back in its type, differentiably;
    float64 stays what it is, as it does in PyTorch. Elsewhere all come back unchanged.
    """
    device = tensors[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def refuse_mixed(features: Tensor, parameter: Tensor, name: str = "weight") -> None:
    """Refuse a layer whose parameters have another type than the features.

    Raises:
        InputError: they have.
    """
    if features.dtype != parameter.dtype:
        raise InputError(
            f"features are {features.dtype}, {name} is {parameter.dtype}: convert one, for example "
            f"the layer with layer.to({features.dtype})"
        )
