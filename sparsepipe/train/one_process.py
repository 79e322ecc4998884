"""Training in one process: the network learns to classify clouds, or their voxels. Pipelines are
held against it."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from sparsepipe.options import Options
from sparsepipe.train.optimizers import make_optimizer
from sparsepipe.train.summary import summarize_one_rank
from sparsepipe.train.workload import Workload, accuracy
from systems import by_path
from systems.network.distributed import World
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.state import State
from systems.runs.trace import Tracer

WARM_UP = 2
"""The first steps are not counted in times, since buffers still grow to their size."""


def train_in_one_process(
    options: Options,
    world: World,
    workload: Workload,
    tracer: Tracer,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Step]:
    """Train; yields a step for every mini-batch, then a last one with the totals of the run.

    The metrics of a step are `step_s`, `samples`, `voxels`, and `loss_sum` over its samples. The
    last step is explained at `last_step`.
    """
    if world.device.type == "cpu":  # one core is left to the threads that make mini-batches
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    checkpoints = checkpoints or Checkpoints.off(world)
    first, first_batch = checkpoints.first_step, checkpoints.first_batch(options.batch_size)
    segments = list(checkpoints.segments(options.steps))
    network = workload.network().to(world.device)
    update = make_optimizer(options, network.parameters(), first)
    state = State(network, world.rank)
    state.add(network, update)
    checkpoints.restore_model(network)
    checkpoints.restore(state)
    began = time.perf_counter()
    mini_batches = workload.mini_batches(first_batch, world.device)
    for begin, end in segments:
        for index in range(begin, end):
            started = time.perf_counter()
            with tracer.span("data"):
                batch = next(mini_batches).to(world.device)
            with tracer.span("forward"):
                loss = workload.loss(network(batch.inputs), batch.targets)
            with tracer.span("backward"):
                update.zero_grad()
                loss.backward()
            with tracer.span("update"):
                update.step()
            samples = len(batch)
            metrics = {"loss_sum": loss.item() * samples, "samples": samples}
            metrics |= {"voxels": len(batch.inputs), "step_s": time.perf_counter() - started}
            yield Step(index, metrics)
        seen = (first_batch + end - first) * options.batch_size
        checkpoints.save(end, options.steps, state, seen)
    mini_batches.close()
    yield last_step(network, workload, world, began, first)


def last_step(
    network: nn.Module, workload: Workload, world: World, began: float, first: int
) -> Step:
    """Test the trained network; the step that this returns has the totals of the run.

    Its metrics are `train_s`, `test_s`, `test_accuracy`, `bad_files`, `digest` (see
    `weights_digest`), and `resumed_step`, which is not 0 in a run that continued a checkpoint.

    Args:
        began: when training began, on the clock of time.perf_counter.
        first: the first step that was trained.
    """
    trained = time.perf_counter()
    tested = accuracy(network, workload, world.device, workload.options.test_clouds)
    totals = {
        "train_s": trained - began,
        "test_s": time.perf_counter() - trained,
        "test_accuracy": tested,
        "bad_files": len(workload.data.bad_files),
        "digest": weights_digest(network),
        "resumed_step": first,
    }
    return Step(workload.options.steps, totals)


def weights_digest(network: nn.Module) -> int:
    """The first 48 bits of the SHA-256 of parameters and buffers: equal for equal networks."""
    sha = hashlib.sha256()
    for tensor in network.state_dict().values():
        sha.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(sha.digest()[:6], "big")


def summarize_one_process(options: Options, steps: Sequence[Step]) -> dict[str, Any]:
    """The result of a run from its steps: times, losses, accuracy."""
    *trained, totals = steps
    summary = summarize_one_rank(trained, WARM_UP)
    return {"scheme": "single", "model": by_path.short(options.model), **summary, **totals.metrics}
