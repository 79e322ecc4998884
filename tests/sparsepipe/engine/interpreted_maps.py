"""Triton's kernel of maps on the CPU, and what maps ask of a GPU: `test_lookup.py` runs this file
with TRITON_INTERPRET=1, which must be set before anything imports Triton."""

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from sparsepipe.bench.clouds import task
from sparsepipe.engine import layouts, lookup, triton_maps
from sparsepipe.engine.backends import triton_kernels as fused
from sparsepipe.engine.coordinates import coarsened
from sparsepipe.engine.kernel import Kernel, Shape
from sparsepipe.engine.kernel_map import KernelMap, build
from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.lookup import Wanted
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models.unet import MinkUNet
from tests.sparsepipe.clouds import random_keys
from tests.sparsepipe.engine.launches import as_on_gpu, counted

SHAPES: list[Shape] = ["cube", "cross", ((0, 0, 0), (2, -1, 3), (2, -1, 1))]
KERNEL = Kernel(3, 1, 1, 1)


@pytest.fixture
def on_gpu() -> Iterator[None]:
    """Maps are made as on a GPU."""
    with as_on_gpu():
        yield


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**16),
    voxels=st.integers(0, 80),
    size=st.sampled_from([1, 2, 3, 5, (3, 1, 2)]),
    shape=st.sampled_from(SHAPES),
    dilation=st.sampled_from([1, 2, 20]),
    stride=st.integers(1, 3),
    fine_stride=st.integers(1, 2),
    backwards=st.booleans(),
)
def test_finds_what_pytorch_finds(
    seed: int,
    voxels: int,
    size: int | tuple[int, ...],
    shape: Shape,
    dilation: int,
    stride: int,
    fine_stride: int,
    backwards: bool,
) -> None:
    if shape == "cross":
        size = 3
    kernel = Kernel(size, dilation, fine_stride, fine_stride * stride, shape)
    fine = random_keys(seed, voxels, fine_stride)
    coarse = coarsened(fine, kernel.coarse_stride)
    keys, queries = (coarse, fine) if backwards else (fine, coarse)
    wanted = Wanted(keys, queries, kernel, backwards)
    ours, theirs = triton_maps.look_up(wanted), lookup.look_up(wanted)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@settings(max_examples=20)
@given(
    tables=st.lists(
        st.tuples(st.integers(0, 80), st.sampled_from([1, 2, 3, 5]), st.booleans()),
        min_size=1,
        max_size=7,
    ),
    most=st.sampled_from([1, 4, 32]),
)
def test_tables_made_together_are_those_made_alone(
    tables: list[tuple[int, int, bool]], most: int
) -> None:
    wanted: list[Wanted] = []
    for voxels, size, backwards in tables:
        fine = random_keys(len(wanted), voxels)
        keys, queries = (coarsened(fine, 2), fine) if backwards else (fine, coarsened(fine, 2))
        wanted.append(Wanted(keys, queries, Kernel(size, 1, 1, 2), backwards))
    with mock.patch.object(triton_maps, "MOST_TABLES", most):
        ours = triton_maps.side_by_side(wanted)
    for found, expected in zip(ours, layouts.side_by_side(wanted), strict=True):
        for one, other in [(found.outputs, expected.outputs), (found.inputs, expected.inputs)]:
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2)])
def test_gives_the_pairs_of_a_cpu(size: int, stride: int) -> None:
    fine = random_keys(1, 70)
    kernel = Kernel(size, 1, 1, stride)
    here = build(fine, coarsened(fine, stride), kernel)
    expected = [*_views(here), *_views(here.transpose)]
    with as_on_gpu():
        there = build(fine, here.output_keys, kernel)
        found = [*_views(there), *_views(there.transpose)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def _views(kernel_map: KernelMap) -> list[torch.Tensor]:
    """All that backends take of a map."""
    near = kernel_map.neighbours
    by_row = near.inputs.index_select(1, near.outputs.argsort())  # in the order of the outputs
    return [
        kernel_map.input_rows,
        kernel_map.output_rows,
        kernel_map.firsts,
        kernel_map.starts,
        kernel_map.inputs_by_output,
        by_row,
    ]


def test_a_map_asks_little_of_a_gpu(on_gpu: None) -> None:
    """A tensor, its 3x3x3 map and that of the gradient took about 500 launches and 18 waits."""
    given = task("sphere:6x2", 1)
    features = given.features

    def both_passes() -> None:
        rows = SparseTensor(features, given.coordinates).maps.kernel_map(KERNEL)
        fused.backward(features, features, torch.ones(27, 1, 1), rows, (True, False))

    with counted():
        both_passes()  # what is kept for ever is made
    with counted() as asked:
        both_passes()
    layer = asked.launches.pop("convolution_kernel") + asked.launches.pop("ones")
    assert layer == 2
    assert asked.launches["look_up_kernel"] == 1
    assert asked.launches.total() <= 5, asked
    assert asked.waits.total() <= 1, asked


def test_a_training_step_waits_for_the_sizes_once(on_gpu: None) -> None:
    """Steps of a U-Net of 14 layers: with maps of their own, which are made as the step before used
    them, and with those of the step before.
    Maps that were made as lists of pairs took about 4800 launches and 194 waits."""
    given = task("sphere:6x2", 1)
    features, labels = given.features, torch.arange(len(given.coordinates)) % 5
    network = MinkUNet(1, 5, depth=14, width=1 / 16)
    for layer in network.modules():
        if isinstance(layer, Convolution):
            layer.backend = "triton"

    def step(tensor: SparseTensor) -> None:
        nn.functional.cross_entropy(network(tensor).features, labels).backward()
        network.zero_grad()

    def fresh() -> SparseTensor:
        return SparseTensor(features, given.coordinates, batch_size=given.batch_size)

    made = fresh()
    with counted():
        step(made)  # what is kept for ever is made
    with counted() as of_step:
        step(fresh())
    with counted() as of_layers:
        step(made)
    assert of_layers.launches.total() <= 186, of_layers
    assert of_layers.waits.total() == 0, of_layers
    assert of_step.waits.total() <= 2, of_step
    assert of_step.launches.total() - of_layers.launches.total() <= 13, (of_step, of_layers)
