"""What a client does: plain SGD on its own samples, from the server's model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from federated.data import Shards
from federated.durations import BATCHES, draws
from federated.options import Options
from systems.data.dataset import Batch, Data


@dataclass(frozen=True)
class Counts:
    """What a client tells of its training, beside the update."""

    samples: int = 0
    """How many samples it has."""
    trained: int = 0
    """How many it has trained on, over all its epochs."""
    loss_sum: float = 0.0
    """The sum of their losses, each before its step."""


@dataclass(frozen=True)
class Update:
    """What comes of a flight."""

    delta: Tensor
    """The model that the client has got less the one that it has made, [P]."""
    counts: Counts


class Flat:
    """A network whose parameters, and whose gradients, are parts of one vector each."""

    def __init__(self, network: nn.Module) -> None:
        parameters = list(network.parameters())
        self.network = network
        self.weights = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.weights)
        position = 0
        for p in parameters:
            own = slice(position, position + p.numel())
            p.data, p.grad = self.weights[own].view_as(p), self.gradient[own].view_as(p)
            position += p.numel()

    def load(self, weights: Tensor) -> nn.Module:
        """The network with these parameters."""
        self.weights.copy_(weights)
        return self.network


class Trainer:
    """Trains clients, one after the other."""

    def __init__(
        self, network: nn.Module, samples: Batch, shards: Shards, options: Options, seed: int
    ) -> None:
        """Take a network, whose parameters are replaced, and all training samples in memory."""
        self.flat = Flat(network)
        self._images, self._labels = samples
        self.shards, self.options, self._seed = shards, options, seed

    def own(self, client: int) -> Batch:
        """The samples of a client."""
        own = torch.from_numpy(self.shards.samples[client])
        return self._images[own], self._labels[own]

    def update(self, start: Tensor, client: int, number: int) -> Update:
        """Train a client from `start` [P]; the number of its flight decides the order of samples.

        w <- w - eta_l (g(w) + mu (w - w_0)), where mu is 0 without FedProx.
        """
        options, flat = self.options, self.flat
        proximal = options.proximal if options.scheme == "fedprox" else 0.0
        images, labels = self.own(client)
        generator, loss_sum = draws(self._seed, BATCHES, number), torch.zeros((), dtype=start.dtype)
        flat.load(start)
        for _ in range(options.local_epochs):
            order = torch.from_numpy(generator.permutation(len(labels)))
            for batch in order.split(options.batch_size):
                flat.gradient.zero_()
                logits = flat.network(images[batch])
                loss = nn.functional.cross_entropy(logits, labels[batch])
                loss.backward()
                if proximal:
                    flat.gradient.add_(flat.weights - start, alpha=proximal)
                flat.weights.sub_(flat.gradient, alpha=options.learning_rate)
                loss_sum += loss.detach().cpu() * len(batch)
        trained = len(labels) * options.local_epochs
        return Update(start - flat.weights, Counts(len(labels), trained, loss_sum.item()))


def all_samples(data: Data, device: torch.device) -> Batch:
    """All training samples."""
    images, labels = data.train.batch(range(len(data.train)))
    return images.to(device), labels.to(device)
