"""Training with a user's own network, data, optimizer, schedule and loss equals a plain loop."""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stanza.layout import layout_of
from stanza.options import Options
from stanza.train.loop import training_steps
from stanza.train.workload import check_workload, real_workload
from systems.data.batches import global_batch
from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.trace import Tracer
from systems.schema import InputError
from tests import own_code
from tests.ranks import run_ranks

STEPS, SAMPLES, SEED, RANKS = 8, 24, 3, 3
ADAM = {"optimizer": "torch.optim:AdamW", "optimizer_options": ("lr=0.01", "weight_decay=0.1")}
ONE_CYCLE = {
    "schedule": "torch.optim.lr_scheduler:OneCycleLR",
    "schedule_options": ("max_lr=0.1", "total_steps=5"),
}
COSINE = {
    "schedule": "torch.optim.lr_scheduler:CosineAnnealingLR",
    "schedule_options": (f"T_max={STEPS}",),
}


def options(folder: Path, **changes: Any) -> Options:
    named: dict[str, Any] = {
        "model": f"{folder}/net.py:Net",
        "data": f"{folder}/data.py:make",
        "loss": f"{folder}/net.py:smooth",
        "loss_options": ("smoothing=0.2",),
        **ADAM,
        **COSINE,
    }
    return Options(steps=STEPS, global_batch_size=SAMPLES, **named | changes)


def train(chosen: Options) -> tuple[list[float], Mapping[str, float]]:
    """One rank's loss sums, and its totals."""
    layout = layout_of(chosen, RANKS, 1, 2)
    world = start(environment(), layout.roles, timeout_s=60, device="cpu")
    workload = real_workload(chosen, layout, SEED)
    done = list(
        training_steps(
            chosen, layout, world, workload, seed=SEED, transport="torch", tracer=Tracer.off()
        )
    )
    stop(world)
    return [step.metrics.get("loss_sum", 0.0) for step in done[:-1]], done[-1].metrics


def losses_and_totals(chosen: Options) -> tuple[list[float], Mapping[str, float]]:
    """The mean loss of every step, and the totals of rank 0."""
    ranks = run_ranks(RANKS, train, chosen)
    sums = [sum(of_step) for of_step in zip(*(rank[0] for rank in ranks), strict=True)]
    return [one / SAMPLES for one in sums], ranks[0][1]


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reference_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(folder: Path, samples: str, classes: int, loss: Any) -> list[float]:
    """The losses of a loop of plain torch over the same batches."""
    net, data = imported(folder / "net.py"), imported(folder / "data.py")
    (images, targets), _ = getattr(data, samples)()
    torch.manual_seed(SEED)
    model = net.Net(classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    losses = []
    for step in range(STEPS):
        chosen = global_batch(SAMPLES, len(images), seed=SEED, step=step)
        optimizer.zero_grad()
        value = loss(net)(model(images[chosen]), targets[chosen])
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    return losses


@pytest.mark.distributed
@pytest.mark.parametrize("scheme", ["stanza", pytest.param("ps", marks=pytest.mark.slow)])
def test_labels_with_a_loss_of_ones_own(scheme: str, tmp_path: Path) -> None:
    own_code.write(tmp_path)
    losses, totals = losses_and_totals(options(tmp_path, scheme=scheme))
    expected = reference(
        tmp_path, "pairs", 3, lambda net: functools.partial(net.smooth, smoothing=0.2)
    )
    assert losses == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < expected[0]
    assert 0 <= totals["test_accuracy"] <= 1


@pytest.mark.distributed
def test_targets_that_are_no_labels_cross_the_cut_as_they_are(tmp_path: Path) -> None:
    own_code.write(tmp_path)
    regression = options(
        tmp_path,
        data=f"{tmp_path}/data.py:places",
        loss="torch.nn:MSELoss",
        loss_options=(),
        classes=2,
    )
    losses, totals = losses_and_totals(regression)
    expected = reference(tmp_path, "places", 2, lambda net: torch.nn.functional.mse_loss)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert "test_accuracy" not in totals
    assert totals["not_classified"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer": "torch.optim:LBFGS", "optimizer_options": ()},
            "optimizer .* LBFGS needs a closure",
        ),
        ({"optimizer": "builtins:list", "optimizer_options": ()}, "makes a list; give what makes"),
        ({"optimizer_options": ("depth=3",)}, "optimizer-options depth=3: .* takes no"),
        ({"optimizer_options": ("weightdecay=1",)}, "weightdecay=1: .*perhaps 'weight_decay'"),
        ({"optimizer_options": ("lr=fast",)}, "optimizer-options lr=fast: .* a number .* lr=0.001"),
        ({"schedule_options": ()}, "schedule .* give --stanza.schedule-options T_max=..."),
        (ONE_CYCLE, "schedule .* after 5 of 8 steps: .*total_steps=8, or --stanza.steps 5"),
        (
            {"schedule": "torch.optim.lr_scheduler:ReduceLROnPlateau", "schedule_options": ()},
            "schedule .* ReduceLROnPlateau needs a metric",
        ),
        (
            {"loss": "torch.nn:CrossEntropyLoss", "loss_options": ("reduction=sum",)},
            "--stanza.loss torch.nn:CrossEntropyLoss: is a sum",
        ),
        (
            {"data": "{folder}/data.py:places", "loss": "torch.nn:NLLLoss", "loss_options": ()},
            r"loss .* the targets are float32 \[2, 2\]",
        ),
        (
            {"model": "{folder}/few.py:Branches"},
            "--stanza.model .*cannot be separated.*line 6 of few.py",
        ),
        ({"loss": "torch:zeros_like", "loss_options": ()}, "loss .* fails: TypeError"),
        ({"loss": "torch.nn:NLLLoss", "loss_options": ("reduction=none",)}, r"the shape \[2\]"),
        ({"loss": "torch:float32", "loss_options": ()}, "loss .*: is a dtype; give a function"),
        ({"loss": "torch.nn:Linear", "loss_options": ("in_features=1", "out_features=1")}, "own"),
        ({"classes": 2}, "data .*: 3 classes but the model has 2; give --stanza.classes 3"),
        ({"image_shape": (1, 9, 9)}, "data .*: images are 1x8x8 but the model takes 1x9x9"),
        ({"data": "digits", "loss": "cross-entropy", "loss_options": (), "classes": 12}, None),
        ({"model": "{folder}/net.py:smooth"}, "wants the argument outputs"),
        ({"model": "{folder}/few.py:few"}, "returns 2 logits for 3 classes"),
    ],
)
def test_all_is_checked_before_ranks_start(
    changes: dict[str, Any], said: str | None, own_folder: Path
) -> None:
    own_code.write(own_folder)
    (own_folder / "few.py").write_text(
        "from net import Net\nimage_shape, classes = (1, 8, 8), 3\ndef few(): return Net(2)\n"
        "class Branches(Net):\n"
        "    def forward(self, images):\n"
        "        if images.mean() > 0: images = images + 1\n"
        "        return super().forward(images)\n"
    )
    changes = {
        key: value.format(folder=own_folder) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    if "model" in changes:
        changes |= {"loss": "cross-entropy", "loss_options": ()}
    chosen = options(own_folder, **changes)
    layout = layout_of(chosen, RANKS, 1, 1)
    if said is None:
        return check_workload(chosen, layout, SEED)
    with pytest.raises(InputError, match=said) as error:
        check_workload(chosen, layout, SEED)
    assert "\n" not in str(error.value)
