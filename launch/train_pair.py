"""`launch train-pair TASK`: train a small target and a smaller draft on this machine.

python -m launch train-pair transcribe
python -m launch train-pair summarize --data stdlib --out runs/pairs/summarize

Minutes on two cores, `--size tiny` half a minute. Interrupted, the same command goes on where it
stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from launch import job as jobs
from speculative.pairs import RECIPES, Role, Size, Task
from speculative.train_pair import train_pair
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class TrainPairArguments:
    """Train a target and a draft."""

    out: str | None = None
    """Folder of both. None: runs/pairs/TASK, where the job files look for them."""
    size: Size = "small"
    """small: useful models. tiny: such as show how verification differs, for short speech."""
    data: str | None = None
    """summarize: stdlib, installed or jsonl:PATH. transcribe: recordings[:PATH], espeak or
    folder:PATH. None: installed (tiny: stdlib), or recordings."""
    target_steps: int | None = None
    """Training steps. None: enough for the default data."""
    draft_steps: int | None = None
    """The same for the draft."""
    seed: int = 0
    """Of the initial weights and of the order of samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""


def main(arguments: Sequence[str]) -> None:
    """Train, print how it goes and where the models are."""
    words = list(arguments)
    task = words.pop(0) if words and not words[0].startswith("-") else ""
    if task not in get_args(Task) and not {"-h", "--help"} & set(words):
        known = " or ".join(get_args(Task))
        raise InputError(f"train-pair {task}: no such task; write: launch train-pair {known}")
    flags = jobs.parse_flags(
        TrainPairArguments, words, f"launch train-pair {task or 'TASK'}", TrainPairArguments()
    )
    has_gpu = torch.cuda.is_available()
    if flags.device == "cuda" and not has_gpu:
        raise InputError("--device cuda: there is no GPU here; give cpu or auto")
    device = torch.device("cuda" if has_gpu and flags.device != "cpu" else "cpu")
    chosen = cast(Task, task)
    given: dict[Role, int | None] = {"target": flags.target_steps, "draft": flags.draft_steps}
    steps = {
        role: default if given[role] is None else cast(int, given[role])
        for role, default in RECIPES[flags.size][chosen].steps.items()
    }
    folder = Path(flags.out or f"runs/pairs/{task}")
    trained = False
    training = train_pair(
        chosen,
        folder,
        size=flags.size,
        data=flags.data,
        steps=steps,
        seed=flags.seed,
        device=device,
    )
    for at in training:
        trained = True
        print(
            f"{task} {at.role} | step {at.step} of {at.steps} | loss {at.loss:.3f} nats per token "
            f"| {at.elapsed_s:.0f} s",
            flush=True,
        )
    print(f"  pair: {folder}{'' if trained else ' (trained before; remove it to train anew)'}")
