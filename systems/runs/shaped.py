"""What is known of a shaped cluster: what was measured of it before a run, and whether the machine
was quiet enough meanwhile for that to hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from systems.clusters.host import Host
from systems.clusters.shape import Shape
from systems.network.pairs import PairCalibration
from systems.processes.host import HostUse
from systems.profiles.profile import ModelProfile

MOST_OFF = 0.10
"""A speed that is off by a larger share than this was disturbed by something else; so was a run
during which others used a larger share of the cores that it needs."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a shaped cluster with all ranks at work."""

    calibration: PairCalibration
    speeds_per_s: tuple[float, ...]
    """How often every rank multiplied two small matrices in a second."""
    profiles: dict[str, ModelProfile]
    """The layers of the job's model by kind of device; empty where the system measures none."""
    host: Host | None = None
    """What messages, sums and copies take of the ranks' cores; None where their nodes differ."""


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """What the record of a shaped run says of its cluster before the first step."""

    shape: Shape
    held: str
    """How ranks are held to their shares of a core, or why they are not."""
    measured: Measured
    simulated_step_s: float | None = None
    """The step time of the plan in the simulator, with the measured profile and links."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a shaped run found around it."""

    before_per_s: tuple[float, ...]
    """The speed of every rank before the first step; see `Measured`."""
    after_per_s: tuple[float, ...]
    """The same after the last step."""
    throttled: tuple[float | None, ...]
    """By rank, the share of the periods at whose end it had used up its quota; None: it has none.
    """
    host: HostUse | None
    """What else the machine did during the run; None where nothing counts it."""


def doubts(shaped: Shaped, conditions: Conditions) -> list[str]:
    """The reasons why the times of a shaped run are not those of its cluster; none for a run on a
    quiet machine."""
    reasons = _changes(
        conditions.before_per_s, conditions.after_per_s, "after the run as before it"
    )
    reasons += _changes(
        shaped.measured.speeds_per_s,
        conditions.before_per_s,
        "before the run as when it was profiled",
    )
    if conditions.host is None:
        return reasons
    host, shares = conditions.host, shaped.shape.core_shares
    wanted = min(host.cores, sum(1.0 if share is None else share for share in shares))
    spare = host.cores - wanted + MOST_OFF * wanted
    if host.stolen_cores > MOST_OFF * host.cores:
        reasons.append(
            f"the machine below gave {host.stolen_cores:.2f} of {host.cores} cores to others"
        )
    if host.others_cores > spare:
        reasons.append(
            f"other processes kept {host.others_cores:.2f} of {host.cores} cores busy, and the "
            f"ranks need {wanted:g}"
        )
    return reasons


def _changes(before: Sequence[float], after: Sequence[float], when: str) -> list[str]:
    """The rank whose speed has changed most, if it has changed by too much."""
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    rank = max(range(len(ratios)), key=lambda r: abs(ratios[r] - 1))
    if abs(ratios[rank] - 1) <= MOST_OFF:
        return []
    return [f"rank {rank} was {ratios[rank]:.2f} times as fast {when}"]


def busy_words(result: Mapping[str, Any]) -> str:
    """Say, at the end of the line of a result, that the machine was too busy; empty if it was
    not."""
    reasons = result.get("host_busy")
    return f"; doubtful, the machine was busy: {'; '.join(reasons)}" if reasons else ""
