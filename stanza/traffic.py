"""The traffic table of the paper: bytes that every rank sends and receives in one step.

The transport counts what is really sent, and the kernel counts what TCP really carries; tests and
reports hold both against this table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stanza.layout import Layout
from stanza.models import ARCHITECTURES, build_model
from stanza.options import Options
from stanza.split import split


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model moves: bytes of its parts' parameters, and of one sample's activations.

    Without separation the whole model counts as convolutional.
    """

    conv_bytes: float
    fc_bytes: float
    cut_bytes: float
    """Activations of one sample at the cut, in the dtype on the wire."""


def sizes_of(options: Options) -> Sizes:
    """The sizes of the options' model, without allocating it.

    Raises:
        InputError: Stanza on a model that cannot be separated.
    """
    with torch.device("meta"):
        model = build_model(options.model)
    if options.scheme != "stanza":
        return Sizes(conv_bytes=sum(p.nbytes for p in model.parameters()), fc_bytes=0, cut_bytes=0)
    parts = split(model, ARCHITECTURES[options.model].image_shape)
    return Sizes(
        conv_bytes=sum(p.nbytes for p in parts.conv.parameters()),
        fc_bytes=sum(p.nbytes for p in parts.fc.parameters()),
        cut_bytes=parts.cut_values * getattr(torch, options.cut_dtype).itemsize,
    )


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends and receives in one step."""

    sent: float
    received: float


def traffic(plan: Layout, sizes: Sizes, samples: Sequence[int]) -> list[Traffic]:
    """The traffic table of the paper, by rank.

    Args:
        samples: local batch of every rank with data, in order.

    Labels (4 bytes a sample) are left out, as in the paper. A colocated parameter server and a
    ring all-reduce move the same bytes: 2 * P * (n - 1) / n in each direction.
    """
    model_bytes = sizes.conv_bytes + sizes.fc_bytes
    workers, servers = plan.data_ranks, plan.ranks("server")
    if plan.scheme == "stanza":
        return _stanza_traffic(plan, sizes, samples)
    if plan.scheme == "single":
        return [Traffic(0, 0)] * len(plan.roles)
    if not servers:
        ring = 2 * model_bytes * (len(workers) - 1) / len(workers)
        return [Traffic(ring, ring)] * len(workers)
    server = len(workers) * model_bytes / len(servers)
    return [Traffic(model_bytes, model_bytes)] * len(workers) + [Traffic(server, server)] * len(
        servers
    )


def _stanza_traffic(plan: Layout, sizes: Sizes, samples: Sequence[int]) -> list[Traffic]:
    conv, fc = plan.ranks("conv"), plan.ranks("fc")
    conv_ring = 2 * sizes.conv_bytes * (len(conv) - 1) / len(conv)
    fc_ring = 2 * sizes.fc_bytes * (len(fc) - 1) / len(fc)
    cut = dict(zip(conv, (sizes.cut_bytes * n for n in samples), strict=True))
    rows = [cut[rank] + conv_ring for rank in conv]
    rows += [sum(cut[worker] for worker in plan.conv_of(rank)) + fc_ring for rank in fc]
    return [Traffic(size, size) for size in rows]
