"""A stage's weights in versions: micro-batches on their way keep those of their forward pass.

The parameters of the module are always the newest. A forward pass runs with *leaves*: tensors that
share the parameters' memory, and gather the gradients. Before an update, parameters whose leaves
somebody still needs move to fresh memory, and the leaves keep the old: memory is taken only for
versions in use, and given back with the last reference to them. Nothing is ever loaded in place.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Leaves = dict[str, Tensor]
"""One version's parameters by name."""


class WeightVersions:
    """The versions of one module's parameters."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """`optimizer` holds the module's parameters; None where it has none, or for inference."""
        self._module, self._optimizer = module, optimizer
        self._parameters = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.version = 0
        self._leaves = self._new_leaves()
        self._users: dict[int, Leaves] = {}

    @property
    def kept(self) -> int:
        """How many versions are in memory."""
        versions = {id(leaves) for leaves in self._users.values()} | {id(self._leaves)}
        return len(versions)

    def keep(self, micro_batch: int) -> None:
        """Keep the newest weights for a micro-batch, until `drop`."""
        self._users[micro_batch] = self._leaves

    def forward(self, micro_batch: int, values: tuple[Any, ...]) -> Any:
        """Run the module with the weights kept for a micro-batch."""
        return functional_call(self._module, self._users[micro_batch], values)

    def leaves(self, micro_batch: int) -> Leaves:
        """The weights kept for a micro-batch."""
        return self._users[micro_batch]

    def drop(self, micro_batch: int) -> None:
        """Its backward pass is done."""
        del self._users[micro_batch]

    def update(self, gradients: Mapping[str, Tensor]) -> None:
        """One step of the optimizer on the newest weights; makes the next version."""
        if any(leaves is self._leaves for leaves in self._users.values()):
            for parameter in self._parameters.values():
                parameter.data = parameter.data.clone()
        for name, parameter in self._parameters.items():
            parameter.grad = gradients[name]
        if self._optimizer is not None:
            self._optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None
        self.version += 1
        self._leaves = self._new_leaves()

    def _new_leaves(self) -> Leaves:
        # `.data` and not `.detach()`: a version counter of its own, since a later update of the
        # parameter in place must not look like one of the leaf.
        return {name: p.data.requires_grad_() for name, p in self._parameters.items()}
