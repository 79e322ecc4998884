"""Every distributed scheme computes the updates of one process on the whole batch."""

import dataclasses
from typing import Any

import pytest
import torch

from stanza.layout import Layout, layout
from stanza.models import build_model
from stanza.options import Options
from stanza.train import load_data, run
from systems.distributed import environment, start, stop
from systems.trace import Tracer
from tests.ranks import run_ranks

STEPS = 20
OPTIONS = Options(steps=STEPS, global_batch_size=60, learning_rate=0.02)

Result = dict[str, Any]


def train(options: Options, plan: Layout) -> Result:
    """One rank's run: its steps and, on rank 0, the trained parameters."""
    models = []

    def keep(*arguments: Any, **keywords: Any) -> Any:
        models.append(build_model(*arguments, **keywords))
        return models[0]

    import stanza.train

    stanza.train.build_model = keep  # type: ignore[attr-defined]
    world = start(environment(), plan.roles, timeout_s=60, device="cpu")
    data = load_data(options, seed=3)
    off = Tracer.off()
    steps = list(run(options, plan, world, data, seed=3, transport="torch", tracer=off))
    stop(world)
    return {"steps": steps, "state": models[0].state_dict() if world.rank == 0 else None}


def run_scheme(world_size: int, options: Options, fc: int = 1, micro: int = 1) -> list[Result]:
    plan = layout(options, world_size, fc, micro)
    return run_ranks(world_size, train, options, plan)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    """The parameters after one process has trained on the concatenated batch."""
    results = run_scheme(1, dataclasses.replace(OPTIONS, scheme="single"))
    state: dict[str, torch.Tensor] = results[0]["state"]
    return state


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a parameter, in the Euclidean norm."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in ours)


@pytest.mark.distributed
@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize(("conv", "fc"), [(1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (5, 2)])
def test_stanza_equals_one_process(
    conv: int, fc: int, micro: int, reference: dict[str, torch.Tensor]
) -> None:
    results = run_scheme(conv + fc, OPTIONS, fc, micro)
    assert difference(results[0]["state"], reference) <= 1e-5
