"""Files from strangers: pickles that run a command in whoever unpickles them."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from systems.runs import manifest
from systems.runs.manifest import MANIFEST


class Command:
    """When unpickled, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._trace),)


def pickled(trace: Path) -> bytes:
    """A pickle that makes the folder `trace`."""
    return pickle.dumps(Command(trace))


def saved_by_torch(trace: Path) -> bytes:
    """The same in the zip file that torch.save writes."""
    buffer = io.BytesIO()
    torch.save({"step": Command(trace)}, buffer)
    return buffer.getvalue()


def array(trace: Path) -> bytes:
    """The same in numpy's format: an array of objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Command(trace)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def archive(trace: Path) -> bytes:
    """The same in numpy's archive of arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("points.npy", array(trace))
    return buffer.getvalue()


def plant(checkpoint: Path, name: str, content: bytes) -> None:
    """Put a file into a checkpoint, and recompute the manifest's checksums."""
    (checkpoint / name).write_bytes(content)
    table = json.loads((checkpoint / MANIFEST).read_text())["checkpoint"]
    table["files"][name] = {"bytes": len(content), "sha256": manifest._sha256(checkpoint / name)}
    whole = {"checkpoint": table, "sha256": manifest._digest(table)}
    (checkpoint / MANIFEST).write_text(json.dumps(whole))
