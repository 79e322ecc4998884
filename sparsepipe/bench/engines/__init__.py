"""The engines that are compared: what each computes, and what it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sparsepipe.bench.engines import dense, gemm, minkowski, native, spconv, torchsparse
from sparsepipe.bench.passes import Passes
from sparsepipe.bench.task import Kind, Task


def _always(device: str, threads: int) -> None:
    """Nothing is missing anywhere."""
    del device, threads


@dataclass(frozen=True)
class Engine:
    """Someone who computes tasks."""

    passes: Callable[[Task], Passes]
    """Prepares a task; returns the passes that the engine has for it."""
    kinds: tuple[Kind, ...]
    """The tasks that it computes here."""
    missing: Callable[[str, int], str | None] = _always
    """Why it cannot be measured on a device here, with so many threads; None: it can."""
    package: str = "torch"
    """The distribution that it comes in."""


ENGINES: Mapping[str, Engine] = {
    "native": Engine(native.passes, ("layer", "network", "maps"), package="systems-testbed"),
    "pytorch": Engine(partial(native.passes, backend="pytorch"), ("layer", "network")),
    "minkowski": Engine(
        minkowski.passes, ("layer", "network", "maps"), minkowski.missing, "MinkowskiEngine"
    ),
    "spconv": Engine(spconv.passes, ("layer", "maps"), spconv.missing, "spconv"),
    "torchsparse": Engine(torchsparse.passes, ("layer",), torchsparse.missing, "torchsparse"),
    "dense": Engine(dense.passes, ("layer",)),
    "gemm": Engine(gemm.passes, ("layer",)),
}
"""All engines, by their names. Times of the others are told over those of the first."""
