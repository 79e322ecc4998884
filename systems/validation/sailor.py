"""Reads the measured jobs that Sailor's authors published (SOSP 2025; eth-easl/sailor, MIT).

    plans/**/*.json                        plans with their measurements, in folders of any depth
    profiles/MODEL/GPU/mbs4_tmp2.json      layers at a micro-batch and a tensor parallelism
    models.json                            parameters and activations of the layers
    network/network_coeffs_all_homo.json   rates between and inside machines

The jobs trained with DeepSpeed and Megatron, in 32 bits, with Adam. Their log of times is that of
rank 0, so the reduction is the first stage's. On the mixed cluster the memory that is given agrees
with GPUs of the last stage, whose machine may be the only one that kept its log; elsewhere it is
that of the fullest GPU.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from systems.schema import InputError
from systems.validation.job import MIXED, Group, GroupProfile, LeftOut, Measured, MeasuredJob, Stage
from systems.validation.placement import place
from systems.validation.sailor_costs import (
    SOURCE as SOURCE,
    layers_of_models,
    read_group,
    read_json,
    read_network,
)
from systems.validation.times import stage_times

NETWORK_FILE = "network_coeffs_all_homo.json"
WRONG_PLANS = {
    ("N3_D1", 59.45533): "its measurements are those of N6_D2: with one replica a stage there is "
    "nothing to reduce for 5.5 s",
    ("N4_D4", 1.06094): "it is a plan of OPT-350 among those of GPT-Neo, with a wrong time",
}
"""Known errors of the public files, by a file's name and measured time."""
WRONG_REDUCTIONS: Mapping[tuple[str, float | None], str] = {
    ("N4_D4", 1.06094): "its reduction is another plan's iteration time: not compared"
}
"""The same by a file's name and measured reduction."""
LEVELS_ABOVE = 4
"""How many folders above the plans are searched for what belongs to them."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where the files of the set are."""

    plans: Path
    profiles: Path
    models: Path | None
    """models.json; None: memory is not predicted."""
    network: Path


def find_folders(plans: Path, profiles: Path | None, network: Path | None) -> Folders:
    """Find profiles and network rates that belong to a folder of plans.

    They are those that the user names, those beside the plans or above them, or those in
    $TESTBED_DATA/sailor.

    Raises:
        InputError: a folder is not there.
    """
    if not plans.is_dir():
        raise InputError(f"--plans {plans}: no such folder; give a folder with plans as JSON")
    here = plans.resolve()
    places = [here, *here.parents][: LEVELS_ABOVE + 1]
    if "TESTBED_DATA" in os.environ:
        places.append(Path(os.environ["TESTBED_DATA"]) / "sailor")
    costs = profiles or _first(places, "profiles")
    if costs is None or not any(costs.rglob("mbs*_tmp*.json")):
        raise InputError(
            f"--profiles {costs or '(none)'}: no profiles there such as "
            f"OPT-350/GH-96/mbs1_tmp4.json; name the folder of those that belong to {plans}"
        )
    rates = network or _first(places, "network")
    if rates is not None and rates.is_dir():
        rates = min(rates.rglob(NETWORK_FILE), default=rates)
    if rates is None or not rates.is_file():
        raise InputError(
            f"--network {rates or '(none)'}: no {NETWORK_FILE} there; name the file of the rates "
            f"that belong to {plans}"
        )
    models = _first(
        [costs, costs.parent, rates.parent, rates.parent.parent, *places], "models.json"
    )
    return Folders(plans=plans, profiles=costs, models=models, network=rates)


def _first(places: Sequence[Path], name: str) -> Path | None:
    """The first file or folder of that name in the places."""
    return next((place / name for place in places if (place / name).exists()), None)


def read_jobs(folders: Folders) -> tuple[list[MeasuredJob], list[LeftOut]]:
    """Read all plans of a folder; those that cannot be predicted are left out, with the reason.

    Raises:
        InputError: the rates or the sizes of the layers cannot be read, or there is no plan.
    """
    library = _Library(folders)
    jobs: list[MeasuredJob] = []
    left_out: list[LeftOut] = []
    for path in sorted(folders.plans.rglob("*.json")):
        name = str(path.relative_to(folders.plans).with_suffix(""))
        try:
            table = read_json(path)
            if isinstance(table, dict) and "pipeline_list" in table:
                jobs.append(library.job(name, table))
        except InputError as why:
            left_out.append(LeftOut(name=name, why=str(why)))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())
            left_out.append(LeftOut(name=name, why=f"not a plan in this format: {reason}"))
    if not jobs and not left_out:
        raise InputError(
            f"--plans {folders.plans}: no plan in it; plans are JSON files with a pipeline_list"
        )
    return [_with_twins(job, jobs) for job in jobs], left_out


def _with_twins(job: MeasuredJob, jobs: Sequence[MeasuredJob]) -> MeasuredJob:
    """The job, with a note if its measurements are another's as well."""
    others = [one.name for one in jobs if one is not job and one.measured == job.measured]
    note = f"its measurements are also those of {', '.join(others)}: at most one can be right"
    return replace(job, notes=(*job.notes, note)) if others else job


