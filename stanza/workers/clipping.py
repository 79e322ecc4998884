"""Clips gradients by the norm over the whole model, whose parts are on different ranks.

    own part's norm --- told to the ranks of the other parts --->
    <--- the other parts' norms --- heard from them                  norm = sqrt(own^2 + others^2)

Copies of a part have equal gradients by then, so one rank tells for all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from stanza.layout import Layout
from systems.network.transport import Transport

CONV_NORM, FC_NORM, SERVER_NORM = "norm of conv part", "norm of fc part", "norm of a shard"
"""The transport's channels for the norms of the gradients of each kind of part."""


@dataclass(frozen=True)
class Clipping:
    """Clips the gradients of one part of the model."""

    max_norm: float
    """The largest Euclidean norm of all gradients of the model together."""
    transport: Transport
    tell: Sequence[int] = ()
    """The ranks that this one tells the norm of its part."""
    on: str = ""
    """The channel over which they are told."""
    hear: Sequence[tuple[int, str]] = ()
    """Who tells this rank the norm of another part, and over which channel."""

    def clip(self, parameters: Iterable[Tensor]) -> None:
        """Scale the gradients of these parameters, if the norm over the model is too large."""
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        device = self.transport.world.device
        own = get_total_norm([p.grad for p in trained if p.grad is not None]).double().to(device)
        others = [torch.empty_like(own) for _ in self.hear]
        transfers = [
            self.transport.irecv(norm, rank, channel)
            for norm, (rank, channel) in zip(others, self.hear, strict=True)
        ]
        transfers += [self.transport.isend(own, rank, self.on) for rank in self.tell]
        for transfer in transfers:
            transfer.wait()
        clip_grads_with_norm_(trained, self.max_norm, torch.stack([own, *others]).norm())


def clipping_of(
    role: str, layout: Layout, transport: Transport, max_norm: float, servers: Sequence[int] = ()
) -> Clipping:
    """Decide how this rank clips in one of its roles: conv, fc, worker or server.

    Every part of the model has ranks that tell its norm to all others: the first CONV worker, the
    first FC worker or, where they hold columns, each of them, and every server.

    Args:
        servers: the ranks of all parameter servers, where the role is server.
    """
    rank, clipping = transport.world.rank, partial(Clipping, max_norm, transport)
    if role == "server":
        others = [server for server in servers if server != rank]
        return clipping(others, SERVER_NORM, [(server, SERVER_NORM) for server in others])
    if role == "worker":  # it has the gradients of all parts
        return clipping()
    conv, fc = layout.ranks("conv"), layout.ranks("fc")
    columns = layout.fc_parallel == "columns"
    fc_tellers = fc if columns else fc[:1]
    if role == "conv":
        told = fc if rank == conv[0] else ()
        return clipping(told, CONV_NORM, [(teller, FC_NORM) for teller in fc_tellers])
    others = [teller for teller in fc_tellers if columns and teller != rank]
    told = (*conv, *others) if rank in fc_tellers else ()
    heard = [(conv[0], CONV_NORM), *((teller, FC_NORM) for teller in others)]
    return clipping(told, FC_NORM, heard)
