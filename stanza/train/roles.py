"""Builds what a rank does in a step, from its role in the layout.

`step_function` returns the step of a CONV worker, an FC worker, a whole-model worker or a server.
`stanza.train.engine` calls it once per step, for the training loop and for the library.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from stanza.cut.separate import Parts
from stanza.exchanges.codec import CodecFactory
from stanza.exchanges.find import NamedExchange
from stanza.layout import Layout
from stanza.options import ZERO_STAGES, PsConsistency
from stanza.train.batches import LocalBatch
from stanza.workers.clipping import Clipping, clipping_of
from stanza.workers.columns import ColumnLinear, Peers, columns_of
from stanza.workers.conv_worker import ConvWorker
from stanza.workers.exchange import AllReduce, Alone, Exchange, trainable
from stanza.workers.fc_worker import FcWorker
from stanza.workers.loss import Loss, loss_sum
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from stanza.workers.optimizers import OptimizerFactory, check_by_value
from stanza.workers.parameter_server import STALENESS, ParameterServer, Server
from stanza.workers.stale_server import StaleServer
from stanza.workers.whole_model import WholeModelWorker
from stanza.workers.zero import Zero
from systems.network.distributed import World
from systems.network.transport import Transport
from systems.processes.beside import together
from systems.runs.state import State
from systems.runs.trace import Tracer
from systems.schema import InputError

StepFunction = Callable[[LocalBatch], dict[str, float]]
"""Does this rank's part of a step and returns its metrics, with units in their names."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, whatever the layout."""

    optimizer: OptimizerFactory
    loss_sum: Loss = loss_sum
    """The loss, summed over the samples."""
    clip_norm: float | None = None
    """The largest Euclidean norm of the gradients of the whole model; None: any."""
    cut_dtype: torch.dtype | None = None
    """What activations and their gradients travel in; None: what the layers compute in."""
    ps_pipelined: bool = False
    """Whether parameter servers are pipelined; else they are blocking."""
    ps_consistency: PsConsistency = "synchronous"
    """How far workers of parameter servers may be ahead of each other."""
    ps_staleness: int = 0
    """By how many updates at most, where it is stale-synchronous."""
    exchange: NamedExchange | None = None
    """What travels when gradients are exchanged; None: all of them as they are."""
    message_scale: float = 1.0
    """See `stanza.train.workload.Workload`."""

    def codec(self) -> CodecFactory | None:
        """What makes the codecs of parameter servers; None: all travels as it is."""
        return None if self.exchange is None else self.exchange.codec()


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything about a training that a rank needs, whatever its role."""

    layout: Layout
    world: World
    transport: Transport
    model: nn.Module
    recipe: Recipe
    tracer: Tracer
    state: State
    """The tensors of this rank that a checkpoint must hold. Every part of a role adds its own."""
    collecting: list[Callable[[], None]] = field(default_factory=list)
    """What this rank has to do, with the others, before rank 0 has the trained model. Parts of a
    role whose copies of the model may differ add it."""
    ending: list[Callable[[], None]] = field(default_factory=list)
    """What this rank has to do before connections are closed, likewise."""

    @property
    def stale(self) -> bool:
        """Whether parameter servers serve each worker at its own pace."""
        return self.recipe.ps_consistency != "synchronous"


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
        InputError: FC workers hold columns or are colocated, on GPUs; servers cannot clip, or the
            optimizer cannot train what they hold.
    """
    _refuse_gpus(training)
    _refuse_optimizer(training)
    role = training.layout.roles[training.world.rank]
    if role == "worker":
        return _worker_step(training, conv_group)
    if role == "server":
        return _server_step(training)
    if role == "idle":
        return lambda batch: {}
    assert parts is not None  # the other roles are those of layer separation
    if role == "conv":
        return _conv_step(training, parts, conv_group)
    if role == "fc":
        return _fc_step(training, parts, fc_group)
    return _both(_conv_step(training, parts, conv_group), _fc_step(training, parts, fc_group))


