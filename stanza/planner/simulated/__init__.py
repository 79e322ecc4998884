"""Writes every scheme's step as tasks for the simulator: the third way to know a step time.

A run measures the step time, and the planner (`stanza.planner.predict`) computes it by a
recurrence. Here a step is a graph of tasks on all nodes, and the simulator (`systems.simulate`)
finds out what waits for what. The order of the tasks is that of the workers' code. A node has the
number of its rank: those that have data come first.
"""

from stanza.exchanges.names import compression_of
from stanza.layout import Layout
from stanza.options import ZERO_STAGES, Options
from stanza.planner.costs import RanksCostsAt
from stanza.planner.predict import unpredicted
from stanza.planner.simulated.baselines import ddp, ps_dedicated, ps_sharded
from stanza.planner.simulated.separation import separated
from stanza.planner.simulated.steps import STEPS, Simulated, one_by_one
from systems.clusters.topology import Topology
from systems.faulty import Network
from systems.schema import InputError


def played_plan(
    options: Options,
    layout: Layout,
    at: RanksCostsAt,
    network: Network,
    *,
    every_rank: bool = False,
    steps: int = STEPS,
) -> Simulated:
    """Play the steps of a run with these options and this layout.

    Args:
        every_rank: plays each rank, also those that cannot differ (`systems.rank_classes`); the
            result is the same. Where `one_by_one` says so, they are always played so.
        steps: how many steps are played.

    Raises:
        InputError: the simulator does not know this variant of the scheme.
    """
    every_rank = every_rank or one_by_one(network)
    shares, servers = options.shares(len(layout.data_ranks)), len(layout.ranks("server"))
    compression = compression_of(options.exchange, options.exchange_options)
    why = unpredicted(options)
    if why is not None or compression is None:
        raise InputError(f"{why}; use testbed run")
    if layout.scheme == "stanza":
        return separated(at, shares, layout, network, every_rank=every_rank, steps=steps)
    if layout.scheme == "ps" and servers:
        pipelined = options.ps_mode == "pipelined"
        return ps_dedicated(
            at,
            shares,
            servers,
            network,
            pipelined=pipelined,
            compression=compression,
            every_rank=every_rank,
            steps=steps,
        )
    if layout.scheme == "ps" and options.ps_mode == "pipelined":
        return ps_sharded(at, shares, network, compression, every_rank=every_rank, steps=steps)
    if layout.scheme == "ps":
        raise InputError(
            "--stanza.ps-mode blocking: colocated servers are simulated pipelined only; "
            "add --stanza.ps-mode pipelined"
        )
    if layout.scheme in ZERO_STAGES:
        raise InputError(f"--stanza.scheme {layout.scheme}: is not simulated; use testbed run")
    if compression.gathered and isinstance(network, Topology) and not network.is_one_switch:
        raise InputError(
            f"--stanza.exchange {options.exchange}: an all-gather of gradients is not simulated "
            "on racks, nor with several devices a node; give --stanza.scheme ps, or leave them out"
        )
    # A single process is a ring of one.
    return ddp(at, shares, network, compression, every_rank=every_rank, steps=steps)
