"""What a run asks of torch's optimizers and learning-rate schedules, whoever has made them."""

import warnings
from collections.abc import Collection

from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from systems import by_path
from systems.schema import InputError


def check_optimizer(made: object, where: str) -> Optimizer:
    """Refuse what is no optimizer of torch, or needs a closure.

    Args:
        where: what the user calls it, for errors.
    """
    if isinstance(made, LBFGS):
        raise InputError(
            f"{where}: LBFGS needs a closure that computes the loss several times in a step; give "
            "an optimizer that needs none"
        )
    if not isinstance(made, Optimizer):
        raise InputError(
            f"{where}: makes a {type(made).__name__}; give what makes a torch.optim.Optimizer"
        )
    return made


def check_schedule(made: object, where: str) -> LRScheduler:
    """Refuse what is no schedule of torch, or needs a metric; see `check_optimizer`."""
    if isinstance(made, ReduceLROnPlateau):
        raise InputError(
            f"{where}: ReduceLROnPlateau needs a metric at every step; give a schedule that "
            "depends on the number of the step alone"
        )
    if not isinstance(made, LRScheduler):
        raise InputError(
            f"{where}: makes a {type(made).__name__}; give what makes an LRScheduler of "
            "torch.optim.lr_scheduler"
        )
    return made


def attach_schedule(optimizer: Optimizer, schedule: LRScheduler, steps_done: int = 0) -> None:
    """Step a schedule after every step of its optimizer.

    Args:
        steps_done: the steps that a resumed run has done before.
    """
    with warnings.catch_warnings():  # no optimizer has been stepped in this process
        warnings.simplefilter("ignore")
        for _ in range(steps_done):
            schedule.step()
    optimizer.register_step_post_hook(lambda *_: schedule.step())


def check_lasts(
    schedule: LRScheduler, steps: int, option: str, name: str, texts: Collection[str] = ()
) -> None:
    """Step a schedule as often as the run will, and refuse one that ends before. Its optimizer is
    of no use afterwards.

    Args:
        option: the option that names it, such as "--stanza.schedule".
        name: the import path of the schedule.
        texts: its arguments as the user wrote them, such as "total_steps=40".

    Raises:
        InputError: it fails in one of the steps.
    """
    with warnings.catch_warnings():  # the optimizer makes no steps
        warnings.simplefilter("ignore")
        for done in range(steps):
            try:
                schedule.step()
            except Exception as error:  # the schedule's own code runs here
                known = by_path.keywords(texts, f"{option}-options")
                length = next((key for key, value in known.items() if value == done), None)
                longer = f"{option}-options {length}={steps}" if length else "a longer schedule"
                system = option.rpartition(".")[0]
                raise InputError(
                    f"{option} {name}: fails after {done} of {steps} steps: "
                    f"{by_path.failure(error)}; give {longer}, or {system}.steps {max(1, done)}"
                ) from error
