"""The sum of a stage's gradients over its replicas, exchanged while the backward pass still runs.

    reduction.begin(leaves)            # before the last backward pass of a mini-batch
    output.backward(...)
    reduction.end()
    ...                                # passes of later mini-batches may come in between
    reduction.wait()
    gradients = reduction.finish()

Every replica's loss is a sum over its samples, divided by the size of the whole mini-batch. So the
sum of the gradients over the replicas is the gradient of the mini-batch's mean loss, whatever
samples each replica had. Gradients narrower than float32 are summed in float32 and rounded once.

The gradients are exchanged in parts, in the order in which a backward pass computes them, and each
part as soon as it is complete; only the last part is not hidden:

    backward     [layer 9][layer 8][ ... ][layer 0]
    all-reduce           [part 0][part 1]  ...     [last part]
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from sparsepipe.engine.precision import widened
from sparsepipe.schedule.lists import ALL_REDUCE_PARTS
from systems.network.distributed import World
from systems.network.transport import TransportError
from systems.processes.waiting import waiting


class Reduction:
    """The all-reduce of one stage's gradients; with one replica it only hands them over."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        world: World,
        *,
        stage: int,
        ranks: Sequence[int],
        group: dist.ProcessGroup | None,
    ) -> None:
        """`parameters` by name; `group` joins the `ranks` of the stage, None if there is one."""
        self._world, self._group = world, group
        self._others = [rank for rank in ranks if rank != world.rank]
        names = ", ".join(map(str, ranks))
        self._what = f"all-reduce of the gradients of stage {stage} among ranks {names}"
        self._shapes = {name: p.shape for name, p in parameters.items()}
        self._types = {name: p.dtype for name, p in parameters.items()}
        self._parts = _parts({name: p.nbytes for name, p in parameters.items()})
        self._part_of = {name: i for i, part in enumerate(self._parts) for name in part}
        self._leaves: Mapping[str, Tensor] = {}
        self._missing: list[int] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._started: list[tuple[Tensor, dist.Work]] = []
        self._ended: deque[list[tuple[Tensor, dist.Work]]] = deque()
        self._own: deque[dict[str, Tensor]] = deque()

    def begin(self, leaves: Mapping[str, Tensor]) -> None:
        """Begin to exchange each part as soon as all of its gradients are there, in order."""
        self._leaves, self._started = leaves, []
        if self._group is None:
            return
        self._missing = [len(part) for part in self._parts]
        self._hooks = [
            leaf.register_post_accumulate_grad_hook(lambda _, name=name: self._ready(name))
            for name, leaf in leaves.items()
        ]

    def end(self) -> None:
        """The backward pass is over: start the remaining parts, and clear the leaves' gradients."""
        for hook in self._hooks:
            hook.remove()
        if self._group is None:
            self._own.append({name: _gradient(leaf) for name, leaf in self._leaves.items()})
        else:
            while len(self._started) < len(self._parts):  # no samples, or unused parameters
                self._start()
            self._ended.append(self._started)
        for leaf in self._leaves.values():
            leaf.grad = None
        self._leaves, self._hooks = {}, []

    def wait(self) -> None:
        """Wait for the oldest exchange that is not finished.

        Raises:
            TransportError: a replica is gone or silent.
        """
        with waiting(self._what, self._others):
            try:
                for _, work in self._ended[0]:
                    work.wait()
            except RuntimeError as error:
                me = self._world.name(self._world.rank)
                reason = str(error).splitlines()[0]
                raise TransportError(f"{me}: {self._what} failed ({reason})") from error

    def finish(self) -> dict[str, Tensor]:
        """Take the gradients of the oldest exchange, by name, summed over the replicas."""
        if self._group is None:
            return self._own.popleft()
        gradients: dict[str, Tensor] = {}
        for part, (buffer, _) in zip(self._parts, self._ended.popleft(), strict=True):
            shapes = [self._shapes[name] for name in part]
            pieces = buffer.split([shape.numel() for shape in shapes])
            for name, shape, piece in zip(part, shapes, pieces, strict=True):
                gradients[name] = piece.view(shape).to(self._types[name])
        return gradients

    def _ready(self, name: str) -> None:
        """The gradient of one parameter is there: start all parts that are complete, in order."""
        self._missing[self._part_of[name]] -= 1
        while len(self._started) < len(self._parts) and not self._missing[len(self._started)]:
            self._start()

    def _start(self) -> None:
        """Start the all-reduce of the next part."""
        part = self._parts[len(self._started)]
        buffer = torch.cat([widened(_gradient(self._leaves[name])).flatten() for name in part])
        work = dist.all_reduce(buffer, group=self._group, async_op=True)
        assert work is not None  # this rank is in the group
        self._started.append((buffer, work))


def _gradient(leaf: Tensor) -> Tensor:
    """The gradient that a leaf has gathered; zeros where there is none."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _parts(size_bytes: Mapping[str, int]) -> list[list[str]]:
    """Divide the parameters, last first as in a backward pass, into parts of about equal bytes."""
    names = list(size_bytes)[::-1]
    total = sum(size_bytes.values())
    parts: list[list[str]] = [[] for _ in range(ALL_REDUCE_PARTS)]
    for name, end in zip(names, accumulate(size_bytes[name] for name in names), strict=True):
        middle = end - size_bytes[name] / 2
        parts[min(ALL_REDUCE_PARTS - 1, int(ALL_REDUCE_PARTS * middle / total))].append(name)
    return [part for part in parts if part]
