"""What a profiled model costs on one device type at any batch, parted by the cut."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stanza.cut.rule import Cut, cut_profile
from systems.profiles.profile import LayerProfile, ModelProfile


@dataclass(frozen=True)
class FcLayer:
    """A Linear and what comes between the Linear before it (or the cut) and it."""

    forward_s: float
    backward_s: float
    output_bytes: float
    """The Linear's outputs for the whole batch."""


@dataclass(frozen=True)
class Costs:
    """A model's costs on one device type at one local batch, parted by the cut."""

    conv_forward_s: float
    conv_backward: tuple[tuple[float, float], ...]
    """Seconds and parameter bytes of each layer, in backward order."""
    fc_forward_s: float
    fc_backward: tuple[tuple[float, float], ...]
    cut_bytes: float
    """Activations of the whole local batch at the cut, as they travel."""
    batch_size: int
    fc_layers: tuple[FcLayer, ...] = ()
    """The FC part Linear by Linear; empty where it is no chain, and cannot be split by columns."""

    @property
    def conv_backward_s(self) -> float:
        """Backward seconds of the convolutional part."""
        return sum(seconds for seconds, _ in self.conv_backward)

    @property
    def fc_backward_s(self) -> float:
        """Backward seconds of the FC part."""
        return sum(seconds for seconds, _ in self.fc_backward)

    @property
    def conv_bytes(self) -> float:
        """Parameter bytes of the convolutional part."""
        return sum(size for _, size in self.conv_backward)

    @property
    def fc_bytes(self) -> float:
        """Parameter bytes of the FC part."""
        return sum(size for _, size in self.fc_backward)

    @property
    def backward(self) -> tuple[tuple[float, float], ...]:
        """The whole model's backward pass."""
        return self.fc_backward + self.conv_backward

    @property
    def compute_s(self) -> float:
        """Forward and backward seconds of the whole model."""
        forward_s = self.conv_forward_s + self.fc_forward_s
        return forward_s + self.conv_backward_s + self.fc_backward_s


CostsAt = Callable[[int], Costs]
"""A model's costs as a function of the batch: not linear where a profile knows fixed parts."""


def costs_at(profile: ModelProfile, wire_bytes_per_value: int = 4) -> CostsAt:
    """The costs of a profiled model, parted by the cut, at any batch; computed once for each."""
    cut = cut_profile(profile)
    return functools.cache(lambda batch: _costs(profile, cut, batch, wire_bytes_per_value))


def _costs(profile: ModelProfile, cut: Cut, batch_size: int, wire_bytes_per_value: int) -> Costs:
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


_CHAIN = ("Linear", "ReLU", "Tanh", "Sigmoid", "Dropout", "Identity", "Flatten", "View")


def _fc_layers(layers: Sequence[LayerProfile], cut: Cut) -> tuple[FcLayer, ...]:
    """The FC part's `layers` as stages; none if one reads more than the layer before it."""
    sizes = {layer.name for layer in layers if layer.operation.startswith("Size")}
    previous, fc_layers, pending = cut.crossing, list[FcLayer](), list[LayerProfile]()
    for layer in layers:
        if layer.name in sizes:
            continue
        reads = tuple(name for name in layer.inputs if name not in sizes)
        if reads != previous or len(reads) > 1 or not layer.operation.startswith(_CHAIN):
            return ()
        previous = (layer.name,)
        pending.append(layer)
        if layer.operation.startswith("Linear"):
            fc_layers.append(_fc_layer(pending))
            pending = []
    return tuple(fc_layers)


def _fc_layer(layers: Sequence[LayerProfile]) -> FcLayer:
    return FcLayer(
        forward_s=sum(layer.forward_s for layer in layers),
        backward_s=sum(layer.backward_s for layer in layers),
        output_bytes=layers[-1].activation_bytes,
    )


def _backward(layers: Sequence[LayerProfile]) -> tuple[tuple[float, float], ...]:
    return tuple((layer.backward_s, layer.parameter_bytes) for layer in reversed(layers))
