"""A training job that somebody measured: its plan, its profiles, its cluster, the measurements.

A job is pipelined and replicated: every stage has as many replicas as the others, and replica r of
a stage sends to replica r of the next. A replica is a group of GPUs of one machine that divide
every layer among them (tensor parallelism); its profile was measured with that many.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from systems.clusters.cluster import Cluster
from systems.profiles.profile import ModelProfile
from systems.validation.rates import Network

MIXED = "mixed GPUs"
"""The kind of a plan whose GPUs are of several kinds."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """GPUs of one machine that divide every layer among them."""

    kind: str
    """The kind of the GPUs, as profiles call it."""
    degree: int
    """How many they are: the degree of tensor parallelism."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One of the groups that hold a stage."""

    group: Group
    machine: int
    """The number of its machine in the cluster."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive layers and who holds them."""

    first: int
    end: int
    """It has the layers first, ..., end - 1."""
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, kw_only=True)
class GroupProfile:
    """What a model costs one GPU of a group that divides its layers, for one micro-batch."""

    profile: ModelProfile
    """Seconds of the layers; the activations are whole, the parameters are this GPU's part."""
    update_s: float
    """Seconds in which the optimizer updates all layers."""
    parameters: tuple[int, ...]
    """The parameters of each layer that this GPU holds."""
    kept_bytes: tuple[int, ...]
    """What each layer keeps on this GPU from its forward to its backward pass."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured. None: it was not, or it is known to be wrong."""

    iteration_s: float
    """Seconds from one update of the weights to the next."""
    reduction_s: float | None
    """Seconds in which the first stage sums its gradients over its replicas."""
    memory_bytes: int | None
    """The memory in use on the fullest GPU that was looked at."""
    memory_of_last_stage: bool = False
    """Whether only GPUs of the last stage were looked at."""


@dataclass(frozen=True, kw_only=True)
class MeasuredJob:
    """A measured job."""

    name: str
    kind: str
    """The kind of plan, by which errors are summed up."""
    stages: tuple[Stage, ...]
    micro_batch: int
    """Samples of a micro-batch, at one replica."""
    micro_batches: int
    """How many of them each replica has in an iteration."""
    profiles: Mapping[Group, GroupProfile]
    cluster: Cluster
    network: Network
    measured: Measured
    notes: tuple[str, ...] = ()
    """What was corrected, and what is not compared."""

    def profile_of(self, replica: Replica) -> GroupProfile:
        """The profile of a replica's GPUs."""
        return self.profiles[replica.group]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A plan that is not predicted."""

    name: str
    why: str
