"""SparsePipe's own flags and job-file keys: `--sparsepipe.width 0.25` is `width` there."""

from dataclasses import dataclass

from sparsepipe.backends import BACKENDS
from sparsepipe.cloud import Rotation
from sparsepipe.models import NETWORKS
from systems.schema import InputError, remedy


@dataclass(frozen=True, kw_only=True)
class Options:
    """One training run: what is trained, on what."""

    model: str = "minkvgg16-bn"
    """minkvgg16-bn, the paper's classifier."""
    width: float = 1.0
    """A factor on all channels of the network, for small runs."""
    backend: str = "native"
    """Who computes convolutions: native, or minkowski where it is installed."""
    data: str = "shapes"
    """shapes (generated), meshes:DIR, modelnet40:DIR or points:DIR."""
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
    """Mini-batches to train on."""
    learning_rate: float = 0.05
    """SGD's step size, falling to 0 along a cosine."""
    momentum: float = 0.9
    """SGD's momentum."""
    weight_decay: float = 1e-4
    """SGD's weight decay."""
    test_clouds: int | None = None
    """How many test clouds are classified at the end. None: all."""

    def __post_init__(self) -> None:
        if self.model not in NETWORKS:
            raise InputError(f"--sparsepipe.model {self.model}: {remedy(self.model, NETWORKS)}")
        if self.backend not in BACKENDS:
            known = remedy(self.backend, BACKENDS)
            raise InputError(f"--sparsepipe.backend {self.backend}: {known}")
        for name in ("points", "batch_size", "steps", "test_clouds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{_flag(name)} {value}: give 1 or more")
        for name in ("width", "voxel_size", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{_flag(name)} {getattr(self, name):g}: give more than 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"{_flag('momentum')} {self.momentum:g}: give 0 or more, less than 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"{_flag('weight_decay')} {self.weight_decay:g}: give 0 or more")


def _flag(name: str) -> str:
    return f"--sparsepipe.{name.replace('_', '-')}"
