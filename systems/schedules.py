"""Whether a learning-rate schedule lasts as long as the run that steps it."""

import warnings
from collections.abc import Collection
from typing import Any

from systems import by_path
from systems.schema import InputError


def check_lasts(
    schedule: Any, steps: int, option: str, name: str, texts: Collection[str] = ()
) -> None:
    """Step a schedule as often as the run will. Its optimizer is of no use afterwards.

    Args:
        schedule: a torch LRScheduler.
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
