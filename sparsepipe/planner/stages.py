"""What a plan is made of: stages, their replicas, and what is predicted of them. Data only."""

from dataclasses import dataclass
from typing import Literal, get_args

from systems import schema
from systems.schema import InputError

ScheduleName = Literal["gpipe", "1f1b", "1f1b-async"]


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One device of a stage."""

    rank: int
    """The device's place in the cluster: nodes in order, the devices of each in order."""
    device: str
    """Its kind."""
    share: float
    """The part of every mini-batch that it takes, in (0, 1]; a stage's shares sum to 1."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """The layers `first` to `end` - 1, on the devices that share their mini-batches."""

    first: int
    end: int
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Of one stage and mini-batch, seconds: the largest of its replicas, for each part."""

    forward_s: float
    backward_s: float
    transfer_s: float
    """Activations and gradients, in one direction; both directions carry as much."""
    all_reduce_s: float
    """Of the stage's gradients among its replicas."""


@dataclass(frozen=True, kw_only=True)
class DeviceTimes:
    """Of one device and mini-batch, all its stages together."""

    rank: int
    device: str
    compute_s: float
    transfer_s: float
    """Link, one direction, all-reduce included; both directions carry as much."""
    memory_bytes: int
    memory_limit_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a plan is predicted to take; `sparsepipe.planner.predict` says how."""

    step_s: float
    """Seconds per mini-batch in the steady state."""
    stages: tuple[StageTimes, ...]
    devices: tuple[DeviceTimes, ...]
    """Those that the plan uses, by rank."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What `1f1b-async` leaves open; `sparsepipe.planner.order` chooses it."""

    in_flight: tuple[int, ...]
    """Mini-batches at each stage, of which each holds its activations and its weights."""
    late_updates: bool
    """Whether stages of several replicas apply updates one mini-batch late."""


@dataclass(frozen=True, kw_only=True)
class ScheduleChoice:
    """How mini-batches follow one another.

    `1f1b-async`: mini-batches enter one after another, weights are stashed (PipeDream). `gpipe`
    and `1f1b`: a mini-batch is split into `micro_batches`, the pipeline runs empty before weights
    are updated.
    """

    name: ScheduleName
    micro_batches: int = 1
    order: Order | None = None
    """Of `1f1b-async`, in plans. None: not chosen, and as few in flight as there can be."""

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            known = get_args(ScheduleName)
            raise InputError(f"--schedule {self.name}: {schema.remedy(self.name, known)}")
        if self.micro_batches < 1:
            raise InputError(f"--micro-batches {self.micro_batches}: give 1 or more")
        if not self.flushes and self.micro_batches != 1:
            raise InputError(
                f"--micro-batches {self.micro_batches}: {self.name} sends whole mini-batches; "
                "leave it out, or choose --schedule 1f1b"
            )

    @property
    def flushes(self) -> bool:
        """Whether the pipeline runs empty after every mini-batch."""
        return self.name != "1f1b-async"

    def versions(self, stages_left: int) -> int:
        """Weight versions of a stage with `stages_left` stages from it to the end, itself too: the
        fewest, see `Order`."""
        return 1 if self.flushes else stages_left

    def in_flight(self, stages_left: int) -> float:
        """Mini-batches whose activations such a stage holds at once, the fewest."""
        if self.name == "gpipe":
            return 1.0
        if self.name == "1f1b":
            return min(self.micro_batches, stages_left) / self.micro_batches
        return float(stages_left)
