"""Training in a pipeline: `sparsepipe.train`'s network and data, a stage or several on every rank.

Batch normalisation takes the statistics of what a replica has of a micro-batch (`part`, see
`sparsepipe.pipeline`). Every rank makes the mini-batches, which are the same on all of them: the
first stage reads the clouds, the last the labels, and all of them how many voxels each cloud has.
"""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.network import Network
from sparsepipe.options import Options
from sparsepipe.pipeline import collect
from sparsepipe.pipeline import run as run_pipeline
from sparsepipe.planner.stages import Replica, Stage
from sparsepipe.planner.stages import Schedule as Kind
from sparsepipe.profiling import profile_network
from sparsepipe.schedule import Schedule, build
from sparsepipe.shares import split
from sparsepipe.summary import fill, step_times, utilisation
from sparsepipe.train import last_step, optimizer
from sparsepipe.values import Value, data, take
from sparsepipe.workload import MiniBatch, Workload
from systems import schema
from systems.checkpoint import Checkpoints
from systems.distributed import World
from systems.measure import spread
from systems.record import Step
from systems.schema import InputError
from systems.state import State
from systems.trace import Tracer

MICRO_BATCHES = 4
"""Of a flushing schedule, where nobody says another number."""
KEPT = 32
"""Mini-batches in memory: more than are ever in flight."""
HERE = "this machine"


def kind_of(options: Options) -> Kind:
    """The schedule that the options name."""
    flushes = Kind(name=options.schedule).flushes
    return Kind(
        name=options.schedule,
        micro_batches=options.micro_batches or (MICRO_BATCHES if flushes else 1),
    )


def stages_of(options: Options, workload: Workload, ranks: int) -> tuple[Stage, ...]:
    """Where nothing is measured: at the options' cuts, or with equally many layers, a stage a rank.

    Raises:
        InputError: cuts that do not fit the network or the ranks.
    """
    count = len(Network(workload.network()).layers)
    if options.cuts is None:
        if ranks > count:
            raise InputError(f"--world-size {ranks}: {options.model} has only {count} layers")
        return _stages([round(i * count / ranks) for i in range(ranks + 1)])
    edges = [0, *options.cuts, count]
    if len(edges) != ranks + 1 or any(b <= a for a, b in pairwise(edges)):
        raise InputError(
            f"--sparsepipe.cuts {list(options.cuts)}: give {ranks - 1} that ascend between 1 and "
            f"{count - 1}, for {ranks} ranks and the {count} layers of {options.model}"
        )
    return _stages(edges)


def balanced_cuts(workload: Workload, ranks: int) -> tuple[int, ...] | None:
    """Cuts after which the slowest of `ranks` stages is as fast as possible, by the layers' times
    for a mini-batch on this machine. None where a stage would be empty."""
    batches = workload.mini_batches()
    inputs = next(batches).inputs
    batches.close()
    network = Network(workload.network())
    profile = profile_network(network, inputs, name="", device_kind=HERE, repetitions=2)
    seconds = [layer.forward_s + layer.backward_s for layer in profile.layers]
    runs = split(seconds, [1.0] * ranks)
    return tuple(run.start for run in runs[1:]) if all(runs) else None


def _stages(edges: Sequence[int]) -> tuple[Stage, ...]:
    return tuple(
        Stage(first=i, end=j, replicas=(Replica(rank=rank, device=HERE, share=1.0),))
        for rank, (i, j) in enumerate(pairwise(edges))
    )


def check_stages(stages: Sequence[Stage], workload: Workload, ranks: int) -> None:
    """Refuse stages of another network, or for more ranks than there are.

    Raises:
        InputError: they are.
    """
    options, count = workload.options, len(Network(workload.network()).layers)
    if stages[-1].end != count:
        raise InputError(
            f"--sparsepipe.plan {options.plan}: is of {stages[-1].end} layers, and {options.model} "
            f"has {count}; plan from a profile made with `launch profile sparsepipe`"
        )
    needed = 1 + max(replica.rank for stage in stages for replica in stage.replicas)
    if needed > ranks:
        raise InputError(
            f"--world-size {ranks}: the plan {options.plan} is for {needed} ranks; give {needed}"
        )


def schedule_of(stages: Sequence[Stage], kind: Kind, mini_batches: int) -> Schedule:
    """The lists of all ranks."""
    return build(
        kind.name,
        tuple(tuple(replica.rank for replica in stage.replicas) for stage in stages),
        mini_batches=mini_batches,
        micro_batches=kind.micro_batches,
        in_flight=None if kind.order is None else kind.order.in_flight,
        late_updates=kind.order is not None and kind.order.late_updates,
    )


