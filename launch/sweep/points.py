"""The folder of a sweep: what was asked for, and a record for each point of it.

job.toml              the job that is varied
points/POINT.json     the tier, the values and the repetition of a point; why it failed, if it did
records/POINT/        its record, see `systems.runs.record`
jobs/POINT.toml       its job, where another launcher starts it (`--elsewhere`)
clusters/*.toml       the job's cluster at other rates
sweep.csv, sweep.png  what `rows` and `picture` make of all points
"""

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import job as jobs
from launch.sweep.variables import BANDWIDTH, cluster_at, in_words, job_at
from systems import disk, schema
from systems.clusters import cluster
from systems.job import Job
from systems.runs import record
from systems.runs.record import Tier
from systems.schema import InputError

LONGEST_NAME = 120
"""Longer names of points are cut: file systems accept 255 bytes."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep."""

    tier: Tier
    repetition: int
    """Its number from 0, by which the job's seed is raised."""
    values: Mapping[str, Any]
    """The values of what is varied, by its names."""

    @property
    def label(self) -> str:
        """The values in words, such as "scheme=ddp nodes=4"."""
        return " ".join(f"{name}={in_words(value)}" for name, value in self.values.items())

    @property
    def name(self) -> str:
        """What its files are called. A hash stands in for what a file's name cannot have."""
        plain = f"{self.tier}-{self.label.replace('=', '-').replace(' ', '-')}-{self.repetition}"
        words = "".join(sorted(f"{k}={v!r} " for k, v in self.values.items()))
        name = re.sub(r"[^A-Za-z0-9.+_-]", "_", plain)[:LONGEST_NAME]
        return name if name == plain else f"{name}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A folder with the points of one job."""

    folder: Path
    base: Job
    """The job that is varied."""

    def claim(self) -> None:
        """Make the folder, or go on in it.

        Raises:
            InputError: it holds something else, or the points of another job.
        """
        file = self.folder / "job.toml"
        if not file.is_file():
            record.claim_folder(self.folder)
            jobs.save_job(self.base, file)
        different = _difference(schema.dump(jobs.load_job(file)), schema.dump(self.base))
        if different is not None:
            raise InputError(
                f"--out {self.folder}: holds the points of another job, {different}; give another "
                "folder"
            )

    def record(self, point: Point) -> Path:
        """The folder of a point's record."""
        return self.folder / "records" / point.name

    def has_result(self, point: Point) -> bool:
        """Whether a point has been run to its end."""
        return (self.record(point) / "result.json").is_file()

    def job(self, point: Point) -> Job:
        """The job of a point.

        Raises:
            InputError: the options refuse its values together.
        """
        job = job_at(self.base, point.values)
        if BANDWIDTH in point.values:
            cluster_at(job.cluster, point.values[BANDWIDTH])  # raises if there is none
            job = dataclasses.replace(job, cluster=str(self._cluster_file(job.cluster, point)))
        return dataclasses.replace(
            job,
            name=f"{job.name} {point.label}",
            seed=job.seed + point.repetition,
            out=str(self.record(point)),
        )

    def begin(self, point: Point) -> None:
        """Write down that a point is asked for, and remove what an earlier attempt at it left."""
        shutil.rmtree(self.record(point), ignore_errors=True)
        self.note(point)
        if BANDWIDTH in point.values:
            name = job_at(self.base, point.values).cluster
            path = self._cluster_file(name, point)
            path.parent.mkdir(exist_ok=True)
            disk.write_text(path, cluster.to_toml(cluster_at(name, point.values[BANDWIDTH])))

    def note(self, point: Point, error: str = "") -> None:
        """Write down that a point is asked for, and why it has no result if it has failed."""
        path = self._note_file(point)
        path.parent.mkdir(exist_ok=True)
        record.write_json(path, {**dataclasses.asdict(point), "error": error})

    def save_job(self, point: Point) -> None:
        """Write the job of a point, for whoever starts it elsewhere.

        Raises:
            InputError: the options refuse its values together.
        """
        job = self.job(point)
        path = self.job_file(point)
        path.parent.mkdir(exist_ok=True)
        jobs.save_job(dataclasses.replace(job, out=str(self.record(point).absolute())), path)

    def points(self) -> Iterator[Point]:
        """Read all points that were ever asked for."""
        for path in sorted((self.folder / "points").glob("*.json")):
            table = record.read_json(path)
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in table["values"].items()}
            yield Point(tier=table["tier"], repetition=table["repetition"], values=values)

    def error(self, point: Point) -> str:
        """Return the reason why a point has failed; empty if it has not."""
        return str(record.read_json(self._note_file(point))["error"])

    def job_file(self, point: Point) -> Path:
        """Return the path of the job of a point that is started elsewhere."""
        return self.folder / "jobs" / f"{point.name}.toml"

    def _note_file(self, point: Point) -> Path:
        """Return the path of the note that a point is asked for."""
        return self.folder / "points" / f"{point.name}.json"

    def _cluster_file(self, name: str, point: Point) -> Path:
        """The file of the cluster of that name at the rate of a point."""
        file = f"{Path(name).stem}-{in_words(point.values[BANDWIDTH])}.toml"
        return (self.folder / "clusters" / file).absolute()


def _difference(there: Any, here: Any, name: str = "") -> str | None:
    """Say in words where two jobs first differ; None where they do not."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys([*there, *here]):
            difference = _difference(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
            if difference is not None:
                return difference
        return None
    flag = name.replace("_", "-")
    return None if there == here else f"with --{flag} {there} and not {here}"
