"""Reads a record while it is written: where every rank is, throughput, loss, time left.

The process that started the ranks reads; the ranks only write their steps (systems.runs.record).
"""

import os
import time
from collections import deque
from pathlib import Path
from statistics import median

from launch import planning
from launch.installed import system_of
from launch.records import read_emulation, read_job_and_plan
from systems.progress.view import Row, View
from systems.runs import record
from systems.runs.record import Step

RECENT = 20
"""Throughput and time left are computed from so many steps."""
KEPT = 200
"""So many steps of a rank stay in memory, because ranks run ahead of each other."""
PATIENCE_S = 5.0
"""A rank that has done no step for so many seconds is shown as idle."""


class Tail:
    """Reads the lines that are added to the steps file of a rank. A file that is replaced is read
    anew."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._inode = path, 0, -1

    def read(self) -> list[Step]:
        """The steps since the last call."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return [record.read_step(line) for line in whole.splitlines()]


class LiveRecord:
    """A record that is being written: `poll` reads what is new, `view` says where the run is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._job, plan = read_job_and_plan(folder)
        self.roles = planning.roles(self._job, plan)
        emulation = read_emulation(folder)
        self._tier = record.read_run(folder)["tier"]
        self._dilate = 1.0 if emulation is None else emulation.dilate
        self._tails = [
            Tail(record.steps_file(folder, rank)) for rank in range(self._job.world_size)
        ]
        self._steps: list[deque[Step]] = [deque(maxlen=KEPT) for _ in self._tails]
        self._changed = [time.monotonic()] * len(self._tails)

    @property
    def ended(self) -> bool:
        """Whether the run has ended well."""
        return (self.folder / "result.json").exists()

    def poll(self) -> list[tuple[int, Step]]:
        """Read the new steps; returns them with the ranks that did them."""
        new = []
        for rank, tail in enumerate(self._tails):
            for step in tail.read():
                self._steps[rank].append(step)
                self._changed[rank] = time.monotonic()
                new.append((rank, step))
        return new

    def view(self) -> View:
        """Where the run was at the last `poll`."""
        last = record.read_last(self.folder)
        reached = [steps[-1].index for steps in self._steps if steps]
        step = min(reached, default=None)
        step_s = max((s for s in map(self._step_s, range(len(self._tails))) if s), default=None)
        samples, loss = (None, None) if step is None else self._of_step(min(step, (last or 1) - 1))
        left = None if step_s is None or last is None or step is None else last - 1 - step
        return View(
            title=f"{self._job.name} | tier {self._tier}",
            step=step,
            last=last,
            samples_per_s=samples / step_s * self._dilate if samples and step_s else None,
            loss=loss,
            left_s=None if left is None or step_s is None else max(0, left) * step_s,
            rows=[self._row(rank, last) for rank in range(len(self._tails))],
        )

    def _of_step(self, index: int) -> tuple[float | None, float | None]:
        """The samples and the mean loss of one step, from the metrics of all ranks."""
        metrics = [s.metrics for steps in self._steps for s in steps if s.index == index]
        training = system_of(self._job).training
        samples = None if training is None else training.samples(metrics)
        losses = [m["loss_sum"] for m in metrics if "loss_sum" in m]
        return samples, sum(losses) / samples if samples and losses else None

    def _step_s(self, rank: int) -> float | None:
        """The median time of a rank's last steps in seconds, with the dilation still in it."""
        recent = [s.metrics.get("step_s") for s in list(self._steps[rank])[-RECENT:]]
        seconds = [s for s in recent if s is not None]
        return median(seconds) if seconds else None

    def _row(self, rank: int, last: int | None) -> Row:
        """Where one rank is."""
        index = self._steps[rank][-1].index if self._steps[rank] else None
        step_s, state = self._step_s(rank), "running"
        idle_s = time.monotonic() - self._changed[rank]
        if self.ended or (index is not None and index == last):
            state = "done"
        elif index is None:
            state = "starting"
        elif idle_s > max(PATIENCE_S, 10 * (step_s or 0)):
            state = f"no step for {idle_s:.0f} s"
        undone_s = None if step_s is None else step_s / self._dilate
        return Row(name=str(rank), role=self.roles[rank], step=index, step_s=undone_s, state=state)
