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
times in a direction that k of them use. Whenever a transfer begins or ends, only those are shared
anew that a chain of common interfaces joins to it: elsewhere nothing has changed.

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
        # Resources at which a transfer has begun or ended since rates were shared. A dictionary
        # instead of a set, here and below: its order does not change from run to run.
        self._touched: dict[Resource, None] = {}

    def add(self, number: int, now: float) -> None:
        """A transfer begins; it has no rate until `share` is called."""
        pace = self._paces[number]
        self._left[number], self._rate[number], self._since[number] = pace, 0.0, now
        for interface, size in self._loads[number].items():
            # An endless transfer has infinite loads, all of them alike.
            self._users[interface][number] = 1.0 if size == pace else size / pace
            self._touched[interface] = None

    def remove(self, number: int) -> None:
        """A transfer has ended; others may go faster once `share` is called."""
        for interface in self._loads[number]:
            del self._users[interface][number]
            self._touched[interface] = None
        del self._left[number], self._rate[number], self._since[number]

    def set_rate(self, interface: Resource, bytes_per_s: float) -> None:
        """The rate of an interface changes, to 0 if it fails; heeded once `share` is called."""
        self._changed_rates[interface] = bytes_per_s
        self._touched[interface] = None

    def used_per_s(self, interface: Resource) -> float:
        """What all transfers together move through an interface in a second."""
        return sum(self._rate[n] * weight for n, weight in self._users[interface].items())

    def is_under_way(self, number: int) -> bool:
        """Whether a transfer has begun and not ended."""
        return number in self._rate

    def stopped(self) -> list[int]:
        """The transfers under way that do not move, as an interface of theirs has failed."""
        return [number for number, rate in self._rate.items() if rate == 0]

    def has_failed(self, interface: Resource) -> bool:
        """Whether the rate of an interface is 0."""
        return self._changed_rates.get(interface) == 0

    def share(self, now: float) -> list[tuple[int, float]]:
        """Share the links anew among all transfers that the latest changes can reach.

        Returns:
            (number, second at which it will end) of each transfer whose rate has changed; infinity
            where it stands still.
        """
        numbers, interfaces = self._reached()
        self._touched.clear()
        changed = []
        for number, rate in self._fill(numbers, interfaces).items():
            if rate == self._rate[number]:
                continue
            # What it has moved at its old rate is done; the rest takes the new one.
            self._left[number] -= self._rate[number] * (now - self._since[number])
            self._rate[number], self._since[number] = rate, now
            left = max(0.0, self._left[number])
            changed.append((number, now + left / rate if rate else float("inf")))
        return changed

    def _reached(self) -> tuple[dict[int, None], dict[Resource, None]]:
        """The transfers and interfaces that a chain of common interfaces joins to the touched ones,
        in an order that is the same in every run."""
        interfaces = dict(self._touched)
        numbers: dict[int, None] = {}
        waiting = list(interfaces)
        while waiting:
            for number in self._users[waiting.pop()]:
                if number in numbers:
                    continue
                numbers[number] = None
                for interface in self._loads[number]:
                    if interface not in interfaces:
                        interfaces[interface] = None
                        waiting.append(interface)
        return numbers, interfaces

    def _rate_of(self, interface: Resource) -> float:
        """What an interface moves in a second at present."""
        if interface in self._changed_rates:
            return self._changed_rates[interface]
        return self._capacity(interface)

    def _fill(self, numbers: Collection[int], interfaces: Iterable[Resource]) -> dict[int, float]:
        """The rates, in bytes/s, of these transfers over these interfaces: progressive filling."""
        if not numbers:
            return {}
        if len(numbers) == 1:  # nothing to share: its fullest interface sets the rate
            (number,) = numbers
            of_number = ((i, self._users[i][number]) for i in self._loads[number])
            return {number: min(self._rate_of(i) / weight for i, weight in of_number if weight)}
        # 1. All rates are 0: every interface has all of its room. Its level is the rate at which it
        #    would be full if all of its transfers grew together.
        room = {interface: self._rate_of(interface) for interface in interfaces}
        weight = {interface: sum(self._users[interface].values()) for interface in room}
        queue: list[tuple[float, Resource]] = [
            (room[interface] / weight[interface], interface)
            for interface in room
            if weight[interface] > 0
        ]
        heapq.heapify(queue)
        growing = dict.fromkeys(numbers)
        rates: dict[int, float] = {}
        # 2. The interface of the lowest level is full first.
        while growing:
            level, bottleneck = heapq.heappop(queue)
            users = [n for n in self._users[bottleneck] if n in growing]
            if not users:
                continue
            current = room[bottleneck] / sum(self._users[bottleneck][n] for n in users)
            # Others of its transfers may have stopped growing at a lower rate since it was queued.
            # Then its level has risen, and it waits for its turn again.
            if current > level * (1 + 1e-9):
                heapq.heappush(queue, (current, bottleneck))
                continue
            # 3. Its transfers keep this rate, and take their room at their other interfaces.
            for number in users:
                rates[number] = current
                del growing[number]
                for interface in self._loads[number]:
                    room[interface] -= current * self._users[interface][number]
        return rates
