"""Predicts a step of layer separation where workers have devices and links of their own.

It follows every worker through the steps that `stanza.planner.recurrence` follows the slowest one
through, for the mode of the paper: dedicated FC workers that are replicas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from stanza.layout import Layout
from stanza.planner.costs import Costs, CostsAt
from stanza.planner.mixed.predict import ring_finish
from stanza.planner.mixed.streams import delivered
from stanza.planner.predict import Prediction
from stanza.planner.recurrence import STEADY_STEPS, exchange_end
from systems.clusters.cluster import Link
from systems.clusters.links import Links, slowest
from systems.data.shares import even_shares


@dataclass(frozen=True)
class Served:
    """One FC worker and the CONV workers that it serves."""

    rates_bytes_per_s: tuple[float, ...]
    """The rate of each CONV worker's link."""
    hub_bytes_per_s: float
    """The rate of the FC worker's link."""
    conv: tuple[int, ...]
    """The places of these CONV workers among all."""
    parts: tuple[tuple[Costs, ...], ...]
    """For each of them, the costs of each micro-batch."""
    gathered: tuple[Costs, ...]
    """What each micro-batch of all of them together costs the FC worker."""

    @property
    def cut_bytes(self) -> list[list[float]]:
        """The bytes of each micro-batch of each CONV worker at the cut."""
        return [[part.cut_bytes for part in parts] for parts in self.parts]

    @property
    def busy_s(self) -> float:
        """The seconds in a step for which the FC worker's link carries activations."""
        return sum(map(sum, self.cut_bytes)) / self.hub_bytes_per_s

    @property
    def compute_s(self) -> float:
        """The seconds of the FC worker's passes in a step."""
        return sum(cost.fc_forward_s + cost.fc_backward_s for cost in self.gathered)


def separated(
    at: Sequence[CostsAt], shares: Sequence[int], layout: Layout, links: Links
) -> Prediction:
    """Predict layer separation with dedicated FC workers that are replicas.

    Args:
        at: for each rank, the model's costs on its device as a function of the batch.
        shares: the number of samples of each CONV worker in a step.
        layout: who is a CONV worker and who an FC worker.
        links: the links of all ranks.
    """
    conv, fc = layout.ranks("conv"), layout.ranks("fc")
    parts = [
        tuple(at[rank](size) for size in even_shares(share, layout.micro_batches))
        for rank, share in zip(conv, shares, strict=True)
    ]
    groups = [_served(at, layout, rank, parts, links.bytes_per_s) for rank in fc]
    conv_link = slowest(links.of_node[rank] for rank in conv)
    fc_link = slowest(links.of_node[rank] for rank in fc)
    fc_exchange_s = fc_link.all_reduce_s(parts[0][0].fc_bytes, len(fc))
    passes_s = [sum(part.conv_forward_s + part.conv_backward_s for part in own) for own in parts]
    return Prediction(
        scheme="stanza",
        fc_workers=len(fc),
        micro_batches=layout.micro_batches,
        step_s=_steady_step_s(parts, groups, conv_link, links.latency_s, fc_exchange_s),
        samples=sum(shares),
        resources={
            "conv compute": max(passes_s),
            "cut in": max(group.busy_s for group in groups),
            "FC compute": max(group.compute_s for group in groups),
            "cut out": max(group.busy_s for group in groups),
            "conv exchange": conv_link.all_reduce_s(parts[0][0].conv_bytes, len(conv)),
            "FC exchange": fc_exchange_s,
        },
    )


def _served(
    at: Sequence[CostsAt],
    layout: Layout,
    fc_rank: int,
    parts: Sequence[tuple[Costs, ...]],
    rates: Sequence[float],
) -> Served:
    """Gather one FC worker and the CONV workers that it serves."""
    conv, ranks = layout.ranks("conv"), layout.conv_of(fc_rank)
    places = tuple(conv.index(rank) for rank in ranks)
    own = tuple(parts[place] for place in places)
    samples = [sum(part.batch_size for part in row) for row in zip(*own, strict=True)]
    return Served(
        rates_bytes_per_s=tuple(rates[rank] for rank in ranks),
        hub_bytes_per_s=rates[fc_rank],
        conv=places,
        parts=own,
        gathered=tuple(at[fc_rank](size) for size in samples),
    )


def _steady_step_s(
    parts: Sequence[tuple[Costs, ...]],
    groups: Sequence[Served],
    conv_link: Link,
    latency_s: float,
    fc_exchange_s: float,
) -> float:
    """Compute the seconds from one step to the next, once they no longer change.

    Args:
        parts: for each CONV worker, the costs of each micro-batch.
        conv_link: the slowest link among the CONV workers.
        fc_exchange_s: the seconds in which the FC workers all-reduce their gradients.
    """
    conv_free, ends = 0.0, list[float]()
    fc_free = [0.0] * len(groups)
    out_free = [0.0] * len(groups)
    for _ in range(STEADY_STEPS):
        # Every CONV worker runs its forward passes one after the other.
        forward = [
            list(accumulate((part.conv_forward_s for part in own), initial=conv_free))[1:]
            for own in parts
        ]
        begun = max(*fc_free, *out_free)  # the exchange of the step before needs all FC workers
        returned: dict[int, list[float]] = {}
        for number, group in enumerate(groups):
            # The activations reach the FC worker over its link, which its CONV workers share.
            rates, hub = group.rates_bytes_per_s, group.hub_bytes_per_s
            ready = [forward[place] for place in group.conv]
            sent = delivered(ready, group.cut_bytes, rates, hub)
            arrivals = [max(row) + latency_s for row in zip(*sent, strict=True)]
            # The FC workers' exchange of the step before makes way for activations that arrive.
            if ends and fc_exchange_s:
                first_s = min(row[0] for row in ready)
                busy_s = group.busy_s + latency_s * len(arrivals)
                fc_free[number] = exchange_end(begun, fc_exchange_s, first_s, arrivals[-1], busy_s)
            # It computes one micro-batch after the other, and sends each one's gradients back.
            computed = list[float]()
            for arrival, cost in zip(arrivals, group.gathered, strict=True):
                fc_free[number] = (
                    max(fc_free[number], arrival) + cost.fc_forward_s + cost.fc_backward_s
                )
                computed.append(fc_free[number])
            back = delivered([computed] * len(group.conv), group.cut_bytes, rates, hub)
            out_free[number] = max(row[-1] for row in back)
            returned |= {
                place: [at + latency_s for at in row]
                for place, row in zip(group.conv, back, strict=True)
            }
        # Back on the CONV workers: all backward passes but the last, which overlaps the all-reduce.
        starts = []
        for place, own in enumerate(parts):
            now, gradients = forward[place][-1], returned[place]
            for gradient, part in zip(gradients[:-1], own[:-1], strict=True):
                now = max(now, gradient) + part.conv_backward_s
            starts.append(max(now, gradients[-1]))
        conv_free = ring_finish([own[-1].conv_backward for own in parts], starts, conv_link)
        ends.append(conv_free)
    return ends[-1] - ends[-2]
