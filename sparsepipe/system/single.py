"""Training in one process of this machine."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparsepipe.system.scheme import Plan, Scheme, network_in_words, opener
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError

if TYPE_CHECKING:
    from sparsepipe.train.workload import Workload
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints


def _plan(job: Job, may_measure: bool) -> Plan:
    """Refuse more than one rank; nothing is left to plan."""
    if job.world_size != 1:
        raise InputError(
            f"--world-size {job.world_size}: one process trains with --sparsepipe.scheme "
            "single; give 1, or --sparsepipe.scheme pipeline"
        )
    return Plan()


def _train(
    job: Job,
    plan: Plan,
    world: "World",
    workload: "Workload",
    tracer: Tracer,
    checkpoints: "Checkpoints",
) -> Iterator[Step]:
    """Train, and yield every step."""
    from sparsepipe.train.one_process import train_in_one_process

    return train_in_one_process(job.options, world, workload, tracer, checkpoints)


def _summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The result of the run, from the steps of its only rank."""
    from sparsepipe.train.one_process import summarize_one_process

    return summarize_one_process(job.options, everyone[0])


SINGLE = Scheme(
    plan=_plan,
    roles=lambda job, plan: ["worker"],
    open=opener(
        lambda job, plan: f"single, {network_in_words(job.options)}",
        _train,
        who="1 worker",
        shows_loss=True,
    ),
    summarize=_summarize,
    no_prediction="one process has no schedule to predict",
)
