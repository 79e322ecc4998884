"""`sparsepipe.pipeline` trains users' networks as one process does, on real ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler

import sparsepipe
from sparsepipe.engine.layers import BatchNorm
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import MinkUNet, MinkVGG16
from sparsepipe.planner.plan import partition, save_plan
from sparsepipe.planner.target import cluster_of
from sparsepipe.runtime.network import Network
from sparsepipe.train.profiling import profile_network
from systems.network.joined import leave
from systems.schema import InputError
from tests.ranks import run_ranks

RANKS = 2
STEPS = 4
CLASSES = 5
TOLERANCE = 1e-10
Name = Literal["gpipe", "1f1b", "1f1b-async"]
pytestmark = pytest.mark.distributed


class Odd(nn.Module):
    """A block that torch.fx cannot trace, with a path that depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 12)

    def forward(self, value: Tensor) -> Tensor:
        return self.inner(value) if value.dim() == 2 else self.inner(value.flatten(1))


class Flat(nn.Module):
    """A convolutional network as people write it, with sizes and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4 * 6 * 6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        first = self.relu(self.first(images))
        second = self.relu(self.second(first)) + first
        return self.head(second.view(second.size(0), -1))


def frozen(network: nn.Module) -> nn.Module:
    """Without dropout, and batch normalisation keeps its statistics: samples are independent."""
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, BatchNorm):
            layer.eval()
    return network


def vgg() -> nn.Module:
    return frozen(MinkVGG16(2, CLASSES, width=1 / 32))


def unet() -> nn.Module:
    return frozen(MinkUNet(2, CLASSES, depth=14, width=1 / 16))


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 12), nn.Tanh(), nn.Sequential(nn.Linear(12, 12), Odd()), nn.Linear(12, 3)
    )


def cloud(number: int, labelled: Literal["clouds", "voxels"]) -> tuple[SparseTensor, Tensor]:
    """Clouds of very different sizes, in rows that are in no order, and labels."""
    generator = torch.Generator().manual_seed(number)
    rows = []
    for sample, size in enumerate((40, 3, 90, 1, 17 + number)):
        cells = torch.randperm(10**3, generator=generator)[:size]
        places = [cells // 10**place % 10 for place in (2, 1, 0)]
        rows.append(torch.stack([torch.full_like(cells, sample), *places], 1))
    coordinates = torch.cat(rows).int()
    coordinates = coordinates[torch.randperm(len(coordinates), generator=generator)]
    features = torch.randn(len(coordinates), 2, generator=generator, dtype=torch.float64)
    inputs = SparseTensor(features, coordinates)
    if labelled == "clouds":
        return inputs, torch.arange(5).add(number) % CLASSES
    labels = coordinates[:, 1:].sum(1).long() % CLASSES
    labels[::7] = -100  # the loss leaves these out
    return inputs, labels


def rows(number: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def of_sparse(output: SparseTensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.features, labels)


def of_pair(output: Tensor, targets: dict[str, Tensor]) -> Tensor:
    distance = nn.functional.mse_loss(output, targets["near"])
    return distance + nn.functional.l1_loss(output, targets["far"])


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def falling(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return ExponentialLR(optimizer, 0.7)


@dataclass(frozen=True)
class Case:
    """A network, its mini-batches, and how it is trained."""

    build: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    loss: Callable[[Any, Any], Tensor]
    schedule: Name
    plan: str | Sequence[int] = "auto"
    micro_batches: int | None = 3
    optimizer: Callable[[Any], torch.optim.Optimizer] = adamw

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().double()


CASES = {
    "classifier": Case(vgg, lambda n: cloud(n, "clouds"), of_sparse, "gpipe", optimizer=sgd),
    "labels of voxels": Case(unet, lambda n: cloud(n, "voxels"), of_sparse, "1f1b", plan=(40,)),
    "nn.Sequential": Case(
        dense, lambda n: (rows(n, 8, 7), {"near": rows(n, 8, 3), "far": rows(n + 9, 8, 3)}),
        of_pair, "1f1b", micro_batches=None,
    ),
    "sizes and a skip": Case(
        Flat, lambda n: (rows(n, 7, 2, 6, 6), torch.arange(7) % CLASSES),
        nn.functional.cross_entropy, "gpipe", plan=(3,),
    ),
}  # fmt: skip


def alone(case: Case) -> tuple[list[float], dict[str, Tensor], float]:
    """Losses, weights and the loss of a fresh mini-batch, in this process."""
    network = case.network()
    optimizer = case.optimizer(network.parameters())
    schedule = falling(optimizer)
    losses = []
    for number in range(STEPS):
        inputs, targets = case.batch(number)
        loss = case.loss(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    network.eval()
    inputs, targets = case.batch(STEPS)
    tested = float(case.loss(network(inputs), targets).detach())
    return losses, network.state_dict(), tested


Result = tuple[list[float | None], dict[str, Tensor], float]


def train(case: Case) -> Result:
    """The same on the ranks of a pipeline. Only rank 0 has the right weights to begin with."""
    network = case.network()
    pipe = sparsepipe.pipeline(
        network, schedule=case.schedule, micro_batches=case.micro_batches, plan=case.plan,
        loss=case.loss, optimizer=case.optimizer, lr_schedule=falling, device="cpu", timeout_s=60,
    )  # fmt: skip
    losses = [pipe.step(case.batch(number)) for number in range(STEPS)]
    tested = pipe.evaluate([case.batch(STEPS)], metric=case.loss)
    return losses, pipe.state_dict(), tested


def delayed() -> tuple[list[float | None], list[float], float, int]:
    """An asynchronous pipeline on one mini-batch, again and again, interrupted once."""
    torch.manual_seed(torch.distributed.get_rank())
    network, (inputs, targets) = Flat(), (rows(1, 10, 2, 6, 6).float(), torch.arange(10) % CLASSES)
    pipe = sparsepipe.pipeline(
        network, schedule="1f1b-async", plan=[3], optimizer=sgd, device="cpu", timeout_s=60
    )
    told = [pipe.step((inputs, targets)) for _ in range(10)]
    before = pipe.flush()
    told += [pipe.step((inputs, targets)) for _ in range(10)]
    return told, before, pipe.evaluate([(inputs, targets)]), len(pipe.state_dict())


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


PLANNED = Case(
    Flat, lambda n: (rows(n, 7, 2, 6, 6), torch.arange(7) % CLASSES),
    nn.functional.cross_entropy, "1f1b", micro_batches=None,
)  # fmt: skip


def make_plan(folder: Path) -> str:
    """The file with a plan for two kinds of devices, as the command line writes it."""
    inputs, _ = PLANNED.batch(0)
    network = Network(PLANNED.network())
    profiles = {
        kind: profile_network(network, inputs, name="flat", device_kind=kind, repetitions=1)
        for kind in ("fast", "slow")
    }
    plan = partition(profiles, cluster_of(profiles, None, 1e12), schedule="1f1b", micro_batches=2)
    save_plan(plan, folder / "plan.json")
    return str(folder / "plan.json")


def planned(plan: str) -> tuple[list[float | None], list[str]]:
    """Losses with the plan of a file, and what contradicts it."""

    def pipe(**settings: Any) -> sparsepipe.Pipeline:
        return sparsepipe.pipeline(
            PLANNED.network(), plan=plan, loss=PLANNED.loss, optimizer=adamw, device="cpu",
            timeout_s=60, **settings,
        )  # fmt: skip

    batch = PLANNED.batch(0)
    with_plan = pipe(lr_schedule=falling)
    losses = [with_plan.step(PLANNED.batch(number)) for number in range(STEPS)]
    with_plan.flush()
    return losses, [
        refused(lambda: pipe(schedule="1f1b-async").step(batch)),
        refused(lambda: pipe(micro_batches=4).step(batch)),
        refused(
            lambda: sparsepipe.pipeline(dense(), plan=plan, optimizer=adamw, device="cpu").step(
                (rows(0, 4, 7).float(), torch.zeros(4).long())
            )
        ),
    ]


def mistakes() -> list[str]:
    """What users may get wrong, one line each."""
    batch = rows(0, 4, 7), rows(0, 4, 3)

    def pipe(**settings: Any) -> sparsepipe.Pipeline:
        settings = {"optimizer": sgd, "loss": nn.functional.mse_loss} | settings
        return sparsepipe.pipeline(dense().double(), device="cpu", timeout_s=60, **settings)

    rank = torch.distributed.get_rank()
    return [
        refused(lambda: pipe(optimizer=None).step(batch)),
        refused(lambda: pipe(plan=[9]).step(batch)),
        refused(lambda: pipe(plan="none.json").step(batch)),
        refused(lambda: pipe(schedule="1f1b-async", micro_batches=2).step(batch)),
        refused(lambda: pipe(plan=[2]).step((batch[0], batch[1][:2]))),
        refused(lambda: pipe(plan=[2]).step(rank)),
        refused(lambda: pipe(plan=[2]).step((batch[0] + rank, batch[1]))),
        refused(lambda: pipe(plan=[2]).evaluate([])),
        refused(lambda: pipe(plan=[2], lr_schedule=lambda optimizer: optimizer).step(batch)),
        refused(lambda: pipe(plan=[2]).step((batch[0].float(), batch[1]))),
    ]


@dataclass(frozen=True)
class Everything:
    """What one rank has seen."""

    trained: dict[str, Result]
    delayed: tuple[list[float | None], list[float], float, int]
    planned: tuple[list[float | None], list[str]]
    mistakes: list[str]


def run_all(plan: str) -> Everything:
    results = {name: train(case) for name, case in CASES.items()}
    seen = Everything(results, delayed(), planned(plan), mistakes())
    leave()
    return seen


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> list[Everything]:
    return run_ranks(RANKS, run_all, make_plan(tmp_path_factory.mktemp("plan")))


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_equals_one_process(name: str, everyone: list[Everything]) -> None:
    losses, weights, tested = alone(CASES[name])
    for rank in everyone:
        assert rank.trained[name][0] == pytest.approx(losses, abs=TOLERANCE)
        assert rank.trained[name][2] == pytest.approx(tested, abs=TOLERANCE)
    ours = everyone[0].trained[name][1]
    assert ours.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=TOLERANCE)
    assert everyone[1].trained[name][1] == {}


def test_a_plan_file_says_the_schedule_too(everyone: list[Everything]) -> None:
    losses, _, _ = alone(PLANNED)
    for rank in everyone:
        assert rank.planned[0] == pytest.approx(losses, abs=TOLERANCE)
        said = [
            "schedule='1f1b-async': the plan ",
            "micro_batches=4: the plan ",
            "layers, and the network has 5; plan from a profile of this network",
        ]
        for error, expected in zip(rank.planned[1], said, strict=True):
            assert expected in error


def test_an_asynchronous_pipeline_learns_and_tells_losses_later(everyone: list[Everything]) -> None:
    for rank, seen in enumerate(everyone):
        told, before, accuracy, named = seen.delayed
        assert [number for number, loss in enumerate(told) if loss is None] == [0, 10]
        assert len(before) == 1
        losses = [loss for loss in [*told[:10], *before, *told[10:]] if loss is not None]
        assert losses[-1] < 0.5 * losses[0]
        assert accuracy > 0.5
        assert named == (6 if rank == 0 else 0)


def test_mistakes_are_one_line_on_every_rank(everyone: list[Everything]) -> None:
    said = [
        "optimizer=None: give what takes the parameters",
        "plan [9]: give 1 cuts that ascend between 1 and 4, for 2 ranks and 5 layers",
        "plan none.json: no such file",
        "micro_batches=2: 1f1b-async sends whole mini-batches; leave it out, or "
        "choose schedule=1f1b",
        "targets of shape [2, 3]: give 4 rows, one for each sample",
        "a batch of int: give (inputs, targets)",
        "batch: ranks were given different mini-batches",
        "evaluate: there are no targets",
        "lr_schedule: makes a SGD; give what makes an LRScheduler",
        "inputs are float32 and the network computes in float64; give float64, such as "
        "inputs.double()",
    ]
    for seen in everyone:
        for error, expected in zip(seen.mistakes, said, strict=True):
            assert expected in error
            assert "\n" not in error
