"""The accuracy over all of a data set."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from systems.data.accuracy import accuracy
from systems.data.dataset import Split, zeros
from systems.data.digits import open_digits


class Constant(nn.Module):
    """Says 3 of everything, and another digit in training mode."""

    def forward(self, images: Tensor) -> Tensor:
        says = torch.tensor(4 if self.training else 3)
        return nn.functional.one_hot(says, 10).float().expand(len(images), 10)


@pytest.mark.parametrize("batch_size", [1, 7, 256, 1000])
def test_accuracy_counts_all_of_the_data(batch_size: int) -> None:
    test: Split = open_digits().test
    labels = test.batch(range(len(test)))[1]
    model = Constant()
    found = accuracy(model, test, torch.device("cpu"), batch_size=batch_size)
    assert found == int((labels == 3).sum()) / len(test)


@pytest.mark.parametrize("channels", [1, 3])
def test_accuracy_leaves_every_module_its_mode(channels: int) -> None:
    """Also when the network fails, as one for 3 channels does on these images."""
    test = open_digits().test
    model = nn.Sequential(nn.Conv2d(channels, 2, 8), nn.BatchNorm2d(2).eval(), nn.Flatten())
    before = [module.training for module in model.modules()]
    with nullcontext() if channels == 1 else pytest.raises(RuntimeError):
        accuracy(model, test, torch.device("cpu"))
    assert [module.training for module in model.modules()] == before


def test_there_is_none_of_no_samples() -> None:
    data = zeros(3, "none")
    assert data.train.batch([0, 2])[0].tolist() == [[0.0], [0.0]]
    assert accuracy(Constant(), data.test, torch.device("cpu")) is None
