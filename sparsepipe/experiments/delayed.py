"""What training in a pipeline computes, step for step, in one process: the truth for the runtime.

Asynchronous 1F1B with weight stashing (PipeDream; D. Narayanan et al., SOSP 2019) never flushes the
pipeline. A stage begins its forward pass of a mini-batch before the updates of the mini-batches
ahead of it have come back. It stashes the weights of that moment and uses them for the backward
pass too; the gradients are then applied to the newest weights.

Count stages, mini-batches and updates from 0; update t is the one that mini-batch t causes. Stage s
of S has S - s mini-batches in flight, so its weights for mini-batch t have seen
max(0, t - (S - s) + 1) updates: its *lag* is S - s - 1. With S = 3:

    mini-batch             0  1  2  3  4
    updates seen, stage 0  0  0  0  1  2      (lag 2)
    updates seen, stage 1  0  0  1  2  3      (lag 1)
    updates seen, stage 2  0  1  2  3  4      (lag 0: always the newest weights)

With lag 0 everywhere this is plain, synchronous training, which schedules that flush must equal.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsepipe.runtime.values import Value

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[Value, Tensor], Tensor]
"""Takes the last stage's output and the targets to a scalar."""


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
        """Begin with these stages, each of which takes and returns a tuple of values, and has an
        optimizer of its own.

        `lags`: by how many updates each stage's weights are behind; S - s - 1 by default.
        """
        self._stages, self._loss = stages, loss
        self._optimizers = [_optimizer(stage, make_optimizer) for stage in stages]
        lags = range(len(stages) - 1, -1, -1) if lags is None else lags
        # The first entry of a full stash is the weights that are `lag` updates old; while the
        # stash fills up, it is the initial weights.
        self._stashes: list[deque[dict[str, Tensor]]] = [deque(maxlen=lag + 1) for lag in lags]

    def step(self, inputs: Value, targets: Tensor) -> float:
        """Run the forward and the backward pass of the next mini-batch, and update; returns its
        loss."""
        values: tuple[Value, ...] = (inputs,)
        for stage, stash in zip(self._stages, self._stashes, strict=True):
            stash.append(_copied(stage))
            values = functional_call(stage, stash[0], values)
        loss = self._loss(values[0], targets)
        loss.backward()
        for stage, stash, optimizer in zip(
            self._stages, self._stashes, self._optimizers, strict=True
        ):
            # The gradients belong to the stashed weights; the newest ones are updated by them.
            for name, parameter in stage.named_parameters():
                parameter.grad, stash[0][name].grad = stash[0][name].grad, None
            if optimizer is not None:
                optimizer.step()
        return float(loss.detach())


def _optimizer(stage: nn.Module, make: MakeOptimizer) -> torch.optim.Optimizer | None:
    """An optimizer for the stage; None for one without parameters (a pooling, say), which
    optimizers refuse."""
    parameters = list(stage.parameters())
    return make(parameters) if parameters else None


def _copied(stage: nn.Module) -> dict[str, Tensor]:
    """Copy a stage's parameters, to run the stage with the copies later."""
    return {
        name: parameter.detach().clone().requires_grad_(parameter.requires_grad)
        for name, parameter in stage.named_parameters()
    }
