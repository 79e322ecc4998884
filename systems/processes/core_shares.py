"""Holds processes to a share of a core each, by the control groups of the kernel (Linux).

    with CoreShares([0.5, 0.25, None]) as shares:     # None: as much as it gets
        ...
        shares.enter(1)                               # in a forked process: it is held from now on

A group has a quota: the CPU time that its processes may use together in a period, which is
`cpu.cfs_quota_us` in version 1 of control groups and `cpu.max` in version 2. Who has used it up
stands still until the next period. Real-time processes are not held by it. A quota is no promise:
the kernel divides busy cores among all who want them, and takes our groups together for one of
them. So they get the largest weight, and other programs get what our ranks leave.

A group is a folder. Unlike a network namespace it stays when its processes are gone, and it can
only be removed when it is empty. So whoever has made the groups removes them at the end. If that
process was killed, its groups are found by its number in their name: `clean` removes those whose
maker is gone.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from systems.processes.lifetime import identity

PERIOD_US = 10_000
"""The period of a quota, in microseconds: short beside a training step, so that each is slowed
alike."""
PREFIX = "systems-testbed-"
"""What the folders of all our groups begin with; the number and the start of the maker follow."""
PATIENCE_S = 5.0
"""How long to wait until the last process has left a group."""


@dataclass(frozen=True)
class Hierarchy:
    """Where groups with a quota can be made."""

    version: Literal[1, 2]
    """The version of control groups."""
    folder: Path
    """The group in which ours are made."""

    def quota(self, share: float) -> tuple[tuple[str, str], ...]:
        """The files of a group that hold it to a share of a core, with what to write, in order."""
        quota_us = round(share * PERIOD_US)
        if self.version == 2:
            return (("cpu.max", f"{quota_us} {PERIOD_US}"),)
        return (("cpu.cfs_period_us", f"{PERIOD_US}"), ("cpu.cfs_quota_us", f"{quota_us}"))

    @property
    def weight(self) -> tuple[str, str]:
        """The file of a group that says how much it gets of busy cores, and the most it may say."""
        return ("cpu.weight", "10000") if self.version == 2 else ("cpu.shares", "262144")


@dataclass(frozen=True, kw_only=True)
class Throttled:
    """How often the group of this process had used up its quota."""

    periods: int
    """Periods in which one of its processes wanted to run."""
    throttled: int
    """Those at whose end it stood still."""


class CoreShares:
    """A group for every rank that is held to a share of a core."""

    def __init__(self, shares: Sequence[float | None]) -> None:
        """Make the groups. Nothing is made where no rank is held, or where groups cannot be made:
        `unavailable` says so before.

        Args:
            shares: the share of one core by rank; None: the rank is not held.
        """
        self._folder: Path | None = None
        self._groups: dict[int, Path] = {}
        clean()
        here = hierarchy()
        if here is None or all(share is None for share in shares):
            return
        self._folder = here.folder / (PREFIX + _maker(os.getpid()))
        try:
            self._folder.mkdir()
            _let_groups_have_quotas(here, self._folder)
            file, weight = here.weight
            (self._folder / file).write_text(weight)
            for rank, share in enumerate(shares):
                if share is not None:
                    group = self._groups[rank] = self._folder / f"rank-{rank}"
                    group.mkdir()
                    for name, value in here.quota(share):
                        (group / name).write_text(value)
        except BaseException:
            self.close()
            raise

    def enter(self, rank: int) -> None:
        """Hold this process, with all its threads and what it starts from now on."""
        if rank in self._groups:
            (self._groups[rank] / "cgroup.procs").write_text(str(os.getpid()))

    def close(self) -> None:
        """Remove the groups; their processes have ended, or end just now."""
        if self._folder is not None:
            _remove(self._folder, PATIENCE_S)

    def __enter__(self) -> "CoreShares":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hierarchy() -> Hierarchy | None:
    """Find where this process can make groups with a quota; None where it cannot."""
    for line in _lines("/proc/self/mounts"):
        _, mount, kind, options, *_ = line.split()
        root = Path(mount)
        if kind == "cgroup" and "cpu" in options.split(","):
            return _writable(Hierarchy(1, _own_group(root, "cpu")))
        if kind == "cgroup2" and "cpu" in _words(root / "cgroup.controllers"):
            # Only the root may have processes beside groups with quotas.
            return _writable(Hierarchy(2, root))
    return None


def unavailable() -> str | None:
    """Say why no process can be held to a share of a core here; None if it can."""
    here = hierarchy()
    if here is None:
        return "no control group of this machine can be given a quota (cgroup v1 or v2, as root)"
    if here.version == 2 and "cpu" not in _words(here.folder / "cgroup.subtree_control"):
        try:
            (here.folder / "cgroup.subtree_control").write_text("+cpu")
        except OSError as error:
            return f"{here.folder} gives its groups no quota: {error.strerror}"
    return None


def throttled() -> Throttled | None:
    """Read how often this process had used up its quota; None if it has none."""
    here = hierarchy()
    if here is None:
        return None
    mount = here.folder if here.version == 2 else _root_of(here.folder)
    own = _own_group(mount, "cpu" if here.version == 1 else "")
    if not own.parent.name.startswith(PREFIX):
        return None
    counts = dict(line.split() for line in _lines(own / "cpu.stat"))
    return Throttled(periods=int(counts["nr_periods"]), throttled=int(counts["nr_throttled"]))


def leftovers() -> list[Path]:
    """List the groups whose maker is gone."""
    here = hierarchy()
    if here is None:
        return []
    return [
        folder
        for folder in here.folder.glob(f"{PREFIX}*")
        if folder.name != PREFIX + _maker(int(folder.name.removeprefix(PREFIX).partition("-")[0]))
    ]


def clean(patience_s: float = 0.0) -> int:
    """Remove the groups whose maker is gone; returns how many were removed. Those in which a
    process is left after so many seconds stay: it ends a moment after its maker."""
    return sum(_remove(folder, patience_s) for folder in leftovers())


def _maker(process: int) -> str:
    """The number of a process and the time of its start: numbers are used again."""
    return f"{process}-{(identity(process) or 'gone').split()[-1]}"


def _let_groups_have_quotas(here: Hierarchy, folder: Path) -> None:
    """Tell version 2 that the groups in a group have quotas, as it wants; `unavailable` has told
    the root."""
    if here.version == 2:
        (folder / "cgroup.subtree_control").write_text("+cpu")


def _remove(folder: Path, patience_s: float) -> bool:
    """Remove a group and those in it, once they are empty; returns whether they were."""
    until = time.monotonic() + patience_s
    while folder.exists():
        with suppress(OSError):  # a process is still in it, or somebody else removes it too
            for group in (*(path for path in folder.iterdir() if path.is_dir()), folder):
                group.rmdir()
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return not folder.exists()


def _own_group(mount: Path, controller: str) -> Path:
    """The group of this process below a mount, or the mount itself where it shows only that."""
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = mount / path.lstrip("/")
            return own if own.is_dir() else mount
    return mount


def _root_of(folder: Path) -> Path:
    """The mount of a group."""
    while not folder.is_mount():
        folder = folder.parent
    return folder


def _writable(here: Hierarchy) -> Hierarchy | None:
    return here if os.access(here.folder, os.W_OK) else None


def _lines(path: str | Path) -> list[str]:
    """The lines of a file of the kernel's; none where there is no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
