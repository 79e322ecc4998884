"""Steps of a run for TensorBoard: `tensorboard --logdir runs`. Needs the extra `tensorboard`."""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.live import View
from systems.record import Step
from systems.schema import InputError


def check_tensorboard() -> None:
    """Raise an InputError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "--tensorboard: tensorboard is not installed; install it with: "
            "pip install 'systems-testbed[tensorboard]'"
        )


class Sink:
    """Writes one run's events into a folder."""

    def __init__(self, folder: Path, roles: Sequence[str]) -> None:
        """Open it; `roles` are those of the ranks, for the names of their curves."""
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer, self._roles = SummaryWriter(str(folder)), roles
        self._reached = -1

    def write(self, steps: Iterable[tuple[int, Step]], view: View) -> None:
        """Add the metrics of ranks' steps, and what is known of the run as a whole."""
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
        self._writer.close()
