"""One machine whose ranks share its cores, a laptop or a box, with what a probe has measured of it.

[Note: ranks that share cores]
On a cluster a rank computes as fast as it does alone, and a message takes its time on a link. Where
all ranks are processes of one machine there is no link: a message is a copy that two threads make,
the sender's and the receiver's, and both take core time. So all is one resource, the cores, and
what is busy at once shares them: n ranks that compute at once on c cores take n / c as long, ranks
that wait take nothing, and messages slow down those that compute beside them. How much core time
a byte takes, and what else a step does to bytes (sums, copies, updates), a probe measures once
(`systems.network.probe`).

[Note: ranks that are held]
A shaped run makes the machine a cluster: each rank is held to a share of a core, and its messages
cross a link as well. The kernel holds it by a quota. At the beginning of every period a rank gets
so much core time; it runs at the speed of a core until that is used up, and then all of its threads
stand still until the next period. So a rank that has waited computes the first milliseconds faster
than its share says, and a message that comes when the quota is used up is read up to a period late.
Bytes that are on a link already go on meanwhile: the kernel moves them.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The core time of something that is done to bytes, in seconds of one core."""

    fixed_s: float
    """What it takes once, however few the bytes are."""
    byte_s: float
    """What each byte takes."""

    def __post_init__(self) -> None:
        for name in ("fixed_s", "byte_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} = {getattr(self, name):g}: give 0 or more seconds")

    def seconds(self, size_bytes: float, times: float = 1) -> float:
        """The core seconds of so many bytes, in so many pieces."""
        return self.fixed_s * times + self.byte_s * size_bytes


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine whose ranks share its cores, and the core time of what they do besides computing.

    See [Note: ranks that share cores] above.
    """

    source: str
    """Who measured this, when, and with what."""
    cores: float
    """How many cores the ranks have together: the speed at which all of them compute at once, over
    that of one alone, times its threads."""
    threads: int = 1
    """How many threads a rank computes with."""
    latency_s: float
    """How long the smallest message takes beyond its core time, one way: until a thread wakes."""
    step_s: float
    """What a step takes of a rank whatever its model: to read a batch, the loss, Python."""
    message: Cost
    """What a message takes of its sender and its receiver together; each has half of it."""
    ring: Cost
    """What a message of a ring all-reduce takes of a rank that sends and receives one, the sum that
    it adds to included."""
    copy: Cost
    """What a copy in memory takes."""
    add: Cost
    """What it takes to add one vector to another, for the bytes of one of them."""
    update: Cost
    """What an optimizer's step takes for a parameter (SGD with momentum), its gradient cleared."""
    share: float | None = None
    """The core seconds that each rank gets in a second, if it is held; see
    [Note: ranks that are held]. None: all share the cores freely."""
    period_s: float = 0.01
    """How often a rank that is held gets its core time."""
    bandwidth_bits_per_s: float | None = None
    """The rate of each rank's link, each way. None: messages cross memory alone."""

    def __post_init__(self) -> None:
        if not 0 < self.cores < float("inf"):
            raise InputError(f"cores = {self.cores:g}: give more than 0")
        for name in ("latency_s", "step_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} = {getattr(self, name):g}: give 0 or more seconds")
        for name in ("share", "period_s", "bandwidth_bits_per_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} = {value:g}: give more than 0")

    @property
    def is_shaped(self) -> bool:
        """Whether ranks are held, or have links."""
        return self.share is not None or self.bandwidth_bits_per_s is not None

    def seconds(self, size_bytes: float) -> float:
        """The seconds that this many bytes take over a rank's link, one way, without latency."""
        return 8 * size_bytes / (self.bandwidth_bits_per_s or float("inf"))

    def cores_of_rank(self, ranks: int) -> float:
        """The core seconds that each of so many ranks gets in a second while all compute."""
        freely = min(float(self.threads), self.cores / ranks)
        return freely if self.share is None else min(self.share, freely)

    def enlarged(self, scale: float) -> "Host":
        """The host on which all messages and vectors have so many times more bytes, and everything
        takes as long as here."""
        rate = self.bandwidth_bits_per_s
        costs: dict[str, Any] = {
            name: dataclasses.replace(cost, byte_s=cost.byte_s / scale)
            for name, cost in vars(self).items()
            if isinstance(cost, Cost)
        }
        faster = None if rate is None else rate * scale
        return dataclasses.replace(self, bandwidth_bits_per_s=faster, **costs)


NOTHING = Cost(fixed_s=0.0, byte_s=0.0)
"""The cost of what takes no core time."""
FREE = Host(
    source="not measured",
    cores=1.0,
    latency_s=0.0,
    step_s=0.0,
    message=NOTHING,
    ring=NOTHING,
    copy=NOTHING,
    add=NOTHING,
    update=NOTHING,
)
"""A host on which computing alone takes core time: what is assumed where nobody has measured."""
