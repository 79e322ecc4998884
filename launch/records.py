"""Makes the record folder of a run, and reads it back."""

import shlex
import time
from pathlib import Path
from typing import Any

from launch import job as jobs
from launch.drivers import driver
from launch.job import Job
from systems import record, schema
from systems.emulated import Emulation
from systems.record import Tier
from systems.schema import InputError

RUNS = Path("runs")


def create_record(
    job: Job, plan: Any, tier: Tier = "measured", emulation: Emulation | None = None
) -> Path:
    """Make the folder and write what is known before the first step.

    Raises:
        InputError: `--out` names a folder that holds files already.
    """
    folder = Path(job.out) if job.out else _fresh_folder(job.name)
    record.claim_folder(folder)
    jobs.save(job, folder / "job.toml")
    record.write_json(
        folder / "run.json",
        {
            "command": shlex.join(record.command_line()),
            "again": _again(folder, tier, emulation),
            "tier": tier,
            **({"launcher": job.launcher} if tier == "measured" else {}),
            **({"emulation": schema.dump(emulation)} if emulation else {}),
            "system": job.system,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "plan": schema.dump(plan),
            "environment": record.environment(),
        },
    )
    return folder


def _again(folder: Path, tier: Tier, emulation: Emulation | None) -> str:
    """The command that repeats a run."""
    if emulation is not None:
        ways = f"--scale {emulation.scale} --dilate {emulation.dilate}"
        return f"python -m launch emulate {folder}/job.toml {ways}"
    if tier == "simulated":
        return f"python -m launch simulate {folder}/job.toml"
    return f"python -m launch run --again {folder}"


def _fresh_folder(name: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    candidates = (
        RUNS / f"{stamp}-{name}{suffix}" for suffix in ("", *(f"-{i}" for i in range(99)))
    )
    return next(folder for folder in candidates if not folder.exists())


def read_plan(folder: Path) -> tuple[Job, Any]:
    """The job of a record, and its plan."""
    job = jobs.load(folder / "job.toml")
    return job, driver(job).read_plan(record.read_json(folder / "run.json")["plan"], str(folder))


def read_emulation(folder: Path) -> Emulation | None:
    """How an emulated run's cluster is emulated; None for other runs."""
    table = record.read_json(folder / "run.json").get("emulation")
    return None if table is None else schema.read(Emulation, table, str(folder))


def read_result(folder: Path) -> dict[str, Any]:
    """The summary of a run.

    Raises:
        InputError: the run has not ended, or ended badly.
    """
    if not (folder / "result.json").is_file():
        raise InputError(f"{folder}: no result.json; the run did not end well")
    result: dict[str, Any] = record.read_json(folder / "result.json")
    return result
