"""What verification does to the output: WER and ROUGE, acceptance, tokens per second by phase."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from speculative.experiments import pairs
from speculative.experiments import quality_figures as figures
from speculative.pairs import Task
from speculative.run import evaluate
from systems import record
from systems.claims import Claim, Target, claim
from systems.experiment import Outcome, Results

SEEDS = {"quick": 1, "full": 3}
LIMITS = (1e1, 1e2, 1e3, 1e4, 1e5)
"""beta of the sigmoid, alpha its negative; the paper takes 1e3 to 1e5."""
RUNS: Mapping[str, Mapping[str, Any]] = {
    "target alone": {"method": "none"},
    "exact": {"method": "exact"},
    "calibrated": {"method": "calibrated"},
    **{f"sigmoid {b:.0e}": {"method": "sigmoid", "alpha": -b, "beta": b} for b in LIMITS},
}
PAPER_LIMITS = "sigmoid 1e+04"
"""The published code's."""
SCORES: Mapping[Task, str] = {"transcribe": "word_error_rate", "summarize": "rouge_1"}
NAMES = {"word_error_rate": "word error rate", "rouge_1": "ROUGE-1"}
OWN = "this project's target"
PAPER = "arXiv 2406.11016"
SLIGHT = 0.02
"""What we take the paper's "slight accuracy loss" to be at most: an absolute difference."""

Runs = Sequence[Mapping[str, Any]]


def measure(level: str, folder: Path) -> Results:
    """Evaluate every method with every pair; what an interrupted run has written stays."""
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Any]] = {}
    for task, pair in pairs.obtain(level, folder.parent / pairs.OWN_FOLDER).items():
        for name, options in RUNS.items():
            for seed in range(SEEDS[level]):
                path = folder / f"{task}-{name.replace(' ', '-')}-{seed}.json"
                if not path.is_file():
                    print(f"  {task}: {name}, seed {seed}", flush=True)
                    found = evaluate(pairs.options(task, pair, level, **options), seed=seed)
                    record.write_json(path, found)
                results.setdefault(f"{task}: {name}", []).append(json.loads(path.read_text()))
    return results


def conclude(results: Results, folder: Path) -> Outcome:
    """Figures (c) and (e), a table and the claims; nothing where there was no pair."""
    tasks = [task for task in get_args(Task) if f"{task}: exact" in results]
    if not tasks:
        return Outcome(
            figures=(),
            claims=(),
            notes=("No pair of models: set TESTBED_DATA, or run `launch train-pair`.",),
        )
    by_task = {task: {name: results[f"{task}: {name}"] for name in RUNS} for task in tasks}
    scores = {task: SCORES[task] for task in tasks}
    return Outcome(
        figures=(figures.scores(by_task, scores, folder), figures.phases(by_task, folder)),
        claims=tuple(c for task in tasks for c in _claims(task, by_task[task])),
        notes=tuple(figures.table(task, by_task[task], scores[task]) for task in tasks),
    )


def _claims(task: Task, runs: Mapping[str, Runs]) -> Iterable[Claim]:
    score = SCORES[task]
    alone = runs["target alone"]
    for name, source, most, paper in (
        ("exact", OWN, 1.0, None),
        ("calibrated", OWN, 1.0, None),
        (PAPER_LIMITS, f"{PAPER}: slight loss", None, "slight accuracy loss"),
    ):
        apart = [
            abs(run[score]["value"] - base[score]["value"])
            for run, base in zip(runs[name], alone, strict=True)
        ]
        halves = [half_width(base[score]) for base in alone]
        in_halves = [d / h for d, h in zip(apart, halves, strict=True)]
        values, unit = (apart, "fraction") if most is None else (in_halves, "half widths")
        bound = SLIGHT if most is None else most
        yield claim(
            *("speculative", f"{name.split()[0]}-{score.replace('_', '-')}-apart"),
            *(task, "measured"),
            what=f"{NAMES[score]} of {name} apart from the target alone's, in {unit}"
            + ("" if most is None else " of the target's 95 % interval"),
            paper=paper,
            values=values,
            unit=unit,
            target=Target(most=bound, source=source),
        )
    exact = [run["acceptance_rate"] for run in runs["exact"]]
    for name in ("calibrated", PAPER_LIMITS):
        yield claim(
            *("speculative", f"{name.split()[0]}-acceptance-over-exact", task, "measured"),
            what=f"acceptance rate of {name} less exact's; near 0 says that it decides alike",
            values=[
                abs(run["acceptance_rate"] - base)
                for run, base in zip(runs[name], exact, strict=True)
            ],
            unit="fraction",
            target=Target(most=0.05, source=OWN),
        )


def half_width(score: Mapping[str, float]) -> float:
    """Of a score's 95 % interval; never 0, for an output without any error."""
    return max((score["high"] - score["low"]) / 2, 1e-3)
