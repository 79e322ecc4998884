"""One rank of a run: `torchrun ... -m launch worker JOB.toml [flags]`.

`launch run` and `launch reproduce` prepare record folders and start `worker --records FOLDER ...`,
which runs several jobs one after the other in one world; both ways end in `execute`.
"""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record as report_to_torchrun

from launch import job as jobs
from launch.backends import die_with_parent
from launch.job import Job
from launch.planning import plan_job, resolved
from launch.records import create_record, read_plan
from stanza import train
from stanza.plan import Plan
from stanza.summary import summarize
from systems import record, trace
from systems.distributed import World, start, stop
from systems.environment import Environment, environment
from systems.record import Step
from systems.schema import InputError

PROGRESS_LINES = 5
GRACE_S = 1.0
"""A rank that lost its peer waits this long, so that the launcher sees first who died first."""


@report_to_torchrun
def main(arguments: Sequence[str]) -> None:
    """Run this rank's part of one or several jobs."""
    if "LOCAL_RANK" in os.environ:
        die_with_parent(signal.SIGKILL)  # torchrun's agent
    place = environment()
    try:
        _run(arguments, place)
    except InputError as error:
        if place.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except TimeoutError as error:  # someone did not come
        print(f"error: rank {place.rank}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except RuntimeError:  # a peer is gone, or the time-out has passed
        time.sleep(GRACE_S)
        raise


def _run(arguments: Sequence[str], place: Environment) -> None:
    if arguments and arguments[0] == "--records":
        folders = [Path(name) for name in arguments[1:]]
        work = [(jobs.load(folder / "job.toml"), read_plan(folder)) for folder in folders]
    else:
        given = jobs.parse("worker", arguments)
        job, plan = _resolve(given, place)
        work, folders = [(job, plan)], []
    first_job, first_plan = work[0]
    world = start(
        place,
        first_plan.layout.roles,
        timeout_s=first_job.timeout_s,
        device=first_job.device,
    )
    if not folders:
        folders = [_agree_on_folder(world, *work[0])]
    for (job, plan), folder in zip(work, folders, strict=True):
        execute(job, plan, world.with_roles(plan.layout.roles), folder)
    stop(world)


def _resolve(given: Job, place: Environment) -> tuple[Job, Plan]:
    """Plan on every rank alike: nothing is measured here."""
    job = dataclasses.replace(given, world_size=place.world_size)
    plan = plan_job(job, may_measure=False)
    return resolved(job, plan), plan


def _agree_on_folder(world: World, job: Job, plan: Plan) -> Path:
    """Rank 0 makes the record's folder and tells the others."""
    if world.rank == 0:
        folder = create_record(job, plan)
        world.store.set("record", str(folder))
    return Path(world.store.get("record").decode())


def execute(job: Job, plan: Plan, world: World, folder: Path) -> None:
    """Run one job in a world that is up; leaves the record in `folder`."""
    data = train.load_data(job.stanza, plan.layout, job.seed)
    if world.rank == 0:
        print(_first_line(job, plan, world, data.kind), flush=True)
    tracer = trace.Tracer(folder if job.trace else None, world.rank)
    steps: list[Step] = []
    with record.StepWriter(folder, world.rank) as writer:
        started = time.perf_counter()
        for step in train.run(
            job.stanza,
            plan.layout,
            world,
            data,
            seed=job.seed,
            transport=job.transport,
            tracer=tracer,
        ):
            writer.write(step)
            steps.append(step)
            _print_progress(job, world, step, started)
    tracer.close()
    everyone = _gather(world, steps)
    if world.rank == 0:
        if job.trace:
            trace.join(folder, [world.name(rank) for rank in range(world.world_size)])
        result = {
            "tier": "measured",
            "threads_per_rank": torch.get_num_threads(),
            **summarize(job.stanza, plan, everyone),
        }
        record.write_json(folder / "result.json", result)
        print(f"  {_result_line(result)}\n  record: {folder}", flush=True)


def _first_line(job: Job, plan: Plan, world: World, data_kind: str) -> str:
    """Tier, world, roles and data: what every number below it depends on."""
    precision = "" if job.stanza.cut_dtype == "float32" else f", cut in {job.stanza.cut_dtype}"
    return (
        f"{job.name} | tier measured | {job.stanza.scheme_name}{precision} | "
        f"world size {world.world_size}: {plan.layout.describe()} on {world.device.type}, "
        f"{job.transport} transport | data {data_kind}"
    )


def _print_progress(job: Job, world: World, step: Step, started: float) -> None:
    every = max(1, job.stanza.steps // PROGRESS_LINES)
    if world.rank or step.index == 0 or step.index % every or step.index >= job.stanza.steps:
        return
    lasted_s = time.perf_counter() - started
    # Only a worker with the whole model has the losses of its own samples.
    loss = step.metrics.get("loss_sum") if world.roles[0] == "worker" else None
    text = f", loss {loss / step.metrics['samples']:.4f}" if loss is not None else ""
    print(f"  step {step.index}/{job.stanza.steps}, {lasted_s:.1f} s{text}", flush=True)


def _gather(world: World, steps: list[Step]) -> list[list[Step]]:
    """Every rank's steps, on rank 0."""
    everyone: list[Any] = [None] * world.world_size
    dist.gather_object(steps, everyone if world.rank == 0 else None, dst=0)
    return everyone


def _result_line(result: dict[str, Any]) -> str:
    accuracy = f", test accuracy {result['test_accuracy']:.2%}"
    step = result["step_s"]
    return (
        f"{result['samples_per_s']:,.0f} samples/s, step {step['median'] * 1e3:.2f} ms "
        f"[{step['low'] * 1e3:.2f}, {step['high'] * 1e3:.2f}] n={step['n']}{accuracy}"
    )
