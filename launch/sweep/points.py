"""The folder of a sweep: what was asked for, and a record for each point of it.

job.toml              the job that is varied
points/POINT.json     the tier, the values and the repetition of a point; the SHA-256 of the files
                      that it reads; why it failed, if it did
records/POINT/        its record, see `systems.runs.record`
jobs/POINT.toml       its job, where another launcher starts it (`--elsewhere`)
clusters/*.toml       the job's cluster at other rates
sweep.csv, sweep.png  what `rows` and `picture` make of all points
"""

import dataclasses
import hashlib
import os
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
        plain = f"{self.tier}-{self.label.replace('=', '-').replace(' ', '-')}"
        words = "".join(sorted(f"{k}={v!r} " for k, v in self.values.items()))
        name = re.sub(r"[^A-Za-z0-9.+_-]", "_", plain)[:LONGEST_NAME]
        unique = "" if name == plain else f"-{_short_digest(words)}"
        return f"{name}-{self.repetition}{unique}"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A folder with the points of one job."""

    folder: Path
    base: Job
    """The job that is varied."""

    def claim(self) -> None:
        """Make the folder, or go on in it.

        Raises:
            InputError: it holds something else, or the points of another job, or of files that have
                changed since.
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
        for point in self.points():
            if self.has_result(point):
                self._check_files(point)

    def _check_files(self, point: Point) -> None:
        """Raise an InputError if a file that a point has read has another content now."""
        then = record.read_json(self._note_file(point)).get("files_sha256", {})
        for path, digest in self._files(point).items():
            if then.get(path, digest) != digest:
                raise InputError(
                    f"--out {self.folder}: {point.name} was run before {path} changed; give "
                    "another folder"
                )

    def _files(self, point: Point) -> dict[str, str]:
        """The SHA-256 of the files that a point reads, by their paths; empty if its values are
        refused."""
        try:
            job = job_at(self.base, point.values)
        except InputError:
            return {}
        paths = sorted(set(_paths(schema.dump(job))))
        return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}

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
        files = self._files(point)
        table = {**dataclasses.asdict(point), "files_sha256": files, "error": error}
        record.write_json(path, table)

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
        unique = f"-{_short_digest(name)}" if os.path.isabs(name) else ""  # of several folders
        file = f"{Path(name).stem}{unique}-{in_words(point.values[BANDWIDTH])}.toml"
        return (self.folder / "clusters" / file).absolute()


def _short_digest(text: str) -> str:
    """Eight characters that differ for different texts."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _paths(value: Any) -> Iterator[str]:
    """Find the files among the values of a job, also where a path stands in a list of profiles or
    in front of the attribute of an import path."""
    if isinstance(value, (Mapping, list)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _paths(inner)
    elif isinstance(value, str):
        for word in value.split(","):
            for path in (word, word.rpartition(":")[0]):
                if os.path.isabs(path) and Path(path).is_file():
                    yield path


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
