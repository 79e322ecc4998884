"""SparsePipe's own flags and job-file keys: `--sparsepipe.width 0.25` is `width` there."""

from dataclasses import dataclass
from typing import Literal

from sparsepipe.data.cloud import Rotation
from sparsepipe.engine.backends import BACKENDS
from sparsepipe.models import CLASSIFIERS, NETWORKS
from sparsepipe.planner.baselines import BASELINES
from sparsepipe.planner.stages import ScheduleName
from systems.schema import InputError, remedy

PLANNERS = ("planner", *BASELINES)
COUNTS = ("points", "batch_size", "steps", "test_clouds", "micro_batches", "virtual_stages")
"""Options of which there must be 1 at least."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One training run: what is trained, on what, and how a pipeline divides it."""

    scheme: Literal["single", "pipeline", "deepspeed"] = "single"
    """single: one process. pipeline: stages on several ranks. deepspeed: a baseline, DeepSpeed's
    PipelineModule around the network's dense twin."""
    mode: Literal["train", "infer"] = "train"
    """infer: a pipeline runs forward only, with the weights of its first step."""
    model: str = "minkvgg16-bn"
    """minkvgg16-bn, the paper's classifier."""
    width: float = 1.0
    """A factor on all channels of the network, for small runs."""
    backend: str = "native"
    """Who computes convolutions: native (the fastest of compiled, triton, pytorch for the device),
    one of these three, or minkowski where it is installed."""
    data: str = "shapes"
    """shapes (generated), meshes:DIR, modelnet40:DIR or points:DIR with labels."""
    points: int = 2048
    """At most so many in a cloud, before it is cut into voxels."""
    normals: bool = False
    """Whether features are the surface's normals instead of ones."""
    rotation: Rotation = "vertical"
    """Of generated shapes, meshes and ModelNet40 in training: none, vertical (about z), full."""
    voxel_size: float = 0.02
    """Edge of a voxel; clouds are about 1 long."""
    batch_size: int = 32
    """Clouds in a mini-batch."""
    steps: int = 100
    """Mini-batches to train on; of an emulated pipeline, those of its steady state."""
    learning_rate: float = 0.05
    """SGD's step size, falling to 0 along a cosine."""
    momentum: float = 0.9
    """SGD's momentum."""
    weight_decay: float = 1e-4
    """SGD's weight decay."""
    test_clouds: int | None = None
    """How many test clouds are classified at the end. None: all."""
    schedule: ScheduleName = "1f1b-async"
    """How a pipeline's mini-batches follow one another."""
    micro_batches: int | None = None
    """Of a flushing schedule. None: the planner's best number; 4 where nothing is planned."""
    cuts: tuple[int, ...] | None = None
    """Where a pipeline that trains has no plan: the layers at which new stages begin, one stage a
    rank. None: by the layers' times where `launch run` measures them, else equally many layers."""
    plan: str | None = None
    """A pipeline's plan, made with `launch plan sparsepipe --out`. None: emulated and simulated
    pipelines are planned from the options below."""
    planner: str = "planner"
    """Who plans: planner, or a baseline such as "equal split by layers"."""
    profiles: str = "tv,txp"
    """What the planner knows of each kind of device: shipped profiles or JSON files."""
    devices: str | None = None
    """Other numbers of the cluster's devices, such as TitanV=1,TitanXp=3."""
    bandwidth_bits_per_s: float | None = None
    """Another rate of all the cluster's links."""
    virtual_stages: int = 1
    """Above 1: a device may hold several stages, and the plan has at most so many."""

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
        if self.model not in NETWORKS:
            raise InputError(f"--sparsepipe.model {self.model}: {remedy(self.model, NETWORKS)}")
        if self.model not in CLASSIFIERS:
            raise InputError(
                f"--sparsepipe.model {self.model}: labels voxels, and training here classifies "
                f"whole clouds; give {' or '.join(CLASSIFIERS)}"
            )
        if self.backend not in BACKENDS:
            known = remedy(self.backend, BACKENDS)
            raise InputError(f"--sparsepipe.backend {self.backend}: {known}")
        if self.planner not in PLANNERS:
            known = remedy(self.planner, PLANNERS)
            raise InputError(f"--sparsepipe.planner {self.planner}: {known}")

    def _check_mode(self) -> None:
        if self.mode == "infer" and self.scheme != "pipeline":
            raise InputError(
                f"--sparsepipe.mode infer: runs a pipeline forward, and the scheme is "
                f"{self.scheme}; add --sparsepipe.scheme pipeline"
            )


def _flag(name: str) -> str:
    return f"--sparsepipe.{name.replace('_', '-')}"
