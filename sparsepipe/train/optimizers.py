"""The optimizer of a network or a stage, and how its learning rate changes from step to step."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sparsepipe.names import LR_SCHEDULES
from sparsepipe.options import Options
from systems import by_path
from systems.optimizers import attach_schedule, check_lasts, check_optimizer, check_schedule

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes the optimizer of some parameters."""
MakeSchedule = Callable[[Optimizer], LRScheduler]
"""Makes the learning-rate schedule of an optimizer."""
RISE = 20
"""The steps over which the learning rate rises, before it falls along a cosine."""


def make_optimizer(
    options: Options, parameters: Iterable[nn.Parameter], first: int = 0
) -> Optimizer:
    """The optimizer that the options name; its steps use the rates of the steps from `first` on.

    Raises:
        InputError: what an option names by import path cannot be made.
    """
    optimizer = _optimizer(options, list(parameters))
    if options.lr_schedule == "cosine":
        _follow_cosine(optimizer, options.steps, first)
    elif options.lr_schedule != "constant":
        flag, name = "--sparsepipe.lr-schedule", options.lr_schedule
        more, steps = options.lr_schedule_options, options.steps
        schedule = made_by(name, flag, more, optimizer=optimizer, steps=steps)
        attach_schedule(optimizer, check_schedule(schedule, f"{flag} {name}"), first)
    return optimizer


def made_by(name: str, flag: str, more: Collection[str], **known: Any) -> Any:
    """Call what an import path names, with those of the known arguments that it has, and with more.

    Args:
        flag: the option that holds the import path, for errors.
        more: what its `-options` say, such as "gamma=0.5".

    Raises:
        InputError: it cannot be imported or called with them.
    """
    factory, own = by_path.load(name, flag), by_path.keywords(more, f"{flag}-options")
    named = by_path.named_parameters(factory)
    wanted = [key for key, required in named.items() if required and key not in known]
    if not own and not wanted:
        return by_path.call(factory, name, flag, **known)
    taken = {key: value for key, value in known.items() if key in named}
    return by_path.apply(factory, name, flag, **taken | own)


def _optimizer(options: Options, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer alone, with the highest learning rate."""
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            fused=all(p.is_cuda for p in parameters) or None,  # one launch for all parameters
        )
    flag, name = "--sparsepipe.optimizer", options.optimizer
    optimizer = made_by(
        name,
        flag,
        options.optimizer_options,
        params=parameters,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    return check_optimizer(optimizer, f"{flag} {name}")


def _follow_cosine(optimizer: Optimizer, steps: int, first: int) -> None:
    """Let the learning rates rise, and fall to 0 along a cosine until the last of the steps."""
    highest = [group["lr"] for group in optimizer.param_groups]
    indices = itertools.count(first)

    def set_rates(*_: object) -> None:
        """Set the learning rates of the next step."""
        share = learning_rate_share(next(indices), steps)
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * share

    optimizer.register_step_pre_hook(set_rates)


def learning_rate_share(index: int, steps: int) -> float:
    """The learning rate of step `index`, as a part of the highest one."""
    return min(1.0, (index + 1) / RISE) * 0.5 * (1 + math.cos(math.pi * index / steps))


def check_made(options: Options, parameters: Iterable[nn.Parameter]) -> None:
    """Make the optimizer once, and its schedule, which must last for all steps.

    Raises:
        InputError: see `make_optimizer`; or the schedule ends before the run.
    """
    flag, name = "--sparsepipe.lr-schedule", options.lr_schedule
    optimizer, more = _optimizer(options, list(parameters)), options.lr_schedule_options
    if name not in LR_SCHEDULES:
        schedule = made_by(name, flag, more, optimizer=optimizer, steps=options.steps)
        check_schedule(schedule, f"{flag} {name}")
        check_lasts(schedule, options.steps, flag, name, more)


def optimizers_of(modules: Sequence[nn.Module], make: MakeOptimizer) -> dict[int, Optimizer]:
    """An optimizer for each module that trains parameters, by `first_trained`."""
    trained = [[p for p in module.parameters() if p.requires_grad] for module in modules]
    return {id(parameters[0]): make(parameters) for parameters in trained if parameters}


def first_trained(module: nn.Module) -> int:
    """The id of the first parameter that a module trains, or -1 where there is none."""
    return next((id(p) for p in module.parameters() if p.requires_grad), -1)
