"""Every module keeps its own mode, whoever evaluates the model."""

import pytest
from torch import nn

from systems.modes import evaluating, modes_restored


class Merged(nn.Linear):
    """Does something when its mode changes, as layers of adapters do."""

    merged = False

    def train(self, mode: bool = True) -> "Merged":
        self.merged = not mode
        return super().train(mode)


def partly_frozen() -> nn.Module:
    """In training but for a block whose own dropout is in training, and a layer in two places."""
    shared = nn.BatchNorm1d(2)
    model = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout()),
        nn.Sequential(shared, nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), shared),
        Merged(2, 2),
    )
    model[0].eval()
    model[0][1].train()
    model[1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("root", [True, False])
def test_every_module_gets_its_own_mode_back(root: bool) -> None:
    model, other = partly_frozen(), nn.Sequential(nn.Dropout()).eval()
    other[0].train()
    model.training = root
    before = modes(model), modes(other)
    with evaluating(model, other):
        assert not any(modes(model) + modes(other))
    assert (modes(model), modes(other)) == before
    assert not model[3].merged  # it was told that it trains again


def test_modes_come_back_after_an_exception() -> None:
    model = partly_frozen()
    before = modes(model)
    with pytest.raises(RuntimeError, match="mine"), modes_restored(model):
        model.eval()
        raise RuntimeError("mine")
    assert modes(model) == before
