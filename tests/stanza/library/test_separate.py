"""Every scheme trains somebody's own model as one process does.

One world of four ranks trains all models under all schemes, when the first test asks for it. Each
rank draws other weights: those of rank 0 count.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

import stanza
from systems.data.batches import permutation
from systems.network.joined import leave
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

RANKS, EPOCHS, SEED = 4, 2, 7
SHAPE = (2, 8, 8)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
SCHEMES: dict[str, dict[str, Any]] = {
    "stanza": {"fc_workers": 1, "micro_batches": 1},
    "stanza, two micro-batches": {"fc_workers": 1, "micro_batches": 2},
    "stanza, two FC workers": {"fc_workers": 2, "micro_batches": 2},
    "stanza, colocated": {"fc_workers": 2, "micro_batches": 2, "fc_placement": "colocated"},
    "stanza, columns": {"fc_workers": 2, "micro_batches": 1, "fc_parallel": "columns"},
    "ps": {"scheme": "ps", "ps_servers": 2},
    "ps, colocated": {"scheme": "ps", "ps_placement": "colocated"},
    "ps, pipelined": {"scheme": "ps", "ps_mode": "pipelined"},
    "ddp": {"scheme": "ddp"},
    "ddp, unequal shares": {"scheme": "ddp", "batch_shares": (4, 1, 2, 1)},
    "single": {"scheme": "single"},
}


# Models, losses, optimizers


class Plain(nn.Module):
    """Two convolutions and a classifier of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.more = nn.Conv2d(4, 4, 3, padding=1)
        self.classifier = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, images: Tensor) -> Any:
        found: Tensor = self.classifier(F.relu(self.more(self.features(images))).flatten(1))
        return found


class TwoHeads(Plain):
    """A classifier, and boxes that come from the convolutional part without crossing FC layers."""

    def __init__(self) -> None:
        super().__init__()
        self.box = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        boxes = self.box(features).mean((2, 3))
        return {"class": self.classifier(self.more(features).flatten(1)), "box": boxes}


class SqueezeAndExcitation(Plain):
    """Linears that gate channels stay among the convolutions. One layer is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(4, 2), nn.Linear(2, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(features.mean((2, 3))))))
        features = self.more(features * gates[:, :, None, None])
        return self.classifier(features.flatten(1)), features.mean((1, 2, 3))


def frozen(*names: str) -> nn.Module:
    model = Plain()
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    return model


def loss_of_heads(outputs: Any, targets: Any) -> Tensor:
    labels = F.cross_entropy(outputs["class"], targets["label"], label_smoothing=0.1)
    return labels + 0.5 * F.mse_loss(outputs["box"], targets["box"])


def loss_of_tuple(outputs: Any, targets: Tensor) -> Tensor:
    logits, means = outputs
    return F.cross_entropy(logits, targets) + means.square().mean()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, eps=1e-4)


def halved(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    build: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Tensor] | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] = sgd
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    clip_norm: float | None = None
    heads: bool = False
    samples: int = 22
    leaves_out: tuple[str, ...] = ()
    """Schemes that refuse it."""


CASES = {
    "no sample for some ranks": Case(Plain, samples=17),
    "two heads": Case(TwoHeads, loss_of_heads, heads=True, leaves_out=("stanza, columns",)),
    "squeeze and excitation, AdamW, schedule": Case(
        SqueezeAndExcitation, loss_of_tuple, adamw, halved, leaves_out=("stanza, columns",)
    ),
    "clipping": Case(Plain, optimizer=sgd, clip_norm=0.3, leaves_out=("ps, pipelined",)),
    "frozen convolutions": Case(
        functools.partial(frozen, "features", "more"), clip_norm=0.2, leaves_out=("ps, pipelined",)
    ),
    "frozen classifier": Case(
        functools.partial(frozen, "features.0", "classifier"), scheduler=halved
    ),
}
RUNS = [
    (dtype, case, scheme)
    for dtype in TOLERANCE
    for case in CASES
    for scheme in SCHEMES
    if scheme not in CASES[case].leaves_out
    and (dtype == "float64" or (case.startswith("squeeze") and scheme.count(",") == 0))
]


class Dataset:
    """Noise, with labels, or with labels and boxes."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        noise = torch.Generator().manual_seed(5)
        self.images = torch.randn(case.samples, *SHAPE, generator=noise, dtype=dtype)
        self.labels = torch.randint(0, 5, (case.samples,), generator=noise)
        self.boxes = torch.randn(case.samples, 3, generator=noise, dtype=dtype)
        self.heads = case.heads

    def __len__(self) -> int:
        return len(self.images)

    def targets(self, index: Any) -> Any:
        labels = self.labels[index]
        return {"label": labels, "box": self.boxes[index]} if self.heads else labels

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.targets(index)


