"""Many small jobs on digits in one world of real processes, one after the other."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stanza.layout import layout_of
from stanza.options import Options
from stanza.train.batches import LocalBatch
from stanza.train.engine import Engine
from stanza.train.loop import training_steps
from stanza.train.workload import real_workload
from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.record import Step
from systems.runs.trace import Tracer
from tests.ranks import run_ranks


@dataclass(frozen=True)
class Done:
    """What a job has left behind."""

    steps: list[list[Step]]
    """By rank; the last step of a rank has its totals."""
    state: Mapping[str, Tensor]
    """The trained parameters, on rank 0."""

    def totals(self, name: str) -> list[float]:
        """One of the totals, by rank."""
        return [steps[-1].metrics[name] for steps in self.steps]

    def told(self, name: str) -> list[float]:
        """A metric of all steps of all ranks that tell it."""
        return [
            step.metrics[name] for steps in self.steps for step in steps if name in step.metrics
        ]

    @property
    def accuracy(self) -> float:
        """The test accuracy."""
        return self.steps[0][-1].metrics["test_accuracy"]


def run_jobs(
    ranks: int, jobs: Mapping[str, Options], *, slow_rank: int | None = None, slow_s: float = 0.0
) -> dict[str, Done]:
    """Run jobs by their names; a rank may sleep so many seconds before each of its steps."""
    everyone = run_ranks(ranks, _run, list(jobs.values()), slow_rank, slow_s, timeout_s=600)
    return {
        name: Done([done[number][0] for done in everyone], everyone[0][number][1])
        for number, name in enumerate(jobs)
    }


def _run(
    jobs: Sequence[Options], slow_rank: int | None, slow_s: float
) -> list[tuple[list[Step], Mapping[str, Tensor]]]:
    """One rank's part of all jobs: the steps of each, and the trained parameters."""
    place = environment()
    world = start(place, ["?"] * place.world_size, timeout_s=60, device="cpu")
    if world.rank == slow_rank:
        own_step = Engine.step

        def slow_step(self: Engine, batch: LocalBatch) -> dict[str, float]:
            time.sleep(slow_s)
            return own_step(self, batch)

        Engine.step = slow_step  # type: ignore[method-assign]
    done = []
    for options in jobs:
        layout, models = layout_of(options, world.world_size, 1, 1), list[Any]()
        workload = real_workload(options, layout, 3)
        build = workload.build

        def kept() -> Any:
            models.append(build())  # noqa: B023
            return models[-1]  # noqa: B023

        object.__setattr__(workload, "build", kept)
        steps = training_steps(
            options,
            layout,
            world.with_roles(layout.roles),
            workload,
            seed=3,
            transport="torch",
            tracer=Tracer.off(),
        )
        done.append((list(steps), models[-1].state_dict()))
    stop(world)
    return done
