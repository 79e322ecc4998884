"""Predicted step times: what one step costs under each scheme, overlap included.

The schedules are those of the code in this package, written as recurrences over a few resources:
a worker's compute, each direction of a network interface, an FC worker's compute. Links are
full-duplex; the switch does not block. Not modelled, because no profile has them: a server's
optimizer, copies, and, unless the profile was taken at two batch sizes, the fixed cost of a kernel,
which small micro-batches pay more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stanza.options import FcParallel, FcPlacement
from stanza.planner.costs import Costs, CostsAt
from stanza.workers.messages import BUCKET_MEBIBYTES
from systems.clusters.cluster import Link

BUCKET_BYTES = BUCKET_MEBIBYTES * 1024**2
"""Of an all-reduce that overlaps the backward pass."""
STEADY_STEPS = 6
"""Steps that a schedule is repeated before its period is read off."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One scheme's predicted step."""

    scheme: str
    """stanza, ps-blocking, ps-pipelined, ps-sharded or ddp."""
    fc_workers: int = 0
    micro_batches: int = 1
    fc_parallel: FcParallel = "replicas"
    fc_placement: FcPlacement = "dedicated"
    step_s: float
    samples: int
    """Samples of one step over all workers."""
    resources: dict[str, float]
    """Busy seconds of each resource in one step; the largest is what the step cannot go below."""

    @property
    def mode(self) -> str:
        """How FC workers differ from the paper's, for people: "", " columns" or " colocated"."""
        columns = " columns" if self.fc_parallel == "columns" else ""
        return columns + (" colocated" if self.fc_placement == "colocated" else "")

    @property
    def samples_per_s(self) -> float:
        """Throughput."""
        return self.samples / self.step_s

    @property
    def busiest(self) -> str:
        """The resource with the most busy seconds."""
        return max(self.resources, key=lambda name: self.resources[name])


def ddp(cost: Costs, workers: int, link: Link) -> Prediction:
    """Ring all-reduce of buckets that overlaps the backward pass."""
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
    """One ring all-reduce: 2 (n - 1) steps of 1/n of the bytes."""
    if ranks == 1:
        return 0.0
    return link.seconds(2 * size_bytes * (ranks - 1) / ranks) + 2 * (ranks - 1) * link.latency_s


def _ring_finish(
    backward: Sequence[tuple[float, float]], start_s: float, ranks: int, link: Link
) -> float:
    """When the last bucket is reduced, if the backward pass begins at `start_s`.

    Buckets are filled in backward order to DDP's sizes and reduced one after the other.
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
    """Dedicated servers; push everything after the backward pass, then pull everything."""
    one_way_s = _server_s(cost.conv_bytes + cost.fc_bytes, workers, servers, link)
    return Prediction(
        scheme="ps-blocking",
        step_s=cost.compute_s + 2 * (one_way_s + link.latency_s),
        samples=workers * cost.batch_size,
        resources={"compute": cost.compute_s, "push": one_way_s, "pull": one_way_s},
    )


def _server_s(size_bytes: float, workers: int, servers: int, link: Link) -> float:
    """One direction of a push or pull by all workers: the busier of a server's and a worker's
    network interface."""
    return link.seconds(size_bytes * max(1.0, workers / servers))


def ps_pipelined(cost: Costs, workers: int, servers: int, link: Link) -> Prediction:
    """Dedicated servers; each layer is pushed, updated and pulled as soon as it can be."""
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
    """One server beside every worker, pipelined: pushes and pulls share each direction."""
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


def stanza(
    at: CostsAt,
    local_batch: int,
    conv_workers: int,
    fc_workers: int,
    micro_batches: int,
    link: Link,
) -> Prediction:
    """Layer separation, in the steady state (`_steady_step_s`)."""
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
    """The period of the schedule of ConvWorker and FcWorker.

    All micro-batches go forward, then all backward; the FC worker takes them in order; the last
    backward pass overlaps the CONV exchange. An FC worker may still be exchanging its gradients
    while CONV workers have begun the next step.

    Args:
        part: one micro-batch of a CONV worker.
        cut_s: a micro-batch's activations, or their gradient, at an FC worker's network interface.
        fc_s: a micro-batch at an FC worker, forward and backward.
    """
    forward_s, backward_s = part.conv_forward_s, part.conv_backward_s
    conv_free = fc_free = in_free = out_free = 0.0
    ends: list[float] = []
    for _ in range(STEADY_STEPS):
        forward_ends = [conv_free + (k + 1) * forward_s for k in range(micro_batches)]
        conv_free = forward_ends[-1]
        arrivals = []
        for forward_end in forward_ends:
            in_free = max(in_free, forward_end) + cut_s
            arrivals.append(in_free)
        if ends:
            begun = max(fc_free, out_free)
            busy_s = micro_batches * cut_s
            fc_free = _exchange_end(begun, fc_exchange_s, forward_ends[0], in_free, busy_s)
        gradients = []
        for arrival in arrivals:
            fc_free = max(fc_free, arrival) + fc_s
            out_free = max(out_free, fc_free) + cut_s
            gradients.append(out_free)
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
    """When the FC workers have exchanged their gradients, begun as their last cut gradient left.

    Their ring is one flow beside those of many CONV workers and gets next to nothing while
    activations arrive (`cut_busy_s` between the two times): it has the rest, and goes on after.
    """
    end_s = start_s + lasts_s
    if end_s <= cut_from_s or start_s >= cut_until_s:
        return end_s
    idle_s = cut_until_s - max(start_s, cut_from_s) - cut_busy_s
    before_s = max(0.0, cut_from_s - start_s)
    return cut_until_s + max(0.0, lasts_s - before_s - max(0.0, idle_s))
