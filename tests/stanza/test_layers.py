"""A network against its profile: a layer that has changed, gone or come is named."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stanza.models.layers import difference
from systems.profiles.measured_profile import profile_model
from systems.profiles.profile import ModelProfile

SHAPE = (1, 4, 4)


class Net(nn.Module):
    def __init__(self, width: int = 8, more: bool = False, unused: bool = False) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(16, width), nn.ReLU()
        self.more = nn.Linear(width, width) if more else None
        self.head = nn.Linear(width, 3)
        if unused:
            self.spare = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Any:
        hidden = self.act(self.first(images.flatten(1)))
        return self.head(hidden if self.more is None else self.more(hidden))


def profiled(network: nn.Module) -> ModelProfile:
    return profile_model(
        network, torch.randn(2, *SHAPE), name="net", device_kind="cpu", repetitions=1
    )


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (Net(), Net(), None),
        (
            Net(8),
            Net(4),
            "layer first has 272 bytes of parameters, and 544 in the profile",  # (16 + 1) * 4 * 4
        ),
        (Net(more=True), Net(), "the network has no layer more"),
        (Net(), Net(more=True), "the profile has no layer more"),
        (Net(unused=True), Net(unused=True), None),  # it never runs
        (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
            Net(),
            "652 bytes of parameters, and 204 in the profile",  # ((16 + 1) * 8 + (8 + 1) * 3) * 4
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3)), Net(), None),
    ],
)
def test_the_first_difference_is_named(before: nn.Module, now: nn.Module, said: str | None) -> None:
    assert difference(now, profiled(before), SHAPE) == said
