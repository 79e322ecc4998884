"""What cannot be trained is refused in one line that names it, and other worlds are used as they
are."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import stanza
from stanza.train.trial import unreached
from stanza.workers.loss import summed
from systems.arguments import as_arguments
from systems.network.joined import leave
from systems.schema import InputError
from tests.ranks import run_ranks
from tests.stanza.library.test_separate import SHAPE, Case, Dataset, Plain, sgd

DATA = Dataset(Case(Plain), torch.float32)


def groups(parameters: Any) -> torch.optim.Optimizer:
    """Biases without weight decay, as many write it."""
    parameters = list[Any](parameters)
    sorted_ones: list[Any] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(sorted_ones, lr=0.1)


class Tied(Plain):
    """The head reads the weights of a convolution."""

    def forward(self, images: Tensor) -> Any:
        scores = self.classifier(self.more(self.features(images)).flatten(1))
        return scores[:, :4] @ self.more.weight.view(4, 36)[:, :5]


class DependsOnTheBatch(Plain):
    """Computes otherwise for a single sample."""

    def forward(self, images: Tensor) -> Any:
        if images.size(0) > 1:
            images = images - images.mean(0)
        return super().forward(images)


class WantsMore(Plain):
    """Wants a second input."""

    def forward(self, images: Tensor, scale: Tensor) -> Any:  # type: ignore[override]
        return super().forward(images * scale)


class ReadsAMean(Plain):
    """The classifier reads a mean over the batch."""

    def forward(self, images: Tensor) -> Any:
        features = self.more(self.features(images))
        center = features.mean(0)
        return self.classifier(features.flatten(1)) + center.mean()


class Lazy(nn.Module):
    """Layers find out their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.LazyConv2d(3, 3), nn.LazyLinear(5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.conv(images)).flatten(1))
        return logits


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    return ReduceLROnPlateau(optimizer)


def loss_without_mean(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def loss_with_sum(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="sum")


def loss_that_fails(outputs: Tensor, labels: Tensor) -> Tensor:
    raise ValueError("no such class")


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], list[str]]] = {
    "tied weights": (Tied, {}, ["share more.weight"]),
    "batch size": (DependsOnTheBatch, {}, ["line", "if images.size(0) > 1:"]),
    "arguments": (WantsMore, {"scheme": "ddp"}, ["missing 1 required", "scale"]),
    "mean": (ReadsAMean, {}, ["no row for every sample", "center.mean()"]),
    "no mean": (Plain, {"loss": loss_without_mean}, ["loss: returns values of the shape [2]"]),
    "sum": (Plain, {"loss": loss_with_sum}, ["loss: is a sum over the samples"]),
    "failure": (Plain, {"loss": loss_that_fails}, ["Plain or its loss fails", "no such class"]),
    "groups": (Plain, {"scheme": "ps", "optimizer": groups}, ["scheme=ps", "2 groups"]),
    "by shape": (
        Plain,
        {"optimizer": torch.optim.Adafactor, "fc_workers": 2, "fc_parallel": "columns"},
        ["fc_parallel=columns", "Adafactor"],
    ),
    "plateau": (Plain, {"scheduler": plateau}, ["ReduceLROnPlateau"]),
    "clipping": (
        Plain,
        {"scheme": "ps", "ps_mode": "pipelined", "clip_norm": 1.0},
        ["clip_norm 1", "ps_mode=blocking"],
    ),
    "too many": (Plain, {"fc_workers": 3}, ["fc_workers=3", "at most 2"]),
}


def refuse_all() -> dict[str, str]:
    """Rank 0's error of every case; all ranks must raise one."""
    found = {}
    for name, (build, changes, _) in REFUSED.items():
        arguments = {"optimizer": sgd, "fc_workers": 1, "micro_batches": 1, **changes}
        with pytest.raises(InputError) as error:
            first_step(build(), arguments)
        found[name] = str(error.value)
    found["own batches"] = own_batches()
    leave()
    return found


def first_step(model: nn.Module, arguments: dict[str, Any]) -> None:
    trained = stanza.separate(model, device="cpu", **arguments)
    for batch in trained.loader(DATA, batch_size=8):
        trained.step(*batch)
        return


def own_batches() -> str:
    """Batches of one's own, of a size of its own on every rank; then a rank with too many."""
    arguments: dict[str, Any] = {"optimizer": sgd, "fc_workers": 1, "image_shape": SHAPE}
    trained = stanza.separate(Lazy(), device="cpu", micro_batches=2, **arguments)
    samples = 2 + trained.rank if trained.has_data else 0
    images, labels = DATA.images[:samples], DATA.labels[:samples]
    losses = [trained.step(images, labels) for _ in range(3)]
    assert losses[-1] < losses[0]
    trained.close()
    with pytest.raises(InputError, match="no rank has a sample"):
        trained.step(images[:0], labels[:0])
    batches = trained.loader(DATA, batch_size=8)
    next(batches)
    with pytest.raises(InputError) as error:
        trained.step(DATA.images[:1], DATA.labels[:1])
    return str(error.value)


