"""What the server does with updates: weights, the buffer, and its optimizer.

FedBuff's step, in the words of its paper: w <- w - eta_g opt(sum_i s(tau_i) n_i Delta_i / K). All
schemes are this with other weights, another K, and another `opt`; FedAsync has another direction.
"""

import math

import torch
from torch import Tensor, nn

from federated.coordinator import NUMBERS
from federated.options import Options
from federated.planning import ALL


class Server(nn.Module):
    """The server's model as a flat vector, its buffer and its optimizer. It is a module, so that
    checkpoints find its tensors."""

    def __init__(
        self, weights: Tensor, options: Options, goal: int, mean_samples: float, rows: int = 0
    ) -> None:
        """Begin with an empty buffer.

        Args:
            weights: the initial parameters [P].
            goal: K.
            mean_samples: the number of samples of the mean client.
            rows: how many models that clients have got a checkpoint may hold.
        """
        super().__init__()
        self._options, self._goal, self._mean_samples = options, goal, mean_samples
        self.weights = nn.Parameter(weights.clone())
        self.sum = nn.Buffer(torch.zeros_like(weights))
        self.total = nn.Buffer(torch.zeros_like(weights))
        self.started = nn.Buffer(weights.new_zeros(rows, len(weights)))
        """For checkpoints: the models that clients have got who train now."""
        self.numbers = nn.Buffer(torch.zeros(NUMBERS, dtype=torch.int64))
        """For checkpoints: `Coordinator.numbers`."""
        self.optimizer = _optimizer(self.weights, options)

    def take(self, delta: Tensor, weight: float, start: Tensor, part: slice = ALL) -> None:
        """Add an update to the buffer.

        Args:
            delta: what the client has got less what it has made of it, [P], or a part of that.
            weight: see `weight`.
            start: what the client has got, likewise.
            part: which values these are.
        """
        if self._options.scheme == "fedasync":  # towards the client's model, from where it is now
            delta = delta + (self.weights.detach()[part] - start)
        self.sum[part].add_(delta, alpha=weight)
        self.total[part].add_(weight if self._options.divide_by == "weights" else 1.0)

    def weight(self, staleness: int, samples: int) -> float:
        """The weight of an update, from the number of its client's samples."""
        of_samples = example_weight(samples / self._mean_samples, self._mean_samples, self._options)
        return staleness_weight(staleness, self._options) * of_samples

    @torch.no_grad()
    def step(self) -> None:
        """Step along the buffer and empty it. What nobody has sent stays as it is."""
        if self._options.divide_by != "nothing":
            self.sum.div_(self.total + (self.total == 0))
        self.weights.grad = self.sum.clone()
        self.optimizer.step()
        self.sum.zero_()
        self.total.zero_()

    def fill(self, total: Tensor) -> None:
        """Take the sum of a whole buffer, [P]."""
        self.sum.copy_(total)
        self.total.fill_(self._goal)

    def snapshot(self) -> Tensor:
        """The model of this version, which later steps leave unchanged."""
        return self.weights.detach().clone()


def staleness_weight(staleness: int, options: Options) -> float:
    """s(tau)."""
    if options.staleness_weight == "polynomial":
        return float((1 + staleness) ** -options.staleness_exponent)
    if options.staleness_weight == "threshold" and staleness > options.staleness_cutoff:
        return options.staleness_value
    return 1.0


def example_weight(relative: float, mean: float, options: Options) -> float:
    """n(i), relative to that of the mean client.

    Args:
        relative: the client's number of samples over that of the mean client.
        mean: the number of samples of the mean client.
    """
    ways = {
        "equal": lambda: 1.0,
        "linear": lambda: relative,
        "sqrt": lambda: math.sqrt(relative),
        "log10": lambda: math.log10(1 + relative * mean) / math.log10(1 + mean),
    }
    return ways[options.example_weight]()


def _optimizer(weights: nn.Parameter, options: Options) -> torch.optim.Optimizer:
    """opt, with the server's learning rate."""
    rate = options.server_learning_rate
    if options.server_optimizer == "adam" and options.scheme != "fedavgm":
        return torch.optim.Adam([weights], lr=rate, betas=(0.9, 0.999), eps=1e-8)
    momentum = options.scheme == "fedavgm" or options.server_optimizer == "momentum"
    return torch.optim.SGD([weights], lr=rate, momentum=options.server_momentum * momentum)
