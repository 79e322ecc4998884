"""What training in a pipeline computes, step for step, in one process: the truth for the runtime.

`Delayed` is asynchronous 1F1B with weight stashing (PipeDream; D. Narayanan et al., SOSP 2019):
stage s of S runs mini-batch t, forward and backward, with the weights that have seen `version(t, s,
S)` updates; the gradients are applied to the newest weights, those that have seen t. `Synchronous`
is plain training: what the schedules that flush must equal.

Everything is counted from 0, and update t is the one that mini-batch t causes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsepipe.pipeline.values import Value

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[Value, Tensor], Tensor]
"""Of the last stage's output and the targets, to a scalar."""


def in_flight(stage: int, stages: int) -> int:
    """Mini-batches that a stage has begun and not finished in steady state: S - s."""
    return stages - stage


def version(step: int, stage: int, stages: int) -> int:
    """How many updates the weights have seen with which a stage runs mini-batch `step`.

    max(0, t - (S - s) + 1): the last stage always has the newest weights, t; stage 0 is S - 1
    updates behind. The first S - s mini-batches of a stage, its warm-up, all run with the initial
    weights. In other words: updates 0, ..., t - (S - s) are in, for t < S - s none is.
    """
    return max(0, step - in_flight(stage, stages) + 1)


class Delayed:
    """Trains `stages` in place; their parameters are the newest weights after every step.

    Buffers (running statistics) are not stashed: like the runtime's, they follow the forward
    passes. Whatever is random must be seeded alike on both sides, or switched off (dropout).
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        make_optimizer: MakeOptimizer,
        loss: Loss,
        lags: Sequence[int] | None = None,
    ) -> None:
        """Each stage takes and returns a tuple of values, and has an optimizer of its own.

        `lags`: how many updates each stage's weights are behind, instead of S - s - 1.
        """
        self._stages, self._loss = stages, loss
        self._optimizers = [_optimizer(stage, make_optimizer) for stage in stages]
        depth = len(stages)
        self._stashes: list[deque[dict[str, Tensor]]] = [
            deque(maxlen=in_flight(number, depth) if lags is None else lags[number] + 1)
            for number in range(depth)
        ]  # a stash's first entry is then `version`'s weights, warm-up included

    def step(self, inputs: Value, targets: Tensor) -> float:
        """Forward, backward and update of the next mini-batch; its loss."""
        values: tuple[Value, ...] = (inputs,)
        for stage, stash in zip(self._stages, self._stashes, strict=True):
            stash.append(_copied(stage))
            values = functional_call(stage, stash[0], values)
        loss = self._loss(values[0], targets)
        loss.backward()
        for stage, stash, optimizer in zip(
            self._stages, self._stashes, self._optimizers, strict=True
        ):
            for name, parameter in stage.named_parameters():
                parameter.grad, stash[0][name].grad = stash[0][name].grad, None
            if optimizer is not None:
                optimizer.step()
        return float(loss.detach())


class Synchronous:
    """Trains `stages` in place, every mini-batch with the newest weights."""

    def __init__(
        self, stages: Sequence[nn.Module], make_optimizer: MakeOptimizer, loss: Loss
    ) -> None:
        """As `Delayed`; the network as a whole is Network(model).stages([])."""
        self._stages, self._loss = stages, loss
        self._optimizers = [_optimizer(stage, make_optimizer) for stage in stages]

    def step(self, inputs: Value, targets: Tensor) -> float:
        """Forward, backward and update of the next mini-batch; its loss."""
        values: tuple[Value, ...] = (inputs,)
        for stage in self._stages:
            stage.zero_grad()
            values = stage(*values)
        loss = self._loss(values[0], targets)
        loss.backward()
        for optimizer in self._optimizers:
            if optimizer is not None:
                optimizer.step()
        return float(loss.detach())


def _optimizer(stage: nn.Module, make: MakeOptimizer) -> torch.optim.Optimizer | None:
    """None for a stage without parameters (a pooling, say), which optimizers refuse."""
    parameters = list(stage.parameters())
    return make(parameters) if parameters else None


def _copied(stage: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone().requires_grad_(parameter.requires_grad)
        for name, parameter in stage.named_parameters()
    }
