"""What a rank of a job does: all of it, in one process; the server; or a client after the other."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from federated import planning
from federated.clients import Counts, Update
from federated.coordinator import Coordinator, FederatedPlan, Flight
from federated.data import SOURCES
from federated.learning import Client, Learner, Parts, keep, learn, make_parts
from federated.options import Options
from federated.ranks import SAVE, SERVER, STOP, Desk, Post, do_orders, served
from federated.server import Server
from federated.uploads import Plain
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

NOBODY = -1
"""The client of an update that no flight asks for."""


def opened(job: Job, plan: FederatedPlan, emulation: Emulation | None) -> Opened:
    """This rank's part of a job."""
    options: Options = job.options
    parts = None if emulation is not None else make_parts(job)
    many = f"{plan.concurrency} clients at once"
    alone = f"a server and its clients, {many}, time simulated"
    part = partial(run, job, plan, parts, emulation)
    return Opened(
        scheme=f"{options.scheme}, a step for {plan.goal} updates",
        roles=alone if job.world_size == 1 else f"a server, {many}",
        data=f"none (waits, {options.duration})" if parts is None else parts.data.kind,
        work=Steps(run=part, last=options.steps, shows_loss=True),
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
    else:
        if world.device.type != "cpu":
            parts = make_parts(job, torch.zeros(0, device=world.device), parts.data)
        client, learner = parts.trainer.update, parts.learner
        client(learner.server.snapshot(), NOBODY, 0)  # the first time is slow
    server, steps, first = learner.server, job.options.steps, checkpoints.first_step
    state, serves = State(server, world.rank), world.rank == SERVER
    if serves:
        state.add(server, server.optimizer)
        checkpoints.restore_model(server)
        checkpoints.restore(state)

    def save(step: int, seen: int = 0) -> None:
        keep(learner)
        checkpoints.save(step, steps, state, seen)

    post = Post(world) if world.world_size > 1 else None
    window, did = Window(world), dict[str, float]()
    if post is not None and not serves:
        did = do_orders(post, client, learner, save, tracer)
    else:
        desk = Desk(learner, post, world) if post is not None else None
        yield from _server_steps(job, parts, learner, desk, checkpoints, save)
        did = {"resumed_step": first}
    totals = window.totals(steps - first) | did
    yield Step(steps, totals | (_tested(parts) if serves else {}))


def _server_steps(
    job: Job,
    parts: Parts | None,
    learner: Learner,
    desk: Desk | None,
    checkpoints: Checkpoints,
    save: Callable[[int, int], None],
) -> Iterator[Step]:
    """The steps of the server of ranks, or of a virtual clock, where there is no desk."""
    every, first = job.options.test_every, checkpoints.first_step
    if desk is not None:
        stepped = served(desk, learner, resumed=first > 0)
    else:
        assert parts is not None  # nothing is emulated by one rank
        stepped = learn(job, parts, planning.wire(job), first)
    seen = float(checkpoints.first_batch(1))
    for begin, end in checkpoints.segments(job.options.steps):
        for index in range(begin, end):
            began = time.perf_counter()
            done = next(stepped)
            done["step_s"] = time.perf_counter() - began
            seen += done["samples"]
            yield Step(index, done | (_tested(parts) if every and not (index + 1) % every else {}))
        if desk is not None and job.checkpoint_every:
            desk.all_do(SAVE, end)
        save(end, int(seen))
    if desk is not None:
        desk.all_do(STOP, 0)
        desk.post.close()


def _tested(parts: Parts | None) -> dict[str, float]:
    """The accuracy of the server's model."""
    found = None if parts is None else parts.accuracy()
    return {} if found is None else {"test_accuracy": found}


def _waiting(job: Job, learner: Learner, emulation: Emulation, values: int) -> Client:
    """A client that waits instead of training, or until it dies, and whose update is zeros."""
    options: Options = job.options
    seconds = planning.seconds_of(options, job.seed)
    samples = SOURCES[options.data].train // options.clients
    counts = Counts(samples, samples * options.local_epochs)

    def wait(start: Tensor, client: int, number: int) -> Update:
        flight = Flight(number, client, 0)
        share = learner.coordinator.dies_after(flight)
        time.sleep(seconds(flight) * emulation.dilate * (1.0 if share is None else share))
        return Update(torch.zeros(values), counts)

    return wait


class _Zeros(Plain):
    """The codec of zeros, whose number is not that of the model's values."""

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        return torch.zeros_like(start)


def _emulated(job: Job, plan: FederatedPlan, emulation: Emulation) -> tuple[Client, Learner]:
    """A client and a server that stand for real ones: their messages are zeros, of their sizes."""
    options = job.options
    weights = torch.zeros(scaled(planning.download_bytes(options), emulation))
    learner = Learner(
        coordinator=Coordinator(options, plan, job.seed),
        server=Server(weights, options, plan.goal, mean_samples=1),
        codec=_Zeros(None),
    )
    values = scaled(planning.upload_bytes(options), emulation)
    return _waiting(job, learner, emulation, values), learner


def profile(job: Job, kind: str, timer: Timer) -> ModelProfile:
    """The seconds of one client's training on this rank, as one layer's."""
    parts = make_parts(replace(job, checkpoint_every=0))
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
