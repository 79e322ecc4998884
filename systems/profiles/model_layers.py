"""Finds out how the layers of a model are called and how large they are, without computing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from systems import by_path
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class KnownLayer:
    """One call of a module."""

    name: str
    """The module's name in the model, as `named_modules` has it."""
    kind: str
    """The name of its class."""
    operation: str
    """The module as PyTorch prints it, without the modules inside it."""
    activation_bytes: int
    """Size of all tensors that it returns."""
    parameter_bytes: int
    """Size of its parameters, those of modules inside it included."""
    is_leaf: bool
    """Whether there are no modules inside it."""


def layers_that_run(
    model: nn.Module, input_dims: Sequence[int], dtype: torch.dtype, where: str
) -> list[KnownLayer]:
    """The modules of `model`, in the order in which their calls begin, for an input of a shape.

    The model is moved to the meta device, where nothing is computed, and stays there.

    Args:
        input_dims: the shape of its one input, such as [B, 3, 224, 224].
        dtype: the type of the input. A floating one becomes that of the model's parameters.
        where: the option that names the model, and its value, for errors.

    Raises:
        InputError: it does not run on such an input, or not without computing.
    """
    calls: list[tuple[str, nn.Module]] = []
    outputs: dict[int, int] = {}  # the number of a call, and the bytes that it has returned
    begun: list[int] = []

    def before(name: str, module: nn.Module) -> None:
        begun.append(len(calls))
        calls.append((name, module))

    def after(output: object) -> None:
        outputs[begun.pop()] = _bytes(output)

    model.to("meta")
    if dtype.is_floating_point:
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), dtype)
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, _, name=name: before(name, module))
        module.register_forward_hook(lambda module, inputs, output: after(output))
    try:
        with torch.no_grad():
            model(torch.empty(tuple(input_dims), dtype=dtype, device="meta"))
    except Exception as error:  # the model's own code runs here
        shape = "x".join(map(str, input_dims))
        raise InputError(
            f"{where}: does not run on an input of {shape} without computing: "
            f"{by_path.failure(error)}; leave --model out, or give the model of the trace"
        ) from error
    return [
        KnownLayer(
            name=name,
            kind=type(module).__name__,
            operation=f"{type(module).__name__}({module.extra_repr()})",
            activation_bytes=outputs[number],
            parameter_bytes=sum(p.nbytes for p in module.parameters()),
            is_leaf=not list(module.children()),
        )
        for number, (name, module) in enumerate(calls)
    ]


def _bytes(output: object) -> int:
    """The bytes of all tensors in what a module returns."""
    if isinstance(output, torch.Tensor):
        return output.numel() * output.element_size()
    if isinstance(output, dict):
        return sum(map(_bytes, output.values()))
    return sum(map(_bytes, output)) if isinstance(output, (list, tuple)) else 0
