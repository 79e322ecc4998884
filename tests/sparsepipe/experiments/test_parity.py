"""Parity is measured on every kernel, and an error would show."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.experiments import parity
from sparsepipe.experiments.dense_reference import dense_convolution


def test_two_kernels_are_equal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parity, "KERNELS", [(3, 2, 1, False), (2, 2, 1, True)])
    outcome = parity.conclude(parity.measure("quick", tmp_path / "parity"), tmp_path)
    against_dense = [claim for claim in outcome.claims if "conv3d" in claim.id]
    assert [(claim.status, claim.n) for claim in against_dense] == [("pass", 2)] * 2
    assert (tmp_path / "parity" / "errors.json").is_file()


def test_another_kernel_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(x: SparseTensor, weight: Tensor, *rest: Any) -> Tensor:
        return dense_convolution(x, weight.flip(0), *rest)

    monkeypatch.setattr(parity, "dense_convolution", flipped)
    assert parity._errors(3, 1, 1, False, torch.float64)["conv3d"] > 0.1
