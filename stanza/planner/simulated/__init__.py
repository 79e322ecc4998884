"""Writes every scheme's step as tasks for the simulator: the third way to know a step time.

A run measures the step time, and the planner (`stanza.planner.predict`) computes it by a
recurrence. Here a step is a graph of tasks on all nodes, and the simulator (`systems.simulate`)
finds out what waits for what. The order of the tasks is that of the workers' code. A node has the
number of its rank: those that have data come first.
"""

from stanza.layout import Layout
from stanza.options import ZERO_STAGES, Options
from stanza.planner.costs import CostsAt
from stanza.planner.simulated.baselines import ddp, ps_dedicated, ps_sharded
from stanza.planner.simulated.separation import separated
from stanza.planner.simulated.steps import STEPS, Network, Simulated
from systems.schema import InputError


def played_plan(
    options: Options, layout: Layout, at: CostsAt, network: Network, *, steps: int = STEPS
) -> Simulated:
    """Play the steps of a run with these options and this layout.

    Args:
        steps: how many steps are played.

    Raises:
        InputError: the simulator does not know this variant of the scheme.
    """
    shares, servers = options.shares(len(layout.data_ranks)), len(layout.ranks("server"))
    if layout.scheme == "stanza":
        return separated(at, shares, layout, network, steps=steps)
    if layout.scheme == "ps" and servers:
        pipelined = options.ps_mode == "pipelined"
        return ps_dedicated(at, shares, servers, network, pipelined=pipelined, steps=steps)
    if layout.scheme == "ps" and options.ps_mode == "pipelined":
        return ps_sharded(at, shares, network, steps=steps)
    if layout.scheme == "ps":
        raise InputError(
            "--stanza.ps-mode blocking: colocated servers are simulated pipelined only; "
            "add --stanza.ps-mode pipelined"
        )
    if layout.scheme in ZERO_STAGES:
        raise InputError(f"--stanza.scheme {layout.scheme}: is not simulated; use testbed run")
    return ddp(at, shares, network, steps=steps)  # a single process is a ring of one
