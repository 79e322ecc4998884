"""Optimizers of options."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sparsepipe.options import Options
from sparsepipe.train.optimizers import make_optimizer


def test_all_parameters_on_a_gpu_are_updated_by_one_launch() -> None:
    with FakeTensorMode():
        on_gpu = nn.Parameter(torch.empty(3, device="cuda"))
    on_cpu = nn.Parameter(torch.empty(3))
    expected = [([on_gpu], True), ([on_cpu], None), ([on_gpu, on_cpu], None)]
    for parameters, fused in expected:
        assert make_optimizer(Options(), parameters).defaults["fused"] is fused
