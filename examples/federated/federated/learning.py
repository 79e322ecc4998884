"""Learning along a schedule: the server's side of every update, and a whole job in one process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from federated import planning
from federated.adapters import Adapted
from federated.clients import Counts, Trainer, Update
from federated.clock import Wire, play
from federated.coordinator import Coordinator, Flight, Outcome
from federated.data import by_user, opened, spread
from federated.masks import Masks
from federated.networks import build
from federated.options import HALVED, RATINGS
from federated.planning import ALL, NOTHING, Halves
from federated.server import Server
from federated.uploads import Codec, codec_of
from systems.data.accuracy import accuracy
from systems.data.dataset import Batch, Data, Split, TensorSplit
from systems.job import Job

FLOAT = torch.zeros(0)


Client = Callable[[Tensor, int, int], Update]
"""Trains a client from a model [P], in the flight of a number."""


@dataclass
class Learner:
    """The server's side of learning: the models that clients have got, and what arrives."""

    coordinator: Coordinator
    server: Server
    codec: Codec
    masks: Masks | None = None
    halves: Halves = lambda number: (ALL, NOTHING)
    """See `planning.halves`."""
    models: dict[int, Tensor] = field(default_factory=dict)
    """By version: the models that clients have got who train now, and the newest."""

    def __post_init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)  # of staleness, samples and losses
        self.keep_model()

    def keep_model(self) -> None:
        """Keep the newest model, and drop those that nobody trains from any more."""
        needed = {flight.version for flight in self.coordinator.flights.values()}
        self.models = {version: m for version, m in self.models.items() if version in needed}
        self.models[self.coordinator.version] = self.server.snapshot()

    def message(self, flight: Flight, update: Update, start: Tensor) -> Tensor:
        """What the client of a flight uploads."""
        if self.masks is not None:
            return self.masks.hide(update.delta, flight.number)
        return self.codec.encode(update.delta, start, flight.number)

    def receive(
        self, flight: Flight, counts: Counts, message: Tensor, outcome: Outcome, stepped: bool
    ) -> None:
        """Take what has arrived, as the coordinator says."""
        if self.masks is not None and outcome == "lost":
            self.masks.drop(flight.number)
        if outcome != "taken":
            return
        staleness = self.coordinator.version - stepped - flight.version
        self._sums += self._sums.new_tensor([staleness, counts.trained, counts.loss_sum])
        if self.masks is not None:
            self.masks.add(message, flight.number)
            if stepped:
                self.server.fill(self.masks.total(flight.number, self.server.sum))
        else:
            part, _ = self.halves(flight.number)
            start = self.models[flight.version][part]
            delta = self.codec.decode(message, start, flight.number)
            self.server.take(delta, self.server.weight(staleness, counts.samples), start, part)
        if stepped:
            self.server.step()
            self.keep_model()

    def metrics(self, clock_s: float) -> dict[str, float]:
        """What a record says of the step that was done at a second of the clock, beside its
        seconds here; begins to count for the next."""
        outcomes, (staleness, samples, loss_sum) = self.coordinator.outcomes, self._sums.tolist()
        found = {
            "clock_s": clock_s,
            "samples": samples,
            "loss_sum": loss_sum,
            "staleness": staleness / self.coordinator.plan.goal,
            "updates": outcomes["taken"],
            "wasted_updates": sum(outcomes.values()) - outcomes["taken"],
        }
        self._sums.zero_()
        return found


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a job is made of in one process."""

    data: Data
    trainer: Trainer
    learner: Learner
    speed_ranks: list[float] | None
    """By client, the share of the clients that are faster, where speed follows the data."""
    test: Split
    """In memory."""

    def model(self) -> nn.Module:
        """The server's model, until a client trains."""
        return self.trainer.flat.load(self.learner.server.snapshot())

    def accuracy(self) -> float | None:
        """The share of the test samples that the server's model has right."""
        device = self.learner.server.weights.device
        return accuracy(self.model(), self.test, device, batch_size=2048)


def make_parts(job: Job, like: Tensor = FLOAT, data: Data | None = None) -> Parts:
    """Read the data, spread them, and make the network, all from the job's seed.

    Args:
        like: its dtype and device are those of the model.
    """
    options, plan = job.options, planning.make_plan(job)
    data = data or opened(options)
    images, labels = whole(data.train)
    if options.data == RATINGS:
        shards = by_user(images[:, 0].numpy(), labels.numpy())
    else:
        shards = spread(labels.numpy(), options, job.seed)
    torch.manual_seed(job.seed)
    network = build(options.model, options.data)
    if options.upload == HALVED:
        network = Adapted(network, options)
    samples = images.to(like), labels.to(like.device)
    trainer = Trainer(network.to(like), samples, shards, options, job.seed)
    rows = plan.concurrency if job.checkpoint_every and job.world_size == 1 else 0
    server = Server(trainer.flat.weights, options, plan.goal, len(labels) / options.clients, rows)
    return Parts(
        data=data,
        trainer=trainer,
        learner=Learner(
            coordinator=Coordinator(options, plan, job.seed),
            server=server.to(like.device),
            codec=codec_of(options, network, job.seed),
            halves=partial(planning.halves, options, job.seed),
            masks=Masks(plan.goal, job.seed) if options.masked else None,
        ),
        speed_ranks=shards.speed_ranks(job.seed) if options.speed_follows_data else None,
        test=TensorSplit(len(data.test), partial(whole, data.test)),
    )


def whole(split: Split) -> Batch:
    """All samples of a split."""
    return split.batch(range(len(split)))


def learn(job: Job, parts: Parts, wire: Wire, first: int = 0) -> Iterator[dict[str, float]]:
    """Do the server steps after the first ones, for ever, and yield the metrics of each: clients
    train for real, one after the other, along a virtual clock.

    Args:
        first: the steps that are done. The clock plays them again, for what it does follows from
            the seed; `restored` gives back what clients had got.
    """
    learner, coordinator = parts.learner, parts.learner.coordinator
    duration_s = planning.seconds_of(job.options, job.seed, parts.speed_ranks)
    sizes = {"downloaded_bytes": 0.0, "uploaded_bytes": 0.0}
    for event in play(coordinator, wire, duration_s):
        flight = event.flight
        down, up = wire.sizes(flight)
        sizes["downloaded_bytes"] += down
        sizes["uploaded_bytes"] += up if coordinator.dies_after(flight) is None else 0
        if coordinator.version - event.stepped < first:
            if event.stepped and coordinator.version == first:
                restored(learner)
            continue
        counts, message = Counts(), torch.empty(0)
        if event.outcome == "taken":
            start = learner.models[flight.version]
            update = parts.trainer.update(start, flight.client, flight.number)
            counts, message = update.counts, learner.message(flight, update, start)
        learner.receive(flight, counts, message, event.outcome, event.stepped)
        if event.stepped:
            yield learner.metrics(event.time_s) | sizes


def keep(learner: Learner) -> None:
    """Write the coordinator's numbers, and the models that clients have got, into the server's
    buffers for checkpoints."""
    learner.server.numbers.copy_(torch.tensor(learner.coordinator.numbers()))
    for row, flight in zip(learner.server.started, _by_number(learner), strict=False):
        row.copy_(learner.models[flight.version])


def restored(learner: Learner) -> None:
    """Take them from there; the flights are those of the step at which they were kept."""
    learner.keep_model()
    for row, flight in zip(learner.server.started, _by_number(learner), strict=False):
        learner.models.setdefault(flight.version, row.clone())


def _by_number(learner: Learner) -> list[Flight]:
    flights = learner.coordinator.flights
    return [flights[number] for number in sorted(flights)]
