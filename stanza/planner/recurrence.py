"""Predicts how long a step of layer separation takes, by a recurrence over the micro-batches.

It knows Stanza as published, with dedicated FC workers that are replicas, and with micro-batches.
`stanza.planner.predict` explains how such predictions work, and where their bytes come from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from stanza.planner.costs import Costs, CostsAt
from stanza.planner.predict import Prediction, ring_finish
from systems.clusters.cluster import Link
from systems.data.shares import even_shares

STEADY_STEPS = 6
"""The number of steps after which the step time no longer changes from step to step."""


def separated(
    at: CostsAt, shares: Sequence[int], fc_workers: int, micro_batches: int, link: Link
) -> Prediction:
    """Predict layer separation with dedicated FC workers that are replicas.

    Args:
        at: the model's costs as a function of the batch.
        shares: the number of samples of each CONV worker in a step (the paper's b), the larger ones
            first.
    """
    conv_workers = len(shares)
    # The first FC worker serves the most CONV workers, with the largest shares: it sets the pace.
    served = Counter(shares[: -(-conv_workers // fc_workers)])
    groups = [
        Group(workers, tuple(map(at, even_shares(share, micro_batches))))
        for share, workers in sorted(served.items())
    ]
    largest = groups[-1].parts
    gathered = [
        at(sum(group.workers * group.parts[k].batch_size for group in groups))
        for k in range(micro_batches)
    ]
    fc_exchange_s = link.all_reduce_s(largest[0].fc_bytes, fc_workers)
    step_s = _steady_step_s(groups, gathered, conv_workers, link, fc_exchange_s)
    cut_s = sum(_cut_s(cost, link) for cost in gathered)
    return Prediction(
        scheme="stanza",
        fc_workers=fc_workers,
        micro_batches=micro_batches,
        step_s=step_s,
        samples=sum(shares),
        resources={
            "conv compute": sum(part.conv_forward_s + part.conv_backward_s for part in largest),
            "cut in": cut_s,
            "FC compute": sum(cost.fc_forward_s + cost.fc_backward_s for cost in gathered),
            "cut out": cut_s,
            "conv exchange": link.all_reduce_s(largest[0].conv_bytes, conv_workers),
            "FC exchange": fc_exchange_s,
        },
    )


@dataclass(frozen=True)
class Group:
    """The CONV workers of one FC worker that have equally many samples."""

    workers: int
    parts: tuple[Costs, ...]
    """The costs of each micro-batch on one of them."""


def _cut_s(gathered: Costs, link: Link) -> float:
    """Compute the seconds in which an FC worker receives one micro-batch's activations from all its
    CONV workers, or sends their gradients."""
    return link.seconds(gathered.cut_bytes) + link.latency_s


def _steady_step_s(
    groups: Sequence[Group],
    gathered: Sequence[Costs],
    conv_workers: int,
    link: Link,
    fc_exchange_s: float,
) -> float:
    """Compute the seconds from one step to the next, once they no longer change.

    This follows a CONV worker with the largest share of the batch, the last in everything, and its
    FC worker (pictured in `stanza.workers.conv_worker`). Four
    times say when each resource is next free: the CONV worker (`conv_free`), the FC worker
    (`fc_free`), and the two directions of the FC worker's interface (`in_free`, `out_free`). For
    micro-batch k of m, each end follows from those before it:

        forward_k   = forward_(k-1) + forward_s_k         the CONV worker runs all forward passes
        arrival_k   = max(forward_k, in_free) + cut_s_k   the activations reach the FC worker
        fc_k        = max(arrival_k, fc_free) + fc_s_k    it runs them forward and backward
        gradient_k  = max(fc_k, out_free) + cut_s_k       their gradients are back
        backward_k  = max(gradient_k, conv_free) + backward_s_k

    Each micro-batch has the seconds of its own number of samples. Where the FC worker also serves
    CONV workers with a sample less, these are earlier, and their activations cross first. The
    all-reduce of the CONV gradients overlaps the last backward pass. The FC workers exchange
    their gradients while the CONV workers may have begun the next step.

    Args:
        groups: the CONV workers of the FC worker, those with fewer samples first.
        gathered: the costs of each micro-batch of all of them together.
        conv_workers: the number of CONV workers of all FC workers.
        fc_exchange_s: the seconds in which the FC workers all-reduce their gradients.
    """
    largest = groups[-1].parts
    cuts_s = [_cut_s(cost, link) for cost in gathered]
    conv_free = fc_free = in_free = out_free = 0.0
    ends: list[float] = []
    for _ in range(STEADY_STEPS):
        # The CONV worker runs all micro-batches forward; each is sent when it is done.
        forward_ends = [
            list(accumulate((part.conv_forward_s for part in group.parts), initial=conv_free))[1:]
            for group in groups
        ]
        conv_free = forward_ends[-1][-1]
        arrivals = []
        for k in range(len(largest)):
            for group, ends_s in zip(groups, forward_ends, strict=True):
                crossing_s = link.seconds(group.workers * group.parts[k].cut_bytes)
                in_free = max(in_free, ends_s[k]) + crossing_s
            in_free += link.latency_s
            arrivals.append(in_free)
        # Before it computes, the FC worker ends the exchange of the step before.
        if ends:
            begun = max(fc_free, out_free)
            first_s = min(ends_s[0] for ends_s in forward_ends)
            fc_free = exchange_end(begun, fc_exchange_s, first_s, in_free, sum(cuts_s))
        # The FC worker takes the micro-batches in the order in which they arrive.
        gradients = []
        for arrival, cost, cut_s in zip(arrivals, gathered, cuts_s, strict=True):
            fc_free = max(fc_free, arrival) + cost.fc_forward_s + cost.fc_backward_s
            out_free = max(out_free, fc_free) + cut_s
            gradients.append(out_free)
        # The CONV worker runs them backward; the last one overlaps the CONV exchange.
        for gradient, part in zip(gradients[:-1], largest[:-1], strict=True):
            conv_free = max(conv_free, gradient) + part.conv_backward_s
        start = max(conv_free, gradients[-1])
        finish = ring_finish(largest[-1].conv_backward, start, conv_workers, link)
        conv_free = max(start + largest[-1].conv_backward_s, finish)
        ends.append(conv_free)
    return ends[-1] - ends[-2]


def exchange_end(
    start_s: float, lasts_s: float, cut_from_s: float, cut_until_s: float, cut_busy_s: float
) -> float:
    """Compute when the FC workers have exchanged their gradients.

    Activations of the next step arrive meanwhile. The ring is then one flow beside those of many
    CONV workers and gets next to nothing, so it advances only while no activations arrive.

    Args:
        start_s: when the exchange begins.
        lasts_s: how long it would last alone.
        cut_from_s: when the next step's first activations are sent.
        cut_until_s: when the last of them have arrived.
        cut_busy_s: for how long activations arrive between these two times.
    """
    end_s = start_s + lasts_s
    if end_s <= cut_from_s or start_s >= cut_until_s:
        return end_s
    idle_s = cut_until_s - max(start_s, cut_from_s) - cut_busy_s
    before_s = max(0.0, cut_from_s - start_s)
    return cut_until_s + max(0.0, lasts_s - before_s - max(0.0, idle_s))
