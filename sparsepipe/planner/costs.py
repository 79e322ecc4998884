"""Profiles and a cluster as the arrays that planning works on.

Layers are numbered in the order of the profile; cut i lies before layer i. Most arrays are running
sums [layers + 1], so that the sum over the layers i, ..., j - 1 is `sums[j] - sums[i]`.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from systems.clusters.cluster import Cluster, Link, Node
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.schema import InputError

Floats = NDArray[np.float64]
STATE_COPIES = 2
"""Beside its weight versions, a stage keeps two more copies: gradients and a momentum (SGD)."""


@dataclass(frozen=True, kw_only=True)
class DeviceClass:
    """Interchangeable devices: of one kind, with equal memory and equal links."""

    kind: str
    """The kind of device, such as TitanV."""
    memory_bytes: float
    """Infinite where the cluster states no limit."""
    link: Link
    """The link from a device to the others, see `planned_link`."""
    ranks: tuple[int, ...]
    """The ranks of the class, ascending."""

    @property
    def seconds_per_byte(self) -> float:
        """The seconds that its link takes for a byte in one direction."""
        return self.link.seconds(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Costs:
    """Everything that a plan's prediction is computed from, for C classes of devices and L layers.

    Times are seconds for a whole mini-batch on one device.
    """

    batch_size: int
    """The samples of a mini-batch."""
    classes: tuple[DeviceClass, ...]
    """The classes of devices, in the order of the arrays."""
    forward_s: Floats
    """[C, L + 1], running sum: the forward pass of each layer."""
    backward_s: Floats
    """[C, L + 1], running sum: the backward pass of each layer."""
    fixed_forward_s: Floats
    """[C, L + 1], running sum: the part of `forward_s` that does not shrink with the share."""
    fixed_backward_s: Floats
    """[C, L + 1], running sum: the part of `backward_s` that does not shrink with the share."""
    update_s: Floats
    """[C, L + 1], running sum: the update of each layer, once for a mini-batch on every replica."""
    cut_bytes: Floats
    """[L + 1]: the outputs that layers behind a cut read from layers before it."""
    output_bytes: Floats
    """[L + 1], running sum: the outputs of the layers."""
    parameter_bytes: Floats
    """[L + 1], running sum: the parameters of the layers."""

    @property
    def layers(self) -> int:
        """The number of layers, L."""
        return len(self.cut_bytes) - 1

    @property
    def layer_s(self) -> Floats:
        """[C, L]: the seconds of every layer, forward and backward together."""
        return np.diff(self.forward_s + self.backward_s, axis=1)

    @cached_property
    def class_of(self) -> dict[int, int]:
        """The number of the class that each rank belongs to."""
        return {rank: c for c, group in enumerate(self.classes) for rank in group.ranks}


def costs_of(profiles: dict[str, ModelProfile], cluster: Cluster) -> Costs:
    """The arrays for `profiles` (by kind of device, all at one batch size) on `cluster`.

    Raises:
        InputError: a kind without a profile, profiles of different models or batch sizes, or a
            link whose rate is not known.
    """
    classes = device_classes(cluster)
    for group in classes:
        if group.kind not in profiles:
            raise InputError(
                f"cluster {cluster.name!r} has a {group.kind}, and there is no profile of one; "
                f"--profiles gives {', '.join(profiles)}"
            )
    used = [profiles[group.kind] for group in classes]
    check_alike(used)

    def running(values: list[list[float]]) -> Floats:
        """Running sums of each row, from 0."""
        return np.cumsum([[0.0, *row] for row in values], axis=1)

    # Kinds of devices may have been profiled on different mini-batches: the larger output counts.
    outputs = [max(x.activation_bytes for x in same) for same in zip(*_layers(used), strict=True)]
    weights = [max(x.parameter_bytes for x in same) for same in zip(*_layers(used), strict=True)]
    return Costs(
        batch_size=used[0].batch_size,
        classes=classes,
        forward_s=running([[x.forward_s for x in p.layers] for p in used]),
        backward_s=running([[x.backward_s for x in p.layers] for p in used]),
        fixed_forward_s=running([[x.fixed_forward_s for x in p.layers] for p in used]),
        fixed_backward_s=running([[x.fixed_backward_s for x in p.layers] for p in used]),
        update_s=running([[x.update_s for x in p.layers] for p in used]),
        cut_bytes=_cut_bytes(used[0].layers, outputs),
        output_bytes=running([outputs])[0],
        parameter_bytes=running([weights])[0],
    )


def _layers(profiles: list[ModelProfile]) -> list[tuple[LayerProfile, ...]]:
    """The layers of each profile."""
    return [p.layers for p in profiles]


def check_alike(profiles: list[ModelProfile]) -> None:
    """Refuse profiles that are not of one model at one batch size."""
    first = profiles[0]
    if not first.layers:
        raise InputError(f"profile of {first.name} on {first.device}: has no layers")
    for other in profiles[1:]:
        if other.batch_size != first.batch_size:
            raise InputError(
                f"profiles of {first.device} and {other.device} have batches of {first.batch_size} "
                f"and {other.batch_size}; bring them to one with --batch-size"
            )
        shapes = [[(x.name, x.inputs) for x in p.layers] for p in (first, other)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"profiles of {first.device} ({first.name}) and {other.device} ({other.name}) "
                "differ in their layers; give profiles of one model"
            )


def _cut_bytes(layers: tuple[LayerProfile, ...], outputs: list[float]) -> Floats:
    """[L + 1]: the bytes that cross each cut.

    Every output that is read behind a cut crosses it, skips included; it crosses once, however many
    layers read it.
    """
    place = {layer.name: i for i, layer in enumerate(layers)}
    last_reader = list(range(len(layers)))
    for i, layer in enumerate(layers):
        for name in layer.inputs:
            if place.get(name, i) >= i:
                raise InputError(
                    f"profile: layer {layer.name} reads {name}, which is not before it"
                )
            last_reader[place[name]] = i
    crossing = np.zeros(len(layers) + 1)
    for i, last in enumerate(last_reader):
        crossing[i + 1 : last + 1] += outputs[i]
    return crossing


def device_classes(cluster: Cluster) -> tuple[DeviceClass, ...]:
    """The devices of a cluster in classes of interchangeable ones, their ranks in order."""
    groups: dict[tuple[str, float, Link], list[int]] = {}
    ranks = itertools.count()
    for node in cluster.nodes:
        for _, device in itertools.product(range(node.count), node.devices):
            limit = np.inf if device.memory_bytes is None else float(device.memory_bytes)
            key = (device.kind, limit, planned_link(cluster, node))
            groups.setdefault(key, []).extend(next(ranks) for _ in range(device.count))
    return tuple(
        DeviceClass(kind=kind, memory_bytes=limit, link=link, ranks=tuple(members))
        for (kind, limit, link), members in groups.items()
    )


def planned_link(cluster: Cluster, node: Node) -> Link:
    """The link that a device of `node` is planned with.

    A device that is alone in its node gets the node's network interface. In a cluster of one node a
    device gets the link between the node's devices. Elsewhere a device may talk to both, and gets
    an even part of the interface, or the link between devices if that is slower. That never
    promises too much; a plan in which neighbouring stages share a node does better.

    Raises:
        InputError: the rate is not known.
    """
    devices = sum(device.count for device in node.devices)
    inside = node.device_link or node.link
    if cluster.size == 1 and devices > 1:
        link = inside
    else:
        rates = [(node.link.bandwidth_bits_per_s or 0) / devices]
        rates += [inside.bandwidth_bits_per_s or 0] if devices > 1 else []
        latency = max(node.link.latency_s, inside.latency_s if devices > 1 else 0.0)
        link = Link(bandwidth_bits_per_s=min(rates) or None, latency_s=latency)
    if link.bandwidth_bits_per_s is None:
        raise InputError(
            f"cluster {cluster.name!r}: bandwidth_bits_per_s of a link of node {node.name!r} is "
            "not known; state it in the cluster file"
        )
    return link
