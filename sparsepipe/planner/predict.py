"""The cost model: the time and memory that any stages, shares and schedule are predicted to take.

A device that takes the share x of a stage with the layers i .. j - 1 does this for a mini-batch:

- compute: x times the profile's forward and backward seconds of the layers. The fixed parts of
  these times do not shrink with x; every micro-batch pays them whole. The update of the layers is
  made once for a mini-batch, and counts with the backward pass.
- transfer: activations of x * cut_bytes[i] bytes come over cut i, and equally many bytes of
  gradients go back over it; over cut j it is the other way round. So a device sends and receives
  equally many bytes. If it holds the stages on both sides of a cut, only the difference of its two
  shares moves.
- all-reduce of the stage's gradients among r replicas, in a ring: 2 (r - 1) / r times its parameter
  bytes are sent and received.
- memory: the stage's parameters, once for every weight version and `STATE_COPIES` times more, and
  once more for gradients that wait where updates are late. For every mini-batch in flight, the
  outputs of its layers and what came over cut i. An `Order` says how many are in flight; searches
  run before it is chosen, and assume the smallest number.

`1f1b-async` in its steady state: nothing waits. Computation and both directions of the link
overlap, the all-reduce too, which runs beside the next mini-batch and delays the update by one. So

    step = max over devices of max(compute, transfer + all-reduce).

Flushing schedules fill and drain once for m micro-batches:

    stage 0   [0][1][2][3]                          fill: micro-batch 0 passes all stages
    stage 1      [0][1][2][3]                       then the busiest device (here stage 2) works off
    stage 2         [ 0 ][ 1 ][ 2 ][ 3 ]|exposed|   the other m - 1; its all-reduce comes last

Of the all-reduce only the part is exposed that the backward pass of the last micro-batch does not
hide: the pass of the stage's slowest replica, since the ring waits for it; and the last of its
`ALL_REDUCE_PARTS` begins when the pass has ended. So

    step = sum over stages of (compute + received transfer) / m + latency of its messages
         + max over devices of ((m - 1) / m * max(compute, transfer) + exposed all-reduce)

which is (m + s - 1) / m of a stage's time if all s stages are equal. In `gpipe` all forward passes
come before the backward passes. Messages cross a link one way in each, so the busiest time is

    max over devices of max(forward, crossing) + max over devices of max(backward, crossing)

where crossing is the longer of what a device receives and what it sends in one of the two.
"""

import dataclasses

import numpy as np

from sparsepipe.planner.costs import STATE_COPIES, Costs, Floats
from sparsepipe.planner.stages import (
    DeviceTimes,
    PlannedStage,
    Prediction,
    ScheduleChoice,
    StageTimes,
)
from sparsepipe.schedule.lists import ALL_REDUCE_PARTS
from systems.schema import InputError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StageLoads:
    """What each rank does for each stage, [stages, ranks]; zero where it does not hold it."""

    shares: Floats
    """The part of the samples that the rank takes."""
    forward_s: Floats
    """The forward pass of a mini-batch."""
    backward_s: Floats
    """The backward pass of a mini-batch, and the update."""
    transfer_s: Floats
    """Activations and gradients in one direction, without the all-reduce."""
    crossing_s: Floats
    """The longer direction of the messages of all forward passes; it is as long in all backward
    passes."""
    all_reduce_s: Floats
    """The all-reduce of the gradients, in one direction."""
    memory_bytes: Floats
    """The memory for weight versions, optimizer state and activations."""


def predict(costs: Costs, stages: tuple[PlannedStage, ...], schedule: ScheduleChoice) -> Prediction:
    """Predict the time and memory of `stages`; `check_memory` tells whether the memory suffices."""
    loads = stage_loads(costs, stages, schedule)
    used = sorted({replica.rank for stage in stages for replica in stage.replicas})
    compute, transfer = loads.forward_s + loads.backward_s, loads.transfer_s
    all_reduce = loads.all_reduce_s
    devices = []
    for rank in used:
        group = costs.classes[costs.class_of[rank]]
        limit = None if np.isinf(group.memory_bytes) else int(group.memory_bytes)
        devices.append(
            DeviceTimes(
                rank=rank,
                device=group.kind,
                compute_s=float(compute[:, rank].sum()),
                transfer_s=float(transfer[:, rank].sum() + all_reduce[:, rank].sum()),
                memory_bytes=round(loads.memory_bytes[:, rank].sum()),
                memory_limit_bytes=limit,
            )
        )
    return Prediction(
        step_s=_step_s(costs, stages, schedule, loads),
        stages=tuple(
            StageTimes(
                forward_s=float(loads.forward_s[s].max()),
                backward_s=float(loads.backward_s[s].max()),
                transfer_s=float(transfer[s].max()),
                all_reduce_s=float(all_reduce[s].max()),
            )
            for s in range(len(stages))
        ),
        devices=tuple(devices),
    )


