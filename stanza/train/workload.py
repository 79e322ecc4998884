"""What a run trains: a model, its data and its optimizer.

Real ones are made here, emulated ones in stanza.train.emulated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from stanza.layout import Layout
from stanza.models import build_model
from stanza.options import Options
from stanza.train.data import Data, Split, load_data
from stanza.workers.exchange import OptimizerFactory
from stanza.workers.loss import check_outputs, logits_of
from systems.modes import evaluating


@dataclass(frozen=True)
class Workload:
    """What every rank builds for itself, alike."""

    data: Data
    build: Callable[[], nn.Module]
    """Makes the model, with weights from torch's generator."""
    optimizer: OptimizerFactory
    message_scale: float = 1.0
    """The model's parameters and activations are this many times smaller than those that they stand
    for; bucket sizes, which are given in bytes, shrink alike."""


def real_workload(options: Options, layout: Layout, seed: int) -> Workload:
    """The options' model on real data.

    Raises:
        InputError: no such data, or data that does not fit the model or fill a batch.
    """
    data = load_data(options, layout, seed)
    optimizer = partial(
        torch.optim.SGD,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    return Workload(data, partial(_model, options.model, data), optimizer)


def _model(name: str, data: Data) -> nn.Module:
    """The model, if its outputs can be trained: every rank refuses it before training, or none."""
    model = build_model(name, data.classes)
    check_outputs(model, data.image_shape)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Split, device: torch.device, batch_size: int = 256) -> float:
    """Fraction of `data` that `model` classifies correctly, in evaluation mode."""
    correct = 0
    with evaluating(model):
        for start in range(0, len(data), batch_size):
            images, labels = data.batch(range(start, min(start + batch_size, len(data))))
            predicted = logits_of(model(images.to(device))).argmax(1)
            correct += int((predicted == labels.to(device)).sum())
    return correct / len(data)
