"""What a run trains: a model, its data and its optimizer.

Real ones are made here, and those of emulated runs in `stanza.train.emulated`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from stanza.layout import Layout
from stanza.models import build_model
from stanza.options import Options
from stanza.train.data import data_for
from stanza.train.dataset import Data, Split
from stanza.workers.loss import Loss, check_outputs, logits_of
from stanza.workers.optimizers import OptimizerFactory, SchedulerFactory
from systems.modes import evaluating


@dataclass(frozen=True)
class Workload:
    """The model, the data and the optimizer of a run. Every rank builds the same for itself."""

    data: Data
    build: Callable[[], nn.Module]
    """Builds the model. Its weights are drawn from torch's generator."""
    optimizer: OptimizerFactory
    message_scale: float = 1.0
    """The parameters and activations of an emulated model are this many times smaller than those
    that they stand for. Bucket sizes, which are in bytes, are divided by it too."""
    scheduler: SchedulerFactory | None = None
    """Makes the learning-rate schedule of an optimizer, which is stepped after every step. None:
    the rate stays constant."""
    loss: Loss | None = None
    """The loss of outputs and targets, a mean over the samples. None: the cross entropy, where
    Inception's auxiliary output counts 0.4."""


def real_workload(options: Options, layout: Layout, seed: int) -> Workload:
    """Make the workload that the options name, with real data.

    Raises:
        InputError: there are no such data, or they do not fit the model, or do not fill a batch.
    """
    data = data_for(options, layout, seed)
    optimizer = partial(
        torch.optim.SGD,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    return Workload(data, partial(_model, options.model, data), optimizer)


def _model(name: str, data: Data) -> nn.Module:
    """Build a model, and refuse it if its outputs cannot be trained.

    Every rank does so before training, so that none waits for another that has refused.
    """
    model = build_model(name, data.classes)
    check_outputs(model, data.image_shape)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Split, device: torch.device, batch_size: int = 256) -> float:
    """The fraction of `data` that `model` classifies correctly in evaluation mode."""
    correct = 0
    with evaluating(model):
        for start in range(0, len(data), batch_size):
            images, labels = data.batch(range(start, min(start + batch_size, len(data))))
            predicted = logits_of(model(images.to(device))).argmax(1)
            correct += int((predicted == labels.to(device)).sum())
    return correct / len(data)
