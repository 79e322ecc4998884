"""Sums over the samples, so that shares of a batch add up; accuracy over all of a data set."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stanza.data import Split, load
from stanza.loss import AUXILIARY_WEIGHT, accuracy, loss_sum

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(7), 0.0]])
LABELS = torch.tensor([0, 0])
LOSS = math.log(4) + math.log(8 / 7)


def test_loss_is_summed() -> None:
    assert loss_sum(LOGITS, LABELS).item() == pytest.approx(LOSS)


def test_the_auxiliary_loss_has_its_weight() -> None:
    auxiliary = torch.zeros(2, 2)
    assert AUXILIARY_WEIGHT == 0.4
    expected = LOSS + 0.4 * 2 * math.log(2)
    assert loss_sum((LOGITS, auxiliary), LABELS).item() == pytest.approx(expected)


def test_both_outputs_get_gradients() -> None:
    logits, auxiliary = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    loss_sum((logits, auxiliary), LABELS).backward()
    assert logits.grad is not None
    torch.testing.assert_close(auxiliary.grad, AUXILIARY_WEIGHT * logits.grad)


@given(st.integers(1, 9), st.data(), st.booleans())
def test_shares_of_a_batch_add_up(samples: int, data: st.DataObject, auxiliary: bool) -> None:
    cut = data.draw(st.integers(0, samples))
    torch.manual_seed(samples)
    outputs, second = torch.randn(2, samples, 5)
    labels = torch.randint(5, (samples,))

    def loss(part: slice) -> Tensor:
        return loss_sum((outputs[part], second[part]) if auxiliary else outputs[part], labels[part])

    parts = loss(slice(0, cut)) + loss(slice(cut, None))
    torch.testing.assert_close(parts, loss(slice(None)))


class Constant(nn.Module):
    """Says 3 of everything, and another digit in training mode."""

    def forward(self, images: Tensor) -> Tensor:
        says = torch.tensor(4 if self.training else 3)
        return nn.functional.one_hot(says, 10).float().expand(len(images), 10)


@pytest.mark.parametrize("batch_size", [1, 7, 256, 1000])
def test_accuracy_counts_all_of_the_data(batch_size: int) -> None:
    test: Split = load("digits", image_shape=(1, 8, 8), classes=10).test
    labels = test.batch(range(len(test)))[1]
    model = Constant()
    found = accuracy(model, test, torch.device("cpu"), batch_size)
    assert found == int((labels == 3).sum()) / len(test)


@pytest.mark.parametrize("channels", [1, 3])
def test_accuracy_leaves_every_module_its_mode(channels: int) -> None:
    """Also when the network fails, as one for 3 channels does on these images."""
    test = load("digits", image_shape=(1, 8, 8), classes=10).test
    model = nn.Sequential(nn.Conv2d(channels, 2, 8), nn.BatchNorm2d(2).eval(), nn.Flatten())
    before = [module.training for module in model.modules()]
    with nullcontext() if channels == 1 else pytest.raises(RuntimeError):
        accuracy(model, test, torch.device("cpu"))
    assert [module.training for module in model.modules()] == before
