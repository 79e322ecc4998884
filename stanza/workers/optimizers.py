"""Optimizers as factories, because every part of a model, on its own rank, gets one of its own."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from systems.optimizers import attach_schedule, check_optimizer, check_schedule
from systems.schema import InputError

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
"""Makes an optimizer for some parameters."""
SchedulerFactory = Callable[[Optimizer], LRScheduler]
"""Makes the learning-rate schedule of an optimizer."""
BY_SHAPE = ("Adafactor", "Muon")
"""torch's optimizers whose update of one value depends on the shape of the whole parameter."""


def scheduled(
    optimizer: OptimizerFactory, scheduler: SchedulerFactory | None, steps_done: int = 0
) -> OptimizerFactory:
    """Make a factory of optimizers that step their learning-rate schedule after every step.

    Args:
        scheduler: None leaves the rates alone.
        steps_done: how many steps of the schedule are over already.
    """
    if scheduler is None:
        return optimizer

    def make(parameters: Iterable[Tensor]) -> Optimizer:
        new_optimizer = optimizer(parameters)
        attach_schedule(
            new_optimizer, check_schedule(scheduler(new_optimizer), "scheduler"), steps_done
        )
        return new_optimizer

    return make


def check_factory(optimizer: OptimizerFactory, parameters: Sequence[Tensor]) -> None:
    """Refuse what makes no optimizer that a step without a closure can use.

    Raises:
        InputError: it cannot be called, or see `systems.optimizers.check_optimizer`.
    """
    if not callable(optimizer):
        raise InputError(
            f"optimizer: {type(optimizer).__name__} where a function that makes an optimizer is "
            "wanted; give one such as `lambda parameters: torch.optim.SGD(parameters, lr=0.1)`"
        )
    check_optimizer(optimizer(parameters), "optimizer")


def check_by_value(optimizer: OptimizerFactory, parameters: Sequence[Tensor], what: str) -> None:
    """Refuse an optimizer that cannot train slices of parameters as it trains the whole ones.

    Args:
        what: what cuts the parameters into slices, as the start of the error.

    Raises:
        InputError: it sorts parameters into groups, or updates them by their shapes.
    """
    made = optimizer(parameters)
    kind = type(made).__name__
    if len(made.param_groups) > 1:
        raise InputError(
            f"{what}: the optimizer sorts parameters into {len(made.param_groups)} groups, and "
            "slices of them cannot be sorted so; give one group, or another scheme"
        )
    if kind in BY_SHAPE:
        raise InputError(
            f"{what}: {kind} updates by the shape of a parameter, and slices have another; give "
            "an optimizer that updates value by value, or another scheme"
        )
