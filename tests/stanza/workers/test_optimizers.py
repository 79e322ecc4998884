"""A schedule is stepped with its optimizer, and goes on where it stopped."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from stanza.workers.optimizers import check_by_value, scheduled
from systems.schema import InputError


def sgd(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


def cosine(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=10)


def rates(optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return found


@pytest.mark.filterwarnings("error")
def test_a_schedule_goes_on_where_it_stopped() -> None:
    parameters = [torch.zeros(2, requires_grad=True)]
    whole = rates(scheduled(sgd, cosine)(parameters), 8)
    assert whole[0] == 1.0
    assert whole[7] < 0.3
    assert rates(scheduled(sgd, cosine, steps_done=3)(parameters), 5) == pytest.approx(whole[3:])


def test_without_a_schedule_nothing_is_wrapped() -> None:
    assert scheduled(sgd, None) is sgd


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop, sgd])
def test_optimizers_that_update_value_by_value_pass(kind: Any) -> None:
    check_by_value(kind, [torch.zeros(2, 3, requires_grad=True)], "here")


def test_an_optimizer_that_looks_at_shapes_is_refused() -> None:
    with pytest.raises(InputError, match="here: Adafactor updates by the shape"):
        check_by_value(torch.optim.Adafactor, [torch.zeros(2, 3, requires_grad=True)], "here")
