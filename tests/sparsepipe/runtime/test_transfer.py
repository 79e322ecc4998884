"""Values between ranks: what arrives is what was sent; a network cut anywhere is the network."""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsepipe.engine.layers import GlobalMaxPooling, MaxPooling
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import DENSE, MinkUNet, MinkVGG16
from sparsepipe.runtime.network import Network, StageModule
from sparsepipe.runtime.samples import shared_samples, within
from sparsepipe.runtime.transfer import (
    CHANNELS,
    Receiving,
    ReceivingGradients,
    describe,
    described,
    send_gradients,
    send_values,
)
from sparsepipe.runtime.values import (
    Value,
    as_leaves,
    backward_through,
    features_of,
    join_samples,
    leaf_gradients,
    take_samples,
)
from systems.environment import environment
from systems.network.distributed import World, start, stop
from systems.network.open_transport import open_transport
from systems.network.transport import Transport
from tests.ranks import run_ranks
from tests.sparsepipe.clouds import assert_close, random_tensor


class Loopback(Transport):
    """Messages to itself alone, which the base class hands over."""

    def __init__(self) -> None:
        nothing: Any = None
        world = World(
            rank=0,
            roles=("stage",),
            device=torch.device("cpu"),
            backend="gloo",
            launcher="torchrun",
            store=nothing,
            timeout_s=5.0,
            announcer=nothing,
            watchdog=nothing,
        )
        super().__init__(world, CHANNELS)

    def close(self) -> None: ...

    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        raise AssertionError(peer)

    _irecv = _isend


def at_strides() -> tuple[SparseTensor, ...]:
    """A mini-batch at strides 1, 2, 4, 2 and 0."""
    fine = random_tensor(3)
    middle = MaxPooling()(fine)
    coarse = MaxPooling()(middle)
    return fine, middle, coarse, middle.replace(middle.features[:, :1]), GlobalMaxPooling()(coarse)


def passed(values: Sequence[Value]) -> tuple[Value, ...]:
    transport = Loopback()
    receiving = Receiving(transport, 0, len(values))
    send_values(transport, 0, values).wait()
    return receiving.wait()


def expect(arrived: Sequence[Value], sent: Sequence[Value]) -> None:
    assert len(arrived) == len(sent)
    for ours, theirs in zip(arrived, sent, strict=True):
        assert torch.equal(features_of(ours), features_of(theirs))
        assert type(ours) is type(theirs)
        if isinstance(ours, SparseTensor) and isinstance(theirs, SparseTensor):
            assert torch.equal(ours.coordinates, theirs.coordinates)
            assert ours.tensor_stride == theirs.tensor_stride
            assert ours.batch_size == theirs.batch_size


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), slice(4, 5), slice(2, 4)])
def test_what_arrives_is_what_was_sent(order: slice) -> None:
    values = at_strides()[order]
    arrived = passed(values)
    expect(arrived, values)
    maps = {id(value.maps) for value in arrived if isinstance(value, SparseTensor)}
    assert len(maps) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_plain_tensors_of_any_shape_travel(dtype: torch.dtype) -> None:
    values = [torch.arange(24).reshape(shape).to(dtype) for shape in ((24,), (2, 3, 4), (2, 12))]
    expect(passed([*values, at_strides()[0], torch.ones(1, 1, 2, 2, 2)])[:3], values)


def test_a_mini_batch_without_voxels_travels() -> None:
    empty = SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    expect(passed([empty, MaxPooling()(empty)]), [empty, MaxPooling()(empty)])


def test_coordinates_of_every_stride_are_sent_once() -> None:
    values = at_strides()
    flags = [one.with_coordinates for one in describe(values)]
    assert flags == [True, True, True, False, False]


def test_a_row_of_the_header_is_read_as_it_was_written() -> None:
    for one in describe([*at_strides(), torch.ones(1, 2, 3, 4, 5)]):
        assert described(one.row()) == one


def test_values_of_two_mini_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        describe([random_tensor(), random_tensor()])
    with pytest.raises(ValueError, match="does not travel"):
        describe([torch.ones(2, dtype=torch.bool)])
    cells = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match="travel sorted"):
        describe([SparseTensor(torch.ones(2, 1), cells)])


# Networks, cut.


def trained_step(model: nn.Module, inputs: Value) -> tuple[Tensor, dict[str, Tensor]]:
    """The network's output and the gradients of all parameters, uncut."""
    model = copy.deepcopy(model)
    output = features_of(model(inputs))
    (output * cotangent(output)).sum().backward()
    return output.detach(), gradients_of([model])


