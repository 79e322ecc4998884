"""Measures what each layer of a network costs on this machine, on real mini-batches of clouds.

A mini-batch passes through the network layer by layer, forward and back, and each layer is timed in
its place: the first layer at a tensor stride makes the voxels and the kernel map that later ones
share, as in training. So every pass starts from coordinates alone.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sparsepipe.data.splits import Split
from sparsepipe.engine.quantize import collate, sparse_quantize
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.runtime.network import Network, StageModule
from sparsepipe.runtime.values import (
    Value,
    as_leaves,
    backward_through,
    features_of,
    leaf_gradients,
    samples_of,
)
from systems.measure import spread, timed
from systems.profiles.measured_profile import threads_on
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.schema import InputError

COORDINATE_BYTES = 16
"""The bytes of a voxel's coordinates in a message: batch, x, y and z as int32."""


def first_mini_batch(split: Split, batch_size: int, voxel_size: float) -> SparseTensor:
    """The first `batch_size` clouds of `split`, whose longest side is about 1, as voxels.

    Raises:
        InputError: there are fewer clouds, or the voxel size makes no sense.
    """
    if not 1 <= batch_size <= len(split):
        raise InputError(f"batch size {batch_size}: give 1 to {len(split)}, the clouds")
    voxels = []
    for index in range(batch_size):
        cloud = split.cloud(index)
        voxels.append(sparse_quantize(cloud.points, voxel_size, cloud.features))
    batch = collate([(v.coordinates, v.features, None) for v in voxels])
    return SparseTensor(batch.features, batch.coordinates, batch_size=batch.batch_size)


def profile_network(
    network: Network,
    inputs: Value,
    *,
    name: str,
    device_kind: str,
    repetitions: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> ModelProfile:
    """Profile a network in its current mode: medians over passes of `inputs`, on their device.

    Layer i of the profile is layer i of the network. Its backward time is that of the gradients of
    its parameters and of its inputs; the network's own input needs no gradient. `activation_bytes`
    of a layer are its features and, at tensor strides above 0, the coordinates of its voxels. They
    are counted for each value: where several values cross a cut, coordinates that they share are
    counted more often than they are sent. `clock` is what counts on a CPU, see
    `systems.measure.timed`.
    """
    stages = network.stages(range(1, len(network.layers)))
    passes = [_pass(stages, fresh(inputs), clock) for _ in range(warm_up + repetitions)][warm_up:]
    layers = []
    for number, layer in enumerate(network.layers):
        costs = [costs_of_pass[number] for costs_of_pass in passes]
        layers.append(
            LayerProfile(
                name=layer.name,
                operation=layer.operation,
                forward_s=statistics.median(cost.forward_s for cost in costs),
                backward_s=statistics.median(cost.backward_s for cost in costs),
                activation_bytes=costs[0].activation_bytes,
                parameter_bytes=layer.parameter_bytes,
                inputs=layer.inputs,
            )
        )
    kind = features_of(inputs).device.type
    times = spread([sum(cost.forward_s + cost.backward_s for cost in costs) for costs in passes])
    return ModelProfile(
        name=name,
        device=device_kind,
        batch_size=samples_of(inputs),
        source=f"measured on {kind} with torch {torch.__version__}, {len(features_of(inputs))} "
        f"{'voxels' if isinstance(inputs, SparseTensor) else 'samples'}, median of {repetitions}",
        layers=tuple(layers),
        threads=threads_on(features_of(inputs).device),
        low=times.low / times.median,
        high=times.high / times.median,
    )


@dataclass(kw_only=True)
class _Cost:
    """What one layer cost in one pass."""

    forward_s: float
    backward_s: float
    activation_bytes: int


_Record = tuple[tuple[Value, ...], tuple[Value, ...]]
"""The values that a stage of one layer took, and those that it returned."""


def fresh(inputs: Value) -> Value:
    """The same voxels without any kernel maps that earlier passes have made."""
    if not isinstance(inputs, SparseTensor):
        return inputs
    return SparseTensor(
        features_of(inputs), inputs.coordinates, inputs.tensor_stride, batch_size=inputs.batch_size
    )


def _pass(stages: Sequence[StageModule], inputs: Value, clock: Callable[[], float]) -> list[_Cost]:
    """Time the forward and backward pass of one mini-batch, a layer at a time."""
    once_timed = partial(
        timed, warm_up=0, repetitions=1, device=features_of(inputs).device, clock=clock
    )
    records: list[_Record] = []
    costs = []
    values: tuple[Value, ...] = (inputs,)
    # Forward. Every layer reads leaves, so that its backward pass ends at its own inputs.
    for number, stage in enumerate(stages):
        stage_inputs = as_leaves(values) if number else values
        once = partial(_forward, stage, stage_inputs, records)
        forward_s = once_timed(once).median
        values = records[-1][1]
        # What a layer only passes on was counted where it was made.
        made = [value for value in values if not any(value is other for other in stage_inputs)]
        size = sum(map(activation_bytes, made))
        costs.append(_Cost(forward_s=forward_s, backward_s=0.0, activation_bytes=size))
    # Backward, from the last layer to the first: each takes the gradients of its outputs and gives
    # those of its inputs, which are the outputs of the layer before.
    grads = [torch.ones_like(features_of(value)) for value in values]
    for number in reversed(range(len(stages))):
        stage_inputs, outputs = records.pop()
        stages[number].zero_grad()
        once = partial(backward_through, outputs, grads)
        costs[number].backward_s = once_timed(once).median
        grads = (
            [features_of(gradient) for gradient in leaf_gradients(stage_inputs)] if number else []
        )
    return costs


def _forward(stage: StageModule, inputs: tuple[Value, ...], records: list[_Record]) -> None:
    """Run a stage and record what it took and returned."""
    records.append((inputs, stage(*inputs)))


def activation_bytes(value: Value) -> int:
    """The bytes of a value in a message, without the header."""
    with_coordinates = isinstance(value, SparseTensor) and value.tensor_stride != 0
    return features_of(value).nbytes + (
        len(features_of(value)) * COORDINATE_BYTES if with_coordinates else 0
    )
