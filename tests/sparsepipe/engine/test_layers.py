"""Convolutions equal dense ones at the occupied voxels, forward and backward; layers' behaviour."""

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsepipe.engine import layers
from sparsepipe.engine.layers import (
    AveragePooling,
    BatchNorm,
    Convolution,
    ConvolutionTranspose,
    Dropout,
    GlobalAveragePooling,
    GlobalMaxPooling,
    InstanceNorm,
    Linear,
    MaxPooling,
    Pruning,
    ReLU,
)
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.experiments.dense_reference import dense_convolution, dense_transposed
from systems.schema import InputError
from tests.sparsepipe.clouds import assert_close, full_volume, random_tensor, real_tensor

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


def _made(name: str, stride: int) -> nn.Module | None:
    """A layer of 3 channels with this stride; without one, only for stride 1."""
    parameters = inspect.signature(getattr(layers, name)).parameters
    named = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = {p.name: 3 for p in named if p.default is p.empty}
    if "stride" in parameters:
        options["stride"] = stride
    elif stride > 1:
        return None
    torch.manual_seed(0)
    if name == "Elementwise":
        return layers.Elementwise(nn.GELU())
    layer: nn.Module = getattr(layers, name)(**options).double()
    return layer.eval() if name == "Dropout" else layer


LAYERS = [
    name
    for name, layer in vars(layers).items()
    if inspect.isclass(layer) and issubclass(layer, nn.Module) and name[0] != "_"
    if name not in ("Pruning", "Interpolation") and "Broadcast" not in name
]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_keeps_rows_in_the_order_in_which_they_were_given(
    name: str, stride: int
) -> None:
    sorted_ = random_tensor(3, voxels=400)
    order = torch.randperm(len(sorted_), generator=torch.Generator().manual_seed(0))
    mixed = SparseTensor(sorted_.features[order], sorted_.coordinates[order], batch_size=4)
    found = []
    for tensor in (sorted_, mixed):
        layer = _made(name, stride)
        if layer is None:
            return
        features = tensor.features.requires_grad_()
        inputs = tensor
        if "Transpose" in name and stride > 1:
            inputs = MaxPooling(stride, stride)(tensor)
        output = layer(inputs)
        assert output.features.shape[0] == len(output.coordinates)
        weights = (output.coordinates.double() @ torch.tensor([5.0, 1, 2, 3]).double()).cos()
        (gradient,) = torch.autograd.grad((output.features * weights[:, None]).sum(), features)
        found.append((output, gradient))
    (expected, of_sorted), (output, of_mixed) = found
    given = output.maps.order(output.tensor_stride) is not None
    rows = expected.features[order] if given else expected.features
    assert_close(output.features, rows)
    assert_close(of_mixed, of_sorted[order])


@pytest.mark.parametrize("mixed", [False, True])
def test_pruning_leaves_the_voxels_of_the_mask(mixed: bool) -> None:
    tensor = random_tensor(3)
    if mixed:
        order = torch.randperm(len(tensor), generator=torch.Generator().manual_seed(0))
        tensor = SparseTensor(tensor.features[order], tensor.coordinates[order], batch_size=4)
    MaxPooling()(tensor)  # voxels at stride 2 that must be forgotten
    mask = tensor.features[:, 0] > 0
    features = tensor.features.requires_grad_()
    pruned = Pruning()(tensor, mask)
    assert torch.equal(pruned.features, features[mask])
    assert torch.equal(pruned.coordinates, tensor.coordinates[mask])
    pruned.features.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, mask[:, None].expand(-1, 3).double())
    fresh = SparseTensor(features[mask].detach(), tensor.coordinates[mask], batch_size=4)
    torch.manual_seed(0)
    layer = nn.Sequential(Convolution(3, 4), MaxPooling(), Convolution(4, 4)).double()
    assert torch.equal(layer(pruned).features, layer(fresh).features)
    assert torch.equal(layer(pruned).coordinates, layer(fresh).coordinates)
    nothing = Pruning()(tensor, torch.zeros_like(mask))
    assert nothing.features.shape == (0, 3)
    assert layer(nothing).batch_size == 4


def test_transposed_layers_return_from_pruned_voxels_to_all_finer_ones() -> None:
    tensor = random_tensor(3)
    order = torch.randperm(len(tensor), generator=torch.Generator().manual_seed(0))
    tensor = SparseTensor(tensor.features[order], tensor.coordinates[order], batch_size=4)
    coarse = MaxPooling()(tensor)
    mask = coarse.features[:, 0] > 0
    back = ConvolutionTranspose(3, 2, 2, 2).double()
    wide = back(coarse.replace(coarse.features * mask[:, None]))
    narrow = back(Pruning()(coarse, mask))
    assert_close(narrow.features, wide.features)
    assert torch.equal(narrow.coordinates, tensor.coordinates)
    assert torch.equal((narrow + wide).features, narrow.features + wide.features)


