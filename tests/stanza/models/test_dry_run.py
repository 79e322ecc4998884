"""Dry runs find shapes and leave everything as it was; lazy layers get theirs."""

import pytest
import torch
from torch import Tensor, nn

from stanza.models import ARCHITECTURES, Architecture, build_model
from stanza.models.dry_run import SAMPLES, dry_run, materialise
from systems.schema import InputError

SHAPE = (3, 8, 8)


class ReadsValues(nn.Module):
    """Cannot run on the meta device, which has no values. Counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.runs: Tensor
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        out: Tensor = self.body(x) * float(x.mean().item() + 1)
        return out


class MakesTensors(nn.Module):
    """Makes tensors of its own on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(x.shape[0], 1, 8, 8), x.new_ones(x.shape[0], 1, 8, 8)], 1)


def lazy(classes: int = 5) -> nn.Sequential:
    return nn.Sequential(
        nn.LazyConv2d(4, 3),
        nn.LazyBatchNorm2d(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.LazyLinear(classes),
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_are_those_of_the_network(dtype: torch.dtype, training: bool) -> None:
    model = ReadsValues().to(dtype).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    for network in (model, model.body):
        found = dry_run(network, SHAPE, "net")
        assert (found.shape, found.dtype) == ((SAMPLES, 4, 6, 6), dtype)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training == training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_trial_on_a_gpu_leaves_its_random_numbers_alone() -> None:
    model = ReadsValues().cuda()
    random = torch.cuda.get_rng_state()
    dry_run(model, SHAPE, "net")
    assert torch.equal(torch.cuda.get_rng_state(), random)


def test_tensors_that_a_network_makes_itself() -> None:
    found = dry_run(MakesTensors(), SHAPE, "net")
    assert found.shape == (SAMPLES, 5, 8, 8)
    assert found.is_meta


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 3), ReadsValues()])
@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 2, 2), (3,)])
def test_the_reason_is_the_networks_own(model: nn.Module, shape: tuple[int, ...]) -> None:
    name = "x".join(map(str, shape))
    with pytest.raises(InputError, match=f"^net does not take images of {name}: ") as error:
        dry_run(model, shape, "net")
    assert "\n" not in str(error.value)
    assert "meta" not in str(error.value)


def test_lazy_layers_get_the_shapes_and_weights_of_a_first_pass() -> None:
    ours, theirs = lazy(), lazy()
    torch.manual_seed(0)
    materialise(ours, SHAPE)
    torch.manual_seed(0)
    theirs.eval()(torch.zeros(1, *SHAPE))
    assert [module.training for module in ours.modules()] == [True] * 6
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])
    assert type(ours[4]) is nn.Linear


def test_a_registered_network_has_its_shapes_when_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every rank draws its first weights from the run's seed, whichever scheme it runs."""
    row = Architecture(build=f"{__name__}:lazy", image_shape=SHAPE, classes=5, batch_size=2)
    monkeypatch.setitem(ARCHITECTURES, "lazy", row)
    assert sum(p.numel() for p in build_model("lazy").parameters()) == 112 + 8 + 725


def test_a_lazy_layer_that_nothing_reaches_is_named() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.LazyLinear(3), nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    with pytest.raises(InputError, match=r"unused\.weight thus no shape"):
        materialise(Unused(), SHAPE)
