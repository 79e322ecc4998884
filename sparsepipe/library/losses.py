"""The mean loss of every mini-batch, told to all ranks while later mini-batches are computed.

Only the ranks of the last stage know losses. After each mini-batch all ranks start a sum, and take
its result when as many mini-batches later as there are in flight before the first stage: its own
backward pass has then waited for the last stage anyhow, so the sum makes nobody wait. A pipeline
that flushes has none in flight, and takes the result at once.

The same sum tells whether all ranks were given the same mini-batch.
"""

from collections import defaultdict, deque
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from sparsepipe.runtime.batch import Batch
from sparsepipe.schedule.lists import Schedule
from systems.network.distributed import World
from systems.runs.record import Step
from systems.schema import InputError


class Losses:
    """The losses of one segment on one rank."""

    def __init__(self, schedule: Schedule, world: World) -> None:
        self._world = world
        self._lag = max(schedule.lags)
        virtual = sum(map(len, schedule.stages)) > sum(map(bool, schedule.ranks))
        # The last stage is done with a mini-batch when it is given, but for these cases.
        self._late = self._lag if virtual or any(schedule.late) else 0
        self._sums: defaultdict[int, float] = defaultdict(float)
        self._given: deque[tuple[int, int]] = deque()
        self._started: deque[tuple[Tensor, dist.Work | None, int, int]] = deque()
        self._first = 0  # the number of the first mini-batch whose sum has not begun

    def give(self, batch: Batch, targets: int) -> None:
        """A mini-batch with so many targets is given."""
        self._given.append((batch.fingerprint(), targets))

    def add(self, steps: Iterable[Step]) -> None:
        """This rank is done with mini-batches."""
        for step in steps:
            self._sums[step.index] += step.metrics.get("loss_sum", 0.0)

    def next(self) -> float | None:
        """After each mini-batch: the mean loss of the one that is due, None while there is none.

        Raises:
            InputError: ranks were given different mini-batches.
        """
        if len(self._given) > self._late:
            self._start()
        return self._take() if len(self._started) > self._lag else None

    def rest(self) -> list[float]:
        """After the last mini-batch: the mean losses that are not told yet."""
        while self._given:
            self._start()
        return [self._take() for _ in range(len(self._started))]

    def _start(self) -> None:
        """Start the sum for the next mini-batch."""
        fingerprint, targets = self._given.popleft()
        loss_sum = self._sums.pop(self._first, 0.0)
        numbers = [loss_sum, float(fingerprint)]
        summed = torch.tensor(numbers, dtype=torch.float64, device=self._world.device)
        self._started.append((summed, dist.all_reduce(summed, async_op=True), fingerprint, targets))
        self._first += 1

    def _take(self) -> float:
        """Wait for the oldest sum; the mean loss of its mini-batch."""
        summed, work, fingerprint, targets = self._started.popleft()
        if work is not None:
            with self._world.meeting("the sum of the losses"):
                work.wait()
        loss_sum, fingerprints = summed.tolist()
        if fingerprints != fingerprint * self._world.world_size:
            raise different_batches()
        return float(loss_sum) / max(1, targets)


def different_batches() -> InputError:
    """The error of ranks that were given different mini-batches."""
    return InputError(
        "batch: ranks were given different mini-batches; give all ranks the same ones, in one "
        "order: one seed for the shuffling, and no DistributedSampler"
    )


def check_alike(batch: Batch, world: World) -> None:
    """Refuse different mini-batches before anything is sent. All ranks must call this together."""
    everyone: list[int] = [0] * world.world_size
    with world.meeting("the comparison of the first mini-batches"):
        dist.all_gather_object(everyone, batch.fingerprint())
    if len(set(everyone)) > 1:
        raise different_batches()
