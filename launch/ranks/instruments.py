"""Watches a rank while it runs a job: spans, the profiler of torch, and its use of the machine."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import profiler

from systems import schema
from systems.disk import writing
from systems.job import Job
from systems.network import streams
from systems.network.clock import behind_rank_0_ns
from systems.network.distributed import World
from systems.runs.trace import Tracer
from systems.runs.usage import Reading, reading, usage

PROFILED_STEPS = 5
"""torch's profiler keeps so many steps, after as many that it drops. A step takes megabytes."""


class Instruments:
    """The instruments of one rank. All ranks must make and close them together."""

    def __init__(self, job: Job, world: World, folder: Path, last: int) -> None:
        """Start to watch a run in the record `folder`. `last` is the number of the last step, which
        holds the totals; 0 in a run without steps."""
        ahead_ns = behind_rank_0_ns(world) if job.trace else 0
        self.tracer = Tracer(
            folder if job.trace else None,
            world.rank,
            ahead_ns,
            settle=partial(streams.settle, world.device),
        )
        self._world, self._last = world, last
        self._profiler = _started(folder, world, last) if job.torch_profiler else None
        self._start = reading()
        self._end: Reading | None = None

    def after(self, step: int) -> None:
        """Note that a step is done, by its number."""
        if self._profiler is not None and step < self._last:
            self._profiler.step()
        if step == 0 and self._last > 1:
            self._start = reading()
        if step == self._last - 1:
            self._end = reading()

    def close(self) -> list[dict[str, Any]]:
        """Write what is left to write; returns the `systems.runs.usage.Usage` of every rank."""
        own_usage = usage(self._start, self._end or reading(), self._world.device)
        if self._profiler is not None:
            self._profiler.stop()
        self.tracer.close()
        everyone: list[Any] = [None] * self._world.world_size
        with self._world.meeting("the gathering of what they used"):
            dist.all_gather_object(everyone, schema.dump(own_usage))
        return everyone


def _started(folder: Path, world: World, last: int) -> profiler.profile:
    """Start the profiler of torch for this rank. Its trace goes to `torch-profiler/rank-N.json`."""
    path = folder / "torch-profiler" / f"rank-{world.rank}.json"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    profiled = max(1, min(PROFILED_STEPS, last // 2))
    activities = [profiler.ProfilerActivity.CPU]
    if world.device.type == "cuda":
        activities.append(profiler.ProfilerActivity.CUDA)
    started = profiler.profile(
        activities=activities,
        schedule=profiler.schedule(
            wait=max(0, min(profiled, last - profiled) - 1), warmup=1, active=profiled, repeat=1
        ),
        on_trace_ready=lambda done: _export(done, path),
        record_shapes=True,
        with_stack=True,  # the names of modules, which `testbed profile --from-trace` reads
    )
    started.start()
    return started


def _export(done: profiler.profile, path: Path) -> None:
    """Write the trace of the profiler. If it cannot be written, the profiler says why, and this
    function where."""
    done.export_chrome_trace(str(path))
    if not path.is_file():
        print(
            f"warning: {path} could not be written; is the disk full? The run goes on",
            file=sys.stderr,
            flush=True,
        )
