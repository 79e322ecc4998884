"""TorchSparse 2.1 (TorchSparse++), where it is installed: layers on a GPU, without TF32."""

from importlib import import_module

import torch

from sparsepipe.bench.passes import Passes, layer_passes
from sparsepipe.bench.task import Task

LEAST = (2, 1)


def missing(device: str, threads: int) -> str | None:
    """Why the library cannot be measured on a device here, with so many threads; None: it can."""
    del threads
    try:
        version: str = import_module("torchsparse").__version__
    except ImportError as error:
        return f"{error}; see its README"
    if tuple(map(int, version.split(".")[:2])) < LEAST:
        return f"it is version {version}; 2.1 is compared, whose coordinates begin with the sample"
    if device != "cuda":
        return "it makes its kernel maps on GPUs alone"
    return None


def passes(task: Task) -> Passes:
    """The passes of a layer, with the library's default configuration."""
    library = import_module("torchsparse")
    library.backends.allow_tf32 = False
    features = task.features.requires_grad_()
    layer = import_module("torchsparse.nn").Conv3d(task.channels, task.channels, 3)
    layer = layer.to(task.device)
    first = library.SparseTensor(coords=task.coordinates, feats=features)
    layer(first)  # leaves its kernel map in `first`

    def forward() -> torch.Tensor:
        """The layer's output."""
        inputs = library.SparseTensor(coords=task.coordinates, feats=features)
        inputs._caches = first._caches
        found: torch.Tensor = layer(inputs).feats
        return found

    return layer_passes(layer, forward, features)
