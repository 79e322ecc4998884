"""What each role does in a step: CONV worker, FC worker, whole-model worker, server.

`step_function` gives a rank its step; the loop in stanza.train.loop calls it.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stanza.cut.split import Split
from stanza.layout import BOTH, Layout
from stanza.options import ZERO_STAGES, Options
from stanza.train.batches import global_batch, prefetch, share
from stanza.train.workload import Workload
from stanza.workers.columns import ColumnLinear, Peers, columns_of
from stanza.workers.conv_worker import ConvWorker
from stanza.workers.exchange import AllReduce, Alone, Exchange
from stanza.workers.fc_worker import FcWorker
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from stanza.workers.parameter_server import ParameterServer, Server
from stanza.workers.whole_model import WholeModelWorker
from stanza.workers.zero import Zero
from systems.network.distributed import World
from systems.network.transport import Transport
from systems.processes.beside import together
from systems.runs.state import State
from systems.runs.trace import Tracer
from systems.schema import InputError

StepFunction = Callable[[int], dict[str, float]]
"""Runs the step of this index; returns its metrics, with units in their names."""


@dataclass(frozen=True)
class Training:
    """What all roles of one run share on one rank."""

    options: Options
    layout: Layout
    world: World
    transport: Transport
    model: nn.Module
    workload: Workload
    """Its data, its optimizer, and the scale of its messages."""
    seed: int
    tracer: Tracer
    first_batch: int
    """Of the global batches, the first that this run takes."""
    state: State
    """What a checkpoint must hold of this rank: every part of a role adds its own."""

    @property
    def global_batch_size(self) -> int:
        """Samples of one step over all workers."""
        return self.options.samples_per_step(len(self.layout.data_ranks))

    def share_of(self, rank: int) -> slice:
        """The part of the global batch that a rank with data takes."""
        ranks = self.layout.data_ranks
        return share(self.global_batch_size, len(ranks), ranks.index(rank))

    def batch_size_of(self, rank: int) -> int:
        """Local batch of a rank with data."""
        part = self.share_of(rank)
        return int(part.stop - part.start)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's images and labels, step by step, read ahead in the background."""
        part = self.share_of(self.world.rank)
        size, length = self.global_batch_size, len(self.workload.data.train)
        indices = (
            global_batch(size, length, seed=self.seed, step=step)[part]
            for step in itertools.count(self.first_batch)
        )
        for images, labels in prefetch(self.workload.data.train, indices):
            yield images.to(self.world.device), labels.to(self.world.device)


def step_function(
    training: Training,
    parts: Split | None,
    conv_group: dist.ProcessGroup | None,
    fc_group: dist.ProcessGroup | None,
) -> StepFunction:
    """What this rank does in a step, by its role.

    Raises:
        InputError: FC workers in columns or beside CONV workers, on GPUs.
    """
    plan, world = training.layout, training.world
    role = plan.roles[world.rank]
    _refuse_gpus(training)
    if role == "conv":
        assert parts is not None
        return _conv_step(training, parts, conv_group)
    if role == "fc":
        assert parts is not None
        return _fc_step(training, parts, fc_group)
    if role == BOTH:
        assert parts is not None
        conv_step = _conv_step(training, parts, conv_group)
        return _both(conv_step, _fc_step(training, parts, fc_group))
    if role == "worker":
        return _worker_step(training, conv_group)
    if role == "server":
        server = _server(training, training.model, plan.ranks("server"))

        def serve(index: int) -> dict[str, float]:
            server.serve_step()
            return {}

        return serve
    return lambda index: {}


def _refuse_gpus(training: Training) -> None:
    """One NCCL stream would carry both directions of a pair, and one CUDA stream both roles: each
    would wait for what is queued behind it."""
    plan = training.layout
    if training.world.device.type == "cpu" or plan.scheme != "stanza":
        return
    for flag, value in (("parallel", plan.fc_parallel), ("placement", plan.fc_placement)):
        if value in ("columns", "colocated"):
            raise InputError(f"--stanza.fc-{flag} {value}: runs on CPUs only; add --device cpu")


def _both(conv_step: StepFunction, fc_step: StepFunction) -> StepFunction:
    """A CONV worker with an FC worker beside it, each in a thread.

    The process has one random state: whose dropout mask is drawn first is not reproducible.
    """

    def step(index: int) -> dict[str, float]:
        conv, fc = together(
            {"conv worker": partial(conv_step, index), "fc worker": partial(fc_step, index)}
        )
        return conv | fc

    return step


