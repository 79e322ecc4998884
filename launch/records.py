"""Makes the record folder of a run, and reads it back. `systems.runs.record` lists its files."""

import dataclasses
import itertools
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from launch import job as jobs, planning
from launch.installed import system_of
from systems import by_path, disk, schema
from systems.clusters import cluster
from systems.clusters.shape import Shape
from systems.environment import Environment
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.runs import provenance, record
from systems.runs.manifest import FINAL, FOLDER as CHECKPOINTS, newest_name
from systems.runs.record import Tier
from systems.runs.shaped import Shaped
from systems.schema import InputError

RUNS = Path("runs")
"""Where records go whose job names no folder."""
SHAPE = "shape.toml"
"""The file in the record of a shaped run that holds its cluster, as `--shape` takes it."""


def create_record(
    job: Job,
    plan: Any,
    tier: Tier = "measured",
    emulation: Emulation | None = None,
    run_id: str = "",
    shaped: Shaped | None = None,
) -> Path:
    """Make the folder and write what is known before the first step; returns the folder.

    Args:
        emulation: how the cluster is emulated; None for other runs.
        run_id: the name that torchrun gives a run, which all attempts at it share.
        shaped: what is known of the shaped cluster; None for other runs.

    Raises:
        InputError: `--out` names a folder that holds files already.
    """
    folder = _claimed(job)
    code = system_of(job).code_named(job.options)
    trust = " --trust" if tier == "measured" and code else ""
    digests = by_path.digests(code)
    run = {
        "command": shlex.join(record.command_line()),
        "again": again(folder, tier, emulation, shaped) + trust,
        "tier": tier,
        **({"launcher": job.launcher} if tier == "measured" else {}),
        **({"emulation": schema.dump(emulation)} if emulation else {}),
        **({"shaped": schema.dump(shaped)} if shaped else {}),
        "system": job.system,
        **({"own_code_sha256": digests} if digests else {}),
        "run_id": run_id,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "plan": schema.dump(plan),
        "environment": provenance.environment(),
    }
    if (folder / "run.json").is_file():
        _go_on(folder, job, plan)
    else:
        record.write_json(folder / "run.json", run)
        _save_job(job, folder)
        if shaped is not None:
            disk.write_text(folder / SHAPE, cluster.to_toml(shaped.shape.cluster))
    return folder


def _save_job(job: Job, folder: Path) -> None:
    """Write the job of a record, without the folder of that record: whoever runs the file again
    makes a new one."""
    jobs.save_job(dataclasses.replace(job, out=None), folder / "job.toml")


def _claimed(job: Job) -> Path:
    """Take a folder for this run alone, even if another run starts at the same moment."""
    if job.out is None:
        return _fresh_folder(job.name)
    folder = Path(job.out)
    claim_record(job, folder)
    if not (folder / "run.json").is_file():
        try:
            (folder / "job.toml").touch(exist_ok=False)
        except FileExistsError:
            raise InputError(
                f"--out {folder}: another run has taken it just now; give a folder of its own"
            ) from None
    return folder


def claim_record(job: Job, folder: Path) -> None:
    """Take a folder for the record of a job: a new one, or one that a run of the job has left when
    it was cut short, if there are checkpoints to go on from.

    Raises:
        InputError: the folder holds something else.
    """
    if not (job.resume == "auto" and _cut_short(folder) and (folder / CHECKPOINTS).is_dir()):
        record.claim_folder(folder)


@contextmanager
def claimed_until_refused(job: Job) -> Iterator[None]:
    """Take the folder that the job names, if it names one, before anything is measured; if the job
    is refused after all, a folder that was made for it goes."""
    folder = None if job.out is None else Path(job.out)
    is_new = folder is not None and not folder.exists()
    if folder is not None:
        claim_record(job, folder)
    try:
        yield
    except InputError:
        if folder is not None and is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def earlier_attempt(job: Job, plan: Any, place: Environment) -> Path | None:
    """The record that an earlier attempt at this run has left, if there is one. torchrun starts
    all ranks again after one was lost; the record then goes on, with the plan of this attempt."""
    first = place.attempt == "0"  # also where an agent has started anew because a node was lost
    if not place.run_id or (first and place.run_id == "none"):
        return None
    for folder in [Path(job.out)] if job.out else sorted(RUNS.glob("*"), reverse=True):
        if _is_run(folder, job, place.run_id) and (_cut_short(folder) or not first):
            _go_on(folder, job, plan)
            return folder
    return None


def _is_run(folder: Path, job: Job, run_id: str) -> bool:
    """Whether a folder is the record of a run of the job's system with this id."""
    if not (folder / "run.json").is_file():
        return False
    run = record.read_run(folder)
    return bool(run.get("run_id") == run_id and run["system"] == job.system)


def _cut_short(folder: Path) -> bool:
    """Whether a folder is the record of a run that has no result."""
    return (folder / "run.json").is_file() and not (folder / "result.json").exists()


