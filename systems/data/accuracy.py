"""How well a trained model classifies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from systems.data.dataset import Split
from systems.modes import evaluating


@torch.no_grad()
def accuracy(
    model: nn.Module,
    data: Split,
    device: torch.device,
    *,
    logits: Callable[[Any], Any] = lambda outputs: outputs,
    batch_size: int = 256,
) -> float | None:
    """The fraction of `data` that `model` classifies correctly in evaluation mode.

    Args:
        device: what the model is on.
        logits: takes the logits from what the model returns.

    Returns:
        The fraction. None where there are no samples, where these are no logits [samples, classes],
        or where the targets are no classes int64 [samples].
    """
    correct = 0
    with evaluating(model):
        for start in range(0, len(data), batch_size):
            images, labels = data.batch(range(start, min(start + batch_size, len(data))))
            scores = logits(model(images.to(device)))
            if not _classifies(scores, labels):
                return None
            correct += int((scores.argmax(1) == labels.to(device)).sum())
    return correct / len(data) if len(data) else None


def _classifies(outputs: Any, labels: Any) -> bool:
    """Whether these are logits [samples, classes] and classes int64 [samples]."""
    both = isinstance(outputs, Tensor) and isinstance(labels, Tensor)
    return both and (outputs.dim(), labels.dim(), labels.dtype) == (2, 1, torch.int64)
