"""FedSynth (arXiv 2204.01273): a client sends a few images that train the model as its own would.

The server recovers the update by training on what it gets, from the model that the client had:

    u_0 = w;   u_{b+1} = u_b - a_b grad loss(u_b; S_b);   the update is w - u_B

The client fits images, soft labels and step sizes a_b so that the recovered update is near its own,
|R(w, S) - w_k|^2 / |w_k - w|^2, by Adam through the unrolled steps. (The paper also trains them for
the client's loss itself.)
"""

from math import prod

import torch
from torch import Tensor, nn

from federated.data import CLASSES, SOURCES
from federated.durations import CODE, draws
from federated.options import Options
from federated.planning import synthetic_steps

ITERATIONS = 60
"""Of Adam, when a client fits them."""
FIT_RATE = 0.1


class Synthetic:
    """The codec. What it sends are images, logits of their labels, and step sizes, in float32."""

    def __init__(self, network: nn.Module, options: Options, seed: int) -> None:
        self._network = network
        self._shape = (options.synthetic_samples, *SOURCES[options.data].shape)
        self._rate, self._seed = options.learning_rate, seed
        self._steps = synthetic_steps(options)
        self.iterations = ITERATIONS

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        """Fit what is sent to an update."""
        generator = draws(self._seed, CODE, number)
        images = torch.from_numpy(generator.standard_normal(self._shape)).to(start)
        logits = torch.from_numpy(generator.standard_normal((len(images), CLASSES))).to(start)
        rates = torch.full((self._steps,), self._rate).to(start)
        fitted = [part.requires_grad_() for part in (images, logits, rates)]
        optimizer, size = torch.optim.Adam(fitted, lr=FIT_RATE), delta.square().sum()
        for _ in range(self.iterations):
            optimizer.zero_grad()
            with torch.enable_grad():
                recovered = recover(self._network, start, images, logits.softmax(1), rates)
                ((recovered - delta).square().sum() / size).backward(inputs=fitted)
            optimizer.step()
        return torch.cat([p.detach().float().flatten() for p in fitted]).view(torch.uint8)

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        """Recover the update, by training on what was sent."""
        count = self._shape[0]
        sizes = [prod(self._shape), count * CLASSES, self._steps]
        pixels, logits, rates = message.view(torch.float32).to(start.dtype).split(sizes)
        labels = logits.view(count, CLASSES).softmax(1)
        return recover(self._network, start, pixels.view(self._shape), labels, rates).detach()


def recover(
    network: nn.Module, start: Tensor, images: Tensor, labels: Tensor, rates: Tensor
) -> Tensor:
    """The update [P] that training on images makes, one step for each of `rates`; differentiable.

    Args:
        start: the parameters to begin with, [P].
        labels: the distribution over the classes for each image, [n, classes].
    """
    named = dict(network.named_parameters())
    sizes = [p.numel() for p in named.values()]
    weights = start.detach().clone().requires_grad_()
    batches = zip(images.tensor_split(len(rates)), labels.tensor_split(len(rates)), strict=True)
    for rate, (inputs, targets) in zip(rates, batches, strict=True):
        parts = weights.split(sizes)
        own = {k: v.view_as(p) for (k, p), v in zip(named.items(), parts, strict=True)}
        loss = nn.functional.cross_entropy(
            torch.func.functional_call(network, own, (inputs,)), targets
        )
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - rate * gradient
    return start - weights
