"""What a rank of a job does: all of it, in one process; the server; or a client after the other."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from federated import planning
from federated.clients import Counts, Update
from federated.clock import durations_of
from federated.coordinator import Coordinator, Flight
from federated.data import TRAIN
from federated.learning import Client, Learner, Parts, keep, learn, make_parts
from federated.options import Options
from federated.planning import FederatedPlan
from federated.ranks import SAVE, SERVER, STOP, Desk, Post, do_orders
from federated.server import Server
from systems.data.accuracy import accuracy
from systems.data.dataset import Split, TensorSplit, zeros
from systems.job import Job
from systems.network.distributed import World
from systems.network.together import Timer
from systems.profiles.emulated import scaled
from systems.profiles.emulation import Emulation
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.state import State
from systems.runs.trace import Tracer
from systems.runs.window import Window
from systems.system import Opened, Steps


def opened(job: Job, plan: FederatedPlan, emulation: Emulation | None) -> Opened:
    """This rank's part of a job."""
    options: Options = job.options
    parts = None if emulation is not None else make_parts(job, plan, torch.device("cpu"))
    one = job.world_size == 1
    roles = f"{plan.concurrency} clients at once"
    return Opened(
        scheme=f"{options.scheme}, a step for {plan.goal} updates",
        roles=f"a server and its clients, {roles}, time simulated" if one else f"a server, {roles}",
        data=f"none (waits, {options.duration})" if parts is None else parts.data.kind,
        work=Steps(
            run=partial(run, job, plan, parts, emulation), last=options.steps, shows_loss=True
        ),
    )


def run(
    job: Job,
    plan: FederatedPlan,
    parts: Parts | None,
    emulation: Emulation | None,
    world: World,
    tracer: Tracer,
    checkpoints: Checkpoints,
) -> Iterator[Step]:
    """Do the steps that are left, then one more with the totals of this rank."""
    client: Client
    if parts is None:
        assert emulation is not None
        client, learner = _emulated(job, plan, emulation)
        test: Split = zeros(0, "").test
    else:
        if world.device.type != "cpu":
            parts = make_parts(job, plan, world.device, parts.data)
        client, learner, test = parts.trainer, parts.learner, in_memory(parts.data.test)
        client.update(learner.server.snapshot(), 0, 0)  # the first time is slow
    tested = partial(_tested, parts, test, world)
    state = State(learner.server, world.rank)
    if world.rank == SERVER:
        state.add(learner.server, learner.server.optimizer)
        checkpoints.restore_model(learner.server)
        checkpoints.restore(state)
    save = partial(_save, checkpoints, job.options.steps, state, learner)
    if world.world_size == 1:
        assert parts is not None  # nothing is emulated by one rank
        yield from _one_process(job, parts, world, checkpoints, save, tested)
        return
    post = Post(world)
    window = Window(world)
    if world.rank == SERVER:
        yield from _served(job, Desk(learner, post, world), learner, checkpoints, save, tested)
        post.close()
        yield _last(job, learner, checkpoints, window, tested)
        return
    model = learner.server.snapshot()
    did = do_orders(post, client, learner, model, lambda step: save(step, 0), tracer)
    totals = window.totals(job.options.steps - checkpoints.first_step)
    yield Step(job.options.steps, totals | did)


def _one_process(
    job: Job, parts: Parts, world: World, checkpoints: Checkpoints, save: Any, tested: Any
) -> Iterator[Step]:
    """Play the clock, and train along it."""
    learner, options, first = parts.learner, job.options, checkpoints.first_step
    segments = list(checkpoints.segments(options.steps))
    stepped = learn(job, parts, planning.wire(job), first)
    window, seen = Window(world), float(checkpoints.first_batch(1))
    for begin, end in segments:
        for index in range(begin, end):
            began = time.perf_counter()
            done = next(stepped)
            seen += done["samples"]
            yield Step(index, {"step_s": time.perf_counter() - began, **done, **tested(index)})
        save(end, int(seen))
    yield _last(job, learner, checkpoints, window, tested)


