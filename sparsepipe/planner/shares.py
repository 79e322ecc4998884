"""Unequal shares: how a stage's replicas divide a mini-batch so that they are done soonest.

A device that takes the share x is busy for max(F + V x, R + A x) seconds: it computes for F + V x
(a fixed part and one in proportion), and meanwhile its link is busy for R + A x (the all-reduce,
and transfers; both directions of a full-duplex link carry equally much). Its memory allows at most
some share, its limit. The best shares make all devices that are not at their limit finish at the
same time T:

    fast device   |=================== 0.6 ==================|
    slow device   |============ 0.3 =========================|
    small memory  |====== 0.1 (its limit) ======|            T

So T solves

    sum over devices of min((T - F) / V, (T - R) / A, limit) = 1,

whose left side is a concave, increasing, piecewise linear function of T. Newton's method climbs
from 0 to the root in no more steps than there are pieces. Where links do not matter and nothing is
fixed, shares are proportional to speed.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from sparsepipe.planner.costs import STATE_COPIES, Costs, Floats
from sparsepipe.planner.stages import ScheduleChoice

FLAT = 1e-9
"""A cost that grows with the share by less than this part of the stage's whole time is taken as
constant."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRanges:
    """The costs of all ranges of layers: arrays [C, L + 1, L + 1] by class, first layer and end."""

    forward_s: Floats
    """The part of the forward pass that grows with the share, for the share 1."""
    backward_s: Floats
    """The same for the backward pass."""
    fixed_forward_s: Floats
    """The fixed part of the forward pass, of all micro-batches together."""
    fixed_backward_s: Floats
    """The same for the backward pass, with the update that follows it."""
    transfer_s: Floats
    """Activations and gradients in one direction, for the share 1."""
    ring_s: Floats
    """All parameters sent once, in one direction."""
    memory_bytes: Floats
    """[C, 1, 1]: the memory of a device."""
    weight_bytes: Floats
    """[1, L + 1, L + 1]: one version of the weights."""
    activation_bytes: Floats
    """[1, L + 1, L + 1]: the activations of a whole mini-batch."""

    @property
    def layers(self) -> int:
        """The number of layers, L."""
        return self.forward_s.shape[-1] - 1

    def between(self, first: int, end: int) -> "LayerRanges":
        """The ranges of the layers first .. end - 1 alone."""
        rows = slice(first, end + 1)
        arrays = {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}
        return LayerRanges(
            **{
                name: array if name == "memory_bytes" else array[:, rows, rows]
                for name, array in arrays.items()
            }
        )


def layer_ranges(costs: Costs, schedule: ScheduleChoice) -> LayerRanges:
    """The arrays for all ranges; entries whose end is not behind the first layer mean nothing."""

    def between(sums: Floats) -> Floats:
        """[..., L + 1, L + 1]: the part of running sums between each first layer and end."""
        difference: Floats = sums[..., None, :] - sums[..., :, None]
        return np.maximum(0.0, difference)

    fixed_forward = between(costs.fixed_forward_s)
    fixed_backward = between(costs.fixed_backward_s)
    per_byte = np.array([group.seconds_per_byte for group in costs.classes])[:, None, None]
    weights = between(costs.parameter_bytes)[None]
    cut = costs.cut_bytes
    return LayerRanges(
        forward_s=np.maximum(0.0, between(costs.forward_s) - fixed_forward),
        backward_s=np.maximum(0.0, between(costs.backward_s) - fixed_backward),
        fixed_forward_s=fixed_forward * schedule.micro_batches,
        fixed_backward_s=fixed_backward * schedule.micro_batches + between(costs.update_s),
        transfer_s=(cut[:, None] + cut[None, :])[None] * per_byte,
        ring_s=weights * per_byte,
        memory_bytes=np.array([group.memory_bytes for group in costs.classes])[:, None, None],
        weight_bytes=weights,
        activation_bytes=between(costs.output_bytes)[None] + cut[None, :, None],
    )