def gradients_of(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None
            found[name] = parameter.grad
    return found


def cotangent(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(output.shape, generator=generator, dtype=output.dtype)


def piped_step(stages: Sequence[StageModule], inputs: Value) -> tuple[Tensor, dict[str, Tensor]]:
    """The same through stages, all that passes between them being sent and received."""
    values: tuple[Value, ...] = (inputs,)
    records = []
    for number, stage in enumerate(stages):
        if number:
            values = as_leaves(passed(values))
        outputs = stage(*values)
        records.append((values, outputs))
        values = outputs
    output = features_of(values[0])
    wanted: list[Tensor | None] = [cotangent(output)]
    transport = Loopback()
    for number, (taken, outputs) in reversed(list(enumerate(records))):
        backward_through(outputs, wanted)
        if number:
            sent = records[number - 1][1]
            receiving = ReceivingGradients(transport, 0, sent)
            send_gradients(transport, 0, leaf_gradients(taken)).wait()
            wanted = list(receiving.wait())
    return output.detach(), gradients_of(stages)


def expect_equal_steps(model: nn.Module, inputs: Value, cuts: Sequence[Sequence[int]]) -> None:
    output, wanted = trained_step(model, inputs)
    network = Network(model)
    for places in cuts:
        model.zero_grad()
        stages = network.stages(places)
        ours, found = piped_step(stages, inputs)
        assert_close(ours, output)
        assert found.keys() == wanted.keys()
        for name, gradient in found.items():
            assert_close(gradient, wanted[name])


def unet() -> nn.Module:
    torch.manual_seed(4)
    return MinkUNet(3, 5, depth=14, width=1 / 16).double()


LAYERS = 102


def test_unet_in_two_stages_cut_at_every_position() -> None:
    expect_equal_steps(unet(), random_tensor(3), [[cut] for cut in range(1, LAYERS)])


def test_unet_in_three_stages() -> None:
    pairs = [sorted(random.Random(seed).sample(range(1, LAYERS), 2)) for seed in range(20)]
    expect_equal_steps(unet(), random_tensor(3), pairs)


def test_unet_in_as_many_stages_as_layers() -> None:
    expect_equal_steps(unet(), random_tensor(3), [range(1, LAYERS)])


@pytest.mark.parametrize("kit", ["sparse", "dense"])
def test_vgg_in_as_many_stages_as_layers(kit: str) -> None:
    torch.manual_seed(4)
    options = {"kit": DENSE} if kit == "dense" else {}
    model = MinkVGG16(3, 5, width=1 / 32, **options).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    volume = torch.randn(2, 3, 32, 32, 32, dtype=torch.float64)
    inputs: Value = volume if kit == "dense" else random_tensor(3, voxels=1500)
    model.eval()  # too few voxels at the last strides for statistics
    expect_equal_steps(model, inputs, [range(1, 52), [26]])


REPLICAS = (
    ([range(0, 1), range(1, 4)], [range(0, 3), range(3, 4)]),
    ([range(0, 4)], [range(0, 1), range(1, 2), range(2, 4)]),
    ([range(0, 2), range(2, 4)], [range(0, 4)]),
)


@pytest.mark.parametrize(("first", "second"), REPLICAS)
@pytest.mark.parametrize("cut", [20, 60])
def test_replicas_that_split_the_mini_batch_differently(
    first: list[range], second: list[range], cut: int
) -> None:
    """Each replica's gradients sum to those of one process; batch norm in evaluation mode."""
    model = unet().eval()
    inputs = random_tensor(3)
    wanted_output, wanted = trained_step(model, inputs)
    before, after = Network(model).stages([cut])
    outputs = [before(*take_samples([inputs], samples)) for samples in first]
    passages = [(i, j, x) for i, own in enumerate(first) for j, x in shared_samples(own, second)]
    arriving: list[list[tuple[Value, ...]]] = [[] for _ in second]
    for source, target, samples in passages:
        part = take_samples(outputs[source], within(samples, first[source]))
        arriving[target].append(passed(part))
    taken = [as_leaves(join_samples(parts)) for parts in arriving]
    results = [after(*values)[0] for values in taken]
    output = torch.cat([features_of(result) for result in results])
    assert_close(output.detach(), wanted_output)
    (output * cotangent(output)).sum().backward()
    returned: list[list[tuple[Value, ...]]] = [[] for _ in first]
    for source, target, samples in passages:
        part = take_samples(leaf_gradients(taken[target]), within(samples, second[target]))
        sent, transport = take_samples(outputs[source], within(samples, first[source])), Loopback()
        receiving = ReceivingGradients(transport, 0, sent)
        send_gradients(transport, 0, part).wait()
        returned[source].append(receiving.wait())
    for made, parts in zip(outputs, returned, strict=True):
        backward_through(
            made, [torch.cat(pieces) for pieces in zip(*map(tensors, parts), strict=True)]
        )
    for name, gradient in gradients_of([before, after]).items():
        assert_close(gradient, wanted[name])


def tensors(values: Sequence[Value]) -> list[Tensor]:
    return [features_of(value) for value in values]


# Between processes.


def talk() -> list[tuple[Tensor, ...]]:
    """Rank 0 sends mini-batches of different sizes, rank 1 returns twice their features."""
    world = start(environment(), ("stage", "stage"), timeout_s=30, device="cpu")
    transport = open_transport("torch", world, CHANNELS)
    batches = [at_strides()[:3], at_strides()[2:], (random_tensor(2, voxels=5), torch.ones(4, 3))]
    returned: list[tuple[Tensor, ...]] = []
    if world.rank == 0:
        sendings = [send_values(transport, 1, values) for values in batches]
        receivings = [ReceivingGradients(transport, 1, values) for values in batches]
        returned = [receiving.wait() for receiving in receivings]
        for sending in sendings:
            sending.wait()
    else:
        posted = [Receiving(transport, 0, len(values)) for values in batches]
        posted[0].post()
        for number, values in enumerate(batches):
            if number + 1 < len(batches):
                posted[number + 1].post()
            arrived = as_leaves(posted[number].wait())
            expect(arrived, values)
            backward_through(arrived, [2 * features_of(value).detach() for value in arrived])
            send_gradients(transport, 0, leaf_gradients(arrived)).wait()
    transport.close()
    stop(world)
    return returned


@pytest.mark.distributed
def test_mini_batches_of_different_sizes_between_processes() -> None:
    returned, nothing = run_ranks(2, talk, timeout_s=60)
    assert not nothing
    batches = [at_strides()[:3], at_strides()[2:], (random_tensor(2, voxels=5), torch.ones(4, 3))]
    for values, grads in zip(batches, returned, strict=True):
        for value, gradient in zip(values, grads, strict=True):
            assert torch.equal(gradient, 2 * features_of(value))
