"""Every scheme's step as tasks for `systems.simulate`: the third way to know a step time.

The planner (stanza.planner.predict) writes a step as a recurrence, the run measures it; here it is
a graph of tasks on every node, and the simulator finds out what waits for what. The schedules are
those of the code in this package. Nodes are numbered as ranks: those with data first.
"""

from stanza.layout import Layout
from stanza.options import ZERO_STAGES, Options
from stanza.planner.costs import CostsAt
from stanza.planner.simulated.baselines import ddp, ps_dedicated, ps_sharded
from stanza.planner.simulated.separation import play, stanza
from stanza.planner.simulated.steps import STEPS, Simulated, segments
from systems.clusters.cluster import Link
from systems.schema import InputError

__all__ = [
    "STEPS",
    "Simulated",
    "ddp",
    "play",
    "played_plan",
    "ps_dedicated",
    "ps_sharded",
    "segments",
    "stanza",
]


def played_plan(options: Options, layout: Layout, at: CostsAt, link: Link) -> Simulated:
    """The simulated run of a resolved layout.

    Raises:
        InputError: a variant that is not simulated.
    """
    workers, servers = len(layout.data_ranks), len(layout.ranks("server"))
    batch = options.local_batch(workers)
    if layout.scheme == "stanza":
        return play(at, batch, layout, link)
    if layout.scheme == "ps" and servers:
        pipelined = options.ps_mode == "pipelined"
        return ps_dedicated(at(batch), workers, servers, link, pipelined=pipelined)
    if layout.scheme == "ps" and options.ps_mode == "pipelined":
        return ps_sharded(at(batch), workers, link)
    if layout.scheme == "ps":
        raise InputError(
            "--stanza.ps-mode blocking: colocated servers are simulated pipelined only; "
            "add --stanza.ps-mode pipelined"
        )
    if layout.scheme in ZERO_STAGES:
        raise InputError(f"--stanza.scheme {layout.scheme}: is not simulated; use launch run")
    return ddp(at(batch), workers, link)  # a single process is a ring of one
