"""What a rank does: steps on its own part of the batch, and averages with the other ranks."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from systems.data.batches import global_batch, share
from systems.data.dataset import Data, zeros
from systems.data.digits import open_digits
from systems.job import Job
from systems.network.distributed import World
from systems.profiles.emulated import EmulatedDevice, EmulatedOptimizer, emulated_layers, joined
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
    """This rank's part: the network on digits, or waits as long as a profile says."""
    data, build = open_digits(), network
    optimizer: Any = partial(torch.optim.SGD, lr=job.options.learning_rate)
    if emulation is not None:
        # Nothing is sent before a pass has ended, so one layer stands for those of the profile.
        data, optimizer = (
            zeros(job.options.batch_size, f"waits of {profile.name}"),
            EmulatedOptimizer,
        )
        layers, size = joined(profile.layers, float("inf")), profile.batch_size
        build = partial(
            emulated_layers,
            layers,
            size,
            in_features=1,
            emulation=emulation,
            device=EmulatedDevice(),
        )
    return Opened(
        scheme=f"average every {job.options.period} steps",
        roles=f"{job.world_size} replicas",
        data=data.kind,
        work=Steps(
            run=partial(train, job, data, build, optimizer), last=job.options.steps, shows_loss=True
        ),
    )


def train(
    job: Job,
    data: Data,
    build: Callable[[], nn.Module],
    make_optimizer: Callable[..., torch.optim.Optimizer],
    world: World,
    tracer: Tracer,
    checkpoints: Checkpoints,
) -> Iterator[Step]:
    """Do the steps that are left, then yield one more with the totals of this rank."""
    options, first, size = job.options, checkpoints.first_step, job.options.batch_size
    segments, measured = list(checkpoints.segments(options.steps)), options.measured(first)
    torch.manual_seed(job.seed)
    model = build().to(world.device)
    checkpoints.restore_model(model)
    optimizer, state = make_optimizer(model.parameters()), State(model, world.rank)
    state.add(model, optimizer)
    checkpoints.restore(state)
    first_batch, mine = checkpoints.first_batch(size), share(size, world.world_size, world.rank)
    for begin, end in segments:
        for index in range(begin, end):
            if index == measured.start:
                window = Window(world)
            started = time.perf_counter()
            step = first_batch + index - first
            batch = global_batch(size, len(data.train), seed=job.seed, step=step)[mine]
            images, labels = (values.to(world.device) for values in data.train.batch(batch))
            with tracer.span("compute"):
                logits = model(images.to(torch.get_default_dtype()))
                loss = nn.functional.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if options.averages(index):
                with tracer.span("average"):
                    average(model, world)
            metrics = {"loss_sum": loss.item() * len(labels), "samples": len(labels)}
            yield Step(index, {"step_s": time.perf_counter() - started, **metrics})
        checkpoints.save(end, options.steps, state, (first_batch + end - first) * size)
    totals = window.totals(len(measured)) | {"resumed_step": first}
    if len(data.test):
        totals["test_accuracy"] = accuracy(model, data, world.device)
    yield Step(options.steps, totals)


@torch.no_grad()
def average(model: nn.Module, world: World) -> None:
    """Replace the parameters by their means over all ranks, which all call this together."""
    if world.world_size > 1:
        values = parameters_to_vector(model.parameters())
        with world.meeting("the average of the parameters"):
            dist.all_reduce(values, group=world.everyone)
        vector_to_parameters(values / world.world_size, model.parameters())


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, device: torch.device) -> float:
    """The fraction of the test images that the network classifies correctly."""
    images, labels = data.test.batch(range(len(data.test)))
    logits = model(images.to(device, torch.get_default_dtype()))
    return float((logits.argmax(1).cpu() == labels).double().mean())
