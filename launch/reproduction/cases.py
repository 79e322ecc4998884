"""Runs the cases of an experiment, and skips those whose results are there already.

Cases of one world start once and follow each other, alternating within a repetition, so that
whatever else the machine does falls on all of them alike.
"""

import shutil
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from launch import job as jobs
from launch.commands.emulate import EmulatedJob, prepare_emulated, run_emulated
from launch.commands.shape import measure_shaped, prepare_shaped, profiled_alike, run_shaped
from launch.installed import system, system_of
from launch.launchers.start import run_ranks
from launch.progress.progress import shown
from launch.records import create_record, emulated_rates, read_result, shape_of_record
from systems import disk
from systems.clusters import cluster
from systems.clusters.shape import shape_of
from systems.figures.experiment import Case, Experiment, Results
from systems.job import J, Job
from systems.network.namespaces import unavailable
from systems.runs.shaped import Measured

W = TypeVar("W", bound=Hashable)
"""What tells the worlds apart in which runs follow each other."""


@dataclass(frozen=True)
class _Run:
    """One repetition of a case; repetition and seed are one number."""

    case: Case
    repetition: int
    folder: Path


def _runs(cases: Sequence[Case], repeats: int, records: Path) -> list[_Run]:
    return [
        _Run(case, repetition, records / f"{_slug(case.name)}-{repetition}")
        for repetition in range(repeats)
        for case in cases
        if case.repeats is None or repetition < case.repeats
    ]


def _slug(name: str) -> str:
    return name.replace(" ", "-").replace("=", "")


