"""Low-rank adapters, of which clients exchange one factor at a time (FedRand, arXiv 2503.07216).

The layers stay as they are, and W becomes W + s B A with A [r, columns] and B [rows, r]. The server
holds all A and B. A client draws z ~ Bernoulli(rho) for a flight. If z = 1 it takes all A from the
server, and its own B from the last flight in which it has kept B; else the reverse. It trains both,
and sends only what came from the server: `planning.halves` says which. What a client begins with
before it has kept anything is drawn from the job's seed, as the layers are, and never sent.

With rho = 1 nobody sends B, and that of the server stays 0: this is FedSA-LoRA (2410.01463), of
which the server has no model of its own. FFA-LoRA (2403.12313) would freeze what is not sent.
"""

import torch
from torch import Tensor, nn

from federated.options import Options


class Adapted(nn.Module):
    """A network with an adapter for every linear layer; all that it trains is every A, then every
    B."""

    def __init__(self, network: nn.Module, options: Options) -> None:
        """Freeze a network. A is drawn from N(0, 1), and B is 0. Where LoRA has 1 / columns for the
        variance of A, here s has its root, so that plain SGD does not step too far along A."""
        super().__init__()
        self.base, self._scale = network.requires_grad_(False), options.adapter_scale
        layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear)]
        self._weights = {
            f"{name}.weight": network.get_parameter(f"{name}.weight") for name in layers
        }
        rank, shapes = options.upload_rank, [w.shape for w in self._weights.values()]
        self.a = nn.ParameterList(torch.randn(rank, n) for _, n in shapes)
        self.b = nn.ParameterList(torch.zeros(m, rank) for m, _ in shapes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the adapted network."""
        adapted = {
            name: weight + self._scale / a.shape[1] ** 0.5 * b @ a
            for (name, weight), a, b in zip(self._weights.items(), self.a, self.b, strict=True)
        }
        return torch.func.functional_call(self.base, adapted, (images,))
