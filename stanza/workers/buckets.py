"""Packs the parameters of neighbouring layers into buckets, which travel to and from servers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stanza.layout import even_slice
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.runs.state import Place, stretch


@dataclass(frozen=True)
class Bucket:
    """Parameters of neighbouring layers, which travel together as one flat vector."""

    parameters: tuple[nn.Parameter, ...]

    @property
    def size(self) -> int:
        """The number of values."""
        return sum(p.numel() for p in self.parameters)

    def slice(self, servers: int, index: int) -> slice:
        """The slice of the values that server `index` of `servers` holds."""
        return even_slice(self.size, index, servers)

    def places(self, servers: int, index: int) -> list[Place]:
        """Say where in the model's parameters the values of server `index` of `servers` belong."""
        shard, places, begin = self.slice(servers, index), [], 0
        for parameter in self.parameters:
            first, end = max(shard.start, begin), min(shard.stop, begin + parameter.numel())
            if first < end:
                places.append(stretch(parameter, first - begin, first - shard.start, end - first))
            begin += parameter.numel()
        return places

    def flat_parameters(self) -> Tensor:
        """Copy the parameters into one vector, float [size]."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def flat_gradients(self) -> Tensor:
        """Return the gradients as one vector, float [size], with zeros where there is none.

        It is a copy, unless the bucket has a single parameter.
        """
        only = self.parameters[0].grad if len(self.parameters) == 1 else None
        if only is not None:
            return only.reshape(-1)
        return torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
                for p in self.parameters
            ]
        )

    def load(self, flat: Tensor) -> None:
        """Set the parameters from a flat copy."""
        with torch.no_grad():
            for p, values in zip(
                self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True
            ):
                p.copy_(values.view_as(p))


def buckets_of(module: nn.Module, least_bytes: float = SMALLEST_MESSAGE_BYTES) -> list[Bucket]:
    """Pack the module's trainable parameters into buckets, the last layer first.

    The parameters of one layer stay together. Every bucket but the last has at least `least_bytes`.
    """
    layers = [
        [p for p in layer.parameters(recurse=False) if p.requires_grad]
        for layer in module.modules()
    ]
    buckets: list[Bucket] = []
    pending: list[nn.Parameter] = []
    seen: set[int] = set()
    for layer in reversed(layers):
        fresh = [p for p in layer if id(p) not in seen]  # a layer may be used twice
        seen.update(map(id, fresh))
        pending = [*pending, *fresh]
        if sum(p.nbytes for p in pending) >= least_bytes:
            buckets.append(Bucket(tuple(pending)))
            pending = []
    if pending:
        buckets.append(Bucket(tuple(pending)))
    return buckets