def _conv_step(training: Training, parts: Split, group: dist.ProcessGroup | None) -> StepFunction:
    colocated = training.options.conv_exchange == "ps"
    worker = ConvWorker(
        _exchange(training, parts.conv, group, colocated),
        transport=training.transport,
        fc_ranks=training.layout.fc_of(training.world.rank),
        cut_shape=parts.cut_shape,
        micro_batches=training.layout.micro_batches,
        cut_dtype=getattr(torch, training.options.cut_dtype),
        tracer=training.tracer,
    )
    batches = training.batches()

    def step(index: int) -> dict[str, float]:
        images, labels = next(batches)
        worker.step(images, labels, training.global_batch_size)
        return {"samples": len(labels)}

    return step


def _fc_step(training: Training, parts: Split, group: dist.ProcessGroup | None) -> StepFunction:
    plan, rank = training.layout, training.world.rank
    conv_ranks, columns = plan.conv_of(rank), plan.fc_parallel == "columns"
    peers = Peers(training.transport, plan.ranks("fc") if columns else (rank,))
    held = peers.own(parts.cut_values)
    worker = FcWorker(
        _columns(training, parts, peers)
        if columns
        else _exchange(training, parts.fc, group, colocated_servers=False),
        transport=training.transport,
        conv_ranks=conv_ranks,
        input_shape=(held.stop - held.start,) if columns else parts.cut_shape,
        own_samples=peers.own,
        micro_batches=training.layout.micro_batches,
        cut_dtype=getattr(torch, training.options.cut_dtype),
        tracer=training.tracer,
    )
    sizes = [training.batch_size_of(rank) for rank in conv_ranks]
    return lambda index: {"loss_sum": worker.step(sizes, training.global_batch_size)}


def _columns(training: Training, parts: Split, peers: Peers) -> Exchange:
    """This rank's columns of the FC layers, which it trains alone."""
    module = columns_of(parts, peers)
    alone = Alone(module, training.workload.optimizer)
    for layer in module.modules():
        for place, parameter in layer.places if isinstance(layer, ColumnLinear) else ():
            training.state.hold(place, parameter)
            if parameter.requires_grad:
                training.state.train(parameter, alone.optimizer, [place])
    return alone


def _worker_step(training: Training, group: dist.ProcessGroup | None) -> StepFunction:
    colocated = training.layout.scheme == "ps" and not training.layout.ranks("server")
    worker = WholeModelWorker(_exchange(training, training.model, group, colocated))
    batches = training.batches()

    def step(index: int) -> dict[str, float]:
        images, labels = next(batches)
        with training.tracer.span("step"):
            loss_sum = worker.step(images, labels, training.global_batch_size)
        return {"samples": len(labels), "loss_sum": loss_sum}

    return step


def _exchange(
    training: Training,
    module: nn.Module,
    group: dist.ProcessGroup | None,
    colocated_servers: bool,
) -> Exchange:
    """How this rank's copy of `module` is kept equal to the others'."""
    stage = ZERO_STAGES.get(training.layout.scheme)
    if stage is not None:
        return Zero(module, stage, training.workload.optimizer, training.world)
    dedicated = training.layout.ranks("server")
    if dedicated or (colocated_servers and group is not None):
        training.state.add(module)
        servers = dedicated or training.layout.data_ranks
        return ParameterServer(
            module,
            transport=training.transport,
            servers=servers,
            pipelined=training.options.ps_mode == "pipelined",
            colocated=None if dedicated else _server(training, module, servers),
            smallest_message_bytes=SMALLEST_MESSAGE_BYTES / training.workload.message_scale,
        )
    optimizer, scale = training.workload.optimizer, training.workload.message_scale
    exchange = (
        Alone(module, optimizer)
        if group is None
        else AllReduce(module, group, optimizer, message_scale=scale)
    )
    training.state.add(module, exchange.optimizer)
    return exchange


def _server(training: Training, module: nn.Module, servers: Sequence[int]) -> Server:
    return Server(
        module,
        transport=training.transport,
        workers=training.layout.data_ranks,
        servers=servers,
        pipelined=training.options.ps_mode == "pipelined",
        optimizer=training.workload.optimizer,
        state=training.state,
        smallest_message_bytes=SMALLEST_MESSAGE_BYTES / training.workload.message_scale,
    )
