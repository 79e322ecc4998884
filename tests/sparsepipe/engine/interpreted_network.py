"""Training steps of a network by Triton's kernels alone, on the CPU: `test_foresight.py` runs this
file with TRITON_INTERPRET=1, which must be set before anything imports Triton."""

import copy

import torch
from torch import Tensor, nn

from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models.unet import MinkUNet
from tests.sparsepipe.clouds import assert_close, random_tensor
from tests.sparsepipe.engine.launches import as_on_gpu


def _steps(network: nn.Module) -> list[Tensor]:
    """Outputs, gradients and buffers of two steps, of which the second makes its tables at once."""
    found: list[Tensor] = []
    for seed in range(2):
        given = random_tensor(3, voxels=60, seed=seed)
        network.zero_grad()
        features = network(SparseTensor(given.features, given.coordinates, batch_size=4)).features
        nn.functional.cross_entropy(features, torch.arange(60) % 5).backward()
        found += [features.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]
        found += [buffer.clone().double() for buffer in network.buffers()]
    return found


def test_gives_what_a_cpu_gives() -> None:
    torch.manual_seed(0)
    here = MinkUNet(3, 5, depth=14, width=1 / 16).double()
    there = copy.deepcopy(here)
    for layer in there.modules():
        if isinstance(layer, Convolution):
            layer.backend = "triton"
    with as_on_gpu():
        found = _steps(there)
    for ours, theirs in zip(found, _steps(here), strict=True):
        assert_close(ours, theirs)
