"""Reads the file that torch.profiler's `export_chrome_trace` writes: JSON, or JSON in gzip.

The file holds events, each with a kind (`cat`), a name, a thread, a start and a duration in
microseconds. The kinds that tell what a layer costs:

cpu_op           an operator that ran on the host, such as aten::conv2d, or a node of the backward
                 pass. Operators call operators, so that their events nest
user_annotation  a range that `record_function` has named, a step of the profiler among them
python_function  a call of a Python function. Those that call a module are named after its class and
                 its number among the modules of that class: "nn.Module: Conv2d_3"
cuda_runtime     the call that has started a kernel (or cuda_driver)
kernel           what a GPU did (or gpu_memcpy, gpu_memset)
"""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systems.schema import InputError

MODULE = "nn.Module: "
"""How the name of an event begins that is the call of a module."""
OPERATOR, RANGE, CALL = "cpu_op", "user_annotation", "python_function"
LAUNCHES = ("cuda_runtime", "cuda_driver")
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
REMEDY = (
    "make a trace of one rank with torch.profiler.profile("
    "schedule=torch.profiler.schedule(wait=1, warmup=1, active=6, repeat=1), record_shapes=True, "
    "with_stack=True, on_trace_ready=lambda p: p.export_chrome_trace('trace.json.gz')) as p, and "
    "call p.step() after every training step"
)
"""How to make a trace that has all that a profile needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that took time."""

    kind: str
    """Its category, such as "cpu_op"."""
    name: str
    """What it is called."""
    thread: tuple[Any, Any]
    """The process and the thread that it ran in; on a GPU, the device and the stream."""
    start_us: float
    """When it began, in microseconds."""
    duration_us: float
    """How long it took."""
    arguments: Mapping[str, Any]
    """What else is known of it."""

    @property
    def end_us(self) -> float:
        """The microsecond at which the event ended."""
        return self.start_us + self.duration_us


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one process did for a while."""

    events: tuple[Event, ...]
    """What took time, ordered by start; of those that start together the longest comes first."""
    device: str
    """The name of the GPU that computed, or "cpu"."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU did the work."""
        return self.device != "cpu"


def read_trace(path: Path) -> Trace:
    """Read the trace of one rank.

    Raises:
        InputError: there is no such file, it is not a whole trace of torch.profiler, or it holds
            several processes or several GPUs.
    """
    table = _read_json(path)
    events = table.get("traceEvents") if isinstance(table, dict) else table
    if not isinstance(events, list):
        raise InputError(f"trace {path}: has no traceEvents; {REMEDY}")
    try:
        relevant = [_event(event) for event in events if _is_kept(event)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"trace {path}: an event is malformed ({error!r}); {REMEDY}") from None
    relevant.sort(key=lambda event: (event.start_us, -event.duration_us))
    processes = {event.thread[0] for event in relevant if event.kind == OPERATOR}
    if not processes:
        raise InputError(f"trace {path}: holds no operators of torch; {REMEDY}")
    if len(processes) > 1:
        raise InputError(
            f"trace {path}: holds operators of {len(processes)} processes; give the trace of one "
            "rank, as its profiler has written it"
        )
    return Trace(events=tuple(relevant), device=_device(table, relevant, path))


def _read_json(path: Path) -> Any:
    """The plain data in a file, which may be in gzip."""
    if not path.is_file():
        raise InputError(f"trace {path}: no such file; {REMEDY}")
    content = path.read_bytes()
    if not content:
        raise InputError(f"trace {path}: is empty; {REMEDY}")
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return json.loads(content)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(
            f"trace {path}: the gzip file is not whole; copy it again, or {REMEDY}"
        ) from None
    except ValueError as error:
        raise InputError(
            f"trace {path}: not JSON: {error}; copy the whole file again, or {REMEDY}"
        ) from None


def _is_kept(event: Mapping[str, Any]) -> bool:
    """Whether an event has a duration and is of a kind that tells something of layers."""
    if event.get("ph") != "X":
        return False
    kind = event.get("cat")
    if kind == CALL:
        return str(event.get("name")).startswith(MODULE)
    return kind in (OPERATOR, RANGE, *LAUNCHES, *ON_GPU)


def _event(event: Mapping[str, Any]) -> Event:
    """An event as the file has it."""
    return Event(
        kind=event["cat"],
        name=event["name"],
        thread=(event["pid"], event["tid"]),
        start_us=float(event["ts"]),
        duration_us=float(event["dur"]),
        arguments=event.get("args", {}),
    )


def _device(table: Any, events: list[Event], path: Path) -> str:
    """The name of the GPU that has run kernels; "cpu" if none has."""
    used = {event.arguments.get("device") for event in events if event.kind == "kernel"}
    if not used:
        return "cpu"
    if len(used) > 1:
        raise InputError(
            f"trace {path}: holds kernels of {len(used)} GPUs; give the trace of a rank that uses "
            "one"
        )
    known = table.get("deviceProperties", []) if isinstance(table, dict) else []
    names = {device.get("id"): device.get("name") for device in known}
    return names.get(*used) or "gpu"
