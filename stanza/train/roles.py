"""Builds what a rank does in a step, from its role in the layout.

`step_function` returns the step of a CONV worker, an FC worker, a whole-model worker or a server.
`stanza.train.engine` calls it once per step, for the training loop and for the library.
"""

from collections.abc import Callable
from functools import partial

import torch.distributed as dist

from stanza.cut.separate import Parts
from stanza.train.batches import LocalBatch
from stanza.train.exchanging import clipping_in, exchange_of, server_of, stale_server_of
from stanza.train.recipe import Training
from stanza.workers.clipping import Clipping
from stanza.workers.columns import ColumnLinear, Peers, columns_of
from stanza.workers.conv_worker import ConvWorker
from stanza.workers.exchange import Alone, Exchange, trainable
from stanza.workers.fc_worker import FcWorker
from stanza.workers.optimizers import check_by_value
from stanza.workers.parameter_server import STALENESS, ParameterServer
from stanza.workers.whole_model import WholeModelWorker
from systems.processes.beside import together
from systems.schema import InputError

StepFunction = Callable[[LocalBatch], dict[str, float]]
"""Does this rank's part of a step and returns its metrics, with units in their names."""


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
        InputError: servers cannot clip, or the optimizer cannot train what they hold.
    """
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
        exchange_of(training, parts.conv, group, clipping_in(training, "conv")),
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
    clipping = clipping_in(training, "fc")
    worker = FcWorker(
        _columns(training, parts, peers, clipping)
        if columns
        else exchange_of(training, parts.fc, group, clipping),
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
    exchange = exchange_of(training, training.model, group, clipping_in(training, "worker"))
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
        stale_server_of(training, servers)
        if training.stale and trainable(training.model)
        else server_of(training, training.model, servers)
    )

    def step(batch: LocalBatch) -> dict[str, float]:
        server.serve_step()
        return {}

    return step
