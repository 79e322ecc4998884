"""Training under torch.autocast with a GradScaler follows training in float32."""

import pytest
import torch
from torch import nn

from sparsepipe.models import MinkUNet
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
