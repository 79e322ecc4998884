"""A user's own network, trained in a pipeline over the ranks of this run.

pipe = sparsepipe.pipeline(network, loss=cross_entropy, optimizer=make_sgd)
for inputs, labels in loader:                       # the same on every rank
    loss = pipe.step((inputs, labels))
accuracy = pipe.evaluate(tests)
weights = pipe.state_dict()                         # all ranks call it; rank 0 has the network
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from sparsepipe.library.given import GivenBatches
from sparsepipe.library.losses import Losses, check_alike
from sparsepipe.library.placement import Placement, placement
from sparsepipe.library.segment import LENGTH, Segment
from sparsepipe.library.tally import Tally
from sparsepipe.planner.stages import PlannedStage, ScheduleName
from sparsepipe.runtime.batch import Batch, as_batch
from sparsepipe.runtime.network import Network, StageModule
from sparsepipe.runtime.run import collect_weights, open_pipeline
from sparsepipe.runtime.values import features_of
from sparsepipe.schedule.lists import Schedule, build_schedule, roles
from sparsepipe.train.loss import Loss, count_of, cross_entropy, right, summed
from sparsepipe.train.optimizers import MakeOptimizer, MakeSchedule, optimizers_of
from sparsepipe.train.stages import schedule_of
from systems.arguments import named_as_arguments
from systems.data.dtypes import check_precision
from systems.network.distributed import World
from systems.network.joined import TIMEOUT_S, join
from systems.optimizers import attach_schedule, check_optimizer, check_schedule
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user says of a pipeline, see `pipeline`."""

    schedule: ScheduleName | None
    micro_batches: int | None
    plan: str | Path | Sequence[int]
    loss: Loss
    optimizer: MakeOptimizer | None
    lr_schedule: MakeSchedule | None
    count: Callable[[Any], int]


def pipeline(
    network: nn.Module,
    *,
    schedule: ScheduleName | None = None,
    micro_batches: int | None = None,
    plan: str | Path | Sequence[int] = "auto",
    loss: Loss = cross_entropy,
    optimizer: MakeOptimizer | None = None,
    lr_schedule: MakeSchedule | None = None,
    count: Callable[[Any], int] = count_of,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    transport: Literal["torch", "nccl"] = "torch",
    timeout_s: float = TIMEOUT_S,
) -> "Pipeline":
    """Divide a network over the ranks of this run, to train it in a pipeline.

    The ranks are those of torch.distributed if the program has initialised it, else what torchrun,
    mpirun or srun has started; without a launcher there is one. All of them begin with the weights
    of rank 0. The layers are placed when the first mini-batch comes.

    Args:
        network: a network of `sparsepipe.engine.layers`, or a module on tensors whose first
            dimension is the samples; `sparsepipe.runtime.network` says what can be cut.
        schedule: "gpipe", "1f1b", or "1f1b-async" (no flush, weight stashing). None: that of the
            plan file, else "1f1b".
        micro_batches: how many a mini-batch is cut into, if the schedule flushes. None: the number
            of the plan file, else 4.
        plan: "auto" times the layers on this machine and balances one stage a rank; or a file that
            `testbed plan sparsepipe --out` wrote; or the numbers of the layers at which new stages
            begin.
        loss: takes what the network returns and the targets; gives the mean over the targets.
        optimizer: takes the parameters of a stage; gives their optimizer. Only `step` needs it.
        lr_schedule: takes an optimizer; gives its schedule, which is stepped after every update.
        count: takes targets; gives their number, by which a part of a mini-batch counts. By default
            the rows, or the whole numbers that are not -100.
        device: "auto" takes one GPU a rank where the node has enough of them, else the CPU.
        transport: what carries messages. "torch" is gloo, from GPUs through the host's memory;
            "nccl" wants a GPU for every rank. Only the first call in a process says it.
        timeout_s: the longest that a rank waits for another one, in seconds. The first pipeline of
            a program says it.

    Raises:
        InputError: the network cannot be cut, or there is no such device.
        TimeoutError: naming the ranks that did not come.
    """
    settings = Settings(
        schedule=schedule,
        micro_batches=micro_batches,
        plan=plan,
        loss=loss,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        count=count,
    )
    return Pipeline(
        network, join(device, timeout_s, "nccl" if transport == "nccl" else "gloo"), settings
    )


