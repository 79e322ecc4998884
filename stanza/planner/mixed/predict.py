"""Predicts a step of each baseline where workers have devices and links of their own.

As in `stanza.planner.predict`: the slowest worker decides when a bucket of gradients is there, and
the slowest link how fast a ring or an exchange of all with all goes. What workers push to servers,
and pull from them, shares the servers' links (`stanza.planner.mixed.streams`).
"""

from collections.abc import Callable, Sequence

from stanza.planner.costs import Costs
from stanza.planner.mixed.streams import delivered
from stanza.planner.predict import BUCKET_BYTES, Prediction
from systems.clusters.cluster import Link
from systems.clusters.links import Links, slowest


def filled(
    backward: Sequence[Sequence[tuple[float, float]]], starts_s: Sequence[float], least_bytes: float
) -> tuple[list[tuple[list[float], float]], list[float]]:
    """Compute when every worker has filled each bucket of at least so many bytes, and ended its
    pass.

    Args:
        backward: for each worker the seconds and the parameter bytes of each layer, last layer
            first.
        starts_s: when the pass of each worker begins.

    Returns:
        The buckets, each with the second at which each worker has it and its bytes; and the ends of
        the passes.
    """
    now, pending, buckets = list(starts_s), 0.0, list[tuple[list[float], float]]()
    for layers in zip(*backward, strict=True):
        now = [at + seconds for at, (seconds, _) in zip(now, layers, strict=True)]
        pending += layers[0][1]
        if pending >= least_bytes and pending > 0:
            buckets.append((now, pending))
            pending = 0.0
    if pending:
        buckets.append((now, pending))
    return buckets, now


def ring_finish(
    backward: Sequence[Sequence[tuple[float, float]]], starts_s: Sequence[float], link: Link
) -> float:
    """Compute when the last bucket has been all-reduced and every backward pass has ended.

    Args:
        backward: see `filled`.
        starts_s: likewise.
        link: the slowest link among the workers.
    """
    buckets, ends = filled(backward, starts_s, BUCKET_BYTES)
    wire_free = 0.0
    for ready, size_bytes in buckets:
        wire_free = max(*ready, wire_free) + link.all_reduce_s(size_bytes, len(backward))
    return max(*ends, wire_free)


def _passes(costs: Sequence[Costs]) -> tuple[list[tuple[tuple[float, float], ...]], list[float]]:
    """The backward passes of workers with the whole model, and when they begin."""
    starts_s = [cost.conv_forward_s + cost.fc_forward_s for cost in costs]
    return [cost.backward for cost in costs], starts_s


def ddp(costs: Sequence[Costs], links: Links) -> Prediction:
    """Predict DDP.

    Args:
        costs: what its share of the batch costs each worker.
        links: the links of all ranks.
    """
    backward, starts_s = _passes(costs)
    link, model_bytes = links.slowest, costs[0].conv_bytes + costs[0].fc_bytes
    return Prediction(
        scheme="ddp",
        step_s=ring_finish(backward, starts_s, link),
        samples=sum(cost.batch_size for cost in costs),
        resources={
            "compute": max(cost.compute_s for cost in costs),
            "all-reduce": link.all_reduce_s(model_bytes, len(costs)),
        },
    )


def ps_dedicated(costs: Sequence[Costs], links: Links, *, pipelined: bool) -> Prediction:
    """Predict dedicated servers, which are the last ranks. See `ddp` for the arguments.

    Args:
        pipelined: whether layers are pushed and pulled by themselves, as soon as possible.
    """
    workers, servers = links.of_node[: len(costs)], links.of_node[len(costs) :]
    backward, starts_s = _passes(costs)
    buckets, ends = filled(backward, starts_s, 0.0 if pipelined else float("inf"))
    # Slices of a push go to all servers at one pace: together they are a hub of so many links.
    hub = Links((slowest(servers),)).bytes_per_s[0] * len(servers)
    caps = Links(workers).bytes_per_s
    sizes = [[size for _, size in buckets]] * len(workers)
    pushed = delivered([[at[w] for at, _ in buckets] for w in range(len(costs))], sizes, caps, hub)
    updated = [max(bucket) + links.latency_s for bucket in zip(*pushed, strict=True)]
    pulled = delivered([updated] * len(workers), sizes, caps, hub)
    one_way_s = max(sum(sizes[0]) / cap for cap in [*caps, hub / len(workers)])
    return Prediction(
        scheme="ps-pipelined" if pipelined else "ps-blocking",
        step_s=max([*ends, *(done[-1] + links.latency_s for done in pulled)]),
        samples=sum(cost.batch_size for cost in costs),
        resources={
            "compute": max(cost.compute_s for cost in costs),
            "push": one_way_s,
            "pull": one_way_s,
        },
    )


def ps_sharded(costs: Sequence[Costs], links: Links) -> Prediction:
    """Predict pipelined servers, one beside every worker. See `ddp` for the arguments."""
    backward, starts_s = _passes(costs)
    buckets, ends = filled(backward, starts_s, 0.0)
    link, n = links.slowest, len(costs)
    wire_free = 0.0
    for ready, size_bytes in buckets:
        wire_free = max(*ready, wire_free) + link.seconds(2 * size_bytes * (n - 1) / n)
    model_bytes = costs[0].conv_bytes + costs[0].fc_bytes
    return Prediction(
        scheme="ps-sharded",
        step_s=max(*ends, wire_free + 2 * link.latency_s),
        samples=sum(cost.batch_size for cost in costs),
        resources={
            "compute": max(cost.compute_s for cost in costs),
            "push and pull": link.seconds(2 * model_bytes * (n - 1) / n),
        },
    )


BASELINES: dict[str, Callable[[Sequence[Costs], Links], Prediction]] = {
    "ps-blocking": lambda costs, links: ps_dedicated(costs, links, pipelined=False),
    "ps-pipelined": lambda costs, links: ps_dedicated(costs, links, pipelined=True),
    "ps-sharded": ps_sharded,
    "ddp": ddp,
}
"""By scheme. DDP comes last, as in `stanza.planner.plan`."""
