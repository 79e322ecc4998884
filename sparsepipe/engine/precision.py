"""The types in which layers multiply and sum: wide sums, torch.autocast, mixed types."""

import torch
from torch import Tensor

from systems.schema import InputError


def widened(tensor: Tensor) -> Tensor:
    """The tensor in the type that sums are taken in: float32, or float64 if it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as torch.autocast hands them to PyTorch's own convolutions and linear layers.

    Where autocast is on for a tensor's device, it comes back in autocast's type, differentiably;
    float64 stays what it is, as it does in PyTorch. Elsewhere tensors come back unchanged.
    """
    return tuple(tensor.to(_autocast_type(tensor)) for tensor in tensors)


def _autocast_type(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensor.dtype
    return tensor.dtype if tensor.dtype == torch.float64 else torch.get_autocast_dtype(device)


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


def refuse_mixed_products(features: Tensor, parameter: Tensor, name: str = "weight") -> None:
    """Refuse them where `autocast` leaves them in different types, as `refuse_mixed` does; the
    error names the types that they were given in.

    Raises:
        InputError: see above.
    """
    if _autocast_type(features) != _autocast_type(parameter):
        refuse_mixed(features, parameter, name)
