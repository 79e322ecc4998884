"""A rank's part of a pipeline: it executes all actions of its list, one after the other.

    for step in run_pipeline(schedule, stages, speeds, world, batches=..., loss_sum=..., ...):
        ...                                   # one systems.runs.record.Step a mini-batch
    collect_weights(schedule, stages, world)  # the trained network, whole again on rank 0

Whatever the schedule, the loss is the mean over the whole mini-batch: every replica divides its sum
of losses by the size of the mini-batch, and gradients are summed. So flushing schedules make the
same updates as one process, up to rounding.

Batch normalisation sees only a replica's part of a micro-batch. `frozen` uses the running
statistics and leaves them as they are: samples then do not influence each other, and a pipeline can
equal one process exactly. `part` takes the statistics of the replica's part, as GPipe and DDP do;
it equals one process that goes through the same parts one by one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsepipe.engine.layers import BatchNorm
from sparsepipe.runtime.mailbox import Outbox
from sparsepipe.runtime.play import OpenPipeline
from sparsepipe.runtime.reduction import Reduction
from sparsepipe.runtime.samples import shared_out
from sparsepipe.runtime.stage import Batches, RankContext, StageRuntime
from sparsepipe.runtime.transfer import CHANNELS
from sparsepipe.runtime.values import Value
from sparsepipe.runtime.versions import WeightVersions
from sparsepipe.schedule.lists import Schedule
from systems.modes import modes_restored
from systems.network.distributed import World
from systems.network.open_transport import open_transport
from systems.network.transport import Prefixed, Transport
from systems.runs.record import Step
from systems.runs.trace import Tracer

NormMode = Literal["frozen", "part"]
"""The statistics that batch normalisation uses, see above."""
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
STATE = "state"
"""The channel of `collect_weights`."""


def run_pipeline(
    schedule: Schedule,
    stages: Sequence[nn.Module],
    speeds: Sequence[Sequence[float]],
    world: World,
    *,
    batches: Batches,
    loss_sum: Callable[[Value, Any], Tensor],
    optimizer: Optimizer | None = None,
    norm: NormMode = "part",
    on_output: Callable[[int, range, Value], None] | None = None,
    transport: str = "torch",
    tracer: Tracer | None = None,
) -> Iterator[Step]:
    """Execute this rank's list; yield a step for every mini-batch that this rank is done with.

    The arguments are those of `open_pipeline`; `OpenPipeline.play` says what a step holds.
    """
    with open_pipeline(
        schedule,
        stages,
        speeds,
        world,
        batches=batches,
        loss_sum=loss_sum,
        optimizer=optimizer,
        norm=norm,
        on_output=on_output,
        transport=transport,
        tracer=tracer,
    ) as pipeline:
        yield from pipeline.play(schedule.ranks[world.rank])


@contextmanager
def open_pipeline(
    schedule: Schedule,
    stages: Sequence[nn.Module],
    speeds: Sequence[Sequence[float]],
    world: World,
    *,
    batches: Batches,
    loss_sum: Callable[[Value, Any], Tensor],
    optimizer: Optimizer | None = None,
    norm: NormMode = "part",
    on_output: Callable[[int, range, Value], None] | None = None,
    transport: str = "torch",
    tracer: Tracer | None = None,
    ahead: bool = True,
) -> Iterator["OpenPipeline"]:
    """This rank's part of a pipeline, ready to execute actions. All ranks open and leave together.

    Args:
        stages: the module of every stage, which takes and returns a tuple of values. Only those of
            this rank are run. A module in training mode keeps its frozen layers in evaluation mode;
            one in evaluation mode is put in training mode. Afterwards every layer has its own mode
            again.
        speeds: the speed of each replica of each stage; the samples of a micro-batch are shared out
            in proportion.
        batches: the mini-batches; all ranks give the same ones.
        loss_sum: computes the sum of the losses of some samples from the last stage's output for
            them and their targets.
        optimizer: makes an optimizer for the parameters of a stage; None for a `forward` schedule.
        norm: whose statistics batch normalisation uses.
        on_output: for a `forward` schedule, gets (mini-batch, samples, output of the last stage).
        ahead: whether `batches` knows a mini-batch before its turn, see `RankContext.ahead`.

    Raises:
        TransportError: a peer is gone or silent.
    """
    opened = open_transport(transport, world, _channels(schedule))
    # Without gradients to wait for, a quick stage would run ahead of the next one without end.
    outbox = Outbox("sends", most=int(schedule.kind == "forward" and not _virtual(schedule)))
    context = RankContext(
        schedule=schedule,
        world=world,
        batches=batches,
        ranges=sample_ranges(schedule, speeds, batches),
        loss_sum=loss_sum,
        on_output=on_output,
        outbox=outbox,
        ahead=ahead,
    )
    groups = [world.group(ranks) for ranks in schedule.stages]
    numbers = [number for number, ranks in enumerate(schedule.stages) if world.rank in ranks]
    with modes_restored(*(stages[number] for number in numbers)):
        mine = {
            number: _stage(number, stages[number], context, opened, groups[number], optimizer, norm)
            for number in numbers
        }
        world.barrier("the first mini-batch")
        yield OpenPipeline(schedule, mine, world, tracer or Tracer.off())
    outbox.close()
    world.barrier("the last mini-batch")
    opened.close()
    for group in groups:
        if group is not None:
            dist.destroy_process_group(group)


def _channels(schedule: Schedule) -> list[str]:
    """The names of all channels.

    With virtual stages two ranks may exchange messages over several cuts, so each cut has channels
    of its own.
    """
    cuts = len(schedule.stages) - 1 if _virtual(schedule) else 1
    return [f"{_prefix(schedule, i)}{name}" for i in range(cuts) for name in CHANNELS]


def _virtual(schedule: Schedule) -> bool:
    """Whether a rank holds several stages."""
    return sum(map(len, schedule.stages)) > sum(map(bool, schedule.ranks))


def _prefix(schedule: Schedule, cut: int) -> str:
    """What the channels of the cut after stage `cut` begin with, such as "0>1 "."""
    return f"{cut}>{cut + 1} " if _virtual(schedule) else ""


def sample_ranges(
    schedule: Schedule, speeds: Sequence[Sequence[float]], batches: Batches
) -> Callable[[int, int], Sequence[range]]:
    """A function from (stage, micro-batch) to the samples that each replica of the stage takes.

    A mini-batch is cut into micro-batches of about equally many samples; the samples of each are
    shared out by their voxels and the speeds of the replicas.
    """

    @cache
    def ranges(stage: int, micro_batch: int) -> Sequence[range]:
        """The samples of each replica of a stage, numbered in the mini-batch."""
        mini_batch, part = divmod(micro_batch, schedule.micro_batches)
        voxels = batches.voxels(mini_batch)
        return shared_out(voxels, speeds[stage], part, schedule.micro_batches)

    return ranges


def _stage(
    number: int,
    module: nn.Module,
    context: RankContext,
    transport: Transport,
    group: dist.ProcessGroup | None,
    optimizer: Optimizer | None,
    norm: NormMode,
) -> StageRuntime:
    """Put the module of one stage in its mode, and make its runtime."""
    schedule = context.schedule
    if schedule.kind == "forward":
        module.eval()
    elif not module.training:
        module.train()
    if norm == "frozen":
        for layer in module.modules():
            if isinstance(layer, BatchNorm | nn.modules.batchnorm._BatchNorm):
                layer.eval()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    made = optimizer(list(trained.values())) if optimizer is not None and trained else None
    return StageRuntime(
        number,
        module,
        context,
        arity=len(getattr(module, "inputs", ("value",))),
        before=Prefixed(transport, _prefix(schedule, number - 1)),
        after=Prefixed(transport, _prefix(schedule, number)),
        weights=WeightVersions(module, made),
        reduction=Reduction(
            trained, context.world, stage=number, ranks=schedule.stages[number], group=group
        ),
    )


def collect_weights(schedule: Schedule, stages: Sequence[nn.Module], world: World) -> None:
    """Copy the parameters and buffers of every stage from its first replica to rank 0."""
    transport = open_transport("torch", world, [STATE])
    for module, ranks in zip(stages, schedule.stages, strict=True):
        if 0 in ranks or world.rank not in (0, ranks[0]):
            continue
        for tensor in (*module.parameters(), *module.buffers()):
            if world.rank:
                transport.isend(tensor.detach().contiguous(), 0, STATE).wait()
            else:
                transport.irecv(tensor.detach(), ranks[0], STATE).wait()
    world.barrier("the end of collecting the network")
    transport.close()
