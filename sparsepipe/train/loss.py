"""Losses and metrics of a mini-batch in parts: every part counts by the targets in it.

A loss that is a mean over its targets cannot be averaged over micro-batches of unequal sizes as it
is. So a part's loss is multiplied by the part's targets, and the sum is divided by those of the
whole mini-batch: the mean over all of its targets, however it was cut.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsepipe.runtime.values import Value, features_of

IGNORED = -100
"""The label that torch's losses leave out."""
Loss = Callable[[Any, Any], Tensor]
"""Takes what a network returns and the targets; gives the mean over the targets."""


def cross_entropy(output: Value, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of logits [rows, classes], sparse or plain, and labels int64
    [rows].

    Labels of -100 are left out.
    """
    return nn.functional.cross_entropy(features_of(output), labels)


def cross_entropy_sum(output: Value, labels: Tensor) -> Tensor:
    """Compute the cross-entropy, summed over the rows; see `cross_entropy`."""
    return nn.functional.cross_entropy(features_of(output), labels, reduction="sum")


def right(output: Value, labels: Tensor) -> Tensor:
    """Return the share of rows whose largest logit is that of the label; labels of -100 are left
    out."""
    hits = features_of(output).argmax(1) == labels
    return hits.sum().double() / max(1, count_of(labels))


def count_of(targets: Any) -> int:
    """Count the targets: the rows, or those whole numbers that are not -100. If there are several
    tensors of targets, the first one counts.

    Of several tensors of targets the first one counts.
    """
    first: Tensor = pytree.tree_leaves(targets)[0]
    if first.is_floating_point() or first.dtype == torch.bool:
        return len(first)
    return int((first != IGNORED).sum())


def summed(loss: Loss, count: Callable[[Any], int] = count_of) -> Callable[[Value, Any], Tensor]:
    """Turn a loss that is the mean over its targets into their sum; it is 0 where there are
    none."""

    def loss_sum(output: Value, targets: Any) -> Tensor:
        """Multiply the mean by the number of targets."""
        targets_here = count(targets)
        if not targets_here:  # a mean over none is NaN
            return features_of(output).sum() * 0
        return loss(output, targets) * targets_here

    return loss_sum
