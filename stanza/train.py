"""The training loop that every scheme and role shares.

Each rank builds the same model from the same seed, takes its role's part of it, and yields one
`Step` at a time. The first steps are warm-up: buckets settle and caches fill; then all ranks meet
at a barrier and the measured window begins.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stanza.baselines import WholeModelWorker
from stanza.conv_worker import ACTIVATION, GRADIENT, LABEL, ConvWorker
from stanza.data import Data, global_batch, load, prefetch, share
from stanza.exchange import AllReduce, Alone, Exchange, OptimizerFactory
from stanza.fc_worker import FcWorker
from stanza.layout import Layout
from stanza.loss import accuracy
from stanza.models import ARCHITECTURES, build_model
from stanza.options import Options
from stanza.parameter_server import PULL, PUSH, ParameterServer, Server
from stanza.split import Split, split
from systems.distributed import World
from systems.record import Step
from systems.schema import InputError
from systems.trace import Tracer
from systems.transport import Transport, open_transport, tcp_bytes

STATE = "state"
CHANNELS = (ACTIVATION, GRADIENT, LABEL, PUSH, PULL, STATE)
WARM_UP_STEPS = 3

StepFunction = Callable[[int], dict[str, float]]


@dataclass(frozen=True)
class Training:
    """What all roles of one run share on one rank."""

    options: Options
    layout: Layout
    world: World
    transport: Transport
    data: Data
    model: nn.Module
    optimizer: OptimizerFactory
    seed: int
    tracer: Tracer

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
        size, length = self.global_batch_size, len(self.data.train)
        indices = (
            global_batch(size, length, seed=self.seed, step=step)[part]
            for step in range(self.options.steps)
        )
        for images, labels in prefetch(self.data.train, indices):
            yield images.to(self.world.device), labels.to(self.world.device)


def load_data(options: Options, layout: Layout, seed: int) -> Data:
    """The data set of a run.

    Raises:
        InputError: no such data, or data that does not fit the model or fill a batch.
    """
    architecture = ARCHITECTURES[options.model]
    data = load(
        options.data,
        image_shape=architecture.image_shape,
        classes=architecture.classes,
        seed=seed,
    )
    workers = len(layout.data_ranks)
    samples = options.samples_per_step(workers)
    if samples > len(data.train):
        given = "global" if options.global_batch_size else "local"
        size = options.global_batch_size or options.local_batch(workers)
        raise InputError(
            f"--stanza.{given}-batch-size {size}: a step of {workers} workers needs {samples} "
            f"samples, {options.data} has {len(data.train)}; give a smaller batch"
        )
    return data


def run(
    options: Options,
    layout: Layout,
    world: World,
    data: Data,
    *,
    seed: int,
    transport: str,
    tracer: Tracer,
) -> Iterator[Step]:
    """Train this rank's part; yields every step, then a last one with the run's totals.

    The last step's metrics: `window_s` and `window_steps` (the measured window), payload bytes of
    the transport and TCP bytes of the kernel per step, and on rank 0 `test_accuracy`.

    Raises:
        TransportError: a peer is gone or silent.
    """
    training = _prepare(options, layout, world, data, seed, transport, tracer)
    parts = split(training.model, data.image_shape) if layout.scheme == "stanza" else None
    groups = [world.group(layout.data_ranks), world.group(layout.ranks("fc"))]
    step = _step_function(training, parts, *groups)
    window: tuple[float, list[int]] | None = None
    for index in range(options.steps):
        if index == min(WARM_UP_STEPS, options.steps - 1):
            window = _counters(training, "the start of the measured window")
        started = time.perf_counter()
        metrics = step(index)
        yield Step(index, {"step_s": time.perf_counter() - started, **metrics})
    assert window is not None  # there is at least one step
    totals = _since(window, _counters(training, "the end of the measured window"), options.steps)
    if parts is not None:
        _collect_fc(training, parts)
    if world.rank == 0:
        totals["test_accuracy"] = accuracy(training.model, training.data.test, world.device)
        totals["corrupt_images"] = len(training.data.corrupt)
    yield Step(options.steps, totals)
    training.transport.close()
    for group in groups:
        if group is not None:
            dist.destroy_process_group(group)


def _prepare(
    options: Options,
    layout: Layout,
    world: World,
    data: Data,
    seed: int,
    transport: str,
    tracer: Tracer,
) -> Training:
    torch.manual_seed(seed)
    model = build_model(options.model, data.classes).to(world.device)
    torch.manual_seed(seed * 1000 + world.rank + 1)  # dropout masks differ between ranks
    optimizer = partial(
        torch.optim.SGD,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    opened = open_transport(transport, world, CHANNELS)
    return Training(options, layout, world, opened, data, model, optimizer, seed, tracer)


def _step_function(
    training: Training,
    parts: Split | None,
    conv_group: dist.ProcessGroup | None,
    fc_group: dist.ProcessGroup | None,
) -> StepFunction:
    """What this rank does in a step, by its role."""
    plan, world = training.layout, training.world
    role = plan.roles[world.rank]
    if role == "conv":
        assert parts is not None
        return _conv_step(training, parts, conv_group)
    if role == "fc":
        assert parts is not None
        return _fc_step(training, parts, fc_group)
    if role == "worker":
        return _worker_step(training, conv_group)
    if role == "server":
        server = _server(training, training.model, plan.ranks("server"))

        def serve(index: int) -> dict[str, float]:
            server.serve_step()
            return {}

        return serve
    return lambda index: {}


def _conv_step(training: Training, parts: Split, group: dist.ProcessGroup | None) -> StepFunction:
    colocated = training.options.conv_exchange == "ps"
    worker = ConvWorker(
        _exchange(training, parts.conv, group, colocated),
        transport=training.transport,
        fc_rank=training.layout.fc_of(training.world.rank),
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
    conv_ranks = training.layout.conv_of(training.world.rank)
    worker = FcWorker(
        _exchange(training, parts.fc, group, colocated_servers=False),
        transport=training.transport,
        conv_ranks=conv_ranks,
        cut_shape=parts.cut_shape,
        micro_batches=training.layout.micro_batches,
        cut_dtype=getattr(torch, training.options.cut_dtype),
        tracer=training.tracer,
    )
    sizes = [training.batch_size_of(rank) for rank in conv_ranks]
    return lambda index: {"loss_sum": worker.step(sizes, training.global_batch_size)}


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
    dedicated = training.layout.ranks("server")
    if dedicated or (colocated_servers and group is not None):
        servers = dedicated or training.layout.data_ranks
        return ParameterServer(
            module,
            transport=training.transport,
            servers=servers,
            pipelined=training.options.ps_mode == "pipelined",
            colocated=None if dedicated else _server(training, module, servers),
        )
    if group is None:
        return Alone(module, training.optimizer)
    return AllReduce(module, group, training.optimizer)


def _server(training: Training, module: nn.Module, servers: Sequence[int]) -> Server:
    return Server(
        module,
        transport=training.transport,
        workers=training.layout.data_ranks,
        servers=servers,
        pipelined=training.options.ps_mode == "pipelined",
        optimizer=training.optimizer,
    )


def _counters(training: Training, when: str) -> tuple[float, list[int]]:
    """The clock and the byte counters, at a moment when nothing is on its way."""
    training.world.barrier(when)
    tcp_sent, tcp_received = tcp_bytes() or (-1, -1)
    transport = training.transport
    payload = [sum(transport.sent_bytes), sum(transport.received_bytes)]
    return time.perf_counter(), [*payload, tcp_sent, tcp_received]


def _since(
    start: tuple[float, list[int]], end: tuple[float, list[int]], steps: int
) -> dict[str, float]:
    window_steps = steps - min(WARM_UP_STEPS, steps - 1)
    names = ("payload_sent", "payload_received", "tcp_sent", "tcp_received")
    totals: dict[str, float] = {"window_s": end[0] - start[0], "window_steps": window_steps}
    for name, before, after in zip(names, start[1], end[1], strict=True):
        if after >= 0:  # the kernel may not tell
            totals[f"{name}_bytes_per_step"] = (after - before) / window_steps
    return totals


def _collect_fc(training: Training, parts: Split) -> None:
    """Bring the trained FC part to rank 0, whose model is then complete."""
    source, target = training.layout.ranks("fc")[0], 0
    if training.world.rank not in (source, target):
        return
    for tensor in (*parts.fc.parameters(), *parts.fc.buffers()):
        if training.world.rank == source:
            training.transport.isend(tensor.detach().contiguous(), target, STATE).wait()
        else:
            training.transport.irecv(tensor.detach(), source, STATE).wait()
