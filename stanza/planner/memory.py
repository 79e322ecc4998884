"""How many bytes a rank holds at least, from a profile: plans that cannot fit a device are refused.

What counts: the parameters, their gradients, what the optimizer keeps for each, and the outputs
that the backward pass reads again, those of convolutions, Linears and normalisations. All else
(workspaces, what other layers keep, fragmentation) comes on top, so a plan that is not refused may
still not fit.
"""

from collections.abc import Iterable, Sequence

from stanza.cut.rule import cut_profile
from stanza.layout import Layout
from stanza.options import Options
from stanza.own_options import SGD
from systems.clusters.mixed import Seat
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.schema import InputError

KEPT = ("Conv", "Linear", "BatchNorm")
"""The layers whose outputs the backward pass reads again, as PyTorch prints them."""


def needed_bytes(
    options: Options, layout: Layout, profile: ModelProfile, shares: Sequence[int]
) -> list[float]:
    """Compute the bytes that each rank of a layout holds at least.

    Args:
        profile: of any device: its times are not read.
        shares: the samples of each rank with data, in order.
    """
    copies = 3 if options.optimizer != SGD or options.momentum else 2
    fc_names = cut_profile(profile).fc if layout.scheme == "stanza" else ()
    conv = [layer for layer in profile.layers if layer.name not in fc_names]
    fc = [layer for layer in profile.layers if layer.name in fc_names]
    of_rank = dict(zip(layout.data_ranks, shares, strict=True))
    servers, parameters = layout.ranks("server"), profile.parameter_bytes

    def passes(layers: Iterable[LayerProfile], samples: float) -> float:
        activation_bytes = sum(
            la.activation_bytes for la in layers if la.operation.startswith(KEPT)
        )
        return activation_bytes * samples / profile.batch_size

    needed = []
    for rank, role in enumerate(layout.roles):
        roles, total = role.split("+"), 0.0
        if "conv" in roles or "worker" in roles:  # all micro-batches go forward before one returns
            total += copies * _bytes(conv) + passes(conv, of_rank[rank])
        if "fc" in roles:
            columns = layout.fc_parallel == "columns"
            share = len(layout.ranks("fc")) if columns else 1
            samples = sum(of_rank[r] for r in layout.conv_of(rank)) / layout.micro_batches
            total += (copies * _bytes(fc) + passes(fc, samples)) / share
        if "server" in roles:  # a buffer for every worker, and one for the optimizer
            total += parameters / len(servers) * (len(of_rank) + copies - 1)
        needed.append(total)
    return needed


def _bytes(layers: Iterable[LayerProfile]) -> int:
    """The bytes of the parameters of layers."""
    return sum(layer.parameter_bytes for layer in layers)


def too_small(layout: Layout, needed: Sequence[float], seats: Sequence[Seat]) -> str | None:
    """Say which rank does not fit the memory of its node; None where none is known not to.

    Args:
        needed: the bytes of every rank.
        seats: the node of every rank.
    """
    for rank, (role, size, seat) in enumerate(zip(layout.roles, needed, seats, strict=True)):
        if seat.memory_bytes is not None and size > seat.memory_bytes:
            return (
                f"node {seat.node!r} ({seat.kind}) has {seat.memory_bytes / 1e9:.1f} GB of memory, "
                f"and rank {rank} ({role}) needs at least {size / 1e9:.1f}"
            )
    return None


def check_memory(
    options: Options,
    layout: Layout,
    profile: ModelProfile,
    shares: Sequence[int],
    seats: Sequence[Seat],
) -> None:
    """Refuse a plan that does not fit its nodes.

    Raises:
        InputError: the text names the node, the rank, and the bytes.
    """
    fault = too_small(layout, needed_bytes(options, layout, profile, shares), seats)
    if fault is not None:
        raise InputError(
            f"--stanza.global-batch-size {sum(shares)}: {fault}; give a smaller batch, or another "
            "scheme or --stanza.batch-shares"
        )
