"""The paper's traffic table: how many bytes every rank sends and receives in one step.

The transport counts the bytes that are really sent, and the kernel those that TCP really carries.
Tests and reports compare both with this table.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from stanza.cut.separate import separate
from stanza.exchanges.find import named
from stanza.exchanges.names import WHOLE, Compression
from stanza.exchanges.of_run import compression_of_run
from stanza.layout import BOTH, Layout
from stanza.models import build_model, is_own
from stanza.options import Options
from stanza.workers.fc_chain import linears


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a model that decide how many bytes travel."""

    conv_bytes: float
    """The bytes of the convolutional part's parameters. Without separation all count as such."""
    fc_bytes: float
    """The bytes of the FC part's parameters."""
    cut_bytes: float
    """The bytes of one sample's activations at the cut, in the dtype in which they travel."""
    fc_output_bytes: float = 0
    """The bytes of one sample's outputs of all FC layers, where FC workers hold columns."""
    compression: Compression | None = WHOLE
    """How much travels of the gradients of ddp and ps; None: nobody knows before they do."""


def sizes_of(
    options: Options, image_shape: Sequence[int] | None = None, classes: int | None = None
) -> Sizes:
    """The sizes of the model that the options name. Its parameters take no memory, unless it is one
    of the user's own, whose constructor may want to compute.

    Args:
        image_shape: the shape of an image; None takes what the options or the model say.
        classes: the number of classes, likewise.

    Raises:
        InputError: the scheme is stanza, and the model cannot be separated, or not by columns.
    """
    shape = image_shape or options.inputs.image_shape
    with nullcontext() if is_own(options.model) else torch.device("meta"):
        model = build_model(options.model, classes or options.classes, shape)
    if options.scheme != "stanza":
        trained = [tuple(p.shape) for p in model.parameters() if p.requires_grad]
        return Sizes(
            conv_bytes=sum(p.nbytes for p in model.parameters()),
            fc_bytes=0,
            cut_bytes=0,
            compression=compression_of_run(
                named(options.exchange, options.exchange_options),
                options.scheme,
                trained,
                range(options.window_start(), options.steps),
            ),
        )
    assert (
        shape is not None
    )  # whoever calls this for a model that does not say it has asked the data
    parts = separate(model, shape)
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
    """The bytes that one rank moves in one step."""

    sent: float
    received: float


def traffic(layout: Layout, sizes: Sizes, samples: Sequence[int]) -> list[Traffic]:
    """The bytes of every rank of `layout`, by the paper's table.

    A ring all-reduce moves 2 * P * (n - 1) / n bytes in each direction, for P bytes of parameters.
    So do colocated parameter servers, and ZeRO-1 and 2, which scatter gradients and gather
    parameters; ZeRO-3 gathers them twice. An exchange of encoded gradients (`stanza.exchanges`)
    moves as much less as it compresses them. Labels (4 bytes a sample) are left out, as in the
    paper, and so is what a rank with two roles sends to itself.

    Args:
        samples: the local batch of every rank that has data, in order.
    """
    model_bytes = sizes.conv_bytes + sizes.fc_bytes
    workers, servers, compression = layout.data_ranks, layout.ranks("server"), sizes.compression
    assert compression is not None  # whoever calls this has looked
    if layout.scheme == "stanza":
        return _separated_traffic(layout, sizes, samples)
    if layout.scheme == "single":
        return [Traffic(0, 0)] * len(layout.roles)
    if layout.scheme == "ddp":
        moved = compression.moved_bytes(model_bytes, len(workers))
        return [Traffic(moved, moved)] * len(workers)
    if layout.scheme == "ps":
        model_bytes *= compression.factor
    if not servers:
        crossings = 3 if layout.scheme == "zero3" else 2
        ring = crossings * model_bytes * (len(workers) - 1) / len(workers)
        return [Traffic(ring, ring)] * len(workers)
    server = len(workers) * model_bytes / len(servers)
    of_workers = [Traffic(model_bytes, model_bytes)] * len(workers)
    return of_workers + [Traffic(server, server)] * len(servers)


def _separated_traffic(layout: Layout, sizes: Sizes, samples: Sequence[int]) -> list[Traffic]:
    """The bytes of CONV workers and FC workers.

    FC workers that hold columns exchange the outputs of every layer forward and their gradients
    backward, (f - 1) / f of them each way. Replicas all-reduce their gradients.
    """
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
    # One sample's activations are cut into as many parts as FC workers take them.
    parts = len(fc) if layout.fc_parallel == "columns" else 1
    part_bytes = {
        rank: sizes.cut_bytes * size / parts for rank, size in zip(conv, samples, strict=True)
    }
    everywhere = sum(part_bytes.values())
    for rank in fc:
        taken = everywhere if parts > 1 else sum(part_bytes[r] for r in layout.conv_of(rank))
        rows[rank] += taken - part_bytes.get(rank, 0)
    for rank, size in part_bytes.items():
        rows[rank] += size * (parts - (layout.roles[rank] == BOTH))
    return [Traffic(size, size) for size in rows]
