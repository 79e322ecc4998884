"""What `examples/federated` learns in one process: the identities, in float64, against loops that
share none of its code but the samples."""

import copy
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federated.data import SOURCES, spread
from federated.durations import BATCHES, draws
from federated.learning import Parts, keep, learn, make_parts
from federated.networks import build, parameter_count
from federated.options import Options
from federated.planning import wire
from federated.server import Server, staleness_weight
from federated.system import SYSTEM
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from systems.data.named import IMAGES
from systems.job import Job
from systems.schema import InputError
from tests.systems.data.test_ml_100k import fake_recbole

EQUAL = 1e-11
ADAM = {"server_optimizer": "adam", "server_learning_rate": 0.01}
SMALL = Options(clients=12, steps=6, batch_size=16, model="linear", staleness_weight="constant")


def prepared(options: Options = SMALL, **changes: Any) -> tuple[Job, Parts]:
    """A job of one process and its parts, in float64."""
    job = SYSTEM.job(replace(options, **changes), world_size=1)
    return job, make_parts(job, torch.zeros(0, dtype=torch.float64))


def learnt(steps: int = 6, options: Options = SMALL, **changes: Any) -> Tensor:
    """The parameters after some steps."""
    job, parts = prepared(options, **changes)
    list(islice(learn(job, parts, wire(job)), steps))
    return parts.learner.server.snapshot()


class Reference:
    """The same clients and samples, and loops of nn and torch.optim."""

    def __init__(self, **changes: Any) -> None:
        self.job, self.parts = prepared(**changes)
        self.network = build("linear", "digits").double()
        self.weights = self.parts.learner.server.snapshot()

    def trained(self, start: Tensor, client: int, number: int, proximal: float = 0) -> Tensor:
        """A client's model."""
        nn.utils.vector_to_parameters(start.clone(), self.network.parameters())
        images, labels = self.parts.trainer.own(client)
        sgd = torch.optim.SGD(self.network.parameters(), lr=self.job.options.learning_rate)
        order = draws(self.job.seed, BATCHES, number).permutation(len(labels))
        for first in range(0, len(order), self.job.options.batch_size):
            batch = order[first : first + self.job.options.batch_size]
            now = nn.utils.parameters_to_vector(self.network.parameters())
            loss = nn.functional.cross_entropy(self.network(images[batch]), labels[batch])
            sgd.zero_grad()
            (loss + proximal / 2 * (now - start).square().sum()).backward()
            sgd.step()
        return nn.utils.parameters_to_vector(self.network.parameters()).detach()

    def rounds(self, steps: int, size: int, proximal: float = 0, server: Any = None) -> Tensor:
        """Rounds of everybody that the coordinator would draw: the mean of their models, or what
        another optimizer makes of the mean update."""
        weights = nn.Parameter(self.weights)
        optimizer = (server or (lambda p: torch.optim.SGD(p, lr=1.0)))([weights])
        coordinator = self.parts.learner.coordinator
        for _ in range(steps):
            start = weights.detach().clone()
            flights = coordinator.start()
            models = [self.trained(start, f.client, f.number, proximal) for f in flights]
            weights.grad = start - torch.stack(models).mean(0)
            optimizer.step()
            assert len(flights) == size
            assert [coordinator.arrived(f.number)[1] for f in flights][-1]
        return weights.detach()


def equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=EQUAL, atol=EQUAL)


@pytest.mark.parametrize(
    ("scheme", "changes", "way"),
    [
        ("fedavg", {}, {}),
        ("fedprox", {"proximal": 0.7, "local_epochs": 1, "batch_size": 8}, {"proximal": 0.7}),
        ("fedavgm", {}, {"server": partial(torch.optim.SGD, lr=1.0, momentum=0.9)}),
        ("fedavg", ADAM, {"server": partial(torch.optim.Adam, lr=0.01)}),
    ],
)
def test_rounds_are_those_of_plain_loops(scheme: str, changes: Any, way: Any) -> None:
    changes = {"scheme": scheme, "concurrency": 4, **changes}
    equal(learnt(**changes), Reference(**changes).rounds(6, 4, **way))


