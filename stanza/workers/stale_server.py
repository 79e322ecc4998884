"""A parameter server that does not hold all workers to one pace: `--stanza.ps-consistency`.

    synchronous         every worker waits until the gradients of all have been applied
    stale-synchronous   a worker may be ahead of the slowest by a few steps, the bound s
    asynchronous        nobody waits for anybody

A worker that is ahead computes a gradient on parameters that lack updates. The *staleness* of a
gradient is the number of updates that the server made between the pull of the parameters on which
it was computed and the update that it went into. The server tells each worker that of every push.

- stale-synchronous (Ho et al., NIPS 2013, section 3): the server sums the gradients of step c of
  all workers and applies them as one update, the c-th, as a synchronous one does. It answers the
  push of step c as soon as updates 0 to c - s are made. So the next gradient, of step c + 1, lacks
  updates c - s + 1 to c at most: its staleness is s or less. With s = 0 all is as with one that is
  synchronous.
- asynchronous (Downpour SGD, Dean et al., NIPS 2012): every push is an update of its own. A
  worker's gradient is divided by the global batch, so one push of each of n workers moves the
  parameters about as far as one synchronous update does.

A thread for each worker receives its pushes and answers them. Steps of the server's rank begin as
the fastest worker's do, so that no thread awaits a message of a step that nobody has begun.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from stanza.workers.buckets import buckets_of
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from stanza.workers.optimizers import OptimizerFactory
from stanza.workers.parameter_server import PULL, PUSH, STALENESS, held
from systems.network.transport import Transport
from systems.processes.beside import beside
from systems.processes.waiting import waiting
from systems.runs.state import State

LOOK_S = 1.0
"""How often a thread that waits looks whether another has failed."""


class StaleServer:
    """One server: it holds its slice of every bucket, and serves each worker at its own pace."""

    def __init__(
        self,
        module: nn.Module,
        *,
        transport: Transport,
        workers: Sequence[int],
        servers: Sequence[int],
        bound: int | None,
        optimizer: OptimizerFactory,
        state: State | None = None,
        smallest_message_bytes: float = SMALLEST_MESSAGE_BYTES,
    ) -> None:
        """Serve `workers`, as one of `servers`.

        Args:
            module: the model, whose parameters' values are copied.
            bound: the largest staleness; None is asynchronous.
            optimizer: makes an optimizer for one slice.
            state: is told which values are trained here.
        """
        self._transport, self._workers, self._bound = transport, list(workers), bound
        index = list(servers).index(transport.world.rank)
        buckets = buckets_of(module, smallest_message_bytes * len(servers))
        self._slices, self._optimizers = held(buckets, len(servers), index, optimizer, state)
        self._changed = threading.Condition()  # guards all that follows
        self._version = 0
        """The number of updates so far."""
        self._pulled = dict.fromkeys(workers, 0)
        """The version that each worker has pulled last."""
        self._waiting: defaultdict[int, dict[int, list[Tensor]]] = defaultdict(dict)
        """The gradients of steps whose update is to come, by step and worker."""
        self._begun = 0
        self._served = dict.fromkeys(workers, 0)
        """The number of steps that may be served, and that each worker has been served."""
        self._running: set[int] = set()
        """The workers whose thread runs."""
        self._failure: BaseException | None = None

    def serve_step(self) -> None:
        """Let every worker have one more step; returns when the fastest has been served all.

        Raises:
            TransportError: a worker is gone, or does not answer.
        """
        with self._changed:
            self._begun += 1
            for worker in set(self._workers) - self._running:
                self._running.add(worker)
                beside(f"server of rank {worker}", partial(self._serve, worker))
            with waiting("a push of the fastest worker", self._workers):
                while max(self._served.values()) < self._begun:
                    self._look()

    def finish(self) -> None:
        """Wait until all workers have been served all steps that have begun."""
        with self._changed, waiting("the last pushes of all workers", self._workers):
            while min(self._served.values()) < self._begun:
                self._look()

    def send_parameters(self, worker: int) -> None:
        """Send a worker the parameters that training has led to."""
        self.finish()
        sends = [self._transport.isend(s.detach(), worker, PULL) for s in self._slices]
        for send in sends:
            send.wait()

    def _look(self) -> None:
        """Wait for a change, for a while; raise what another thread has raised."""
        if self._failure is not None:
            raise self._failure
        self._changed.wait(LOOK_S)

    def _serve(self, worker: int) -> None:
        """Serve a worker all steps that have begun; the thread of one worker."""
        try:
            while True:
                with self._changed:
                    step = self._served[worker]
                    if step == self._begun:
                        self._running.remove(worker)
                        return
                self._serve_push(worker, step)
                with self._changed:
                    self._served[worker] += 1
                    self._changed.notify_all()
        except BaseException as error:  # raised by the thread that serves the step
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _serve_push(self, worker: int, step: int) -> None:
        """Receive a worker's push of a step, and answer it when it may go on."""
        gradients = [torch.empty_like(values).requires_grad_(False) for values in self._slices]
        for receive in [self._transport.irecv(g, worker, PUSH) for g in gradients]:
            receive.wait()
        with self._changed:
            # Asynchronous: a push is an update of its own, and lacks all that came since the pull.
            # Stale-synchronous: it joins update `step`; the answer waits for update step - s.
            if self._bound is None:
                staleness = self._version - self._pulled[worker]
                self._update(gradients)
            else:
                staleness = step - self._pulled[worker]
                self._add(step, worker, gradients)
                late = [other for other in self._workers if other != worker]
                with waiting(f"the pushes of step {step - self._bound} of all workers", late):
                    while self._version < step + 1 - self._bound:
                        self._look()
            self._pulled[worker] = self._version
            answer = [values.detach().clone() for values in self._slices]
        report = torch.tensor([staleness], device=self._transport.world.device)
        sends = [self._transport.isend(report, worker, STALENESS)]
        sends += [self._transport.isend(values, worker, PULL) for values in answer]
        for send in sends:
            send.wait()

    def _add(self, step: int, worker: int, gradients: list[Tensor]) -> None:
        """Keep a worker's gradients of a step, and make the updates that are complete."""
        self._waiting[step][worker] = gradients
        while len(self._waiting[self._version]) == len(self._workers):
            pushed = self._waiting.pop(self._version)
            first, *others = (pushed[each] for each in self._workers)
            for gradient in others:  # in rank order, as a synchronous server does
                for total, more in zip(first, gradient, strict=True):
                    total += more
            self._update(first)

    def _update(self, gradients: Sequence[Tensor]) -> None:
        """Make one update of all slices."""
        for values, gradient, optimizer in zip(
            self._slices, gradients, self._optimizers, strict=True
        ):
            values.grad = gradient
            optimizer.step()
        self._version += 1
        self._changed.notify_all()