def best_shares(
    ranges: LayerRanges, counts: tuple[int, ...], schedule: ScheduleChoice, stages_left: int
) -> Floats:
    """The best shares for every range of layers as a stage on `counts` devices of each class.

    Under a flushing schedule the all-reduce comes after the last micro-batch and does not count.

    Returns:
        [C, L + 1, L + 1]: the share of one device of each class; nan where the stage does not fit
        into memory, or where a device would have nothing to do.
    """
    present = [c for c, n in enumerate(counts) if n]
    many = np.array([counts[c] for c in present], dtype=float)[:, None]
    room = _largest_share(ranges, schedule, stages_left)[present]
    # Solve only for the ranges that have a layer and fit into memory; K is their number.
    fitting = (room > 0).all(axis=0) & (np.tensordot(many[:, 0], room, 1) > 1 - 1e-6)
    fitting &= np.triu(np.ones(fitting.shape, dtype=bool), 1)
    ring = 0.0 if schedule.flushes else 2 * (many.sum() - 1) / many.sum()
    starts = np.stack(
        [(ranges.fixed_forward_s + ranges.fixed_backward_s)[present], ranges.ring_s[present] * ring]
    )[:, :, fitting]
    slopes = np.stack([(ranges.forward_s + ranges.backward_s)[present], ranges.transfer_s[present]])
    slopes, limit = slopes[:, :, fitting], room[:, fitting]
    shares = _balanced_shares(starts, slopes, limit, many)
    total = (many * shares).sum(axis=0)
    possible = (shares > 0).all(axis=0) & (total > 1 - 1e-6)
    best = np.full((len(counts), *fitting.shape), np.nan)
    solved = np.zeros((len(counts), *total.shape))
    solved[present] = shares / np.where(possible, total, 1.0)
    solved[:, ~possible] = np.nan
    best[:, fitting] = solved
    return best


def _balanced_shares(starts: Floats, slopes: Floats, limit: Floats, many: Floats) -> Floats:
    """The shares with which all devices that are not at their memory limit finish together.

    Newton's method solves the equation at the top of this file, for K ranges of layers at once.

    Args:
        starts: [2, P, K] for P classes of devices, the fixed seconds of computing and of the link.
        slopes: [2, P, K] the seconds of both that grow with the share, for the share 1.
        limit: [P, K] the largest share that memory allows.
        many: [P, 1] the number of devices in each class.

    Returns:
        [P, K]: the share of one device of each class. Their sum is 1, or less where it cannot be.
    """
    latest = (starts + slopes).max(axis=(0, 1))  # by then each device could take everything
    flat = slopes <= FLAT * latest

    def shares_at(until: Floats) -> tuple[Floats, Floats]:
        """What each device can take until then, and the rate at which that grows."""
        lines = np.divide(until - starts, slopes, out=np.full_like(slopes, np.inf), where=~flat)
        line = lines.argmin(axis=0)[None]
        reached = np.take_along_axis(lines, line, 0)[0]
        slope = np.take_along_axis(slopes, line, 0)[0]
        capped = reached > limit
        rate = np.divide(1.0, slope, out=np.zeros_like(slope), where=~capped)
        return np.where(capped, limit, reached), rate

    until = np.zeros_like(latest)
    for _ in range(2 * (3 * len(many) + 1)):
        shares, rates = shares_at(until)
        excess, rate = (many * shares).sum(axis=0) - 1, (many * rates).sum(axis=0)
        step = np.divide(excess, rate, out=np.zeros_like(excess), where=rate > 0)
        if not np.any(np.abs(step) > 1e-14 * latest):
            break
        until = until - step
    return shares_at(until)[0]


def _largest_share(ranges: LayerRanges, schedule: ScheduleChoice, stages_left: int) -> Floats:
    """[C, L + 1, L + 1]: the largest share that memory allows, 1 at most.

    It is negative where not even the weights fit.
    """
    state = ranges.weight_bytes * (schedule.versions(stages_left) + STATE_COPIES)
    activations = ranges.activation_bytes * schedule.in_flight(stages_left)
    return np.minimum(1.0, (ranges.memory_bytes - state) / np.maximum(activations, 1.0))
