"""Training under torch.autocast with a GradScaler follows training in float32; sums are wide."""

import pytest
import torch
from torch import nn

from sparsepipe.engine import layers
from sparsepipe.engine.field import TensorField
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import MinkUNet
from systems.schema import InputError
from tests.sparsepipe.clouds import random_tensor


def trained(dtype: torch.dtype, steps: int, width: float) -> list[float]:
    """The losses of a MinkUNet14 that learns on which side of a plane voxels lie."""
    torch.manual_seed(0)
    network = MinkUNet(3, 2, depth=14, width=width)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=2.0**10)
    tensor = random_tensor(3, torch.float32, voxels=300)
    labels = (tensor.coordinates[:, 1] >= 0).long()
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = network(tensor).features
        loss = nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("steps", "width"), [(6, 1 / 16), pytest.param(50, 1 / 4, marks=pytest.mark.slow)]
)
def test_narrow_training_follows_float32(dtype: torch.dtype, steps: int, width: float) -> None:
    wide, narrow = trained(torch.float32, steps, width), trained(dtype, steps, width)
    assert wide[-1] < wide[0]
    far = [abs(a - b) for a, b in zip(wide, narrow, strict=True)]
    assert max(far) < 0.1 * wide[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["Broadcast", "BroadcastAddition", "slice"])
def test_gradients_of_rows_that_are_taken_often_are_summed_widely(
    how: str, dtype: torch.dtype
) -> None:
    """5000 ones are 5000; in float16 the sum stands still at 2048, in bfloat16 at 256."""
    ones = torch.ones(2, 2, dtype=dtype, requires_grad=True)
    places = torch.cartesian_prod(torch.arange(2), torch.arange(5000), *[torch.zeros(1).long()] * 2)
    if how == "slice":
        places[:, 1] = 0
        points = TensorField(torch.zeros(10000, 2, dtype=dtype), places)
        rows = points.slice(points.sparse().replace(ones)).features
    else:
        tensor = SparseTensor(torch.zeros(10000, 2, dtype=dtype), places)
        pooled = layers.GlobalSumPooling()(tensor).replace(ones)
        rows = getattr(layers, how)()(tensor, pooled).features
    rows.sum().backward()
    assert ones.grad is not None
    assert ones.grad.tolist() == torch.full((2, 2), 5000, dtype=dtype).tolist()


def test_biases_of_another_dtype_are_refused() -> None:
    layer = layers.ChannelwiseConvolution(2, bias=True).half()
    assert layer.bias is not None
    layer.bias.data = layer.bias.data.float()
    tensor = SparseTensor(torch.ones(1, 2).half(), torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(InputError, match=r"bias is torch\.float32"):
        layer(tensor)
