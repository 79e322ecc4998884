"""One machine whose ranks share its cores, such as a laptop, with what a probe has measured of it.

[Note: ranks that share cores]
On a cluster a rank computes as fast as it does alone, and a message takes its time on a link. Where
all ranks are processes of one machine there is no link: a message is a copy that two threads make,
the sender's and the receiver's, and both take core time. So all is one resource, the cores, and
what is busy at once shares them: n ranks that compute at once on c cores take n / c as long, ranks
that wait take nothing, and messages slow down those that compute beside them. How much core time
a byte takes, and what else a step does to bytes (sums, copies, updates), a probe measures once
(`systems.network.probe`).
"""

from dataclasses import dataclass

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

    def __post_init__(self) -> None:
        if not 0 < self.cores < float("inf"):
            raise InputError(f"cores = {self.cores:g}: give more than 0")
        for name in ("latency_s", "step_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} = {getattr(self, name):g}: give 0 or more seconds")


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
