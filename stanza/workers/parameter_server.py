"""The exchange by parameter servers: they hold the parameters, and update them for the workers.

    worker 0 --- push gradients ----> +----------+     the server sums the gradients of all
    worker 1 --- push gradients ----> |  server  |     workers, applies the optimizer, and
    worker 2 --- push gradients ----> +----------+     answers with the new parameters
    worker 0, 1, 2 <-- pull parameters ---+

The model's layers are packed into buckets, in the order in which the backward pass reaches them. Of
several servers, each holds an even slice of every bucket (its shard). Both sides go through the
same list of buckets in the same order, so messages need no header.

- blocking: a worker pushes all buckets after its backward pass, and then pulls them; a server
  answers when it has the gradients of all buckets.
- pipelined: a worker pushes each bucket as soon as the backward pass has filled it; a server
  answers as soon as it has that bucket from all workers.

A dedicated server is a rank of its own; a colocated one is a thread beside a worker.
"""

import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from stanza.exchanges.codec import CodecFactory
from stanza.workers.buckets import Bucket, buckets_of
from stanza.workers.clipping import Clipping
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from stanza.workers.optimizers import OptimizerFactory
from stanza.workers.shards import shard
from systems.network.transport import Transfer, Transport, TransportError
from systems.processes.beside import beside
from systems.processes.waiting import waiting
from systems.runs.state import State

PUSH, PULL = "push", "pull"
"""The transport's channels for gradients and for parameters."""
STALENESS = "staleness"
"""The channel on which a server tells the staleness of a push, int64 [1], where it may be stale."""


def held(
    buckets: Sequence[Bucket],
    servers: int,
    index: int,
    optimizer: OptimizerFactory,
    state: State | None,
) -> tuple[list[Tensor], list[torch.optim.Optimizer]]:
    """Cut out what server `index` of `servers` holds: its slice of every bucket, and an optimizer
    for each slice. `state` is told of all of them."""
    slices, optimizers = list[Tensor](), list[torch.optim.Optimizer]()
    for bucket in buckets:
        values = bucket.flat_parameters()[bucket.slice(servers, index)].clone()
        values.requires_grad_()
        slices.append(values)
        optimizers.append(optimizer([values]))
        if state is not None:
            state.train(values, optimizers[-1], bucket.places(servers, index))
    return slices, optimizers


class Server:
    """One server: it holds its slice of every bucket, with the optimizer's state for it."""

    def __init__(
        self,
        module: nn.Module,
        *,
        transport: Transport,
        workers: Sequence[int],
        servers: Sequence[int],
        pipelined: bool,
        optimizer: OptimizerFactory,
        clipping: Clipping | None = None,
        state: State | None = None,
        codec: CodecFactory | None = None,
        smallest_message_bytes: float = SMALLEST_MESSAGE_BYTES,
    ) -> None:
        """Serve `workers`, as one of `servers`.

        Args:
            module: the model, whose parameters' values are copied.
            optimizer: makes an optimizer for one slice.
            clipping: clips the gradients; needs servers that are blocking.
            state: is told which values are trained here, so that a checkpoint saves them.
            codec: makes the codecs by which everything travels; None: as it is.
        """
        self._transport, self._workers, self._pipelined = transport, list(workers), pipelined
        self._clipping = clipping
        index = list(servers).index(transport.world.rank)
        buckets = buckets_of(module, smallest_message_bytes * len(servers))
        self._slices, self._optimizers = held(buckets, len(servers), index, optimizer, state)
        self._shards = [shard(values, codec) for values in self._slices]
        # One buffer for each worker and slice: pushes of different workers arrive together.
        self._pushed = [[each.push_buffer() for _ in self._workers] for each in self._shards]

    def serve_step(self) -> None:
        """Serve one step: receive every worker's gradients, update, and send the parameters."""
        receives = [
            [
                self._transport.irecv(buffer, worker, PUSH)
                for buffer, worker in zip(buffers, self._workers, strict=True)
            ]
            for buffers in self._pushed
        ]
        if not self._pipelined:  # answer nobody before all gradients have arrived
            for transfer in chain.from_iterable(receives):
                transfer.wait()
        if self._clipping is not None:  # their norm needs all gradients, too
            for index in range(len(self._slices)):
                self._add_up(index)
            self._clipping.clip(self._slices)
        sends: list[Transfer] = []
        for index in range(len(self._slices)):
            if self._clipping is None:
                for transfer in receives[index]:
                    transfer.wait()
                self._add_up(index)
            sends += self._answer(index)
        for transfer in sends:
            transfer.wait()

    def _add_up(self, index: int) -> None:
        """Sum the gradients of one bucket's slice, which have arrived from all workers."""
        first, *others = self._pushed[index]
        total = self._shards[index].gradients(first)
        for message in others:  # in rank order: the sum is the same in every run
            total += self._shards[index].gradients(message)
        self._slices[index].grad = total

    def _answer(self, index: int) -> list[Transfer]:
        """Update one bucket's slice, and start to send it to all workers."""
        self._optimizers[index].step()
        message = self._shards[index].pull()
        return [self._transport.isend(message, worker, PULL) for worker in self._workers]


