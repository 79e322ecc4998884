"""The trained pairs that experiments decode with: those of `launch train-pair`, or their own.

Pairs in runs/pairs/TASK are used as they are. Without them a reproduction trains its own, tiny ones
at level quick. Speech needs the recordings in the folder that TESTBED_DATA names.
"""

import os
from pathlib import Path
from typing import get_args

from speculative.options import Options, Task
from speculative.tasks.pairs import RECIPES, Role, Size
from speculative.tasks.train_pair import train_pair

HOME = Path("runs/pairs")
SIZES: dict[str, Size] = {"quick": "tiny", "full": "small"}
"""Of the pairs that a reproduction trains."""
SAMPLES = {"quick": 400, "full": 800}
"""Test samples."""


def trained(level: str, folder: Path) -> dict[Task, Path]:
    """Folders of pairs that are there already, by task: of HOME, else those of a reproduction."""
    found: dict[Task, Path] = {}
    for task in get_args(Task):
        there = [pair for pair in (HOME / task, _own(level, folder, task)) if _both(pair)]
        if there and _usable(task):
            found[task] = there[0]
    return found


def obtain(level: str, folder: Path) -> dict[Task, Path]:
    """Folders of pairs, trained in a reproduction's `folder` of records where there are none.

    An interrupted training goes on. A task that is left out is said to be.
    """
    found = trained(level, folder)
    for task in get_args(Task):
        if task in found:
            continue
        if not _usable(task):
            print(f"  {task}: left out; set TESTBED_DATA to the folder of the recordings")
            continue
        pair = _own(level, folder, task)
        for at in train_pair(task, pair, size=SIZES[level]):
            print(f"  {task} {at.role}: step {at.step} of {at.steps}, {at.elapsed_s:.0f} s")
        found[task] = pair
    return found


def options(task: Task, pair: Path, level: str, **more: object) -> Options:
    """How a task is decoded: as its job file does, on data as a reproduction's pair knows them."""
    tempered = {"temperature": 0.5, "max_new_tokens": 28}
    usual = tempered if task == "summarize" else {"max_new_tokens": 10}
    folders = {"target": str(pair.resolve() / "target"), "draft": str(pair.resolve() / "draft")}
    data = None if pair == HOME / task else RECIPES[SIZES[level]][task].data
    given = {"task": task, "samples": SAMPLES[level], "data": data, **folders, **usual, **more}
    return Options(**given)  # type: ignore[arg-type]


def _own(level: str, folder: Path, task: Task) -> Path:
    """Where a reproduction keeps a pair that it trains."""
    return folder / "pairs" / SIZES[level] / task


def _usable(task: Task) -> bool:
    recordings = Path(os.environ.get("TESTBED_DATA", ""), "speech", "recordings")
    return task == "summarize" or ("TESTBED_DATA" in os.environ and recordings.is_dir())


def _both(pair: Path) -> bool:
    return all((pair / role / "config.json").is_file() for role in get_args(Role))
