"""Triton's kernels of batch normalisation on the CPU: `test_batch_norm.py` runs this file with
TRITON_INTERPRET=1, which must be set before anything imports Triton."""

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from sparsepipe.engine import batch_norm as module
from sparsepipe.engine.batch_norm import MOST_ROWS, batch_norm
from sparsepipe.engine.layers import BatchNorm, InstanceNorm, ReLU, norm_relu
from sparsepipe.engine.tensor import SparseTensor
from tests.sparsepipe.clouds import TOLERANCE, assert_close, random_tensor
from tests.sparsepipe.engine.launches import Asked, as_on_gpu, counted

TYPES = {torch.float32: TOLERANCE[torch.float32], torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""The types beside float64, and how far from the result in float64 theirs may be."""


@pytest.fixture(autouse=True)
def on_gpu() -> Iterator[None]:
    """Features are normalised as on a GPU."""
    with as_on_gpu():
        yield


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(2, 1300),
    channels=st.integers(1, 19),
    training=st.booleans(),
    shortcut=st.booleans(),
    relu=st.booleans(),
)
def test_gives_what_pytorch_gives(
    seed: int, rows: int, channels: int, training: bool, shortcut: bool, relu: bool
) -> None:
    torch.manual_seed(seed)
    norm = _norm(channels).double().train(training)
    x, added, gradient = (2 * torch.randn(rows, channels, dtype=torch.float64) for _ in range(3))
    values = [x + 1, added] if shortcut else [x + 1]
    ours, theirs = (_all(norm, values, gradient, relu=relu, on_gpu=gpu) for gpu in (True, False))
    for one, other in zip(ours, theirs, strict=True):
        scale = max(float(other.abs().max()), 1)
        assert float((one - other).abs().max()) <= TOLERANCE[torch.float64] * scale


@pytest.mark.parametrize("dtype", TYPES)
def test_narrow_types_are_as_exact_as_their_values(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = _norm(20)
    values = [torch.randn(700, 20).to(dtype) for _ in range(2)]
    gradient = torch.randn(700, 20).to(dtype)
    ours = _all(norm, values, gradient, relu=False, on_gpu=True)
    wide = [v.double() for v in values]
    theirs = _all(norm, wide, gradient.double(), relu=False, on_gpu=False)
    assert ours[0].dtype == dtype
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).abs().max()) <= TYPES[dtype] * float(other.abs().max())


def _norm(channels: int) -> nn.BatchNorm1d:
    """A layer with any parameters and statistics."""
    norm = nn.BatchNorm1d(channels, eps=1e-3, momentum=0.3)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert values is not None
        nn.init.uniform_(values, 0.5, 1.5)
    return norm


def _all(
    norm: nn.BatchNorm1d, values: list[Tensor], gradient: Tensor, *, relu: bool, on_gpu: bool
) -> list[Tensor]:
    """The output, the layer's buffers after it, and all gradients."""
    again = nn.BatchNorm1d(norm.num_features, norm.eps, norm.momentum).train(norm.training)
    again.load_state_dict(norm.state_dict())
    again = again.double() if gradient.dtype == torch.float64 else again
    inputs = [value.clone().requires_grad_() for value in values]
    with mock.patch.object(module, "triton_serves", return_value=on_gpu):
        output = batch_norm(inputs[0], again, *inputs[1:], relu=relu)
    wanted = [again.weight, again.bias, *inputs]
    found = torch.autograd.grad(output, wanted, gradient)
    return [output.detach(), *again.buffers(), *found]


def test_a_far_mean_costs_no_digits() -> None:
    x = torch.randn(3000, 3, dtype=torch.float64) + 1000
    norm = nn.BatchNorm1d(3)
    found = batch_norm(x.float(), norm)
    expected = nn.BatchNorm1d(3).double()(x.float().double())
    far = float((found - expected).detach().abs().max())
    assert far < 1e-3  # a number near 1000 is off by 3e-5


def test_a_gradient_may_be_a_part_of_wider_rows() -> None:
    norm, x = _norm(5), torch.randn(40, 5, requires_grad=True)
    wide = torch.randn(40, 9)
    for gradient in (wide[:, 3:8], wide[:, :5].t().contiguous().t(), torch.ones(()).expand(40, 5)):
        ours, theirs = (
            torch.autograd.grad(batch_norm(x, norm, relu=True), x, given)[0]
            for given in (gradient, gradient.contiguous())
        )
        assert torch.equal(ours, theirs)


def test_nan_stays() -> None:
    x = torch.full((4, 2), torch.nan)
    assert batch_norm(x, _norm(2), relu=True).isnan().all()


def _asked(norm: nn.Module, tensor: SparseTensor, shortcut: SparseTensor | None = None) -> Asked:
    with counted() as asked:
        norm_relu(norm, ReLU(), tensor, shortcut)
    return asked


def test_a_norm_its_sum_and_its_relu_are_one_launch() -> None:
    tensor, norm = random_tensor(3, torch.float32), BatchNorm(3)
    assert dict(_asked(norm, tensor, tensor).launches) == {"norm_kernel": 1}
    with counted() as asked:
        norm(tensor)
    assert dict(asked.launches) == {"norm_kernel": 1}


def test_other_layers_are_called_one_after_the_other() -> None:
    norm, tensor = InstanceNorm(3), random_tensor(3, torch.float32)
    expected = torch.relu(norm(tensor).features + tensor.features)
    assert torch.equal(norm_relu(norm, ReLU(), tensor, tensor).features, expected)


def test_hooks_are_called() -> None:
    norm, relu, tensor = BatchNorm(3), ReLU(), random_tensor(3, torch.float32)
    layers: list[nn.Module] = [norm, norm.bn, relu, relu.module]
    called = []
    for layer in layers:
        hook = layer.register_forward_hook(lambda *_: called.append(1))
        norm_relu(norm, relu, tensor)
        hook.remove()
    assert len(called) == len(layers)
    assert "norm_kernel" in _asked(norm, tensor).launches


@pytest.mark.parametrize(
    "norm",
    [
        BatchNorm(3, momentum=None),
        BatchNorm(3, affine=False),
        BatchNorm(3, track_running_stats=False),
    ],
)
def test_pytorch_computes_what_the_kernels_do_not(norm: BatchNorm) -> None:
    tensor = random_tensor(3, torch.float32)
    with torch.no_grad():
        assert "norm_kernel" not in _asked(norm, tensor).launches


def test_pytorch_computes_many_rows() -> None:
    norm = BatchNorm(1).bn
    assert not module.served(torch.zeros(MOST_ROWS + 1, 1), norm)
    assert module.served(torch.zeros(MOST_ROWS, 1), norm)
    assert not module.served(torch.zeros(1, 1), norm)
    assert module.served(torch.zeros(1, 1), norm.eval())


def test_a_shortcut_in_another_order_finds_its_rows() -> None:
    tensor = random_tensor(3)
    order = torch.randperm(len(tensor))
    other = SparseTensor(tensor.features[order], tensor.coordinates[order], batch_size=4)
    norm = BatchNorm(3).double().eval()
    ours, theirs = (norm_relu(norm, ReLU(), tensor, one).features for one in (other, tensor))
    assert_close(ours, theirs)
