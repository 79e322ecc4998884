"""What a profiled model costs on one kind of device at any batch, parted by the cut."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stanza.cut.rule import Cut, cut_profile
from systems.profiles.profile import LayerProfile, ModelProfile


@dataclass(frozen=True)
class FcLayer:
    """The costs of a Linear layer, with those between the Linear before it (or the cut) and it."""

    forward_s: float
    backward_s: float
    output_bytes: float
    """The bytes of the Linear's outputs for the whole batch."""


@dataclass(frozen=True)
class Costs:
    """What a model costs on one kind of device at one local batch, parted by the cut."""

    conv_forward_s: float
    conv_backward: tuple[tuple[float, float], ...]
    """The backward seconds and the parameter bytes of each convolutional layer, last layer
    first."""
    fc_forward_s: float
    fc_backward: tuple[tuple[float, float], ...]
    """The same for each layer of the FC part."""
    cut_bytes: float
    """The bytes of the whole local batch's activations at the cut, as they travel."""
    batch_size: int
    fc_layers: tuple[FcLayer, ...] = ()
    """The FC part, one entry a Linear. It is empty where the FC part is no chain of layers, which
    columns cannot split."""

    @property
    def conv_backward_s(self) -> float:
        """The backward seconds of the convolutional part."""
        return sum(seconds for seconds, _ in self.conv_backward)

    @property
    def fc_backward_s(self) -> float:
        """The backward seconds of the FC part."""
        return sum(seconds for seconds, _ in self.fc_backward)

    @property
    def conv_bytes(self) -> float:
        """The bytes of the convolutional part's parameters."""
        return sum(size for _, size in self.conv_backward)

    @property
    def fc_bytes(self) -> float:
        """The bytes of the FC part's parameters."""
        return sum(size for _, size in self.fc_backward)

    @property
    def backward(self) -> tuple[tuple[float, float], ...]:
        """The backward seconds and the parameter bytes of all layers, last layer first."""
        return self.fc_backward + self.conv_backward

    @property
    def compute_s(self) -> float:
        """The forward and backward seconds of the whole model."""
        forward_s = self.conv_forward_s + self.fc_forward_s
        return forward_s + self.conv_backward_s + self.fc_backward_s


CostsAt = Callable[[int], Costs]
"""A model's costs as a function of the batch. They are linear in it, plus the fixed parts of a
profile that was taken at two batch sizes."""


RanksCostsAt = CostsAt | tuple[CostsAt, ...]
"""What a batch costs on the device of a rank: the same on all, or a function for every rank."""


def costs_of(at: RanksCostsAt, rank: int, samples: int) -> Costs:
    """The costs of so many samples on the device of a rank."""
    return (at[rank] if isinstance(at, tuple) else at)(samples)


@functools.lru_cache(maxsize=64)
def costs_at(profile: ModelProfile, wire_bytes_per_value: int = 4) -> CostsAt:
    """Make the function that gives the costs of a profiled model at any batch.

    It remembers its answers, and is the same for equal profiles. `wire_bytes_per_value` is the size
    of an activation as it travels.
    """
    cut = cut_profile(profile)
    return functools.cache(lambda batch: _costs(profile, cut, batch, wire_bytes_per_value))


def _costs(profile: ModelProfile, cut: Cut, batch_size: int, wire_bytes_per_value: int) -> Costs:
    """The costs of a profiled model at one batch, parted by the cut."""
    layers = profile.at_batch_size(batch_size).layers
    crossing_bytes = sum(layer.activation_bytes for layer in layers if layer.name in cut.crossing)
    conv = [layer for layer in layers if layer.name not in cut.fc]
    fc = [layer for layer in layers if layer.name in cut.fc]
    return Costs(
        conv_forward_s=sum(layer.forward_s for layer in conv),
        conv_backward=_backward(conv),
        fc_forward_s=sum(layer.forward_s for layer in fc),
        fc_backward=_backward(fc),
        cut_bytes=crossing_bytes * wire_bytes_per_value / 4,
        batch_size=batch_size,
        fc_layers=_fc_layers(fc, cut),
    )


_CHAIN_OPERATIONS = ("Linear", "ReLU", "Tanh", "Sigmoid", "Dropout", "Identity", "Flatten", "View")


def _fc_layers(layers: Sequence[LayerProfile], cut: Cut) -> tuple[FcLayer, ...]:
    """Group the profile's layers of the FC part by Linear.

    Returns nothing if a layer reads anything but the layer before it: that is no chain.
    """
    sizes = {layer.name for layer in layers if layer.operation.startswith("Size")}
    previous, fc_layers, pending = cut.crossing, list[FcLayer](), list[LayerProfile]()
    for layer in layers:
        if layer.name in sizes:
            continue
        reads = tuple(name for name in layer.inputs if name not in sizes)
        if reads != previous or len(reads) > 1 or not layer.operation.startswith(_CHAIN_OPERATIONS):
            return ()
        previous = (layer.name,)
        pending.append(layer)
        if layer.operation.startswith("Linear"):
            fc_layers.append(_fc_layer(pending))
            pending = []
    return tuple(fc_layers)


def _fc_layer(layers: Sequence[LayerProfile]) -> FcLayer:
    """Sum the costs of layers of which the last is a Linear."""
    return FcLayer(
        forward_s=sum(layer.forward_s for layer in layers),
        backward_s=sum(layer.backward_s for layer in layers),
        output_bytes=layers[-1].activation_bytes,
    )


def _backward(layers: Sequence[LayerProfile]) -> tuple[tuple[float, float], ...]:
    """The backward seconds and the parameter bytes of layers, last layer first."""
    return tuple((layer.backward_s, layer.parameter_bytes) for layer in reversed(layers))
