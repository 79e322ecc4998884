"""Who does what: the role of every rank under a scheme (the terms are in `stanza.workers`).

The layouts of four ranks, by their roles:

    --stanza.scheme stanza, one FC worker        conv      conv  conv  fc
    the same, colocated                          conv+fc   conv  conv  conv
    --stanza.scheme ps, one server               worker  worker  worker  server
    --stanza.scheme ddp, zero1 to 3, or ps       worker  worker  worker  worker
      with colocated servers
    --stanza.scheme single                       worker  idle  idle  idle
"""

from dataclasses import dataclass
from functools import cached_property

from stanza.options import EQUAL, FcParallel, FcPlacement, Options, Scheme
from systems.schema import InputError

BOTH = "conv+fc"
"""The role of a rank that is a CONV worker and an FC worker."""


def even_slice(size: int, index: int, count: int) -> slice:
    """The slice with number `index` when `size` values are cut into `count` slices.

    The lengths of the slices differ by at most one.
    """
    return slice(size * index // count, size * (index + 1) // count)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Who has which role in one run. The ranks that have data come first, in the order of the
    data."""

    scheme: Scheme
    roles: tuple[str, ...]
    """The role of each rank: conv, fc, conv+fc, worker, server, or idle, which is every other rank
    beside a single process."""
    micro_batches: int = 1
    fc_parallel: FcParallel = "replicas"

    @property
    def fc_placement(self) -> FcPlacement:
        """Whether FC workers have ranks of their own or are CONV workers as well."""
        return "colocated" if BOTH in self.roles else "dedicated"

    def ranks(self, role: str) -> tuple[int, ...]:
        """The ranks that have this role, alone or beside another."""
        return self._ranks.get(role, ())

    @cached_property
    def _ranks(self) -> dict[str, tuple[int, ...]]:
        """The ranks of each role."""
        ranks_of: dict[str, list[int]] = {}
        parts = {name: name.split("+") for name in set(self.roles)}
        for rank, name in enumerate(self.roles):
            for role in parts[name]:
                ranks_of.setdefault(role, []).append(rank)
        return {role: tuple(ranks) for role, ranks in ranks_of.items()}

    @cached_property
    def _place(self) -> dict[str, dict[int, int]]:
        """By role: the place of each rank among those that have it."""
        return {
            role: {rank: place for place, rank in enumerate(ranks)}
            for role, ranks in self._ranks.items()
        }

    @property
    def data_ranks(self) -> tuple[int, ...]:
        """The ranks that load samples."""
        return self.ranks("conv") + self.ranks("worker")

    def fc_of(self, conv_rank: int) -> tuple[int, ...]:
        """The FC workers to which a CONV worker sends its activations.

        Where they are replicas it is one, which serves neighbouring CONV workers. Where they hold
        columns it is all of them.
        """
        conv, fc = self.ranks("conv"), self.ranks("fc")
        if self.fc_parallel == "columns":
            return fc
        return (fc[self._place["conv"][conv_rank] * len(fc) // len(conv)],)

    def conv_of(self, fc_rank: int) -> tuple[int, ...]:
        """The CONV workers that an FC worker serves, in rank order."""
        conv, fc = self.ranks("conv"), self.ranks("fc")
        if self.fc_parallel == "columns":
            return conv
        place = self._place["fc"][fc_rank]
        # The places i with i * f // c = place, for c CONV workers and f FC workers.
        first, end = (-(-edge * len(conv) // len(fc)) for edge in (place, place + 1))
        return conv[first:end]

    def describe(self) -> str:
        """Describe the layout in words, such as "3 conv (0-2), 1 fc (3)"."""
        parts = []
        for role in dict.fromkeys(self.roles):
            ranks = [rank for rank, name in enumerate(self.roles) if name == role]
            together = len(ranks) == ranks[-1] - ranks[0] + 1
            span = f"{ranks[0]}-{ranks[-1]}" if together else ", ".join(map(str, ranks))
            parts.append(f"{len(ranks)} {role} ({span if len(ranks) > 1 else ranks[0]})")
        columns = "; FC layers in columns" if self.fc_parallel == "columns" else ""
        return ", ".join(parts) + columns


def layout_of(options: Options, world_size: int, fc_workers: int, micro_batches: int) -> Layout:
    """The layout of a run on `world_size` ranks.

    Args:
        fc_workers: the number of FC workers, as given or as planned. 0 makes it a run of DDP.
        micro_batches: the number of micro-batches, likewise.

    Raises:
        InputError: there are too few ranks for the roles, or a batch has too few samples.
    """
    options.check_world_size(world_size)
    scheme = options.scheme
    if scheme == "stanza" and fc_workers == 0:
        scheme = "ddp"
    if scheme == "stanza":
        colocated = options.fc_placement == "colocated"
        needed = fc_workers if colocated else fc_workers + 1
        _need_ranks(world_size, needed, f"--stanza.fc-workers {fc_workers}")
        conv_workers = world_size if colocated else world_size - fc_workers
        if fc_workers > conv_workers:
            raise InputError(
                f"--stanza.fc-workers {fc_workers}: more than the {conv_workers} CONV workers "
                f"left of {world_size} ranks; give at most {world_size // 2}"
            )
        _check_batch(options, conv_workers, micro_batches)
        return separated_layout(
            conv_workers,
            fc_workers,
            micro_batches,
            fc_parallel="columns" if options.fc_parallel == "columns" else "replicas",
            fc_placement="colocated" if colocated else "dedicated",
        )
    if scheme == "ps" and options.ps_placement == "dedicated":
        _need_ranks(world_size, options.ps_servers + 1, f"--stanza.ps-servers {options.ps_servers}")
        workers = world_size - options.ps_servers
        roles = ("worker",) * workers + ("server",) * options.ps_servers
    elif scheme == "single":
        roles = ("worker",) + ("idle",) * (world_size - 1)
    else:
        roles = ("worker",) * world_size
    _check_batch(options, roles.count("worker"), 1)
    return Layout(scheme=scheme, roles=roles)


def separated_layout(
    conv_workers: int,
    fc_workers: int,
    micro_batches: int,
    *,
    fc_parallel: FcParallel = "replicas",
    fc_placement: FcPlacement = "dedicated",
) -> Layout:
    """The layout of layer separation with so many workers.

    A colocated FC worker shares the rank of the first CONV worker that it would serve as a replica,
    so that this one's activations need not travel.
    """
    if fc_placement == "dedicated":
        roles = ("conv",) * conv_workers + ("fc",) * fc_workers
    else:
        firsts = {-(-index * conv_workers // fc_workers) for index in range(fc_workers)}
        roles = tuple(BOTH if rank in firsts else "conv" for rank in range(conv_workers))
    return Layout(
        scheme="stanza", roles=roles, micro_batches=micro_batches, fc_parallel=fc_parallel
    )


def _need_ranks(world_size: int, needed: int, flag: str) -> None:
    """Refuse a world that is too small for what `flag` asks."""
    if world_size < needed:
        raise InputError(
            f"--world-size {world_size}: {flag} needs at least {needed} ranks, one of them with "
            f"data; give --world-size {needed} or more"
        )


def _check_batch(options: Options, workers: int, micro_batches: int) -> None:
    """Refuse a batch that leaves a worker without a sample for every micro-batch."""
    smallest = min(options.shares(workers))
    if smallest == 0 and options.batch_shares != EQUAL:
        raise InputError(
            f"--stanza.batch-shares {options.batch_shares}: leaves a worker without samples of "
            f"{options.samples_per_step(workers)}; give a larger batch, or leave that rank out"
        )
    if smallest < micro_batches:
        raise InputError(
            f"--stanza.micro-batches {micro_batches}: the smallest local batch has {smallest} "
            f"samples; give at most {smallest} micro-batches or a larger batch"
            if micro_batches > 1
            else f"--stanza.global-batch-size {options.global_batch_size}: fewer samples than the "
            f"{workers} workers; give at least {workers}"
        )
