"""A rank's part of a pipeline: all steps of its list, one after the other.

    for step in run_pipeline(schedule, stages, speeds, world, batches=..., loss_sum=..., ...):
        ...                                   # one systems.runs.record.Step a mini-batch
    collect_weights(schedule, stages, world)  # the trained network, whole again on rank 0

Whatever the schedule, the loss is the mean over the whole mini-batch: every replica's sum is
divided by the mini-batch's count, and gradients are summed. Flushing schedules thus make the
updates of one process, up to rounding.

Batch normalisation knows only what a replica has of a micro-batch. `frozen` uses the running
statistics and leaves them as they are: every sample is then by itself, and a schedule can equal one
process exactly. `part` takes the statistics of the replica's part, as GPipe and DDP do; it equals
one process that goes through the same parts one by one.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsepipe.engine.layers import BatchNorm
from sparsepipe.pipeline.mailbox import Outbox
from sparsepipe.pipeline.reduction import Reduction
from sparsepipe.pipeline.samples import split_by_speed
from sparsepipe.pipeline.stage import Batches, RankContext, StageRuntime
from sparsepipe.pipeline.transfer import CHANNELS
from sparsepipe.pipeline.values import Value
from sparsepipe.pipeline.versions import WeightVersions
from sparsepipe.schedule.lists import Action, ActionKind, Schedule
from systems.modes import modes_restored
from systems.network.distributed import World
from systems.network.transport import Prefixed, Transport, open_transport
from systems.runs.record import Step
from systems.runs.trace import Tracer

NormMode = Literal["frozen", "part"]
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
STATE = "state"
COMPUTATION = (ActionKind.FORWARD, ActionKind.BACKWARD, ActionKind.UPDATE)


class StageMemoryError(MemoryError):
    """A mini-batch does not fit into a device's memory."""


def roles(schedule: Schedule) -> list[str]:
    """What to start every rank as, so that errors name its stage: "stage 1", "stages 0 and 2"."""
    names = []
    for rank in range(len(schedule.ranks)):
        held = [str(stage) for stage, ranks in enumerate(schedule.stages) if rank in ranks]
        plural = "s" if len(held) > 1 else ""
        names.append(f"stage{plural} {' and '.join(held)}" if held else "idle")
    return names


def run_pipeline(
    schedule: Schedule,
    stages: Sequence[nn.Module],
    speeds: Sequence[Sequence[float]],
    world: World,
    *,
    batches: Batches,
    loss_sum: Callable[[Value, Tensor], Tensor],
    optimizer: Optimizer | None = None,
    norm: NormMode = "part",
    on_output: Callable[[int, range, Value], None] | None = None,
    transport: str = "torch",
    tracer: Tracer | None = None,
) -> Iterator[Step]:
    """Execute this rank's list; yield every mini-batch when this rank is done with it.

    Args:
        stages: every stage's module: takes and returns a tuple of values. Only this rank's are run.
            One in training mode keeps its frozen layers in evaluation mode; one in evaluation mode
            is put in training mode. Every layer has its own mode again afterwards.
        speeds: of each stage's replicas: what a micro-batch's samples are shared out by.
        loss_sum: of the last stage's output and the targets of the same samples.
        optimizer: makes one for a stage's parameters; None for the schedule `forward`.
        on_output: for `forward`: gets the last stage's mini-batch, samples and output.

    Metrics of a step: `step_s` since the last one, `compute_s` of it spent on forward, backward and
    update, `samples` of the mini-batch, `voxels` of its own, `began_s` and `ended_s` (this host's
    clock), `versions` of weights in memory, and at the last stage `loss_sum` of its own samples.

    Raises:
        TransportError: a peer is gone or silent.
        StageMemoryError: a mini-batch that does not fit.
    """
    opened = open_transport(transport, world, _channels(schedule))
    # Without gradients to wait for, a quick stage would run ahead of the next one without end.
    outbox = Outbox("sends", most=int(schedule.kind == "forward" and not _virtual(schedule)))
    around = RankContext(
        schedule=schedule,
        world=world,
        batches=batches,
        ranges=sample_ranges(schedule, speeds, batches),
        loss_sum=loss_sum,
        on_output=on_output,
        outbox=outbox,
    )
    groups = [world.group(ranks) for ranks in schedule.stages]
    held = [number for number, ranks in enumerate(schedule.stages) if world.rank in ranks]
    with modes_restored(*(stages[number] for number in held)):
        mine = {
            number: _stage(number, stages[number], around, opened, groups[number], optimizer, norm)
            for number in held
        }
        world.barrier("the first mini-batch")
        yield from _play(schedule, mine, world, tracer or Tracer.off())
    outbox.close()
    world.barrier("the last mini-batch")
    opened.close()
    for group in groups:
        if group is not None:
            dist.destroy_process_group(group)


