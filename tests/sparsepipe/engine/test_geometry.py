"""Convolutions and poolings of any geometry against loops over a dictionary of voxels: kernels and
strides that differ by axis, crosses, offsets of one's own, groups, one to four axes, voxels that a
layer makes, and voxels that it is given."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsepipe.engine import layers
from sparsepipe.engine.axes import each
from sparsepipe.engine.tensor import SparseTensor, union
from systems.schema import InputError
from tests.sparsepipe.clouds import assert_close, random_tensor

Place = tuple[int, ...]
SIDES = {1: 80, 2: 12, 3: 5, 4: 4}


def cloud(dimension: int, channels: int = 4, voxels: int = 60, seed: int = 0) -> SparseTensor:
    """Three samples around the origin, unsorted, of which the last one is empty."""
    generator = torch.Generator().manual_seed(seed)
    side = SIDES[dimension]
    space = torch.randint(-side, side, (voxels, dimension), generator=generator)
    batch = torch.randint(0, 2, (voxels, 1), generator=generator)
    coordinates = torch.unique(torch.cat([batch, space], 1), dim=0).int()
    coordinates = coordinates[torch.randperm(len(coordinates), generator=generator)]
    features = torch.randn(len(coordinates), channels, generator=generator, dtype=torch.float64)
    return SparseTensor(features, coordinates, batch_size=3)


def steps(size: int) -> list[int]:
    return [i - size // 2 if size % 2 else i for i in range(size)]


def offsets(shape: Any, size: Any, dimension: int) -> list[Place]:
    """Written down anew, in the order that the documentation gives."""
    sizes = (size,) * dimension if isinstance(size, int) else size
    if shape == "cube":
        return [p[::-1] for p in product(*(steps(length) for length in reversed(sizes)))]
    if shape == "cross":
        found = [(0,) * dimension]
        for axis, length in enumerate(sizes):
            for step in steps(length):
                if step:
                    found.append(tuple(step * (a == axis) for a in range(dimension)))
        return found
    return [tuple(offset) for offset in shape]


def pairs(
    fine: Tensor, coarse: Tensor, kernel: list[Place], spacing: tuple[int, ...]
) -> list[tuple[int, int, int]]:
    """(offset, fine row, coarse row) of all pairs, by looking voxels up in a dictionary."""
    rows = {tuple(voxel): row for row, voxel in enumerate(fine.tolist())}
    found = []
    for k, offset in enumerate(kernel):
        for u, (b, *voxel) in enumerate(coarse.tolist()):
            moved = (c + o * s for c, o, s in zip(voxel, offset, spacing, strict=True))
            if (v := rows.get((b, *moved))) is not None:
                found.append((k, v, u))
    return found


def convolved(x: Tensor, weight: Tensor, found: list[tuple[int, int, int]], rows: int) -> Tensor:
    """The sums over pairs (offset, input, output), of groups as nn.Conv3d has them."""
    k, v, u = torch.tensor(found).unbind(1)
    groups = x.shape[1] // weight.shape[1]
    parts = [
        (x_part[v][:, None] @ w_part[k])[:, 0]
        for x_part, w_part in zip(x.chunk(groups, 1), weight.chunk(groups, 2), strict=True)
    ]
    products = torch.cat(parts, 1)
    return products.new_zeros(rows, products.shape[1]).index_add(0, u, products)


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "1d": {"dimension": 1, "kernel_size": 5},
    "2d": {"dimension": 2, "kernel_size": 3, "dilation": 2},
    "2d strided": {"dimension": 2, "kernel_size": 2, "stride": 2},
    "4d": {"dimension": 4, "kernel_size": 3},
    "4d in space": {"dimension": 4, "kernel_size": (3, 3, 3, 1)},
    "4d strided": {"dimension": 4, "kernel_size": 2, "stride": (2, 2, 2, 1)},
    "flat": {"kernel_size": (3, 3, 1)},
    "flat strided": {"kernel_size": (3, 2, 1), "stride": (2, 2, 1)},
    "dilations": {"kernel_size": 3, "dilation": (1, 2, 3)},
    "cross": {"kernel_size": 3, "shape": "cross"},
    "long cross": {"kernel_size": (5, 3, 1), "shape": "cross", "dilation": 2},
    "strided cross": {"kernel_size": 3, "shape": "cross", "stride": 2},
    "own offsets": {"shape": [[0, 0, 0], [3, 0, 0], [-1, 2, 0], [1, -2, 0]], "dilation": 2},
    "own offset": {"shape": [[1, 0, 0]]},
    "groups": {"kernel_size": 3, "groups": 2},
    "strided groups": {"kernel_size": 2, "stride": 2, "groups": 4},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_sums_over_a_dictionary_of_voxels(name: str) -> None:
    options = CONVOLUTIONS[name]
    dimension, stride = options.get("dimension", 3), options.get("stride", 1)
    torch.manual_seed(0)
    layer = layers.Convolution(4, 8, **options).double()
    tensor = cloud(dimension)
    features = tensor.features.requires_grad_()
    output = layer(tensor)
    assert output.tensor_stride == stride
    space = tensor.coordinates.clone()
    edges = torch.tensor(each(stride, dimension))
    space[:, 1:] = space[:, 1:].div(edges, rounding_mode="floor") * edges
    sites = tensor.coordinates if stride == 1 else torch.unique(space, dim=0)
    assert torch.equal(output.coordinates, sites)
    kernel = offsets(options.get("shape", "cube"), options.get("kernel_size", 3), dimension)
    spacing = each(options.get("dilation", 1), dimension)
    found = pairs(tensor.coordinates, sites, kernel, spacing)
    weight = layer.kernel.view(len(kernel), -1, 8)
    _assert_same(output.features, convolved(features, weight, found, len(sites)), features, layer)


@pytest.mark.parametrize("name", ["2d strided", "4d strided", "flat strided", "strided groups"])
def test_transposed_convolutions_swap_inputs_and_outputs(name: str) -> None:
    options = CONVOLUTIONS[name]
    dimension = options.get("dimension", 3)
    torch.manual_seed(0)
    tensor = cloud(dimension)
    features = tensor.features.requires_grad_()
    coarse = layers.AveragePooling(options["kernel_size"], options["stride"])(tensor)
    layer = layers.ConvolutionTranspose(4, 8, **options).double()
    output = layer(coarse)
    assert output.tensor_stride == 1
    assert torch.equal(output.coordinates, tensor.coordinates)
    kernel = offsets("cube", options["kernel_size"], dimension)
    found = pairs(tensor.coordinates, coarse.coordinates, kernel, (1,) * dimension)
    swapped = [(k, u, v) for k, v, u in found]
    weight = layer.kernel.view(len(kernel), -1, 8)
    expected = convolved(coarse.features, weight, swapped, len(tensor))
    _assert_same(output.features, expected, features, layer)


@pytest.mark.parametrize(
    ("size", "stride", "dimension"), [(2, 2, 3), (3, 2, 3), (4, 2, 3), (3, 1, 2), ((2, 2, 1), 2, 3)]
)
def test_generative_layers_reach_every_voxel_under_the_kernel(
    size: Any, stride: Any, dimension: int
) -> None:
    torch.manual_seed(0)
    tensor = cloud(dimension)
    features = tensor.features.requires_grad_()
    coarse = layers.MaxPooling(stride, stride)(tensor) if stride != 1 else tensor
    layer = layers.GenerativeConvolutionTranspose(
        4, 8, size, stride, bias=True, dimension=dimension
    ).double()
    output = layer(coarse)
    kernel = offsets("cube", size, dimension)
    sites = {
        (b, *(c + o for c, o in zip(voxel, offset, strict=True)))
        for b, *voxel in coarse.coordinates.tolist()
        for offset in kernel
    }
    assert [tuple(voxel) for voxel in output.coordinates.tolist()] == sorted(sites)
    assert output.batch_size == 3
    found = pairs(output.coordinates, coarse.coordinates, kernel, (1,) * dimension)
    swapped = [(k, u, v) for k, v, u in found]
    assert layer.bias is not None
    expected = convolved(coarse.features, layer.kernel, swapped, len(output)) + layer.bias
    _assert_same(output.features, expected, features, layer)
    again = layers.MaxPooling(2, 2)(output)  # coarser voxels are made of the new ones
    assert len(again) <= len(output)
    with pytest.raises(InputError, match="makes its own voxels"):
        layer(coarse, tensor)


@pytest.mark.parametrize(
    ("options", "dimension"), [({}, 3), ({"shape": "cross"}, 3), ({"stride": 2}, 2)]
)
def test_channelwise_convolution_is_one_of_as_many_groups(
    options: dict[str, Any], dimension: int
) -> None:
    torch.manual_seed(0)
    tensor = cloud(dimension)
    features = tensor.features.requires_grad_()
    layer = layers.ChannelwiseConvolution(4, bias=True, dimension=dimension, **options).double()
    grouped = layers.Convolution(4, 4, groups=4, dimension=dimension, **options).double()
    grouped.kernel.data = layer.kernel.data[:, None].clone()
    output, expected = layer(tensor), grouped(tensor)
    assert layer.bias is not None
    assert_close(output.features, expected.features + layer.bias)
    gradient = torch.randn_like(output.features)
    ours = torch.autograd.grad(output.features, [features, layer.kernel], gradient)
    theirs = torch.autograd.grad(expected.features, [features, grouped.kernel], gradient)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1][:, 0])


@pytest.mark.parametrize("name", ["max", "average", "sum"])
@pytest.mark.parametrize(
    ("options", "dimension"),
    [
        ({"kernel_size": 2}, 4),
        ({"kernel_size": (2, 2, 1), "stride": (2, 2, 1)}, 3),
        ({"kernel_size": 3, "shape": "cross"}, 2),
    ],
)
def test_poolings_of_any_geometry(name: str, options: dict[str, Any], dimension: int) -> None:
    tensor = cloud(dimension)
    features = tensor.features.requires_grad_()
    kind = {"max": layers.MaxPooling, "average": layers.AveragePooling, "sum": layers.SumPooling}
    output = kind[name](**options)(tensor)
    kernel = offsets(options.get("shape", "cube"), options["kernel_size"], dimension)
    found = pairs(tensor.coordinates, output.coordinates, kernel, (1,) * dimension)
    rows: list[list[int]] = [[] for _ in range(len(output))]
    for _, v, u in found:
        rows[u].append(v)
    reduce = {"max": lambda x: x.amax(0), "average": lambda x: x.mean(0), "sum": lambda x: x.sum(0)}
    nothing = torch.zeros(4, dtype=torch.float64)
    expected = torch.stack([reduce[name](features[v]) if v else nothing for v in rows])
    gradient = torch.randn_like(expected)
    results = [
        (y, *torch.autograd.grad(y, features, gradient)) for y in (output.features, expected)
    ]
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


def test_outputs_at_the_voxels_of_another_tensor() -> None:
    torch.manual_seed(0)
    tensor, other = cloud(3), cloud(3, seed=1)
    features = tensor.features.requires_grad_()
    layer = layers.Convolution(4, 8, 3).double()
    output = layer(tensor, other)
    assert output.maps is other.maps
    found = pairs(tensor.coordinates, other.coordinates, offsets("cube", 3, 3), (1, 1, 1))
    expected = convolved(features, layer.kernel, found, len(other))
    _assert_same(output.features, expected, features, layer)
    up = layers.ConvolutionTranspose(4, 8, 2, 2).double()
    coarse = layers.MaxPooling()(tensor)
    output = up(coarse, other)
    found = pairs(other.coordinates, coarse.coordinates, offsets("cube", 2, 3), (1, 1, 1))
    swapped = [(k, u, v) for k, v, u in found]
    expected = convolved(coarse.features, up.kernel, swapped, len(other))
    _assert_same(output.features, expected, features, up)
    with pytest.raises(InputError, match="give a tensor of the same samples at tensor stride 2"):
        layers.Convolution(4, 8, 2, 2).double()(tensor, other)
    # Voxels of the same maps at another stride are no place for outputs either.
    with pytest.raises(InputError, match="give a tensor of the same samples at tensor stride 2"):
        layers.Convolution(4, 8, 2, 2).double()(tensor, tensor)
    with pytest.raises(InputError, match="give a tensor of the same samples at tensor stride 1"):
        up(coarse, coarse)


def test_no_stride_rounds_voxels_beyond_the_limits() -> None:
    """A key would take such a coordinate for one of a neighbouring row."""
    cells = torch.tensor([[0, 0, 0, -61440], [0, 0, 0, -61439]], dtype=torch.int32)
    tensor = SparseTensor(torch.ones(2, 1), cells)
    assert layers.SumPooling(1, 5)(tensor).coordinates.tolist() == [[0, 0, 0, -61440]]
    for stride, lowest in ((7, -61446), (60000, -120000)):
        with pytest.raises(InputError, match=f"coordinate z = {lowest} is not in"):
            layers.SumPooling(1, stride)(tensor)
    with pytest.raises(InputError, match="tensor stride 1099511627776 is beyond the limit"):
        layers.SumPooling(1, 2**40)


def test_sums_of_tensors_on_other_voxels_count_missing_ones_as_zeros() -> None:
    one, other = cloud(3), cloud(3, seed=1)
    leaves = [one.features.requires_grad_(), other.features.requires_grad_()]
    for output, sign in ((one + other, 1), (one - other, -1), (union([one, other]), 1)):
        places = sorted({tuple(v) for t in (one, other) for v in t.coordinates.tolist()})
        assert [tuple(v) for v in output.coordinates.tolist()] == places
        number = {place: row for row, place in enumerate(places)}
        expected = torch.zeros(len(places), 4, dtype=torch.float64)
        for tensor, factor in ((one, 1), (other, sign)):
            rows = torch.tensor([number[tuple(v)] for v in tensor.coordinates.tolist()])
            expected = expected.index_add(0, rows, factor * tensor.features)
        gradient = torch.randn_like(expected)
        ours = torch.autograd.grad(output.features, leaves, gradient)
        theirs = torch.autograd.grad(expected, leaves, gradient)
        for a, b in zip((output.features, *ours), (expected, *theirs), strict=True):
            assert_close(a, b)
    more = SparseTensor(other.features, other.coordinates, batch_size=7)
    assert (one + more).batch_size == 7


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: layers.Convolution(4, 4, (3, 3)), "kernel size (3, 3) for voxels of 3 axes"),
        (lambda: layers.Convolution(4, 4, 2, shape="cross"), "a cross of kernel size 2"),
        (lambda: layers.Convolution(4, 4, shape="star"), "kernel shape 'star': give 'cube'"),
        (lambda: layers.Convolution(4, 4, shape=[[0, 0, 0]] * 2), "give each of them once"),
        (lambda: layers.Convolution(4, 4, shape=[[0, 0]]), "offsets of 2 numbers for 3 axes"),
        (lambda: layers.Convolution(4, 6, groups=4), "4 to 6 channels in 4 groups"),
        (lambda: layers.Convolution(4, 4, 2.5), "kernel size 2.5: give a whole number"),
        (lambda: layers.Convolution(4, 4)(cloud(2)), "voxels of 2 axes into Convolution"),
        (lambda: layers.Convolution(4, 4, dimension=5), "coordinates of 5 axes"),
        (lambda: layers.ChannelwiseConvolution(3).double()(cloud(3)), "4 channels into Channel"),
        (lambda: cloud(3) + cloud(2), "different voxels"),
        (lambda: union([]), "union of no tensors"),
        (lambda: layers.Broadcast()(cloud(3), cloud(3)), "is not globally pooled"),
    ],
)
def test_bad_geometry_is_named(act: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        act()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "Addition", "Multiplication", "Concatenation"])
def test_broadcasts_give_every_voxel_the_row_of_its_sample(name: str) -> None:
    tensor = cloud(3)
    leaves = [tensor.features.requires_grad_()]
    pooled = layers.GlobalSumPooling()(tensor)
    output = getattr(layers, f"Broadcast{name}")()(tensor, pooled).features
    batch = tensor.coordinates[:, 0].long()
    one_hot = torch.nn.functional.one_hot(batch, 3).double()
    spread, own = one_hot @ (one_hot.T @ tensor.features), tensor.features
    expected = {
        "": spread,
        "Addition": own + spread,
        "Multiplication": own * spread,
        "Concatenation": torch.cat([own, spread], 1),
    }[name]
    gradient = torch.randn_like(expected)
    assert_close(output, expected)
    ours, theirs = (torch.autograd.grad(y, leaves, gradient)[0] for y in (output, expected))
    assert_close(ours, theirs)


def test_modules_of_torch_work_on_rows() -> None:
    tensor = random_tensor(3, torch.float32)
    for module in (torch.nn.GELU(), torch.nn.PReLU(3), torch.nn.Softmax(dim=1)):
        assert torch.equal(layers.Elementwise(module)(tensor).features, module(tensor.features))
    assert list(layers.Elementwise(torch.nn.PReLU(3)).state_dict()) == ["module.weight"]


def _assert_same(
    output: Tensor, expected: Tensor, features: Tensor, layer: layers.Convolution
) -> None:
    """Values, and the gradients of features and weights."""
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    results = [
        (y, *torch.autograd.grad(y, [features, layer.kernel], gradient, retain_graph=True))
        for y in (output, expected)
    ]
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)
