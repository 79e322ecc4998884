"""The trained pairs that experiments decode with: those of `launch train-pair`, or their own.

Pairs in runs/pairs/TASK are used as they are. Without them, level full trains both tasks'; level
quick leaves the tasks out. Speech needs the recordings in the folder that TESTBED_DATA names.
"""

import os
from pathlib import Path
from typing import get_args

from speculative.options import Options
from speculative.pairs import Role, Task
from speculative.train_pair import train_pair

HOME = Path("runs/pairs")
OWN_FOLDER = Path("quality/pairs")
"""Where a reproduction keeps the pairs that it trains, among its records."""
SAMPLES = {"quick": 400, "full": 800}
"""Test samples."""


def trained(*homes: Path) -> dict[Task, Path]:
    """Folders of pairs that are there already, by task; the first of `homes` that has one."""
    found: dict[Task, Path] = {}
    for task in get_args(Task):
        there = [home / task for home in homes if _both(home / task)]
        if there and _usable(task):
            found[task] = there[0]
    return found


def obtain(level: str, folder: Path) -> dict[Task, Path]:
    """Folders of pairs, trained in `folder` where there are none; an interrupted training goes on.

    A task that is left out is said to be.
    """
    found = trained(HOME)
    for task in get_args(Task):
        if task in found:
            continue
        if level == "quick":
            print(f"  {task}: left out; `launch train-pair {task}` trains its pair in minutes")
            continue
        if not _usable(task):
            print(f"  {task}: left out; set TESTBED_DATA to the folder of the recordings")
            continue
        for at in train_pair(task, folder / task):
            print(f"  {task} {at.role}: step {at.step} of {at.steps}, {at.elapsed_s:.0f} s")
        found[task] = folder / task
    return found


def options(task: Task, pair: Path, level: str, **more: object) -> Options:
    """How a task is decoded: as its job file does."""
    tempered = {"temperature": 0.5, "max_new_tokens": 28}
    usual = tempered if task == "summarize" else {"max_new_tokens": 10}
    folders = {"target": str(pair.resolve() / "target"), "draft": str(pair.resolve() / "draft")}
    given = {"task": task, "samples": SAMPLES[level], **folders, **usual, **more}
    return Options(**given)  # type: ignore[arg-type]


def _usable(task: Task) -> bool:
    recordings = Path(os.environ.get("TESTBED_DATA", ""), "speech", "recordings")
    return task == "summarize" or ("TESTBED_DATA" in os.environ and recordings.is_dir())


def _both(pair: Path) -> bool:
    return all((pair / role / "config.json").is_file() for role in get_args(Role))
