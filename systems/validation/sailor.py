"""Reads the measured jobs that Sailor's authors published (SOSP 2025; eth-easl/sailor, MIT).

    plans/**/*.json                              a plan with its measurements, in folders of any depth
    profiles/MODEL/GPU/mbs4_tmp2.json            layers at a micro-batch and a tensor parallelism
    models.json                                  bytes of parameters and activations of the layers
    network/network_coeffs_all_homo.json         rates between and inside machines

The jobs trained with DeepSpeed and Megatron in 32 bits with Adam, 2,048 tokens a sample.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.profiles.profile import LayerProfile, ModelProfile, with_fixed_parts
from systems.schema import InputError
from systems.validation.job import GroupProfile, Job, LeftOut, Measured, Replica, Stage
from systems.validation.rates import Fits, Network, RateFit

SOURCE = "Sailor's artifact (SOSP 2025), github.com/eth-easl/sailor at cf2c8e3"
FORWARD_SHARE = 1 / 3
"""Of the time of both passes, which the profiles give together: a backward pass computes the
gradients of inputs and of weights, each about as costly as the forward pass."""
NETWORK_FILE = "network_coeffs_all_homo.json"
WRONG_PLANS = {
    ("N3_D1", 59.45533): "its measurements are those of N6_D2: with one replica a stage there is "
    "nothing to reduce for 5.5 s"
}
"""Known errors of the public files, by the file's name and its measured time."""
WRONG_REDUCTIONS = {
    ("N4_D4", 1.06094): "its reduction is another plan's iteration time: not compared"
}
"""The same by the file's name and the measured reduction."""


class Skip(Exception):
    """A plan cannot be predicted; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where the files of the set are."""

    plans: Path
    profiles: Path
    models: Path | None
    network: Path


def find_folders(plans: Path, profiles: Path | None, network: Path | None) -> Folders:
    """Find profiles and network that belong to a folder of plans.

    They are those that the user names, those beside the plans or above them, or those of the set
    under $TESTBED_DATA.

    Raises:
        InputError: a folder is not there.
    """
    if not plans.is_dir():
        raise InputError(f"--plans {plans}: no such folder; give a folder with plans as JSON")
    shared = os.environ.get("TESTBED_DATA")
    above = [plans.resolve(), *plans.resolve().parents][:5]
    places = [*above, *([Path(shared) / "sailor"] if shared else [])]
    found = profiles or _first(places, "profiles")
    if found is None or not any(found.rglob("mbs*_tmp*.json")):
        raise InputError(
            f"--profiles {profiles or '(none)'}: no profiles such as OPT-350/GH-96/mbs1_tmp4.json "
            f"there{'' if profiles else f', and none beside {plans}'}; name their folder"
        )
    rates = network or _first(places, "network")
    if rates is not None and rates.is_dir():
        rates = next(iter(sorted(rates.rglob(NETWORK_FILE))), None)
    if rates is None or not rates.is_file():
        raise InputError(
            f"--network {network or '(none)'}: no {NETWORK_FILE} there"
            f"{'' if network else f', and none beside {plans}'}; name its folder"
        )
    models = _first(
        [found, found.parent, rates.parent, rates.parent.parent, *places], "models.json"
    )
    return Folders(plans=plans, profiles=found, models=models, network=rates)


def _first(places: list[Path], name: str) -> Path | None:
    """The first file or folder of that name in the places."""
    return next((place / name for place in places if (place / name).exists()), None)


def read_jobs(folders: Folders) -> tuple[list[Job], list[LeftOut]]:
    """Read all plans of a folder; those that cannot be predicted are left out, with the reason.

    Raises:
        InputError: the network's file is broken, or the folder has no plan.
    """
    library = _Library(folders)
    jobs, left_out = [], []
    for path in sorted(folders.plans.rglob("*.json")):
        name = str(path.relative_to(folders.plans).with_suffix(""))
        try:
            table = _read(path)
            if isinstance(table, dict) and "pipeline_list" in table:
                jobs.append(library.job(name, table))
        except (Skip, InputError) as why:
            left_out.append(LeftOut(name=name, why=str(why)))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            told = f"not a plan in this format: {type(error).__name__} {error}"
            left_out.append(LeftOut(name=name, why=" ".join(told.split())))
    if not jobs and not left_out:
        raise InputError(
            f"--plans {folders.plans}: no plan in it; plans are JSON files that have "
            "a pipeline_list"
        )
    return _with_twins(jobs), left_out


