"""`testbed sweep JOB.toml --over NAME=V,V ...`: the job at all combinations of some values.

    python -m launch sweep launch/jobs/stanza-vgg16-random.toml --tier simulated \\
        --over scheme=stanza,ddp,ps nodes=2,4,8 bandwidth=1e9,10e9 --baseline scheme=ddp

NAME is an option of the job, with or without the name of its system (`stanza.micro-batches`,
`scheme`, `seed`), or one of the words `nodes` (the number of ranks), `bandwidth` (bits per second
of all links of the cluster) and `batch-size` (samples of a step over all ranks).

Every point is a record in the folder of the sweep. Points that are there already are kept, in the
table and in the figure too, and are not run again: a sweep that was interrupted goes on, and a
wider one adds to it. `launch.sweep` says what the folder holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import job as jobs
from launch.commands.emulate import EmulatedJob
from launch.commands.sweep_asked import Asked, SweepFlags, base_of
from launch.commands.sweeping import run_sweep
from launch.installed import system_of
from launch.records import RUNS
from launch.sweep.points import Sweep
from launch.sweep.variables import BATCH_SIZE, NODES, parse_variables
from systems.runs.record import Tier
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class SweepJob(SweepFlags, EmulatedJob):
    """Run a job at all combinations of some values."""

    over: tuple[str, ...] = ()
    """What to vary, NAME=VALUE,VALUE each, such as scheme=stanza,ddp nodes=2,4 bandwidth=1e9,10e9.
    NAME is an option of the job, with or without the name of its system, or nodes (the number of
    ranks), bandwidth (bits per second of all links) or batch-size (samples of a step over all
    ranks)."""
    tier: tuple[Tier, ...] = ("simulated",)
    """How every point is run: measured (`testbed run`), shaped (`testbed run --shape`, with the
    cluster of the job), emulated (`testbed emulate`) or simulated (`testbed simulate`), or several
    of them."""


def main(arguments: Sequence[str]) -> None:
    """Run the points that have not been run, print the table, write the CSV and the figure."""
    flags = jobs.parse_job("sweep", arguments, SweepJob)
    base = base_of(flags)
    if not flags.tier:
        raise InputError("--tier (none): give measured, shaped, emulated or simulated")
    for name in ("scale", "dilate"):
        if getattr(flags, name) is not None and "emulated" not in flags.tier:
            raise InputError(
                f"--{name} {getattr(flags, name):g}: is a factor of emulated clusters; leave it "
                "out, or add --tier emulated"
            )
    varied = parse_variables(base, flags.over)
    words = {NODES: "world-size", BATCH_SIZE: system_of(base).batch_size_option}
    run_sweep(
        Asked(
            sweep=Sweep(folder=Path(flags.out or RUNS / f"sweep-{flags.name}"), base=base),
            varied=varied,
            tiers=tuple(dict.fromkeys(flags.tier)),
            flags=flags,
            named={words[v.name]: f"over {v.name}" for v in varied if v.name in words},
            kind="sweep",
            scale=flags.scale,
            dilate=flags.dilate,
        )
    )