def run_measured_cases(
    experiment: Experiment,
    cases: Sequence[Case],
    repeats: int,
    records: Path,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Results:
    """Run cases on this machine's ranks, those of one world size in one world, planned with what is
    measured just before. All compute on one kind of device.

    Raises:
        SystemExit: a rank failed; what was done before stays.
    """
    runs = _runs(cases, repeats, records)
    worlds: dict[int, list[Job]] = {}
    for run in _unfinished(runs):
        job = replace(_measured_job(experiment, run), device=device)
        worlds.setdefault(job.world_size, []).append(job)
    for _, alike in sorted(worlds.items()):
        planning = system_of(alike[0]).planning
        for job, plan in zip(alike, planning.plans(alike), strict=True):
            create_record(planning.resolved(job, plan), plan)
        folders = [Path(str(job.out)) for job in alike]
        with shown(folders):
            code = run_ranks(alike[0], folders)
        _check(experiment, code)
    return _results(runs)


def _measured_job(experiment: Experiment, run: _Run) -> Job:
    return system(experiment.system).job(
        run.case.options,
        name=f"{experiment.id} {run.case.name}, repetition {run.repetition}",
        world_size=run.case.nodes or experiment.world_size,
        seed=run.repetition,
        out=str(run.folder),
    )


def run_emulated_cases(
    experiment: Experiment, cases: Sequence[Case], repeats: int, records: Path
) -> Results:
    """Run cases on emulated clusters, those of one size and one emulated rate in one world.

    A case that the planner resolves to another one's very job is that one. No results where this
    machine can emulate nothing, or its links do not keep their rates.
    """
    reason = unavailable()
    if reason is not None:
        print(f"nothing is emulated here, the figures are simulated alone: {reason}", flush=True)
        return {}
    runs = _runs(cases, repeats, records)

    def prepare(run: _Run) -> None:
        job = _clustered_job(experiment, run, EmulatedJob)
        prepare_emulated(replace(job, cluster=_cluster_of(experiment, run, records)))

    worlds = _prepared(runs, prepare, emulated_rates)
    for rates, folders in sorted(worlds.items(), key=lambda world: len(world[0])):
        print(f"{len(folders)} runs on {len(rates)} emulated nodes", flush=True)
        if run_emulated(folders):
            print("the emulation failed, see above: the figures are simulated alone", flush=True)
            return {}
    return _results(runs)


def run_shaped_cases(
    experiment: Experiment, cases: Sequence[Case], repeats: int, records: Path
) -> Results:
    """Train cases for real on shaped clusters, those of one cluster in one world. Its links, its
    ranks and the layers are measured just before, once for all cases that they are the same for.

    A case that the planner resolves to another one's very job is that one. No results where this
    machine can shape nothing.

    Raises:
        SystemExit: a rank failed; what was done before stays.
    """
    reason = unavailable()
    if reason is not None:
        print(f"nothing is shaped here, and this experiment is left out: {reason}", flush=True)
        return {}
    runs, measured = _runs(cases, repeats, records), dict[Hashable, Measured]()

    def prepare(run: _Run) -> None:
        job = _clustered_job(experiment, run, Job)
        shape = shape_of(_cluster_of(experiment, run, records), job.world_size)
        alike = profiled_alike(job, shape)
        if alike not in measured:
            measured[alike] = measure_shaped(job, shape)
        prepare_shaped(job, shape, measured[alike])

    groups: dict[str, list[_Run]] = {}
    for run in runs:
        groups.setdefault(_cluster_of(experiment, run, records), []).append(run)
    for group in groups.values():
        for shape, folders in _prepared(group, prepare, shape_of_record).items():
            print(f"{len(folders)} runs on a shaped cluster: {shape}", flush=True)
            _check(experiment, run_shaped(folders))
    results = _results([run for group in groups.values() for run in group])
    return {case.name: results[case.name] for case in cases}


def _prepared(
    runs: list[_Run], prepare: Callable[[_Run], None], world_of: Callable[[Path], W]
) -> dict[W, list[Path]]:
    """Prepare the runs that have no results, and sort their records by the world that they need.

    A run whose job is that of an earlier one takes its record, in `runs` too.
    """
    done = {run.folder for run in runs} - {run.folder for run in _unfinished(runs)}
    worlds: dict[W, list[Path]] = {}
    same: dict[Any, Path] = {}
    for index, run in enumerate(runs):
        if run.folder not in done:
            prepare(run)
        job = replace(jobs.load_job(run.folder / "job.toml"), name="", out=None)
        world = world_of(run.folder)
        first = same.setdefault((job, world), run.folder)
        if first != run.folder:
            shutil.rmtree(run.folder)
            runs[index] = replace(run, folder=first)
        elif run.folder not in done:
            worlds.setdefault(world, []).append(run.folder)
    return worlds


def _cluster_of(experiment: Experiment, run: _Run, records: Path) -> str:
    """The cluster of a run, as `--cluster` names it."""
    if run.case.cluster is None:
        return experiment.cluster
    path = records / "clusters" / f"{run.case.cluster.name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, cluster.to_toml(run.case.cluster))
    return str(path)


def _clustered_job(experiment: Experiment, run: _Run, base: type[J]) -> J:
    """The job of a run on a cluster, which is still to be named."""
    return system(experiment.system).command_job(
        base,
        run.case.options,
        name=run.case.name,
        world_size=run.case.nodes or experiment.world_size,
        seed=run.repetition,
        out=str(run.folder),
        trace=run.case.trace,
    )


def _unfinished(runs: Sequence[_Run]) -> list[_Run]:
    """The runs without results; what an interruption left of them is removed."""
    todo = [run for run in runs if not (run.folder / "result.json").is_file()]
    for run in todo:
        shutil.rmtree(run.folder, ignore_errors=True)
    if 0 < len(todo) < len(runs):
        print(f"{len(runs) - len(todo)} of {len(runs)} runs are done already", flush=True)
    return todo


def _results(runs: Sequence[_Run]) -> Results:
    results: dict[str, list[Mapping[str, object]]] = {}
    for run in runs:
        result = {**read_result(run.folder), "record": str(run.folder)}
        results.setdefault(run.case.name, []).append(result)
    return results


def _check(experiment: Experiment, code: int) -> None:
    if code:
        print(
            f"error: {experiment.id}: the ranks ended with code {code}, see above", file=sys.stderr
        )
        raise SystemExit(1)
