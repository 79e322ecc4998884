"""Whether Triton's kernels serve a device: those of maps and those of convolutions."""

import importlib
import warnings
from functools import cache

import torch

from systems.schema import InputError

LEAST_CAPABILITY = (8, 0)
"""The lowest compute capability of a GPU on which Triton's kernels are used. Older GPUs lack
bfloat16, or Triton does not support them."""
LEAST_TRITON = (3, 6)
"""The oldest Triton that is used: the one that belongs to torch 2.10."""


def triton_serves(device: torch.device) -> bool:
    """Whether Triton's kernels run on the device. Where they do not on a GPU, a warning says once
    why."""
    return device.type == "cuda" and _runs(device)


@cache
def _runs(device: torch.device) -> bool:
    """Whether Triton is installed, finds the compiler that it needs, and supports the GPU."""
    try:
        if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
            return False
        triton = importlib.import_module("triton")
        _refuse_old(triton.__version__)
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # whatever is missing, PyTorch's operators do not need it
        warnings.warn(
            f"kernel maps and convolutions on {device} are made with PyTorch's operators, without "
            f"Triton's kernels: {error}",
            stacklevel=3,
        )
        return False
    return True


def _refuse_old(version: str) -> None:
    """Raise an InputError for a Triton that the kernels are not known to compile with."""
    if tuple(map(int, version.split(".")[:2])) < LEAST_TRITON:
        least = ".".join(map(str, LEAST_TRITON))
        raise InputError(f"Triton {version} is too old; the kernels need {least} or newer")
