"""The stages and the schedule of a pipeline that trains on this machine."""

from collections.abc import Sequence
from itertools import pairwise

from sparsepipe.options import Options
from sparsepipe.planner.stages import PlannedStage, Replica, ScheduleChoice
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.samples import split_by_speed
from sparsepipe.runtime.values import Value
from sparsepipe.schedule.lists import Schedule, build_schedule
from sparsepipe.train.profiling import profile_network
from sparsepipe.train.workload import Workload
from systems.schema import InputError

MICRO_BATCHES = 4
"""The number of micro-batches of a flushing schedule if none is given."""
HERE = "this machine"
"""The kind of device in stages that were not planned for a cluster."""


def schedule_choice_of(options: Options) -> ScheduleChoice:
    """The schedule that the options name."""
    flushes = ScheduleChoice(name=options.schedule).flushes
    return ScheduleChoice(
        name=options.schedule,
        micro_batches=options.micro_batches or (MICRO_BATCHES if flushes else 1),
    )


def stages_at_cuts(options: Options, workload: Workload, ranks: int) -> tuple[PlannedStage, ...]:
    """A stage for each rank: at the cuts of the options, or with equally many layers.

    Raises:
        InputError: the cuts do not fit the network or the ranks.
    """
    count = len(Network(workload.network()).layers)
    if options.cuts is None:
        if ranks > count:
            raise InputError(f"--world-size {ranks}: {options.model} has only {count} layers")
        return stages_between(equal_cuts(count, ranks), count)
    if not cuts_fit(options.cuts, count, ranks):
        raise InputError(
            f"--sparsepipe.cuts {list(options.cuts)}: give {ranks - 1} that ascend between 1 and "
            f"{count - 1}, for {ranks} ranks and the {count} layers of {options.model}"
        )
    return stages_between(options.cuts, count)


def cuts_fit(cuts: Sequence[int], layers: int, ranks: int) -> bool:
    """Whether cuts make a stage of one layer or more for each rank."""
    edges = [0, *cuts, layers]
    return len(edges) == ranks + 1 and all(a < b for a, b in pairwise(edges))


def equal_cuts(layers: int, ranks: int) -> tuple[int, ...]:
    """The cuts with which stages have equally many layers."""
    return tuple(round(i * layers / ranks) for i in range(1, ranks))


def balanced_cuts(workload: Workload, ranks: int, device: str = "cpu") -> tuple[int, ...] | None:
    """Return the cuts with which the slowest of `ranks` stages is as fast as possible.

    The layers are timed with a mini-batch on a device of this machine. None where a stage would be
    empty.
    """
    batches = workload.mini_batches()
    inputs = next(batches).inputs.to(device)
    batches.close()
    return timed_cuts(Network(workload.network().to(device)), inputs, ranks)


def timed_cuts(network: Network, inputs: Value, ranks: int) -> tuple[int, ...] | None:
    """Return the cuts with which the slowest of `ranks` stages of a network is as fast as possible.
    Its layers are timed in their current mode with `inputs`. None where a stage would be empty."""
    profile = profile_network(network, inputs, name="", device_kind=HERE, repetitions=2)
    seconds = [layer.forward_s + layer.backward_s for layer in profile.layers]
    parts = split_by_speed(seconds, [1.0] * ranks)
    return tuple(part.start for part in parts[1:]) if all(parts) else None


def stages_between(cuts: Sequence[int], layers: int) -> tuple[PlannedStage, ...]:
    """A stage for each rank, between neighbouring cuts."""
    return tuple(
        PlannedStage(first=i, end=j, replicas=(Replica(rank=rank, device=HERE, share=1.0),))
        for rank, (i, j) in enumerate(pairwise([0, *cuts, layers]))
    )


def check_stages(stages: Sequence[PlannedStage], workload: Workload, ranks: int) -> None:
    """Refuse the stages of a plan that do not fit the workload's network or the number of ranks.

    Raises:
        InputError: the stages have another number of layers, or need more ranks.
    """
    options, count = workload.options, len(Network(workload.network()).layers)
    if stages[-1].end != count:
        raise InputError(
            f"--sparsepipe.plan {options.plan}: is of {stages[-1].end} layers, and {options.model} "
            f"has {count}; plan from a profile made with `testbed profile sparsepipe`"
        )
    needed = 1 + max(max(stage.ranks) for stage in stages)
    if needed > ranks:
        raise InputError(
            f"--world-size {ranks}: the plan {options.plan} is for {needed} ranks; give {needed}"
        )


def schedule_of(
    stages: Sequence[PlannedStage], choice: ScheduleChoice, mini_batches: int
) -> Schedule:
    """Build the lists of actions of all ranks for these stages."""
    return build_schedule(
        choice.name,
        tuple(stage.ranks for stage in stages),
        mini_batches=mini_batches,
        micro_batches=choice.micro_batches,
        in_flight=None if choice.order is None else choice.order.in_flight,
        late_updates=choice.order is not None and choice.order.late_updates,
    )
