"""What a sweep varies: options of the job, by their names or by short words.

`--over scheme=ddp,ps nodes=2,4` names two variables and their values. A variable is

    nodes                  the number of ranks, which is `--world-size`
    bandwidth              the rate of all links of the cluster, in bits per second
    batch-size             the samples of a step over all ranks
    scheme                 an option of the job's own system, here `--stanza.scheme`
    seed, slurm.nodes      any other option of the job, by its name without dashes

Every option has one name here, the shortest, whatever the user calls it.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import job as jobs
from launch.installed import system_of
from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.clusters.units import check_rate
from systems.flags import parse_flags, refuse_below_one
from systems.job import Job
from systems.schema import InputError, remedy

NODES, BANDWIDTH, BATCH_SIZE = "nodes", "bandwidth", "batch-size"
HINTS: Mapping[str, Any] = {NODES: int, BANDWIDTH: float, BATCH_SIZE: int}
"""The variables that a word names which is no option, and their types."""
NOT_SWEPT = ("name", "out", "system")
"""What is the same for all points, or set for each of them."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """Something that a sweep varies."""

    name: str
    """Its shortest name, without dashes in front."""
    values: tuple[Any, ...]
    """Its values, as the option has them."""


def parse_variables(base: Job, words: Sequence[str]) -> tuple[Variable, ...]:
    """The variables that `--over` names.

    Args:
        base: the job that is varied; short words are options of its system.
        words: NAME=VALUE,VALUE each. A comma in a value is written `\\,`; a value that is a list
            has spaces in it.

    Raises:
        InputError: no words, an unknown or ambiguous name, one that is there twice, or a value that
            is none of the option's type.
    """
    if not words:
        raise InputError("--over (none): give what to vary, such as --over nodes=2,4 seed=0,1")
    variables = tuple(_variable(base, word) for word in words)
    names = [variable.name for variable in variables]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--over {name}: is there twice; give all of its values at once")
    return variables


def parse_setting(base: Job, word: str, flag: str) -> tuple[str, Any]:
    """The name and the value of one NAME=VALUE that a flag gives.

    Raises:
        InputError: see `parse_variables`.
    """
    name, equals, text = word.partition("=")
    if not (name and equals and text):
        raise InputError(f"--{flag} {word}: write NAME=VALUE")
    option = find_name(base, name, flag)
    return option, _parsed(_hint(base, option), text, f"--{flag} {name}")


def _variable(base: Job, word: str) -> Variable:
    """The variable that one word of `--over` names."""
    name, equals, text = word.partition("=")
    values = [value.replace("\\,", ",") for value in re.split(r"(?<!\\),", text)]
    if not (name and equals and all(values)):
        raise InputError(f"--over {word}: write NAME=VALUE,VALUE, such as nodes=2,4")
    option = find_name(base, name, "over")
    parsed = [_parsed(_hint(base, option), value, f"--over {name}") for value in values]
    return Variable(name=option, values=tuple(dict.fromkeys(parsed)))


def find_name(base: Job, word: str, flag: str) -> str:
    """The shortest name of what a word means.

    Raises:
        InputError: it means nothing, or two things.
    """
    name = word.replace("_", "-")
    if name in HINTS:
        return name
    if name in NOT_SWEPT:
        raise InputError(f"--{flag} {word}: a sweep cannot vary it; leave it out")
    own, of_job = _own(base), _options(base)
    if name in own and name in of_job:
        raise InputError(
            f"--{flag} {word}: is an option of the job and of {base.system}; write "
            f"{_prefix(base)}{name} for the latter, and set the former with --{name}"
        )
    if name in own:
        name = f"{_prefix(base)}{name}"
    if name not in of_job:
        known = {*HINTS, *own, *(n for n in of_job if "." not in n)} - {*NOT_SWEPT}
        raise InputError(f"--{flag} {word}: is no option of this job; {remedy(name, known)}")
    return _shortest(base, name)


def _shortest(base: Job, option: str) -> str:
    """The name of an option without the name of the job's own system."""
    if option == "world-size":
        return NODES
    if option == system_of(base).batch_size_option.replace("_", "-"):
        return BATCH_SIZE
    short = option.removeprefix(_prefix(base))
    return option if short in _options(base) or short in HINTS else short


