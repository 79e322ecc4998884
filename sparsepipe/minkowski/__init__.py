"""MinkowskiEngine's names on this package's engine: code that was written for that library runs.

import sparsepipe.minkowski as ME        # in place of import MinkowskiEngine as ME

or, where the import cannot be changed, before it:

import sparsepipe.minkowski
sparsepipe.minkowski.stand_in()          # import MinkowskiEngine finds this package from now on

Parameters have the same names and shapes, so checkpoints load. What the library has and this
package has not is refused by name. docs/minkowski.md lists both, and the few differences.
"""

import sys
from enum import Enum
from typing import Any

from sparsepipe.minkowski import (
    functional as MinkowskiFunctional,
    modules,
    operations as MinkowskiOps,
    utils,
)
from sparsepipe.minkowski.layers import (
    KernelGenerator,
    MinkowskiAvgPooling,
    MinkowskiBroadcast,
    MinkowskiBroadcastAddition,
    MinkowskiBroadcastConcatenation,
    MinkowskiBroadcastMultiplication,
    MinkowskiChannelwiseConvolution,
    MinkowskiConvolution,
    MinkowskiConvolutionTranspose,
    MinkowskiGenerativeConvolutionTranspose,
    MinkowskiGlobalAvgPooling,
    MinkowskiGlobalMaxPooling,
    MinkowskiGlobalPooling,
    MinkowskiGlobalSumPooling,
    MinkowskiInterpolation,
    MinkowskiMaxPooling,
    MinkowskiPoolingTranspose,
    MinkowskiPruning,
    MinkowskiSumPooling,
    MinkowskiUnion,
)
from sparsepipe.minkowski.operations import (
    MinkowskiStackCat,
    MinkowskiStackMean,
    MinkowskiStackSum,
    MinkowskiStackVar,
    MinkowskiToDenseTensor,
    MinkowskiToSparseTensor,
    cat,
    dense_coordinates,
    mean,
    sum,
    to_sparse,
    to_sparse_all,
    var,
)
from sparsepipe.minkowski.places import CoordinateManager, CoordinateMapKey, RegionType
from sparsepipe.minkowski.rowwise import (
    ELEMENTWISE,
    MinkowskiBatchNorm,
    MinkowskiInstanceNorm,
    MinkowskiLinear,
    MinkowskiNetwork,
    MinkowskiSinusoidal,
    MinkowskiStableInstanceNorm,
    MinkowskiSyncBatchNorm,
    MinkowskiToFeature,
)
from sparsepipe.minkowski.tensors import SparseTensor, SparseTensorQuantizationMode, TensorField

globals().update(ELEMENTWISE)


class SparseTensorOperationMode(Enum):
    """Whether tensors share coordinates. Here they always may, whatever is set."""

    SEPARATE_COORDINATE_MANAGER = 0
    SHARE_COORDINATE_MANAGER = 1


class MinkowskiAlgorithm(Enum):
    """Accepted, and without effect."""

    DEFAULT = 0
    MEMORY_EFFICIENT = 1
    SPEED_OPTIMIZED = 2


class GPUMemoryAllocatorType(Enum):
    """Accepted, and without effect: all memory is PyTorch's."""

    PYTORCH = 0
    CUDA = 1


def set_sparse_tensor_operation_mode(operation_mode: SparseTensorOperationMode) -> None:
    """Accepted, and without effect: tensors of one network may always be combined."""


def clear_global_coordinate_manager() -> None:
    """Accepted, and without effect: coordinates go when the last tensor on them goes."""


def set_gpu_allocator(backend: GPUMemoryAllocatorType) -> None:
    """Accepted, and without effect."""


def is_cuda_available() -> bool:
    """Whether PyTorch finds a GPU."""
    import torch

    return torch.cuda.is_available()


def stand_in() -> None:
    """Let `import MinkowskiEngine`, and of what is in it, find this package in this process."""
    for name, module in list(sys.modules.items()):
        if name == __name__ or name.startswith(f"{__name__}."):
            sys.modules[f"MinkowskiEngine{name.removeprefix(__name__)}"] = module
    sys.modules["MinkowskiEngine.MinkowskiFunctional"] = MinkowskiFunctional
    sys.modules["MinkowskiEngine.MinkowskiOps"] = MinkowskiOps


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"{name} of MinkowskiEngine is not in sparsepipe.minkowski: docs/minkowski.md lists what is"
    )


__all__ = [
    *ELEMENTWISE,
    "CoordinateManager",
    "CoordinateMapKey",
    "GPUMemoryAllocatorType",
    "KernelGenerator",
    "MinkowskiAlgorithm",
    "MinkowskiAvgPooling",
    "MinkowskiBatchNorm",
    "MinkowskiBroadcast",
    "MinkowskiBroadcastAddition",
    "MinkowskiBroadcastConcatenation",
    "MinkowskiBroadcastMultiplication",
    "MinkowskiChannelwiseConvolution",
    "MinkowskiConvolution",
    "MinkowskiConvolutionTranspose",
    "MinkowskiFunctional",
    "MinkowskiGenerativeConvolutionTranspose",
    "MinkowskiGlobalAvgPooling",
    "MinkowskiGlobalMaxPooling",
    "MinkowskiGlobalPooling",
    "MinkowskiGlobalSumPooling",
    "MinkowskiInstanceNorm",
    "MinkowskiInterpolation",
    "MinkowskiLinear",
    "MinkowskiMaxPooling",
    "MinkowskiNetwork",
    "MinkowskiOps",
    "MinkowskiPoolingTranspose",
    "MinkowskiPruning",
    "MinkowskiSinusoidal",
    "MinkowskiStableInstanceNorm",
    "MinkowskiStackCat",
    "MinkowskiStackMean",
    "MinkowskiStackSum",
    "MinkowskiStackVar",
    "MinkowskiSumPooling",
    "MinkowskiSyncBatchNorm",
    "MinkowskiToDenseTensor",
    "MinkowskiToFeature",
    "MinkowskiToSparseTensor",
    "MinkowskiUnion",
    "RegionType",
    "SparseTensor",
    "SparseTensorOperationMode",
    "SparseTensorQuantizationMode",
    "TensorField",
    "cat",
    "clear_global_coordinate_manager",
    "dense_coordinates",
    "is_cuda_available",
    "mean",
    "modules",
    "set_gpu_allocator",
    "set_sparse_tensor_operation_mode",
    "stand_in",
    "sum",
    "to_sparse",
    "to_sparse_all",
    "utils",
    "var",
]
