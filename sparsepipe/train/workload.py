"""What is trained: a network on mini-batches of voxels, and its accuracy on test clouds."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from sparsepipe.data.cloud import Cloud
from sparsepipe.data.prefetch import Step, in_order, prefetch, shuffled
from sparsepipe.data.splits import Clouds
from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.quantize import Voxels, collate, sparse_quantize
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import NETWORKS
from sparsepipe.names import CLASSIFIERS, LOSSES
from sparsepipe.options import Options
from sparsepipe.runtime.batch import Batch
from sparsepipe.runtime.values import Value, features_of
from sparsepipe.train.clouds import load_clouds
from sparsepipe.train.loss import Loss, count_of, cross_entropy, cross_entropy_sum, right, summed
from sparsepipe.train.optimizers import check_made
from systems import by_path
from systems.data.batches import CPU
from systems.modes import evaluating
from systems.schema import InputError

TEST_BATCH = 64
"""The number of clouds in a batch of tests."""


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
        network = build_network(
            self.options.model,
            self.channels,
            len(self.data.class_names),
            self.options.width,
            seed=self.seed,
        )
        for layer in network.modules():
            if isinstance(layer, Convolution):
                layer.backend = self.options.backend
        return network

    @cached_property
    def labels_voxels(self) -> bool:
        """Whether the network gives a row for every voxel, instead of one for every cloud.

        Raises:
            InputError: it gives neither, or the data have no such labels.
        """
        model = self.options.model
        own = model not in NETWORKS
        voxels = _labels_voxels(self) if own else model not in CLASSIFIERS
        if self.data.train.cloud(0).labels is not None and not voxels:
            raise InputError(
                f"--sparsepipe.data {self.options.data}: labels points, and {by_path.short(model)} "
                "classifies whole clouds; give a network that labels voxels, such as minkunet18"
            )
        return voxels

    @cached_property
    def loss(self) -> Loss:
        """The loss that the options name: the mean over the labels."""
        return own_loss(self.options) or cross_entropy

    @cached_property
    def loss_sum(self) -> Callable[[Value, Tensor], Tensor]:
        """The loss that the options name, summed over the labels."""
        own = own_loss(self.options)
        return cross_entropy_sum if own is None else summed(own)

    def mini_batches(
        self, first: int = 0, device: torch.device = CPU
    ) -> Generator[Batch, None, None]:
        """The mini-batches from number `first` on, without end. Threads make them ahead of need, in
        pinned memory if `device`, where they are used, is a GPU."""
        return prefetch(self.data.train, self.order(first), self._making(device))

    def order(self, first: int = 0) -> Iterator[Step]:
        """The epoch and the clouds of the mini-batches from number `first` on, without end."""
        length, size = len(self.data.train), self.options.batch_size
        epoch, position = divmod(first, max(1, length // size))
        return islice(shuffled(length, size, seed=self.seed, epoch=epoch), position, None)

    def tests(
        self, most: int | None = None, device: torch.device = CPU
    ) -> Generator[Batch, None, None]:
        """The test clouds in their order, all or the first `most`, made as `mini_batches` are."""
        count = min(len(self.data.test), most or len(self.data.test))
        return prefetch(self.data.test, in_order(count, TEST_BATCH), self._making(device))

    def _making(self, device: torch.device) -> Callable[[Sequence[Cloud]], Batch]:
        """What makes a mini-batch of clouds, for use on a device."""
        return lambda clouds: self.voxels(clouds).pinned_for(device)

    def voxels(self, clouds: Sequence[Cloud]) -> Batch:
        """Make a mini-batch of clouds, with a label for each of them or for each voxel."""
        return joined([self.quantized(cloud) for cloud in clouds])

    def quantized(self, cloud: Cloud) -> Voxels:
        """The voxels of a cloud, their features, and its label or those of its voxels.

        Every voxel of a cloud of one label has that label, where the network labels voxels.
        """
        size, labels = self.options.voxel_size, None
        if self.labels_voxels:
            labels = cloud.labels
            labels = np.full(len(cloud.points), cloud.label) if labels is None else labels
        voxels = sparse_quantize(cloud.points, size, cloud.features, labels)
        of_cloud = torch.tensor(cloud.label)
        of_voxels = of_cloud if voxels.labels is None else voxels.labels
        return Voxels(voxels.coordinates, voxels.features, of_voxels)


def joined(samples: Sequence[Voxels]) -> Batch:
    """Make a mini-batch, or some samples of one, from voxels with labels."""
    batch = collate(samples)
    assert batch.labels is not None
    inputs = SparseTensor(batch.features, batch.coordinates, batch_size=batch.batch_size)
    return Batch(inputs, batch.labels)


def build_network(
    model: str, channels: int, classes: int, width: float, *, seed: int = 0
) -> nn.Module:
    """The network of a name or an import path, with the weights that a seed gives.

    Raises:
        InputError: the import path leads to nothing, or to something that makes no network.
    """
    flag = "--sparsepipe.model"
    own = None if model in NETWORKS else by_path.load(model, flag)
    torch.manual_seed(seed)
    if own is None:
        return NETWORKS[model](channels, classes, width=width)
    network = by_path.call(own, model, flag, in_channels=channels, classes=classes, width=width)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{flag} {model}: makes a {type(network).__name__}; give what makes an nn.Module"
        )
    return network


def own_loss(options: Options) -> Loss | None:
    """The loss that the options name by import path; None for the cross-entropy."""
    if options.loss in LOSSES:
        return None
    flag = "--sparsepipe.loss"
    loss = by_path.load(options.loss, flag)
    more = by_path.keywords(options.loss_options, f"{flag}-options")
    if isinstance(loss, type):
        loss, more = by_path.apply(loss, options.loss, flag, **more), {}
    if not callable(loss):
        raise InputError(
            f"{flag} {options.loss}: is a {type(loss).__name__}; give a function of "
            "output and labels"
        )
    return partial(loss, **more)


@torch.no_grad()
def _labels_voxels(workload: Workload) -> bool:
    """Find out whether a user's network gives, for one cloud, a row for every voxel, or one row.

    Raises:
        InputError: it is neither.
    """
    options, cloud = workload.options, workload.data.train.cloud(0)
    voxels = sparse_quantize(cloud.points, options.voxel_size, cloud.features)
    batch = collate([(voxels.coordinates, voxels.features)])
    inputs = SparseTensor(batch.features, batch.coordinates, batch_size=1)
    output = workload.network().eval()(inputs)
    rows = features_of(output) if isinstance(output, SparseTensor | Tensor) else None
    if rows is not None and rows.ndim == 2:
        if isinstance(output, SparseTensor) and output.tensor_stride == inputs.tensor_stride:
            return True
        if len(rows) == 1:
            return False
    shape = f"shape {list(rows.shape)}" if rows is not None else f"type {type(output).__name__}"
    raise InputError(
        f"--sparsepipe.model {options.model}: gives {shape} for one cloud of {len(inputs)} voxels; "
        "give a network with a row of class scores for each voxel, or for each cloud"
    )


def open_workload(options: Options, seed: int) -> Workload:
    """Open the data and look at the network that the options name.

    Raises:
        InputError: there is no such data or network, or they do not fit together.
    """
    workload = Workload(options, load_clouds(options, seed), seed)
    _ = workload.labels_voxels, workload.loss
    return workload


def check_own(options: Options, seed: int) -> None:
    """Look at all that the options name by import path, before ranks are started.

    Raises:
        InputError: something is not there, or cannot be used.
    """
    workload = open_workload(options, seed)
    network = workload.network()
    check_made(options, network.parameters())
    if options.loss not in LOSSES:
        _try_loss(workload, network)


def _try_loss(workload: Workload, network: nn.Module) -> None:
    """Compute a user's loss once, of two clouds."""
    name, flag = workload.options.loss, "--sparsepipe.loss"
    few = range(min(2, len(workload.data.train)))
    batch = workload.voxels([workload.data.train.cloud(index) for index in few])
    loss = partial(workload.loss, network.eval()(batch.inputs), batch.targets)
    value = by_path.call(loss, name, flag)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InputError(f"{flag} {name}: gives no single number; give the mean over the labels")


@torch.no_grad()
def accuracy(
    network: nn.Module, workload: Workload, device: torch.device, most: int | None = None
) -> float:
    """The share of test clouds, or of their voxels, that the network classifies correctly."""
    hits, tested = 0.0, 0
    with evaluating(network):
        for batch in workload.tests(most, device):
            batch = batch.to(device)
            labels = count_of(batch.targets)
            hits += float(right(network(batch.inputs), batch.targets)) * labels
            tested += labels
    return hits / tested
