"""The dtypes in which layers multiply and sum: wide sums, torch.autocast, and mixed dtypes."""

import torch
from torch import Tensor

from systems.schema import InputError


def widened(tensor: Tensor) -> Tensor:
    """Convert a tensor to the dtype in which sums are taken: float64 stays, all others become
    float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def taken(features: Tensor, rows: Tensor) -> Tensor:
    """The rows of features [N, C] that have these numbers, [M, C], differentiably. A row may be
    taken many times: the sum of its gradients is taken in float32 or wider."""
    return widened(features).index_select(0, rows).to(features.dtype)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert tensors as torch.autocast does for PyTorch's own convolutions and linear layers.

    Where autocast is on for a tensor's device, the tensor is converted to autocast's dtype,
    differentiably; float64 stays, as it does in PyTorch. Elsewhere tensors come back unchanged.
    """
    return tuple(tensor.to(_autocast_type(tensor)) for tensor in tensors)


def _autocast_type(tensor: Tensor) -> torch.dtype:
    """The dtype to which `autocast` converts a tensor."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensor.dtype
    return tensor.dtype if tensor.dtype == torch.float64 else torch.get_autocast_dtype(device)


def refuse_mixed(features: Tensor, parameter: Tensor, name: str = "weight") -> None:
    """Check that a layer's parameter, called `name`, has the dtype of the features.

    Raises:
        InputError: it has another one.
    """
    if features.dtype != parameter.dtype:
        raise InputError(
            f"features are {features.dtype}, {name} is {parameter.dtype}: convert one, for example "
            f"the layer with layer.to({features.dtype})"
        )


def refuse_mixed_products(features: Tensor, parameter: Tensor, name: str = "weight") -> None:
    """Check that a parameter and the features have one dtype after `autocast` has converted them.

    Raises:
        InputError: they have not. The message names the dtypes before the conversion.
    """
    if _autocast_type(features) != _autocast_type(parameter):
        refuse_mixed(features, parameter, name)
