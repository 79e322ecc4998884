"""The weight versions of a stage (weight stashing).

A micro-batch in flight keeps the version that its forward pass has used until its backward pass is
done. The parameters of the module are always the newest version. A forward pass does not run with
them but with *leaves*: tensors that share the memory of the parameters and gather the gradients. If
a micro-batch still needs the leaves when an update comes, the parameters move to fresh memory and
the leaves keep the old one:

    before the update    parameters --> [memory A] <-- leaves of version 3, kept by micro-batch 7
    after the update     parameters --> [memory B] <-- leaves of version 4
                                        [memory A] <-- leaves of version 3, kept by micro-batch 7

So memory is taken only for versions in use, and is given back with the last reference to their
leaves. No weights are ever copied back into the parameters.
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
        """`optimizer` has the module's parameters; None if there are none, or for inference."""
        self._module, self._optimizer = module, optimizer
        self._parameters = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._leaves = self._new_leaves()
        self._users: dict[int, Leaves] = {}

    @property
    def kept(self) -> int:
        """The number of versions in memory."""
        versions = {id(leaves) for leaves in self._users.values()} | {id(self._leaves)}
        return len(versions)

    def keep(self, micro_batch: int) -> None:
        """Keep the newest version for a micro-batch until `drop`."""
        self._users[micro_batch] = self._leaves

    def forward(self, micro_batch: int, values: tuple[Any, ...]) -> Any:
        """Run the module with the version that is kept for a micro-batch."""
        return functional_call(self._module, self._users[micro_batch], values)

    def leaves(self, micro_batch: int) -> Leaves:
        """The version that is kept for a micro-batch."""
        return self._users[micro_batch]

    def drop(self, micro_batch: int) -> None:
        """The backward pass of a micro-batch is done: stop keeping its version."""
        del self._users[micro_batch]

    def update(self, gradients: Mapping[str, Tensor]) -> None:
        """Make the next version: one step of the optimizer on the newest one, with `gradients`."""
        if any(leaves is self._leaves for leaves in self._users.values()):
            for parameter in self._parameters.values():
                parameter.data = parameter.data.clone()
        for name, parameter in self._parameters.items():
            parameter.grad = gradients[name]
        if self._optimizer is not None:
            self._optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None
        self._leaves = self._new_leaves()

    def _new_leaves(self) -> Leaves:
        """Leaves that share the memory of the parameters as they are now."""
        # `.data` and not `.detach()`: a version counter of its own, since a later update of the
        # parameter in place must not look like one of the leaf.
        return {name: p.data.requires_grad_() for name, p in self._parameters.items()}
