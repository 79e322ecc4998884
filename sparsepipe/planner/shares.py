"""The shares of a stage's replicas: the split of its mini-batch that is done soonest.

A device with share x is busy max(F + V x, R + A x) seconds: fixed and proportional computing, its
all-reduce and its transfers (both full-duplex directions carry as much). Its memory allows at most
some share. The best shares are those with which all that are not at their limit are done at the
same time T, the root of

    sum over devices of min((T - F) / V, (T - R) / A, limit) = 1,

a concave, increasing, piecewise linear function of T; Newton's method from 0 climbs to the root in
no more steps than there are pieces. With links that do not
matter and no fixed part, shares are proportional to speed.
"""

from dataclasses import dataclass

import numpy as np

from sparsepipe.planner.costs import STATE_COPIES, Costs, Floats
from sparsepipe.planner.stages import ScheduleChoice

FLAT = 1e-9
"""A cost that grows by less than this part of the stage's whole time does not decide shares."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRanges:
    """Every run of layers at once, [C, L + 1, L + 1]: by class, first layer and end."""

    forward_s: Floats
    """Proportional to the share."""
    backward_s: Floats
    fixed_forward_s: Floats
    """All micro-batches'."""
    fixed_backward_s: Floats
    transfer_s: Floats
    """One direction, of a device that takes everything."""
    ring_s: Floats
    """One direction, all parameters once."""
    memory_bytes: Floats
    """[C, 1, 1]: what a device has."""
    weight_bytes: Floats
    """[1, L + 1, L + 1], one version."""
    activation_bytes: Floats
    """[1, L + 1, L + 1], of a whole mini-batch."""


def layer_ranges(costs: Costs, schedule: ScheduleChoice) -> LayerRanges:
    """The arrays for every run; those that are empty or end before they begin mean nothing."""

    def between(sums: Floats) -> Floats:
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
        fixed_backward_s=fixed_backward * schedule.micro_batches,
        transfer_s=(cut[:, None] + cut[None, :])[None] * per_byte,
        ring_s=weights * per_byte,
        memory_bytes=np.array([group.memory_bytes for group in costs.classes])[:, None, None],
        weight_bytes=weights,
        activation_bytes=between(costs.output_bytes)[None] + cut[None, :, None],
    )


def best_shares(
    runs: LayerRanges, counts: tuple[int, ...], schedule: ScheduleChoice, stages_left: int
) -> Floats:
    """[C, L + 1, L + 1] shares of one device of each class, for every run as a stage on `counts`
    devices of the classes; nan where that is impossible, or a device would have nothing to do.

    Under a flushing schedule the all-reduce comes after the last micro-batch and does not count.
    """
    present = [c for c, n in enumerate(counts) if n]
    many = np.array([counts[c] for c in present], dtype=float)[:, None]
    room = _largest_share(runs, schedule, stages_left)[present]
    # Only runs of at least one layer that fit, [K] of them: the others need no solving.
    fitting = (room > 0).all(axis=0) & (np.tensordot(many[:, 0], room, 1) > 1 - 1e-6)
    fitting &= np.triu(np.ones(fitting.shape, dtype=bool), 1)
    ring = 0.0 if schedule.flushes else 2 * (many.sum() - 1) / many.sum()
    starts = np.stack(
        [
            (runs.fixed_forward_s + runs.fixed_backward_s)[present],
            runs.ring_s[present] * ring,
        ]
    )[:, :, fitting]
    slopes = np.stack([(runs.forward_s + runs.backward_s)[present], runs.transfer_s[present]])
    slopes, limit = slopes[:, :, fitting], room[:, fitting]
    latest = (starts + slopes).max(axis=(0, 1))  # every one of them could take everything by then
    flat = slopes <= FLAT * latest

    def shares_at(until: Floats) -> tuple[Floats, Floats]:
        lines = np.divide(until - starts, slopes, out=np.full_like(slopes, np.inf), where=~flat)
        line = lines.argmin(axis=0)[None]
        reached = np.take_along_axis(lines, line, 0)[0]
        slope = np.take_along_axis(slopes, line, 0)[0]
        capped = reached > limit
        rate = np.divide(1.0, slope, out=np.zeros_like(slope), where=~capped)
        return np.where(capped, limit, reached), rate

    until = np.zeros_like(latest)
    for _ in range(2 * (3 * len(present) + 1)):
        shares, rates = shares_at(until)
        excess, rate = (many * shares).sum(axis=0) - 1, (many * rates).sum(axis=0)
        step = np.divide(excess, rate, out=np.zeros_like(excess), where=rate > 0)
        if not np.any(np.abs(step) > 1e-14 * latest):
            break
        until = until - step
    shares, _ = shares_at(until)
    total = (many * shares).sum(axis=0)
    possible = (shares > 0).all(axis=0) & (total > 1 - 1e-6)
    found = np.full((len(counts), *fitting.shape), np.nan)
    solved = np.zeros((len(counts), *total.shape))
    solved[present] = shares / np.where(possible, total, 1.0)
    solved[:, ~possible] = np.nan
    found[:, fitting] = solved
    return found


def _largest_share(runs: LayerRanges, schedule: ScheduleChoice, stages_left: int) -> Floats:
    """[C, L + 1, L + 1]: what memory allows, at most 1; negative where not even the weights fit."""
    state = runs.weight_bytes * (schedule.versions(stages_left) + STATE_COPIES)
    activations = runs.activation_bytes * schedule.in_flight(stages_left)
    return np.minimum(1.0, (runs.memory_bytes - state) / np.maximum(activations, 1.0))