def _refuse_optimizer(training: Training) -> None:
    """Refuse clipping where servers answer before they have all gradients, and optimizers that
    cannot train slices of parameters."""
    layout, recipe = training.layout, training.recipe
    if layout.scheme == "ps" and recipe.ps_pipelined and recipe.clip_norm is not None:
        raise InputError(
            f"clip_norm {recipe.clip_norm:g}: pipelined parameter servers update before they have "
            "all gradients; give --stanza.ps-mode blocking"
        )
    trained = trainable(training.model)
    if layout.scheme == "ps" and trained:
        check_by_value(recipe.optimizer, trained, "--stanza.scheme ps")
    if layout.fc_parallel == "columns" and trained:
        check_by_value(recipe.optimizer, trained, "--stanza.fc-parallel columns")


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

    def step(batch: LocalBatch) -> dict[str, float]:
        conv, fc = together(
            {"conv worker": partial(conv_step, batch), "fc worker": partial(fc_step, batch)}
        )
        return conv | fc

    return step


def _conv_step(training: Training, parts: Parts, group: dist.ProcessGroup | None) -> StepFunction:
    """Build a CONV worker's step, on this rank's share of every batch."""
    worker = ConvWorker(
        _exchange(training, parts.conv, group, _clipping(training, "conv")),
        transport=training.transport,
        fc_ranks=training.layout.fc_of(training.world.rank),
        cut_shape=parts.cut_shape,
        micro_batches=training.layout.micro_batches,
        cut_dtype=training.recipe.cut_dtype or parts.cut_dtype,
        tracer=training.tracer,
    )

    def step(batch: LocalBatch) -> dict[str, float]:
        worker.step(batch.images, batch.targets, batch.global_size)
        return {"samples": len(batch.images)}

    return step


def _fc_step(training: Training, parts: Parts, group: dist.ProcessGroup | None) -> StepFunction:
    """Build an FC worker's step: it holds all FC layers, or this rank's columns of them."""
    layout, rank = training.layout, training.world.rank
    conv_ranks, columns = layout.conv_of(rank), layout.fc_parallel == "columns"
    peers = Peers(training.transport, layout.ranks("fc") if columns else (rank,))
    inputs = peers.own(parts.cut_values)
    clipping = _clipping(training, "fc")
    worker = FcWorker(
        _columns(training, parts, peers, clipping)
        if columns
        else _exchange(training, parts.fc, group, clipping),
        training.recipe.loss_sum,
        transport=training.transport,
        conv_ranks=conv_ranks,
        input_shape=(inputs.stop - inputs.start,) if columns else parts.cut_shape,
        input_dtype=parts.cut_dtype,
        own_samples=peers.own,
        micro_batches=training.layout.micro_batches,
        cut_dtype=training.recipe.cut_dtype or parts.cut_dtype,
        tracer=training.tracer,
    )

    def step(batch: LocalBatch) -> dict[str, float]:
        sizes = [batch.sizes[rank] for rank in conv_ranks]
        return {"loss_sum": worker.step(sizes, batch.targets, batch.global_size)}

    return step


def _columns(training: Training, parts: Parts, peers: Peers, clipping: Clipping | None) -> Exchange:
    """Build this rank's columns of the FC layers. Only this rank holds and updates them."""
    module = columns_of(parts, peers)
    alone = Alone(module, training.recipe.optimizer, clipping)
    for layer in module.modules():
        for place, parameter in layer.places if isinstance(layer, ColumnLinear) else ():
            training.state.hold(place, parameter)
            if parameter.requires_grad and alone.optimizer is not None:
                training.state.train(parameter, alone.optimizer, [place])
    return alone


def _worker_step(training: Training, group: dist.ProcessGroup | None) -> StepFunction:
    """Build a baseline worker's step: the whole model on this rank's share of every batch."""
    exchange = _exchange(training, training.model, group, _clipping(training, "worker"))
    worker = WholeModelWorker(exchange, training.recipe.loss_sum)

    def step(batch: LocalBatch) -> dict[str, float]:
        with training.tracer.span("step"):
            loss = worker.step(batch.images, batch.targets, batch.global_size)
        metrics = {"samples": len(batch.images), "loss_sum": loss}
        staleness = exchange.staleness if isinstance(exchange, ParameterServer) else None
        return metrics if staleness is None else {**metrics, STALENESS: staleness}

    return step


