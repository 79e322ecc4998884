"""Layers that stand in for real ones: the right bytes, and waits as long as the profile says.

    options = {"emulation": Emulation(scale=10), "device": EmulatedDevice()}
    layer = EmulatedLayer(layer_profile, 128, in_features=922, **options)
    outputs = layer(torch.zeros(32, 922))      # waits a quarter of the profile's time

The trainer, its hooks, buckets and transports run unchanged around them. Values are zeros and mean
nothing; no arithmetic is done but what the trainer does with gradients and messages.

`scale` divides all message sizes, so that a slow link takes as long for them as a fast one for the
real ones; `dilate` stretches all durations. A link of R bits/s is emulated by one of R / (scale *
dilate).
"""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from systems.profiles.emulation import Emulation
from systems.profiles.profile import LayerProfile

SHORTEST_SLEEP_S = 5e-5
"""The system sleeps no shorter than this; what is left over is made up for by the next wait."""


class EmulatedDevice:
    """What a rank's layers run on: one at a time, in the order in which they come.

    As on a GPU, the layers of one pass are queued and follow each other at once, whatever the host
    does meanwhile; and the host's own work before a pass (which here competes with all other ranks
    for this machine's cores) does not count as time in which the device was idle.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = time.perf_counter()
        self._thread = threading.local()
        self.busy_s = 0.0

    def run(self, seconds: float, *, queued: bool) -> None:
        """Return when `seconds` of work are done; `queued` behind the same thread's last work."""
        host_s = time.thread_time() - getattr(self._thread, "host_at_end_s", time.thread_time())
        with self._lock:
            ready = self._free_at if queued else time.perf_counter() - host_s
            self._free_at = end = max(self._free_at, ready) + seconds
            self.busy_s += seconds
        left_s = end - time.perf_counter()
        if left_s > SHORTEST_SLEEP_S:
            time.sleep(left_s)
        self._thread.host_at_end_s = time.thread_time()


class EmulatedLayer(nn.Module):
    """One layer, or several in a row, as a profile describes them."""

    def __init__(
        self,
        profile: LayerProfile,
        batch_size: int,
        *,
        in_features: int,
        emulation: Emulation,
        device: EmulatedDevice,
    ) -> None:
        """A layer that takes [b, in_features] and returns [b, out_features], scaled.

        Args:
            batch_size: samples that the profile's times and activations are for.
        """
        super().__init__()
        self.operation = profile.operation
        """As the profile names it: what the layer stands for."""
        self.in_features = in_features
        self.out_features = scaled(profile.activation_bytes / batch_size, emulation)
        self.queued = (False, False)
        """Whether forward and backward follow another layer's at once."""
        self._profile, self._batch_size = profile, batch_size
        self._emulation, self._device = emulation, device
        if profile.parameter_bytes:
            self.weight = nn.Parameter(torch.zeros(scaled(profile.parameter_bytes, emulation)))
        else:
            self.register_parameter("weight", None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Wait for as long as the layer takes for these samples."""
        if inputs.is_meta:  # only its shape is asked for
            return inputs.new_empty(len(inputs), self.out_features)
        forward_s, backward_s = self.seconds(len(inputs))
        outputs: Tensor = _Emulate.apply(inputs, self.weight, self, forward_s, backward_s)
        return outputs

    def seconds(self, samples: int) -> tuple[float, float]:
        """Forward and backward seconds for these samples, dilated."""
        share, p = samples / self._batch_size, self._profile
        forward_s = p.fixed_forward_s + (p.forward_s - p.fixed_forward_s) * share
        backward_s = p.fixed_backward_s + (p.backward_s - p.fixed_backward_s) * share
        return forward_s * self._emulation.dilate, backward_s * self._emulation.dilate

    def run(self, seconds: float, *, backward: bool) -> None:
        """Wait on the device."""
        self._device.run(seconds, queued=self.queued[backward])

    def columns(self, index: int, count: int) -> "EmulatedLayer":
        """The part of a linear layer that holds 1/count of its weight's columns."""
        p = self._profile
        bounds = (self.in_features * index // count, self.in_features * (index + 1) // count)
        part = replace(
            p,
            forward_s=p.forward_s / count,
            backward_s=p.backward_s / count,
            fixed_forward_s=p.fixed_forward_s / count,
            fixed_backward_s=p.fixed_backward_s / count,
            parameter_bytes=round(p.parameter_bytes / count),
        )
        return EmulatedLayer(
            part,
            self._batch_size,
            in_features=bounds[1] - bounds[0],
            emulation=self._emulation,
            device=self._device,
        )


class _Emulate(torch.autograd.Function):
    """Forward and backward of an EmulatedLayer. Tensors of zeros that take no memory."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        layer: EmulatedLayer,
        forward_s: float,
        backward_s: float,
    ) -> Tensor:
        layer.run(forward_s, backward=False)
        ctx.layer, ctx.backward_s, ctx.in_shape = layer, backward_s, inputs.shape
        ctx.weight_shape = None if weight is None else weight.shape
        return inputs.new_zeros(()).expand(len(inputs), layer.out_features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.layer.run(ctx.backward_s, backward=True)
        zero = gradients[0].new_zeros(())
        weight = None if ctx.weight_shape is None else zero.expand(ctx.weight_shape)
        return zero.expand(ctx.in_shape), weight, None, None, None


class EmulatedOptimizer(torch.optim.Optimizer):
    """Leaves parameters as they are: the profile has no optimizer, and so it takes no time."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> Any:
        """Do nothing."""


def emulated_layers(
    layers: Sequence[LayerProfile],
    batch_size: int,
    *,
    in_features: int,
    emulation: Emulation,
    device: EmulatedDevice,
) -> nn.Sequential:
    """A chain of emulated layers; the layers of one pass are queued on the device."""
    made: list[EmulatedLayer] = []
    for index, layer in enumerate(layers):
        made.append(
            EmulatedLayer(
                layer, batch_size, in_features=in_features, emulation=emulation, device=device
            )
        )
        made[-1].queued = (index > 0, index < len(layers) - 1)
        in_features = made[-1].out_features
    return nn.Sequential(*made)


def joined(layers: Sequence[LayerProfile], least_bytes: float) -> list[LayerProfile]:
    """Layers in a row as one: a new one begins where a layer has `least_bytes` of parameters.

    Going backward, its gradient is then ready when the gradients of all of them are.
    """
    groups: list[list[LayerProfile]] = []
    for layer in layers:
        begins = layer.parameter_bytes >= least_bytes and any(
            before.parameter_bytes >= least_bytes for group in groups for before in group
        )
        if begins or not groups:
            groups.append([])
        groups[-1].append(layer)
    return [_as_one(group) for group in groups]


def _as_one(layers: Sequence[LayerProfile]) -> LayerProfile:
    return LayerProfile(
        name=layers[0].name,
        operation=max(layers, key=lambda layer: layer.parameter_bytes).operation,
        forward_s=sum(layer.forward_s for layer in layers),
        backward_s=sum(layer.backward_s for layer in layers),
        activation_bytes=layers[-1].activation_bytes,
        parameter_bytes=sum(layer.parameter_bytes for layer in layers),
        inputs=layers[0].inputs,
        fixed_forward_s=sum(layer.fixed_forward_s for layer in layers),
        fixed_backward_s=sum(layer.fixed_backward_s for layer in layers),
    )


def scaled(size_bytes: float, emulation: Emulation) -> int:
    """Values of float32 that stand for so many bytes; at least one."""
    return max(1, round(size_bytes / 4 / emulation.scale))
