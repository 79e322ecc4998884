"""Gradients of replicas are summed wide, and come back in the types of their parameters."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sparsepipe.runtime.reduction import Reduction


def test_narrow_gradients_of_replicas_are_summed_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 256 + 1 + 1 + ... would stay 256."""

    def all_reduce(buffer: Tensor, **_: Any) -> Any:
        one = buffer.clone()
        for _replica in range(256):
            buffer += one / 256
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    leaves = {
        "narrow": torch.zeros(3, dtype=torch.bfloat16, requires_grad=True),
        "wide": torch.zeros(2, 2, requires_grad=True),
        "widest": torch.zeros(1, dtype=torch.float64, requires_grad=True),
    }
    world, group = cast(Any, SimpleNamespace(rank=0)), cast(Any, object())
    reduced = Reduction(leaves, world, stage=0, ranks=(0, 1), group=group)
    reduced.begin(leaves)
    torch.stack([256 * leaf.double().sum() for leaf in leaves.values()]).sum().backward()
    reduced.end()
    reduced.wait()
    gradients = reduced.finish()
    for name, leaf in leaves.items():
        assert gradients[name].dtype == leaf.dtype
        assert torch.equal(gradients[name], torch.full_like(leaf, 512).detach())
