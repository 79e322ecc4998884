"""The targets of some samples: what the loss compares a network's outputs with.

Targets are a tensor with a row for every sample, such as labels int64 [b], or tuples, lists and
dictionaries of such tensors. Every function here keeps their structure.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from systems.schema import InputError

Targets = Any
"""A tensor [b, ...], or tuples, lists and dictionaries of such tensors."""


def check_targets(targets: Targets, samples: int) -> None:
    """Refuse targets that hold something else than tensors with a row for every sample.

    Raises:
        InputError: they do so.
    """
    for leaf in tree_leaves(targets):
        if not isinstance(leaf, Tensor):
            raise InputError(f"targets: hold a {type(leaf).__name__}; give tensors alone")
        if leaf.shape[:1] != (samples,):
            raise InputError(
                f"targets: a tensor of the shape {list(leaf.shape)} for {samples} samples; give "
                "it a row for every sample"
            )


def described(targets: Targets) -> str:
    """Describe the dtypes and shapes of targets, for errors."""
    kinds = [
        f"{str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}"
        if isinstance(leaf, Tensor)
        else type(leaf).__name__
        for leaf in tree_leaves(targets)
    ]
    return ", ".join(kinds)


def rows(targets: Targets, part: slice) -> Targets:
    """Take the targets of a part of the samples."""
    return tree_map(lambda leaf: leaf[part], targets)


def split(targets: Targets, parts: int) -> list[Targets]:
    """Cut targets into so many parts, as `torch.tensor_split` does."""

    def part(number: int) -> Targets:
        return tree_map(lambda leaf: leaf.tensor_split(parts)[number], targets)

    return [part(number) for number in range(parts)]


def joined(pieces: Sequence[Targets]) -> Targets:
    """Join the targets of several pieces of a batch."""
    return tree_map(lambda *leaves: torch.cat(leaves), pieces[0], *pieces[1:])


def empty(like: Targets, samples: int) -> Targets:
    """Allocate buffers for the targets of so many samples, with the dtypes and shapes of `like`."""
    return tree_map(lambda leaf: leaf.new_empty(samples, *leaf.shape[1:]), like)
