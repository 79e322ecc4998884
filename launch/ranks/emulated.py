"""The ranks of emulated runs: `python -m launch ranks --records FOLDER ...`.

`testbed emulate` and `testbed reproduce` start this process. It imports what the ranks need, builds
the network, forks the ranks into it and waits for them. All records must be of one cluster; their
jobs run one after the other in one world.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from launch.ranks import worker
from launch.records import emulated_rates
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