class ParameterServer:
    """The worker's side: an `Exchange` (see `stanza.workers.exchange`) through servers."""

    def __init__(
        self,
        module: nn.Module,
        *,
        transport: Transport,
        servers: Sequence[int],
        pipelined: bool,
        colocated: Server | None = None,
        codec: CodecFactory | None = None,
        stale: bool = False,
        smallest_message_bytes: float = SMALLEST_MESSAGE_BYTES,
    ) -> None:
        """Exchange the gradients of `module` through `servers`.

        Args:
            colocated: the server that runs in a thread beside this worker, if there is one.
            codec: see `Server`.
            stale: whether the servers tell how stale gradients are (`stanza.workers.stale_server`).
        """
        self._module, self._transport, self._servers = module, transport, list(servers)
        self._pipelined, self._colocated = pipelined, colocated
        self._buckets = buckets_of(module, smallest_message_bytes * len(servers))
        self._flat = [bucket.flat_parameters() for bucket in self._buckets]
        self._shards = [
            [shard(flat[bucket.slice(len(servers), i)], codec) for i in range(len(servers))]
            for bucket, flat in zip(self._buckets, self._flat, strict=True)
        ]
        self._owner = {p: i for i, b in enumerate(self._buckets) for p in b.parameters}
        # The hooks hold this object weakly. Parameters keep their hooks where Python's garbage
        # collector does not look, so a strong reference would keep the transport alive for ever.
        ready = weakref.WeakMethod(self._gradient_ready)

        def hook(parameter: Tensor) -> None:
            method = ready()
            assert method is not None  # its step is going on
            method(parameter)

        for parameter in self._owner:
            parameter.register_post_accumulate_grad_hook(hook)
        self._armed = False
        self._next = 0
        self._ready = [0] * len(self._buckets)
        self._sends: list[tuple[Transfer, Tensor]] = []
        self._receives: list[list[tuple[Transfer, Tensor]]] = []
        self._serving: Future[None] | None = None
        device, telling = transport.world.device, servers if stale else ()
        self._told = [torch.zeros(1, dtype=torch.int64, device=device) for _ in telling]
        self._telling: list[Transfer] = []

    @property
    def staleness(self) -> int | None:
        """How many updates the parameters lacked on which the gradients of the last step were
        computed; None where servers are synchronous. With several servers it is the largest
        number."""
        return max((int(staleness) for staleness in self._told), default=None)

    def forward(self, inputs: Tensor) -> Any:
        """Run the module."""
        return self._module(inputs)

    def expect_gradients(self, outputs: Any) -> None:
        """Start to receive, wake the colocated server, and from now on push buckets that fill."""
        buffers = [[each.pull_buffer() for each in shards] for shards in self._shards]
        self._receives = [
            [
                (self._transport.irecv(buffer, server, PULL), buffer)
                for server, buffer in zip(self._servers, row, strict=True)
            ]
            for row in buffers
        ]
        self._telling = [
            self._transport.irecv(staleness, server, STALENESS)
            for staleness, server in zip(self._told, self._servers, strict=False)
        ]
        if self._colocated is not None:
            self._serving = beside("parameter server", self._colocated.serve_step)
        self._armed, self._next, self._ready = True, 0, [0] * len(self._buckets)

    def _gradient_ready(self, parameter: Tensor) -> None:
        """Note that a parameter's gradient is complete, and push the buckets that are full.

        Buckets are pushed in order: one that fills early waits for those before it.
        """
        if not self._armed:
            return
        self._ready[self._owner[parameter]] += 1  # type: ignore[index]
        while self._pipelined and self._next < len(self._buckets):
            if self._ready[self._next] < len(self._buckets[self._next].parameters):
                return
            self._push(self._next)

    def _push(self, index: int) -> None:
        """Start to send a bucket's gradients, a slice to each server."""
        flat = self._buckets[index].flat_gradients()
        for i, server in enumerate(self._servers):
            part = flat[self._buckets[index].slice(len(self._servers), i)]
            message = self._shards[index][i].push(part)
            self._sends.append((self._transport.isend(message, server, PUSH), message))
        self._next = index + 1

    def update(self) -> None:
        """Push the buckets that are left, and wait for the new parameters of all."""
        try:
            self._finish()
        except TransportError as error:
            serving = self._serving
            cause = serving.exception() if serving is not None and serving.done() else None
            if cause is None:
                raise
            raise cause from error  # the server beside has failed, which is why nothing came

    def _finish(self) -> None:
        """Do what `update` says; see there for what is raised."""
        self._armed = False
        for index in range(self._next, len(self._buckets)):
            self._push(index)
        for transfer, _ in self._sends:
            transfer.wait()
        self._sends.clear()
        for bucket, flat, shards, receives in zip(
            self._buckets, self._flat, self._shards, self._receives, strict=True
        ):
            for each, (transfer, message) in zip(shards, receives, strict=True):
                transfer.wait()
                each.pulled(message)
            bucket.load(flat)
        for transfer in self._telling:
            transfer.wait()
        for parameter in self._owner:
            parameter.grad = None
        if self._serving is not None:
            with waiting("the parameter server beside"):
                self._serving.result()

    def collect(self) -> None:
        """Receive the parameters that training has led to; stale servers send them at the end."""
        slices = [
            (flat[bucket.slice(len(self._servers), i)], server)
            for bucket, flat in zip(self._buckets, self._flat, strict=True)
            for i, server in enumerate(self._servers)
        ]
        for receive in [self._transport.irecv(part, server, PULL) for part, server in slices]:
            receive.wait()
        for bucket, flat in zip(self._buckets, self._flat, strict=True):
            bucket.load(flat)
