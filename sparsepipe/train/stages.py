"""The stages of a pipeline that trains on this machine, and the schedule that it plays."""

from collections.abc import Sequence
from itertools import pairwise

from sparsepipe.options import Options
from sparsepipe.pipeline.network import Network
from sparsepipe.pipeline.samples import split_by_speed
from sparsepipe.planner.stages import PlannedStage, Replica, ScheduleChoice
from sparsepipe.schedule.lists import Schedule, build_schedule
from sparsepipe.train.profiling import profile_network
from sparsepipe.train.workload import Workload
from systems.schema import InputError

MICRO_BATCHES = 4
"""The number of micro-batches of a flushing schedule for which nobody gives a number."""
HERE = "this machine"


def schedule_choice_of(options: Options) -> ScheduleChoice:
    """The schedule that the options name."""
    flushes = ScheduleChoice(name=options.schedule).flushes
    return ScheduleChoice(
        name=options.schedule,
        micro_batches=options.micro_batches or (MICRO_BATCHES if flushes else 1),
    )


def stages_at_cuts(options: Options, workload: Workload, ranks: int) -> tuple[PlannedStage, ...]:
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
    parts = split_by_speed(seconds, [1.0] * ranks)
    return tuple(part.start for part in parts[1:]) if all(parts) else None


def _stages(edges: Sequence[int]) -> tuple[PlannedStage, ...]:
    return tuple(
        PlannedStage(first=i, end=j, replicas=(Replica(rank=rank, device=HERE, share=1.0),))
        for rank, (i, j) in enumerate(pairwise(edges))
    )


def check_stages(stages: Sequence[PlannedStage], workload: Workload, ranks: int) -> None:
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


def schedule_of(
    stages: Sequence[PlannedStage], kind: ScheduleChoice, mini_batches: int
) -> Schedule:
    """The lists of all ranks."""
    return build_schedule(
        kind.name,
        tuple(tuple(replica.rank for replica in stage.replicas) for stage in stages),
        mini_batches=mini_batches,
        micro_batches=kind.micro_batches,
        in_flight=None if kind.order is None else kind.order.in_flight,
        late_updates=kind.order is not None and kind.order.late_updates,
    )