def _step_s(
    costs: Costs, stages: tuple[PlannedStage, ...], schedule: ScheduleChoice, loads: StageLoads
) -> float:
    """The seconds of a step, by the formulas above."""
    compute = (loads.forward_s + loads.backward_s).sum(axis=0)
    transfer = loads.transfer_s.sum(axis=0)
    if not schedule.flushes:
        return float(np.maximum(compute, transfer + loads.all_reduce_s.sum(axis=0)).max())
    m = schedule.micro_batches
    per_stage = (loads.forward_s + loads.backward_s).max(axis=1) + loads.transfer_s.max(axis=1)
    fill = per_stage.sum() / m + latency_s(costs) * 2 * (len(stages) - 1)
    slowest = loads.backward_s.max(axis=1, keepdims=True)
    exposed = exposed_s(loads.all_reduce_s, slowest / m).sum(axis=0)
    busy = np.maximum(compute, transfer)
    if schedule.name == "gpipe":
        crossing = loads.crossing_s.sum(axis=0)
        passes = [
            np.maximum(seconds.sum(axis=0), crossing).max()
            for seconds in (loads.forward_s, loads.backward_s)
        ]
        busy = np.maximum(busy, sum(passes))
    return float(fill + ((m - 1) / m * busy + exposed).max())


def exposed_s(all_reduce_s: Floats, backward_s: Floats) -> Floats:
    """The part of an all-reduce that the backward pass of the slowest replica does not hide.

    It is at least the last of its parts, which begins when the pass has ended.
    """
    exposed: Floats = np.maximum(all_reduce_s - backward_s, all_reduce_s / ALL_REDUCE_PARTS)
    return exposed


def latency_s(costs: Costs) -> float:
    """The latency of one message: that of the slowest link."""
    return max(group.link.latency_s for group in costs.classes)


def stage_loads(
    costs: Costs, stages: tuple[PlannedStage, ...], schedule: ScheduleChoice
) -> StageLoads:
    """Compute what each rank does for each stage."""
    ranks = max(costs.class_of) + 1
    shares = np.zeros((len(stages), ranks))
    for s, stage in enumerate(stages):
        for replica in stage.replicas:
            shares[s, replica.rank] = replica.share
    first = np.array([stage.first for stage in stages])
    end = np.array([stage.end for stage in stages])
    of_rank = np.array([costs.class_of[rank] for rank in range(ranks)])
    holds = shares > 0

    def of_stages(sums: Floats) -> Floats:
        """[stages, ranks] from running sums over the layers."""
        return (sums[:, end] - sums[:, first])[of_rank].T

    def seconds(whole: Floats, fixed: Floats) -> Floats:
        """[stages, ranks] from running sums of whole times and of their fixed parts."""
        whole, fixed = of_stages(whole), of_stages(fixed)
        return np.where(holds, (whole - fixed) * shares + fixed * schedule.micro_batches, 0.0)

    per_byte = np.array([costs.classes[c].seconds_per_byte for c in of_rank])
    # Over the cut before a stage moves what the rank's share grows by, over the cut after it what
    # the share shrinks by; the other end of each message is charged to the neighbour.
    padded = np.pad(shares, ((1, 1), (0, 0)))
    grown = np.maximum(0.0, shares - padded[:-2]) * costs.cut_bytes[first][:, None]
    shrunk = np.maximum(0.0, shares - padded[2:]) * costs.cut_bytes[end][:, None]
    replicas = holds.sum(axis=1)
    weights = costs.parameter_bytes[end] - costs.parameter_bytes[first]
    ring = 2 * (replicas - 1) / replicas * weights
    outputs = costs.output_bytes[end] - costs.output_bytes[first] + costs.cut_bytes[first]
    copies, in_flight = _copies(replicas, schedule)
    memory = (weights * copies)[:, None] + shares * (outputs * in_flight)[:, None]
    return StageLoads(
        shares=shares,
        forward_s=seconds(costs.forward_s, costs.fixed_forward_s),
        backward_s=seconds(costs.backward_s, costs.fixed_backward_s)
        + np.where(holds, of_stages(costs.update_s), 0.0),
        transfer_s=(grown + shrunk) * per_byte,
        crossing_s=np.maximum(grown, shrunk) * per_byte,
        all_reduce_s=np.where(holds, ring[:, None], 0.0) * per_byte,
        memory_bytes=np.where(holds, memory, 0.0),
    )


def _copies(replicas: Floats, schedule: ScheduleChoice) -> tuple[Floats, Floats]:
    """For each stage, how many copies of its parameters and mini-batches in flight it keeps."""
    if schedule.order is not None:
        in_flight = np.array(schedule.order.in_flight, dtype=float)
        late = schedule.order.late_updates & (replicas > 1)
        return in_flight + STATE_COPIES + late, in_flight
    left = range(len(replicas), 0, -1)
    versions = np.array([float(schedule.versions(n)) for n in left])
    return versions + STATE_COPIES, np.array([schedule.in_flight(n) for n in left])


def devices_lacking_memory(prediction: Prediction) -> list[DeviceTimes]:
    """The devices that need more memory than they have."""
    return [
        device
        for device in prediction.devices
        if device.memory_limit_bytes is not None and device.memory_bytes > device.memory_limit_bytes
    ]


def check_memory(prediction: Prediction, what: str) -> None:
    """Refuse a plan that does not fit into memory; `what` says which plan it is.

    Raises:
        InputError: naming the device that lacks most, and how much.
    """
    worst = max(
        devices_lacking_memory(prediction),
        key=lambda d: d.memory_bytes - (d.memory_limit_bytes or 0),
        default=None,
    )
    if worst is None:
        return
    limit = worst.memory_limit_bytes or 0
    raise InputError(
        f"memory: {what}; rank {worst.rank} ({worst.device}) lacks "
        f"{worst.memory_bytes - limit:,} bytes: it needs {worst.memory_bytes:,} of {limit:,}. "
        "Give a smaller --batch-size, or more devices"
    )
