"""Builds how a rank's copy of its layers is kept equal to the copies of other ranks."""

from collections.abc import Sequence
from functools import partial

import torch.distributed as dist
from torch import nn

from stanza.options import ZERO_STAGES
from stanza.train.recipe import Training
from stanza.workers.clipping import Clipping, clipping_of
from stanza.workers.exchange import AllReduce, Alone, Exchange, trainable
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from stanza.workers.parameter_server import ParameterServer, Server
from stanza.workers.stale_server import StaleServer
from stanza.workers.zero import Zero


def exchange_of(
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
            colocated=None if dedicated else server_of(training, module, servers),
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
    training.ending.append(all_reduce.close)
    if all_reduce.may_differ:
        training.collecting.append(all_reduce.collect)
    return all_reduce


def server_of(training: Training, module: nn.Module, servers: Sequence[int]) -> Server:
    """Build this rank's parameter server, one of `servers`, for the parameters of `module`."""
    return Server(
        module,
        transport=training.transport,
        workers=training.layout.data_ranks,
        servers=servers,
        pipelined=training.recipe.ps_pipelined,
        optimizer=training.recipe.optimizer,
        clipping=clipping_in(training, "server", servers),
        state=training.state,
        codec=training.recipe.codec(),
        smallest_message_bytes=SMALLEST_MESSAGE_BYTES / training.recipe.message_scale,
    )


def stale_server_of(training: Training, servers: Sequence[int]) -> StaleServer:
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


def clipping_in(training: Training, role: str, servers: Sequence[int] = ()) -> Clipping | None:
    """Decide how this rank, in one of its roles, clips gradients; None: not at all."""
    most = training.recipe.clip_norm
    if most is None:
        return None
    return clipping_of(role, training.layout, training.transport, most, servers)
