"""What a plan takes: the cost model, for any stages, shares and schedule.

Per mini-batch, for a device d that takes the share x of a stage with layers i to j:

- compute: the profile's forward and backward seconds of the layers times x, beside the fixed parts,
  which every micro-batch pays whole.
- transfer: over cut i comes x * cut_bytes[i] of activations, and as much of gradients goes back;
  over cut j likewise the other way. So a device sends and receives the same number of bytes. Where
  it holds the stages on both sides of a cut, only the difference of its shares moves.
- all-reduce of the stage's gradients among r replicas, in a ring: 2 (r - 1) / r of its parameter
  bytes, sent and received.
- memory: the stage's parameters, once for every stashed version and `STATE_COPIES` times more, once
  more for gradients that wait where updates are late; and of its mini-batches in flight the outputs
  of its layers and what came over cut i. How many are in flight is the order's; searches, which
  come before it, take the fewest.

Steady state: with `1f1b-async` nothing waits, computing and both directions of the link overlap
(the all-reduce too: it runs beside the next mini-batch, whose update it delays by one), so

    step = max over devices of max(compute, transfer + all-reduce).

The flushing schedules fill and drain with m micro-batches. Fill: the first passes all stages and
their cuts one after another. Then the busiest device works off the other m - 1, and the part of its
all-reduce that the last micro-batch's backward does not hide comes last; the backward pass of the
stage's slowest replica, since the ring waits for it, and none of the last part's:

    step = sum over stages of (compute + received transfer) / m + latency of its messages
         + max over devices of ((m - 1) / m * max(compute, transfer) + exposed all-reduce)

which is (m + s - 1) / m of a stage's time if all s are equal. In `gpipe` all forward passes come
before the backward passes. What crosses a link goes one way in each, so the busiest time is

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
    """What each rank does for each stage, [stages, ranks]; zero where it has no part in it."""

    shares: Floats
    forward_s: Floats
    backward_s: Floats
    transfer_s: Floats
    """One direction, without all-reduce."""
    crossing_s: Floats
    """Of it, what crosses while all go forward, and again while all go backward."""
    all_reduce_s: Floats
    memory_bytes: Floats


def predict(costs: Costs, stages: tuple[PlannedStage, ...], schedule: ScheduleChoice) -> Prediction:
    """Time and memory of `stages`; whether the memory suffices is `check_memory`'s question."""
    parts = stage_loads(costs, stages, schedule)
    used = sorted({replica.rank for stage in stages for replica in stage.replicas})
    compute, transfer = parts.forward_s + parts.backward_s, parts.transfer_s
    all_reduce = parts.all_reduce_s
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
                memory_bytes=round(parts.memory_bytes[:, rank].sum()),
                memory_limit_bytes=limit,
            )
        )
    return Prediction(
        step_s=_step_s(costs, stages, schedule, parts),
        stages=tuple(
            StageTimes(
                forward_s=float(parts.forward_s[s].max()),
                backward_s=float(parts.backward_s[s].max()),
                transfer_s=float(transfer[s].max()),
                all_reduce_s=float(all_reduce[s].max()),
            )
            for s in range(len(stages))
        ),
        devices=tuple(devices),
    )


def _step_s(
    costs: Costs, stages: tuple[PlannedStage, ...], schedule: ScheduleChoice, parts: StageLoads
) -> float:
    compute = (parts.forward_s + parts.backward_s).sum(axis=0)
    transfer = parts.transfer_s.sum(axis=0)
    if not schedule.flushes:
        return float(np.maximum(compute, transfer + parts.all_reduce_s.sum(axis=0)).max())
    m = schedule.micro_batches
    per_stage = (parts.forward_s + parts.backward_s).max(axis=1) + parts.transfer_s.max(axis=1)
    fill = per_stage.sum() / m + latency_s(costs) * 2 * (len(stages) - 1)
    slowest = parts.backward_s.max(axis=1, keepdims=True)
    exposed = exposed_s(parts.all_reduce_s, slowest / m).sum(axis=0)
    busy = np.maximum(compute, transfer)
    if schedule.name == "gpipe":
        crossing = parts.crossing_s.sum(axis=0)
        passes = [
            np.maximum(seconds.sum(axis=0), crossing).max()
            for seconds in (parts.forward_s, parts.backward_s)
        ]
        busy = np.maximum(busy, sum(passes))
    return float(fill + ((m - 1) / m * busy + exposed).max())


