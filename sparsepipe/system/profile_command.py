"""`launch profile sparsepipe`: measure a sparse network's layers on this machine, as JSON.

python -m launch profile sparsepipe --model minkvgg16-bn --voxel-size 0.02 --batch-size 128
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsepipe.models import NETWORKS
from sparsepipe.runtime.network import Network
from sparsepipe.train.clouds import find_clouds
from sparsepipe.train.profiling import first_mini_batch, profile_network
from sparsepipe.train.workload import build_network
from systems import by_path
from systems.flags import named_as_given, parse_flags
from systems.profiles.profile import save_measured
from systems.profiles.steadiness import load_average, warn_if_doubtful
from systems.runs.record import check_new_file
from systems.schema import InputError, remedy


@dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """Measure a sparse network's layers on a mini-batch of point clouds."""

    model: str = "minkvgg16-bn"
    """The network: minkvgg16-bn, minkunet14, minkunet18 or minkunet34; or module:attribute or
    path/to/file.py:attribute, as in --sparsepipe.model."""
    width: float = 1.0
    """A factor on all channels of the network."""
    device_kind: str | None = None
    """What plans and clusters call this device. None: the name of the GPU, or cpu."""
    voxel_size: float = 0.02
    """The edge of a voxel. Clouds are about 1 long."""
    batch_size: int = 128
    """The clouds in a mini-batch."""
    data: str = "shapes"
    """Where the clouds come from, as in --sparsepipe.data: shapes, modelnet40:DIR, an import path
    and others."""
    repetitions: int = 5
    """How often a mini-batch is timed, after one pass that is not timed."""
    out: str = "profile.json"
    """A new JSON file for the profile."""


def main(arguments: Sequence[str]) -> None:
    """Measure, print a summary, write the file."""
    flags = parse_flags(
        ProfileArguments, arguments, "launch profile sparsepipe", ProfileArguments()
    )
    path = Path(flags.out)
    check_new_file(path)
    if flags.model not in NETWORKS and not by_path.is_path(flags.model):
        known = remedy(flags.model, NETWORKS)
        raise InputError(f"--model {flags.model}: {known}, or give module:attribute")
    if flags.device_kind is not None and not re.fullmatch(r"[^\s,=]+", flags.device_kind):
        raise InputError(f"--device-kind {flags.device_kind!r}: give a name without , = and spaces")
    for name, value in (("batch-size", flags.batch_size), ("repetitions", flags.repetitions)):
        if value < 1:
            raise InputError(f"--{name} {value}: give 1 or more")
    for name, size in (("voxel-size", flags.voxel_size), ("width", flags.width)):
        if not 0 < size < float("inf"):
            raise InputError(f"--{name} {size:g}: give more than 0")
    with named_as_given({"sparsepipe.data": "data"}):
        opened = find_clouds(flags.data)
    inputs = first_mini_batch(opened.train, flags.batch_size, flags.voxel_size)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    inputs = inputs.to(device)
    print(f"measuring {flags.model} on {inputs}, on {device}", file=sys.stderr)
    with named_as_given({"sparsepipe.model": "model"}):
        classes = len(opened.class_names)
        model = build_network(flags.model, inputs.channels, classes, flags.width).to(device)
    here = torch.cuda.get_device_name() if on_gpu else "cpu"
    load = load_average()
    measured = profile_network(
        Network(model),
        inputs,
        name=by_path.short(flags.model),
        device_kind=flags.device_kind or here,
        repetitions=flags.repetitions,
    )
    warn_if_doubtful(measured, load)
    save_measured(measured, path, "sparsepipe")
