"""Makes a profile of what a trace tells of a model's layers, and says what is missing.

Times are medians over steps. A trace knows modules by their class and number. A model that is
given runs once on the meta device, which computes nothing, and tells the name of every layer as
`named_modules` has it, and its bytes. Without a model the bytes are those of gradients: the
gradient of an output is as large as the output, and that of a parameter as large as the parameter.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from systems.measure import spread
from systems.profiles.model_layers import KnownLayer
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.profiles.trace_layers import LayerCost, TracedLayers
from systems.schema import InputError, remedy


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """What is known of the traced model besides its times."""

    name: str
    """What the profile calls it."""
    device: str
    """What the profile calls the device that computed."""
    batch_size: int
    """The samples of a step."""
    layers: Sequence[KnownLayer] | None = None
    """The layers of the model in the order in which they run. None: nobody has given a model."""


class _Known(NamedTuple):
    """What is known of a layer besides its times."""

    name: str
    operation: str
    activation_bytes: int
    parameter_bytes: int


def make_profile(traced: TracedLayers, model: TracedModel, path: Path) -> ModelProfile:
    """The profile of a model whose layers were traced.

    Raises:
        InputError: the model has other layers than the trace, or, without a model, the trace does
            not tell how large a layer's output or its parameters are.
    """
    first = traced.steps[0]
    if model.layers is None:
        known = [_from_gradients(cost, path) for cost in first.layers]
        if first.outside_bytes:
            raise InputError(
                f"trace {path}: {first.outside_bytes:,} bytes of parameters belong to no layer; "
                "give the model with --model, so that those of every layer are known"
            )
    else:
        known = _matched(first.layers, model.layers, of_modules=traced.of_modules, path=path)
    layers: list[LayerProfile] = []
    for index, layer in enumerate(known):
        calls = [step.layers[index] for step in traced.steps]
        layers.append(
            LayerProfile(
                name=layer.name,
                operation=layer.operation,
                forward_s=_median_s([call.forward_us for call in calls]),
                backward_s=_median_s([call.backward_us for call in calls]),
                activation_bytes=layer.activation_bytes,
                parameter_bytes=layer.parameter_bytes,
                inputs=(layers[-1].name,) if layers else (),
            )
        )
    both = spread([step.layers_us for step in traced.steps])
    return ModelProfile(
        name=model.name,
        device=model.device,
        batch_size=model.batch_size,
        source=f"trace of torch.profiler {path.name}, median of {len(traced.steps)} steps",
        layers=tuple(layers),
        low=both.low / both.median if both.median else None,
        high=both.high / both.median if both.median else None,
    )


def _from_gradients(cost: LayerCost, path: Path) -> _Known:
    """Gather what a trace alone tells of a layer: its class, and the bytes of its gradients."""
    if cost.activation_bytes is None:
        raise InputError(
            f"trace {path}: layer {cost.name} has no backward pass whose gradients have shapes, so "
            "the size of its output is not known; trace with record_shapes=True, and give the "
            "model with --model"
        )
    kind = re.sub(r"_\d+$", "", cost.name)
    return _Known(cost.name, kind, cost.activation_bytes, cost.parameter_bytes)


def _matched(
    costs: Sequence[LayerCost], layers: Sequence[KnownLayer], *, of_modules: bool, path: Path
) -> list[_Known]:
    """Match the layers of a trace with those of the model: by their places among the layers that
    run, or, where layers are ranges of a user's own, by their names."""
    if of_modules:
        ran = [layer for layer in layers if layer.is_leaf]
        kinds = [re.sub(r"_\d+$", "", cost.name) for cost in costs]
        for index, kind in enumerate(kinds):
            other = ran[index].kind if index < len(ran) else "no layer"
            if kind != other:
                raise InputError(
                    f"--model: layer {index + 1} of trace {path} is {costs[index].name}, and of "
                    f"the model it is {other}; give the model that was traced"
                )
        if len(ran) > len(costs):
            raise InputError(
                f"--model: runs {len(ran)} layers, and trace {path} has {len(costs)}; give the "
                "model that was traced"
            )
    else:
        by_name = {layer.name: layer for layer in layers}
        for cost in costs:
            if cost.name not in by_name:
                raise InputError(
                    f"--model: has no module {cost.name}, as a range of trace {path} is called; "
                    f"{remedy(cost.name, by_name)}, or leave --model out"
                )
        ran = [by_name[cost.name] for cost in costs]
    return [_joined(cost, layer, path) for cost, layer in zip(costs, ran, strict=True)]


def _joined(cost: LayerCost, layer: KnownLayer, path: Path) -> _Known:
    """Join what trace and model tell of one layer. The trace knows better in which type the output
    was; a parameter without a gradient is known to the model alone."""
    if cost.parameter_bytes not in (0, layer.parameter_bytes):
        raise InputError(
            f"--model: the parameters of {layer.name} have {layer.parameter_bytes:,} bytes, and "
            f"their gradients in trace {path} have {cost.parameter_bytes:,}; give the model that "
            "was traced, with all parameters of a layer trained, and in the same type"
        )
    activation_bytes = cost.activation_bytes
    if activation_bytes is None:
        activation_bytes = layer.activation_bytes
    return _Known(layer.name, layer.operation, activation_bytes, layer.parameter_bytes)


def _median_s(times_us: Sequence[float]) -> float:
    """Return the median of times in microseconds, in seconds."""
    return statistics.median(times_us) / 1e6
