"""`launch profile`: measure every layer of a model on this machine, write it as JSON.

python -m launch profile stanza --model alexnet --batch-size 16 --out alexnet-cpu.json
python -m launch plan stanza --model alexnet --cluster my.toml --profile alexnet-cpu.json

python -m launch profile sparsepipe --model minkvgg16-bn --voxel-size 0.02 --batch-size 128
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from launch import job as jobs
from launch.planning import measure_profile
from sparsepipe import clouds
from sparsepipe.models import NETWORKS
from sparsepipe.network import Network
from sparsepipe.profiling import mini_batch, profile_network
from sparsepipe.tensor import SparseTensor
from stanza.options import Options
from systems import profile
from systems.record import check_new_file
from systems.schema import InputError, remedy


@dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """Measure a model's layers."""

    model: str = "digits-cnn"
    """alexnet, vgg16, resnet50, resnet152, inception-v3 or digits-cnn."""
    batch_size: int | None = None
    """Samples; None: the model's own."""
    out: str = "profile.json"
    """Where the profile is written."""


def main(arguments: Sequence[str]) -> None:
    """Measure, print a summary, write the file."""
    flags = jobs.parse_flags(
        ProfileArguments, arguments, "launch profile stanza", ProfileArguments()
    )
    path = Path(flags.out)
    check_new_file(path)
    if flags.batch_size is not None and flags.batch_size < 1:
        raise InputError(f"--batch-size {flags.batch_size}: give 1 or more")
    measured = measure_profile(Options(model=flags.model), flags.batch_size)
    _save(measured, path, "stanza")


@dataclass(frozen=True, kw_only=True)
class SparseArguments:
    """Measure a sparse network's layers on a mini-batch of point clouds."""

    model: str = "minkvgg16-bn"
    """minkvgg16-bn, minkunet14, minkunet18 or minkunet34."""
    voxel_size: float = 0.02
    """Edge of a voxel; clouds are about 1 long."""
    batch_size: int = 128
    """Clouds."""
    data: str = "shapes"
    """Where the clouds come from, as --sparsepipe.data: shapes, or modelnet40:DIR and others."""
    repetitions: int = 5
    """Mini-batches that are timed, after one that is not."""
    out: str = "profile.json"
    """Where the profile is written."""


def main_sparsepipe(arguments: Sequence[str]) -> None:
    """Measure, print a summary, write the file."""
    flags = jobs.parse_flags(
        SparseArguments, arguments, "launch profile sparsepipe", SparseArguments()
    )
    path = Path(flags.out)
    check_new_file(path)
    if flags.model not in NETWORKS:
        raise InputError(f"--model {flags.model}: {remedy(flags.model, NETWORKS)}")
    for name, value in (("batch-size", flags.batch_size), ("repetitions", flags.repetitions)):
        if value < 1:
            raise InputError(f"--{name} {value}: give 1 or more")
    opened = clouds.load(flags.data)
    inputs = mini_batch(opened.train, flags.batch_size, flags.voxel_size)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    inputs = SparseTensor(
        inputs.features.to(device), inputs.coordinates.to(device), batch_size=inputs.batch_size
    )
    print(f"measuring {flags.model} on {inputs}, on {device}", file=sys.stderr)
    model = NETWORKS[flags.model](inputs.channels, len(opened.class_names)).to(device)
    measured = profile_network(
        Network(model),
        inputs,
        name=flags.model,
        device_kind=torch.cuda.get_device_name() if on_gpu else "cpu",
        repetitions=flags.repetitions,
    )
    _save(measured, path, "sparsepipe")


def _save(measured: profile.ModelProfile, path: Path, system: str) -> None:
    profile.save(measured, path)
    print(
        f"profile {system} | tier measured | {measured.name}, batch {measured.batch_size} on "
        f"{measured.device}: forward {measured.forward_s * 1e3:.2f} ms, backward "
        f"{measured.backward_s * 1e3:.2f} ms, {len(measured.layers)} layers, "
        f"{measured.parameter_bytes / 1e6:.1f} MB of parameters\n  profile: {path}"
    )
