"""Convolutions equal dense ones at the occupied voxels, forward and backward; layers' behaviour."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsepipe import layers
from sparsepipe.dense_reference import dense_convolution, dense_transposed
from sparsepipe.layers import (
    AveragePooling,
    BatchNorm,
    Convolution,
    ConvolutionTranspose,
    Dropout,
    GlobalAveragePooling,
    GlobalMaxPooling,
    Linear,
    MaxPooling,
    ReLU,
)
from sparsepipe.tensor import SparseTensor
from systems.schema import InputError
from tests.sparsepipe.clouds import (
    assert_close,
    random_tensor,
    real_tensor,
)

SHAPES = [
    (size, stride, dilation) for size in (1, 2, 3, 5) for stride in (1, 2, 3) for dilation in (1, 2)
]
CLOUDS: list[Callable[[int, torch.dtype], SparseTensor]] = [random_tensor, real_tensor]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(("size", "stride", "dilation"), SHAPES)
def test_convolution_is_conv3d_at_the_voxels(
    size: int,
    stride: int,
    dilation: int,
    cloud: Callable[[int, torch.dtype], SparseTensor],
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    tensor = cloud(3, dtype)
    layer = Convolution(3, 4, size, stride, dilation, bias=True).to(dtype)

    def dense(kernel: Tensor) -> Tensor:
        return dense_convolution(tensor, kernel, size, stride, dilation, sites)

    sites = layer(tensor).coordinates
    if stride == 1:
        assert torch.equal(sites, tensor.coordinates)
    else:
        space = tensor.coordinates.clone()
        space[:, 1:] = space[:, 1:].div(stride, rounding_mode="floor") * stride
        assert torch.equal(sites, torch.unique(space, dim=0))
    _assert_same(layer, tensor, dense)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(("size", "stride", "dilation"), SHAPES)
def test_transposed_convolution_is_conv_transpose3d_at_the_voxels(
    size: int,
    stride: int,
    dilation: int,
    cloud: Callable[[int, torch.dtype], SparseTensor],
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    fine = cloud(1, dtype)
    coarse = fine.maps.coarsen(1, stride)
    features = torch.randn(len(fine.maps.keys(coarse)), 3, dtype=dtype)
    tensor = SparseTensor.on(fine.maps, coarse, features)
    layer = ConvolutionTranspose(3, 4, size, stride, dilation, bias=True).to(dtype)

    def dense(kernel: Tensor) -> Tensor:
        return dense_transposed(tensor, kernel, size, dilation, fine.coordinates)

    assert layer(tensor).maps is fine.maps
    assert layer(tensor).tensor_stride == 1
    _assert_same(layer, tensor, dense)


def test_convolution_at_a_coarser_stride_spaces_its_kernel() -> None:
    tensor = random_tensor(3)
    coarse = tensor.maps.coarsen(1, 2)
    features = torch.randn(len(tensor.maps.keys(coarse)), 3, dtype=torch.float64)
    halved = tensor.maps.coordinates(coarse)
    halved[:, 1:] //= 2
    layer = Convolution(3, 4, 3, 2).double()
    output = layer(SparseTensor.on(tensor.maps, coarse, features))
    expected = layer(SparseTensor(features, halved, batch_size=4))
    assert output.tensor_stride == 4
    assert torch.equal(output.features, expected.features)
    assert torch.equal(output.coordinates[:, 1:], expected.coordinates[:, 1:] * 2)


@pytest.mark.parametrize("layer", [GlobalMaxPooling(), GlobalAveragePooling()])
def test_global_pooling_has_a_row_for_each_sample(layer: nn.Module) -> None:
    tensor = random_tensor(3)
    output = layer(tensor)
    batch = tensor.coordinates[:, 0]
    for sample in range(4):
        rows = tensor.features[batch == sample]
        expected = torch.zeros(3, dtype=torch.float64)
        if len(rows):
            expected = rows.amax(0) if isinstance(layer, GlobalMaxPooling) else rows.mean(0)
        assert_close(output.features[sample], expected)
    assert output.tensor_stride == 0
    assert output.coordinates.tolist() == [[sample, 0, 0, 0] for sample in range(4)]
    again = SparseTensor(output.features, output.coordinates, 0, batch_size=4)
    assert torch.equal(again.keys, output.keys)


def test_state_dict_has_minkowski_engines_names_and_shapes() -> None:
    model = nn.Sequential(
        Convolution(2, 3, 3, bias=True),
        Convolution(3, 3, 1),
        Convolution(3, 3, 1, stride=2),
        ConvolutionTranspose(3, 3, 2, stride=2),
        BatchNorm(3),
        Linear(3, 5),
    )
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == {
        **{"0.kernel": [27, 2, 3], "0.bias": [1, 3], "1.kernel": [3, 3], "2.kernel": [1, 3, 3]},
        **{"3.kernel": [8, 3, 3], "4.bn.weight": [3], "4.bn.bias": [3], "4.bn.running_mean": [3]},
        **{"4.bn.running_var": [3], "4.bn.num_batches_tracked": []},
        **{"5.linear.weight": [5, 3], "5.linear.bias": [5]},
    }


def test_rowwise_layers_are_those_of_torch() -> None:
    tensor = random_tensor(3, torch.float32)
    for ours, theirs in [(BatchNorm(3), nn.BatchNorm1d(3)), (ReLU(), nn.ReLU())]:
        assert torch.equal(ours(tensor).features, theirs(tensor.features))
    dropped = Dropout(0.5)(tensor).features
    assert 0 < int((dropped == 0).sum()) < dropped.numel()
    assert torch.equal(Dropout(0.5).eval()(tensor).features, tensor.features)


def test_training_gives_the_same_bytes_twice() -> None:
    def trained() -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(
            *(Convolution(3, 8), BatchNorm(8), ReLU(), MaxPooling(), Convolution(8, 8, 3, 2)),
            *(ConvolutionTranspose(8, 8, 2, 2), AveragePooling(3, 2), GlobalMaxPooling()),
            Linear(8, 2),
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for seed in range(3):
            optimizer.zero_grad()
            model(random_tensor(3, torch.float32, 900, seed)).features.square().sum().backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(), trained(), strict=True))


@pytest.mark.parametrize(
    "make", [lambda: Convolution(3, 4), lambda: MaxPooling(), lambda: AveragePooling()]
)
def test_a_batch_without_voxels_stays_one(make: Callable[[], nn.Module]) -> None:
    empty = SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    features = empty.features.requires_grad_()
    output = GlobalMaxPooling()(make()(empty))
    assert output.features.shape[0] == 2
    assert not output.features.any()
    output.features.sum().backward()
    assert features.grad is not None


def test_map_is_made_once_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = random_tensor(3)
    first = Convolution(3, 3).double()(tensor)
    monkeypatch.setattr("sparsepipe.coordinate_maps.build", None)
    Convolution(3, 3).double()(first)
    ConvolutionTranspose(3, 3).double()(first)
    assert first.maps is tensor.maps


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda x: Convolution(4, 4).double()(x), "3 channels into Convolution(4, 4"),
        (lambda x: Convolution(3, 4)(x), "features are torch.float64, weight is torch.float32"),
        (lambda x: Convolution(3, 4).double().to("meta")(x), "features on cpu, weight on meta"),
        (lambda x: ConvolutionTranspose(3, 4, 2, 2)(x), "stride 2 at tensor stride 1"),
        (lambda x: Convolution(3, 4, 0), "kernel size 0, dilation 1: give whole numbers"),
        (lambda x: Convolution(3, 4, 3, 0), "no kernel joins tensor strides 1 and 0"),
        (lambda x: Convolution(3, 4, 3, dilation=4096), "reaches beyond 4096 voxels"),
        (lambda x: Convolution(3, 4, backend="natve"), "perhaps 'native'"),
        (lambda x: Convolution(3, 4)(GlobalMaxPooling()(x)), "globally pooled"),
        (
            lambda x: BatchNorm(3)(SparseTensor(torch.ones(1, 3), torch.zeros(1, 4).int())),
            "BatchNorm in training on 1 voxels",
        ),
        (lambda x: ConvolutionTranspose(3, 4, 2, 2)(_doubled(x)), "stride 1 (there are: 2)"),
    ],
)
def test_bad_input_is_named(act: Callable[[SparseTensor], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        act(random_tensor(3))
    assert "\n" not in str(error.value)


def _doubled(tensor: SparseTensor) -> SparseTensor:
    coordinates = tensor.coordinates
    coordinates[:, 1:] *= 2
    return SparseTensor(tensor.features, coordinates, 2, batch_size=4)


def _assert_same(
    layer: layers.Convolution, tensor: SparseTensor, dense: Callable[[Tensor], Tensor]
) -> None:
    """Output and gradients of the features and of the kernel."""
    features = tensor.features.requires_grad_()
    assert layer.bias is not None
    results = []
    for output in (layer(tensor).features, dense(layer.kernel) + layer.bias):
        gradient = torch.randn(
            output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(2)
        )
        results.append((output, *torch.autograd.grad(output, [features, layer.kernel], gradient)))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)
