"""How transfers share the links of a cluster in the simulator.

[Note: max-min fair links]
Every node has one network interface with two directions, "out" and "in"; a topology has more links
(`systems.clusters.topology`), each with its directions and its rate. Transfers that use the same
direction share its rate. The share is max-min fair: no transfer can get
more without taking from one that has no more than it. TCP comes close to that. Progressive filling
finds it: the rates of all transfers grow together until a direction is full; transfers through it
keep the rate that they have, the others grow on. With links of 12 Gb/s:

    node 0 out --- A ---> node 2 in        A, B and C share "node 2 in": 4 Gb/s each.
    node 1 out --- B ---> node 2 in        It is full first, and A, B, C keep that.
    node 3 out --- C ---> node 2 in
    node 3 out --- D ---> node 4 in        D shares "node 3 out" with C alone: 12 - 4 = 8 Gb/s.

One transfer may load several interfaces with different numbers of bytes (a collective, or a slice
for each of several servers). Its rate is that of its largest load; the others progress in
proportion, and count with that proportion, their weight, when a direction is shared.
Whenever a transfer begins or ends, only those are shared anew that a chain of common interfaces
joins to it: elsewhere nothing has changed.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

Interface = tuple[int, str]
"""One direction of a node's network interface, such as (3, "out"), or of another link."""


class Transfers:
    """The transfers under way, by the numbers of their tasks, and the rate of each.

    See [Note: max-min fair links] above.
    """

    def __init__(
        self, loads: Sequence[Mapping[Interface, float]], capacity: Callable[[Interface], float]
    ) -> None:
        """No transfers yet.

        Args:
            loads: by the number of a task, the bytes that it moves through each interface.
            capacity: the rate of an interface in bytes/s, until `set_rate` changes it.
        """
        self._loads, self._capacity = loads, capacity
        self._changed_rates: dict[Interface, float] = {}
        # By interface: the transfers through it, with their weights (1 for the largest load).
        self._users: defaultdict[Interface, dict[int, float]] = defaultdict(dict)
        # By transfer: bytes of the largest load that were left at `_since`, its rate from then on.
        self._left: dict[int, float] = {}
        self._rate: dict[int, float] = {}
        self._since: dict[int, float] = {}
        # Interfaces at which a transfer has begun or ended since rates were shared. A dictionary
        # instead of a set, here and below: its order does not change from run to run.
        self._touched: dict[Interface, None] = {}

    def add(self, number: int, now: float) -> None:
        """A transfer begins; it has no rate until `share` is called."""
        loads = self._loads[number]
        largest = max(loads.values())
        self._left[number], self._rate[number], self._since[number] = largest, 0.0, now
        for interface, size in loads.items():
            # An endless transfer has infinite loads, all of them alike.
            self._users[interface][number] = 1.0 if size == largest else size / largest
            self._touched[interface] = None

    def remove(self, number: int) -> None:
        """A transfer has ended; others may go faster once `share` is called."""
        for interface in self._loads[number]:
            del self._users[interface][number]
            self._touched[interface] = None
        del self._left[number], self._rate[number], self._since[number]

    def set_rate(self, interface: Interface, bytes_per_s: float) -> None:
        """The rate of an interface changes, to 0 if it fails; heeded once `share` is called."""
        self._changed_rates[interface] = bytes_per_s
        self._touched[interface] = None

    def is_under_way(self, number: int) -> bool:
        """Whether a transfer has begun and not ended."""
        return number in self._rate

    def stopped(self) -> list[int]:
        """The transfers under way that do not move, as an interface of theirs has failed."""
        return [number for number, rate in self._rate.items() if rate == 0]

    def has_failed(self, interface: Interface) -> bool:
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

    def _reached(self) -> tuple[dict[int, None], dict[Interface, None]]:
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

    def _rate_of(self, interface: Interface) -> float:
        """The present rate of an interface, in bytes/s."""
        if interface in self._changed_rates:
            return self._changed_rates[interface]
        return self._capacity(interface)

    def _fill(self, numbers: Iterable[int], interfaces: Iterable[Interface]) -> dict[int, float]:
        """The rates, in bytes/s, of these transfers over these interfaces: progressive filling."""
        # 1. All rates are 0: every interface has all of its room. Its level is the rate at which it
        #    would be full if all of its transfers grew together.
        room = {interface: self._rate_of(interface) for interface in interfaces}
        weight = {interface: sum(self._users[interface].values()) for interface in room}
        queue: list[tuple[float, Interface]] = [
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
