"""The ranks of emulated runs: `python -m launch ranks --records FOLDER ...`, started by others.

A process of its own imports what the ranks need, builds the network, forks them into it and waits.
All records are of one cluster and follow each other in one world.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from launch.drivers import driver
from launch.ranks import worker
from launch.records import read_emulation, read_plan
from systems.network.emulate import emulate
from systems.network.namespaces import Network
from systems.schema import InputError


def main(arguments: Sequence[str]) -> None:
    """Run all the records' jobs; exits with the code of the rank that failed first."""
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
    """The link rate of every rank of a record's emulated cluster, in bits per second."""
    (job, plan), emulation = read_plan(folder), read_emulation(folder)
    assert emulation is not None  # whoever starts this has made the record
    return driver(job).link_rates(job, plan, emulation)
