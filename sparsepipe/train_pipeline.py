"""Training in a pipeline: `sparsepipe.train`'s network and data, a stage or several on every rank.

Batch normalisation takes the statistics of what a replica has of a micro-batch (`part`, see
`sparsepipe.pipeline`). Every rank makes the mini-batches, which are the same on all of them: the
first stage reads the clouds, the last the labels, and all of them how many voxels each cloud has.
"""

import threading
import time
from collections.abc import Iterator, Sequence
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
from systems.distributed import World
from systems.measure import spread
from systems.record import Step
from systems.schema import InputError
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

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self._made, self._device = workload.mini_batches(), device
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


def run(
    stages: Sequence[Stage], kind: Kind, world: World, workload: Workload, tracer: Tracer
) -> Iterator[Step]:
    """Train; yields every mini-batch, on rank 0 then a last step with `sparsepipe.train.run`'s
    totals, of the whole network."""
    options = workload.options
    model = workload.network().to(world.device)
    network = Network(model)
    modules = [network.stage(stage.first, stage.end) for stage in stages]
    schedule = schedule_of(stages, kind, options.steps)
    batches = CloudBatches(workload, world.device)
    began = time.perf_counter()
    yield from run_pipeline(
        schedule,
        modules,
        [[replica.share for replica in stage.replicas] for stage in stages],
        world,
        batches=batches,
        loss_sum=loss_sum,
        optimizer=lambda parameters: optimizer(options, parameters),
        tracer=tracer,
    )
    batches.close()
    collect(schedule, modules, world)
    if world.rank == 0:
        yield last_step(model, workload, world, began)


def loss_sum(output: Value, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [b, classes], summed over the clouds."""
    return nn.functional.cross_entropy(data(output), labels, reduction="sum")


def summarize(
    options: Options, stages: Sequence[Stage], kind: Kind, everyone: list[list[Step]]
) -> dict[str, Any]:
    """The result of a run from all ranks' steps: times, losses, how busy ranks were, accuracy."""
    schedule = schedule_of(stages, kind, options.steps)
    *first, totals = everyone[0]
    ranks = [first, *everyone[1:]]
    edge = min(fill(schedule), (options.steps - 1) // 2)
    seconds = step_times(schedule, ranks, edge)
    last = [ranks[replica.rank] for replica in stages[-1].replicas]
    count = [step.metrics["samples"] for step in last[0]]
    counted = count[edge : options.steps - edge]
    return {
        "scheme": kind.name,
        "model": options.model,
        "stages": [schema.dump(stage) for stage in stages],
        "micro_batches": kind.micro_batches,
        "step_s": schema.dump(spread(seconds)),
        "samples_per_s": sum(counted) / sum(seconds),
        "voxels_per_step": sum(
            step.metrics["voxels"] for replica in stages[0].replicas for step in ranks[replica.rank]
        )
        / options.steps,
        "utilisation": utilisation(ranks, range(edge, options.steps - edge)),
        "loss": [
            sum(steps[m].metrics.get("loss_sum", 0.0) for steps in last) / count[m]
            for m in range(options.steps)
        ],
        **totals.metrics,
    }
