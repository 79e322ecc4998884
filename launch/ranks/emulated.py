"""The ranks of emulated runs: `python -m launch ranks --records FOLDER ...`.

`launch emulate` and `launch reproduce` start this process. It imports what the ranks need, builds
the network, forks the ranks into it and waits for them. All records must be of one cluster; their
jobs run one after the other in one world.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from launch.installed import system_of
from launch.ranks import worker
from launch.records import read_emulation, read_job_and_plan
from systems.network.emulate import emulate
from systems.network.namespaces import Network
from systems.schema import InputError


def main(arguments: Sequence[str]) -> None:
    """Run the jobs of all records; exits with the code of the rank that failed first."""
    folders = [Path(name) for name in arguments[1:]]
    networks = {emulated_rates(folder) for folder in folders}
    if len(networks) != 1:
        raise InputError("records of several clusters or link rates; give those of one")
    (rates,) = networks
    torch.set_num_threads(1)
    with Network(rates) as network:
        code = emulate(network, len(rates), lambda place: worker.work(arguments, place))
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def emulated_rates(folder: Path) -> tuple[float, ...]:
    """The rate of every rank's link in the emulated cluster of a record, in bits per second."""
    (job, plan), emulation = read_job_and_plan(folder), read_emulation(folder)
    emulating = system_of(job).emulating
    assert emulation is not None  # whoever starts this has made
    assert emulating is not None  # the record of an emulated run
    return emulating.link_rates(job, plan, emulation)
