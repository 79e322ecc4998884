"""A run that goes on from a checkpoint ends as one that nothing interrupted, in any world."""

import shutil
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from stanza.layout import Layout, layout_of
from stanza.options import Options
from stanza.train.loop import training_steps
from stanza.train.workload import real_workload
from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.checkpoint import open_checkpoints, read_model
from systems.runs.manifest import FINAL, name
from systems.runs.record import Step
from systems.runs.trace import Tracer
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

STEPS, EVERY = 8, 3
OPTIONS = Options(
    steps=STEPS,
    global_batch_size=120,
    warm_up_steps=1,
    schedule="torch.optim.lr_scheduler:StepLR",
    schedule_options=("step_size=2", "gamma=0.7"),
)
PS = replace(OPTIONS, scheme="ps")
COLOCATED = replace(PS, ps_placement="colocated", ps_mode="pipelined")
COLUMNS = replace(OPTIONS, fc_parallel="columns", fc_placement="colocated")


@dataclass(frozen=True)
class Case:
    """A world."""

    ranks: int
    options: Options = OPTIONS
    fc: int = 1

    @property
    def layout(self) -> Layout:
        return layout_of(self.options, self.ranks, self.fc, 2 if self.fc > 1 else 1)


SEPARATED, SERVERS = Case(4, fc=2), Case(4, replace(PS, ps_servers=2))
SPREAD, BESIDE = Case(3, COLUMNS, fc=2), Case(2, COLOCATED)
DDP, SINGLE = Case(2, replace(OPTIONS, scheme="ddp")), Case(1, replace(OPTIONS, scheme="single"))


def _train(case: Case, folder: Path, resume: str) -> list[Step]:
    place = environment()
    world = start(place, case.layout.roles, timeout_s=60, device="cpu")
    checkpoints = open_checkpoints(
        world, folder, every=EVERY, keep=9, layout=case.layout.describe(), resume=resume
    )
    workload = real_workload(case.options, case.layout, 5)
    arguments = (case.options, case.layout, world, workload)
    steps = training_steps(
        *arguments, seed=5, transport="torch", tracer=Tracer.off(), checkpoints=checkpoints
    )
    done = list(steps)
    stop(world)
    return done


def train(
    case: Case, folder: Path, resume: str = "auto"
) -> tuple[list[int], dict[str, torch.Tensor]]:
    """The steps that were done, and the trained model."""
    everyone = run_ranks(case.ranks, _train, case, folder, resume)
    return [step.index for step in everyone[0]], read_model(folder / FINAL)


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(SEPARATED, marks=pytest.mark.slow),  # the next test has it too
        SERVERS,
        DDP,
        SINGLE,
    ],
    ids=lambda case: case.options.scheme,
)
def test_a_resumed_run_equals_an_uninterrupted_one(case: Case, tmp_path: Path) -> None:
    done, whole = train(case, tmp_path / "whole")
    assert done == list(range(STEPS + 1))
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / name(3), tmp_path / "cut" / name(3))
    done, resumed = train(case, tmp_path / "cut")
    assert done == list(range(3, STEPS + 1))
    assert difference(whole, resumed) <= 1e-6


def test_any_world_goes_on_where_any_other_stopped(tmp_path: Path) -> None:
    """Parameters and momentum pass from separated workers to columns, to servers, and so on; all
    schemes compute the updates of one process."""
    worlds = [SEPARATED, SPREAD, BESIDE, SINGLE]
    for number, (before, case) in enumerate(pairwise([SINGLE, *worlds])):
        steps = EVERY * number + EVERY
        longer = replace(case, options=replace(case.options, steps=steps))
        resume = str(tmp_path / before.options.scheme / str(number - 1) / FINAL)
        done, model = train(
            longer, tmp_path / case.options.scheme / str(number), resume if number else "auto"
        )
        assert done == list(range(EVERY * number, steps + 1))
    once = replace(SINGLE, options=replace(SINGLE.options, steps=steps))
    _, whole = train(once, tmp_path / "once")
    assert difference(whole, model) <= 1e-5