def exposed_s(all_reduce_s: Floats, backward_s: Floats) -> Floats:
    """What a backward pass of the slowest replica cannot hide of an all-reduce: of its parts, one
    after the other, the last begins when the pass has ended."""
    exposed: Floats = np.maximum(all_reduce_s - backward_s, all_reduce_s / ALL_REDUCE_PARTS)
    return exposed


def latency_s(costs: Costs) -> float:
    """Of one message: the slowest link's."""
    return max(group.link.latency_s for group in costs.classes)


def stage_loads(
    costs: Costs, stages: tuple[PlannedStage, ...], schedule: ScheduleChoice
) -> StageLoads:
    """What each rank does for each stage."""
    ranks = max(costs.class_of) + 1
    shares = np.zeros((len(stages), ranks))
    for s, stage in enumerate(stages):
        for replica in stage.replicas:
            shares[s, replica.rank] = replica.share
    first = np.array([stage.first for stage in stages])
    end = np.array([stage.end for stage in stages])
    of_rank = np.array([costs.class_of[rank] for rank in range(ranks)])
    held = shares > 0

    def seconds(whole: Floats, fixed: Floats) -> Floats:
        whole, fixed = ((x[:, end] - x[:, first])[of_rank].T for x in (whole, fixed))
        return np.where(held, (whole - fixed) * shares + fixed * schedule.micro_batches, 0.0)

    per_byte = np.array([costs.classes[c].seconds_per_byte for c in of_rank])
    # Over the cut before a stage moves what the share grows by, over the one after it what it
    # shrinks by; the counterpart belongs to the neighbour.
    padded = np.pad(shares, ((1, 1), (0, 0)))
    grown = np.maximum(0.0, shares - padded[:-2]) * costs.cut_bytes[first][:, None]
    shrunk = np.maximum(0.0, shares - padded[2:]) * costs.cut_bytes[end][:, None]
    replicas = held.sum(axis=1)
    weights = costs.parameter_bytes[end] - costs.parameter_bytes[first]
    ring = 2 * (replicas - 1) / replicas * weights
    outputs = costs.output_bytes[end] - costs.output_bytes[first] + costs.cut_bytes[first]
    copies, in_flight = _held(replicas, schedule)
    memory = (weights * copies)[:, None] + shares * (outputs * in_flight)[:, None]
    return StageLoads(
        shares=shares,
        forward_s=seconds(costs.forward_s, costs.fixed_forward_s),
        backward_s=seconds(costs.backward_s, costs.fixed_backward_s),
        transfer_s=(grown + shrunk) * per_byte,
        crossing_s=np.maximum(grown, shrunk) * per_byte,
        all_reduce_s=np.where(held, ring[:, None], 0.0) * per_byte,
        memory_bytes=np.where(held, memory, 0.0),
    )


def _held(replicas: Floats, schedule: ScheduleChoice) -> tuple[Floats, Floats]:
    """Of each stage the copies of its parameters, and the mini-batches that it holds."""
    if schedule.order is not None:
        in_flight = np.array(schedule.order.in_flight, dtype=float)
        late = schedule.order.late_updates & (replicas > 1)
        return in_flight + STATE_COPIES + late, in_flight
    left = range(len(replicas), 0, -1)
    versions = np.array([float(schedule.versions(n)) for n in left])
    return versions + STATE_COPIES, np.array([schedule.in_flight(n) for n in left])


def devices_lacking_memory(prediction: Prediction) -> list[DeviceTimes]:
    """The devices whose memory does not suffice."""
    return [
        device
        for device in prediction.devices
        if device.memory_limit_bytes is not None and device.memory_bytes > device.memory_limit_bytes
    ]


def check_memory(prediction: Prediction, what: str) -> None:
    """Refuse a plan that does not fit.

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
