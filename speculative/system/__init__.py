"""Speculative sampling as a system of the testbed: one process evaluates a pair of models, in one
piece.

There is no plan, no emulation and no simulation of it, so the system has none of these parts.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speculative.options import Options
from systems.job import Job
from systems.named_files import absolute_data, absolute_path
from systems.profiles.emulation import Emulation
from systems.system import Command, NoPlan, Opened, System

if TYPE_CHECKING:
    from systems.network.distributed import World

SCORES = ("word_error_rate", "phone_error_rate", "rouge_1", "rouge_2", "rouge_l")


def _check(job: Job, plan: NoPlan) -> None:
    """Look for the models.

    Raises:
        InputError: a folder without a model, or a name that neither the hub nor its cache has.
    """
    from speculative.tasks import checkpoint

    options = job.options
    checkpoint.check(options.task, options.target_path, "--speculative.target")
    if options.method != "none" and not options.looks_up:
        checkpoint.check(options.task, options.draft_path, "--speculative.draft")


def _open(job: Job, plan: NoPlan, emulation: Emulation | None) -> Opened:
    """Prepare the evaluation of the pair on the test samples of the task."""
    from speculative.tasks.evaluate import evaluate

    options = job.options

    def evaluate_all(world: "World") -> dict[str, Any]:
        result = evaluate(options, seed=job.seed, device=world.device)
        return {**result, "samples_per_s": result["samples"] / result["total_s"]}

    scheme = f"{options.method} verification, gamma {options.gamma}"
    return Opened(
        scheme="target alone" if options.method == "none" else scheme,
        roles="1 worker",
        data=f"{options.task}: {options.data or 'as the pair was trained on'}",
        work=evaluate_all,
    )


def _line(result: dict[str, Any]) -> str:
    """Scores with their intervals, acceptance and speed."""
    scores = [
        f"{name} {result[name]['value']:.3f} "
        f"[{result[name]['low']:.3f}, {result[name]['high']:.3f}]"
        for name in SCORES
        if name in result
    ]
    rate = result["acceptance_rate"]
    accepted = "" if rate is None else f"acceptance rate {rate:.3f}, "
    return (
        f"{', '.join(scores)} (95 %, {result['samples']} samples); {accepted}"
        f"{result['tokens_per_target_step']:.2f} tokens per target step, "
        f"{result['tokens_per_s']:,.0f} tokens/s"
    )


def _with_batch_size(job: Job, samples: int) -> Job:
    """The job with so many samples decoded together."""
    return job.with_options(batch_size=samples)


def _absolute_paths(options: Options, folders: Sequence[Path]) -> Options:
    """The options with absolute paths of data and models."""
    return dataclasses.replace(
        options,
        data=options.data and absolute_data(options.data, folders),
        target=absolute_path(options.target, folders, task=options.task),
        draft=options.draft
        if options.looks_up
        else absolute_path(options.draft, folders, task=options.task),
    )


SYSTEM = System(
    name="speculative",
    options=Options,
    open=_open,
    check=_check,
    line=_line,
    with_batch_size=_with_batch_size,
    absolute_paths=_absolute_paths,
    experiments="speculative.experiments:EXPERIMENTS",
    paper="speculative.experiments:PAPER",
    commands={
        "train-pair": Command(
            main="speculative.system.train_pair_command:main",
            what="a small target and draft for speculative sampling",
        ),
        "audit": Command(
            main="speculative.system.audit_command:main",
            what="is what a verifier of drafts emits distributed as the target's?",
        ),
        "bench speculative": Command(
            main="speculative.system.bench_command:main",
            what="verification kernels against transformers and the byte floor",
        ),
    },
    doctor="speculative.system.doctor:checks",
)
