"""What a rank does: steps on its own part of the batch, and averages with the other ranks."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from systems.data.accuracy import accuracy
from systems.data.batches import global_batch, share
from systems.data.dataset import zeros
from systems.data.digits import open_digits
from systems.job import Job
from systems.network.distributed import World
from systems.profiles.emulated import EmulatedOptimizer, emulated_whole
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.state import State
from systems.runs.trace import Tracer
from systems.runs.window import Window
from systems.system import Opened, Steps


def network() -> nn.Module:
    """Images [b, 1, 8, 8] to logits [b, 10]."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 10))


def opened(job: Job, profile: Any, emulation: Any) -> Opened:
    """This rank's part: the network on digits, or one that waits as long as a profile says."""
    options, data, build = job.options, open_digits(), network
    sgd: Any = partial(torch.optim.SGD, lr=options.learning_rate)
    if emulation is not None:
        data, sgd = zeros(options.batch_size, f"none (waits of {profile.name})"), EmulatedOptimizer
        build = partial(emulated_whole, profile, emulation)
    return Opened(
        scheme=f"average every {options.period} steps",
        roles=f"{job.world_size} replicas",
        data=data.kind,
        work=Steps(
            run=partial(train, job, (data, build, sgd)), last=options.steps, shows_loss=True
        ),
    )


def train(
    job: Job, parts: Any, world: World, tracer: Tracer, checkpoints: Checkpoints
) -> Iterator[Step]:
    """Do the steps that are left, then yield one more with the totals of this rank."""
    data, build, sgd = parts
    options, first, size = job.options, checkpoints.first_step, job.options.batch_size
    segments = list(checkpoints.segments(options.steps))
    warm = min(first + options.period, options.steps - 1)  # the first period is not measured
    torch.manual_seed(job.seed)
    model = build().to(world.device)
    checkpoints.restore_model(model)
    optimizer, state = sgd(model.parameters()), State(model, world.rank)
    state.add(model, optimizer)
    checkpoints.restore(state)
    skipped, mine = checkpoints.first_batch(size) - first, share(size, world.world_size, world.rank)
    for begin, end in segments:
        for index in range(begin, end):
            if index == warm:
                window = Window(world)
            started = time.perf_counter()
            batch = global_batch(size, len(data.train), seed=job.seed, step=index + skipped)
            images, labels = (part.to(world.device) for part in data.train.batch(batch[mine]))
            with tracer.span("compute"):
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if options.averages(index):
                with tracer.span("average"):
                    average(model, world)
            metrics = {"loss_sum": loss.item() * len(labels), "samples": len(labels)}
            yield Step(index, {"step_s": time.perf_counter() - started, **metrics})
        checkpoints.save(end, options.steps, state, (skipped + end) * size)
    totals = window.totals(options.steps - warm) | {"resumed_step": first}
    tested = accuracy(model, data.test, world.device)
    yield Step(options.steps, totals if tested is None else {**totals, "test_accuracy": tested})


@torch.no_grad()
def average(model: nn.Module, world: World) -> None:
    """Replace the parameters by their means over all ranks, which all call this together."""
    if world.world_size > 1:
        values = parameters_to_vector(model.parameters())
        with world.meeting("the average of the parameters"):
            dist.all_reduce(values, group=world.everyone)
        vector_to_parameters(values / world.world_size, model.parameters())
