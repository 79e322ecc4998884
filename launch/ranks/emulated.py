"""The ranks of emulated and shaped runs: `python -m launch ranks --records FOLDER ...`.

`testbed emulate`, `testbed run --shape` and `testbed reproduce` start this process. It imports what
the ranks need, builds the network, forks the ranks into it and waits for them. All records must be
of one cluster; their jobs run one after the other in one world. With `--measure FOLDER` the ranks
only measure their cluster (`launch.ranks.shaped`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from launch.ranks import shaped, worker
from launch.ranks.ahead import import_ahead
from launch.records import emulated_rates, read_shaped
from systems.clusters.shape import Shape
from systems.environment import Environment
from systems.network.emulate import emulate
from systems.network.namespaces import Network
from systems.processes import failures
from systems.processes.core_shares import CoreShares
from systems.schema import InputError


def main(arguments: Sequence[str]) -> None:
    """Run the jobs of all records; exits with the code of the rank that failed first.

    Raises:
        InputError: a user has started it.
    """
    if arguments[:1] not in (["--records"], ["--measure"]) or len(arguments) < 2:
        raise InputError(
            "ranks: is started by other commands; write testbed emulate or testbed run --shape"
        )
    folders = [Path(name) for name in arguments[1:]]
    torch.set_num_threads(1)
    if arguments[0] == "--measure":
        code = _run_shaped(shaped.read_shape(folders[0]), lambda place: _measure(folders[0], place))
    else:
        code = _run_records(arguments, folders)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def _run_records(arguments: Sequence[str], folders: Sequence[Path]) -> int:
    """Run the jobs of records of one cluster; returns an exit code."""
    known = [read_shaped(folder) for folder in folders]
    shapes = {one.shape for one in known if one is not None}
    if len(shapes) == 1 and None not in known:
        (shape,) = shapes
        import_ahead(arguments)  # these ranks train; those that wait need little
        return _run_shaped(shape, lambda place: worker.work(arguments, place))
    networks = {emulated_rates(folder) for folder in folders} if not shapes else set()
    if len(networks) != 1:
        raise InputError("records of several clusters or link rates; give those of one")
    (rates,) = networks
    with Network(rates) as network:
        return emulate(network, len(rates), lambda place: worker.work(arguments, place))


def _run_shaped(shape: Shape, main: Callable[[Environment], None]) -> int:
    """Run `main` on every rank of a shaped cluster; returns an exit code."""
    rates = shape.rates_bits_per_s
    with CoreShares(shape.core_shares) as shares, Network(rates, shape.impairments) as network:
        return emulate(network, len(rates), main, launcher="shape", settle=shares.enter)


def _measure(folder: Path, place: Environment) -> None:
    """Measure the cluster as the rank that `place` says. What is wrong with the input is left in
    the folder, for whoever has started this to say."""
    failures.keep_in(folder)
    with worker.failure_explained(place.rank):
        try:
            shaped.measure(folder, place)
        except InputError as error:
            failures.keep(place.rank, str(error))
            raise SystemExit(2) from None
