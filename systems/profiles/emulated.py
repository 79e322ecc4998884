"""Layers that stand in for real ones: the right bytes, and waits as long as the profile says.

    options = {"emulation": Emulation(scale=10), "device": EmulatedDevice()}
    layer = EmulatedLayer(layer_profile, 128, in_features=922, **options)
    outputs = layer(torch.zeros(32, 922))      # waits a quarter of the profile's time

The trainer, its hooks, buckets and transports run unchanged around them. Values are zeros and mean
nothing; no arithmetic is done but what the trainer does with gradients and messages. Sizes and
durations are changed as `systems.profiles.emulation` says.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from systems.profiles.emulation import Emulation
from systems.profiles.profile import LayerProfile, ModelProfile

SHORTEST_SLEEP_S = 5e-5
"""A sleep that is shorter than this takes longer than it should. It is left out, and the next wait
is longer by as much."""


class EmulatedDevice:
    """The device of a rank, on which its layers run one at a time, in the order of their calls.

    The layers of one pass are queued, as on a GPU: each follows the one before at once, whatever
    Python does in between. Nor does the device idle while Python prepares a pass: here all ranks
    compete for a few cores, which the ranks of a real cluster do not.
    """

    def __init__(self) -> None:
        """A device that is free now."""
        self._lock = threading.Lock()
        self._free_at = time.perf_counter()
        self._thread = threading.local()
        self.busy_s = 0.0

    def run(self, seconds: float, *, queued: bool) -> None:
        """Wait until the device has done `seconds` of work.

        Args:
            queued: whether the work was in the queue when the last work ended, so that it began at
                once. Else it begins now, less the time that this thread has computed since.
        """
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
    """A layer that waits as long as a layer of a profile takes, or several layers in a row.

    Its outputs have as many bytes as the profile says, divided by the emulation's scale.
    """

    def __init__(
        self,
        profile: LayerProfile,
        batch_size: int,
        *,
        in_features: int,
        emulation: Emulation,
        device: EmulatedDevice,
    ) -> None:
        """Make a layer that takes [samples, in_features] and returns [samples, out_features].

        Args:
            profile: what it costs.
            batch_size: samples that the profile's times and activations are for.
            in_features: values of one sample in the inputs, divided by the scale already.
            emulation: the scale of its sizes and the dilation of its times.
            device: what it runs on.
        """
        super().__init__()
        self.operation = profile.operation
        """The layer that this one stands for, as the profile names it."""
        self.in_features = in_features
        self.out_features = scaled(profile.activation_bytes / batch_size, emulation)
        self.queued = (False, False)
        """Whether its forward pass, and whether its backward pass, follows that of another layer at
        once."""
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
        """The seconds of the forward and of the backward pass for these samples, dilated."""
        share, p = samples / self._batch_size, self._profile
        forward_s = p.fixed_forward_s + (p.forward_s - p.fixed_forward_s) * share
        backward_s = p.fixed_backward_s + (p.backward_s - p.fixed_backward_s) * share
        return forward_s * self._emulation.dilate, backward_s * self._emulation.dilate

    def run(self, seconds: float, *, backward: bool) -> None:
        """Wait until the device has done these seconds of work."""
        self._device.run(seconds, queued=self.queued[backward])

    def columns(self, index: int, count: int) -> "EmulatedLayer":
        """The part of a linear layer that holds the `index`-th of `count` even slices of the
        columns of its weight, and thus of its inputs."""
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
    """The two passes of an EmulatedLayer: waits, and zeros that take no memory."""

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
    """An optimizer that leaves parameters as they are and takes no time: profiles have none."""

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
    """Make emulated layers, one after the other; those of one pass are queued on the device.

    See `EmulatedLayer` for the arguments; `in_features` is that of the first layer.
    """
    emulated: list[EmulatedLayer] = []
    for index, layer in enumerate(layers):
        emulated.append(
            EmulatedLayer(
                layer, batch_size, in_features=in_features, emulation=emulation, device=device
            )
        )
        emulated[-1].queued = (index > 0, index < len(layers) - 1)
        in_features = emulated[-1].out_features
    return nn.Sequential(*emulated)


def emulated_whole(profile: ModelProfile, emulation: Emulation) -> nn.Module:
    """Make one layer that stands for a whole model, where nothing is sent before a pass has ended.

    It takes samples [b, 1], and returns as many values as the last layer of the profile.
    """
    return emulated_layers(
        joined(profile.layers, float("inf")),
        profile.batch_size,
        in_features=1,
        emulation=emulation,
        device=EmulatedDevice(),
    )


def joined(layers: Sequence[LayerProfile], least_bytes: float) -> list[LayerProfile]:
    """Join neighbouring layers, so that fewer and longer waits stand for them.

    Every group but the first begins with a layer that has at least `least_bytes` of parameters. In
    the backward pass that layer comes last in its group, so that its gradient is ready no earlier
    than it would be by itself.
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
    """Make one layer that costs what these layers in a row cost together."""
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
    """Return the number of float32 values that stand for so many bytes of the real model, at least
    one."""
    return max(1, round(size_bytes / 4 / emulation.scale))
