"""`launch simulate JOB.toml [flags]`: the job's schedule played on its cluster, without processes.

    python -m launch simulate launch/jobs/stanza-vgg16-random.toml --world-size 64

The same job files and flags as `launch run`; the record holds a trace of every node's compute and
network interface (open trace.json in ui.perfetto.dev).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from launch import job as jobs
from launch.job import Job
from launch.planning import planning_basis, resolved
from launch.records import create_record
from stanza import plan as stanza_plan
from stanza.schedule import played_plan
from systems import record, trace
from systems.schema import InputError


def main(arguments: Sequence[str]) -> None:
    """Plan, play, write the record, print the step time beside the planner's."""
    given = jobs.parse("simulate", arguments, Job())
    if given.system != "stanza":
        raise InputError(f"--system {given.system}: only stanza is simulated so far")
    basis = planning_basis(given, measure=True)
    assert basis is not None  # measured if need be
    target, profile = basis
    plan = stanza_plan.plan(given.stanza, given.world_size, target, profile)
    job = resolved(given, plan)
    at = stanza_plan.costs_at(job.stanza, profile)
    played = played_plan(job.stanza, plan.layout, at, target.slowest_link)
    folder = create_record(job, plan, tier="simulated")
    trace.write_timeline(folder / "trace.json", played.timeline.spans())
    predicted_s = plan.chosen.step_s if plan.chosen else None
    result: dict[str, Any] = {
        "tier": "simulated",
        "scheme": job.stanza.scheme_name,
        "step_s": played.step_s,
        "samples_per_step": played.samples,
        "samples_per_s": played.samples_per_s,
        "predicted_step_s": predicted_s,
        "cluster": dataclasses.asdict(target),
    }
    record.write_json(folder / "result.json", result)
    beside = "" if predicted_s is None else f" (planner: {predicted_s * 1e3:.2f} ms)"
    print(
        f"{job.name} | tier simulated | {job.stanza.scheme_name} | world size {job.world_size}: "
        f"{plan.layout.describe()} | {job.stanza.model}, profile {profile.device}, "
        f"cluster {target.name}\n"
        f"  {played.samples_per_s:,.0f} samples/s, step {played.step_s * 1e3:.2f} ms{beside}, "
        f"steady state of a deterministic simulation\n  record: {folder}"
    )
