"""The mean of a metric over mini-batches, from what the ranks of the last stage compute."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from sparsepipe.library.given import GivenBatches
from sparsepipe.runtime.values import Value
from sparsepipe.train.loss import Loss, summed
from systems.network.distributed import World
from systems.schema import InputError


class Tally:
    """A sum that grows with every output of the last stage on this rank."""

    def __init__(self, metric: Loss, count: Callable[[Any], int], world: World) -> None:
        self._metric_sum, self._count, self._world = summed(metric, count), count, world
        self._sum, self._targets = 0.0, 0

    def over(self, batches: GivenBatches) -> Callable[[int, range, Value], None]:
        """What takes the outputs for these mini-batches."""

        def add(mini_batch: int, samples: range, output: Value) -> None:
            """Add what some samples give."""
            targets = batches.targets(mini_batch, samples)
            self._sum += float(self._metric_sum(output, targets))
            self._targets += self._count(targets)

        return add

    def mean(self) -> float:
        """The mean over all ranks, which must call this together.

        Raises:
            InputError: there were no targets.
        """
        numbers = [self._sum, float(self._targets)]
        total = torch.tensor(numbers, dtype=torch.float64, device=self._world.device)
        with self._world.meeting("the sum of the metric"):
            dist.all_reduce(total)
        metric_sum, targets = total.tolist()
        if not targets:
            raise InputError("evaluate: there are no targets; give at least one mini-batch")
        return float(metric_sum / targets)