class CloudBatches:
    """A workload's mini-batches by number; two threads of a rank ask for them, ever later ones."""

    def __init__(self, workload: Workload, device: torch.device, first: int = 0) -> None:
        """From the workload's number `first` on, counted from 0."""
        self._made, self._device = workload.mini_batches(first), device
        self._lock = threading.Lock()
        self._voxels: list[list[int]] = []
        self._kept: dict[int, MiniBatch] = {}

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """Of each cloud."""
        with self._lock:
            while len(self._voxels) <= mini_batch:
                self._make()
            return self._voxels[mini_batch]

    def _make(self) -> None:
        batch, number = next(self._made), len(self._voxels)
        samples = batch.inputs.coordinates[:, 0].long()
        self._voxels.append(torch.bincount(samples, minlength=len(batch.labels)).tolist())
        self._kept[number] = batch
        self._kept.pop(number - KEPT, None)

    def _batch(self, mini_batch: int) -> MiniBatch:
        self.voxels(mini_batch)
        with self._lock:
            return self._kept[mini_batch].to(self._device)

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of these clouds."""
        return take((self._batch(mini_batch).inputs,), samples)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """Their labels."""
        return self._batch(mini_batch).labels[samples.start : samples.stop]

    def count(self, mini_batch: int) -> int:
        """How many clouds."""
        return len(self.voxels(mini_batch))

    def close(self) -> None:
        """End what makes them."""
        self._made.close()


@dataclass(frozen=True)
class Later:
    """Mini-batches from number `first` on, counted from 0."""

    batches: CloudBatches
    first: int

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """Of each cloud."""
        return self.batches.voxels(self.first + mini_batch)

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of these clouds."""
        return self.batches.inputs(self.first + mini_batch, samples)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """Their labels."""
        return self.batches.targets(self.first + mini_batch, samples)

    def count(self, mini_batch: int) -> int:
        """How many clouds."""
        return self.batches.count(self.first + mini_batch)


def run(
    stages: Sequence[Stage],
    kind: Kind,
    world: World,
    workload: Workload,
    tracer: Tracer,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Step]:
    """Train; yields every mini-batch, on rank 0 then a last step with `sparsepipe.train.run`'s
    totals, of the whole network.

    The pipeline runs empty wherever a checkpoint is made, in a run that nothing interrupts too: an
    asynchronous one then has no older weights to save, and goes on as it would have.
    """
    options, checkpoints = workload.options, checkpoints or Checkpoints.off(world)
    first, first_batch = checkpoints.first_step, checkpoints.first_batch(options.batch_size)
    segments = list(checkpoints.segments(options.steps))
    model = workload.network().to(world.device)
    network = Network(model)
    modules = [network.stage(stage.first, stage.end) for stage in stages]
    shares = [[replica.share for replica in stage.replicas] for stage in stages]
    mine = [
        module
        for stage, module in zip(stages, modules, strict=True)
        if world.rank in (replica.rank for replica in stage.replicas)
    ]
    state = State(model, world.rank)
    optimizers = _optimizers(options, mine, first, state)
    checkpoints.restore_model(model)
    checkpoints.restore(state)
    batches = CloudBatches(workload, world.device, first_batch)
    began = time.perf_counter()
    for begin, end in segments:
        steps = run_pipeline(
            schedule_of(stages, kind, end - begin),
            modules,
            shares,
            world,
            batches=Later(batches, begin - first),
            loss_sum=loss_sum,
            optimizer=lambda parameters: optimizers[id(next(iter(parameters)))],
            tracer=tracer,
        )
        for step in steps:
            yield Step(begin + step.index, step.metrics)
        seen = (first_batch + end - first) * options.batch_size
        checkpoints.save(end, options.steps, state, seen)
    batches.close()
    collect(schedule_of(stages, kind, 1), modules, world)
    if world.rank == 0:
        yield last_step(model, workload, world, began, first)


def _optimizers(
    options: Options, modules: Sequence[nn.Module], first_step: int, state: State
) -> dict[int, torch.optim.Optimizer]:
    """One for each module with parameters, by the id of the first of them; all go into `state`."""
    made: dict[int, torch.optim.Optimizer] = {}
    for module in modules:
        own, parameters = None, list(module.parameters())
        if parameters:  # a pooling alone has none
            own = made[id(parameters[0])] = optimizer(options, parameters, first_step)
        state.add(module, own)
    return made


def loss_sum(output: Value, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [b, classes], summed over the clouds."""
    return nn.functional.cross_entropy(data(output), labels, reduction="sum")


def summarize(
    options: Options, stages: Sequence[Stage], kind: Kind, everyone: list[list[Step]]
) -> dict[str, Any]:
    """The result of a run from all ranks' steps: times, losses, how busy ranks were, accuracy.

    Of a run that went on from a checkpoint, times are of the steps since then.
    """
    *trained, totals = everyone[0]
    first = int(totals.metrics["resumed_step"])
    timed = [[s for s in steps if s.index >= first] for steps in (trained, *everyone[1:])]
    schedule = schedule_of(stages, kind, options.steps - first)
    edge = min(fill(schedule), (schedule.mini_batches - 1) // 2)
    window = range(edge, schedule.mini_batches - edge)
    seconds = step_times(schedule, timed, edge)
    loss_sums: defaultdict[int, float] = defaultdict(float)
    for step in itertools.chain(trained, *everyone[1:]):
        loss_sums[step.index] += step.metrics.get("loss_sum", 0.0)
    return {
        "scheme": kind.name,
        "model": options.model,
        "stages": [schema.dump(stage) for stage in stages],
        "micro_batches": kind.micro_batches,
        "step_s": schema.dump(spread(seconds)),
        "samples_per_s": sum(timed[0][m].metrics["samples"] for m in window) / sum(seconds),
        "voxels_per_step": sum(
            step.metrics["voxels"] for replica in stages[0].replicas for step in timed[replica.rank]
        )
        / schedule.mini_batches,
        "utilisation": utilisation(timed, window),
        "loss": [loss_sums[step.index] / step.metrics["samples"] for step in trained],
        **totals.metrics,
    }