def reference(case: Case, model: nn.Module, dataset: Dataset) -> list[float]:
    """Train in plain torch; the losses of all steps."""
    optimizer = case.optimizer(model.parameters())
    scheduler = case.scheduler(optimizer) if case.scheduler else None
    loss_of, losses = case.loss or F.cross_entropy, []
    for epoch in range(EPOCHS):
        for indices in permutation(len(dataset), SEED, epoch).split(8):
            loss = loss_of(model(dataset.images[indices]), dataset.targets(indices))
            optimizer.zero_grad()
            loss.backward()
            if case.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), case.clip_norm)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(loss.item())
    return losses


def difference(dtype: str, name: str, scheme: str) -> float:
    """The largest relative difference to one process, of a parameter or a loss."""
    case, kind = CASES[name], getattr(torch, dtype)
    rank = int(torch.distributed.get_rank()) if torch.distributed.is_initialized() else 0
    torch.manual_seed(rank)
    model, dataset = case.build().to(kind), Dataset(case, kind)
    whole = case.build().to(kind)
    whole.load_state_dict(model.state_dict())
    arguments: dict[str, Any] = dict(SCHEMES[scheme])
    losses = []
    with stanza.separate(
        model,
        optimizer=case.optimizer,
        loss=case.loss,
        scheduler=case.scheduler,
        clip_norm=case.clip_norm,
        seed=SEED,
        device="cpu",
        **arguments,
    ) as trained:
        for _ in range(EPOCHS):
            for images, targets in trained.loader(dataset, batch_size=8):
                losses.append(trained.step(images, targets))
        assert trained.evaluate(lambda model: int(model.training)) == 0
        state = trained.state_dict()
    assert (trained.rank == 0) == bool(state)
    if trained.rank:
        return 0.0
    assert list(state) == list(whole.state_dict())
    expected = torch.tensor(reference(case, whole, dataset), dtype=torch.float64)
    off = (torch.tensor(losses, dtype=torch.float64) - expected).norm() / expected.norm()
    pairs = [(state[key], value) for key, value in whole.state_dict().items()]
    return max(float(off), *(float((a - b).norm() / b.norm().clamp(min=1e-3)) for a, b in pairs))


def train_all() -> dict[tuple[str, str, str], float]:
    torch.set_default_dtype(torch.float32)
    found = {run: difference(*run) for run in RUNS}
    leave()
    return found


@functools.cache
def differences() -> dict[tuple[str, str, str], float]:
    return dict(run_ranks(RANKS, train_all)[0])


@pytest.mark.parametrize("run", RUNS, ids=[" | ".join(run) for run in RUNS])
def test_a_scheme_trains_as_one_process_does(run: tuple[str, str, str]) -> None:
    assert differences()[run] <= TOLERANCE[run[0]]


@pytest.mark.parametrize("case", CASES)
def test_the_reference_learns(case: str) -> None:
    """What is compared has moved far beyond the tolerances, and so has clipping moved it."""
    one = CASES[case]
    model = one.build().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference(one, model, Dataset(one, torch.float64))
    moved = [not torch.allclose(before[name], value) for name, value in model.state_dict().items()]
    assert any(moved)
    if one.clip_norm is None:
        return
    unclipped = one.build().double()
    unclipped.load_state_dict(before)
    reference(replace(one, clip_norm=None), unclipped, Dataset(one, torch.float64))
    pairs = zip(model.parameters(), unclipped.parameters(), strict=True)
    assert max(float((a - b).detach().norm()) for a, b in pairs) > 1e-3
