"""Writes the steps of a run for TensorBoard (`tensorboard --logdir runs`), an optional package."""

import importlib.util
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from systems import disk
from systems.progress.view import View
from systems.runs.record import Step
from systems.schema import InputError


def check_tensorboard() -> None:
    """Raise an InputError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "--tensorboard: tensorboard is not installed; install it with: "
            "pip install 'systems-testbed[tensorboard]'"
        )


class Sink:
    """Writes the curves of one run into a folder."""

    def __init__(self, folder: Path, roles: Sequence[str]) -> None:
        """Open the folder. `roles` are the roles of the ranks, for the names of their curves.

        Raises:
            InputError: TensorBoard is not installed.
        """
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._roles, self._reached = folder, roles, -1
        self._hook = threading.excepthook
        threading.excepthook = self._quiet_where_the_disk_is_full
        self._writer: Any = None
        with self._ending_where_it_fails():
            self._writer = SummaryWriter(str(folder))

    def write(self, steps: Iterable[tuple[int, Step]], view: View) -> None:
        """Add the metrics of steps, each with its rank, and what is known of the run as a whole."""
        if self._writer is not None:
            with self._ending_where_it_fails():
                self._add(steps, view)

    def _add(self, steps: Iterable[tuple[int, Step]], view: View) -> None:
        """Do what `write` says; errors are raised here."""
        for rank, step in steps:
            for name, value in step.metrics.items():
                if isinstance(value, int | float):
                    curve = f"{name}/rank {rank} ({self._roles[rank]})"
                    self._writer.add_scalar(curve, value, step.index)
        if view.step is None or view.step == self._reached:
            return
        self._reached = view.step
        for name, whole in (("loss", view.loss), ("samples_per_s", view.samples_per_s)):
            if whole is not None:
                self._writer.add_scalar(name, whole, view.step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            with self._ending_where_it_fails():
                self._writer.close()
        threading.excepthook = self._hook

    @contextmanager
    def _ending_where_it_fails(self) -> Iterator[None]:
        """End the curves with a warning if they cannot be written in the block; the run goes on."""
        try:
            yield
        except OSError as error:
            self._writer = None
            print(
                f"warning: {disk.reason(error)}: nothing can be written in {self._folder}; "
                "TensorBoard's curves end here, and the run goes on",
                file=sys.stderr,
                flush=True,
            )

    def _quiet_where_the_disk_is_full(self, arguments: threading.ExceptHookArgs) -> None:
        """Print no traceback of the writer's own thread if the disk is full: `write` raises the
        same error. Other errors go to the hook that was there before."""
        if not (arguments.exc_value and disk.is_full(arguments.exc_value)):
            self._hook(arguments)