class _Library:
    """The profiles and rates of the set, each file read once."""

    def __init__(self, folders: Folders) -> None:
        self._profiles = {
            path.parent.parent.name: path.parent.parent
            for path in sorted(folders.profiles.rglob("mbs*_tmp*.json"))
        }
        self._models = read_json(folders.models) if folders.models else {}
        self._network = read_network(folders.network)
        self._layers = layers_of_models(folders.profiles)
        self._groups: dict[tuple[str, Group, int], GroupProfile] = {}

    def job(self, name: str, table: Mapping[str, Any]) -> MeasuredJob:
        """Make the job that the file of a plan describes.

        Raises:
            InputError: it cannot be predicted.
        """
        measured, notes = _measured(name.rpartition("/")[2], table)
        plan = _plan(table)
        counts, corrected = _layer_counts(plan["layers_per_stage"])
        model = self._model(name, sum(counts))
        groups = [[_group(entry) for entry in stage] for stage in plan["tmp_per_stage"]]
        gpus = _gpus_of_a_machine(plan, table.get("N"))
        cluster, replicas = place(groups, gpus, self._network, SOURCE)
        ends = [sum(counts[: number + 1]) for number in range(len(counts))]
        micro = int(table["mbs"])
        mixed = len(cluster.kinds) > 1
        job = MeasuredJob(
            name=name,
            kind=_kind(cluster.kinds, micro),
            stages=tuple(
                Stage(first=end - count, end=end, replicas=members)
                for count, end, members in zip(counts, ends, replicas, strict=True)
            ),
            micro_batch=micro,
            micro_batches=-(-int(table["gbs"]) // (micro * len(groups[0]))),
            profiles={g: self._group(model, g, micro) for stage in groups for g in stage},
            cluster=cluster,
            network=self._network,
            measured=replace(measured, memory_of_last_stage=mixed),
            notes=(*notes, *corrected),
        )
        stage_times(job)  # which tells whether a rate is missing
        return job

    def _model(self, name: str, layers: int) -> str:
        """The model of a plan: one of as many layers, whose name the plan's path may tell."""
        known = [model for model, count in self._layers.items() if count == layers]
        if not known:
            counts = ", ".join(f"{model} {count}" for model, count in self._layers.items())
            raise InputError(f"no profile of a model of {layers} layers; there are {counts}")
        parts = [part.lower() for part in name.split("/")[:-1] if len(part) > 2]
        named = [m for m in self._layers if any(m.lower().startswith(part) for part in parts)]
        if named and not set(named) & set(known):
            raise InputError(f"its folder says {named[0]}, its {layers} layers say {known[0]}")
        return next((model for model in known if model in named), known[0])

    def _group(self, model: str, group: Group, micro: int) -> GroupProfile:
        """Find what a model costs a GPU of a group; see `GroupProfile`."""
        key = model, group, micro
        if key not in self._groups:
            details = self._models.get(model, {}).get(str(group.degree))
            self._groups[key] = read_group(self._profiles[model], group, micro, details)
        return self._groups[key]


def _measured(stem: str, table: Mapping[str, Any]) -> tuple[Measured, list[str]]:
    """The measurements of a plan, and notes on those that are not compared."""
    seconds, reduction_s, memory = (table.get(key) for key in ("real", "red_grads", "max_mem"))
    if not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise InputError(f"real = {seconds!r}: no measured seconds of an iteration")
    if (stem, seconds) in WRONG_PLANS:
        raise InputError(WRONG_PLANS[stem, seconds])
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
        raise InputError(f"{len(pipelines)} pipelines side by side; one is predicted")
    plan: Mapping[str, Any] = pipelines[0]
    counts = {len(stage) for stage in plan["tmp_per_stage"]}
    if len(counts) != 1 or 0 in counts:
        raise InputError("its stages have different numbers of replicas; equal ones are predicted")
    if len(plan["tmp_per_stage"]) != len(plan["layers_per_stage"]):
        raise InputError("its lists of layers and of GPUs have different numbers of stages")
    return plan


def _layer_counts(stages: Sequence[Sequence[int]]) -> tuple[list[int], list[str]]:
    """Count the layers of each stage; returns the numbers, and a note on a layer number that cannot
    be."""
    layers = [layer for stage in stages for layer in stage]
    wrong = [f"{number} for {place}" for place, number in enumerate(layers) if number != place]
    if len(wrong) > 1 or not all(stages):
        problem = ", ".join(wrong[:3]) or "a stage has none"
        raise InputError(f"its layers are not consecutive: {problem}")
    return [len(stage) for stage in stages], [f"its layer list says {one}" for one in wrong]


def _group(entry: Any) -> Group:
    """A replica's GPUs."""
    machines, degree = entry
    if len(machines) != 1 or machines[0][1] < degree:
        raise InputError("tensor parallelism over several machines, which no profile shows")
    return Group(kind=machines[0][0], degree=int(degree))


def _gpus_of_a_machine(plan: Mapping[str, Any], machines: Any) -> int:
    """Count the GPUs of each machine: all GPUs over the number of machines, where it is given."""
    entries = [entry for stage in plan["tmp_per_stage"] for entry in stage]
    if isinstance(machines, int) and machines > 0:
        return -(-sum(int(degree) for _, degree in entries) // machines)
    return max(int(machine[1]) for machines_of_one, _ in entries for machine in machines_of_one)


def _kind(kinds: Sequence[str], micro: int) -> str:
    """The kind of a plan in tables of errors."""
    if len(kinds) > 1:
        return MIXED
    return f"{kinds[0]}, micro-batch {'1' if micro == 1 else '2+'}"
