"""What is trained: a network on mini-batches of voxels, and its accuracy on test clouds."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from sparsepipe.data.cloud import Cloud
from sparsepipe.data.prefetch import in_order, prefetch, shuffled
from sparsepipe.data.splits import Clouds
from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.quantize import collate, sparse_quantize
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import NETWORKS
from sparsepipe.options import Options
from sparsepipe.train.clouds import load_clouds
from systems.modes import evaluating

TEST_BATCH = 64
"""The number of clouds in a batch of tests."""


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """The voxels of some clouds, and their labels, int64 [batch size]."""

    inputs: SparseTensor
    """The voxels of all clouds."""
    labels: Tensor
    """The class of each cloud."""

    def to(self, device: torch.device) -> "MiniBatch":
        """The same mini-batch on a device."""
        if device == self.labels.device:
            return self
        return MiniBatch(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Workload:
    """The data and the network of one run. Mini-batch t is the same on every rank."""

    options: Options
    """The options of the run."""
    data: Clouds
    """The clouds to train on and to test with."""
    seed: int
    """The seed of weights and order."""

    @property
    def channels(self) -> int:
        """The number of features of a voxel."""
        return self.data.train.cloud(0).features.shape[1]

    def network(self) -> nn.Module:
        """A new network with the initial weights that the seed gives."""
        torch.manual_seed(self.seed)
        build = NETWORKS[self.options.model]
        network = build(self.channels, len(self.data.class_names), width=self.options.width)
        for layer in network.modules():
            if isinstance(layer, Convolution):
                layer.backend = self.options.backend
        return network

    def mini_batches(self, first: int = 0) -> Generator[MiniBatch, None, None]:
        """The mini-batches from number `first` on, without end; threads make them ahead of need."""
        length, size = len(self.data.train), self.options.batch_size
        epoch, position = divmod(first, max(1, length // size))
        order = shuffled(length, size, seed=self.seed, epoch=epoch)
        return prefetch(self.data.train, islice(order, position, None), self._voxels)

    def tests(self, most: int | None = None) -> Generator[MiniBatch, None, None]:
        """The test clouds in their order, all or the first `most`."""
        count = min(len(self.data.test), most or len(self.data.test))
        return prefetch(self.data.test, in_order(count, TEST_BATCH), self._voxels)

    def _voxels(self, clouds: Sequence[Cloud]) -> MiniBatch:
        """Make a mini-batch of clouds."""
        samples = [
            sparse_quantize(cloud.points, self.options.voxel_size, cloud.features)
            for cloud in clouds
        ]
        batch = collate(samples)
        inputs = SparseTensor(batch.features, batch.coordinates, batch_size=batch.batch_size)
        return MiniBatch(inputs, torch.tensor([cloud.label for cloud in clouds]))


def open_workload(options: Options, seed: int) -> Workload:
    """Open the data that the options name.

    Raises:
        InputError: there is no such data, or it has no classes to learn.
    """
    return Workload(options, load_clouds(options, seed), seed)


@torch.no_grad()
def accuracy(
    network: nn.Module, workload: Workload, device: torch.device, most: int | None = None
) -> float:
    """The share of test clouds that the network classifies correctly."""
    right = tested = 0
    with evaluating(network):
        for batch in workload.tests(most):
            batch = batch.to(device)
            logits = network(batch.inputs).features
            right += int((logits.argmax(1) == batch.labels).sum())
            tested += len(batch.labels)
    return right / tested
