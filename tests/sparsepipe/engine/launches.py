"""What a GPU would be asked for, counted on a CPU: kernels that are started, and waits of the host.

Counted as launches are PyTorch's operators that compute or copy something, and calls of Triton's
kernels. (An operator such as a sort may start several kernels; views and allocations start none.)
Triton's kernels do not run, since interpreting takes long, so tables and features hold anything:
neither sizes nor decisions of the host may depend on them. The kernel of keys does, since the host
reads what it finds.

Counted as waits are operators whose result's size or value the host must know before it goes on,
and every way in which a tensor's numbers come to the host.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsepipe.engine import batch_norm, compiled_maps, coordinates, layouts, lookup

FREE = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach"}
FREE |= {"lift_fresh", "promote_types", "_unsafe_view", "_reshape_alias", "resize_", "set_"}
"""Operators that start no kernel, beside views."""
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim"}
WAITING |= {"unique_consecutive", "equal", "bincount", "is_nonzero", "item"}
"""Operators that need the host: it allocates what they return, or decides by it."""
READING = {"tolist", "cpu", "numpy", "__array__"}
"""Methods of tensors that bring numbers to the host without an operator, where both are a CPU."""

READ = "pack_kernel"
"""The kernel whose results the host reads."""


@dataclass
class Asked:
    """What was asked of a GPU, by name."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


class _Operators(TorchDispatchMode):
    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self._asked = asked

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name.removeprefix("aten::")
        if not function.is_view and name not in FREE:
            self._asked.launches[name] += 1
        if name in WAITING or (name.startswith("index") and _by_mask(args)):
            self._asked.waits[name] += 1
        return function(*args, **(kwargs or {}))


def _by_mask(args: Any) -> bool:
    """Whether an operator indexes with a mask, whose true places must be counted first."""
    places = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(place, Tensor) and place.dtype == torch.bool for place in places)


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Make maps of tensors on a CPU as those on a GPU are made, and normalise as there."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(compiled_maps, "functions", return_value=None))
        for module in (batch_norm, coordinates, layouts, lookup):
            stack.enter_context(mock.patch.object(module, "triton_serves", return_value=True))
        yield


@contextmanager
def counted() -> Iterator[Asked]:
    """Count what is asked for in the block, with TRITON_INTERPRET=1 in the environment."""
    asked = Asked()
    with ExitStack() as stack:
        stack.enter_context(_interpreted_calls(asked))
        for name in READING:
            stack.enter_context(_reading(asked, name))
        stack.enter_context(_Operators(asked))
        yield asked


def _reading(asked: Asked, name: str) -> AbstractContextManager[object]:
    """Count the calls of a method of tensors."""
    read = getattr(Tensor, name)

    def counting(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        asked.waits[name] += 1
        return read(tensor, *args, **kwargs)

    return mock.patch.object(Tensor, name, counting)


@contextmanager
def _interpreted_calls(asked: Asked) -> Iterator[None]:
    """Count the calls of Triton's kernels, which would be interpreted here."""
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def counting(kernel: Any, *args: Any, **kwargs: Any) -> None:
        name = kernel.fn.__name__
        asked.launches[name] += 1
        if name == READ:
            before = asked.launches.copy(), asked.waits.copy()
            run(kernel, *args, **kwargs)
            asked.launches, asked.waits = before  # without what the interpreter does

    with mock.patch.object(InterpretedFunction, "run", counting):
        yield
