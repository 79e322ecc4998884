"""The traffic table of the paper: bytes that every rank sends and receives in one step.

The transport counts what is really sent, and the kernel counts what TCP really carries; tests and
reports hold both against this table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stanza.cut.separate import separate
from stanza.layout import Layout
from stanza.models import ARCHITECTURES, build_model
from stanza.options import Options
from stanza.workers.columns import linears


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model moves: bytes of its parts' parameters, and of one sample's activations.

    Without separation the whole model counts as convolutional.
    """

    conv_bytes: float
    fc_bytes: float
    cut_bytes: float
    """Activations of one sample at the cut, in the dtype on the wire."""
    fc_output_bytes: float = 0
    """Outputs of all FC Linears for one sample, where FC workers hold columns and exchange them."""


def sizes_of(options: Options) -> Sizes:
    """The sizes of the options' model, without allocating it.

    Raises:
        InputError: Stanza on a model that cannot be separated, or not by columns.
    """
    with torch.device("meta"):
        model = build_model(options.model)
    if options.scheme != "stanza":
        return Sizes(conv_bytes=sum(p.nbytes for p in model.parameters()), fc_bytes=0, cut_bytes=0)
    parts = separate(model, ARCHITECTURES[options.model].image_shape)
    outputs = 0
    if options.fc_parallel == "columns":
        outputs = sum(layer.out_features for layer in linears(parts).values())
    return Sizes(
        conv_bytes=sum(p.nbytes for p in parts.conv.parameters()),
        fc_bytes=sum(p.nbytes for p in parts.fc.parameters()),
        cut_bytes=parts.cut_values * getattr(torch, options.cut_dtype).itemsize,
        fc_output_bytes=outputs * torch.float32.itemsize,
    )


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends and receives in one step."""

    sent: float
    received: float


def traffic(layout: Layout, sizes: Sizes, samples: Sequence[int]) -> list[Traffic]:
    """The traffic table of the paper, by rank.

    Args:
        samples: local batch of every rank with data, in order.

    Labels (4 bytes a sample) are left out, as in the paper, and so is what a rank with two roles
    sends to itself. FC workers in columns exchange the outputs of their Linears forward and their
    gradients backward, (f - 1) / f of them each way. A colocated parameter server and a
    ring all-reduce move the same bytes: 2 * P * (n - 1) / n in each direction. So do ZeRO-1 and 2,
    which scatter gradients and gather parameters; ZeRO-3 gathers them twice.
    """
    model_bytes = sizes.conv_bytes + sizes.fc_bytes
    workers, servers = layout.data_ranks, layout.ranks("server")
    if layout.scheme == "stanza":
        return _stanza_traffic(layout, sizes, samples)
    if layout.scheme == "single":
        return [Traffic(0, 0)] * len(layout.roles)
    if not servers:
        crossings = 3 if layout.scheme == "zero3" else 2
        ring = crossings * model_bytes * (len(workers) - 1) / len(workers)
        return [Traffic(ring, ring)] * len(workers)
    server = len(workers) * model_bytes / len(servers)
    return [Traffic(model_bytes, model_bytes)] * len(workers) + [Traffic(server, server)] * len(
        servers
    )


def _stanza_traffic(layout: Layout, sizes: Sizes, samples: Sequence[int]) -> list[Traffic]:
    conv, fc = layout.ranks("conv"), layout.ranks("fc")
    conv_ring = 2 * sizes.conv_bytes * (len(conv) - 1) / len(conv)
    if layout.fc_parallel == "columns":
        fc_exchange = 2 * sizes.fc_output_bytes * sum(samples) * (len(fc) - 1) / len(fc)
    else:
        fc_exchange = 2 * sizes.fc_bytes * (len(fc) - 1) / len(fc)
    rows = [0.0] * len(layout.roles)
    for rank in conv:
        rows[rank] += conv_ring
    for rank in fc:
        rows[rank] += fc_exchange
    for rank, size in zip(conv, samples, strict=True):
        targets = layout.fc_of(rank)
        for target in targets:
            if target != rank:
                rows[rank] += sizes.cut_bytes * size / len(targets)
                rows[target] += sizes.cut_bytes * size / len(targets)
    return [Traffic(size, size) for size in rows]
