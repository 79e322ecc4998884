"""What verification does to the output: error rates, ROUGE, acceptance, tokens/s by phase."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from speculative.experiments import pairs, quality_figures as figures
from speculative.options import Task
from speculative.tasks.evaluate import evaluate
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.runs import record

SEEDS = {"quick": 1, "full": 3}
LIMITS = (1e1, 1e2, 1e3, 1e4, 1e5)
"""The sigmoid's beta, alpha being its negative; the paper takes 1e3 to 1e5."""
RUNS: Mapping[str, Mapping[str, Any]] = {
    "target alone": {"method": "none"},
    "exact": {"method": "exact"},
    "target alone, greedy": {"method": "none", "temperature": 0.0},
    "exact, greedy": {"method": "exact", "temperature": 0.0},
    "calibrated": {"method": "calibrated"},
    **{f"sigmoid {b:.0e}": {"method": "sigmoid", "alpha": -b, "beta": b} for b in LIMITS},
}
PAPER_LIMITS = "sigmoid 1e+04"
"""The limits that the published code has."""
SCORES: Mapping[Task, str] = {
    "transcribe": "word_error_rate",
    "summarize": "rouge_1",
    "pronounce": "phone_error_rate",
}
NAMES = {
    "word_error_rate": "word error rate",
    "rouge_1": "ROUGE-1",
    "phone_error_rate": "phone error rate",
}
SLIGHT = 0.1
"""What we take the paper's "slight accuracy loss" to be at most, of the target alone's score."""

Run = Mapping[str, Any]
Runs = Sequence[Run]


def measure(level: str, folder: Path) -> Results:
    """Evaluate every method with every pair; what an interrupted run has written stays."""
    results: dict[str, list[Any]] = {}
    for task, pair in pairs.obtain(level, folder.parent).items():
        for name, options in RUNS.items():
            for seed in range(SEEDS[level]):
                path = folder / f"{task}-{name.replace(' ', '-')}-{seed}.json"
                find = partial(evaluate, pairs.options(task, pair, level, **options), seed=seed)
                found = record.once(path, find, told=f"{task}: {name}, seed {seed}")
                results.setdefault(f"{task}: {name}", []).append(found)
    return results


def conclude(results: Results, folder: Path) -> Outcome:
    """Figures (c) and (e), a table and the claims; nothing where there was no pair."""
    tasks = [task for task in get_args(Task) if f"{task}: exact" in results]
    if not tasks:
        return Outcome(
            figures=(),
            claims=(),
            notes=("No pair of models: set TESTBED_DATA, or run `testbed train-pair`.",),
        )
    by_task = {task: {name: results[f"{task}: {name}"] for name in RUNS} for task in tasks}
    scores = {task: SCORES[task] for task in tasks}
    return Outcome(
        figures=(figures.scores(by_task, scores, folder), figures.phases(by_task, folder)),
        claims=tuple(c for task in tasks for c in _claims(task, by_task[task])),
        notes=tuple(figures.summary(task, by_task[task], scores[task]) for task in tasks),
    )


def _claims(task: Task, runs: Mapping[str, Runs]) -> Iterator[Claim]:
    """What is claimed of a task's scores, acceptance rates and speed."""
    score = SCORES[task]
    name_of_score = NAMES[score]
    for name in ("exact", "calibrated"):
        yield claim(
            f"speculative.{name}-{score}-apart.{task}.measured",
            f"{name_of_score} of {name} less the target alone's, over the half width of the 95 % "
            "interval of such a difference",
            [apart(*both, score) for both in _beside(runs, name)],
            Target(most=1.0),
        )
    greedy, alone = runs["exact, greedy"], runs["target alone, greedy"]
    yield claim(
        f"speculative.greedy-{score}-apart.{task}.measured",
        f"{name_of_score} of greedy decoding with drafts less the target's own, absolute",
        [abs(a[score]["value"] - b[score]["value"]) for a, b in zip(greedy, alone, strict=True)],
        Target(most=0.0, unit="fraction"),
    )
    for name in ("calibrated", PAPER_LIMITS):
        yield claim(
            f"speculative.{name.split()[0]}-{score}-lost.{task}.measured",
            f"{name_of_score} that {name} loses of the target alone's",
            [lost(*both, score) for both in _beside(runs, name)],
            Target(
                most=SLIGHT,
                source="our reading of arXiv 2406.11016: a slight loss",
                unit="fraction",
            ),
            paper="slight accuracy loss (of the sigmoid)",
        )
    for name in ("calibrated", PAPER_LIMITS):
        yield claim(
            f"speculative.{name.split()[0]}-acceptance-apart.{task}.measured",
            f"acceptance rate of {name} less exact's, absolute; near 0: it decides alike",
            [
                abs(run["acceptance_rate"] - exact["acceptance_rate"])
                for run, exact in zip(runs[name], runs["exact"], strict=True)
            ],
            Target(most=0.05, unit="fraction"),
        )
    yield claim(
        f"speculative.exact-tokens-per-s-over-target-alone.{task}.measured",
        f"tokens per second, end to end, of exact over the target alone's, {task}",
        [run["tokens_per_s"] / alone["tokens_per_s"] for run, alone in _beside(runs, "exact")],
        Target(least=1.0, unit="x"),
    )


def _beside(runs: Mapping[str, Runs], name: str) -> list[tuple[Run, Run]]:
    """A method's runs, each with the target alone's run of the same seed."""
    return list(zip(runs[name], runs["target alone"], strict=True))


def apart(run: Run, alone: Run, score: str) -> float:
    """A difference of two scores over the half width of its own 95 % interval."""
    halves = [(r[score]["high"] - r[score]["low"]) / 2 for r in (run, alone)]
    difference = abs(run[score]["value"] - alone[score]["value"])
    return float(difference / max(math.hypot(*halves), 1e-3))  # no errors, no interval


def lost(run: Run, alone: Run, score: str) -> float:
    """How much worse a score is than the target alone's, as a fraction of it; below 0: better."""
    worse = run[score]["value"] - alone[score]["value"]
    sign = 1 if score.endswith("error_rate") else -1
    return float(sign * worse / max(alone[score]["value"], 1e-3))
