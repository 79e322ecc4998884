"""`testbed profile stanza`: measure every layer of a model on this machine, write it as JSON.

python -m launch profile stanza --model alexnet --batch-size 16 --out alexnet-cpu.json
python -m launch plan stanza --model alexnet --cluster my.toml --profile alexnet-cpu.json

The profile of a model of one's own, such as `--model nets/net.py:Net`, is called `net.py:Net`: a
plan accepts it for that model, in whatever folder it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stanza.system.plan_command import NAMED_HERE, ModelArguments
from stanza.system.planning import measure_profile
from systems.flags import named_as_given, parse_flags
from systems.profiles.profile import save_measured
from systems.runs.record import check_new_file
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class ProfileArguments(ModelArguments):
    """Measure the layers of a model."""

    batch_size: int | None = None
    """The samples in a batch. None takes the batch size of the model."""
    out: str = "profile.json"
    """A new JSON file for the profile."""


def main(arguments: Sequence[str]) -> None:
    """Measure, print a summary, write the file."""
    flags = parse_flags(ProfileArguments, arguments, "testbed profile stanza", ProfileArguments())
    path = Path(flags.out)
    check_new_file(path)
    if flags.batch_size is not None and flags.batch_size < 1:
        raise InputError(f"--batch-size {flags.batch_size}: give 1 or more")
    with named_as_given(NAMED_HERE):
        measured = measure_profile(flags.options(), flags.batch_size)
    save_measured(measured, path, "stanza")
