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
from systems.runs.parts import (
    Named,
    Offsets,
    Parts,
    boxes,
)

MODEL, OPTIMIZER, OWN = "model", "optimizer", "own"
"""First words of names: a parameter or buffer; what an optimizer keeps for a parameter; what a
rank has for itself."""


@dataclass(frozen=True)
class Place:
    """Where in a parameter of the model a tensor belongs that is trained here."""

    parameter: Tensor
    parts: Callable[[Tensor], Mapping[Offsets, Tensor]]
    """Of a tensor like the trained one (its momentum, say): its pieces of the parameter's."""


def box(parameter: Tensor, offsets: Offsets) -> Place:
    """The trained tensor is a box of the parameter that begins at `offsets`."""
    return Place(parameter, lambda values: {offsets: values.detach()})


def stretch(parameter: Tensor, first: int, start: int, count: int) -> Place:
    """`count` values of the flat trained tensor, from `start` on, are the values of the flattened
    parameter from `first` on."""

    def parts(values: Tensor) -> dict[Offsets, Tensor]:
        found, position = {}, start
        for offsets, sizes in boxes(tuple(parameter.shape), first, first + count):
            found[offsets] = values[position : position + prod(sizes)].view(sizes)
            position += prod(sizes)
        return found

    return Place(parameter, parts)


def _whole(values: Tensor) -> dict[Offsets, Tensor]:
    return {(0,) * values.ndim: values}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class State:
    """What this rank holds of a model."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        self._names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        self._rank = rank
        self._held: Named = {}
        self._own: dict[str, Tensor] = {}
        self._trained: list[tuple[Tensor, torch.optim.Optimizer, Sequence[Place]]] = []

    def add(self, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Hold a part of the model; `optimizer` trains it, unless others do."""
        for parameter in module.parameters():
            self._held[self._name(parameter)] = parameter
            if optimizer is not None and parameter.requires_grad:
                self._trained.append((parameter, optimizer, [Place(parameter, _whole)]))
        for buffer in module.buffers():
            self._held[self._name(buffer)] = self._own[self._name(buffer)] = buffer

    def train(
        self, tensor: Tensor, optimizer: torch.optim.Optimizer, places: Sequence[Place]
    ) -> None:
        """Train a tensor that has values of these places in the model's parameters."""
        self._trained.append((tensor, optimizer, places))

    def hold(self, place: Place, tensor: Tensor) -> None:
        """Hold the part of a parameter that is `tensor`."""
        shape = tuple(place.parameter.shape)
        self._held[self._name(place.parameter)] = Parts(shape, place.parts(tensor))

    def _name(self, tensor: Tensor) -> str:
        return self._names[id(tensor)]

    def tensors(self) -> Named:
        """All of it, by name: to be saved."""
        named: Named = {f"{MODEL}/{name}": held for name, held in self._held.items()}
        for tensor, optimizer, places in self._trained:
            for key, value in optimizer.state[tensor].items():
                if isinstance(value, Tensor):
                    named |= self._placed(key, value, tensor, places)
        return named | self.own()

    def optimizer_tensors(self, saved: Mapping[str, Saved]) -> Named:
        """The tensors of the optimizers' state that are in `saved`, by name. They are new, the
        optimizers already have them, and their values are still to be read.

        Args:
            saved: tensors in a checkpoint, by name.
        """
        named: Named = {}
        for tensor, optimizer, places in self._trained:
            name, shape = self._name(places[0].parameter), places[0].parameter.shape
            prefix = f"{OPTIMIZER}/{name}/"
            for key in (k.removeprefix(prefix) for k in saved if k.startswith(prefix)):
                found = saved[prefix + key]
                alike = found.shape == shape
                value = torch.zeros_like(tensor) if alike else torch.zeros(found.shape)
                optimizer.state[tensor][key] = value = value.to(found.dtype)
                named |= self._placed(key, value, tensor, places)
        return named

    def _placed(
        self, key: str, value: Tensor, tensor: Tensor, places: Sequence[Place]
    ) -> dict[str, Parts]:
        """What an optimizer keeps, by name: values like the trained tensor's, or a scalar."""
        named = {}
        for place in places:
            parts = Parts(tuple(value.shape), _whole(value))
            if value.shape == tensor.shape:
                parts = Parts(tuple(place.parameter.shape), place.parts(value))
            named[f"{OPTIMIZER}/{self._name(place.parameter)}/{key}"] = parts
        return named

    def own(self) -> Named:
        """What is this rank's alone; its random state is a copy, see `set_random_state`."""
        named: Named = {f"{OWN}/{self._rank}/{name}": value for name, value in self._own.items()}
        return named | {f"{OWN}/{self._rank}/{k}": v for k, v in _random_state().items()}

    def set_random_state(self, named: Named) -> None:
        """Go on with the random state of `own`, after it has been filled."""
        prefix = f"{OWN}/{self._rank}/"
        _set_random_state({name.removeprefix(prefix): value for name, value in named.items()})


def _random_state() -> dict[str, Tensor]:
    """Of torch's generators, uint8."""
    state = {"random": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["random"])
    if "random.cuda" in state:
        torch.cuda.set_rng_state(state["random.cuda"])
