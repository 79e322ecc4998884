"""Compares the layers of a network with those of its profile, which may be older than the network.

A profile names the layers that ran, as `nn.Module.named_modules` does. Only the bytes of their
parameters are compared: a layer that has changed in another way, such as a stride, is not seen.
"""

from collections.abc import Sequence
from functools import partial

from torch import nn
from torch.nn.parameter import is_lazy

from stanza.models.dry_run import trial_run
from systems.profiles.profile import ModelProfile


def difference(
    network: nn.Module, profile: ModelProfile, image_shape: Sequence[int] | None
) -> str | None:
    """Say in words where a network first differs from its profile; None where it does not.

    Args:
        image_shape: what the network takes. None: nobody has said, and layers that the profile
            does not have are taken for layers that never run.

    Raises:
        InputError: the network has layers that the profile does not have, and does not run on such
            images.
    """
    leaves = {name: leaf for name, leaf in network.named_modules() if not list(leaf.children())}
    if not any(layer.name in leaves for layer in profile.layers):  # its names are of other make
        here = sum(p.nbytes for p in network.parameters() if not is_lazy(p))
        there = profile.parameter_bytes
        return (
            None if here == there else f"{here:,} bytes of parameters, and {there:,} in the profile"
        )
    for layer in profile.layers:
        if layer.name not in leaves:
            return f"the network has no layer {layer.name}"
        if any(map(is_lazy, leaves[layer.name].parameters())):
            continue  # without images it has no shape
        here = sum(p.nbytes for p in leaves[layer.name].parameters())
        if here != layer.parameter_bytes:
            return (
                f"layer {layer.name} has {here:,} bytes of parameters, and "
                f"{layer.parameter_bytes:,} in the profile"
            )
    profiled = {layer.name for layer in profile.layers}
    added = {name: leaf for name, leaf in leaves.items() if name not in profiled}
    added = {name: leaf for name, leaf in added.items() if list(leaf.parameters())}
    ran = _run(network, added, image_shape) if added and image_shape is not None else []
    return f"the profile has no layer {ran[0]}" if ran else None


def _run(network: nn.Module, leaves: dict[str, nn.Module], image_shape: Sequence[int]) -> list[str]:
    """The names of those leaves that run when images pass through the network."""
    ran: list[str] = []

    def note(name: str, *_: object) -> None:
        ran.append(name)

    handles = [leaf.register_forward_hook(partial(note, name)) for name, leaf in leaves.items()]
    try:
        trial_run(network, image_shape, type(network).__name__, samples=2)
    finally:
        for handle in handles:
            handle.remove()
    return ran
