"""The training loss and the test accuracy, for networks with and without an auxiliary output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stanza.data import Split
from systems.modes import evaluating

AUXILIARY_WEIGHT = 0.4
"""Weight of Inception-V3's auxiliary loss, as in torchvision's reference training."""


def loss_sum(outputs: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Cross entropy summed over the samples: logits [b, classes], labels int64 [b]."""
    if isinstance(outputs, Tensor):
        return F.cross_entropy(outputs, labels, reduction="sum")
    logits, auxiliary = outputs
    main = F.cross_entropy(logits, labels, reduction="sum")
    return main + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary, labels, reduction="sum")


@torch.no_grad()
def accuracy(model: nn.Module, data: Split, device: torch.device, batch_size: int = 256) -> float:
    """Fraction of `data` that `model` classifies correctly, in evaluation mode."""
    correct = 0
    with evaluating(model):
        for start in range(0, len(data), batch_size):
            images, labels = data.batch(range(start, min(start + batch_size, len(data))))
            predicted = model(images.to(device)).argmax(1)
            correct += int((predicted == labels.to(device)).sum())
    return correct / len(data)
