"""How tasks share the links of a cluster, or the cores of one machine, in the simulator.

[Note: max-min fair links]
Every node has one network interface with two directions, "out" and "in", both of its own rate; a
topology has more links (`systems.clusters.topology`), each with its directions and its rate.
Transfers that use the same direction share its rate. The share is max-min fair: no transfer can get
more without taking from one that has no more than it. TCP comes close to that. Progressive filling
finds it: the rates of all transfers grow together until a direction is full; transfers through it
keep the rate that they have, the others grow on. With links of 12 Gb/s:

    node 0 out --- A ---> node 2 in        A, B and C share "node 2 in": 4 Gb/s each.
    node 1 out --- B ---> node 2 in        It is full first, and A, B, C keep that.
    node 3 out --- C ---> node 2 in
    node 3 out --- D ---> node 4 in        D shares "node 3 out" with C alone: 12 - 4 = 8 Gb/s.

One transfer may load several interfaces with different numbers of bytes (a collective, or a slice
for each of several servers). Its rate is that of its largest load; the others progress in
proportion, and count with that proportion, their weight, when a direction is shared. A transfer
that stands for many equal ones (`systems.rank_classes`) has the rate of one of them, and counts k
times in a direction that k of them use.

[Note: only what changes]
Rates are max-min fair if and only if every transfer has a bottleneck: an interface that is full,
and where no transfer is faster than it (D. Bertsekas and R. Gallager, Data Networks, section 6.5).
So when a transfer begins or ends, it is enough to

1. share anew what has begun and what had its bottleneck where something began or ended; all others
   keep their rates, and these share what the others leave;
2. look at the others on the same interfaces: whoever has lost its bottleneck, or has more than its
   part at the bottleneck of one of these, is shared anew as well, until there is nobody left.

A message that begins beside an all-reduce of n ranks takes what that one leaves on its interface,
unless this becomes the slowest interface of the ring; then all 2 n of them are looked at. In jobs
of ranks of random speeds that is about as seldom with 1,024 ranks as with 128, so that n messages
take about n steps. To share anew all that a chain of common interfaces joins would find the same
rates in n steps a message.

[Note: max-min fair cores]
The cores of one machine are shared in the same way, with seconds of core time in place of bytes. A
thread is like an interface: it does one second of work in a second. All threads share CORES, which
do as many seconds as there are cores. The scheduler of an operating system gives every busy thread
the same time, so what counts as a task's largest load, to which its weights refer, is that of its
busiest thread. With two cores, three ranks that compute and a message on its way:

    rank 0 computes ----- one thread -----+
    rank 1 computes ----- one thread -----+---> CORES: five threads, 2 / 5 of a core each
    rank 2 computes ----- one thread -----+
    message --- sender's, receiver's -----+     once it is there, the others have 2 / 3 each
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

Resource = tuple[int | str, str]
"""What tasks share: one direction of a node's network interface, such as (3, "out"); or a thread or
all cores, see [Note: max-min fair cores]."""
CORES: Resource = ("host", "cores")
"""The cores that all threads of one machine share."""
Share = tuple[float, Resource]
"""The rate of a transfer, and its bottleneck."""
ROUNDING = 1e-12
"""Rates that differ by less than this part are equal."""
FEW = 64
"""As long as what is shared anew has so few interfaces, others are added to it one round after the
other. Beyond come at once all that a chain of common interfaces joins to it: more rounds would look
at a ring of many ranks again and again."""


class Transfers:
    """The transfers under way, by the numbers of their tasks, and the rate of each.

    See [Note: max-min fair links] above.
    """

    def __init__(
        self,
        loads: Sequence[Mapping[Resource, float]],
        pace_bytes: Sequence[float],
        capacity: Callable[[Resource], float],
    ) -> None:
        """No transfers yet.

        Args:
            loads: by the number of a task, the bytes that it moves through each interface (or its
                seconds of core time).
            pace_bytes: likewise, the bytes that its rate is of: its largest load, or that of each
                of the transfers for which it stands.
            capacity: what an interface moves in a second, until `set_rate` changes it.
        """
        self._loads, self._paces, self._capacity = loads, pace_bytes, capacity
        self._changed_rates: dict[Resource, float] = {}
        # By interface: the transfers through it, with their weights: load over pace.
        self._users: defaultdict[Resource, dict[int, float]] = defaultdict(dict)
        # By transfer: bytes of its pace that were left at `_since`, its rate from then on.
        self._left: dict[int, float] = {}
        self._rate: dict[int, float] = {}
        self._since: dict[int, float] = {}
        # And the interface that holds it to that rate; None until it has one.
        self._bottleneck: dict[int, Resource | None] = {}
        # Resources at which a transfer has begun or ended since rates were shared, and those that
        # have other rates themselves. Dictionaries instead of sets, here and below: their order
        # does not change from run to run.
        self._touched: dict[Resource, None] = {}
        self._turned: dict[Resource, None] = {}

    def add(self, number: int, now: float) -> None:
        """A transfer begins; it has no rate until `share` is called."""
        pace = self._paces[number]
        self._left[number], self._rate[number], self._since[number] = pace, 0.0, now
        self._bottleneck[number] = None
        for interface, size in self._loads[number].items():
            # An endless transfer has infinite loads, all of them alike.
            self._users[interface][number] = 1.0 if size == pace else size / pace
            self._touched[interface] = None

    def remove(self, number: int) -> None:
        """A transfer has ended; others may go faster once `share` is called."""
        for interface in self._loads[number]:
            del self._users[interface][number]
            self._touched[interface] = None
        del self._left[number], self._rate[number], self._since[number], self._bottleneck[number]

    def set_rate(self, interface: Resource, bytes_per_s: float) -> None:
        """The rate of an interface changes, to 0 if it fails; heeded once `share` is called."""
        self._changed_rates[interface] = bytes_per_s
        self._touched[interface] = self._turned[interface] = None

    def used_per_s(self, interface: Resource) -> float:
        """What all transfers together move through an interface in a second."""
        return sum(self._rate[n] * weight for n, weight in self._users[interface].items())

    def is_under_way(self, number: int) -> bool:
        """Whether a transfer has begun and not ended."""
        return number in self._rate

    def rates(self) -> Mapping[int, float]:
        """The rate of each transfer under way; 0 where an interface of it has failed."""
        return self._rate

    def has_failed(self, interface: Resource) -> bool:
        """Whether the rate of an interface is 0."""
        return self._changed_rates.get(interface) == 0

    def share(self, now: float) -> list[tuple[int, float]]:
        """Share the links anew where the latest changes matter.

        Returns:
            (number, second at which it will end) of each transfer whose rate has changed; infinity
            where it stands still.
        """
        changed = []
        for number, (rate, bottleneck) in self._shared().items():
            self._bottleneck[number] = bottleneck
            if rate == self._rate[number]:
                continue
            # What it has moved at its old rate is done; the rest takes the new one.
            self._left[number] -= self._rate[number] * (now - self._since[number])
            self._rate[number], self._since[number] = rate, now
            left = max(0.0, self._left[number])
            changed.append((number, now + left / rate if rate else float("inf")))
        return changed

    def _shared(self) -> dict[int, Share]:
        """The shares of all transfers to which the latest changes matter; see
        [Note: only what changes]."""
        shares: dict[int, Share] = {}
        more = dict.fromkeys(
            number
            for interface in self._touched
            for number in self._users[interface]
            if self._bottleneck[number] in (None, interface) or interface in self._turned
        )
        self._touched.clear()
        self._turned.clear()
        while more:
            shares = self._fill([*shares, *more])
            more = self._unfair(shares)
            if more and len(self._interfaces(shares)) > FEW:
                return self._fill(self._reached(shares))
        return shares

    def _reached(self, numbers: Iterable[int]) -> dict[int, None]:
        """The transfers that a chain of common interfaces joins to these, in an order that is the
        same in every run."""
        found = dict.fromkeys(numbers)
        interfaces: dict[Resource, None] = {}
        waiting = list(found)
        while waiting:
            for interface in self._loads[waiting.pop()]:
                if interface in interfaces:
                    continue
                interfaces[interface] = None
                for number in self._users[interface]:
                    if number not in found:
                        found[number] = None
                        waiting.append(number)
        return found

    def _unfair(self, shares: Mapping[int, Share]) -> dict[int, None]:
        """The transfers, among those that keep their rates, which would not be max-min fair beside
        these shares: they have more than their part at the bottleneck of one of these, or have lost
        their own."""
        found: dict[int, None] = {}
        for interface in self._interfaces(shares):
            users = self._users[interface]
            kept = [number for number in users if number not in shares]
            if not kept:
                continue
            rates = {n: shares[n][0] if n in shares else self._rate[n] for n in users}
            used, capacity = sum(rates[n] * users[n] for n in users), self._rate_of(interface)
            is_full = used >= capacity * (1 - ROUNDING)
            least = max(rates.values()) * (1 - ROUNDING) if is_full else float("inf")
            held = [n for n in users if n in shares and shares[n][1] == interface]
            # Who is held here shares with the fastest of the others first, then with the next one,
            # as long as that one is faster than what they have then.
            weight, free = sum(users[n] for n in held), sum(rates[n] * users[n] for n in held)
            for number in sorted(kept, key=rates.__getitem__, reverse=True):
                is_faster = held and rates[number] * weight > free * (1 + ROUNDING)
                if is_faster:
                    weight, free = weight + users[number], free + rates[number] * users[number]
                if is_faster or (self._bottleneck[number] == interface and rates[number] < least):
                    found[number] = None
        return found

    def _interfaces(self, numbers: Iterable[int]) -> dict[Resource, None]:
        """The interfaces that transfers use, in an order that is the same in every run."""
        return dict.fromkeys(interface for number in numbers for interface in self._loads[number])

    def _rate_of(self, interface: Resource) -> float:
        """What an interface moves in a second at present."""
        if interface in self._changed_rates:
            return self._changed_rates[interface]
        return self._capacity(interface)

    def _fill(self, numbers: Collection[int]) -> dict[int, Share]:
        """The shares of these transfers beside all others, which keep their rates: progressive
        filling."""
        growing = dict.fromkeys(numbers)
        # 1. All rates are 0: every interface has all the room that others leave. Its level is the
        #    rate at which it would be full if all of these transfers grew together.
        room: dict[Resource, float] = {}
        queue: list[tuple[float, Resource]] = []
        for interface in self._interfaces(numbers):
            weight, room[interface] = 0.0, self._rate_of(interface)
            for number, its_weight in self._users[interface].items():
                if number in growing:
                    weight += its_weight
                else:
                    room[interface] -= self._rate[number] * its_weight
            room[interface] = max(0.0, room[interface])
            if weight > 0:
                queue.append((room[interface] / weight, interface))
        heapq.heapify(queue)
        shares: dict[int, Share] = {}
        # 2. The interface of the lowest level is full first.
        while growing:
            level, bottleneck = heapq.heappop(queue)
            users = self._users[bottleneck]
            full = [n for n in users if n in growing]
            if not full:
                continue
            current = max(0.0, room[bottleneck]) / sum(users[n] for n in full)
            # Others of its transfers may have stopped growing at a lower rate since it was queued.
            # Then its level has risen, and it waits for its turn again.
            if current > level * (1 + ROUNDING):
                heapq.heappush(queue, (current, bottleneck))
                continue
            # 3. Its transfers keep this rate, and take their room at their other interfaces.
            for number in full:
                shares[number] = current, bottleneck
                del growing[number]
                for interface in self._loads[number]:
                    room[interface] -= current * self._users[interface][number]
        return shares
