"""What a plan is made of: stages, their replicas, a schedule, and predictions. Data only."""

from dataclasses import dataclass
from typing import Literal, get_args

from systems import schema
from systems.schema import InputError

ScheduleName = Literal["gpipe", "1f1b", "1f1b-async"]


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A device that holds a stage, and its share of the samples."""

    rank: int
    """The device's place in the cluster: nodes in order, the devices of each in order."""
    device: str
    """The kind of device, such as TitanV."""
    share: float
    """The part of every mini-batch that it takes, in (0, 1]; a stage's shares sum to 1."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage with the layers `first`, ..., `end` - 1, and the devices that hold it."""

    first: int
    """The number of its first layer."""
    end: int
    """One more than the number of its last layer."""
    replicas: tuple[Replica, ...]
    """The devices that hold it, in the order in which they take samples."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the replicas."""
        return tuple(replica.rank for replica in self.replicas)

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares of the replicas."""
        return tuple(replica.share for replica in self.replicas)


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """The seconds of one stage for a mini-batch; each is that of the slowest replica in it."""

    forward_s: float
    """The forward pass."""
    backward_s: float
    """The backward pass."""
    transfer_s: float
    """The transfer of activations and gradients in one direction; both carry equally much."""
    all_reduce_s: float
    """The all-reduce of the stage's gradients among its replicas."""


@dataclass(frozen=True, kw_only=True)
class DeviceTimes:
    """The seconds and bytes of one device for a mini-batch, all of its stages together."""

    rank: int
    """The rank of the device."""
    device: str
    """The kind of device."""
    compute_s: float
    """All forward and backward passes."""
    transfer_s: float
    """The time of its link in one direction, all-reduces included; both carry equally much."""
    memory_bytes: int
    """The bytes that it needs."""
    memory_limit_bytes: int | None = None
    """The bytes that it has; None where there is no limit."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a plan is predicted to take; `sparsepipe.planner.predict` says how."""

    step_s: float
    """Seconds per mini-batch in the steady state."""
    stages: tuple[StageTimes, ...]
    """The stages, in the order of the layers."""
    devices: tuple[DeviceTimes, ...]
    """The devices that the plan uses, by rank."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the schedule `1f1b-async` leaves open; `sparsepipe.planner.order` chooses it."""

    in_flight: tuple[int, ...]
    """The mini-batches in flight at each stage. For each, the stage keeps its activations and a
    weight version."""
    late_updates: bool
    """Whether stages of several replicas apply their updates one mini-batch late."""


@dataclass(frozen=True, kw_only=True)
class ScheduleChoice:
    """Which schedule a plan uses: how mini-batches follow one another.

    With `1f1b-async` mini-batches enter one after another, and weights are stashed (PipeDream).
    With `gpipe` and `1f1b` a mini-batch is split into `micro_batches`, and the pipeline is flushed
    before the weights are updated. `sparsepipe.schedule.lists` explains them.
    """

    name: ScheduleName
    """The kind of schedule."""
    micro_batches: int = 1
    """The micro-batches in a mini-batch; 1 for `1f1b-async`."""
    order: Order | None = None
    """For `1f1b-async` in a plan. None: not chosen yet, and as few in flight as possible."""

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            names = get_args(ScheduleName)
            raise InputError(f"--schedule {self.name}: {schema.remedy(self.name, names)}")
        if self.micro_batches < 1:
            raise InputError(f"--micro-batches {self.micro_batches}: give 1 or more")
        if not self.flushes and self.micro_batches != 1:
            raise InputError(
                f"--micro-batches {self.micro_batches}: {self.name} sends whole mini-batches; "
                "leave it out, or choose --schedule 1f1b"
            )

    @property
    def flushes(self) -> bool:
        """Whether the pipeline runs empty before every update."""
        return self.name != "1f1b-async"

    def versions(self, stages_left: int) -> int:
        """The smallest number of weight versions that a stage must keep.

        `stages_left` counts the stages from this one to the last, this one included.
        """
        return 1 if self.flushes else stages_left

    def in_flight(self, stages_left: int) -> float:
        """The smallest number of mini-batches whose activations such a stage holds at once.

        Micro-batches count as fractions.
        """
        if self.name == "gpipe":
            return 1.0
        if self.name == "1f1b":
            return min(self.micro_batches, stages_left) / self.micro_batches
        return float(stages_left)
