"""Writes every scheme's step as tasks for the simulator: the third way to know a step time.

A run measures the step time, and the planner (`stanza.planner.predict`) computes it by a
recurrence. Here a step is a graph of tasks on all nodes, and the simulator (`systems.simulate`)
finds out what waits for what. The order of the tasks is that of the workers' code. A node has the
number of its rank: those that have data come first.
"""

from stanza.layout import Layout
from stanza.options import ZERO_STAGES, Options
from stanza.planner.costs import RanksCostsAt
from stanza.planner.simulated.baselines import ddp, ps_dedicated, ps_sharded
from stanza.planner.simulated.separation import separated
from stanza.planner.simulated.steps import Simulated
from systems.clusters.cluster import Link
from systems.clusters.links import Links
from systems.schema import InputError


def played_plan(
    options: Options, layout: Layout, at: RanksCostsAt, link: Link | Links
) -> Simulated:
    """Play the steps of a run with these options and this layout.

    Raises:
        InputError: the simulator does not know this variant of the scheme.
    """
    shares, servers = options.shares(len(layout.data_ranks)), len(layout.ranks("server"))
    if layout.scheme == "stanza":
        return separated(at, shares, layout, link)
    if layout.scheme == "ps" and servers:
        pipelined = options.ps_mode == "pipelined"
        return ps_dedicated(at, shares, servers, link, pipelined=pipelined)
    if layout.scheme == "ps" and options.ps_mode == "pipelined":
        return ps_sharded(at, shares, link)
    if layout.scheme == "ps":
        raise InputError(
            "--stanza.ps-mode blocking: colocated servers are simulated pipelined only; "
            "add --stanza.ps-mode pipelined"
        )
    if layout.scheme in ZERO_STAGES:
        raise InputError(f"--stanza.scheme {layout.scheme}: is not simulated; use testbed run")
    return ddp(at, shares, link)  # a single process is a ring of one
