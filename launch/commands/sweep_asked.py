"""What one command asks of a sweep, and whether it can be done: nothing is run or written here."""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.commands.sweep_tiers import measured_anew, own_links, why_not
from launch.sweep.picture import choose_x
from launch.sweep.points import Point, Sweep
from launch.sweep.variables import Variable, in_words, job_at
from systems.flags import named_as_given, refuse_below_one
from systems.job import Job, job_alone
from systems.progress.table import ProgressFlags
from systems.runs.record import Tier
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class SweepFlags(Job, ProgressFlags):
    """The flags of all sweeps, beside those of the job."""

    repetitions: int = 1
    """How often every point is run. All points follow one another before any is repeated, with a
    seed that is larger by 1. A simulation is deterministic and is played once."""
    baseline: tuple[str, ...] = ()
    """What the figure shows the speed-up over, such as scheme=ddp: the points that differ in
    nothing else. Without it, it shows samples per second."""
    x: str | None = None
    """The variable on the x axis of the figure. None takes nodes, else bandwidth, else the first
    one with numbers."""
    elsewhere: bool = False
    """Run nothing here. Write a job file for every point, which `testbed worker` starts under
    torchrun or srun on several nodes, and make the table of those that have been run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below_one({"repetitions": [self.repetitions]})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one command asks of a sweep."""

    sweep: Sweep
    varied: tuple[Variable, ...]
    tiers: tuple[Tier, ...]
    flags: SweepFlags
    named: Mapping[str, str]
    """What the command calls options that errors name; see `systems.flags.named_as_given`."""
    kind: str
    """The name of the table."""
    scale: float | None = None
    dilate: float | None = None
    """The two factors of every emulated point; None chooses them for each."""

    @property
    def names(self) -> list[str]:
        """The names of all that is varied."""
        return [variable.name for variable in self.varied]

    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the values; those of the last variable change fastest."""
        lists = (variable.values for variable in self.varied)
        return [dict(zip(self.names, values, strict=True)) for values in itertools.product(*lists)]


def base_of(flags: SweepFlags) -> Job:
    """The job that a sweep varies."""
    return dataclasses.replace(job_alone(flags), out=None)


def check_values(asked: Asked) -> None:
    """Make the jobs of all combinations.

    Raises:
        InputError: a value is refused in every combination, the first of them; or the seed is
            varied and repeated.
    """
    repetitions = asked.flags.repetitions
    if "seed" in asked.names and repetitions > 1:
        raise InputError(
            f"--repetitions {repetitions}: each has a seed of its own, and --over varies the seed; "
            "leave one of them out"
        )
    faults: dict[tuple[str, Any], list[str]] = {}
    for values in asked.combinations():
        fault = ""
        try:
            with named_as_given(asked.named):
                asked.sweep.job(Point(tier="simulated", repetition=0, values=values))
        except InputError as error:
            fault = str(error)
        for pair in values.items():
            faults.setdefault(pair, []).append(fault)
    refused = [of_value[0] for of_value in faults.values() if all(of_value)]
    if refused:
        raise InputError(refused[0])


def check_drawn(asked: Asked, baseline: Mapping[str, Any]) -> str | None:
    """The variable of the x axis; None: no variable has numbers.

    Raises:
        InputError: `--x` or `--baseline` names what is not varied.
    """
    values = {variable.name: list(variable.values) for variable in asked.varied}
    for point in asked.sweep.points():
        for name, value in point.values.items():
            values.setdefault(name, []).append(value)
    for name, value in baseline.items():
        if value not in values.get(name, []):
            varied = " ".join(map(in_words, dict.fromkeys(values.get(name, []))))
            known = f"varies it over {varied}" if varied else "does not vary it"
            raise InputError(
                f"--baseline {name}={in_words(value)}: this sweep {known}; add the value to --over"
            )
    return choose_x(values, asked.flags.x)


def reasons_against(asked: Asked) -> dict[Tier, str | None]:
    """Return, for each tier, why none of its points can be run; None where some can.

    Raises:
        InputError: none of the tiers can be run.
    """
    if asked.flags.elsewhere:
        if asked.tiers != ("measured",):
            raise InputError(
                f"--elsewhere: real ranks run there, and --tier is {' '.join(asked.tiers)}; add "
                "--tier measured"
            )
        if reason := own_links(asked.names):
            raise InputError(reason)
        return {"measured": None}
    reasons = {tier: why_not(asked.sweep.base, tier, asked.names) for tier in asked.tiers}
    if reasons.get("simulated", "") is None:
        reasons["simulated"] = _never_known(asked)
    if all(reasons.values()):
        raise InputError(str(next(iter(reasons.values()))))
    return reasons


def _never_known(asked: Asked) -> str | None:
    """Say why every simulated point would have to be measured first; None if one need not be."""
    reasons: list[str | None] = []
    for values in asked.combinations():
        try:
            reasons.append(measured_anew(job_at(asked.sweep.base, values), asked.names))
        except InputError:  # the point says so itself
            continue
    return reasons[0] if reasons and all(reasons) else None
