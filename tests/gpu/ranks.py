"""Ranks that share the one GPU: pipelines, layer separation, a parameter server, DDP.

Their messages go through pinned memory and gloo. Each scheme must end with the parameters of one
process; its step time says what sharing a GPU costs.

Ranks are forked from this process. So it does nothing with CUDA itself, and no backward pass, whose
threads ask for GPUs: what has begun that cannot be forked.
"""

import multiprocessing
import statistics
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import Tensor

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.experiments.equivalence import Case, one_process
from sparsepipe.experiments.small_pipelines import Clouds, build, difference, loss_sum, momentum
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.run import collect_weights, run_pipeline
from sparsepipe.runtime.values import Value
from sparsepipe.schedule.lists import ScheduleKind, roles
from stanza.layout import layout_of
from stanza.options import Options
from stanza.train.loop import training_steps
from stanza.train.workload import real_workload
from systems.environment import Environment, free_port
from systems.network.distributed import World, start, stop
from systems.runs.trace import Tracer
from tests.gpu.parts import Row, Scale

LIMIT_S = 30.0
"""That one scheme may take."""
SILENCE_S = 120.0
"""That ranks wait for each other."""
STEPS = 20
OPTIONS = Options(steps=STEPS, global_batch_size=96)
KINDS: tuple[ScheduleKind, ...] = ("1f1b", "gpipe", "1f1b-async")

State = dict[str, Tensor]
Trained = tuple[State, float]
"""The parameters, and the median seconds of a step."""


def ranks(scale: Scale) -> Iterator[Row]:
    """For every scheme, how far it ends from one process, and its step time."""
    limit_s = scale.patience * LIMIT_S
    (alone, alone_s), *_ = run(1, partial(train_images, replace(OPTIONS, scheme="single")), limit_s)
    yield {"scheme": "one process", "ranks": 1, "step_s": alone_s}
    for count in scale.ranks:
        for kind in KINDS:
            case = Case(kind, tuple((rank,) for rank in range(count)), micro_batches=_micro(kind))
            (state, step_s), *_ = run(count, partial(train_clouds, case), limit_s)
            (expected, _), *_ = run(1, partial(train_clouds_alone, case), limit_s)
            apart = difference(state, expected)
            yield {"scheme": kind, "ranks": count, "difference": apart, "step_s": step_s}
        for scheme in ("stanza", "ps", "ddp"):
            options = replace(OPTIONS, scheme=scheme)
            (state, step_s), *_ = run(count, partial(train_images, options), limit_s)
            apart = max(float((state[k] - v).norm() / v.norm()) for k, v in alone.items())
            yield {"scheme": scheme, "ranks": count, "difference": apart, "step_s": step_s}


def _micro(kind: ScheduleKind) -> int:
    """Micro-batches of a mini-batch; asynchronous pipelines have none."""
    return 1 if kind == "1f1b-async" else 3


def train_images(options: Options, place: Environment) -> Trained:
    """One rank's part of a training on digits, on the GPU."""
    layout = layout_of(options, place.world_size, 1, 1)
    workload, models = real_workload(options, layout, seed=3), []

    def kept() -> Any:
        models.append(workload.build())
        return models[-1]

    def steps(world: World) -> list[float]:
        training = training_steps(
            options,
            layout,
            world,
            replace(workload, build=kept),
            seed=3,
            transport="torch",
            tracer=Tracer.off(),
        )
        return [step.metrics["step_s"] for step in training if "step_s" in step.metrics]

    took_s = _in_world(place, layout.roles, steps)
    return {k: v.cpu() for k, v in models[0].state_dict().items()}, took_s


def train_clouds(case: Case, place: Environment) -> Trained:
    """One rank's part of a pipeline, on the GPU."""
    network = build(case.model)

    def steps(world: World) -> list[float]:
        cut = Network(network.to(world.device))
        stages = cut.stages(case.cuts(len(cut.layers)))
        done = run_pipeline(
            case.schedule,
            stages,
            case.shares,
            world,
            batches=OnDevice(case, world.device),
            loss_sum=loss_sum,
            optimizer=momentum,
            norm="frozen",
        )
        took_s = [step.metrics["step_s"] for step in done]
        collect_weights(case.schedule, stages, world)
        return took_s

    took_s = _in_world(place, roles(case.schedule), steps)
    return {k: v.cpu() for k, v in network.state_dict().items()}, took_s


def train_clouds_alone(case: Case, _: Environment) -> Trained:
    """The same training in one process, on the CPU."""
    return one_process(case)[1], 0.0


class OnDevice(Clouds):
    """The mini-batches of a case, on a device."""

    def __init__(self, case: Case, device: torch.device) -> None:
        super().__init__(case.model)
        self._device = device

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """See `Clouds`."""
        (value,) = super().inputs(mini_batch, samples)
        assert isinstance(value, SparseTensor)
        return (value.to(self._device),)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """See `Clouds`."""
        return super().targets(mini_batch, samples).to(self._device)


def _in_world(
    place: Environment, roles: Sequence[str], steps: Callable[[World], list[float]]
) -> float:
    """The median seconds of the steps that a rank does in a world of its own."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # else ten bits decide what is compared
    world = start(place, roles, timeout_s=SILENCE_S, device="cuda")
    took_s = steps(world)
    stop(world)
    return statistics.median(took_s)


def run(
    count: int, function: Callable[[Environment], Trained], limit_s: float = LIMIT_S
) -> list[Trained]:
    """What every rank returns, each a process of its own, rank 0 first.

    Raises:
        RuntimeError: a rank failed, or did not end in time.
    """
    context, port = multiprocessing.get_context("fork"), free_port()
    pipes: list[Connection] = []
    processes = []
    for rank in range(count):
        place = Environment(
            launcher="none",
            rank=rank,
            world_size=count,
            local_rank=rank,
            local_world_size=count,
            master_address="127.0.0.1",
            master_port=port,
        )
        ours, theirs = context.Pipe(duplex=False)
        processes.append(context.Process(target=_rank, args=(function, place, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        return [_heard(rank, pipe, limit_s) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(timeout=2)
            process.kill()


def _rank(function: Callable[[Environment], Trained], place: Environment, pipe: Connection) -> None:
    """What a rank's process does."""
    try:
        state, took_s = function(place)
        told = {name: value.numpy() for name, value in state.items()} if place.rank == 0 else {}
        pipe.send((told, took_s, ""))
    except Exception:
        pipe.send(({}, 0.0, traceback.format_exc()))


def _heard(rank: int, pipe: Connection, limit_s: float) -> Trained:
    """What a rank has returned."""
    if not wait([pipe], timeout=limit_s):
        raise RuntimeError(f"rank {rank} did not end within {limit_s:g} s")
    told, took_s, failure = pipe.recv()
    if failure:
        raise RuntimeError(f"rank {rank}: {failure}")
    return {name: torch.from_numpy(value) for name, value in told.items()}, took_s
