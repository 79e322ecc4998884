"""Keeps the copies of one module on several ranks equal: once per step they agree on an update.

A worker runs its module through an `Exchange` and does not know which kind it has:

    outputs = exchange.forward(inputs)          # any number of micro-batches
    exchange.expect_gradients(outputs)          # before the last backward pass of the step
    outputs.backward(gradient)
    exchange.update()                           # parameters are now those of the next step

A worker without samples in this step calls `expect_gradients(None)` and `update()` alone.

Gradients are summed over the workers, not averaged: every worker divides its loss by the global
batch size, so the sum is the gradient of the mean over the global batch.

`AllReduce` sums by a ring. The n ranks stand in a circle, and each cuts its gradient into n pieces.
In n - 1 rounds every rank adds its own values to the piece that it receives and passes it on; then
each rank has the complete sum of one piece. In n - 1 more rounds the sums go around once:

    rank 0 --> rank 1 --> rank 2       2 (n - 1) messages of 1/n of the bytes for each rank,
       ^                    |          whatever n is: about twice the gradient's bytes out,
       +--------------------+          and as many in

This happens bucket by bucket: as soon as the backward pass has filled a bucket, its ring starts,
while the backward pass goes on with the layers before.
"""

import gc
import inspect
from contextlib import ExitStack
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parallel.distributed import _find_tensors

from stanza.exchanges.find import BetweenSteps, Hook
from stanza.workers.clipping import Clipping
from stanza.workers.messages import BUCKET_MEBIBYTES
from stanza.workers.optimizers import OptimizerFactory
from systems.processes.waiting import waiting
from systems.schema import InputError


class Exchange(Protocol):
    """What a worker asks of an exchange. The module's docstring says in which order."""

    def forward(self, inputs: Tensor) -> Any:
        """Run the module. Its parameters' gradients add up over the step's backward passes."""
        ...

    def expect_gradients(self, outputs: Any) -> None:
        """Announce the last backward pass of this step, from `outputs`: gradients may travel.

        None says that there is none, because this rank has no samples in this step.
        """
        ...

    def update(self) -> None:
        """Finish the exchange, apply the optimizer, and clear the gradients."""
        ...


