"""A server and its clients as processes: rank 0 serves, every other rank is a client at a time.

The server says to a rank what to do (`ORDER`), and sends it the model to train; the rank reports
(`REPORT`), and sends its update. The server takes reports from whichever rank comes first. Messages
travel over gloo from and to processor memory, whatever the ranks compute on.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from federated.clients import Counts
from federated.coordinator import Flight
from federated.learning import Client, Learner
from federated.planning import Halves
from systems.network.distributed import World
from systems.processes.waiting import waiting
from systems.runs.trace import Tracer

STOP, TRAIN, SAVE = range(3)
ORDER, REPORT = 4, 5
"""The numbers in an order (what to do, flight or step, client, version) and in a report (flight,
samples of the client, samples trained, sum of losses, bytes of the update: none if it died)."""
SERVER = 0


@dataclass(frozen=True)
class Report:
    """What a rank says of a flight, and the update that it has sent."""

    rank: int
    number: int
    counts: Counts
    message: Tensor
    """uint8 [bytes]; empty if the client has died."""


class Post:
    """Orders, models, reports and updates between this rank and the others."""

    def __init__(self, world: World) -> None:
        """All ranks make it together."""
        self._world = world
        with world.meeting("the group for updates"):
            self._group = dist.new_group(backend="gloo", timeout=world.backend_timeout)
        self._sending: dict[int, list[tuple[dist.Work | None, Tensor]]] = {}

    def order(
        self, rank: int, what: int, flight: Flight | int, model: Tensor | None = None
    ) -> None:
        """Tell a client's rank what to do, without waiting until it has heard."""
        told = (flight, 0, 0) if isinstance(flight, int) else astuple(flight)
        sent = [torch.tensor([what, *told], dtype=torch.int64)]
        if model is not None:
            sent.append(model.cpu())
        self._finish(rank)
        self._sending[rank] = [(dist.isend(t, rank, group=self._group), t) for t in sent]

    def ordered(self, model: Tensor, halves: Halves) -> tuple[int, Flight]:
        """Wait for the next order to this rank; the part of a model that comes with it, which is
        the first of `halves` of its flight, is put into `model`."""
        head = torch.zeros(ORDER, dtype=torch.int64)
        with waiting("an order of the server", [SERVER]):
            dist.recv(head, SERVER, group=self._group)
            what, *told = head.tolist()
            if what == TRAIN:
                part, _ = halves(told[0])
                got = torch.empty_like(model[part], device="cpu")
                dist.recv(got, SERVER, group=self._group)
                model[part] = got.to(model)
        return what, Flight(*told)

    def report(self, number: int, counts: Counts, message: Tensor) -> None:
        """Tell the server what has come of a flight; without a message its client has died."""
        head = torch.tensor([number, *astuple(counts), len(message)], dtype=torch.float64)
        with waiting("the server, which takes an update", [SERVER]):
            dist.send(head, SERVER, group=self._group)
            if len(message):
                dist.send(message.cpu(), SERVER, group=self._group)

    def reported(self) -> Report:
        """Wait for the next report of any rank."""
        head = torch.zeros(REPORT, dtype=torch.float64)
        with waiting("an update of any client", range(1, self._world.world_size)):
            rank = dist.recv(head, group=self._group)
            number, samples, trained, loss_sum, size = head.tolist()
            message = torch.empty(int(size), dtype=torch.uint8)
            if len(message):
                dist.recv(message, rank, group=self._group)
        self._finish(rank)
        return Report(rank, int(number), Counts(int(samples), int(trained), loss_sum), message)

    def close(self) -> None:
        """Wait until all is sent."""
        for rank in list(self._sending):
            self._finish(rank)

    def _finish(self, rank: int) -> None:
        """Wait until a rank has heard what it was told last."""
        with waiting("a client, which takes its order", [rank]):
            for work, _ in self._sending.pop(rank, []):
                if work is not None:
                    work.wait()


class Desk:
    """The server's desk: which ranks are free, and reports that nobody has looked at yet."""

    def __init__(self, learner: Learner, post: Post, world: World) -> None:
        self._learner, self.post = learner, post
        self._free = deque(range(1, world.world_size))
        self._ranks = world.world_size - 1
        self._held: deque[Report] = deque()

    def next(self) -> Report:
        """Start whoever should start, and take the next report."""
        if self._held:
            return self._held.popleft()
        for flight in self._learner.coordinator.start(len(self._free)):
            part, _ = self._learner.halves(flight.number)
            model = self._learner.models[flight.version][part]
            own = 1 + flight.client  # its rank, where every rank is one client
            rank = own if own in self._free else self._free[0]
            self._free.remove(rank)
            self.post.order(rank, TRAIN, flight, model)
        return self._take()

    def all_do(self, what: int, step: int) -> None:
        """Give all ranks one order when nobody trains; what they report is looked at later."""
        while len(self._free) < self._ranks:
            self._held.append(self._take())
        for rank in range(1, self._ranks + 1):
            self.post.order(rank, what, step)

    def _take(self) -> Report:
        report = self.post.reported()
        self._free.append(report.rank)
        return report


def served(desk: Desk, learner: Learner, resumed: bool) -> Iterator[dict[str, float]]:
    """Do the server's steps, for ever, and yield the metrics of each.

    Args:
        resumed: whether the server's tensors are those of a checkpoint.
    """
    coordinator, started = learner.coordinator, time.perf_counter()
    if resumed:
        coordinator.restore(learner.server.numbers.tolist())
        learner.keep_model()
    while True:
        report = desk.next()
        unknown = Flight(report.number, 0, coordinator.version)
        flight = coordinator.flights.get(report.number, unknown)
        outcome, stepped = coordinator.arrived(report.number, alive=len(report.message) > 0)
        message = report.message.to(learner.server.weights.device)
        learner.receive(flight, report.counts, message, outcome, stepped)
        if stepped:
            yield learner.metrics(time.perf_counter() - started)


def do_orders(
    post: Post, client: Client, learner: Learner, save: Callable[[int], None], tracer: Tracer
) -> dict[str, float]:
    """Be a client's rank until the server says stop; returns what it did.

    Args:
        save: does this rank's part of a checkpoint after a step.
    """
    flights, seconds, lived, model = 0, 0.0, 0, learner.server.snapshot()
    while True:
        what, flight = post.ordered(model, learner.halves)
        if what == STOP:
            return {"flights": flights, "lived": lived, "training_s": seconds}
        if what == SAVE:
            save(flight.number)
            continue
        began = time.perf_counter()
        with tracer.span("train", client=flight.client, version=flight.version):
            update = client(model, flight.client, flight.number)
        seconds += time.perf_counter() - began
        flights += 1
        counts, message = Counts(), torch.empty(0, dtype=torch.uint8)
        if learner.coordinator.dies_after(flight) is None:
            counts, message = update.counts, learner.message(flight, update, model)
            lived += 1
        with tracer.span("upload"):
            post.report(flight.number, counts, message)
