"""Evaluates a pair of models on a task: `evaluate(options)` gives metrics with units."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch

from speculative.decoding.decode import generate
from speculative.decoding.generation import Record
from speculative.decoding.lookup import Lookup
from speculative.decoding.pace import AdaptiveGamma
from speculative.decoding.step import Observer
from speculative.options import Options, Task
from speculative.tasks.checkpoint import load_model
from speculative.tasks.pronounce import Pronunciations
from speculative.tasks.summarize import Summaries
from speculative.tasks.transcribe import Transcripts
from speculative.verification.calibration import Observed
from speculative.verification.rules import Calibrated, Rule

Split = Literal["train", "test"]
Samples = Summaries | Transcripts | Pronunciations
SAMPLES: dict[Task, type[Samples]] = {
    "summarize": Summaries,
    "transcribe": Transcripts,
    "pronounce": Pronunciations,
}
WARM_UP_TOKENS = 4
"""How far the first batch is decoded before the clock counts."""
SHOWN = 3
"""How many outputs are kept beside their references, to be looked at."""


def evaluate(
    options: Options, *, seed: int = 0, device: torch.device | None = None
) -> dict[str, Any]:
    """Decode the task's test samples and score them.

    The first batch is decoded once, a few tokens far, before the clock counts.

    Args:
        seed: decides the random numbers of sampling; a sample's tokens do not depend on the batch
            size.
        device: where the models are; None: the CPU.

    Returns:
        A table whose keys name units: acceptance_rate (None without a draft), the same by a draft
        token's position in its step, tokens_per_target_step, tokens_per_s, new_tokens, samples,
        draft_s, target_s, verify_s, rest_s and total_s; the task's scores, each a table of value,
        low and high (95 %, bootstrap over samples): rouge_1, rouge_2 and rouge_l, or
        word_error_rate, or phone_error_rate; the parameters of both models; the calibration (None
        with other methods); and examples.

    Raises:
        InputError: models or data are missing, or do not fit each other.
    """
    device = device or torch.device("cpu")
    target = load_model(options.task, options.target_path, device, "--speculative.target")
    draft: Any = Lookup() if options.looks_up and options.method != "none" else None
    if options.method != "none" and not options.looks_up:
        draft = load_model(options.task, options.draft_path, device, "--speculative.draft")
    samples = _samples(options, target, "test")
    observed = Observed(options.temperature)
    if options.method == "calibrated":
        observe(options, target, draft, observed.add, seed=seed)
    rule = options.rule(observed)
    record, texts = _decode(options, target, draft, samples, rule, seed)
    scored = {name: dataclasses.asdict(score) for name, score in samples.score(texts).items()}
    return {
        "task": options.task,
        "method": options.method,
        "samples": len(samples),
        **_metrics(record),
        **scored,
        "target_parameters": target.num_parameters(),
        "draft_parameters": draft.num_parameters() if hasattr(draft, "num_parameters") else None,
        "calibration": dataclasses.asdict(rule) if isinstance(rule, Calibrated) else None,
        "examples": [
            {"output": texts[i], "reference": samples.reference(i)}
            for i in range(min(SHOWN, len(samples)))
        ],
    }


def observe(
    options: Options,
    target: Any,
    draft: Any,
    observer: Observer,
    *,
    split: Split = "train",
    seed: int = 0,
) -> None:
    """Decode the samples of a split exactly, and show the logits of every step to `observer`."""
    samples = _samples(options, target, split)
    for numbers in _batches(options, samples):
        generate(
            target,
            draft,
            samples.inputs(numbers),
            gamma=options.gamma,
            max_new_tokens=options.max_new_tokens,
            sampling=options.sampling(),
            requests=numbers,
            observe=observer,
            seed=seed,
        )


def _decode(
    options: Options, target: Any, draft: Any | None, samples: Samples, rule: Rule, seed: int
) -> tuple[Record, list[str]]:
    """Decode all samples in batches: what that took, and their texts."""
    arguments: dict[str, Any] = {
        "gamma": AdaptiveGamma(most=options.gamma) if options.adaptive else options.gamma,
        "rule": rule,
        "sampling": options.sampling(),
        "seed": seed,
    }
    record, texts = Record(), list[str]()
    for numbers in _batches(options, samples):
        inputs = samples.inputs(numbers)
        if not texts:
            generate(target, draft, inputs, max_new_tokens=WARM_UP_TOKENS, **arguments)
        done = generate(
            target,
            draft,
            inputs,
            max_new_tokens=options.max_new_tokens,
            requests=numbers,
            **arguments,
        )
        record += done.record
        texts += [samples.text(tokens) for tokens in done.tokens]
    return record, texts


def _batches(options: Options, samples: Samples) -> Iterator[list[int]]:
    """The numbers of the samples that are decoded together, batch after batch."""
    numbers = range(len(samples))
    for start in numbers[:: options.batch_size]:
        yield list(numbers[start : start + options.batch_size])


def _samples(options: Options, target: Any, split: Split) -> Samples:
    """The samples of the task that the options name."""
    return SAMPLES[options.task](options, target, split)


def _metrics(record: Record) -> dict[str, Any]:
    """The part of the metrics that comes from decoding alone."""
    return {
        "acceptance_rate": record.acceptance_rate,
        "acceptance_rate_by_position": record.acceptance_rate_by_position,
        "tokens_per_target_step": record.tokens_per_target_step,
        "tokens_per_s": record.new_tokens / record.total_s,
        "new_tokens": record.new_tokens,
        "draft_s": record.draft_s,
        "target_s": record.target_s,
        "verify_s": record.verify_s,
        "rest_s": record.rest_s,
        "total_s": record.total_s,
    }
