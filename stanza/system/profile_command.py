"""`testbed profile stanza`: measure every layer of a model on this machine, write it as JSON.

python -m launch profile stanza --model alexnet --batch-size 16 --out alexnet-cpu.json
python -m launch plan stanza --model alexnet --cluster my.toml --profile alexnet-cpu.json

The profile of a model of one's own, such as `--model nets/net.py:Net`, is called `net.py:Net`: a
plan accepts it for that model, in whatever folder it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stanza.system.measuring import measure_profile
from stanza.system.plan_command import NAMED_HERE, ModelArguments
from systems.flags import named_as_given, parse_flags, refuse_below_one
from systems.profiles.profile import save_measured
from systems.runs.record import check_new_file
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class ProfileArguments(ModelArguments):
    """Measure the layers of a model."""

    batch_size: int | None = None
    """The samples in a batch. None takes the batch size of the model."""
    threads: int | None = None
    """The threads to compute with on a CPU. A rank of `testbed run` has its share of the cores,
    such as 1 of 2 ranks on 2 cores. None takes what torch takes: OMP_NUM_THREADS, or all cores."""
    out: str = "profile.json"
    """A new JSON file for the profile."""


def main(arguments: Sequence[str]) -> None:
    """Measure, print a summary, write the file."""
    flags = parse_flags(ProfileArguments, arguments, "testbed profile stanza", ProfileArguments())
    path = Path(flags.out)
    check_new_file(path)
    if flags.batch_size is not None and flags.batch_size < 1:
        raise InputError(f"--batch-size {flags.batch_size}: give 1 or more")
    if flags.threads is not None:
        refuse_below_one({"threads": [flags.threads]})
        import torch

        torch.set_num_threads(flags.threads)
    with named_as_given(NAMED_HERE):
        measured = measure_profile(flags.options(), flags.batch_size)
    save_measured(measured, path, "stanza")
