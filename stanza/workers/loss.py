"""The training loss: the cross entropy, with and without an auxiliary output, or one's own.

A loss of one's own is a mean over the samples, as torch's losses are. Here it is multiplied by the
number of samples, and what all ranks compute for their parts of the batch is added up.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from stanza.models.dry_run import trial_run
from stanza.models.inception import InceptionOutputs
from stanza.workers.targets import Targets
from systems.modes import evaluating
from systems.schema import InputError

AUXILIARY_WEIGHT = 0.4
"""The weight of Inception-V3's auxiliary loss, as in torchvision's reference training."""
Loss = Callable[[Any, Targets], Tensor]
"""The mean loss of a network's outputs over the samples, from the outputs and the targets."""


def loss_sum(outputs: Tensor | InceptionOutputs, labels: Tensor) -> Tensor:
    """The cross entropy, summed over the samples.

    Args:
        outputs: logits [b, classes], alone or with auxiliary ones, whose loss counts 0.4.
        labels: int64 [b]. They may be int32, as they travel.

    Raises:
        InputError: the outputs are something else (see `logits_of`).
    """
    labels = labels.long()
    loss = F.cross_entropy(logits_of(outputs), labels, reduction="sum")
    if isinstance(outputs, InceptionOutputs):
        auxiliary = F.cross_entropy(outputs.auxiliary_logits, labels, reduction="sum")
        return loss + AUXILIARY_WEIGHT * auxiliary
    return loss


def summed(loss: Loss | None) -> Loss:
    """Turn a loss that is a mean over the samples into their sum; None makes `loss_sum`."""
    if loss is None:
        return loss_sum

    def sum_over_samples(outputs: Any, targets: Targets) -> Tensor:
        """Multiply the mean by the number of samples. Without samples the sum is a zero that
        depends on the outputs."""
        samples = len(tree_leaves(targets)[0])
        if samples == 0:
            heads = [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]
            return torch.stack([head.sum() for head in heads]).sum()
        return loss(outputs, targets) * samples

    return sum_over_samples


def logits_of(outputs: Any) -> Tensor:
    """The logits [b, classes] that a network returns, alone or as InceptionOutputs.

    Raises:
        InputError: the network returns something else, for which there is no loss.
    """
    heads = tuple(outputs) if isinstance(outputs, InceptionOutputs) else (outputs,)
    wrong = [head for head in heads if not (isinstance(head, Tensor) and head.dim() == 2)]
    if not wrong:
        return heads[0]
    raise InputError(
        f"the network returns {_described(wrong[0])}, and training takes logits [samples, classes] "
        "alone; return them alone, or as stanza.models.inception.InceptionOutputs with those of "
        "an auxiliary classifier"
    )


def check_outputs(model: nn.Module, image_shape: Sequence[int]) -> Tensor:
    """Refuse a network that returns anything but logits, in training or in evaluation. Returns
    those of two black images in evaluation.

    Raises:
        InputError: it does so, or it does not take images [C, H, W] of this shape.
    """
    name = type(model).__name__
    logits_of(trial_run(model, image_shape, name, samples=2))
    with evaluating(model):
        return logits_of(trial_run(model, image_shape, name, samples=2))


def _described(outputs: Any) -> str:
    """Say in an error what a network returns."""
    kind = type(outputs).__name__
    if isinstance(outputs, Tensor):
        return f"values of the shape {list(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a {kind} of {', '.join(map(str, outputs))}"
    if isinstance(outputs, Sequence):
        return f"a {kind} of {len(outputs)}"
    return f"a {kind}"