@functools.cache
def refusals() -> dict[str, str]:
    return dict(run_ranks(4, refuse_all)[0])


@pytest.mark.distributed
@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_name(name: str) -> None:
    message = refusals()[name]
    assert "\n" not in message
    assert "--" not in message
    assert all(word in message for word in REFUSED[name][2]), message


@pytest.mark.distributed
def test_a_batch_that_is_not_the_loaders_share_is_refused() -> None:
    assert "1 samples on rank 0 (conv), whose share is 3" in refusals()["own batches"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)},
            "optimizer: SGD where a function",
        ),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"loss": nn.Linear(5, 1)}, "loss: Linear has parameters of its own"),
        ({"scheme": "dpp"}, "scheme=dpp: no scheme; perhaps 'ddp'"),
        ({"clip_norm": 0.0}, "clip_norm=0"),
        ({"ps_servers": 0}, "ps_servers=0: give 1 or more"),
    ],
)
def test_arguments_are_refused_before_ranks_meet(changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"optimizer": sgd, **changes}
    with pytest.raises(InputError) as error:
        stanza.separate(Plain(), **arguments)
    assert words in str(error.value)


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(InputError, match="no parameter of Plain requires a gradient"):
        stanza.separate(Plain().requires_grad_(False), optimizer=sgd)


def test_images_in_float64_are_refused_for_a_network_in_float32() -> None:
    single = stanza.separate(
        Plain(), optimizer=sgd, scheme="single", fc_workers=1, image_shape=SHAPE
    )
    with pytest.raises(InputError, match=r"images are float64 .* float32; give .*images\.float"):
        single.step(DATA.images.double(), DATA.labels)
    leave()


def test_flags_become_arguments() -> None:
    assert as_arguments("--stanza.fc-workers 9: of --world-size 4; give --stanza.ps-mode x") == (
        "fc_workers=9: of a world of 4; give ps_mode=x"
    )


def test_the_trial_leaves_buffers_and_random_numbers_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 8), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(3, 5)
    )
    model.add_module("5", nn.Identity())
    before, torch_state = [b.clone() for b in model.buffers()], torch.get_rng_state()
    assert unreached(model, DATA.images, DATA.labels, summed(None)) == []
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert torch.equal(torch_state, torch.get_rng_state())


# Worlds that are there already, and none


def in_a_world_of_its_own(backend: str | None) -> tuple[float, list[int]]:
    """Two FC roles on two ranks of a process group that the program has made."""
    dist.init_process_group(backend)
    torch.manual_seed(dist.get_rank())
    with stanza.separate(Plain(), optimizer=sgd, fc_workers=1, micro_batches=1) as trained:
        order = [
            [trained.step(*batch) for batch in trained.loader(DATA, batch_size=8)] for _ in range(2)
        ]
        sizes = [len(images) for images, _ in trained.loader(DATA, batch_size=8)]
    leave()
    assert dist.is_initialized()  # it is the program's own
    dist.destroy_process_group()
    return sum(map(sum, order)), sizes


@pytest.mark.distributed
@pytest.mark.parametrize("backend", ["gloo", "cpu:gloo"])
def test_a_process_group_that_is_there_is_used(backend: str) -> None:
    (first, with_data), (second, without) = run_ranks(2, in_a_world_of_its_own, backend)
    assert first == second
    assert (with_data, without) == ([8, 8, 6], [0, 0, 0])


def let_the_planner_choose(cluster: str | None, clip_norm: float | None) -> tuple[str, str, float]:
    arguments: dict[str, Any] = {"optimizer": sgd, "cluster": cluster, "clip_norm": clip_norm}
    with stanza.separate(Plain(), **arguments) as trained:
        losses = [trained.step(*batch) for batch in trained.loader(DATA, batch_size=8)]
        described, reason = trained.layout.describe(), trained.reason
    leave()
    return described, reason, losses[0]


@pytest.mark.distributed
@pytest.mark.parametrize(("cluster", "clip_norm"), [(None, None), ("ec2-p3-10g", 0.1)])
def test_auto_measures_and_plans_alike_on_every_rank(
    cluster: str | None, clip_norm: float | None
) -> None:
    first, second = run_ranks(2, let_the_planner_choose, cluster, clip_norm)
    assert first == second
    assert "predicted" in first[1]


SCRIPT = """
import torch, stanza
from tests.stanza.library.test_refusals import DATA, Plain, sgd
torch.manual_seed(0)
trained = stanza.separate(Plain(), optimizer=sgd, device="cpu")
losses = [trained.step(*batch) for batch in trained.loader(DATA, batch_size=8)]
print(trained.layout.describe(), len(losses), len(trained.state_dict()))
"""


def test_a_single_process_needs_no_launcher(tmp_path: Path) -> None:
    quiet = {name: value for name, value in os.environ.items() if name != "RANK"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=quiet, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["1", "worker", "(0)", "3", str(len(Plain().state_dict()))]


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, stanza; print('torch' in sys.modules, callable(stanza.separate))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
