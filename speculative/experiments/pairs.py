"""The trained pairs that experiments decode with: those of `testbed train-pair`, or their own.

Pairs in runs/pairs/TASK are used as they are. Without them a reproduction trains its own, tiny ones
at level quick. Speech needs the recordings in the folder that TESTBED_DATA names, pronouncing the
extra `ngram`.
"""

import os
from pathlib import Path
from typing import get_args

from speculative import ngrams
from speculative.options import Options, Task
from speculative.tasks.pairs import RECIPES, Role, Size
from speculative.tasks.train_pair import train_pair

HOME = Path("runs/pairs")
SIZES: dict[str, Size] = {"quick": "tiny", "full": "small"}
"""The size of the pairs that a reproduction trains, by level."""
USUAL: dict[Task, dict[str, object]] = {
    "summarize": {"temperature": 0.5, "max_new_tokens": 28},
    "transcribe": {"max_new_tokens": 10},
    "pronounce": {"max_new_tokens": 20},
}
"""How a task is decoded."""
SAMPLES = {"quick": 400, "full": 800}
"""The number of test samples, by level."""
REMEDIES: dict[Task, str] = {
    "transcribe": "set TESTBED_DATA to the folder of the recordings",
    "pronounce": "pip install 'systems-testbed[ngram]'",
}
"""What brings the data of a task that not everyone has."""


def trained(level: str, folder: Path) -> dict[Task, Path]:
    """The folders of existing pairs, by task: those in HOME, else those of a reproduction."""
    folders: dict[Task, Path] = {}
    for task in get_args(Task):
        complete = [pair for pair in (HOME / task, _own(level, folder, task)) if _both(pair)]
        if complete and _usable(task):
            folders[task] = complete[0]
    return folders


def obtain(level: str, folder: Path) -> dict[Task, Path]:
    """The folders of pairs by task, trained in a reproduction's `folder` where there are none.

    An interrupted training goes on. A line is printed for a task that is left out.
    """
    folders = trained(level, folder)
    for task in get_args(Task):
        if task in folders:
            continue
        if not _usable(task):
            print(f"  {task}: left out; {REMEDIES[task]}")
            continue
        pair = _own(level, folder, task)
        for at in train_pair(task, pair, size=SIZES[level]):
            print(f"  {task} {at.role}: step {at.step} of {at.steps}, {at.elapsed_s:.0f} s")
        folders[task] = pair
    return folders


def options(task: Task, pair: Path, level: str, **more: object) -> Options:
    """How a task is decoded: as its job file does, on data as a reproduction's pair knows them."""
    folders = {"target": str(pair.resolve() / "target"), "draft": str(pair.resolve() / "draft")}
    data = None if pair == HOME / task else RECIPES[SIZES[level]][task].data
    usual = {"samples": SAMPLES[level], "data": data, **USUAL[task]}
    values = {"task": task, **folders, **usual, **more}
    return Options(**values)  # type: ignore[arg-type]


def _own(level: str, folder: Path, task: Task) -> Path:
    """Where a reproduction keeps a pair that it trains."""
    return folder / "pairs" / SIZES[level] / task


def _usable(task: Task) -> bool:
    """Whether a task's data are there: speech needs recordings, pronouncing a dictionary."""
    if task == "pronounce":
        return ngrams.installed()
    recordings = Path(os.environ.get("TESTBED_DATA", ""), "speech", "recordings")
    return task == "summarize" or ("TESTBED_DATA" in os.environ and recordings.is_dir())


def _both(pair: Path) -> bool:
    """Whether a folder has both models of a pair."""
    return all((pair / role / "config.json").is_file() for role in get_args(Role))
