"""Measures a profile: the layers of any `nn.Module`, one by one, on the device that it is on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from systems import measure
from systems.measure import Spread
from systems.profiles.profile import LayerProfile, ModelProfile

FORWARD_PASSES = 10
"""Measuring every layer once takes as long as this many forward passes through the whole model:
each layer runs alone, with fresh inputs and gradients (measured with ResNet-50 and VGG-16 on a
CPU)."""
SHORT_PASS_S = 0.5
"""A pass that is shorter than this may be mostly what Python and a busy machine add to any pass,
which does not grow with the samples; the estimate then takes more of them."""
LAYER_COPIES = 4
"""How many times the input and output of the largest layer fit into the memory that measuring
takes: values, gradients, copies, and what the rest of the model holds meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """An estimate of what it takes to measure a model with `profile_model`."""

    seconds: float
    """How long it takes."""
    memory_bytes: float
    """The memory that it needs."""

    def __str__(self) -> str:
        minutes = self.seconds / 60
        lasts = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{max(1.0, self.seconds):.0f} s"
        return f"{lasts} and {max(0.1, self.memory_bytes / 1e9):.1f} GB of memory"


def effort(model: nn.Module, images: Tensor, *, repetitions: int) -> Effort:
    """Estimate what `profile_model` with the same arguments takes, from a pass of a few samples."""
    few, largest, pass_s = images[:2], 0, 0.0

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A layer has run: is it the largest so far?"""
        nonlocal largest
        largest = max(largest, inputs[0].nbytes + output.nbytes)

    handles = [
        leaf.register_forward_hook(after) for leaf in model.modules() if not list(leaf.children())
    ]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            pass_s = measure.timed(partial(model, few), repetitions=1, device=images.device).median
            while pass_s < SHORT_PASS_S and len(few) < len(images):
                few = images[: 4 * len(few)]
                timed = measure.timed(partial(model, few), repetitions=1, device=images.device)
                pass_s = timed.median
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])  # running statistics have moved
    finally:
        for handle in handles:
            handle.remove()
    samples = len(images) / len(few)
    weights = 2 * sum(p.nbytes for p in model.parameters())  # with gradients
    return Effort(
        seconds=pass_s * samples * FORWARD_PASSES * (repetitions + 1),  # one to warm up
        memory_bytes=LAYER_COPIES * largest * samples + weights,
    )


def profile_model(
    model: nn.Module,
    images: Tensor,
    *,
    name: str,
    device_kind: str,
    repetitions: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> ModelProfile:
    """Measure every layer of `model` on `images` [B, ...], on the device that both are on.

    A layer here is a leaf: a module without modules inside it. In one forward pass each leaf, when
    its turn comes, is timed by itself, forward and backward, on a copy of what it reads. So layers
    that work in place and branches are no obstacle, and memory is needed for the inputs of one
    layer at a time. Operators that are not modules (additions, concatenations) are not seen. Every
    layer is said to read the one that ran before it. A leaf that runs several times is a layer each
    time.

    Args:
        name: what the profile calls the model.
        device_kind: what the profile calls the device.
        repetitions: how often each layer is timed; the median counts.
        clock: what counts on a CPU, see `systems.measure.timed`.
    """
    timed = partial(measure.timed, repetitions=repetitions, device=images.device, clock=clock)
    layers: list[LayerProfile] = []
    low_s = high_s = 0.0
    buffers = {buffer_name: buffer.clone() for buffer_name, buffer in model.named_buffers()}
    measuring = False

    def before(leaf_name: str, leaf: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A leaf is about to run: measure it first."""
        nonlocal measuring, low_s, high_s
        if measuring:  # this call is itself a measurement
            return
        measuring = True
        previous = (layers[-1].name,) if layers else ()
        with torch.enable_grad():
            data = inputs[0].detach().clone()
            layer, times = _profile_leaf(leaf_name, leaf, data, previous, timed)
        layers.append(layer)
        low_s, high_s = low_s + times.low, high_s + times.high
        measuring = False

    handles = [
        leaf.register_forward_pre_hook(
            lambda module, inputs, leaf_name=leaf_name: before(leaf_name, module, inputs)
        )
        for leaf_name, leaf in model.named_modules()
        if not list(leaf.children())
    ]
    try:
        with torch.no_grad():
            model(images)
            for buffer_name, buffer in model.named_buffers():
                buffer.copy_(buffers[buffer_name])  # running statistics have moved
    finally:
        for handle in handles:
            handle.remove()
    median_s = sum(layer.forward_s + layer.backward_s for layer in layers)
    return ModelProfile(
        name=name,
        device=device_kind,
        batch_size=images.shape[0],
        source=f"measured on {images.device.type} with torch {torch.__version__}",
        layers=tuple(layers),
        threads=threads_on(images.device),
        low=low_s / median_s if median_s else None,
        high=high_s / median_s if median_s else None,
    )


def threads_on(device: torch.device) -> int | None:
    """The threads with which this process computes on a device; None for a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else None


def _profile_leaf(
    name: str,
    leaf: nn.Module,
    inputs: Tensor,
    previous: tuple[str, ...],
    timed: Callable[[Callable[[], object]], Spread],
) -> tuple[LayerProfile, Spread]:
    """Time both passes of one leaf; the backward pass includes the gradient of its inputs. Returns
    the sum of both passes at the median and the quartiles too.

    Args:
        previous: the name of the layer that ran before, if there is one.
        timed: times a function several times.
    """
    data = inputs.requires_grad_(inputs.is_floating_point())
    parameters = list(leaf.parameters())

    def forward() -> Tensor:
        # A fresh view: an in-place layer may not write to a tensor that asks for a gradient.
        output: Tensor = leaf(data.view_as(data).clone())
        return output

    copy_s = timed(lambda: data.view_as(data).clone()).median
    forward_pass = timed(forward)
    output = forward()
    wanted = [t for t in (data, *parameters) if t.requires_grad]

    def backward() -> None:
        gradient = torch.ones_like(output)
        torch.autograd.grad(output, wanted, gradient, retain_graph=True, allow_unused=True)

    backward_pass = measure.spread([0.0])
    if output.requires_grad:
        backward_pass = timed(backward)

    def together(forward_s: float, backward_s: float) -> float:
        """The seconds of both passes, without the copy that the measurement makes."""
        return max(0.0, forward_s - copy_s) + backward_s

    times = Spread(
        median=together(forward_pass.median, backward_pass.median),
        low=together(forward_pass.low, backward_pass.low),
        high=together(forward_pass.high, backward_pass.high),
        n=forward_pass.n,
    )
    layer = LayerProfile(
        name=name,
        operation=f"{type(leaf).__name__}({leaf.extra_repr()})",
        forward_s=together(forward_pass.median, 0.0),
        backward_s=backward_pass.median,
        activation_bytes=output.numel() * output.element_size(),
        parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
        inputs=previous,
    )
    return layer, times
