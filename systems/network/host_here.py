"""Finds out what machine this is for ranks that share its cores: a `Host`, measured once and kept.

    host = host_here(ranks=4, threads=1)    # starts four processes, unless an answer is kept

The answer is kept in the cache folder (`systems.build.cache_folder`), in one file for every
machine, number of ranks and threads, and version of torch, and says when it was measured. Whoever
wants to measure again deletes it. What was measured on a busy machine is used once, and not kept.
"""

import hashlib
import platform
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from systems import disk, schema
from systems.build import CacheError, cache_folder
from systems.clusters.host import Host
from systems.environment import LOOPBACK, Environment, available_cores, free_port
from systems.network.distributed import World, start, stop
from systems.network.probe import probe
from systems.processes.spawned import answer_of_rank_0
from systems.profiles.steadiness import BUSY, load_average
from systems.schema import InputError

PATIENCE_S = 60.0
"""How long the processes of a probe wait for one another."""


def host_here(ranks: int, threads: int) -> Host:
    """Describe this machine for so many ranks with so many threads each, as it was measured before,
    or else is measured now.

    Raises:
        RuntimeError: a process failed.
    """
    host = kept_host(ranks, threads)
    if host is None:
        print(f"probing this machine with {ranks} processes: a few seconds", file=sys.stderr)
        load = load_average()
        host = _probed(ranks, threads)
        keep(host, ranks, load)
    return host


def shared_host(
    world: World, *, share: float | None = None, bandwidth_bits_per_s: float | None = None
) -> Host:
    """Describe this machine as `host_here` does, for the ranks of a world, which run already, all
    on this machine. They call this together.

    Args:
        share: the share of a core that each of them is held to.
        bandwidth_bits_per_s: the rate of the link that each is behind.
    """
    ranks, shape = world.world_size, (share, bandwidth_bits_per_s)
    from_rank_0 = [kept_host(ranks, torch.get_num_threads(), *shape) if world.rank == 0 else None]
    dist.broadcast_object_list(from_rank_0, src=0)
    if from_rank_0[0] is not None:
        return from_rank_0[0]
    load = load_average()
    host = probe(world, share=share, bandwidth_bits_per_s=bandwidth_bits_per_s)
    if world.rank == 0:
        keep(host, ranks, load, *shape)
    return host


def _probed(ranks: int, threads: int) -> Host:
    """Probe this machine with processes that are started for it."""
    host: Host = answer_of_rank_0(
        _main, ranks, threads, free_port(), what="the probe of this machine"
    )
    return host


def _main(rank: int, ranks: int, threads: int, port: int, result: Connection | None) -> None:
    """Probe the machine as one of the ranks; the first one sends the answer back."""
    torch.set_num_threads(threads)
    place = Environment(
        launcher="local",
        rank=rank,
        world_size=ranks,
        local_rank=rank,
        local_world_size=ranks,
        master_address=LOOPBACK,
        master_port=port,
    )
    world = start(place, ["probe"] * ranks, timeout_s=PATIENCE_S, device="cpu")
    host = probe(world)
    if result is not None:
        result.send(host)
    stop(world)


def kept_host(ranks: int, threads: int, *shape: float | None) -> Host | None:
    """Read what an earlier probe of this machine has kept; None where nothing can be read.

    Args:
        shape: of ranks that are held, or behind links: their share, and the rate.
    """
    with suppress(CacheError, InputError, OSError):
        path = _kept(ranks, threads, *shape)
        if path.is_file():
            return schema.load(Host, path, "probe", "testbed plan stanza")
    return None


def keep(host: Host, ranks: int, load: float, *shape: float | None) -> None:
    """Keep what was measured, unless the machine was busy before: then, and if it cannot be kept, a
    line on stderr says so, and it is measured again the next time.

    Args:
        load: the load average just before.
        shape: see `kept_host`.
    """
    cores = available_cores()
    if load + 1 > cores + BUSY:
        print(
            f"  the probe is not kept: the machine was busy before (load average {load:.1f}, cores "
            f"{cores}); what it says of this machine is doubtful",
            file=sys.stderr,
        )
        return
    try:
        path = _kept(ranks, host.threads, *shape)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk.write_text(path, schema.to_json(schema.dump(host), indent=2) + "\n")
        print(f"  kept in {path}; delete it to probe again", file=sys.stderr)
    except (CacheError, InputError, OSError) as error:
        print(f"  the probe is not kept: {error}", file=sys.stderr)


def _kept(ranks: int, threads: int, *shape: float | None) -> Path:
    """The file of an answer: there is one for everything that it depends on."""
    machine = [platform.node(), platform.release(), platform.machine(), available_cores()]
    what = [*machine, ranks, threads, torch.__version__, *shape]
    key = hashlib.sha256(repr(what).encode()).hexdigest()
    return cache_folder() / f"host-{key[:16]}.json"
