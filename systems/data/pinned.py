"""Copies from the host to a GPU that wait for nothing.

A copy from ordinary memory waits until the GPU has done all that it was given, and so the GPU has
nothing to do afterwards. From pinned memory a GPU copies by itself, when the kernels before are
done. Threads that read ahead pin what they read; the thread that trains only queues the copy.
"""

from typing import Any

import torch
from torch.utils import _pytree as pytree


def pinned(values: Any, device: torch.device) -> Any:
    """The tensors among some values in pinned memory, if they are on the host and will be copied to
    a GPU. Values are tensors, or objects that have `device`, `to` and `pin_memory` as tensors do;
    tuples, lists and dicts of them; other objects stay as they are."""
    if device.type != "cuda":
        return values
    return pytree.tree_map(
        lambda one: one.pin_memory() if _moves(one) and one.device.type == "cpu" else one,
        values,
        is_leaf=_moves,
    )


def moved(values: Any, device: torch.device) -> Any:
    """The tensors among some values, as in `pinned`, on a device. Copies from the host to a GPU
    wait for nothing."""
    to_gpu = device.type == "cuda"
    return pytree.tree_map(
        lambda one: one.to(device, non_blocking=to_gpu) if _moves(one) else one,
        pinned(values, device),
        is_leaf=_moves,
    )


def _moves(value: Any) -> bool:
    """Whether a value is a tensor, or moves as one does."""
    return hasattr(value, "pin_memory")
