"""The exchange by DeepSpeed's ZeRO, a baseline, which spares memory by partitioning.

Every worker keeps only its part of the optimizer's states (ZeRO-1), of the gradients too (ZeRO-2),
or also of the parameters (ZeRO-3). The update is that of plain SGD, as in every scheme. DeepSpeed
is the extra `deepspeed`, which is imported only when a run asks for it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel.distributed import _find_tensors

from stanza.workers.optimizers import OptimizerFactory
from systems.deepspeed import check_installed, import_deepspeed
from systems.network.distributed import World

BUCKET_VALUES = 6_553_600
"""The number of values in a bucket: 25 MiB of float32, as in DDP."""


class Zero:
    """The exchange of a whole-model worker, over torch's default group of all workers."""

    def __init__(
        self, module: nn.Module, stage: int, optimizer: OptimizerFactory, world: World
    ) -> None:
        """Wrap `module`, whose parameters DeepSpeed then owns.

        Args:
            stage: 1, 2 or 3.
            optimizer: makes a torch optimizer. DeepSpeed's own would be compiled for minutes.

        Raises:
            InputError: DeepSpeed is not installed.
        """
        check_installed(f"--stanza.scheme zero{stage}")
        deepspeed = import_deepspeed(world.device, world.backend)
        self._workers = world.world_size
        self._engine: Any = deepspeed.initialize(
            model=module,
            optimizer=optimizer(p for p in module.parameters() if p.requires_grad),
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,  # not read: batches come from outside
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": 0.0,  # 1.0 by default
                "zero_optimization": {
                    "stage": stage,
                    "reduce_bucket_size": BUCKET_VALUES,
                    "allgather_bucket_size": BUCKET_VALUES,
                    "stage3_param_persistence_threshold": 0,  # else small models stay whole
                },
            },
        )[0]

    def forward(self, inputs: Tensor) -> Any:
        """Run the module. Stage 3 gathers each layer's parameters just before it runs."""
        return self._engine(inputs)

    def expect_gradients(self, outputs: Any) -> None:
        """Multiply the gradients by the number of workers, because DeepSpeed averages them."""
        for tensor in _find_tensors(outputs):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: gradient * self._workers)

    def update(self) -> None:
        """Finish the exchange. Each worker applies the optimizer to its partition."""
        self._engine.step()


def gathered(partitioned: nn.Module, whole: nn.Module) -> nn.Module:
    """Copy the parameters that stage 3 has partitioned, and the buffers, into `whole`.

    Every rank must call this, since every rank has a part. Returns `whole`.
    """
    import deepspeed

    with torch.no_grad(), deepspeed.zero.GatheredParameters(list(partitioned.parameters())):
        for ours, theirs in zip(whole.parameters(), partitioned.parameters(), strict=True):
            ours.copy_(theirs)
    for buffer, trained in zip(whole.buffers(), partitioned.buffers(), strict=True):
        buffer.copy_(trained)
    return whole
