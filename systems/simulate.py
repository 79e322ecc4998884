"""A discrete-event simulator: tasks with dependencies on compute streams and on full-duplex links.

    program = Program()
    forward = program.compute("rank 0", 0.010, name="forward")
    program.flow(0, 1, size_bytes=4e6, name="activations", after=[forward])
    timeline = simulate(program, Link(bandwidth_bits_per_s=10e9, latency_s=50e-6))

A compute stream runs one task at a time, in the order in which tasks become ready (ties: in the
order in which they were added). Transfers share links as `systems.fair_links` explains; the switch
between the nodes does not block. A transfer's latency follows its last byte. The simulator is
deterministic. It knows tasks, not systems.

A program can be played on one machine as well, whose cores all tasks share:

    timeline = simulate(program, host)      # see [Note: ranks that share cores]
"""

from collections.abc import Callable

from systems.clusters.cluster import Link
from systems.clusters.host import Host
from systems.clusters.links import Links
from systems.fair_links import CORES, Resource
from systems.held_ranks import play_held, thread_seconds
from systems.program import Program, Task
from systems.simulation import Simulation, Timeline


def simulate(program: Program, network: Link | Links | Host) -> Timeline:
    """Play a program on nodes whose interfaces all have the rate of a link, or each its own, or on
    one machine whose cores all nodes share.

    The latency of the network is not read: the program has its own.

    Raises:
        InputError: the rate of the link is not known.
    """
    tasks = program.tasks
    if isinstance(network, Host) and network.is_shaped:
        return play_held(program, network)
    if isinstance(network, Host):
        loads = [core_seconds(task, network) for task in tasks]
        paces = [max((size for r, size in of.items() if r != CORES), default=0.0) for of in loads]
        waits_s = [0.0 if task.stream is not None else task.seconds for task in tasks]
        capacity = _capacity(network)
        return Simulation(tasks, capacity, loads=loads, paces=paces, waits_s=waits_s).run()
    return Simulation(tasks, _capacity(network)).run()


def _capacity(network: Link | Links | Host) -> Callable[[Resource], float]:
    """What a resource moves in a second: bytes over an interface, or core time of a thread."""
    if isinstance(network, Host):
        cores = network.cores
        return lambda resource: cores if resource == CORES else 1.0
    if isinstance(network, Links):
        rates = dict(enumerate(network.bytes_per_s))
        return lambda interface: rates[int(interface[0])]
    bytes_per_s = 1.0 / network.seconds(1.0)
    return lambda _: bytes_per_s


def core_seconds(task: Task, host: Host) -> dict[Resource, float]:
    """The core time that a task takes on a machine whose ranks share its cores: of every thread
    that is busy with it, and of CORES, which is their sum. See [Note: max-min fair cores]."""
    if task.stream is not None:
        of_threads: dict[Resource, float] = {(task.stream, "thread"): task.seconds}
        return {**of_threads, CORES: task.seconds * host.threads} if task.seconds else {}
    if not any(task.loads.values()):
        return {}
    loads: dict[Resource, float] = {
        (f"node {rank}", way): fixed_s + bytes_s
        for rank, way, fixed_s, bytes_s in thread_seconds(task, host)
    }
    return {**loads, CORES: sum(loads.values())}
