"""Reads the profiles and the network rates that Sailor's authors published; see `sailor`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from systems.profiles.profile import LayerProfile, ModelProfile, with_fixed_parts
from systems.schema import InputError
from systems.validation.job import Group, GroupProfile
from systems.validation.rates import Fits, Network, RateFit

SOURCE = "Sailor's artifact (SOSP 2025), github.com/eth-easl/sailor at cf2c8e3"
FORWARD_SHARE = 1 / 3
"""The forward pass takes this part of the time of both passes, which the profiles give together: a
backward pass computes the gradients of inputs and of weights, each about as costly."""


def read_json(path: Path) -> Any:
    """Read what a JSON file holds.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None


def read_network(path: Path) -> Network:
    """The rates of a network's file.

    Raises:
        InputError: it does not hold them.
    """
    table = read_json(path)
    try:
        return Network(between=_fits(table["inter"]), inside=_fits(table["intra"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(f"--network {path}: no rates in Sailor's format: {reason}") from None


def _fits(table: Mapping[str, Any]) -> Fits:
    """Rates by kind of GPU and number of GPUs."""
    return {
        kind: {
            int(count): RateFit(quadratic=(a, b, c), peak_bytes_per_s=peak)
            for count, ((a, b, c), peak) in counts.items()
        }
        for kind, counts in table.items()
    }


def layers_of_models(profiles: Path) -> dict[str, int]:
    """The number of layers of every model that has a profile."""
    files = {path.parent.parent: path for path in sorted(profiles.rglob("mbs*_tmp*.json"))}
    return {folder.name: read_json(path)["model"]["num_layers"] for folder, path in files.items()}


def read_group(
    folder: Path, group: Group, micro_batch: int, details: Mapping[str, Any] | None
) -> GroupProfile:
    """Read what a model costs a GPU of a group, for a micro-batch. The part of the times that does
    not grow is found with the profile of the next larger size.

    The part of the times that does not grow is found with the profile of the next larger size.

    Args:
        folder: the model's profiles.
        details: sizes of the model's layers at this degree, by their numbers; None: not known.

    Raises:
        InputError: there is no such profile.
    """
    sizes = {
        int(path.stem.split("_")[0].removeprefix("mbs")): path
        for path in (folder / group.kind).glob(f"mbs*_tmp{group.degree}.json")
    }
    if micro_batch not in sizes:
        raise InputError(
            f"no profile of {folder.name} on {group.kind} at micro-batch {micro_batch} and tensor "
            f"parallelism {group.degree}"
        )
    table = read_json(sizes[micro_batch])
    profile = _profile(table, group, micro_batch, details)
    larger = min((size for size in sizes if size > micro_batch), default=None)
    if larger is not None:
        above = _profile(read_json(sizes[larger]), group, larger, details)
        profile = _with_fixed_parts_of(profile, with_fixed_parts(above, profile))
    layers = [details[str(i)] for i in range(len(profile.layers))] if details else []
    return GroupProfile(
        profile=profile,
        update_s=table["execution_time"]["optimizer_time_ms"] / 1e3,
        parameters=tuple(layer["params_floats"] for layer in layers),
        kept_bytes=tuple(layer["act_mem_bytes"] * micro_batch for layer in layers),
    )


def _profile(
    table: Mapping[str, Any], group: Group, micro_batch: int, details: Mapping[str, Any] | None
) -> ModelProfile:
    """A profile's file as our type."""
    parameters = table["model"]["parameters"]
    sizes = [
        details[str(number)]["params_bytes"] if details else whole // group.degree
        for number, whole in enumerate(parameters["parameters_per_layer_bytes"])
    ]
    outputs = parameters["activation_parameters_bytes"]
    both_ms = table["execution_time"]["layer_compute_total_ms"]
    return ModelProfile(
        name=table["model"]["model_name"],
        device=group.kind,
        batch_size=micro_batch,
        source=SOURCE,
        layers=tuple(
            LayerProfile(
                name=str(number),
                operation="",
                forward_s=milliseconds / 1e3 * FORWARD_SHARE,
                backward_s=milliseconds / 1e3 * (1 - FORWARD_SHARE),
                activation_bytes=output,
                parameter_bytes=size,
            )
            for number, (milliseconds, output, size) in enumerate(
                zip(both_ms, outputs, sizes, strict=True)
            )
        ),
    )


def _with_fixed_parts_of(profile: ModelProfile, other: ModelProfile) -> ModelProfile:
    """The profile with the fixed parts that are known at another batch size."""
    layers = tuple(
        replace(a, fixed_forward_s=b.fixed_forward_s, fixed_backward_s=b.fixed_backward_s)
        for a, b in zip(profile.layers, other.layers, strict=True)
    )
    return replace(profile, layers=layers)
