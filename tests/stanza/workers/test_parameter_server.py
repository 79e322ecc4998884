"""Buckets cover what is trained, slices tile it; a server's update is the optimizer's own.

The exchange between real processes is in test_train.py. Here one process is worker and server at
once, over a transport that hands messages to itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from stanza.models import ARCHITECTURES, build_model
from stanza.workers.buckets import Bucket, buckets_of
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from stanza.workers.optimizers import OptimizerFactory
from stanza.workers.parameter_server import PULL, PUSH, ParameterServer, Server
from systems.network.distributed import World
from systems.network.transport import Transport
from systems.processes.waiting import Announcer


def trained(module: nn.Module) -> list[int]:
    return [id(p) for p in module.parameters() if p.requires_grad]


def held(buckets: list[Bucket]) -> list[int]:
    return [id(p) for bucket in buckets for p in bucket.parameters]


LEAST_BYTES = 64 * 1024
"""Small enough for small networks to have several buckets."""


# Buckets


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_buckets_hold_every_parameter_once(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    buckets = buckets_of(model)
    assert Counter(held(buckets)) == Counter(trained(model))
    sizes = [4 * bucket.size for bucket in buckets]
    assert all(size >= SMALLEST_MESSAGE_BYTES for size in sizes[:-1])


def test_the_last_layer_comes_first_and_layers_stay_whole() -> None:
    big = [nn.Linear(200, 200) for _ in range(3)]
    model = nn.Sequential(big[0], nn.ReLU(), nn.Sequential(big[1], big[2]))
    assert [bucket.parameters for bucket in buckets_of(model, LEAST_BYTES)] == [
        (layer.weight, layer.bias) for layer in reversed(big)
    ]


def test_small_layers_travel_with_the_next_one() -> None:
    first, last = nn.Linear(200, 200), nn.Linear(200, 2)
    (bucket,) = buckets_of(nn.Sequential(first, last))
    assert bucket.parameters == (last.weight, last.bias, first.weight, first.bias)
    (only,) = buckets_of(nn.Linear(2, 2))
    assert only.size == 6


def test_a_layer_used_twice_is_in_one_bucket() -> None:
    layer = nn.Linear(200, 200)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert held(buckets_of(model)) == trained(model)


def test_tied_weights_are_in_one_bucket() -> None:
    first, second = nn.Linear(200, 200), nn.Linear(200, 200)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    assert Counter(held(buckets_of(model))) == Counter(trained(model))


def test_frozen_parameters_stay_at_home() -> None:
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 200), nn.Linear(200, 2))
    model.get_submodule("1").requires_grad_(False)
    model.get_parameter("0.bias").requires_grad_(False)
    assert Counter(held(buckets_of(model))) == Counter(trained(model))
    assert buckets_of(model.requires_grad_(False)) == []


def test_bare_parameters_of_a_network_are_found() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model.register_parameter("scale", nn.Parameter(torch.ones(5)))
    assert Counter(held(buckets_of(model))) == Counter(trained(model))


@given(st.integers(1, 500), st.integers(1, 12))
def test_slices_tile_a_bucket(size: int, servers: int) -> None:
    bucket = Bucket((nn.Parameter(torch.zeros(size)),))
    parts = [range(size)[bucket.slice(servers, index)] for index in range(servers)]
    assert [value for part in parts for value in part] == list(range(size))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_flat_copies_go_there_and_back() -> None:
    layer = nn.Linear(3, 2)
    (bucket,) = buckets_of(layer)
    flat = bucket.flat_parameters()
    assert torch.equal(flat, torch.cat([layer.weight.flatten(), layer.bias]).detach())
    bucket.load(flat + 1)
    assert torch.equal(bucket.flat_parameters(), flat + 1)
    assert torch.equal(flat + 1, torch.cat([layer.weight.flatten(), layer.bias]).detach())


def test_a_parameter_without_gradient_counts_as_zero() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.grad = torch.ones(2, 3)
    (bucket,) = buckets_of(layer)
    assert bucket.flat_gradients().tolist() == [1.0] * 6 + [0.0] * 2


# One process that is worker and server


class Loopback(Transport):
    """Only messages to oneself."""

    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        raise AssertionError("no other rank exists")

    _irecv = _isend

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def transport() -> Iterator[Transport]:
    announcer = Announcer("rank 0", patience_s=60)
    nothing: Any = None  # nobody to wait for
    world = World(
        rank=0,
        roles=("worker",),
        device=torch.device("cpu"),
        backend="gloo",
        launcher="none",
        store=torch.distributed.HashStore(),
        timeout_s=20,
        announcer=announcer,
        watchdog=nothing,
    )
    yield Loopback(world, (PUSH, PULL))
    announcer.close()


def momentum(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def exchange(
    module: nn.Module,
    transport: Transport,
    *,
    pipelined: bool,
    optimizer: OptimizerFactory = momentum,
) -> ParameterServer:
    server = Server(
        module,
        transport=transport,
        workers=[0],
        servers=[0],
        pipelined=pipelined,
        optimizer=optimizer,
        smallest_message_bytes=LEAST_BYTES,
    )
    return ParameterServer(
        module,
        transport=transport,
        servers=[0],
        pipelined=pipelined,
        colocated=server,
        smallest_message_bytes=LEAST_BYTES,
    )


def network() -> nn.Sequential:
    """Three buckets, one layer that is frozen and one that nothing reads."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 130), nn.Tanh(), nn.Linear(130, 130), nn.Linear(130, 3))
    model.get_submodule("3").requires_grad_(False)
    model.get_submodule("1").register_module("unused", nn.Linear(130, 130))
    assert len(buckets_of(model, LEAST_BYTES)) == 3
    return model


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_updates_are_the_optimizers_own(
    transport: Transport, pipelined: bool, micro_batches: int
) -> None:
    ours, theirs = network(), network()
    worker = exchange(ours, transport, pipelined=pipelined)
    optimizer = momentum(p for p in theirs.parameters() if p.requires_grad)
    for step in range(4):
        torch.manual_seed(step)
        parts = torch.randn(6, 5).tensor_split(micro_batches)
        for number, part in enumerate(parts):
            outputs = worker.forward(part)
            if number == micro_batches - 1:
                worker.expect_gradients(outputs)
            outputs.square().sum().backward()
            theirs(part).square().sum().backward()
        worker.update()
        optimizer.step()
        optimizer.zero_grad()
        assert all(p.grad is None for p in ours.parameters())
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(ours.get_parameter(name), parameter)
    assert not torch.equal(ours.get_parameter("0.weight"), network().get_parameter("0.weight"))


class Failing(torch.optim.SGD):
    """An optimizer that cannot."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        raise ArithmeticError("the server's own trouble")


def test_what_a_colocated_server_raises_reaches_the_worker(transport: Transport) -> None:
    transport.world = replace(transport.world, timeout_s=1)
    worker = exchange(nn.Linear(2, 2), transport, pipelined=True, optimizer=Failing)
    outputs = worker.forward(torch.ones(1, 2))
    worker.expect_gradients(outputs)
    outputs.sum().backward()
    with pytest.raises(ArithmeticError, match="the server's own trouble"):
        worker.update()