def test_pruning_keeps_the_kernel_maps_of_finer_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = random_tensor(3)
    body, down, back = Convolution(3, 3).double(), MaxPooling(), ConvolutionTranspose(3, 3, 2, 2)
    coarse = down(down(body(tensor)))
    mask = coarse.features[:, 0] > 0
    pruned = back.double()(Pruning()(coarse, mask))  # makes the map from stride 4 to 2 anew
    wide = back(coarse.replace(coarse.features * mask[:, None]))
    assert_close(pruned.features, wide.features)
    monkeypatch.setattr("sparsepipe.engine.coordinate_maps.build", None)
    assert_close(body(back(pruned)).features, body(back(wide)).features)


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


def test_instance_norm_is_that_of_torch_on_a_full_volume() -> None:
    volume = torch.randn(3, 4, 5, 6, 2, dtype=torch.float64) * 3 + 2
    ours, theirs = InstanceNorm(4).double(), nn.InstanceNorm3d(4, eps=1e-8, affine=True).double()
    assert {name: list(p.shape) for name, p in ours.state_dict().items()} == {
        **{"weight": [1, 4], "bias": [1, 4]}
    }
    with torch.no_grad():
        for parameter, same in zip(ours.parameters(), theirs.parameters(), strict=True):
            parameter.copy_(same.copy_(torch.randn(4)))
    tensor = full_volume(volume)
    features, dense = tensor.features.requires_grad_(), volume.requires_grad_()
    output, expected = ours(tensor).features, full_volume(theirs(dense)).features
    assert_close(output, expected)
    gradient = torch.randn_like(output)
    mine = torch.autograd.grad(output, [features, ours.weight, ours.bias], gradient)
    other = torch.autograd.grad(expected, [dense, theirs.weight, theirs.bias], gradient)
    assert_close(mine[0], full_volume(other[0]).features)
    for a, b in zip(mine[1:], other[1:], strict=True):
        assert_close(a[0], b)


def test_instance_norm_of_samples_with_one_voxel_or_none_and_of_narrow_types() -> None:
    layer = InstanceNorm(2)
    nn.init.constant_(layer.bias, 3)
    cells = torch.tensor([[0, 1, 2, 3], *([2, x, 0, 0] for x in range(1000))], dtype=torch.int32)
    features = torch.rand(len(cells), 2).mul(100).add(500).half().requires_grad_()
    tensor = SparseTensor(features, cells, batch_size=4)
    output = layer(tensor).features
    assert output.dtype == torch.float16
    assert output[0].tolist() == [3, 3]
    part = features[1:].detach().double()
    expected = 3 + (part - part.mean(0)) / part.std(0, correction=0)
    assert torch.allclose(output[1:].double(), expected, rtol=1e-3, atol=1e-3)
    output.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


AUTOCAST = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", AUTOCAST)
def test_autocast_does_to_convolutions_what_it_does_to_those_of_torch(
    dtype: torch.dtype, given: torch.dtype, inside: bool
) -> None:
    """Types of outputs and gradients, and their values, with backward inside and outside of it."""
    torch.manual_seed(0)
    volume = torch.randn(2, 3, 4, 4, 4).to(given)
    tensor = full_volume(volume)
    ours, theirs = Convolution(3, 5, 3, bias=True), nn.Conv3d(3, 5, 3, padding=1)
    with torch.no_grad():
        weight = theirs.weight.permute(4, 3, 2, 1, 0).reshape(27, 3, 5)
        assert ours.bias is not None
        assert theirs.bias is not None
        ours.kernel.copy_(weight)
        ours.bias.copy_(theirs.bias)
    features, dense = tensor.features.requires_grad_(), volume.requires_grad_()
    gradients: list[list[Tensor]] = []
    with torch.autocast("cpu", dtype):
        output, expected = ours(tensor).features, full_volume(theirs(dense)).features
        if inside:
            gradients = _gradients(output, expected, features, dense, ours, theirs)
    gradients = gradients or _gradients(output, expected, features, dense, ours, theirs)
    assert output.dtype == expected.dtype == dtype
    for mine, other in zip([output, *gradients[0]], [expected, *gradients[1]], strict=True):
        assert mine.dtype == other.dtype
        error = float((mine.float() - other.float()).detach().abs().max())
        # Products are rounded to autocast's type, the input's gradient to the type of the input.
        eps = max(torch.finfo(dtype).eps, torch.finfo(mine.dtype).eps)
        assert error <= 2 * eps * float(other.detach().float().abs().max())


