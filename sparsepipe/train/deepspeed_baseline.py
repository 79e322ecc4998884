"""A baseline: DeepSpeed's PipelineModule trains the network's dense twin on the same clouds.

DeepSpeed sends tensors of one shape, so every cloud becomes a volume of the whole unit cube,
occupied or not. Micro-batches, loss, optimizer and learning rate are those of a flushing pipeline.
DeepSpeed cuts the layers by their parameters, which is its default.
"""

import contextlib
import io
import time
from collections.abc import Iterator
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import DENSE, NETWORKS
from sparsepipe.names import CLASSIFIERS, LOSSES
from sparsepipe.options import Options
from sparsepipe.runtime.network import Network, StageModule
from sparsepipe.train.optimizers import make_optimizer
from sparsepipe.train.stages import MICRO_BATCHES
from sparsepipe.train.summary import summarize_one_rank
from sparsepipe.train.workload import Workload
from systems.deepspeed import check_installed, import_deepspeed
from systems.network.distributed import World
from systems.runs.record import Step
from systems.schema import InputError

HALVINGS = 5
"""How often MinkVGG16-BN halves a volume: the number of its poolings."""


def check_deepspeed(options: Options) -> None:
    """Refuse what the baseline cannot train.

    Raises:
        InputError: DeepSpeed is not installed, or mini-batches cannot be divided evenly.
    """
    check_installed("--sparsepipe.scheme deepspeed")
    if options.model not in CLASSIFIERS:
        raise InputError(
            f"--sparsepipe.model {options.model}: the deepspeed baseline has the dense twin of "
            f"{' or '.join(CLASSIFIERS)} alone; give that one"
        )
    if options.loss not in LOSSES:
        raise InputError(
            f"--sparsepipe.loss {options.loss}: the deepspeed baseline has the cross-entropy "
            "alone; leave it out"
        )
    if options.batch_size % micro_batches(options):
        raise InputError(
            f"--sparsepipe.batch-size {options.batch_size}: DeepSpeed's micro-batches have one "
            f"size; give a multiple of {micro_batches(options)}, the --sparsepipe.micro-batches"
        )


def micro_batches(options: Options) -> int:
    """The number of micro-batches in a mini-batch."""
    return options.micro_batches or MICRO_BATCHES


def cells_per_side(voxel_size: float) -> int:
    """The cells along each side of a volume that holds the unit cube and can be halved."""
    block = 2**HALVINGS
    return block * ceil(1 / voxel_size / block)


def volumes(sparse: SparseTensor, cells: int) -> Tensor:
    """The samples of a sparse tensor as volumes [B, C, cells, cells, cells], zero outside voxels.

    Raises:
        InputError: a voxel lies outside of the volume.
    """
    coordinates = sparse.coordinates.long()
    if len(sparse) and not 0 <= coordinates[:, 1:].min() <= coordinates[:, 1:].max() < cells:
        raise InputError(
            f"clouds reach out of a volume of {cells} cells a side; give a larger "
            "--sparsepipe.voxel-size, or other --sparsepipe.data"
        )
    shape = (sparse.batch_size, cells, cells, cells, sparse.features.shape[1])
    dense = sparse.features.new_zeros(shape)
    filled = dense.index_put(tuple(coordinates.unbind(1)), sparse.features)
    return filled.movedim(-1, 1).contiguous()


class OneValue(nn.Module):
    """A stage of one layer that takes and returns a tensor instead of a tuple of one."""

    def __init__(self, layer: StageModule) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, value: Tensor) -> Tensor:
        """Run the layer."""
        (output,) = self.layer(value)
        assert isinstance(output, Tensor)  # all values of a dense twin are plain
        return output.contiguous()  # DeepSpeed sends nothing else


def train_with_deepspeed(options: Options, world: World, workload: Workload) -> Iterator[Step]:
    """Train the dense twin; yields a step for every mini-batch.

    The metrics of a step are `step_s`, `samples`, `voxels` (of the clouds) and `loss_sum`.
    """
    deepspeed = import_deepspeed(world.device, world.backend)
    deepspeed.init_distributed(dist_backend=world.backend, verbose=False)
    torch.manual_seed(workload.seed)
    twin = NETWORKS[options.model](
        workload.channels, len(workload.data.class_names), width=options.width, kit=DENSE
    )
    network = Network(twin)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints every layer
        module = deepspeed.pipe.PipelineModule(
            layers=[OneValue(network.stage(i, i + 1)) for i in range(len(network.layers))],
            num_stages=world.world_size,
            loss_fn=nn.CrossEntropyLoss(),
        )
    parts = micro_batches(options)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=make_optimizer(options, [p for p in module.parameters() if p.requires_grad]),
        config={
            "train_batch_size": options.batch_size,
            "train_micro_batch_size_per_gpu": options.batch_size // parts,
            "gradient_accumulation_steps": parts,
            "steps_per_print": options.steps + 1,
        },
    )
    mini_batches = workload.mini_batches()
    cells = cells_per_side(options.voxel_size)
    for index in range(options.steps):
        started = time.perf_counter()
        batch = next(mini_batches)
        assert isinstance(batch.inputs, SparseTensor)  # a workload makes no other
        inputs = volumes(batch.inputs, cells).to(world.device).chunk(parts)
        labels = batch.targets.to(world.device).chunk(parts)
        loss = float(engine.train_batch(data_iter=iter(zip(inputs, labels, strict=True))))
        metrics = {"step_s": time.perf_counter() - started, "samples": len(batch)}
        metrics |= {"voxels": len(batch.inputs), "loss_sum": loss * len(batch)}
        yield Step(index, metrics)
    mini_batches.close()


def summarize_deepspeed(options: Options, steps: list[Step]) -> dict[str, Any]:
    """The result of a run from the steps of rank 0; the first step is not counted in times."""
    return {
        "scheme": "deepspeed",
        "model": f"{options.model}, dense twin",
        "micro_batches": micro_batches(options),
        "cells_per_step": options.batch_size * cells_per_side(options.voxel_size) ** 3,
        **summarize_one_rank(steps, warm_up=1),
    }
