"""What watches a rank while it runs a job: spans, torch's profiler, and its use of the machine."""

import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import profiler

from launch.job import Job
from systems import schema
from systems.disk import writing
from systems.network.clock import behind_rank_0_ns
from systems.network.distributed import World
from systems.runs.trace import Tracer
from systems.runs.usage import Reading, reading, usage

PROFILED_STEPS = 5
"""Of torch's profiler, after as many that it does not keep: its traces grow by megabytes a step."""


class Instruments:
    """All ranks make and close theirs together."""

    def __init__(self, job: Job, world: World, folder: Path, last: int) -> None:
        """`last` is the number of the last step, which has the totals."""
        ahead_ns = behind_rank_0_ns(world) if job.trace else 0
        self.tracer = Tracer(folder if job.trace else None, world.rank, ahead_ns)
        self._world, self._last = world, last
        self._profiler = _started(folder, world, last) if job.torch_profiler else None
        self._start = reading()
        self._end: Reading | None = None

    def after(self, step: int) -> None:
        """Step number `step` is done."""
        if self._profiler is not None and step < self._last:
            self._profiler.step()
        if step == 0 and self._last > 1:
            self._start = reading()
        if step == self._last - 1:
            self._end = reading()

    def close(self) -> list[dict[str, Any]]:
        """Write what is left to write; returns every rank's `systems.runs.usage.Usage`."""
        found = usage(self._start, self._end or reading(), self._world.device)
        if self._profiler is not None:
            self._profiler.stop()
        self.tracer.close()
        everyone: list[Any] = [None] * self._world.world_size
        with self._world.meeting("the gathering of what they used"):
            dist.all_gather_object(everyone, schema.dump(found))
        return everyone


def _started(folder: Path, world: World, last: int) -> profiler.profile:
    """torch's profiler of this rank; its trace goes to `torch-profiler/rank-N.json`."""
    path = folder / "torch-profiler" / f"rank-{world.rank}.json"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = max(1, min(PROFILED_STEPS, last // 2))
    activities = [profiler.ProfilerActivity.CPU]
    if world.device.type == "cuda":
        activities.append(profiler.ProfilerActivity.CUDA)
    started = profiler.profile(
        activities=activities,
        schedule=profiler.schedule(
            wait=max(0, min(kept, last - kept) - 1), warmup=1, active=kept, repeat=1
        ),
        on_trace_ready=lambda done: _export(done, path),
        record_shapes=True,
    )
    started.start()
    return started


def _export(done: profiler.profile, path: Path) -> None:
    """Write the profiler's trace; it says itself why it cannot, but not where."""
    done.export_chrome_trace(str(path))
    if not path.is_file():
        print(
            f"warning: {path} could not be written; is the disk full? The run goes on",
            file=sys.stderr,
            flush=True,
        )
