"""SparsePipe's options: `--sparsepipe.width 0.25`, or `width` in a job file, is `width` here."""

from dataclasses import dataclass
from typing import Literal

from sparsepipe.names import (
    BACKENDS,
    BASELINES,
    DATA,
    LOSSES,
    LR_SCHEDULES,
    NETWORKS,
    OPTIMIZERS,
    Rotation,
)
from sparsepipe.planner.stages import ScheduleName
from systems import by_path
from systems.schema import InputError, remedy

PLANNERS = ("planner", *BASELINES)
"""What can make a plan: our planner, or a baseline."""
KNOWN = {
    "model": NETWORKS,
    "backend": BACKENDS,
    "planner": PLANNERS,
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
    "loss": LOSSES,
}
"""The names that options may have."""
OWN = ("model", "optimizer", "lr_schedule", "loss")
"""Those of them that may have an import path instead."""
COUNTS = ("points", "batch_size", "steps", "test_clouds", "micro_batches", "virtual_stages")
"""The options that must be 1 or more."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run trains, on which data, and how a pipeline divides the work."""

    scheme: Literal["single", "pipeline", "deepspeed"] = "single"
    """single: one process trains. pipeline: stages on several ranks. deepspeed: a baseline in which
    DeepSpeed's PipelineModule trains the network's dense twin."""
    mode: Literal["train", "infer"] = "train"
    """train, or infer: a pipeline goes forward only, with the initial weights."""
    model: str = "minkvgg16-bn"
    """The network: minkvgg16-bn (the paper's, which classifies clouds), minkunet14, minkunet18 or
    minkunet34 (which label voxels); or an import path, called with in_channels, classes and width
    as far as it names them."""
    width: float = 1.0
    """A factor by which all channels of the network are multiplied; below 1 for small runs."""
    backend: str = "native"
    """What computes convolutions: native (the fastest of compiled, triton, pytorch for the device),
    one of these three, or minkowski where it is installed."""
    data: str = "shapes"
    """The data: shapes (generated), meshes:DIR, modelnet40:DIR or points:DIR with labels; or an
    import path, called with points, normals, rotation and seed as far as it names them."""
    points: int = 2048
    """The most points of a cloud, before it is cut into voxels."""
    normals: bool = False
    """Use the normals of the surface as features, instead of ones."""
    rotation: Rotation = "vertical"
    """The random rotation of shapes, meshes and ModelNet40 in training: none, vertical or full."""
    voxel_size: float = 0.02
    """The edge of a voxel; a cloud is about 1 long."""
    batch_size: int = 32
    """The number of clouds in a mini-batch."""
    steps: int = 100
    """The number of mini-batches to train on; if emulated, of those in the steady state."""
    optimizer: str = "sgd"
    """sgd, or module:attribute or path/to/file.py:attribute, called with params, lr, momentum and
    weight_decay as far as it names them: torch.optim:AdamW."""
    optimizer_options: tuple[str, ...] = ()
    """More arguments of an optimizer that is given as module:attribute: betas=(0.9,0.95)."""
    lr_schedule: str = "cosine"
    """How the learning rate changes: cosine (rises, and falls to 0), constant, or an import path
    that is called with optimizer and steps, and makes one of torch's learning-rate schedules."""
    lr_schedule_options: tuple[str, ...] = ()
    """More arguments of a schedule that is given as module:attribute: step_size=100 gamma=0.5."""
    learning_rate: float = 0.05
    """The highest learning rate."""
    momentum: float = 0.9
    """The momentum of SGD."""
    weight_decay: float = 1e-4
    """The weight decay."""
    loss: str = "cross-entropy"
    """cross-entropy, or an import path: a function of what the network returns and its labels, or a
    class that makes one; it gives the mean over the labels."""
    loss_options: tuple[str, ...] = ()
    """More arguments of a loss that is given as module:attribute: label_smoothing=0.1."""
    test_clouds: int | None = None
    """The number of test clouds that are classified at the end. None: all of them."""
    schedule: ScheduleName = "1f1b-async"
    """How the mini-batches of a pipeline follow one another: gpipe, 1f1b (both flush the pipeline
    before each update) or 1f1b-async (weight stashing, no flush)."""
    micro_batches: int | None = None
    """The number of micro-batches in a mini-batch, if the schedule flushes. None: the best number
    that the planner finds; 4 where nothing is planned."""
    cuts: tuple[int, ...] | None = None
    """The layers at which new stages begin, one stage a rank, for a pipeline that trains without a
    plan. None: `testbed run` times the layers and balances the stages; elsewhere stages have
    equally many layers."""
    plan: str | None = None
    """The file with the plan of a pipeline, made by `testbed plan sparsepipe --out`. None: emulated
    and simulated pipelines are planned from the options below."""
    planner: str = "planner"
    """What makes the plan: planner, or a baseline such as "equal split by layers"."""
    profiles: str = "tv,txp"
    """A profile for each kind of device, between commas: shipped ones or JSON files."""
    devices: str | None = None
    """The number of devices of each kind to use, such as TitanV=1,TitanXp=3. None: all."""
    bandwidth_bits_per_s: float | None = None
    """The rate of all links of the cluster. None: that of the cluster file."""
    virtual_stages: int = 1
    """The most stages of a plan in which a device may hold several. 1: a device holds one stage."""

    def __post_init__(self) -> None:
        self._check_names()
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{_flag(name)} {value}: give 1 or more")
        for name in ("width", "voxel_size", "learning_rate", "bandwidth_bits_per_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{_flag(name)} {value:g}: give more than 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"{_flag('momentum')} {self.momentum:g}: give 0 or more, less than 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"{_flag('weight_decay')} {self.weight_decay:g}: give 0 or more")
        self._check_mode()

    def _check_names(self) -> None:
        """Refuse names that stand for nothing; import paths are looked at when they are used."""
        for name, known in KNOWN.items():
            value = getattr(self, name)
            own = name in OWN and by_path.is_path(value)
            if value not in known and not own:
                other = ", or give module:attribute" if name in OWN else ""
                raise InputError(f"{_flag(name)} {value}: {remedy(value, known)}{other}")
            more = getattr(self, f"{name}_options", ())
            if more and not own:
                raise InputError(
                    f"{_flag(name)}-options {' '.join(more)}: {value} takes none; leave them out, "
                    f"or give module:attribute as {_flag(name)}"
                )

    @property
    def own_code(self) -> tuple[str, ...]:
        """The import paths of a user's own code."""
        named = [value for name in OWN if by_path.is_path(value := getattr(self, name))]
        return (*named, *([self.data] if by_path.is_path(self.data, kinds=DATA) else []))

    def _check_mode(self) -> None:
        """Refuse inference without a pipeline."""
        if self.mode == "infer" and self.scheme != "pipeline":
            raise InputError(
                f"--sparsepipe.mode infer: runs a pipeline forward, and the scheme is "
                f"{self.scheme}; add --sparsepipe.scheme pipeline"
            )


def _flag(name: str) -> str:
    """The flag of an option."""
    return f"--sparsepipe.{name.replace('_', '-')}"
