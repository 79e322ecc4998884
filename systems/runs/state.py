"""What a rank must save to go on: parameters, optimizer state, buffers, random state, by name.

    state = State(model)                       # names are the model's
    state.add(part_of_the_model, optimizer)    # whole tensors
    state.train(values, optimizer, [stretch(parameter, 0, 0, 512)])    # or parts of them

Names do not depend on who holds what, and several ranks may hold one tensor, or parts of it: a
world with other ranks, roles or stages finds everything. What belongs to a rank alone (its random
state, the statistics of its batch normalisation) is there for a world of the same layout; others
get the statistics of the lowest rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from systems.runs.part_files import Saved
from systems.runs.parts import Named, Offsets, Parts, boxes

MODEL, OPTIMIZER, OWN = "model", "optimizer", "own"
"""The first words of names in a checkpoint: of parameters and buffers; of what an optimizer keeps
for a parameter, such as its momentum; and of what a rank has for itself alone."""


@dataclass(frozen=True)
class Place:
    """Where the values of a tensor that is trained here belong in a parameter of the model."""

    parameter: Tensor
    """The parameter."""
    parts: Callable[[Tensor], Mapping[Offsets, Tensor]]
    """Cuts a tensor like the trained one (such as its momentum) into parts of one like the
    parameter, by the offsets at which they begin there."""


def box(parameter: Tensor, offsets: Offsets) -> Place:
    """The place of a trained tensor that is a box of the parameter and begins at `offsets`."""
    return Place(parameter, lambda values: {offsets: values.detach()})


def stretch(parameter: Tensor, first: int, start: int, count: int) -> Place:
    """The place of a stretch of a flat trained tensor, such as a bucket of several parameters.

    Its `count` values from `start` on are the values of the flattened parameter from `first` on.
    """

    def parts(values: Tensor) -> dict[Offsets, Tensor]:
        boxes_of, position = {}, start
        for offsets, sizes in boxes(tuple(parameter.shape), first, first + count):
            boxes_of[offsets] = values[position : position + prod(sizes)].view(sizes)
            position += prod(sizes)
        return boxes_of

    return Place(parameter, parts)


def _whole(values: Tensor) -> dict[Offsets, Tensor]:
    """A tensor as its own only part."""
    return {(0,) * values.ndim: values}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class State:
    """What this rank holds of a model and must save."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        """Hold nothing yet; names are those of the whole model."""
        self._names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        self._rank = rank
        self._held: Named = {}
        self._own: dict[str, Tensor] = {}
        self._trained: list[tuple[Tensor, torch.optim.Optimizer, Sequence[Place]]] = []

    def add(self, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Hold a part of the model, which `optimizer` trains, if this rank trains it."""
        for parameter in module.parameters():
            self._held[self._name(parameter)] = parameter
            if optimizer is not None and parameter.requires_grad:
                self._trained.append((parameter, optimizer, [Place(parameter, _whole)]))
        for buffer in module.buffers():
            self._held[self._name(buffer)] = self._own[self._name(buffer)] = buffer

    def train(
        self, tensor: Tensor, optimizer: torch.optim.Optimizer, places: Sequence[Place]
    ) -> None:
        """Note that `optimizer` trains a tensor whose values belong to these places."""
        self._trained.append((tensor, optimizer, places))

    def hold(self, place: Place, tensor: Tensor) -> None:
        """Hold `tensor`, which is the part of a parameter that `place` says."""
        shape = tuple(place.parameter.shape)
        self._held[self._name(place.parameter)] = Parts(shape, place.parts(tensor))

    def _name(self, tensor: Tensor) -> str:
        """The name of a parameter or buffer of the model."""
        return self._names[id(tensor)]

    def tensors(self) -> Named:
        """Everything that this rank must save, by name."""
        named: Named = {f"{MODEL}/{name}": held for name, held in self._held.items()}
        for tensor, optimizer, places in self._trained:
            for key, value in optimizer.state[tensor].items():
                if isinstance(value, Tensor):
                    named |= self._placed(key, value, tensor, places)
        return named | self.own()

    def optimizer_tensors(self, saved: Mapping[str, Saved]) -> Named:
        """Give the optimizers new tensors for the state that a checkpoint has of them.

        Args:
            saved: the tensors in the checkpoint, by name.

        Returns:
            The new tensors, by name. Their values are still to be read.
        """
        named: Named = {}
        for tensor, optimizer, places in self._trained:
            name, shape = self._name(places[0].parameter), places[0].parameter.shape
            prefix = f"{OPTIMIZER}/{name}/"
            for key in (k.removeprefix(prefix) for k in saved if k.startswith(prefix)):
                entry = saved[prefix + key]
                alike = entry.shape == shape
                value = torch.zeros_like(tensor) if alike else torch.zeros(entry.shape)
                optimizer.state[tensor][key] = value = value.to(entry.dtype)
                named |= self._placed(key, value, tensor, places)
        return named

    def _placed(
        self, key: str, value: Tensor, tensor: Tensor, places: Sequence[Place]
    ) -> dict[str, Parts]:
        """A value that an optimizer keeps for a trained tensor, by the names of its parameters.

        Args:
            key: what the optimizer calls it, such as "momentum_buffer".
            value: a tensor like the trained one, which is cut into parts, or a scalar.
        """
        named = {}
        for place in places:
            parts = Parts(tuple(value.shape), _whole(value))
            if value.shape == tensor.shape:
                parts = Parts(tuple(place.parameter.shape), place.parts(value))
            named[f"{OPTIMIZER}/{self._name(place.parameter)}/{key}"] = parts
        return named

    def own(self) -> Named:
        """What belongs to this rank alone, by name: buffers, and a copy of its random state."""
        named: Named = {f"{OWN}/{self._rank}/{name}": value for name, value in self._own.items()}
        return named | {f"{OWN}/{self._rank}/{k}": v for k, v in _random_state().items()}

    def set_random_state(self, named: Named) -> None:
        """Go on with the random state in `named`: what `own` has returned, filled with values
        from a checkpoint."""
        prefix = f"{OWN}/{self._rank}/"
        _set_random_state({name.removeprefix(prefix): value for name, value in named.items()})


def _random_state() -> dict[str, Tensor]:
    """The state of torch's random generators, uint8."""
    state = {"random": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    """Set the state of torch's random generators."""
    torch.set_rng_state(state["random"])
    if "random.cuda" in state:
        torch.cuda.set_rng_state(state["random.cuda"])