def _go_on(folder: Path, job: Job, plan: Any) -> None:
    """Let a record go on, with this job and this plan; earlier plans are kept beside it."""
    run, planned = record.read_run(folder), schema.dump(plan)
    if run["plan"] != planned:
        run["earlier_plans"] = [*run.get("earlier_plans", []), run["plan"]]
        run["plan"] = planned
        record.write_json(folder / "run.json", run)
    _save_job(job, folder)


def again(
    folder: Path, tier: Tier, emulation: Emulation | None, shaped: Shaped | None = None
) -> str:
    """Return the command that repeats a run in its tier, in a new record."""
    job = shlex.quote(f"{folder}/job.toml")
    if shaped is not None:
        added = shaped.shape.impairments
        values = {
            "delay-s": added.delay_s,
            "jitter-s": added.jitter_s,
            "packet-loss": added.packet_loss,
        }
        words = [f"--{name} {value}" for name, value in values.items() if value]
        shape = shlex.quote(f"{folder}/{SHAPE}")
        return " ".join([f"python -m launch run {job} --shape {shape}", *words])
    if emulation is not None:
        flags = f"--scale {emulation.scale} --dilate {emulation.dilate}"
        return f"python -m launch emulate {job} {flags}"
    if tier == "simulated":
        return f"python -m launch simulate {job}"
    return f"python -m launch run --again {shlex.quote(str(folder))}"


def _fresh_folder(name: str) -> Path:
    """Make a new folder, named after the time and the job. If it exists already, it belongs to a
    run that started in the same second, and a number is added."""
    try:
        RUNS.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{RUNS}: {error.strerror}; give another --out") from None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count())):
        folder = RUNS / f"{stamp}-{name}{suffix}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}; give another --out") from None
        return folder
    raise AssertionError("numbers do not end")


def what_is_kept(folder: Path) -> str:
    """Say what is in the record of a run that can write no more, and how to go on from there."""
    checkpoint = newest_name(folder / CHECKPOINTS)
    if checkpoint is None:
        return f"kept: the steps so far in {folder / 'steps'}; make room and run it again"
    if checkpoint == FINAL:
        return (
            f"kept: the trained model in {folder / CHECKPOINTS / FINAL} and all steps in "
            f"{folder / 'steps'}; make room and run it again for its summary"
        )
    return (
        f"kept: the checkpoint {checkpoint} and the steps so far in {folder / 'steps'}; make room "
        f"and go on with: testbed run --again {folder} --resume {folder}"
    )


def read_job_and_plan(folder: Path) -> tuple[Job, Any]:
    """The job of a record, and its plan."""
    job = jobs.load_job(folder / "job.toml")
    table = record.read_run(folder)["plan"]
    return job, planning.read_plan(job, table, str(folder))


def name_of(rank: int, folders: Sequence[Path]) -> str:
    """A rank with its role, such as "rank 2 (worker)", in the record that is being written."""
    job, plan = read_job_and_plan(unfinished(folders))
    return f"rank {rank} ({planning.roles(job, plan)[rank]})"


def unfinished(folders: Sequence[Path]) -> Path:
    """The record that is being written, of runs that follow each other: the first without a
    result."""
    return next((folder for folder in folders if _cut_short(folder)), folders[-1])


def read_emulation(folder: Path) -> Emulation | None:
    """Read how the cluster of an emulated run is emulated; None for other runs."""
    table = record.read_run(folder).get("emulation")
    return None if table is None else schema.read(Emulation, table, str(folder))


def read_shaped(folder: Path) -> Shaped | None:
    """Read what is known of the cluster of a shaped run; None for other runs."""
    table = record.read_run(folder).get("shaped")
    return None if table is None else schema.read(Shaped, table, str(folder))


def shape_of_record(folder: Path) -> Shape:
    """The cluster of a shaped run."""
    shaped = read_shaped(folder)
    assert shaped is not None  # whoever starts this has made the record of a shaped run
    return shaped.shape


def emulated_rates(folder: Path) -> tuple[float, ...]:
    """The rate of every rank's link in the emulated cluster of a record, in bits per second."""
    (job, plan), emulation = read_job_and_plan(folder), read_emulation(folder)
    emulating = system_of(job).emulating
    assert emulation is not None  # whoever starts this has made
    assert emulating is not None  # the record of an emulated run
    return emulating.link_rates(job, plan, emulation)


def read_result(folder: Path) -> dict[str, Any]:
    """The summary of a run.

    Raises:
        InputError: the run has not ended, or ended badly.
    """
    if not (folder / "result.json").is_file():
        raise InputError(f"{folder}: no result.json; the run did not end well")
    result: dict[str, Any] = record.read_json(folder / "result.json")
    if not isinstance(result, dict) or not isinstance(result.get("loss", []), list):
        raise InputError(f"{folder / 'result.json'}: is no summary: copy the whole record again")
    if "loss" in result:
        result["loss"] = record.numbers(result["loss"])
    return result
