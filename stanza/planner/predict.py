"""Predicts how long a step of each baseline takes, with computing and sending overlapped.

Each prediction is a recurrence over a few resources, each of which does one thing at a time: the
compute of a worker, the compute of an FC worker, and each direction of a network interface. A task
starts when what it needs is there and its resource is free, so for each task

    end = max(end of what it needs, end of the resource's task before) + its seconds

The bytes come from the paper's traffic table (`stanza.planner.traffic`); its rows by the functions
that use them, with n ranks, c CONV workers, f FC workers, b samples and A activations a sample:

    one parameter server     (n - 1) * 4 * (P_conv + P_fc), in and out    ps_blocking, ps_pipelined
    a server on every node   4 * (P_conv + P_fc) * (n - 1) / n, twice     ps_sharded
    ring all-reduce          2 * 4 * (P_conv + P_fc) * (n - 1) / n        ddp
    Stanza, FC worker        4 * b * A * c / f in, the same out           recurrence.separated
    Stanza, CONV worker      4 * b * A, + 2 * 4 * P_conv * (c - 1) / c    recurrence.separated

Workers' shares of a batch differ by at most one sample. The worker with the largest is the last in
everything, so it is the one that is followed.

Links carry both directions at once, and the switch does not block. Three costs are left out because
no profile has them: the optimizer of a server, copies in memory, and, unless the profile was taken
at two batch sizes, the fixed cost of a kernel, which small micro-batches pay more often.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stanza.exchanges.names import (
    WHOLE,
    Compression,
    compression_of,
    unpredicted as unpredicted_exchange,
)
from stanza.options import FcParallel, FcPlacement, Options
from stanza.planner.costs import CostsAt
from stanza.workers.messages import BUCKET_MEBIBYTES
from systems.clusters.cluster import Link

BUCKET_BYTES = BUCKET_MEBIBYTES * 1024**2
"""The size of a bucket of gradients, whose all-reduce overlaps the backward pass."""


def unpredicted(options: Options) -> str | None:
    """Say why nobody can predict the steps of a run with these options; None: given a profile, they
    are predicted, as are those of the simulator."""
    if options.ps_consistency != "synchronous":
        return (
            f"--stanza.ps-consistency {options.ps_consistency}: the planner and the simulator know "
            "only steps in which all workers wait for each other"
        )
    if compression_of(options.exchange, options.exchange_options) is None:
        return unpredicted_exchange(options.exchange)
    return None


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


def ddp(
    at: CostsAt, shares: Sequence[int], link: Link, compression: Compression = WHOLE
) -> Prediction:
    """Predict DDP: buckets of gradients are all-reduced while the backward pass goes on.

    Args:
        at: the model's costs as a function of the batch.
        shares: the number of samples of each worker in a step.
        compression: how much travels of the gradients; that it takes time itself is not known.
    """
    cost, workers = at(max(shares)), len(shares)
    forward_s = cost.conv_forward_s + cost.fc_forward_s
    finish = ring_finish(cost.backward, forward_s, workers, link, compression)
    model_bytes = cost.conv_bytes + cost.fc_bytes
    return Prediction(
        scheme="ddp",
        step_s=max(finish, cost.compute_s),
        samples=sum(shares),
        resources={
            "compute": cost.compute_s,
            "all-reduce": compression.seconds(model_bytes, workers, link),
        },
    )


def ring_finish(
    backward: Sequence[tuple[float, float]],
    start_s: float,
    ranks: int,
    link: Link,
    compression: Compression = WHOLE,
) -> float:
    """Compute when the last bucket has been all-reduced, if the backward pass begins at `start_s`.

    The backward pass fills buckets of DDP's size. They are reduced one after the other.

    Args:
        backward: the seconds and the parameter bytes of each layer, in backward order.
    """
    now, wire_free, pending = start_s, start_s, 0.0
    for seconds, size in backward:
        now += seconds
        pending += size
        if pending >= BUCKET_BYTES:
            wire_free = max(now, wire_free) + compression.seconds(pending, ranks, link)
            pending = 0.0
    if pending:
        wire_free = max(now, wire_free) + compression.seconds(pending, ranks, link)
    return max(now, wire_free)


def ps_blocking(
    at: CostsAt, shares: Sequence[int], servers: int, link: Link, compression: Compression = WHOLE
) -> Prediction:
    """Predict dedicated servers that take all gradients after the backward pass.

    Workers push everything, and then pull everything. Nothing overlaps, but workers with a sample
    less push first.
    """
    cost, workers = at(max(shares)), len(shares)
    size_bytes = (cost.conv_bytes + cost.fc_bytes) * compression.factor
    one_way_s = _server_s(size_bytes, workers, servers, link)
    in_free = 0.0
    for share, count in sorted(Counter(shares).items()):
        in_free = max(in_free, at(share).compute_s) + link.seconds(size_bytes * count / servers)
    pushed_s = max(in_free, cost.compute_s + link.seconds(size_bytes))
    return Prediction(
        scheme="ps-blocking",
        step_s=pushed_s + one_way_s + 2 * link.latency_s,
        samples=sum(shares),
        resources={"compute": cost.compute_s, "push": one_way_s, "pull": one_way_s},
    )


def _server_s(size_bytes: float, workers: int, servers: int, link: Link) -> float:
    """Compute the seconds that all workers take to push (or pull) `size_bytes` each.

    The busiest network interface decides. A worker's carries `size_bytes`. A server's carries its
    shard, `size_bytes / servers`, once for every worker.
    """
    return link.seconds(size_bytes * max(1.0, workers / servers))


def ps_pipelined(
    at: CostsAt, shares: Sequence[int], servers: int, link: Link, compression: Compression = WHOLE
) -> Prediction:
    """Predict dedicated servers, where each layer is pushed and pulled as soon as possible."""
    cost, workers = at(max(shares)), len(shares)
    now = cost.conv_forward_s + cost.fc_forward_s
    in_free = out_free = now
    for seconds, size in cost.backward:
        now += seconds
        wire_s = _server_s(size * compression.factor, workers, servers, link)
        if size:
            in_free = max(now, in_free) + wire_s
            out_free = max(in_free + link.latency_s, out_free) + wire_s
    model_bytes = (cost.conv_bytes + cost.fc_bytes) * compression.factor
    one_way_s = _server_s(model_bytes, workers, servers, link)
    return Prediction(
        scheme="ps-pipelined",
        step_s=max(now, out_free + link.latency_s),
        samples=sum(shares),
        resources={"compute": cost.compute_s, "push": one_way_s, "pull": one_way_s},
    )


def ps_sharded(
    at: CostsAt, shares: Sequence[int], link: Link, compression: Compression = WHOLE
) -> Prediction:
    """Predict pipelined servers, one beside every worker.

    A node's pushes and its server's answers share each direction of its interface.
    """
    cost, workers = at(max(shares)), len(shares)
    now = cost.conv_forward_s + cost.fc_forward_s
    wire_free = now
    for seconds, size in cost.backward:
        now += seconds
        if size:
            both_s = link.seconds(2 * size * compression.factor * (workers - 1) / workers)
            wire_free = max(now, wire_free) + both_s
    model_bytes = (cost.conv_bytes + cost.fc_bytes) * compression.factor
    return Prediction(
        scheme="ps-sharded",
        step_s=max(now, wire_free + 2 * link.latency_s),
        samples=sum(shares),
        resources={
            "compute": cost.compute_s,
            "push and pull": link.seconds(2 * model_bytes * (workers - 1) / workers),
        },
    )