def test_a_buffer_for_everybody_whose_clients_are_equally_fast_is_fedavg() -> None:
    same: Any = {"concurrency": 5, "least_s": 1.0}
    found = learnt(scheme="fedbuff", buffer_size=5, staleness_weight="polynomial", **same)
    assert torch.equal(found, learnt(scheme="fedavg", **same))


def test_the_order_in_which_a_round_ends_does_not_matter() -> None:
    equal(learnt(scheme="fedavg", concurrency=5), learnt(scheme="fedavg", concurrency=5, least_s=1))


def test_one_client_at_a_time_is_sequential_sgd() -> None:
    one: Any = {"concurrency": 1, "scheme": "fedasync"}
    reference = Reference(**one)
    weights, coordinator = reference.weights, reference.parts.learner.coordinator
    for _ in range(6):
        (flight,) = coordinator.start()
        weights = reference.trained(weights, flight.client, flight.number)
        coordinator.arrived(flight.number)
    equal(learnt(**one), weights)
    equal(learnt(concurrency=1, scheme="fedbuff", buffer_size=1), weights)


@pytest.mark.parametrize(("scheme", "rate", "goal"), [("fedbuff", 1.0, 2), ("fedasync", 0.6, 1)])
def test_updates_start_from_the_model_that_their_client_got(
    scheme: str, rate: float, goal: int
) -> None:
    """Against a list of all versions."""
    changes: Any = {
        "scheme": scheme,
        "buffer_size": 2,
        "concurrency": 4,
        "server_learning_rate": rate,
    }
    changes |= {"staleness_weight": "polynomial"}
    reference, (job, parts) = Reference(**changes), prepared(**changes)
    versions, waiting = [reference.weights], list[Tensor]()
    seen = parts.learner.receive

    def watched(flight: Any, *received: Any) -> None:
        start, now = versions[flight.version], versions[-1]
        model = reference.trained(start, flight.client, flight.number)
        tau = len(versions) - 1 - flight.version
        waiting.append((1 + tau) ** -0.5 * ((start if scheme == "fedbuff" else now) - model))
        if len(waiting) == goal:
            versions.append(now - rate * torch.stack(waiting).sum(0) / goal)
            waiting.clear()
        seen(flight, *received)

    parts.learner.receive = watched  # type: ignore[method-assign, assignment]
    list(islice(learn(job, parts, wire(job)), 12))
    equal(parts.learner.server.snapshot(), versions[-1])
    assert max(parts.learner.coordinator.staleness) > 1


@pytest.mark.parametrize("scheme", ["fedbuff", "fedavgm"])
def test_a_job_that_goes_on_ends_as_one_that_nothing_interrupted(scheme: str) -> None:
    changes: Any = {"scheme": scheme, "concurrency": 5, "buffer_size": 2, "lost": 0.1}
    changes |= {"server_optimizer": "adam"} if scheme == "fedbuff" else {}
    job = replace(prepared(**changes)[0], checkpoint_every=1)
    parts = [make_parts(job) for _ in range(3)]
    *_, uninterrupted = islice(learn(job, parts[0], wire(job)), 9)
    list(islice(learn(job, parts[1], wire(job)), 4))
    keep(parts[1].learner)
    target, source = parts[2].learner.server, parts[1].learner.server
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    target.optimizer.load_state_dict(copy.deepcopy(source.optimizer.state_dict()))
    *_, last = islice(learn(job, parts[2], wire(job), first=4), 5)
    assert last == uninterrupted
    found, expected = (parts[i].learner.server.snapshot() for i in (2, 0))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("divide_by", "divisor"), [("goal", 3.0), ("weights", 0.5 + 1.5 + 1.0), ("nothing", 1.0)]
)
def test_the_buffer_divides_as_it_is_told(divide_by: Any, divisor: float) -> None:
    options = replace(SMALL, divide_by=divide_by, example_weight="linear")
    server = Server(torch.zeros(4, dtype=torch.float64), options, goal=3, mean_samples=10)
    deltas = torch.tensor([[1.0, 2, 3, 4], [0, 0, 1, 0], [5, 5, 5, 5]], dtype=torch.float64)
    for delta, samples in zip(deltas, (5, 15, 10), strict=True):
        server.take(delta, server.weight(0, samples), server.snapshot())
    server.step()
    equal(server.snapshot(), -(0.5 * deltas[0] + 1.5 * deltas[1] + deltas[2]) / divisor)
    assert not server.sum.any()
    assert not server.total.any()