def _options(base: Job) -> dict[str, Any]:
    """The type of every option of a job, by its name on the command line."""
    options: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(type(base)).items():
        if dataclasses.is_dataclass(hint):
            nested = typing.get_type_hints(hint)
            options |= {f"{name}.{inner}": of_inner for inner, of_inner in nested.items()}
        else:
            options[name] = hint
    return {name.replace("_", "-"): hint for name, hint in options.items()}


def _own(base: Job) -> list[str]:
    """The options of the job's own system, without its name."""
    prefix = _prefix(base)
    return [name.removeprefix(prefix) for name in _options(base) if name.startswith(prefix)]


def _prefix(base: Job) -> str:
    """Return the beginning that the options of the job's own system have on the command line."""
    return f"{base.system}.".replace("_", "-")


def _hint(base: Job, name: str) -> Any:
    """The type of a variable."""
    return HINTS.get(name) or _options(base)[_option(base, name)]


def _option(base: Job, name: str) -> str:
    """The whole name of the option that a variable is."""
    options = _options(base)
    return name if name in options else f"{_prefix(base)}{name}"


def _parsed(hint: Any, text: str, what: str) -> Any:
    """The value that a text means, read as the command line reads the option itself."""
    holder = dataclasses.make_dataclass("Value", [("value", hint)], frozen=True, kw_only=True)
    words = ["--value", *text.split()] if _is_list(hint) else [f"--value={text}"]
    try:
        return parse_flags(holder, words, "", None).value  # type: ignore[attr-defined]
    except InputError as error:
        reason = str(error).removeprefix("--value").removesuffix("; see --help")
        reason = re.sub(rf"^ '?{re.escape(text)}'?: ", "", reason)
        raise InputError(f"{what}={text}: {reason.lstrip(': ')}") from None


def _is_list(hint: Any) -> bool:
    """Whether the values of a type are lists of words."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(map(_is_list, typing.get_args(hint)))
    return typing.get_origin(hint) is tuple


def job_at(base: Job, values: Mapping[str, Any]) -> Job:
    """The job with other values of variables, by their names. The rate of links is in no option,
    and not set here.

    Raises:
        InputError: the options refuse these values together.
    """
    changes: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name == NODES:
            changes["world_size"] = value
        elif name not in HINTS:
            group, _, field = _option(base, name).replace("-", "_").rpartition(".")
            (groups.setdefault(group, {}) if group else changes)[field] = value
    for group, of_group in groups.items():
        changes[group] = dataclasses.replace(getattr(base, group), **of_group)
    job = dataclasses.replace(base, **changes)
    if BATCH_SIZE in values:
        refuse_below_one({f"over {BATCH_SIZE}": [values[BATCH_SIZE]]})
        job = system_of(job).with_batch_size(job, values[BATCH_SIZE])
    return jobs.with_absolute_paths(job, Path())


def cluster_at(name: str, bandwidth_bits_per_s: float) -> Cluster:
    """The cluster of that name with that rate for all of its links.

    Raises:
        InputError: no rate, or no such cluster.
    """
    rate = bandwidth_bits_per_s
    check_rate(rate, f"--over {BANDWIDTH}={rate:g}")
    target = cluster.load(name, simulated=True).with_rate(rate)
    return dataclasses.replace(target, name=f"{target.name} at {rate / 1e9:g} Gb/s")


def value_at(job: Job, name: str) -> Any:
    """The value that a variable has in a job; None for a rate of links, which no option holds."""
    if name == NODES:
        return job.world_size
    if name == BATCH_SIZE:
        return system_of(job).batch_size(job)
    if name == BANDWIDTH:
        return None
    group, _, field = _option(job, name).replace("-", "_").rpartition(".")
    return getattr(getattr(job, group) if group else job, field)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: "1 point", "2 points"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_words(value: Any) -> str:
    """A value of a variable as a user writes it."""
    if isinstance(value, tuple):
        return "+".join(map(in_words, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:g}")
    return str(value)
