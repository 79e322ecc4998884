"""How the ranks that hold copies of one module agree on its update, once per step.

A worker runs its module through the exchange and does not know which one it has:

    outputs = exchange.forward(inputs)          # any number of micro-batches
    exchange.expect_gradients(outputs)          # before the last backward pass of the step
    outputs.backward(gradient)
    exchange.update()                           # parameters are now those of the next step

Gradients are summed over the workers, so every worker's loss is its share of the global mean.
"""

import inspect
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parallel.distributed import _find_tensors

from stanza.workers.messages import BUCKET_MEBIBYTES
from systems.processes.waiting import waiting

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Exchange(Protocol):
    """What a worker needs of an exchange."""

    def forward(self, inputs: Tensor) -> Any:
        """Run the module; gradients of its outputs will be accumulated."""
        ...

    def expect_gradients(self, outputs: Any) -> None:
        """The next backward pass, from `outputs`, is the last one of this step: exchange in it."""
        ...

    def update(self) -> None:
        """Finish the exchange and apply the optimizer; gradients are cleared."""
        ...


class Alone:
    """A single worker: nothing to exchange."""

    def __init__(self, module: nn.Module, optimizer: OptimizerFactory) -> None:
        self.module = module
        self.optimizer = optimizer(p for p in module.parameters() if p.requires_grad)

    def forward(self, inputs: Tensor) -> Any:
        """Run the module."""
        return self.module(inputs)

    def expect_gradients(self, outputs: Any) -> None:
        """Nothing to prepare."""

    def update(self) -> None:
        """Apply the optimizer."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class AllReduce:
    """DistributedDataParallel: bucketed all-reduce that overlaps the last backward pass."""

    def __init__(
        self,
        module: nn.Module,
        group: dist.ProcessGroup,
        optimizer: OptimizerFactory,
        *,
        message_scale: float = 1.0,
    ) -> None:
        """Wrap `module`, whose messages are `message_scale` times smaller than real ones."""
        # Batch-norm statistics stay local, as the paper's; DDP would broadcast rank 0's each step.
        known = inspect.signature(DistributedDataParallel).parameters
        broadcast = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
        options: dict[str, Any] = {broadcast: False, "gradient_as_bucket_view": True}
        options["bucket_cap_mb"] = BUCKET_MEBIBYTES / message_scale
        self._sum = _Sum(group)
        with waiting(f"set-up of the {self._sum.what}", self._sum.others):
            self._module = DistributedDataParallel(module, process_group=group, **options)
        self._module.register_comm_hook(self._sum, _sum_hook)
        self.optimizer = optimizer(p for p in module.parameters() if p.requires_grad)

    def forward(self, inputs: Tensor) -> Any:
        """Run the module; DDP stays out of it until `expect_gradients`."""
        with self._module.no_sync():
            return self._module(inputs)

    def expect_gradients(self, outputs: Any) -> None:
        """Arm DDP for the last of several backward passes.

        DDP arms itself in the forward pass, which with micro-batches is too early: it would reduce
        during the first backward pass. torch.distributed.pipelining arms it in the same way.
        """
        self._module.reducer.prepare_for_backward(list(_find_tensors(outputs)))

    def update(self) -> None:
        """Apply the optimizer; DDP has reduced by the end of the backward pass."""
        self._sum.wait.close()
        self.optimizer.step()
        # Keep the memory: with gradient_as_bucket_view gradients live in DDP's buckets.
        self.optimizer.zero_grad(set_to_none=False)


class _Sum:
    """What the hook needs. It must not know the exchange: DDP keeps it where Python's collector
    does not look, and a ring of references would keep the group and its threads for ever."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        ranks = dist.get_process_group_ranks(group)
        self.group, self.others = group, [rank for rank in ranks if rank != dist.get_rank()]
        self.what = f"all-reduce of gradients among ranks {', '.join(map(str, ranks))}"
        self.wait = ExitStack()


def _sum_hook(of: _Sum, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """All-reduce a bucket with a sum; DDP's own hook divides by the number of workers."""
    work = dist.all_reduce(bucket.buffer(), group=of.group, async_op=True)
    assert work is not None  # this rank is in the group
    if bucket.is_last():  # the backward pass has nothing left to do but wait
        of.wait.enter_context(waiting(of.what, of.others))
    future = work.get_future()
    return future.then(lambda done: done.value()[0])