def _served(
    job: Job, desk: Desk, learner: Learner, checkpoints: Checkpoints, save: Any, tested: Any
) -> Iterator[Step]:
    """Be the server of ranks."""
    coordinator, options = learner.coordinator, job.options
    if checkpoints.first_step:
        coordinator.restore(learner.server.numbers.tolist())
        learner.keep_model()
    seen, started = float(checkpoints.first_batch(1)), time.perf_counter()
    for begin, end in checkpoints.segments(options.steps):
        for index in range(begin, end):
            began = time.perf_counter()
            while coordinator.version == index:
                report = desk.next()
                flight = coordinator.flights.get(report.number, Flight(report.number, 0, index))
                outcome, stepped = coordinator.arrived(report.number, alive=report.alive)
                message = report.message.to(learner.server.weights.device)
                learner.receive(flight, report.counts, message, outcome, stepped)
            now = time.perf_counter()
            done = learner.metrics(now - started)
            seen += done["samples"]
            yield Step(index, {"step_s": now - began, **done, **tested(index)})
        if job.checkpoint_every:
            desk.rest()
            desk.all_do(SAVE, end)
            save(end, int(seen))
    desk.rest()
    desk.all_do(STOP, 0)


def _last(
    job: Job, learner: Learner, checkpoints: Checkpoints, window: Window, tested: Any
) -> Step:
    """The last step of the server, with its totals."""
    first = checkpoints.first_step
    totals = window.totals(job.options.steps - first) | {"resumed_step": first}
    return Step(job.options.steps, totals | tested(job.options.steps - 1, last=True))


def _save(
    checkpoints: Checkpoints, steps: int, state: State, learner: Learner, step: int, seen: int
) -> None:
    """Do this rank's part of a checkpoint, if it is time for one."""
    numbers = torch.tensor(learner.coordinator.numbers(), dtype=torch.int64)
    learner.server.numbers.copy_(numbers)
    if len(learner.server.started):
        keep(learner)
    checkpoints.save(step, steps, state, seen)


def _tested(
    parts: Parts | None, test: Split, world: World, index: int, last: bool = False
) -> dict[str, float]:
    """The accuracy of the server's model, where it is time for it."""
    if parts is None:
        return {}
    options = parts.trainer.options
    if not last and not (options.test_every and (index + 1) % options.test_every == 0):
        return {}
    model = parts.trainer.flat.load(parts.learner.server.snapshot())
    found = accuracy(model, test, world.device)
    return {} if found is None else {"test_accuracy": found}


def in_memory(split: Split) -> Split:
    """A split whose samples are read once."""
    return TensorSplit(len(split), lambda: split.batch(range(len(split))))


class Waiting:
    """A client that waits instead of training, and whose update is zeros."""

    def __init__(self, job: Job, learner: Learner, emulation: Emulation, values: int) -> None:
        options: Options = job.options
        self._seconds = durations_of(planning.durations(options), job.seed, steady=options.steady)
        self._dies_after, self._dilate = learner.coordinator.dies_after, emulation.dilate
        samples = TRAIN[options.data] // options.clients
        counts = Counts(samples, samples * options.local_epochs)
        self._update = Update(torch.zeros(values), counts)

    def update(self, start: Tensor, client: int, number: int) -> Update:
        """Wait as long as the client trains, or until it dies."""
        flight = Flight(number, client, 0)
        share = self._dies_after(flight)
        time.sleep(self._seconds(flight) * self._dilate * (1.0 if share is None else share))
        return self._update


class _Zeros:
    """The codec of zeros."""

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        return delta.view(torch.uint8)

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        return torch.zeros_like(start)


def _emulated(job: Job, plan: FederatedPlan, emulation: Emulation) -> tuple[Client, Learner]:
    """A client and a server that stand for real ones: their messages are zeros, of their sizes."""
    options = job.options
    weights = torch.zeros(scaled(planning.download_bytes(options), emulation))
    learner = Learner(
        coordinator=Coordinator(planning.policy(job, plan), job.seed),
        server=Server(weights, options, plan.goal, mean_samples=1),
        codec=_Zeros(),
    )
    return Waiting(
        job, learner, emulation, scaled(planning.upload_bytes(options), emulation)
    ), learner


def profile(job: Job, kind: str, timer: Timer) -> ModelProfile:
    """The seconds of one client's training on this rank, as one layer's."""
    job = replace(job, checkpoint_every=0)
    parts = make_parts(job, planning.make_plan(job), torch.device("cpu"))
    start = parts.learner.server.snapshot()
    seconds = timer(lambda: parts.trainer.update(start, 0, 0))
    layer = LayerProfile(
        name="training of a client",
        operation="update",
        forward_s=0.0,
        backward_s=seconds,
        activation_bytes=planning.download_bytes(job.options),
        parameter_bytes=planning.download_bytes(job.options),
    )
    of = {"name": job.options.model, "device": kind, "source": "measured with all ranks at work"}
    return ModelProfile(batch_size=job.options.batch_size, layers=(layer,), **of)
