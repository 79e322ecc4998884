"""The mini-batches of a workload by number; every rank makes only the samples that it needs.

[Note: who makes what]
To make a sample, to draw, turn and quantize its points, can take as long as to train a small
network on it. So the ranks of the first stage make samples, each those that it would take if all
had equally many voxels. Then all ranks tell each other what was made: the voxels, the labels and
the class of every sample. From that each of them knows how the samples are really shared out, by
voxels. A rank of the first stage makes the few samples that it still lacks, and the last stage
knows the classes; where every voxel has a label, it makes its own samples, too. All of this is done
in threads, ahead of need. A sample depends on the seed, its number and the epoch alone, so it does
not matter who makes it.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from sparsepipe.engine.quantize import Voxels
from sparsepipe.planner.stages import PlannedStage
from sparsepipe.runtime.mailbox import Inbox
from sparsepipe.runtime.samples import shared_out
from sparsepipe.runtime.values import Value
from sparsepipe.train.loss import count_of
from sparsepipe.train.workload import Workload, joined
from systems.data.pinned import moved
from systems.network.distributed import World
from systems.processes.waiting import waiting

KEPT = 32
"""The number of mini-batches that are kept in memory: more than are ever in flight."""
AHEAD = 4
"""How many mini-batches the first stage makes ahead of need."""


@dataclass(frozen=True)
class _Made:
    """A mini-batch as one rank has it."""

    facts: Tensor
    """int64 [samples, 3]: the voxels of each sample, its labels, and its class where it has one."""
    samples: dict[int, Future[Voxels]]
    """By number, the samples that this rank needs."""

    def of(self, samples: range) -> list[Voxels]:
        """Return the voxels of some of the samples."""
        return [self.samples[number].result() for number in samples]


class CloudBatches:
    """The mini-batches of a workload by number, as `sparsepipe.runtime.stage.Batches`.

    Two threads of a rank ask for them, always for later ones.
    """

    def __init__(
        self,
        workload: Workload,
        world: World,
        stages: Sequence[PlannedStage],
        micro_batches: int = 1,
        *,
        count: int,
        first: int = 0,
    ) -> None:
        """Begin to make mini-batches. All ranks of the world must call this together.

        Args:
            stages: who has which samples.
            count: how many mini-batches there will be.
            first: the mini-batch of the workload that has number 0 here.
        """
        self._workload, self._world = workload, world
        self._stages, self._micro_batches = stages, micro_batches
        # One thread: this is mostly Python, of which two threads make less than one.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="samples")
        with world.meeting("the group that tells of samples"):
            self._group = dist.new_group(timeout=world.backend_timeout, backend="gloo")
        self._lock = threading.Lock()
        self._voxels: list[list[int]] = []
        self._labels: list[int] = []
        self._kept: dict[int, _Made] = {}
        makes = world.rank in stages[0].ranks  # the others never hold up those that do
        self._inbox = Inbox(
            self._mini_batches(first, count),
            "the samples of a mini-batch",
            ahead=AHEAD if makes else 0,
        )

    def _mini_batches(self, first: int, count: int) -> Iterator[_Made]:
        """Make this rank's part of every mini-batch; runs on the inbox's thread."""
        even = [1] * self._workload.options.batch_size
        making = self._stages[:1]
        makers = [rank for rank in making[0].ranks if rank != self._world.rank]
        needing = (*making, *(self._stages[-1:] if self._workload.labels_voxels else ()))
        for _, (epoch, clouds) in zip(range(count), self._workload.order(first), strict=False):
            begin = partial(self._begin, epoch, clouds)
            samples = {number: begin(number) for number in self._own(making, even)}
            facts = torch.zeros(len(clouds), 3, dtype=torch.int64)
            for number, sample in samples.items():
                facts[number] = self._told(sample.result())
            with waiting("what is told of samples", makers):
                dist.all_reduce(facts, group=self._group)  # every sample was made on one rank
            needed = self._own(needing, facts[:, 0].tolist())
            yield _Made(facts, {n: samples[n] if n in samples else begin(n) for n in needed})

    def _own(self, stages: Sequence[PlannedStage], voxels: Sequence[int]) -> set[int]:
        """The numbers of the samples that this rank takes at some stages, if samples have so many
        voxels."""
        return {
            number
            for stage in stages
            for part in range(self._micro_batches)
            for rank, samples in zip(
                stage.ranks,
                shared_out(voxels, stage.shares, part, self._micro_batches),
                strict=True,
            )
            if rank == self._world.rank
            for number in samples
        }

    def _begin(self, epoch: int, clouds: Sequence[int], number: int) -> Future[Voxels]:
        """Begin to make one sample of a mini-batch, in a thread."""

        def make() -> Voxels:
            return self._workload.quantized(self._workload.data.train.cloud(clouds[number], epoch))

        return self._pool.submit(make)

    def _told(self, sample: Voxels) -> Tensor:
        """Return what this rank tells all others about a sample, int64 [3], see `_Made.facts`."""
        labels = sample.labels
        assert labels is not None  # a workload has some for every cloud
        of_cloud = 0 if labels.ndim else int(labels)
        return torch.tensor([len(sample.coordinates), count_of(labels.reshape(-1)), of_cloud])

    def _made(self, mini_batch: int) -> None:
        """Wait for a mini-batch and those before it, and forget those that are long past."""
        with self._lock:
            while (number := len(self._voxels)) <= mini_batch:
                self._kept[number] = ready = self._inbox.get()
                voxels, labels, _ = ready.facts.T
                self._voxels.append(voxels.tolist())
                self._labels.append(int(labels.sum()))
                self._kept.pop(number - KEPT, None)

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """The number of voxels of each cloud."""
        self._made(mini_batch)
        return self._voxels[mini_batch]

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of some clouds, as one sparse tensor."""
        self._made(mini_batch)
        return (moved(joined(self._kept[mini_batch].of(samples)).inputs, self._world.device),)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """The labels of some clouds, int64 [clouds], or of their voxels, int64 [voxels]."""
        self._made(mini_batch)
        ready = self._kept[mini_batch]
        if self._workload.labels_voxels:
            targets: Tensor = joined(ready.of(samples)).targets
        else:
            targets = ready.facts[samples.start : samples.stop, 2]
        on_device: Tensor = moved(targets, self._world.device)
        return on_device

    def count(self, mini_batch: int) -> int:
        """The number of labels."""
        self._made(mini_batch)
        return max(1, self._labels[mini_batch])

    def close(self) -> None:
        """End the threads that make mini-batches, once all ranks have all of them."""
        self._pool.shutdown(cancel_futures=True)
        if self._inbox.close():
            dist.destroy_process_group(self._group)


@dataclass(frozen=True)
class BatchesFrom:
    """The mini-batches of `batches` from the one with the number `first` on, which has number 0
    here."""

    batches: CloudBatches
    """The mini-batches to take from."""
    first: int
    """The number there of mini-batch 0 here."""

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """The number of voxels of each cloud."""
        return self.batches.voxels(self.first + mini_batch)

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of some clouds, as one sparse tensor."""
        return self.batches.inputs(self.first + mini_batch, samples)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """The labels of some clouds, or of their voxels."""
        return self.batches.targets(self.first + mini_batch, samples)

    def count(self, mini_batch: int) -> int:
        """The number of labels."""
        return self.batches.count(self.first + mini_batch)