class Alone:
    """The exchange of a module that no other rank holds, or that is frozen: nothing is sent."""

    def __init__(
        self, module: nn.Module, optimizer: OptimizerFactory, clipping: Clipping | None = None
    ) -> None:
        """Train the parameters of `module` that require a gradient; there may be none."""
        self.module, self._clipping = module, clipping
        self._trained = trainable(module)
        self.optimizer = optimizer(self._trained) if self._trained else None

    def forward(self, inputs: Tensor) -> Any:
        """Run the module."""
        return self.module(inputs)

    def expect_gradients(self, outputs: Any) -> None:
        """Do nothing."""

    def update(self) -> None:
        """Apply the optimizer."""
        if self._clipping is not None:
            self._clipping.clip(self._trained)
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of `module` that require a gradient."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class AllReduce:
    """The exchange by torch's DistributedDataParallel (DDP), which all-reduces in buckets.

    The all-reduce of a bucket overlaps the rest of the step's last backward pass.
    """

    def __init__(
        self,
        module: nn.Module,
        group: dist.ProcessGroup,
        optimizer: OptimizerFactory,
        *,
        clipping: Clipping | None = None,
        hook: Hook | None = None,
        message_scale: float = 1.0,
    ) -> None:
        """Wrap `module`.

        Args:
            hook: exchanges a bucket; None sums it by a ring.
            message_scale: in an emulation messages are so many times smaller.
        """
        # Batch-norm statistics stay local, as in the paper; DDP would broadcast those of rank 0.
        # torch has renamed the argument that says so.
        arguments = inspect.signature(DistributedDataParallel).parameters
        broadcast = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in arguments)
        options: dict[str, Any] = {broadcast: False, "gradient_as_bucket_view": True}
        options["bucket_cap_mb"] = BUCKET_MEBIBYTES / message_scale
        self._sum, self._hook = _Sum(group, hook), hook
        with waiting(f"set-up of the {self._sum.what}", self._sum.others):
            self._module = DistributedDataParallel(module, process_group=group, **options)
        self._module.register_comm_hook(self._sum, _sum_hook if hook is None else _other_hook)
        self._trained, self._clipping = trainable(module), clipping
        self.optimizer = optimizer(self._trained)

    def forward(self, inputs: Tensor) -> Any:
        """Run the module. DDP does nothing before `expect_gradients`."""
        with self._module.no_sync():
            return self._module(inputs)

    def expect_gradients(self, outputs: Any) -> None:
        """Make DDP all-reduce during the next backward pass, which is the last of the step.

        DDP prepares itself in the forward pass, which is too early with micro-batches: it would
        reduce during the first backward pass. torch.distributed.pipelining does the same as here.
        """
        self._module.reducer.prepare_for_backward(list(_find_tensors(outputs)))
        if outputs is None:
            nothing: Tensor = _NoGradients.apply(*self._trained)
            nothing.backward()

    def update(self) -> None:
        """Apply the optimizer. DDP has summed the gradients by the end of the backward pass."""
        self._sum.wait.close()
        if self._clipping is not None:
            self._clipping.clip(self._trained)
        self.optimizer.step()
        # Keep the memory: with gradient_as_bucket_view gradients live in DDP's buckets.
        self.optimizer.zero_grad(set_to_none=False)
        if isinstance(self._hook, BetweenSteps):
            with waiting("what the exchange does between steps", self._sum.others):
                self._hook.after_step(self._trained)

    @property
    def may_differ(self) -> bool:
        """Whether the copies of the module may differ between steps, as the hook wants it."""
        return isinstance(self._hook, BetweenSteps)

    def collect(self) -> None:
        """Make the parameters those of the trained model, where copies may differ."""
        if isinstance(self._hook, BetweenSteps):
            with waiting("what the exchange does at the end", self._sum.others):
                self._hook.collect(self._trained)

    def close(self) -> None:
        """Free DDP, and do so before the process group is destroyed.

        Gloo's thread frees what a backward pass has sent, a Python object among it, and needs
        Python's lock for that. If DDP were the last to hold the group, it would wait for this
        thread and keep the lock: neither would go on (pytorch issue 190489).
        """
        del self._module
        gc.collect()  # DDP is part of a cycle


class _NoGradients(torch.autograd.Function):
    """A zero that depends on parameters and gives none of them a gradient.

    Its backward pass tells DDP that all gradients are there; DDP takes zeros for them.
    """

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        return (None,) * int(ctx.count)


class _Sum:
    """What DDP's hook needs to sum a bucket over a group, by another hook if there is one.

    It has no reference to the exchange. DDP keeps it where Python's garbage collector does not
    look, and a cycle of references would keep the group and its threads alive for ever.
    """

    def __init__(self, group: dist.ProcessGroup, hook: Hook | None) -> None:
        ranks = dist.get_process_group_ranks(group)
        self.group, self.hook, self.ranks = group, hook, len(ranks)
        self.others = [rank for rank in ranks if rank != dist.get_rank()]
        self.what = f"all-reduce of gradients among ranks {', '.join(map(str, ranks))}"
        self.wait = ExitStack()


def _sum_hook(state: _Sum, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Start to sum a bucket over the group. DDP's own hook divides by the number of workers."""
    work = dist.all_reduce(bucket.buffer(), group=state.group, async_op=True)
    assert work is not None  # this rank is in the group
    if bucket.is_last():  # the backward pass has nothing left to do but wait
        state.wait.enter_context(waiting(state.what, state.others))
    future = work.get_future()
    return future.then(lambda done: done.value()[0])


def _other_hook(state: _Sum, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Let another hook exchange a bucket.

    It gets what hooks of DDP get everywhere, the gradient of the mean over this rank's samples, and
    returns the mean over the ranks: the sum of what is in the bucket now.
    """
    assert state.hook is not None  # else `_sum_hook` is registered
    bucket.buffer().mul_(state.ranks)
    future = state.hook(bucket)
    if not isinstance(future, torch._C.Future):  # what torch.futures.Future is made of
        raise InputError(
            f"--stanza.exchange: the hook returns a {type(future).__name__}; give a "
            "torch.futures.Future of the mean gradient"
        )
    if bucket.is_last():
        state.wait.enter_context(waiting(state.what, state.others))
    return future