def _gradients(
    output: Tensor,
    expected: Tensor,
    features: Tensor,
    dense: Tensor,
    ours: Convolution,
    theirs: nn.Conv3d,
) -> list[list[Tensor]]:
    """Of features, weight and bias, in the sparse layer's shapes."""
    assert ours.bias is not None
    assert theirs.bias is not None
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    gradient = gradient.to(output.dtype)
    mine = torch.autograd.grad(output, [features, ours.kernel, ours.bias], gradient)
    of_dense, of_weight, of_bias = torch.autograd.grad(
        expected, [dense, theirs.weight, theirs.bias], gradient
    )
    of_weight = of_weight.permute(4, 3, 2, 1, 0).reshape(27, 3, 5)
    return [list(mine), [full_volume(of_dense).features, of_weight, of_bias[None]]]


@pytest.mark.parametrize("backend", ["native", "pytorch"])
@pytest.mark.parametrize("dtype", AUTOCAST)
def test_a_network_of_all_layers_trains_under_autocast(dtype: torch.dtype, backend: str) -> None:
    network = nn.Sequential(
        *(Linear(3, 8), ReLU(), Convolution(8, 8, backend=backend), BatchNorm(8), MaxPooling()),
        *(Convolution(8, 8, bias=True, backend=backend), InstanceNorm(8), AveragePooling()),
        *(layers.SumPooling(), layers.PoolingTranspose(), Dropout()),
        ConvolutionTranspose(8, 8, 2, 2, backend=backend),
        *(GlobalAveragePooling(), Linear(8, 2)),
    )
    tensor = random_tensor(3, torch.float32)
    with torch.autocast("cpu", dtype):
        output = network(tensor).features
        assert output.dtype == dtype
        output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_autocast_leaves_float64_as_it_is() -> None:
    tensor = random_tensor(3)
    layer = Convolution(3, 4).double()
    expected = layer(tensor).features
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(tensor).features, expected)
        for make in (Convolution, Linear):
            message = r"features are torch\.float64, weight is torch\.float32"
            with pytest.raises(InputError, match=message):
                make(3, 4)(tensor)
            message = r"features are torch\.float32, weight is torch\.float64"
            with pytest.raises(InputError, match=message):
                make(3, 4).double()(tensor.to(torch.float32))
        biased = Convolution(3, 4, bias=True)
        assert biased.bias is not None
        biased.bias.data = biased.bias.double()
        with pytest.raises(InputError, match=r"are torch\.float32, bias is torch\.float64"):
            biased(tensor.to(torch.float32))


@pytest.mark.parametrize("given", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "make", [lambda: Convolution(3, 3), lambda: Linear(3, 3), lambda: InstanceNorm(3)]
)
def test_parameters_of_another_type_are_refused_in_one_line(
    make: Callable[[], nn.Module], given: torch.dtype
) -> None:
    """As torch's layers do; those that normalise take narrow features with float32 parameters."""
    layer, tensor = make(), random_tensor(3, torch.float32)
    mixed = [(layer.to(given), tensor), (make(), tensor.replace(tensor.features.to(given)))]
    if isinstance(layer, InstanceNorm) and given != torch.float64:
        mixed = mixed[:1]
    for one, other in mixed:
        with pytest.raises(InputError, match=r"features are torch\.\w+, weight is torch") as error:
            one(other)
        assert "\n" not in str(error.value)
        assert one.to(other.features.dtype)(other).features.dtype == other.features.dtype


def test_batch_norm_takes_the_types_that_torch_takes() -> None:
    tensor = random_tensor(3, torch.float32)
    for given in (torch.float16, torch.bfloat16):
        narrow = tensor.replace(tensor.features.to(given))
        assert BatchNorm(3)(narrow).features.dtype == given
        with pytest.raises(InputError, match=r"features are torch\.float32, weight is"):
            BatchNorm(3).to(given)(tensor)
    with pytest.raises(InputError, match=r"features are torch\.float64, weight is torch\.float32"):
        BatchNorm(3)(random_tensor(3))


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
    monkeypatch.setattr("sparsepipe.engine.coordinate_maps.build", None)
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
            "BatchNorm of the batch's own statistics on 1 voxels",
        ),
        (lambda x: ConvolutionTranspose(3, 4, 2, 2)(_doubled(x)), "stride 1 (there are: 2)"),
        (
            lambda x: Pruning()(x, x.features[:, 0]),
            "the mask is torch.float64 [120] for 120 voxels",
        ),
        (lambda x: Pruning()(x, x.features > 0), "the mask is torch.bool [120, 3] for 120 voxels"),
        (lambda x: Pruning()(x, (x.features[:, 0] > 0).to("meta")), "on cpu, mask on meta"),
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
