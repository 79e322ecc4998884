"""Who does what: the role of every rank under a scheme."""

from dataclasses import dataclass

from stanza.options import Options, Scheme
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The resolved distribution of one run. Ranks with data come first, in data order."""

    scheme: Scheme
    roles: tuple[str, ...]
    """By rank: conv, fc, worker, server, or idle (a single process in a larger world)."""
    micro_batches: int = 1

    def ranks(self, role: str) -> tuple[int, ...]:
        """The ranks with this role."""
        return tuple(rank for rank, name in enumerate(self.roles) if name == role)

    @property
    def data_ranks(self) -> tuple[int, ...]:
        """The ranks that load samples."""
        return self.ranks("conv") + self.ranks("worker")

    def fc_of(self, conv_rank: int) -> int:
        """The FC worker of a CONV worker; neighbours share one, shares differ by at most one."""
        conv, fc = self.ranks("conv"), self.ranks("fc")
        return fc[conv.index(conv_rank) * len(fc) // len(conv)]

    def conv_of(self, fc_rank: int) -> tuple[int, ...]:
        """The CONV workers of an FC worker, in rank order."""
        return tuple(rank for rank in self.ranks("conv") if self.fc_of(rank) == fc_rank)

    def describe(self) -> str:
        """ "3 conv (0-2), 1 fc (3)"."""
        parts = []
        for role in dict.fromkeys(self.roles):
            ranks = self.ranks(role)
            span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
            parts.append(f"{len(ranks)} {role} ({span})")
        return ", ".join(parts)


def layout(options: Options, world_size: int, fc_workers: int, micro_batches: int) -> Layout:
    """The layout of `options` on `world_size` ranks, with the planner's answers filled in.

    Raises:
        InputError: too few ranks for the roles, or batches too small for the micro-batches.
    """
    scheme = options.scheme
    if scheme == "stanza" and fc_workers == 0:
        scheme = "ddp"
    if scheme == "stanza":
        _need_ranks(world_size, fc_workers + 1, f"--stanza.fc-workers {fc_workers}")
        conv_workers = world_size - fc_workers
        if fc_workers > conv_workers:
            raise InputError(
                f"--stanza.fc-workers {fc_workers}: more than the {conv_workers} CONV workers "
                f"left of {world_size} ranks; give at most {world_size // 2}"
            )
        _check_batch(options, conv_workers, micro_batches)
        roles = ("conv",) * conv_workers + ("fc",) * fc_workers
        return Layout(scheme=scheme, roles=roles, micro_batches=micro_batches)
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


def _need_ranks(world_size: int, needed: int, flag: str) -> None:
    if world_size < needed:
        raise InputError(
            f"--world-size {world_size}: {flag} needs at least {needed} ranks, one of them with "
            f"data; give --world-size {needed} or more"
        )


def _check_batch(options: Options, workers: int, micro_batches: int) -> None:
    smallest = options.samples_per_step(workers) // workers
    if smallest < micro_batches:
        raise InputError(
            f"--stanza.micro-batches {micro_batches}: the smallest local batch has {smallest} "
            f"samples; give at most {smallest} micro-batches or a larger batch"
            if micro_batches > 1
            else f"--stanza.global-batch-size {options.global_batch_size}: fewer samples than the "
            f"{workers} workers; give at least {workers}"
        )