def _channels(schedule: Schedule) -> list[str]:
    """A rank with several stages may have several crossings with one peer: they are kept apart."""
    crossings = len(schedule.stages) - 1 if _virtual(schedule) else 1
    return [f"{_prefix(schedule, i)}{name}" for i in range(crossings) for name in CHANNELS]


def _virtual(schedule: Schedule) -> bool:
    return sum(map(len, schedule.stages)) > sum(map(bool, schedule.ranks))


def _prefix(schedule: Schedule, crossing: int) -> str:
    return f"{crossing}>{crossing + 1} " if _virtual(schedule) else ""


def sample_ranges(
    schedule: Schedule, speeds: Sequence[Sequence[float]], batches: Batches
) -> Callable[[int, int], Sequence[range]]:
    """The samples of every replica: micro-batches of about equal numbers of samples, each of them
    shared out by voxels and speed."""

    @cache
    def ranges(stage: int, micro_batch: int) -> Sequence[range]:
        mini_batch, part = divmod(micro_batch, schedule.micro_batches)
        voxels = batches.voxels(mini_batch)
        first, end = (len(voxels) * k // schedule.micro_batches for k in (part, part + 1))
        shared = split_by_speed(voxels[first:end], speeds[stage])
        return [range(first + samples.start, first + samples.stop) for samples in shared]

    return ranges


def _stage(
    number: int,
    module: nn.Module,
    around: RankContext,
    transport: Transport,
    group: dist.ProcessGroup | None,
    optimizer: Optimizer | None,
    norm: NormMode,
) -> StageRuntime:
    schedule = around.schedule
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
        around,
        arity=len(getattr(module, "inputs", ("value",))),
        before=Prefixed(transport, _prefix(schedule, number - 1)),
        after=Prefixed(transport, _prefix(schedule, number)),
        weights=WeightVersions(module, made),
        reduction=Reduction(
            trained, around.world, stage=number, ranks=schedule.stages[number], group=group
        ),
    )


def _play(
    schedule: Schedule, stages: dict[int, StageRuntime], world: World, tracer: Tracer
) -> Iterator[Step]:
    """The list, and what each mini-batch took."""
    if not stages:
        return
    last_here = schedule.ranks[world.rank][-1]  # of every mini-batch, this ends it
    finished = time.perf_counter()
    compute_s, began_s = 0.0, dict[int, float]()
    for action in schedule.ranks[world.rank]:
        stage, mini_batch = stages[action.stage], action.micro_batch // schedule.micro_batches
        started = time.perf_counter()
        with (
            tracer.span(action.kind.value, stage=action.stage, micro_batch=action.micro_batch),
            _memory(stage, action, world, mini_batch),
        ):
            stage.do[action.kind](action.micro_batch)
        if action.kind is ActionKind.FORWARD:
            began_s.setdefault(mini_batch, time.time() - (time.perf_counter() - started))
        if action.kind in COMPUTATION:
            compute_s += time.perf_counter() - started
        ends = (action.stage, action.kind) == (last_here.stage, last_here.kind)
        if not ends or (action.micro_batch + 1) % schedule.micro_batches:
            continue
        now = time.perf_counter()
        micros = range(action.micro_batch + 1 - schedule.micro_batches, action.micro_batch + 1)
        metrics = {
            "step_s": now - finished,
            "compute_s": compute_s,
            "samples": stage.mini_batch_size(mini_batch),
            "voxels": sum(stage.voxels(micro) for micro in micros),
            "began_s": began_s.pop(mini_batch),
            "ended_s": time.time(),
            "versions": max(one.kept_versions for one in stages.values()),
        }
        for one in stages.values():
            if mini_batch in one.losses:
                metrics["loss_sum"] = one.losses.pop(mini_batch)
        yield Step(mini_batch, metrics)
        finished, compute_s = time.perf_counter(), 0.0


@contextmanager
def _memory(stage: StageRuntime, action: Action, world: World, mini_batch: int) -> Iterator[None]:
    """Say what did not fit, where memory ran out."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and (
            "allocate memory" not in reason
        ):
            raise
        raise StageMemoryError(
            f"{world.name(world.rank)}: mini-batch {mini_batch} does not fit at stage "
            f"{stage.number}: {action.kind} of {stage.voxels(action.micro_batch):,} voxels in "
            f"{len(stage.samples(action.micro_batch))} samples, with {stage.held_bytes():,} bytes "
            f"of activations held at its ends ({reason}); give smaller mini-batches, more "
            "replicas, or fewer in flight"
        ) from error


def collect_weights(schedule: Schedule, stages: Sequence[nn.Module], world: World) -> None:
    """Bring every stage's parameters and buffers to rank 0, from its first replica."""
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
