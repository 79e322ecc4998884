"""Writes every kind of file of a run on a disk until it is full: `python -m tests.full_disk DISK`.

Prints what every writer says. Files whose content is "old" must keep it.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from launch import job as jobs
from speculative.system import SYSTEM
from speculative.tasks import training_checkpoint
from speculative.tasks.training_checkpoint import Position
from systems import disk
from systems.disk import DiskError
from systems.processes import supervise
from systems.runs import record
from systems.runs.record import Step, StepWriter
from systems.runs.trace import Tracer


def main(folder: Path) -> None:
    """Fill the disk with steps, and try the others."""
    for name in ("result.json", "job.toml", "table.csv", "pair.checkpoint"):
        (folder / name).write_text("old")
    tracer = Tracer(folder, 0)
    (folder / "told").touch()
    with StepWriter(folder, 0) as writer:
        _told(lambda: _write_steps(writer))
    for _ in range(1000):
        with tracer.span("compute"):
            pass
    tracer.close()
    model = nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    position = Position(step=1, steps=2, elapsed_s=0.5)
    _told(lambda: record.write_json(folder / "result.json", {"text": "x" * 9000}))
    _told(lambda: jobs.save_job(SYSTEM.job(name="x" * 9000), folder / "job.toml"))
    _told(lambda: disk.write_table(folder / "table.csv", [["x" * 9000]]))
    path = folder / "pair.checkpoint"
    _told(lambda: training_checkpoint.save(path, position, model, optimizer))
    os.environ[supervise.TOLD] = str(folder / "told")
    supervise.tell(3, 2)


def _write_steps(writer: StepWriter) -> None:
    for index in range(10_000):
        writer.write(Step(index, {"loss": 0.5}))


def _told(write: Callable[[], object]) -> None:
    try:
        write()
    except DiskError as error:
        print(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