def _with_twins(jobs: list[Job]) -> list[Job]:
    """The jobs, with a note on those whose measurements are another's as well."""
    by_measured: dict[Measured, list[str]] = {}
    for job in jobs:
        by_measured.setdefault(job.measured, []).append(job.name)
    return [
        replace(job, notes=(*job.notes, f"its measurements are also those of {', '.join(others)}"))
        if (others := [n for n in by_measured[job.measured] if n != job.name])
        else job
        for job in jobs
    ]


def _read(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise Skip(f"cannot be read as JSON: {error}") from None


class _Library:
    """The profiles and rates of the set, each file read once."""

    def __init__(self, folders: Folders) -> None:
        self._profiles = folders.profiles
        self._models = _read(folders.models) if folders.models else {}
        self._network = _network(folders.network)
        self._layers = _layers_of_models(folders.profiles)
        self._groups: dict[tuple[str, str, int, int], GroupProfile] = {}

    def job(self, name: str, table: Mapping[str, Any]) -> Job:
        """The job of a plan's file.

        Raises:
            Skip: it cannot be predicted.
        """
        stem = name.rpartition("/")[2]
        if (stem, table.get("real")) in WRONG_PLANS:
            raise Skip(WRONG_PLANS[stem, table["real"]])
        measured, notes = _measured(stem, table)
        plan = _plan(table)
        layers, corrected = _layer_counts(plan["layers_per_stage"])
        notes += corrected
        model = self._model(name, sum(layers))
        groups = [[_group(group) for group in stage] for stage in plan["tmp_per_stage"]]
        cluster, machines = _placed(groups, table.get("N"), self._network)
        stages, first = [], 0
        for count, members, places in zip(layers, groups, machines, strict=True):
            replicas = tuple(
                Replica(kind=kind, tensor_parallel=degree, machine=machine)
                for (kind, degree), machine in zip(members, places, strict=True)
            )
            stages.append(Stage(first=first, end=first + count, replicas=replicas))
            first += count
        kinds = sorted({kind for members in groups for kind, _ in members})
        pairs = {pair for members in groups for pair in members}
        micro = int(table["mbs"])
        if len(kinds) > 1 and measured.memory_bytes is not None and len(stages) > 1:
            measured = replace(measured, memory_of_last_stage=True)
        return Job(
            name=name,
            kind=_kind(kinds, micro),
            stages=tuple(stages),
            micro_batch=micro,
            micro_batches=-(-int(table["gbs"]) // (micro * len(groups[0]))),
            profiles={pair: self._group(model, *pair, micro) for pair in pairs},
            cluster=cluster,
            network=self._network,
            measured=measured,
            notes=tuple(notes),
        )

    def _model(self, name: str, layers: int) -> str:
        """The model of a plan: one of as many layers, whose name the plan's path may tell."""
        known = [model for model, count in self._layers.items() if count == layers]
        if not known:
            counts = ", ".join(f"{model} {count}" for model, count in self._layers.items())
            raise Skip(f"no profile of a model of {layers} layers; there are {counts}")
        parts = [part.lower() for part in name.split("/")[:-1]]
        named = [m for m in self._layers if any(m.lower().startswith(p) for p in parts if p)]
        if named and not set(named) & set(known):
            raise Skip(f"its folder says {named[0]}, its {layers} layers say {known[0]}")
        return next((model for model in known if model in named), known[0])

    def _group(self, model: str, kind: str, degree: int, micro: int) -> GroupProfile:
        """What a model costs a GPU of a group; see `GroupProfile`."""
        key = model, kind, degree, micro
        if key not in self._groups:
            self._groups[key] = self._read_group(*key)
        return self._groups[key]

    def _read_group(self, model: str, kind: str, degree: int, micro: int) -> GroupProfile:
        """Read a profile, and the next larger one for the part that does not grow."""
        sizes = {}
        for path in (self._profiles / model / kind).glob(f"mbs*_tmp{degree}.json"):
            sizes[int(path.stem.split("_")[0].removeprefix("mbs"))] = path
        if micro not in sizes:
            raise Skip(
                f"no profile of {model} on {kind} at micro-batch {micro} and tensor parallelism "
                f"{degree}"
            )
        table = _read(sizes[micro])
        details = self._models.get(model, {}).get(str(degree))
        profile = _profile(table, kind, micro, details, degree)
        larger = min((size for size in sizes if size > micro), default=None)
        if larger is not None:
            above = _profile(_read(sizes[larger]), kind, larger, details, degree)
            fixed = with_fixed_parts(above, profile).layers
            layers = tuple(
                replace(
                    layer,
                    fixed_forward_s=other.fixed_forward_s,
                    fixed_backward_s=other.fixed_backward_s,
                )
                for layer, other in zip(profile.layers, fixed, strict=True)
            )
            profile = replace(profile, layers=layers)
        numbers = [details[str(i)] for i in range(len(profile.layers))] if details else []
        return GroupProfile(
            profile=profile,
            update_s=table["execution_time"]["optimizer_time_ms"] / 1e3,
            parameters=tuple(layer["params_floats"] for layer in numbers),
            kept_bytes=tuple(layer["act_mem_bytes"] * micro for layer in numbers),
        )


def _layers_of_models(profiles: Path) -> dict[str, int]:
    """The number of layers of every model that has a profile."""
    files = {path.parent.parent: path for path in sorted(profiles.rglob("mbs*_tmp*.json"))}
    return {folder.name: _read(path)["model"]["num_layers"] for folder, path in files.items()}


def _profile(
    table: Mapping[str, Any], kind: str, micro: int, details: Mapping[str, Any] | None, degree: int
) -> ModelProfile:
    """A profile's file as our type."""
    parameters = table["model"]["parameters"]
    bytes_of = [
        details[str(i)]["params_bytes"] if details else size // degree
        for i, size in enumerate(parameters["parameters_per_layer_bytes"])
    ]
    both_s = [
        milliseconds / 1e3 for milliseconds in table["execution_time"]["layer_compute_total_ms"]
    ]
    outputs = parameters["activation_parameters_bytes"]
    return ModelProfile(
        name=table["model"]["model_name"],
        device=kind,
        batch_size=micro,
        source=SOURCE,
        layers=tuple(
            LayerProfile(
                name=str(number),
                operation="",
                forward_s=seconds * FORWARD_SHARE,
                backward_s=seconds * (1 - FORWARD_SHARE),
                activation_bytes=output,
                parameter_bytes=size,
            )
            for number, (seconds, output, size) in enumerate(
                zip(both_s, outputs, bytes_of, strict=True)
            )
        ),
    )


def _network(path: Path) -> Network:
    """The rates of a network's file.

    Raises:
        InputError: it does not hold them.
    """
    try:
        table = json.loads(path.read_text())
        return Network(between=_fits(table["inter"]), inside=_fits(table["intra"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"{type(error).__name__} {error}"
        raise InputError(f"--network {path}: holds no rates in Sailor's format: {told}") from None


def _fits(table: Mapping[str, Any]) -> Fits:
    """Rates by kind of GPU and number of GPUs."""
    return {
        kind: {
            int(count): RateFit(quadratic=tuple(quadratic), peak_bytes_per_s=peak)
            for count, (quadratic, peak) in counts.items()
        }
        for kind, counts in table.items()
    }


def _measured(stem: str, table: Mapping[str, Any]) -> tuple[Measured, list[str]]:
    """The measurements of a plan, and notes on those that are not compared."""
    seconds, reduction_s, memory = (table.get(key) for key in ("real", "red_grads", "max_mem"))
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        raise Skip(f"real = {seconds!r}: no measured seconds of an iteration")
    notes = []
    if (stem, reduction_s) in WRONG_REDUCTIONS:
        notes.append(WRONG_REDUCTIONS[stem, reduction_s])
        reduction_s = None
    return (
        Measured(iteration_s=seconds, reduction_s=reduction_s or None, memory_bytes=memory or None),
        notes,
    )


def _plan(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The pipeline of a plan that we can predict."""
    pipelines = table["pipeline_list"]
    if len(pipelines) != 1:
        raise Skip(f"{len(pipelines)} pipelines side by side; one is predicted")
    plan: Mapping[str, Any] = pipelines[0]
    counts = {len(stage) for stage in plan["tmp_per_stage"]}
    if len(counts) != 1 or 0 in counts:
        raise Skip("its stages have different numbers of replicas; equal ones are predicted")
    if len(plan["tmp_per_stage"]) != len(plan["layers_per_stage"]):
        raise Skip("its lists of layers and of GPUs have different numbers of stages")
    return plan


def _layer_counts(stages: list[list[int]]) -> tuple[list[int], list[str]]:
    """How many layers each stage has, and notes on layer numbers that cannot be."""
    given = [layer for stage in stages for layer in stage]
    wrong = [f"{n} for {i}" for i, n in enumerate(given) if n != i]
    if len(wrong) > 1 or not all(stages):
        raise Skip(f"its layers are not consecutive: {', '.join(wrong[:3]) or 'an empty stage'}")
    return [len(stage) for stage in stages], [f"layer list says {wrong[0]}"] if wrong else []


def _group(group: Any) -> tuple[str, int]:
    """A replica: the kind of its GPUs, and how many divide its layers."""
    machines, degree = group
    if len(machines) != 1 or machines[0][1] < degree:
        raise Skip("tensor parallelism over several machines, which no profile shows")
    return machines[0][0], int(degree)


def _kind(kinds: list[str], micro: int) -> str:
    """The kind of a plan in tables of errors."""
    if len(kinds) > 1:
        return f"mixed {' '.join(kinds)}" if len(kinds) < 2 else "mixed GPUs"
    return f"{kinds[0]}, micro-batch {'1' if micro == 1 else '>= 2'}"


def _placed(
    groups: list[list[tuple[str, int]]], machines: Any, network: Network
) -> tuple[Cluster, Iterator[list[int]]]:
    """Place the replicas on machines, in the order of their ranks.

    A rank's place follows from stage, then replica, then part of a layer. Machines have as many
    GPUs as the plan's number of machines asks for, all of one kind.

    Returns:
        (the cluster, the machine of every replica by stage).
    """
    flat = [group for stage in groups for group in stage]
    total = sum(degree for _, degree in flat)
    count = machines if isinstance(machines, int) and machines > 0 else len(flat)
    room = max(-(-total // count), max(degree for _, degree in flat))
    nodes: list[Node] = []
    places, left = [], 0
    for kind, degree in flat:
        if not nodes or nodes[-1].devices[0].kind != kind or left < degree:
            nodes.append(_node(len(nodes), kind, room, network))
            left = room
        left -= degree
        places.append(len(nodes) - 1)
    ends = iter(places)
    return (
        Cluster(name=f"{len(nodes)} machines", source=SOURCE, nodes=tuple(nodes)),
        ([next(ends) for _ in stage] for stage in groups),
    )


def _node(number: int, kind: str, gpus: int, network: Network) -> Node:
    """A machine, with the highest rates that were measured of its kind."""

    def link(fits: Fits) -> Link | None:
        known = fits.get(kind)
        return known and Link(
            bandwidth_bits_per_s=max(fit.peak_bytes_per_s for fit in known.values()) * 8
        )

    outside = link(network.between)
    if outside is None:
        raise Skip(f"no network rate of {kind} was measured")
    device = Device(kind=kind, count=gpus)
    inside = link(network.inside)
    return Node(name=f"machine {number}", devices=(device,), link=outside, device_link=inside)
