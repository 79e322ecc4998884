"""What a client does: plain SGD on its own samples, from the server's model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from federated.data import Shards
from federated.durations import BATCHES, draws
from federated.options import Options
from federated.planning import halves
from systems.data.dataset import Batch


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
    """The model that the client has begun with less the one that it has made, [P]: those of its
    values that came from the server."""
    counts: Counts


class Flat:
    """A network whose parameters, and whose gradients, are parts of one vector each."""

    def __init__(self, network: nn.Module) -> None:
        parameters = [p for p in network.parameters() if p.requires_grad]
        self.network, sizes = network, [p.numel() for p in parameters]
        self.weights = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.weights)
        parts = self.weights.split(sizes), self.gradient.split(sizes)
        for p, own, slope in zip(parameters, *parts, strict=True):
            p.data, p.grad = own.view_as(p), slope.view_as(p)

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
        self._initial = self.flat.weights.clone()
        self._kept: dict[tuple[int, int], Tensor] = {}  # by client, and where in [P] it begins
        self._images, self._labels = samples
        self.shards, self.options, self._seed = shards, options, seed

    def own(self, client: int) -> Batch:
        """The samples of a client."""
        own = torch.from_numpy(self.shards.samples[client])
        return self._images[own], self._labels[own]

    def update(self, start: Tensor, client: int, number: int) -> Update:
        """Train a client from `start` [P]; the number of its flight decides the order of samples.

        w <- w - eta_l (g(w) + mu (w - w_0)), where mu is 0 without FedProx. What a client keeps for
        itself comes from where it was kept, and goes there again.
        """
        options, flat = self.options, self.flat
        proximal = options.proximal if options.scheme == "fedprox" else 0.0
        images, labels = self.own(client)
        generator, loss_sum = draws(self._seed, BATCHES, number), torch.zeros((), dtype=start.dtype)
        shared, kept = halves(options, self._seed, number)
        begin = start.clone()
        begin[kept] = self._kept.get((client, kept.start), self._initial[kept])
        flat.load(begin)
        for _ in range(options.local_epochs):
            order = torch.from_numpy(generator.permutation(len(labels)))
            for batch in order.split(options.batch_size):
                flat.gradient.zero_()
                logits = flat.network(images[batch])
                loss = nn.functional.cross_entropy(logits, labels[batch])
                loss.backward()
                if proximal:
                    flat.gradient.add_(flat.weights - begin, alpha=proximal)
                flat.weights.sub_(flat.gradient, alpha=options.learning_rate)
                loss_sum += loss.detach().cpu() * len(batch)
        trained = len(labels) * options.local_epochs
        self._kept[client, kept.start] = flat.weights[kept].clone()
        return Update((begin - flat.weights)[shared], Counts(len(labels), trained, loss_sum.item()))
