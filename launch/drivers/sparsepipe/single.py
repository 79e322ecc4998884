"""`--sparsepipe.scheme single`: one process trains the whole network."""

from collections.abc import Iterator
from typing import Any

from launch.drivers import Opened
from launch.drivers.sparsepipe.scheme import Plan, Scheme, network_in_words, opened
from launch.job import Job
from sparsepipe.train import one_process
from sparsepipe.train.workload import Workload
from systems.network.distributed import World
from systems.profiles.emulated import Emulation
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError


def _plan(job: Job, may_measure: bool) -> Plan:
    """Refuse more than one rank; nothing is left to plan."""
    if job.world_size != 1:
        raise InputError(
            f"--world-size {job.world_size}: one process trains with --sparsepipe.scheme "
            "single; give 1, or --sparsepipe.scheme pipeline"
        )
    return Plan()


def _open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Load the clouds of a training in this process."""

    def train(
        world: World, workload: Workload, tracer: Tracer, checkpoints: Checkpoints
    ) -> Iterator[Step]:
        return one_process.run(job.sparsepipe, world, workload, tracer, checkpoints)

    name = f"single, {network_in_words(job.sparsepipe)}"
    return opened(job, train, name=name, roles="1 worker", shows_loss=True)


def _summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The result of the only process."""
    return one_process.summarize(job.sparsepipe, everyone[0])


SINGLE = Scheme(
    plan=_plan,
    roles=lambda job, plan: ["worker"],
    open=_open,
    summarize=_summarize,
    no_prediction="one process has no schedule to predict",
)
