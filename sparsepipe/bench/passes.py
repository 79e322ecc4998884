"""Passes: what is timed of an engine.

A pass is a generator. When it yields the name of a part, that part has just ended, and began at the
yield before; None ends something that is not timed, such as putting voxels where a map is made of.

    def step():
        output = layer(inputs)
        yield "forward"
        output.backward(output.detach())
        yield "backward"
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.bench.task import CLASSES, Task
from sparsepipe.models import NETWORKS, Kit

Pass = Callable[[], Iterator[str | None]]
"""Makes a pass."""
Passes = Mapping[str, Pass]
"""The passes that an engine has for a task, by their names in `PARTS`."""

STRIDED = (2, 3)
"""The kernel sizes of the strided maps: those of U-Nets, and those of ResNets."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "forward", "backward"),
    "infer": ("infer",),
    "maps": (
        "map 3^3",
        *(f"map {size}^3 stride 2" for size in STRIDED),
        *(f"map {size}^3 transposed" for size in STRIDED),
    ),
}
"""The parts of every pass. `train`, a step without the optimizer, is forward and backward."""
TURN_S = 0.02
"""How long a turn lasts, about, where passes are shorter."""
MOST_A_TURN = 25
"""The most passes of a turn."""


@dataclass(frozen=True)
class Lap:
    """What a part took."""

    wall_s: float
    processor_s: float
    """Seconds that the process's threads were given a core."""


def turn(make: Pass, device: torch.device) -> dict[str, Lap]:
    """Take a turn: one pass; or, where passes are short, several after one that warms the caches,
    and the medians of their parts."""
    first = _laps(make, device)
    taken_s = sum(lap.wall_s for lap in first.values())
    if taken_s >= TURN_S:
        return first
    count = min(MOST_A_TURN, int(TURN_S / max(taken_s, 1e-6)))
    passes = [_laps(make, device) for _ in range(max(count, 1))]
    return {part: _median([laps[part] for laps in passes]) for part in first}


def _median(laps: Sequence[Lap]) -> Lap:
    """The median of each clock."""
    return Lap(
        statistics.median(lap.wall_s for lap in laps),
        statistics.median(lap.processor_s for lap in laps),
    )


def _laps(make: Pass, device: torch.device) -> dict[str, Lap]:
    """Make a pass; returns what each part took, and `train` where there is a forward and a
    backward. On a GPU a part ends when the device has done all of it."""
    on_gpu = device.type == "cuda"
    laps: dict[str, Lap] = {}
    if on_gpu:
        torch.cuda.synchronize(device)
    wall, processor = time.perf_counter(), time.process_time()
    for part in make():
        if on_gpu:
            torch.cuda.synchronize(device)
        if part is not None:
            laps[part] = Lap(time.perf_counter() - wall, time.process_time() - processor)
        wall, processor = time.perf_counter(), time.process_time()
    if "backward" in laps:
        there, back = laps["forward"], laps["backward"]
        both = Lap(there.wall_s + back.wall_s, there.processor_s + back.processor_s)
        laps = {"train": both, **laps}
    return laps


def layer_passes(
    layer: nn.Module, forward: Callable[[], Tensor], inputs: Tensor
) -> dict[str, Pass]:
    """The passes through a layer.

    Args:
        forward: computes the layer's output. Its kernel map was made before.
        inputs: the leaf whose gradient is wanted beside those of the parameters.
    """

    def train() -> Iterator[str | None]:
        """A step, whose gradients are dropped."""
        output = forward()
        yield "forward"
        output.backward(output.detach())  # any gradient will do, and this one costs nothing
        yield "backward"
        for tensor in (inputs, *layer.parameters()):
            tensor.grad = None

    def infer() -> Iterator[str | None]:
        """The forward pass without a graph."""
        with torch.no_grad():
            forward()
        yield "infer"

    return {"train": train, "infer": infer}


def network_passes(
    task: Task, kit: Kit, tensor: Callable[[], Any], rows: Callable[[Any], Tensor]
) -> dict[str, Pass]:
    """The passes through a network, which makes its kernel maps anew each time.

    Args:
        kit: the engine's layers.
        tensor: makes the engine's tensor of the task.
        rows: takes the features out of such a tensor.
    """
    torch.manual_seed(0)
    network = NETWORKS[task.network](1, CLASSES, kit=kit).to(task.device)

    def train() -> Iterator[str | None]:
        """A step without the optimizer."""
        network.train()
        yield None
        logits = rows(network(tensor()))
        labels = torch.arange(len(logits), device=task.device) % CLASSES
        loss = nn.functional.cross_entropy(logits, labels)
        yield "forward"
        loss.backward()
        yield "backward"
        network.zero_grad()

    def infer() -> Iterator[str | None]:
        """The forward pass of a network that has been trained."""
        network.eval()
        yield None
        with torch.no_grad():
            rows(network(tensor()))
        yield "infer"

    return {"train": train, "infer": infer}
