"""TorchSparse 2.1 (TorchSparse++), where it is installed: layers on a GPU."""

from importlib import import_module
from importlib.util import find_spec

import torch

from sparsepipe.bench.passes import Passes, layer_passes
from sparsepipe.bench.task import Task


def missing(device: str, threads: int) -> str | None:
    """Why the library cannot be measured on a device here, with so many threads; None: it can."""
    del threads
    if find_spec("torchsparse") is None:
        return "No module named 'torchsparse'; see its README"
    if device != "cuda":
        return "version 2.1 makes its kernel maps on GPUs alone"
    return None


def passes(task: Task) -> Passes:
    """The passes of a layer, with the library's default configuration."""
    library = import_module("torchsparse")
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
