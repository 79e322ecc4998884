"""What options name: networks, backends, planners, rotations. What is behind a name needs torch or
NumPy, which take long to import; this file does not."""

from typing import Literal

NETWORKS = ("minkvgg16-bn", "minkunet14", "minkunet18", "minkunet34")
"""The networks, in the order of `sparsepipe.models.NETWORKS`, which builds them."""
CLASSIFIERS = ("minkvgg16-bn",)
"""Those that give a row for every cloud; the others give one for every voxel."""
BACKEND_MODULES = {
    "compiled": "sparsepipe.engine.backends.compiled",
    "triton": "sparsepipe.engine.backends.triton_kernels",
    "pytorch": "sparsepipe.engine.backends.pytorch",
    "minkowski": "sparsepipe.engine.backends.minkowski",
}
"""The module of every backend."""
BACKENDS = ("native", *BACKEND_MODULES)
"""All names of backends; `native` is one of the next three."""
BASELINES = (
    "one device",
    "data parallel, equal shares",
    "data parallel, shares by speed",
    "equal split by layers",
    "homogeneous planner",
    "authors' planner",
)
"""The baselines of the planner, in the order of `sparsepipe.planner.baselines.BASELINES`."""
OPTIMIZERS = ("sgd",)
"""The optimizers."""
LR_SCHEDULES = ("cosine", "constant")
"""How the learning rate changes."""
LOSSES = ("cross-entropy",)
"""The losses."""
DATA = ("shapes", "meshes", "modelnet40", "kitti", "points")
"""The data sets; all but the first are followed by a colon and a folder."""
Rotation = Literal["none", "vertical", "full"]
"""How clouds are rotated in training: not at all, about the z axis, or freely."""
