"""`testbed throughput JOB.toml [flags]`: the job at several world sizes and batch sizes, measured.

    python -m launch throughput launch/jobs/stanza-digits.toml --world-sizes 2 4 --batch-sizes 48 96

It is the sweep of the ranks and the batch that `testbed sweep` calls `nodes` and `batch-size`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import job as jobs
from launch.commands.sweep_asked import Asked, SweepFlags, base_of
from launch.commands.sweeping import run_sweep
from launch.installed import system_of
from launch.records import RUNS
from launch.sweep.points import Sweep
from launch.sweep.variables import BATCH_SIZE, NODES, Variable
from systems.flags import refuse_below_one


@dataclass(frozen=True, kw_only=True)
class ThroughputJob(SweepFlags):
    """Run a job at several sizes."""

    world_sizes: tuple[int, ...] = ()
    """The numbers of ranks to run. Without any, the number of the job is run."""
    batch_sizes: tuple[int, ...] = ()
    """The numbers of samples in a step, over all ranks. Without any, the job's own batch is run,
    which may grow with the number of ranks."""


def main(arguments: Sequence[str]) -> None:
    """Run the points that have not been run, print the table, write the CSV and the figure."""
    flags = jobs.parse_job("throughput", arguments, ThroughputJob)
    base = base_of(flags)
    world_sizes = flags.world_sizes or (flags.world_size,)
    varied = [Variable(name=NODES, values=tuple(dict.fromkeys(world_sizes)))]
    if flags.batch_sizes:
        varied.append(Variable(name=BATCH_SIZE, values=tuple(dict.fromkeys(flags.batch_sizes))))
    refuse_below_one({"world-sizes": varied[0].values, "batch-sizes": flags.batch_sizes or (1,)})
    run_sweep(
        Asked(
            sweep=Sweep(folder=Path(flags.out or RUNS / f"throughput-{flags.name}"), base=base),
            varied=tuple(varied),
            tiers=("measured",),
            flags=flags,
            named={"world-size": "world-sizes", system_of(base).batch_size_option: "batch-sizes"},
            kind="throughput",
        )
    )
