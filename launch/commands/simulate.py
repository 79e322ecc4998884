"""`testbed simulate JOB.toml [flags]`: the job's schedule played on its cluster, without processes.

    python -m launch simulate launch/jobs/stanza-vgg16-random.toml --world-size 64

It takes the job files and flags of `testbed run`. The record holds a trace of the compute and the
network interface of every node (open trace.json in ui.perfetto.dev); in a job of many nodes, of one
of those that cannot differ (`systems.rank_classes`).
"""

from collections.abc import Sequence
from pathlib import Path

from launch import job as jobs
from launch.installed import system_of
from launch.planning import required
from launch.records import create_record
from systems.job import Job
from systems.runs import record, trace
from systems.system import Simulated


def main(arguments: Sequence[str]) -> None:
    """Plan, play, write the record, print the step time beside the planner's."""
    simulated, folder = simulate_job(jobs.parse_job("simulate", arguments, Job))
    job, result = simulated.job, simulated.result
    predicted_s = result["predicted_step_s"]
    beside = "" if predicted_s is None else f" (planner: {predicted_s * 1e3:.2f} ms)"
    how = "steady state of a deterministic simulation"
    if "faults" in result:
        healthy_s = result["step_s_without_faults"]
        beside = f" ({result['step_s'] / healthy_s:.2f} of {healthy_s * 1e3:.2f} ms without faults)"
        how = f"mean of a deterministic simulation with faults\n  faults: {result['faults']}"
    print(
        f"{job.name} | tier simulated | {simulated.what}\n"
        f"  {result['samples_per_s']:,.0f} samples/s, step {result['step_s'] * 1e3:.2f} ms{beside},"
        f" {how}\n  record: {folder}"
    )


def simulate_job(job: Job) -> tuple[Simulated, Path]:
    """Plan a job, play the plan and write the record; returns its folder too.

    Raises:
        InputError: whatever is wrong with the job, or its system has no simulation.
    """
    simulated = required(system_of(job).simulate, job, "simulate")(job)
    folder = create_record(simulated.job, simulated.plan, tier="simulated")
    trace.write_timeline(folder / "trace.json", simulated.spans)
    record.write_json(folder / "result.json", {"tier": "simulated", **simulated.result})
    return simulated, folder
