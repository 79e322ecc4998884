"""Folders of checkpoints: which of them are sound, and which is the newest.

A checkpoint is written into a folder with a temporary name. Its manifest, which lists the size and
SHA-256 of every file, is written last; then the folder gets its own name. A checkpoint that was cut
short, or changed since, does not fit its manifest.
"""

import fnmatch
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systems import schema
from systems.schema import InputError

FOLDER, MANIFEST, FINAL = "checkpoints", "manifest.json", "final"
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a checkpoint, as it was written."""

    bytes: int
    """Its size."""
    sha256: str
    """Its checksum, in hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself."""

    step: int
    """How many steps were done; the next one has this number."""
    samples_seen: int
    """The samples that all workers together had seen: the position in the data."""
    layout: str
    """World size and who did what, in words."""
    files: dict[str, File] = field(default_factory=dict)
    """All files beside the manifest, by name."""


@dataclass(frozen=True)
class SoundCheckpoint:
    """A sound checkpoint that a search has found."""

    path: Path
    """Its folder."""
    manifest: Manifest
    """What it says of itself."""


def find(path: Path) -> SoundCheckpoint:
    """Find the checkpoint that a user names.

    Args:
        path: a checkpoint, or the record of a run or its folder of checkpoints, of which the newest
            sound one is meant.

    Raises:
        InputError: there is no sound checkpoint.
    """
    if (path / MANIFEST).is_file():
        try:
            return SoundCheckpoint(path, read_manifest(path))
        except ValueError as error:
            raise InputError(f"--resume {path}: {error}; give another one") from None
    checkpoint = newest(path / FOLDER) or newest(path)
    if checkpoint is None:
        raise InputError(
            f"--resume {path}: no sound checkpoint there; give the record of a run that was made "
            "with --checkpoint-every, or one of its checkpoints"
        )
    return checkpoint


def newest(folder: Path) -> SoundCheckpoint | None:
    """The newest sound checkpoint of a folder, if it has one; newer ones that are not sound are
    named on stderr."""
    for path in steps_in(folder):
        try:
            return SoundCheckpoint(path, read_manifest(path))
        except ValueError as error:
            print(f"checkpoint {path}: {error}; using the one before", file=sys.stderr, flush=True)
    return None


def name(step: int) -> str:
    """Name the folder of the checkpoint after `step` steps."""
    return f"step-{step:08}"


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, sound or not, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def newest_name(folder: Path) -> str | None:
    """The name of the newest checkpoint of a folder, sound or not; None if there is none."""
    if (folder / FINAL).is_dir():
        return FINAL
    return next((path.name for path in steps_in(folder)), None)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a checkpoint, and check that the checkpoint is sound.

    It is sound if the manifest lists every file of tensors and no other file, if every file has the
    size and checksum that are listed, and if the tensors in the files are whole.

    Raises:
        ValueError: the checkpoint is not sound; the text says why.
    """
    from systems.runs.part_files import FILES, OLD, written  # torch, which names alone do not need

    try:
        table = json.loads((path / MANIFEST).read_text())
        content, digest = table["checkpoint"], table["sha256"]
        manifest = schema.read(Manifest, content, MANIFEST)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{MANIFEST} is missing or damaged") from None
    if digest != _digest(content) or manifest.step < 0 or manifest.samples_seen < 0:
        raise ValueError(f"{MANIFEST} is damaged")
    if any(
        file_name == ".metadata" or file_name.endswith(".distcp") for file_name in manifest.files
    ):
        raise ValueError(OLD)
    for file_name in {*manifest.files, *(there.name for there in path.glob(FILES))}:
        if file_name not in manifest.files or not fnmatch.fnmatch(file_name, FILES):
            raise ValueError(f"{file_name} does not belong to it")
    for file_name, file in manifest.files.items():
        _check_file(path / file_name, file)
    written(path)
    return manifest


def _check_file(there: Path, listed: File) -> None:
    """Raise ValueError if a file is not as the manifest lists it."""
    try:
        if not there.is_file():
            raise ValueError(f"{there.name} is missing")
        if (size := there.stat().st_size) != listed.bytes:
            raise ValueError(f"{there.name} has {size:,} of {listed.bytes:,} bytes")
        if _sha256(there) != listed.sha256:
            raise ValueError(f"{there.name} is damaged")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{there.name[:80]} cannot be read: {reason}") from None


def commit(partial: Path, path: Path, *, step: int, samples_seen: int, layout: str) -> None:
    """Make a checkpoint of a temporary folder whose files are on the disk already.

    Args:
        partial: the temporary folder.
        path: the name that it gets; a checkpoint of that name is replaced.
        step, samples_seen, layout: see `Manifest`.
    """
    table = schema.dump(
        Manifest(step=step, samples_seen=samples_seen, layout=layout, files=_files(partial))
    )
    with (partial / MANIFEST).open("w") as file:
        file.write(schema.to_json({"checkpoint": table, "sha256": _digest(table)}, indent=2))
        file.flush()
        os.fsync(file.fileno())
    _sync(partial)
    if path.exists():  # such as the end of a run that is run on
        shutil.rmtree(path)
    partial.rename(path)
    _sync(path.parent)


def _files(folder: Path) -> dict[str, File]:
    """The files of tensors in a folder, by name."""
    from systems.runs.part_files import FILES

    return {
        path.name: File(bytes=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(folder.glob(FILES))
    }


def _sync(folder: Path) -> None:
    """Put the names of a folder's files on the disk, so that they survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(table: Any) -> str:
    """The checksum of a manifest's content."""
    return hashlib.sha256(schema.to_json(table, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    """The checksum of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()
