"""The training loop, which is the same for every scheme and role.

Each rank builds the same model from the same seed, takes the part that belongs to its role, and
yields one `Step` at a time. In the first steps, the warm-up, caches fill. Then all ranks meet at a
barrier, and the measured window begins.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from stanza.cut.separate import Parts, separate
from stanza.layout import Layout
from stanza.options import Options
from stanza.train.roles import Training, step_function
from stanza.train.summary import COUNTERS
from stanza.train.workload import Workload, accuracy
from stanza.workers.columns import COLUMNS, collect
from stanza.workers.conv_worker import ACTIVATION, GRADIENT, LABEL
from stanza.workers.fc_chain import linears
from stanza.workers.parameter_server import PULL, PUSH
from stanza.workers.zero import gathered
from systems.network.distributed import World
from systems.network.tcp import tcp_bytes
from systems.network.transport import open_transport
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.state import State
from systems.runs.trace import Tracer

STATE = "state"
"""The transport's channel for trained parameters, which are collected after training."""
CHANNELS = (ACTIVATION, GRADIENT, LABEL, COLUMNS, PUSH, PULL, STATE)


def training_steps(
    options: Options,
    layout: Layout,
    world: World,
    workload: Workload,
    *,
    seed: int,
    transport: str,
    tracer: Tracer,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Step]:
    """Train this rank's part. Yields every step, and then one more with the run's totals.

    The totals are the seconds and the number of steps of the measured window (`window_s`,
    `window_steps`), the bytes per step by the transport's counters and the kernel's, the step from
    which the run was resumed (`resumed_step`, or 0), the number of unreadable images, and on rank 0
    `test_accuracy`, if there are test samples.

    Raises:
        InputError: the model cannot be separated, or not in this way.
        TransportError: another rank is gone, or does not answer.
    """
    checkpoints = checkpoints or Checkpoints.off(world)
    segments = list(checkpoints.segments(options.steps))
    training = _prepare(options, layout, world, workload, seed, transport, tracer, checkpoints)
    parts = _separated(training)
    replicas = layout.fc_parallel == "replicas"
    groups = [
        world.group(layout.data_ranks),
        world.group(layout.ranks("fc") if replicas else ()),  # columns have no gradients to sum
    ]
    step = step_function(training, parts, *groups)
    checkpoints.restore(training.state)
    first = checkpoints.first_step
    warm = options.window_start(first)
    window: _Reading | None = None
    for begin, end in segments:
        for index in range(begin, end):
            if index == warm:
                window = _counters(training, "the start of the measured window")
            started = time.perf_counter()
            metrics = step(index)
            yield Step(index, {"step_s": time.perf_counter() - started, **metrics})
        samples_seen = (training.first_batch + end - first) * training.global_batch_size
        checkpoints.save(end, options.steps, training.state, samples_seen)
    assert window is not None  # at least one step is measured
    counters = _counters(training, "the end of the measured window")
    totals = _since(window, counters, options.steps - warm)
    totals["resumed_step"] = first
    totals |= _tested(training, parts)
    totals["corrupt_images"] = len(workload.data.corrupt)
    yield Step(options.steps, totals)
    training.transport.close()
    for group in groups:
        if group is not None:
            dist.destroy_process_group(group)


def _prepare(
    options: Options,
    layout: Layout,
    world: World,
    workload: Workload,
    seed: int,
    transport: str,
    tracer: Tracer,
    checkpoints: Checkpoints,
) -> Training:
    """Build this rank's model and open its transport."""
    torch.manual_seed(seed)
    model = workload.build().to(world.device)
    checkpoints.restore_model(model)
    torch.manual_seed(seed * 1000 + world.rank + 1)  # dropout masks differ between ranks
    opened = open_transport(transport, world, CHANNELS)
    first_batch = checkpoints.first_batch(options.samples_per_step(len(layout.data_ranks)))
    return Training(
        options=options,
        layout=layout,
        world=world,
        transport=opened,
        model=model,
        workload=workload,
        seed=seed,
        tracer=tracer,
        first_batch=first_batch,
        state=State(model, world.rank),
    )


def _separated(training: Training) -> Parts | None:
    """Separate the network, if that is the scheme."""
    layout = training.layout
    if layout.scheme != "stanza":
        return None
    parts = separate(training.model, training.workload.data.image_shape)
    if layout.fc_parallel == "columns":
        linears(parts, len(layout.ranks("fc")))  # if one rank refuses the network, all do
    return parts


@dataclass(frozen=True)
class _Reading:
    """The values of the byte counters at a moment when no rank has anything on its way."""

    counters: list[int]
    before_s: float
    after_s: float
    """The times just before and just after reading."""


def _counters(training: Training, when: str) -> _Reading:
    """Read the byte counters while all ranks stand still. `when` names the barrier in errors."""
    training.world.barrier(when)
    before_s = time.perf_counter()
    tcp_sent, tcp_received = tcp_bytes() or (-1, -1)
    transport = training.transport
    payload = [sum(transport.sent_bytes), sum(transport.received_bytes)]
    # No rank goes on, or closes a connection with its counter, before all have read.
    training.world.barrier(f"{when}, bytes counted")
    return _Reading([*payload, tcp_sent, tcp_received], before_s, time.perf_counter())


def _since(start: _Reading, end: _Reading, window_steps: int) -> dict[str, float]:
    """The totals of a window: its seconds, its steps, and the bytes per step of each counter."""
    window_s = end.before_s - start.after_s
    totals: dict[str, float] = {"window_s": window_s, "window_steps": window_steps}
    for name, before, after in zip(COUNTERS, start.counters, end.counters, strict=True):
        if after >= 0:  # -1: this kernel does not count
            totals[f"{name}_bytes_per_step"] = (after - before) / window_steps
    return totals


def _tested(training: Training, parts: Parts | None) -> dict[str, float]:
    """Test the whole trained model on rank 0, if there are test samples. All ranks call this."""
    world, workload = training.world, training.workload
    if not len(workload.data.test):
        return {}
    if parts is not None:
        _collect_fc(training, parts)
    model = training.model
    if training.layout.scheme == "zero3":
        model = gathered(model, workload.build().to(world.device))
    if world.rank != 0:
        return {}
    return {"test_accuracy": accuracy(model, workload.data.test, world.device)}


def _collect_fc(training: Training, parts: Parts) -> None:
    """Send the trained FC part to rank 0, whose model is then complete. All ranks call this."""
    ranks, target = training.layout.ranks("fc"), 0
    if training.layout.fc_parallel == "columns":
        collect(parts, training.transport, ranks, target, on=STATE)
        return
    source = ranks[0]
    if source == target or training.world.rank not in (source, target):
        return
    for tensor in (*parts.fc.parameters(), *parts.fc.buffers()):
        if training.world.rank == source:
            training.transport.isend(tensor.detach().contiguous(), target, STATE).wait()
        else:
            training.transport.irecv(tensor.detach(), source, STATE).wait()
