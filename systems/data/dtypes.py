"""Refuses inputs of another precision than a network's."""

import torch
from torch import Tensor, nn

from systems.schema import InputError


def check_precision(inputs: Tensor, network: nn.Module, name: str) -> None:
    """Refuse inputs in float64 for a network in less, and the other way round. Mixtures of narrower
    dtypes may be what autocast wants.

    Args:
        name: what the user calls the inputs, such as "images".

    Raises:
        InputError: one is float64, and the other is not.
    """
    wanted = next((p.dtype for p in network.parameters() if p.is_floating_point()), inputs.dtype)
    if not inputs.is_floating_point() or (inputs.dtype == torch.float64) == (
        wanted == torch.float64
    ):
        return
    dtype, needed = (str(each).removeprefix("torch.") for each in (inputs.dtype, wanted))
    how = "float" if wanted == torch.float32 else "double" if wanted == torch.float64 else None
    call = f"{name}.{how}()" if how else f"{name}.to({wanted})"
    raise InputError(
        f"{name} are {dtype} and the network computes in {needed}; give {needed}, such as {call}"
    )
