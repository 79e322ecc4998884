"""What is trained on: voxels of a data set's clouds in mini-batches, and accuracy on its tests."""

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


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """Clouds as voxels, and a label int64 [batch size] for each."""

    inputs: SparseTensor
    labels: Tensor

    def to(self, device: torch.device) -> "MiniBatch":
        """The same on a device."""
        if device == self.labels.device:
            return self
        return MiniBatch(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Workload:
    """Data and network of one run; mini-batch t is the same on every rank."""

    options: Options
    data: Clouds
    seed: int

    @property
    def channels(self) -> int:
        """Of the clouds' features."""
        return self.data.train.cloud(0).features.shape[1]

    def network(self) -> nn.Module:
        """With fresh weights, from the seed."""
        torch.manual_seed(self.seed)
        build = NETWORKS[self.options.model]
        network = build(self.channels, len(self.data.class_names), width=self.options.width)
        for layer in network.modules():
            if isinstance(layer, Convolution):
                layer.backend = self.options.backend
        return network

    def mini_batches(self, first: int = 0) -> Generator[MiniBatch, None, None]:
        """From number `first` on, endless, made ahead by threads."""
        length, size = len(self.data.train), self.options.batch_size
        epoch, position = divmod(first, max(1, length // size))
        order = shuffled(length, size, seed=self.seed, epoch=epoch)
        return prefetch(self.data.train, islice(order, position, None), self._voxels)

    def tests(self, most: int | None = None) -> Generator[MiniBatch, None, None]:
        """All test clouds, or the first `most`, in order."""
        count = min(len(self.data.test), most or len(self.data.test))
        return prefetch(self.data.test, in_order(count, TEST_BATCH), self._voxels)

    def _voxels(self, clouds: Sequence[Cloud]) -> MiniBatch:
        samples = [
            sparse_quantize(cloud.points, self.options.voxel_size, cloud.features)
            for cloud in clouds
        ]
        batch = collate(samples)
        inputs = SparseTensor(batch.features, batch.coordinates, batch_size=batch.batch_size)
        return MiniBatch(inputs, torch.tensor([cloud.label for cloud in clouds]))


def open_workload(options: Options, seed: int) -> Workload:
    """Find the data.

    Raises:
        InputError: there is none, or it has no classes to learn.
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