class Pipeline:
    """A network whose layers are on several ranks. All ranks call its methods together."""

    def __init__(self, network: nn.Module, world: World, settings: Settings) -> None:
        self._settings = settings
        self.world = world
        """This rank: `world.rank`, `world.world_size`, `world.device`."""
        self.network = network.to(world.device)
        """The user's network. Only the layers that this rank holds are trained here."""
        self._layers = Network(network)
        self._placement: Placement | None = None
        self._modules: list[StageModule] = []
        self._optimizers: dict[int, Optimizer] = {}
        self._segment: Segment | None = None
        self._losses: Losses | None = None
        with world.meeting("the weights of rank 0"):
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    @property
    def stages(self) -> tuple[PlannedStage, ...]:
        """Who holds which layers; empty before the first mini-batch."""
        return () if self._placement is None else self._placement.stages

    def step(self, batch: Any) -> float | None:
        """Train on one mini-batch, which must be the same on all ranks.

        Args:
            batch: (inputs, targets), or inputs alone, which then are the targets too. Inputs are a
                SparseTensor, or a tensor whose first dimension is the samples. Targets are a
                tensor, or tuples or dicts of them, with a row for each sample; or, beside a
                SparseTensor, one for each voxel, in the order of its features.

        Returns:
            The mean loss of the mini-batch. An asynchronous pipeline has several of them in flight:
            it returns the loss of an earlier one, or None while it fills.

        Raises:
            InputError: no such batch, ranks were given different ones, or there is no optimizer.
            TransportError: a rank is gone or silent.
        """
        if self._settings.optimizer is None:
            raise InputError(
                "optimizer=None: give what takes the parameters of a stage and makes their "
                "optimizer, such as lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            )
        given = as_batch(batch)
        check_precision(features_of(given.inputs), self.network, "inputs")
        if self._segment is not None and self._segment.full:
            self.flush()
        if self._segment is None or self._losses is None:
            choice, stages = self._placed(given).choice, self.stages
            schedule = schedule_of(stages, choice, LENGTH)
            self._segment, self._losses = self._open(schedule), Losses(schedule, self.world)
        self._losses.give(given, self._settings.count(given.targets))
        self._losses.add(self._segment.give(given))
        return self._losses.next()

    def flush(self) -> list[float]:
        """Finish the mini-batches in flight; the losses that `step` has not returned.

        There are none in a pipeline that flushes before every update.
        """
        if self._segment is None or self._losses is None:
            return []
        segment, losses = self._segment, self._losses
        self._segment = self._losses = None
        losses.add(segment.finish())
        return losses.rest()

    def evaluate(self, batches: Iterable[Any], metric: Loss = right) -> float:
        """The mean of a metric over the targets of mini-batches, in evaluation mode.

        Args:
            batches: as `step` takes them, the same on all ranks.
            metric: takes what the network returns and the targets; gives the mean over the targets.
                By default the share of rows whose largest logit is that of the label.

        Raises:
            InputError: there are no targets.
        """
        self.flush()
        tally = Tally(metric, self._settings.count, self.world)
        segment: Segment | None = None
        for batch in batches:
            given = as_batch(batch)
            if segment is not None and segment.full:
                segment.finish()
                segment = None
            if segment is None:
                ranks = tuple(stage.ranks for stage in self._placed(given).stages)
                schedule = build_schedule("forward", ranks, mini_batches=LENGTH)
                segment = self._open(schedule, tally)
            segment.give(given)
        if segment is not None:
            segment.finish()
        return tally.mean()

    def state_dict(self) -> dict[str, Any]:
        """The whole network on rank 0, under its own names; on other ranks nothing."""
        self.flush()
        if self._placement is not None:
            schedule = schedule_of(self.stages, self._placement.choice, 1)
            collect_weights(schedule, self._modules, self.world)
        return self.network.state_dict() if self.world.rank == 0 else {}

    def _placed(self, batch: Batch) -> Placement:
        """Place the layers, the first time with the help of a mini-batch."""
        if self._placement is None:
            check_alike(batch, self.world)
            asked = self._settings
            with named_as_arguments():
                self._placement = placement(
                    self.network,
                    asked.plan,
                    asked.schedule,
                    asked.micro_batches,
                    self.world,
                    batch.inputs,
                )
            self._modules = [self._layers.stage(stage.first, stage.end) for stage in self.stages]
            mine = [
                module
                for stage, module in zip(self.stages, self._modules, strict=True)
                if self.world.rank in stage.ranks
            ]
            if asked.optimizer is not None:
                self._optimizers = optimizers_of(mine, self._make_optimizer)
        return self._placement

    def _make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The user's optimizer and learning-rate schedule of a stage."""
        assert self._settings.optimizer is not None  # `_placed` asks first
        made = check_optimizer(self._settings.optimizer(parameters), "optimizer")
        if self._settings.lr_schedule is not None:
            schedule = check_schedule(self._settings.lr_schedule(made), "lr_schedule")
            attach_schedule(made, schedule)
        return made

    def _open(self, schedule: Schedule, tally: Tally | None = None) -> Segment:
        """Begin a segment: of training, or of inference whose outputs are tallied."""
        settings, world = self._settings, self.world
        batches = GivenBatches(settings.count, world.device)
        names = roles(schedule)
        opened = open_pipeline(
            schedule,
            self._modules,
            [stage.shares for stage in self.stages],
            world.with_roles([*names, *["idle"] * (world.world_size - len(names))]),
            batches=batches,
            loss_sum=summed(settings.loss, settings.count),
            optimizer=lambda parameters: self._optimizers[id(next(iter(parameters)))],
            on_output=None if tally is None else tally.over(batches),
            ahead=False,
        )
        return Segment(schedule, world.rank, batches, opened)
