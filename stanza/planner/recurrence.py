"""Predicts how long a step of layer separation takes, by a recurrence over the micro-batches.

It knows Stanza as published, with dedicated FC workers that are replicas, and with micro-batches.
`stanza.planner.predict` explains how such predictions work, and where their bytes come from.
"""

from stanza.planner.costs import Costs, CostsAt
from stanza.planner.predict import Prediction, ring_finish
from systems.clusters.cluster import Link

STEADY_STEPS = 6
"""The number of steps after which the step time no longer changes from step to step."""


def separated(
    at: CostsAt,
    local_batch: int,
    conv_workers: int,
    fc_workers: int,
    micro_batches: int,
    link: Link,
) -> Prediction:
    """Predict layer separation with dedicated FC workers that are replicas.

    Args:
        at: the model's costs as a function of the batch.
        local_batch: the number of samples of a CONV worker in a step (the paper's b).
    """
    served = -(-conv_workers // fc_workers)  # the busiest FC worker sets the pace
    m = micro_batches
    part = at(-(-local_batch // m))  # one micro-batch at a CONV worker
    gathered = at(part.batch_size * served)  # and at its FC worker
    cut_s = link.seconds(gathered.cut_bytes) + link.latency_s
    fc_s = gathered.fc_forward_s + gathered.fc_backward_s
    fc_exchange_s = link.all_reduce_s(part.fc_bytes, fc_workers)
    step_s = _steady_step_s(
        part, conv_workers, m, link, cut_s=cut_s, fc_s=fc_s, fc_exchange_s=fc_exchange_s
    )
    return Prediction(
        scheme="stanza",
        fc_workers=fc_workers,
        micro_batches=m,
        step_s=step_s,
        samples=conv_workers * local_batch,
        resources={
            "conv compute": (part.conv_forward_s + part.conv_backward_s) * m,
            "cut in": cut_s * m,
            "FC compute": fc_s * m,
            "cut out": cut_s * m,
            "conv exchange": link.all_reduce_s(part.conv_bytes, conv_workers),
            "FC exchange": fc_exchange_s,
        },
    )


def _steady_step_s(
    part: Costs,
    conv_workers: int,
    micro_batches: int,
    link: Link,
    *,
    cut_s: float,
    fc_s: float,
    fc_exchange_s: float,
) -> float:
    """The seconds from one step to the next, once they no longer change.

    This follows one CONV worker and its FC worker (pictured in `stanza.workers.conv_worker`). Four
    times say when each resource is next free: the CONV worker (`conv_free`), the FC worker
    (`fc_free`), and the two directions of the FC worker's interface (`in_free`, `out_free`). For
    micro-batch k of m, each end follows from those before it:

        forward_k   = conv_free + k * forward_s         the CONV worker runs all forward passes
        arrival_k   = max(forward_k, in_free) + cut_s   the activations reach the FC worker
        fc_k        = max(arrival_k, fc_free) + fc_s    it runs them forward and backward
        gradient_k  = max(fc_k, out_free) + cut_s       their gradients are back
        backward_k  = max(gradient_k, conv_free) + backward_s

    The all-reduce of the CONV gradients overlaps the last backward pass. The FC workers exchange
    their gradients while the CONV workers may have begun the next step.

    Args:
        part: the costs of one micro-batch on a CONV worker.
        cut_s: the seconds in which an FC worker receives one micro-batch's activations from all its
            CONV workers, or sends their gradients.
        fc_s: the seconds in which an FC worker runs one micro-batch forward and backward.
        fc_exchange_s: the seconds in which the FC workers all-reduce their gradients.
    """
    forward_s, backward_s = part.conv_forward_s, part.conv_backward_s
    conv_free = fc_free = in_free = out_free = 0.0
    ends: list[float] = []
    for _ in range(STEADY_STEPS):
        # The CONV worker runs all micro-batches forward; each is sent when it is done.
        forward_ends = [conv_free + (k + 1) * forward_s for k in range(micro_batches)]
        conv_free = forward_ends[-1]
        arrivals = []
        for forward_end in forward_ends:
            in_free = max(in_free, forward_end) + cut_s
            arrivals.append(in_free)
        # Before it computes, the FC worker ends the exchange of the step before.
        if ends:
            begun = max(fc_free, out_free)
            busy_s = micro_batches * cut_s
            fc_free = _exchange_end(begun, fc_exchange_s, forward_ends[0], in_free, busy_s)
        # The FC worker takes the micro-batches in the order in which they arrive.
        gradients = []
        for arrival in arrivals:
            fc_free = max(fc_free, arrival) + fc_s
            out_free = max(out_free, fc_free) + cut_s
            gradients.append(out_free)
        # The CONV worker runs them backward; the last one overlaps the CONV exchange.
        for gradient in gradients[:-1]:
            conv_free = max(conv_free, gradient) + backward_s
        start = max(conv_free, gradients[-1])
        finish = ring_finish(part.conv_backward, start, conv_workers, link)
        conv_free = max(start + backward_s, finish)
        ends.append(conv_free)
    return ends[-1] - ends[-2]


def _exchange_end(
    start_s: float, lasts_s: float, cut_from_s: float, cut_until_s: float, cut_busy_s: float
) -> float:
    """When the FC workers have exchanged their gradients.

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
