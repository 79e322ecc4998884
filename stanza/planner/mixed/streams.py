"""Several nodes that send to one, or receive from it, each over its own link."""

from collections.abc import Sequence


def delivered(
    ready_s: Sequence[Sequence[float]],
    sizes_bytes: Sequence[Sequence[float]],
    caps_bytes_per_s: Sequence[float],
    capacity_bytes_per_s: float,
) -> list[list[float]]:
    """Compute when every message between some nodes and one, the hub, has arrived.

    The messages of a node follow one another, in their order. All that are under way share the
    capacity of the hub evenly, but none is faster than the link of its node; what such a slow one
    leaves, the others share. This goes from one change of the rates to the next.

    Args:
        ready_s: by node, when each of its messages may start; never earlier than the one before.
        sizes_bytes: likewise, its bytes.
        caps_bytes_per_s: the rate of every node's link.
        capacity_bytes_per_s: the rate of the hub's link.
    """
    ends: list[list[float]] = [[] for _ in ready_s]
    left = [sizes[0] if sizes else 0.0 for sizes in sizes_bytes]
    now = 0.0
    while True:
        waiting = [n for n, done in enumerate(ends) if len(done) < len(ready_s[n])]
        if not waiting:
            return ends
        # Some messages are under way; of the other nodes the next message has yet to start.
        active = [n for n in waiting if ready_s[n][len(ends[n])] <= now]
        following = [ready_s[n][len(ends[n])] for n in waiting if n not in active]
        rates = _even_rates({n: caps_bytes_per_s[n] for n in active}, capacity_bytes_per_s)
        # Rates stay as they are until the next message starts or one arrives.
        until = min([*following, *(now + left[n] / rates[n] for n in active)])
        # Who has arrived by then goes on to its next message; the others have less left.
        for n in active:
            if now + left[n] / rates[n] <= until:
                ends[n].append(until)
                left[n] = sizes_bytes[n][len(ends[n])] if len(ends[n]) < len(ready_s[n]) else 0.0
            else:
                left[n] -= rates[n] * (until - now)
        now = until


def _even_rates(caps: dict[int, float], capacity: float) -> dict[int, float]:
    """Share a capacity evenly among nodes, but for those whose own links are slower; returns their
    rates."""
    rates, room = dict[int, float](), capacity
    # The slowest first: what it cannot use of its even part is left to all behind it.
    for place, (node, cap) in enumerate(sorted(caps.items(), key=lambda item: item[1])):
        rates[node] = min(cap, room / (len(caps) - place))
        room -= rates[node]
    return rates
