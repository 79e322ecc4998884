"""Small networks and mini-batches of very different sizes: pipelines against one process."""

from collections.abc import Iterable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from sparsepipe.engine.layers import BatchNorm
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models.unet import MinkUNet
from sparsepipe.models.vgg import MinkVGG16
from sparsepipe.runtime.values import Value, features_of, take_samples

Model = Literal["vgg", "unet"]
CLASSES = 5
SAMPLES = 6
STEPS = 20
SIZES = (1, 40, 300, 12, 90, 5)
"""The voxels of each of a mini-batch's samples, rotated from one mini-batch to the next."""
NEARLY_EMPTY = (3, 11)
"""Mini-batches with one voxel in all, and samples without any."""


@cache
def cloud(mini_batch: int, more: int = 0) -> SparseTensor:
    """The inputs of a mini-batch, with features [N, 2] and `more` extra voxels in every sample."""
    generator = torch.Generator().manual_seed(mini_batch)
    shift = mini_batch % SAMPLES
    sizes = (*SIZES[shift:], *SIZES[:shift])
    if mini_batch in NEARLY_EMPTY:
        sizes = (0, 0, 1, 0, 0, 0)
    sizes = tuple(size + more for size in sizes)
    rows = []
    for sample, size in enumerate(sizes):
        cells = torch.randperm(10**3, generator=generator)[:size]
        places = [cells // 10**place % 10 - 5 for place in (2, 1, 0)]
        rows.append(torch.stack([torch.full_like(cells, sample), *places], 1))
    coordinates = torch.cat(rows).int()
    features = torch.randn(len(coordinates), 2, generator=generator)
    return SparseTensor(features, coordinates, batch_size=SAMPLES)


class Clouds:
    """The mini-batches of a model: "vgg" has a class for each sample, "unet" for each voxel."""

    def __init__(self, model: Model, more: int = 0) -> None:
        self._model, self._more = model, more

    def voxels(self, mini_batch: int) -> list[int]:
        """The number of voxels of each sample."""
        return [len(sample) for sample in cloud(mini_batch, self._more).decomposed]

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels and features of these samples, as the pipeline's first stage takes them."""
        return take_samples((cloud(mini_batch, self._more),), samples)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """The classes of these samples, or of their voxels."""
        if self._model == "vgg":
            return torch.arange(samples.start, samples.stop).add(mini_batch) % CLASSES
        (taken,) = take_samples((cloud(mini_batch, self._more),), samples)
        assert isinstance(taken, SparseTensor)
        return (taken.coordinates[:, 1:].sum(1) % CLASSES).long()

    def count(self, mini_batch: int) -> int:
        """How many targets a mini-batch has: samples, or voxels."""
        return SAMPLES if self._model == "vgg" else len(cloud(mini_batch, self._more))


def build(model: Model) -> nn.Module:
    """The same network every time, with running statistics that are not those of fresh layers."""
    torch.manual_seed(0)
    network: nn.Module = (
        MinkVGG16(2, CLASSES, width=1 / 16)
        if model == "vgg"
        else MinkUNet(2, CLASSES, depth=14, width=1 / 8)
    )
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, BatchNorm):
            assert layer.bn.running_mean is not None
            assert layer.bn.running_var is not None
            layer.bn.running_mean.normal_(0, 0.1)
            layer.bn.running_var.uniform_(0.1, 0.5)
    return network


def frozen(network: nn.Module) -> nn.Module:
    """The network in training mode, except that batch normalisation keeps its statistics."""
    network.train()
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.eval()
    return network


def loss_sum(output: Value, targets: Tensor) -> Tensor:
    """The sum of the cross-entropy over samples or voxels."""
    return nn.functional.cross_entropy(features_of(output), targets, reduction="sum")


def momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make an optimizer of these parameters: SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference of a parameter, in the Euclidean norm."""
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[key] - theirs[key]).norm() / theirs[key].norm().clamp(min=1e-30))
        for key in ours
        if ours[key].is_floating_point()
    )
