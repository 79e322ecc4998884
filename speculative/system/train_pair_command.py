"""`testbed train-pair TASK`: train a small target and a smaller draft on this machine.

python -m launch train-pair transcribe
python -m launch train-pair summarize --data stdlib --out runs/pairs/summarize

This takes minutes on two cores; `--size tiny` takes half a minute. If it is interrupted, the same
command goes on where it stopped.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from speculative.options import Task
from speculative.tasks.pairs import RECIPES, Role, Size
from speculative.tasks.train_pair import BATCH_SIZE, Progress, train_pair
from systems.flags import named_as_given, parse_flags
from systems.job import check_seed
from systems.progress.table import ProgressFlags, is_live, live_table
from systems.progress.tensorboard import Sink
from systems.progress.view import Row, View
from systems.runs.record import QUIET
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class TrainPairArguments(ProgressFlags):
    """Train a target and a draft."""

    out: str | None = None
    """The folder of both models. None takes runs/pairs/TASK, where the job files look for them."""
    size: Size = "small"
    """The size of the models. "small" ones are useful. "tiny" ones suffice to see how verification
    differs, and know only short speech."""
    data: str | None = None
    """The data to train on. To summarize: stdlib, installed or jsonl:PATH; None takes installed, or
    stdlib for tiny models. To transcribe: recordings[:PATH], espeak or folder:PATH; None takes
    recordings. To pronounce: cmudict or dict:PATH; None takes cmudict."""
    target_steps: int | None = None
    """The training steps of the target. None takes enough for the default data."""
    draft_steps: int | None = None
    """The training steps of the draft. None takes enough for the default data."""
    seed: int = 0
    """The seed of the initial weights and of the order of samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to train on. "auto" takes a GPU if there is one."""


def main(arguments: Sequence[str]) -> None:
    """Train, print how it goes and where the models are."""
    words = list(arguments)
    task = words.pop(0) if words and not words[0].startswith("-") else ""
    if task not in get_args(Task) and not {"-h", "--help"} & set(words):
        known = " or ".join(get_args(Task))
        wrong = f"train-pair {task}".strip()
        raise InputError(f"{wrong}: no such task; write: testbed train-pair {known}")
    flags = parse_flags(
        TrainPairArguments, words, f"testbed train-pair {task or 'TASK'}", TrainPairArguments()
    )
    has_gpu = torch.cuda.is_available()
    check_seed(flags.seed)
    if flags.device == "cuda" and not has_gpu:
        raise InputError("--device cuda: there is no GPU here; give cpu or auto")
    device = torch.device("cuda" if has_gpu and flags.device != "cpu" else "cpu")
    chosen = cast(Task, task)
    wanted: dict[Role, int | None] = {"target": flags.target_steps, "draft": flags.draft_steps}
    steps = {
        role: default if wanted[role] is None else cast(int, wanted[role])
        for role, default in RECIPES[flags.size][chosen].steps.items()
    }
    folder = Path(flags.out or f"runs/pairs/{task}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; give a folder")
    flags.apply()
    training = train_pair(
        chosen,
        folder,
        size=flags.size,
        data=flags.data,
        steps=steps,
        seed=flags.seed,
        device=device,
    )
    with named_as_given({"speculative.data": "data"}):
        trained = _follow(chosen, training, folder if flags.tensorboard else None)
    print(f"  pair: {folder}{'' if trained else ' (trained before; remove it to train anew)'}")


def _follow(task: Task, training: Iterator[Progress], events: Path | None) -> bool:
    """Do the training and show how it goes. Returns whether anything was left to train.

    Args:
        events: where files for TensorBoard are written; None writes none.
    """
    reached: dict[Role, Progress] = {}
    view = partial(_view, task, reached)
    with ExitStack() as stack:
        sinks: dict[Role, Sink] = {}
        if is_live():
            stack.enter_context(live_table(view))
        for at in training:
            reached[at.role] = at
            if events is not None and at.role not in sinks:
                sinks[at.role] = Sink(events / at.role / "tensorboard", ())
                stack.callback(sinks[at.role].close)
            if at.role in sinks:
                sinks[at.role].write((), view())
            if QUIET not in os.environ:
                print(_line(task, at), flush=True)
    return bool(reached)


def _line(task: str, at: Progress) -> str:
    """Where training is, as a line of progress."""
    return (
        f"{task} {at.role} | step {at.step} of {at.steps} | loss {at.loss:.3f} nats per token "
        f"| {at.elapsed_s:.0f} s"
    )


def _view(task: Task, reached: Mapping[Role, Progress]) -> View:
    """Where training is, for the live table: the model that trains now, and a line for each."""
    rows = [
        Row(
            name=str(number),
            role=role,
            step=at.step,
            step_s=at.elapsed_s / max(1, at.step),
            state="done" if at.step >= at.steps else "running",
        )
        for number, (role, at) in enumerate(reached.items())
    ]
    if not reached:
        return View(title=f"train-pair {task}", rows=rows)
    at = list(reached.values())[-1]
    step_s = at.elapsed_s / max(1, at.step)
    return View(
        title=f"train-pair {task}: {at.role}",
        step=at.step,
        last=at.steps,
        samples_per_s=BATCH_SIZE / step_s if step_s else None,
        loss=at.loss,
        left_s=(at.steps - at.step) * step_s,
        rows=rows,
    )