def test_weights_of_stale_updates() -> None:
    polynomial = replace(SMALL, staleness_weight="polynomial", staleness_exponent=1.0)
    threshold = replace(SMALL, staleness_weight="threshold", staleness_cutoff=3)
    assert [staleness_weight(t, polynomial) for t in (0, 1, 3)] == [1.0, 0.5, 0.25]
    assert [staleness_weight(t, threshold) for t in (0, 3, 4)] == [1.0, 1.0, 0.1]
    assert staleness_weight(100, SMALL) == 1.0


@given(alpha=st.sampled_from([0.05, 1.0, 100.0]), clients=st.integers(2, 60), unequal=st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_sample_belongs_to_one_client(alpha: float, clients: int, unequal: bool) -> None:
    labels = np.random.default_rng(0).integers(10, size=300)
    options = replace(SMALL, alpha=alpha, clients=clients, size_spread=1.0 if unequal else 0.0)
    shards = spread(labels, options, seed=2)
    joined = np.concatenate(shards.samples)
    assert np.array_equal(np.sort(joined), np.arange(300))
    sizes = [len(own) for own in shards.samples]
    assert min(sizes) >= 1
    assert unequal or max(sizes) - min(sizes) <= 1


def test_a_small_alpha_makes_clients_unlike() -> None:
    labels = np.random.default_rng(0).integers(10, size=4000)

    def largest_share(alpha: float) -> float:
        shards = spread(labels, replace(SMALL, alpha=alpha, clients=50), seed=0)
        counts = [np.bincount(labels[own]).max() / len(own) for own in shards.samples]
        return float(np.mean(counts))

    assert largest_share(0.1) > 0.5 > 0.2 > largest_share(100.0)


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn", "factors"])
def test_sizes_are_known_without_torch(model: str) -> None:
    sources = IMAGES if model != "factors" else {"ml-100k": SOURCES["ml-100k"]}
    for data, source in sources.items():
        network = build(model, data)
        assert sum(p.numel() for p in network.parameters()) == parameter_count(model, data)
        classes = 2 if model == "factors" else 10
        assert network(torch.zeros(3, *source.shape)).shape == (3, classes)


def test_users_are_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has ratings of their own, here of films of which everybody likes every other one."""
    ratings = [
        (u, f, 5 - 2 * (f % 2), (u + 7 * f) % 20) for u in range(1, 31) for f in range(1, 21)
    ]
    fake_recbole(tmp_path, ratings)
    monkeypatch.syspath_prepend(tmp_path)
    more: Any = {"data": "ml-100k", "model": "factors", "server_optimizer": "adam"}
    with pytest.raises(InputError, match="clients 12: ml-100k has 30 users with ratings of"):
        prepared(**more)
    job, parts = prepared(clients=30, server_learning_rate=0.05, **more)
    for user in range(30):
        pairs, liked = parts.trainer.own(user)
        assert pairs[:, 0].tolist() == [user] * 16
        assert liked.tolist() == (pairs[:, 1] % 2).tolist()
    list(islice(learn(job, parts, wire(job)), 60))
    assert (len(parts.test), parts.accuracy()) == (30 * 4, 1.0)
