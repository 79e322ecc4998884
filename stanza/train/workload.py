"""What a run trains: a model, its data and its optimizer.

Real ones are made here, and those of emulated runs in `stanza.train.emulated`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from stanza.cut.separate import separate
from stanza.exchanges.find import named
from stanza.layout import Layout
from stanza.models import build_model, is_own
from stanza.models.inception import InceptionOutputs
from stanza.options import Options
from stanza.own_options import CROSS_ENTROPY
from stanza.train.data import data_for
from stanza.train.optimization import (
    check as check_optimization,
    loss_of,
    optimizer_of,
    scheduler_of,
)
from stanza.train.own_data import forget
from stanza.train.trial import freeze, unreached
from stanza.workers.exchange import trainable
from stanza.workers.loss import Loss, check_outputs, summed
from stanza.workers.optimizers import OptimizerFactory, SchedulerFactory
from stanza.workers.targets import check_targets
from systems.data.dataset import Data
from systems.schema import InputError


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
        InputError: there are no such data, or they do not fit the model, or do not fill a batch;
            or the optimizer, the schedule or the loss cannot be imported.
    """
    data = data_for(options, layout, seed)
    return Workload(
        data,
        partial(model_of, options, data),
        optimizer_of(options),
        message_scale=options.message_scale,
        scheduler=scheduler_of(options),
        loss=loss_of(options),
    )


def model_of(options: Options, data: Data) -> nn.Module:
    """Build the model for some data, and refuse it if its outputs cannot be trained.

    It tells apart as many classes as the options say, or the user's own model, or else the data.
    Every rank does so before training, so that none waits for another that has refused. In a model
    of the user's own, parameters that the loss does not reach are frozen.
    """
    classes = options.classes or data.classes
    if is_own(options.model):
        classes = options.inputs.classes or classes
    model = build_model(options.model, classes, data.image_shape)
    try:
        if options.loss == CROSS_ENTROPY:
            _check_logits(model, data, options.model)
        if is_own(options.model) or options.loss != CROSS_ENTROPY:
            _freeze_unreached(model, data, loss_of(options))
    except InputError as error:
        if str(error).startswith("loss: "):
            error = InputError(f"--stanza.loss {options.loss}{str(error).removeprefix('loss')}")
        flag = "" if options.image_shape is None else f"--stanza.image-shape {options.shape}: "
        raise InputError(f"{flag}{error}") from None
    return model


def _check_logits(model: nn.Module, data: Data, name: str) -> None:
    """Refuse a model that does not return a logit for every class."""
    logits = check_outputs(model, data.image_shape)
    if data.classes is not None and logits.shape[1] < data.classes:
        raise InputError(
            f"--stanza.model {name}: returns {logits.shape[1]} logits for {data.classes} classes; "
            "let it make one for each class"
        )


def _freeze_unreached(model: nn.Module, data: Data, loss: Loss | None) -> None:
    """Try the first samples, and freeze the parameters that the loss does not reach."""
    images, targets = data.train.batch(range(min(2, len(data.train))))
    check_targets(targets, len(images))
    dtype = next((p.dtype for p in model.parameters()), images.dtype)
    freeze(model, unreached(model, images.to(dtype), targets, summed(loss)))


def check_workload(options: Options, layout: Layout, seed: int) -> None:
    """Make all that is the user's own once, so that what is wrong is said before ranks start.

    Raises:
        InputError: some of it cannot be imported or made, or does not fit the rest.
    """
    workload = real_workload(options, layout, seed)
    model = workload.build()
    if parameters := trainable(model):
        check_optimization(options, parameters)
    exchange = named(options.exchange, options.exchange_options)
    if exchange is not None:
        exchange.check(options.scheme)
    if layout.scheme == "stanza":
        try:
            separate(model, workload.data.image_shape)
        except InputError as error:
            raise InputError(f"--stanza.model {options.model}: {error}") from None
    forget()


def logits(outputs: Any) -> Any:
    """The outputs of a model without those of Inception's auxiliary head."""
    return outputs.logits if isinstance(outputs, InceptionOutputs) else outputs
