"""Predicts how long one step takes under each scheme, with computing and sending overlapped.

Each prediction is a recurrence over a few resources, each of which does one thing at a time: the
compute of a worker, the compute of an FC worker, and each direction of a network interface. A task
starts when what it needs is there and its resource is free, so for each task

    end = max(end of what it needs, end of the resource's task before) + its seconds

The bytes come from the paper's traffic table (`stanza.planner.traffic`); its rows by the functions
that use them, with n ranks, c CONV workers, f FC workers, b samples and A activations a sample:

    one parameter server     (n - 1) * 4 * (P_conv + P_fc), in and out    ps_blocking, ps_pipelined
    a server on every node   4 * (P_conv + P_fc) * (n - 1) / n, twice     ps_sharded
    ring all-reduce          2 * 4 * (P_conv + P_fc) * (n - 1) / n        ddp, through _ring_s
    Stanza, FC worker        4 * b * A * c / f in, the same out           separated
    Stanza, CONV worker      4 * b * A, + 2 * 4 * P_conv * (c - 1) / c    separated

Links carry both directions at once, and the switch does not block. Three costs are left out because
no profile has them: the optimizer of a server, copies in memory, and, unless the profile was taken
at two batch sizes, the fixed cost of a kernel, which small micro-batches pay more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stanza.options import FcParallel, FcPlacement
from stanza.planner.costs import Costs, CostsAt
from stanza.workers.messages import BUCKET_MEBIBYTES
from systems.clusters.cluster import Link

BUCKET_BYTES = BUCKET_MEBIBYTES * 1024**2
"""The size of a bucket of gradients, whose all-reduce overlaps the backward pass."""
STEADY_STEPS = 6
"""The number of steps after which the step time no longer changes from step to step."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted step of one scheme."""

    scheme: str
    """stanza, ps-blocking, ps-pipelined, ps-sharded or ddp."""
    fc_workers: int = 0
    micro_batches: int = 1
    fc_parallel: FcParallel = "replicas"
    fc_placement: FcPlacement = "dedicated"
    step_s: float
    """Seconds from one step to the next."""
    samples: int
    """The number of samples in one step over all workers."""
    resources: dict[str, float]
    """The seconds for which each resource is busy in one step. No step is shorter than the largest
    of them."""

    @property
    def mode(self) -> str:
        """How FC workers differ from the paper's, in words that follow the scheme's name.

        It is "", " columns", " colocated" or " columns colocated".
        """
        columns = " columns" if self.fc_parallel == "columns" else ""
        return columns + (" colocated" if self.fc_placement == "colocated" else "")

    @property
    def samples_per_s(self) -> float:
        """The predicted throughput, over all workers."""
        return self.samples / self.step_s

    @property
    def busiest(self) -> str:
        """The name of the resource with the most busy seconds."""
        return max(self.resources, key=lambda name: self.resources[name])


def ddp(cost: Costs, workers: int, link: Link) -> Prediction:
    """Predict DDP: buckets of gradients are all-reduced while the backward pass goes on."""
    forward_s = cost.conv_forward_s + cost.fc_forward_s
    finish = _ring_finish(cost.backward, forward_s, workers, link)
    return Prediction(
        scheme="ddp",
        step_s=max(finish, cost.compute_s),
        samples=workers * cost.batch_size,
        resources={
            "compute": cost.compute_s,
            "all-reduce": _ring_s(cost.conv_bytes + cost.fc_bytes, workers, link),
        },
    )


def _ring_s(size_bytes: float, ranks: int, link: Link) -> float:
    """Seconds of one ring all-reduce: 2 (n - 1) messages, each of 1/n of the bytes."""
    if ranks == 1:
        return 0.0
    return link.seconds(2 * size_bytes * (ranks - 1) / ranks) + 2 * (ranks - 1) * link.latency_s


def _ring_finish(
    backward: Sequence[tuple[float, float]], start_s: float, ranks: int, link: Link
) -> float:
    """When the last bucket has been all-reduced, if the backward pass begins at `start_s`.

    The backward pass fills buckets of DDP's size. They are reduced one after the other.

    Args:
        backward: the seconds and the parameter bytes of each layer, in backward order.
    """
    now, wire_free, pending = start_s, start_s, 0.0
    for seconds, size in backward:
        now += seconds
        pending += size
        if pending >= BUCKET_BYTES:
            wire_free = max(now, wire_free) + _ring_s(pending, ranks, link)
            pending = 0.0
    if pending:
        wire_free = max(now, wire_free) + _ring_s(pending, ranks, link)
    return max(now, wire_free)


def ps_blocking(cost: Costs, workers: int, servers: int, link: Link) -> Prediction:
    """Predict dedicated servers that take all gradients after the backward pass.

    Workers push everything, and then pull everything. Nothing overlaps.
    """
    one_way_s = _server_s(cost.conv_bytes + cost.fc_bytes, workers, servers, link)
    return Prediction(
        scheme="ps-blocking",
        step_s=cost.compute_s + 2 * (one_way_s + link.latency_s),
        samples=workers * cost.batch_size,
        resources={"compute": cost.compute_s, "push": one_way_s, "pull": one_way_s},
    )


def _server_s(size_bytes: float, workers: int, servers: int, link: Link) -> float:
    """Seconds in which all workers push, or pull, so many bytes each.

    The busier interface decides: a worker's, or a server's, which has a shard for every worker.
    """
    return link.seconds(size_bytes * max(1.0, workers / servers))


def ps_pipelined(cost: Costs, workers: int, servers: int, link: Link) -> Prediction:
    """Predict dedicated servers, where each layer is pushed and pulled as soon as possible."""
    now = cost.conv_forward_s + cost.fc_forward_s
    in_free = out_free = now
    for seconds, size in cost.backward:
        now += seconds
        wire_s = _server_s(size, workers, servers, link)
        if size:
            in_free = max(now, in_free) + wire_s
            out_free = max(in_free + link.latency_s, out_free) + wire_s
    one_way_s = _server_s(cost.conv_bytes + cost.fc_bytes, workers, servers, link)
    return Prediction(
        scheme="ps-pipelined",
        step_s=max(now, out_free + link.latency_s),
        samples=workers * cost.batch_size,
        resources={"compute": cost.compute_s, "push": one_way_s, "pull": one_way_s},
    )


def ps_sharded(cost: Costs, workers: int, link: Link) -> Prediction:
    """Predict pipelined servers, one beside every worker.

    A node's pushes and its server's answers share each direction of its interface.
    """
    now = cost.conv_forward_s + cost.fc_forward_s
    wire_free = now
    for seconds, size in cost.backward:
        now += seconds
        if size:
            both_s = link.seconds(2 * size * (workers - 1) / workers)
            wire_free = max(now, wire_free) + both_s
    model_bytes = cost.conv_bytes + cost.fc_bytes
    return Prediction(
        scheme="ps-sharded",
        step_s=max(now, wire_free + 2 * link.latency_s),
        samples=workers * cost.batch_size,
        resources={
            "compute": cost.compute_s,
            "push and pull": link.seconds(2 * model_bytes * (workers - 1) / workers),
        },
    )


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
    fc_exchange_s = _ring_s(part.fc_bytes, fc_workers, link)
    step_s = _steady_step_s(
        part,
        conv_workers,
        m,
        link,
        cut_s=cut_s,
        fc_s=fc_s,
        fc_exchange_s=fc_exchange_s,
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
            "conv exchange": _ring_s(part.conv_bytes, conv_workers, link),
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
        finish = _ring_finish(part.conv_backward, start, conv_workers, link)
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
