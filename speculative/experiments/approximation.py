"""How far the approximations are from the target's distribution: acceptance and total variation.

In closed form, float64, on logits that are given: made-up ones of a language model's size, those of
an n-gram model of English where its package is installed, and those of trained pairs where there
are any.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speculative import bench, ngrams
from speculative.experiments import approximation_figures as figures, pairs
from speculative.experiments.distance import Distance, distance
from speculative.options import Options
from speculative.tasks import evaluate
from speculative.tasks.checkpoint import load_model
from speculative.verification.calibration import Observed
from speculative.verification.rules import Exact, Rule, Sigmoid
from systems.figures.claims import OWN, Claim, Target, claim
from systems.figures.experiment import Outcome, Results, measure_once

LIMITS = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5)
"""The sigmoid's beta; alpha is its negative."""
CAUTIONS = (1.0, 4.0, 16.0)
MADE_UP = replace(bench.CALIBRATED_ON, vocabulary=32_000, gamma=8, batch=8)
POSITIONS = {"quick": 64, "full": 256}
"""The number of positions of made-up logits."""
MOST_POSITIONS = 1000
"""The number of positions of a pair's logits at the most."""
MOST_VARIATION = 0.05
DRAFTS = {2: "bigram", 1: "unigram"}
"""The drafts of the trigram model, by their order."""
Logits = tuple[Tensor, Tensor, Tensor]
Split = tuple[list[Logits], list[Logits]]
"""Logits to calibrate on, and others."""


def measure(level: str, folder: Path) -> Results:
    """Distances of every method on every kind of logits."""
    parts = {"normal logits": partial(_rows, partial(_made_up, level))}
    if ngrams.installed():
        for order, name in DRAFTS.items():
            parts[f"trigrams, {name} draft"] = partial(
                _rows, partial(_of_words, order), cautions=()
            )
    for task, pair in pairs.trained(level, folder.parent).items():
        options = pairs.options(task, pair, level)
        parts[task] = partial(_rows, partial(_of_pair, options), options.temperature)
    return measure_once(folder, parts)


def conclude(results: Results, folder: Path) -> Outcome:
    """Figure (d), a table and the claims."""
    return Outcome(
        figures=(figures.distances(results, folder),),
        claims=tuple(c for name, rows in results.items() for c in _claims(name, rows)),
        notes=(figures.summary(results),),
    )


def _rows(
    logits: Callable[[], Split], temperature: float = 1.0, cautions: Sequence[float] = CAUTIONS
) -> list[dict[str, Any]]:
    """Distances on the second part of logits, with the calibrated method fitted to the first."""
    return list(_distances(*logits(), temperature, cautions))


def _made_up(level: str) -> Split:
    """Logits to calibrate on, and others."""
    calls = POSITIONS[level] // (MADE_UP.gamma * MADE_UP.batch)
    return (
        [bench.inputs(MADE_UP, seed) for seed in range(100, 104)],
        [bench.inputs(MADE_UP, seed) for seed in range(calls)],
    )


def _of_words(order: int) -> Split:
    """The same of trigrams of English, with n-grams of this order as the draft.

    These logits are logarithms of probabilities, whose normaliser is 1 in every row. The calibrated
    method estimates just this normaliser, so that nothing can be learned of it here.
    """
    model = ngrams.read()

    def drafted(seed: int) -> Logits:
        return ngrams.drafted(model, MADE_UP.batch, MADE_UP.gamma, seed, order=order)

    return [drafted(seed) for seed in range(100, 104)], [drafted(0)]


def _of_pair(options: Options) -> Split:
    """Logits of training samples, and of test samples."""
    device = torch.device("cpu")
    target = load_model(options.task, options.target_path, device, "--speculative.target")
    draft = load_model(options.task, options.draft_path, device, "--speculative.draft")

    def logits(split: evaluate.Split) -> list[Logits]:
        steps: list[Logits] = []
        evaluate.observe(options, target, draft, lambda *step: steps.append(step), split=split)
        return steps

    return logits("train"), logits("test")


def _distances(
    seen: list[Logits], unseen: list[Logits], temperature: float, cautions: Sequence[float]
) -> Iterable[dict[str, Any]]:
    """A row for every method and setting, with means over the positions of `unseen` logits.

    The calibrated method is calibrated on the logits `seen`.
    """
    observed = Observed(temperature)
    for step in seen:
        observed.add(*step)
    target = torch.cat([z[:, : y.shape[1]].flatten(0, 1) for z, y, _ in unseen])
    draft = torch.cat([y.flatten(0, 1) for _, y, _ in unseen])
    rows = target[:MOST_POSITIONS], draft[:MOST_POSITIONS]

    def row(rule: Rule, setting: float | None) -> dict[str, Any]:
        found: Distance = distance(*rows, rule=rule, temperature=temperature)
        means = {name: float(values.mean()) for name, values in found._asdict().items()}
        return {"method": rule.name, "setting": setting, "positions": len(rows[0]), **means}

    yield row(Exact(), None)
    for beta in LIMITS:
        yield row(Sigmoid(alpha=-beta, beta=beta), beta)
    for caution in cautions:
        yield row(observed.fit(caution), caution)


def _claims(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Claim]:
    """What is claimed of the distances on one kind of logits."""
    by = {(row["method"], row["setting"]): row for row in rows}
    exact, sigmoid, calibrated = by["exact", None], by["sigmoid", 1e4], by.get(("calibrated", 4.0))
    slight = f"{OWN} for a slight accuracy loss, as arXiv 2406.11016 says"
    for method, what, row, target in (
        ("exact", "exact", exact, Target(most=1e-6)),
        ("sigmoid", "sigmoid, beta 1e4,", sigmoid, Target(most=MOST_VARIATION, source=slight)),
        ("calibrated", "calibrated", calibrated, Target(most=MOST_VARIATION)),
    ):
        if row is None:
            continue
        yield claim(
            f"speculative.{method}-total-variation.{name}.measured",
            f"total variation of the next token's distribution of {what} from the target, mean, "
            f"{name}",
            [row["total_variation"]],
            target,
        )
    if calibrated is None:
        return
    yield claim(
        f"speculative.calibrated-acceptance-kept.{name}.measured",
        f"acceptance rate of calibrated over exact's, {name}",
        [calibrated["acceptance"] / exact["acceptance"]],
        Target(least=0.9),
    )
