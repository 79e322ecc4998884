"""`launch profile sparsepipe`: measure a sparse network's layers on this machine, as JSON.

python -m launch profile sparsepipe --model minkvgg16-bn --voxel-size 0.02 --batch-size 128
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from launch import job as jobs
from launch.records import save_profile
from sparsepipe.data import load as clouds
from sparsepipe.models import NETWORKS
from sparsepipe.runtime.network import Network
from sparsepipe.train.profiling import first_mini_batch, profile_network
from systems.runs.record import check_new_file
from systems.schema import InputError, remedy


@dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """Measure a sparse network's layers on a mini-batch of point clouds."""

    model: str = "minkvgg16-bn"
    """The network: minkvgg16-bn, minkunet14, minkunet18 or minkunet34."""
    voxel_size: float = 0.02
    """The edge of a voxel. Clouds are about 1 long."""
    batch_size: int = 128
    """The clouds in a mini-batch."""
    data: str = "shapes"
    """Where the clouds come from, as in --sparsepipe.data: shapes, modelnet40:DIR and others."""
    repetitions: int = 5
    """How often a mini-batch is timed, after one pass that is not timed."""
    out: str = "profile.json"
    """A new JSON file for the profile."""


def main(arguments: Sequence[str]) -> None:
    """Measure, print a summary, write the file."""
    flags = jobs.parse_flags(
        ProfileArguments, arguments, "launch profile sparsepipe", ProfileArguments()
    )
    path = Path(flags.out)
    check_new_file(path)
    if flags.model not in NETWORKS:
        raise InputError(f"--model {flags.model}: {remedy(flags.model, NETWORKS)}")
    for name, value in (("batch-size", flags.batch_size), ("repetitions", flags.repetitions)):
        if value < 1:
            raise InputError(f"--{name} {value}: give 1 or more")
    if not 0 < flags.voxel_size < float("inf"):
        raise InputError(f"--voxel-size {flags.voxel_size:g}: give more than 0")
    with jobs.named_as_given({"sparsepipe.data": "data"}):
        opened = clouds.load(flags.data)
    inputs = first_mini_batch(opened.train, flags.batch_size, flags.voxel_size)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    inputs = inputs.to(device)
    print(f"measuring {flags.model} on {inputs}, on {device}", file=sys.stderr)
    model = NETWORKS[flags.model](inputs.channels, len(opened.class_names)).to(device)
    measured = profile_network(
        Network(model),
        inputs,
        name=flags.model,
        device_kind=torch.cuda.get_device_name() if on_gpu else "cpu",
        repetitions=flags.repetitions,
    )
    save_profile(measured, path, "sparsepipe")
