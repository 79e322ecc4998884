"""Builds what a rank does in a step, from its role in the layout.

`step_function` returns the step of a CONV worker, an FC worker, a whole-model worker or a server.
The training loop (`stanza.train.loop`) calls it once per step.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stanza.cut.separate import Parts
from stanza.layout import Layout
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
"""Runs the step with this number and returns its metrics, with units in their names."""


@dataclass(frozen=True)
class Training:
    """Everything about a run that a rank needs, whatever its role."""

    options: Options
    layout: Layout
    world: World
    transport: Transport
    model: nn.Module
    workload: Workload
    """The data, the optimizer, and the scale of the messages."""
    seed: int
    tracer: Tracer
    first_batch: int
    """The number of the global batch that the run's first step takes."""
    state: State
    """The tensors of this rank that a checkpoint must hold. Every part of a role adds its own."""

    @property
    def global_batch_size(self) -> int:
        """The number of samples in one step over all workers."""
        return self.options.samples_per_step(len(self.layout.data_ranks))

    def share_of(self, rank: int) -> slice:
        """The samples of a global batch that `rank`, which has data, takes."""
        ranks = self.layout.data_ranks
        return share(self.global_batch_size, len(ranks), ranks.index(rank))

    def batch_size_of(self, rank: int) -> int:
        """The number of samples in the share of `rank`, which has data."""
        part = self.share_of(rank)
        return int(part.stop - part.start)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's images [b, C, H, W] and labels int64 [b] of every step, without end.

        A background thread reads ahead.
        """
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
    parts: Parts | None,
    conv_group: dist.ProcessGroup | None,
    fc_group: dist.ProcessGroup | None,
) -> StepFunction:
    """Build what this rank does in a step.

    Args:
        parts: the separated network, where the scheme is stanza.
        conv_group: the ranks that have data, or None if this rank is alone among them.
        fc_group: the FC workers that are replicas, or None likewise.

    Raises:
        InputError: FC workers hold columns or are colocated, on GPUs.
    """
    _refuse_gpus(training)
    role = training.layout.roles[training.world.rank]
    if role == "worker":
        return _worker_step(training, conv_group)
    if role == "server":
        return _server_step(training)
    if role == "idle":
        return lambda index: {}
    assert parts is not None  # the other roles are those of layer separation
    if role == "conv":
        return _conv_step(training, parts, conv_group)
    if role == "fc":
        return _fc_step(training, parts, fc_group)
    return _both(_conv_step(training, parts, conv_group), _fc_step(training, parts, fc_group))


def _refuse_gpus(training: Training) -> None:
    """Refuse columns and colocated FC workers on GPUs, where they would deadlock.

    NCCL sends both directions of a pair on one stream, and both roles of a rank share one CUDA
    stream: each would wait for work that is queued behind it.
    """
    layout = training.layout
    if training.world.device.type == "cpu" or layout.scheme != "stanza":
        return
    for flag, value in (("parallel", layout.fc_parallel), ("placement", layout.fc_placement)):
        if value in ("columns", "colocated"):
            raise InputError(f"--stanza.fc-{flag} {value}: runs on CPUs only; add --device cpu")


def _both(conv_step: StepFunction, fc_step: StepFunction) -> StepFunction:
    """Run a CONV worker's step and an FC worker's step in two threads of this rank.

    They share the random numbers of the process, so dropout masks are not reproducible.
    """

    def step(index: int) -> dict[str, float]:
        conv, fc = together(
            {"conv worker": partial(conv_step, index), "fc worker": partial(fc_step, index)}
        )
        return conv | fc

    return step


def _conv_step(training: Training, parts: Parts, group: dist.ProcessGroup | None) -> StepFunction:
    """Build a CONV worker's step, on this rank's share of every batch."""
    worker = ConvWorker(
        _exchange(training, parts.conv, group),
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


def _fc_step(training: Training, parts: Parts, group: dist.ProcessGroup | None) -> StepFunction:
    """Build an FC worker's step: it holds all FC layers, or this rank's columns of them."""
    layout, rank = training.layout, training.world.rank
    conv_ranks, columns = layout.conv_of(rank), layout.fc_parallel == "columns"
    peers = Peers(training.transport, layout.ranks("fc") if columns else (rank,))
    inputs = peers.own(parts.cut_values)
    worker = FcWorker(
        _columns(training, parts, peers) if columns else _exchange(training, parts.fc, group),
        transport=training.transport,
        conv_ranks=conv_ranks,
        input_shape=(inputs.stop - inputs.start,) if columns else parts.cut_shape,
        own_samples=peers.own,
        micro_batches=training.layout.micro_batches,
        cut_dtype=getattr(torch, training.options.cut_dtype),
        tracer=training.tracer,
    )
    sizes = [training.batch_size_of(rank) for rank in conv_ranks]
    return lambda index: {"loss_sum": worker.step(sizes, training.global_batch_size)}


def _columns(training: Training, parts: Parts, peers: Peers) -> Exchange:
    """Build this rank's columns of the FC layers. Only this rank holds and updates them."""
    module = columns_of(parts, peers)
    alone = Alone(module, training.workload.optimizer)
    for layer in module.modules():
        for place, parameter in layer.places if isinstance(layer, ColumnLinear) else ():
            training.state.hold(place, parameter)
            if parameter.requires_grad:
                training.state.train(parameter, alone.optimizer, [place])
    return alone


def _worker_step(training: Training, group: dist.ProcessGroup | None) -> StepFunction:
    """Build a baseline worker's step: the whole model on this rank's share of every batch."""
    worker = WholeModelWorker(_exchange(training, training.model, group))
    batches = training.batches()

    def step(index: int) -> dict[str, float]:
        images, labels = next(batches)
        with training.tracer.span("step"):
            loss_sum = worker.step(images, labels, training.global_batch_size)
        return {"samples": len(labels), "loss_sum": loss_sum}

    return step


def _server_step(training: Training) -> StepFunction:
    """Build a dedicated parameter server's step."""
    server = _server(training, training.model, training.layout.ranks("server"))

    def step(index: int) -> dict[str, float]:
        server.serve_step()
        return {}

    return step


def _exchange(training: Training, module: nn.Module, group: dist.ProcessGroup | None) -> Exchange:
    """Choose how this rank's copy of `module` is kept equal to the copies of `group`."""
    layout = training.layout
    stage = ZERO_STAGES.get(layout.scheme)
    if stage is not None:
        return Zero(module, stage, training.workload.optimizer, training.world)
    dedicated = layout.ranks("server")
    if dedicated or (layout.scheme == "ps" and group is not None):
        training.state.add(module)
        servers = dedicated or layout.data_ranks
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
    """Build this rank's parameter server, one of `servers`, for the parameters of `module`."""
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
