"""The optimizer, the learning-rate schedule and the loss that the options name.

All three may be one's own, named by an import path; each gets the arguments of its
`--stanza.…-options`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stanza.options import ZERO_STAGES, Options
from stanza.own_options import CROSS_ENTROPY, SGD
from stanza.workers.loss import Loss
from stanza.workers.optimizers import OptimizerFactory, SchedulerFactory, check_by_value
from stanza.workers.targets import described
from systems import by_path
from systems.optimizers import check_lasts, check_optimizer, check_schedule
from systems.schema import InputError


def optimizer_of(options: Options) -> OptimizerFactory:
    """Return the factory that makes the optimizer of some parameters.

    Raises:
        InputError: it cannot be imported. When it is called: it cannot be made, or is none.
    """
    if options.optimizer == SGD:
        return partial(
            torch.optim.SGD,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
    return _factory(options.optimizer, options.optimizer_options, "optimizer", check_optimizer)


def scheduler_of(options: Options) -> SchedulerFactory | None:
    """Return the factory that makes the learning-rate schedule of an optimizer; None: the rate
    stays as it is.

    Raises:
        InputError: as for an optimizer.
    """
    if options.schedule is None:
        return None
    return _factory(options.schedule, options.schedule_options, "schedule", check_schedule)


def loss_of(options: Options) -> Loss | None:
    """The loss of outputs and targets, a mean over the samples; None: the cross entropy.

    Raises:
        InputError: it cannot be imported, or is a class that cannot be made.
    """
    if options.loss == CROSS_ENTROPY:
        return None
    name, option = options.loss, "--stanza.loss"
    arguments = by_path.keywords(options.loss_options, f"{option}-options")
    loss = by_path.load(name, option)
    if isinstance(loss, type):
        loss, arguments = by_path.apply(loss, name, option, **arguments), {}
    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        raise InputError(
            f"{option} {name}: has parameters of its own, which no rank would train; move them "
            "into the model"
        )
    if not callable(loss):
        raise InputError(
            f"{option} {name}: is a {type(loss).__name__}; give a function of outputs and targets"
        )

    def mean_loss(outputs: Any, targets: Any) -> Tensor:
        try:
            value = by_path.apply(loss, name, option, outputs, targets, **arguments)
        except InputError as error:
            raise InputError(f"{error}; the targets are {described(targets)}") from error
        if not isinstance(value, Tensor) or value.dim() != 0:
            returned = (
                f"the shape {list(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            )
            raise InputError(f"{option} {name}: returns {returned}; give the mean over the samples")
        return value

    return mean_loss


def _factory(
    name: str, arguments: tuple[str, ...], option: str, check_kind: Callable[[object, str], Any]
) -> Callable[..., Any]:
    """Return a factory of optimizers or of schedules, which checks that what it has made is one."""
    flag = f"--stanza.{option}"
    factory, named = by_path.load(name, flag), by_path.keywords(arguments, f"{flag}-options")

    def make(given: Any) -> Any:
        return check_kind(by_path.apply(factory, name, flag, given, **named), f"{flag} {name}")

    return make


def check(options: Options, parameters: Sequence[Tensor]) -> None:
    """Make an optimizer of the model's parameters and its schedule once.

    Raises:
        InputError: one of them cannot be made, the schedule ends before the run, or the scheme
            cannot use the optimizer.
    """
    factory, scheduler = optimizer_of(options), scheduler_of(options)
    optimizer = factory(parameters)
    if scheduler is not None:
        schedule, name = scheduler(optimizer), str(options.schedule)
        flag, texts = "--stanza.schedule", options.schedule_options
        check_lasts(schedule, options.steps, flag, name, texts)
    if options.scheme in ZERO_STAGES:
        check_by_value(factory, parameters, f"--stanza.scheme {options.scheme}")