def _server_step(training: Training) -> StepFunction:
    """Build a dedicated parameter server's step."""
    servers = training.layout.ranks("server")
    server = (
        _stale_server(training, servers)
        if training.stale and trainable(training.model)
        else _server(training, training.model, servers)
    )

    def step(batch: LocalBatch) -> dict[str, float]:
        server.serve_step()
        return {}

    return step


def _exchange(
    training: Training,
    module: nn.Module,
    group: dist.ProcessGroup | None,
    clipping: Clipping | None,
) -> Exchange:
    """Choose how this rank's copy of `module` is kept equal to the copies of `group`."""
    layout, recipe = training.layout, training.recipe
    stage = ZERO_STAGES.get(layout.scheme)
    if stage is not None:
        return Zero(module, stage, recipe.optimizer, training.world)
    dedicated = layout.ranks("server")
    frozen = not trainable(module)
    if not frozen and (dedicated or (layout.scheme == "ps" and group is not None)):
        training.state.add(module)
        servers = dedicated or layout.data_ranks
        through_servers = ParameterServer(
            module,
            transport=training.transport,
            servers=servers,
            pipelined=recipe.ps_pipelined,
            colocated=None if dedicated else _server(training, module, servers),
            codec=recipe.codec(),
            stale=training.stale,
            smallest_message_bytes=SMALLEST_MESSAGE_BYTES / recipe.message_scale,
        )
        if training.stale and training.world.rank == 0:
            training.collecting.append(through_servers.collect)
        return through_servers
    if group is None or frozen:
        alone = Alone(module, recipe.optimizer, clipping)
        training.state.add(module, alone.optimizer)
        return alone
    all_reduce = AllReduce(
        module,
        group,
        recipe.optimizer,
        clipping=clipping,
        hook=None if recipe.exchange is None else recipe.exchange.hook(group),
        message_scale=recipe.message_scale,
    )
    training.state.add(module, all_reduce.optimizer)
    if all_reduce.may_differ:
        training.collecting.append(all_reduce.collect)
    return all_reduce


def _server(training: Training, module: nn.Module, servers: Sequence[int]) -> Server:
    """Build this rank's parameter server, one of `servers`, for the parameters of `module`."""
    return Server(
        module,
        transport=training.transport,
        workers=training.layout.data_ranks,
        servers=servers,
        pipelined=training.recipe.ps_pipelined,
        optimizer=training.recipe.optimizer,
        clipping=_clipping(training, "server", servers),
        state=training.state,
        codec=training.recipe.codec(),
        smallest_message_bytes=SMALLEST_MESSAGE_BYTES / training.recipe.message_scale,
    )


def _stale_server(training: Training, servers: Sequence[int]) -> StaleServer:
    """Build this rank's parameter server, one of `servers`, that serves each worker by itself."""
    recipe, workers = training.recipe, training.layout.data_ranks
    server = StaleServer(
        training.model,
        transport=training.transport,
        workers=workers,
        servers=servers,
        bound=recipe.ps_staleness if recipe.ps_consistency == "stale-synchronous" else None,
        optimizer=recipe.optimizer,
        state=training.state,
        smallest_message_bytes=SMALLEST_MESSAGE_BYTES / recipe.message_scale,
    )
    training.collecting.append(partial(server.send_parameters, workers[0]))
    training.ending.append(server.finish)
    return server


def _clipping(training: Training, role: str, servers: Sequence[int] = ()) -> Clipping | None:
    """How this rank, in one of its roles, clips gradients; None: not at all."""
    most = training.recipe.clip_norm
    if most is None:
        return None
    return clipping_of(role, training.layout, training.transport, most, servers)
