"""How far the approximations are from the target's distribution: acceptance and total variation.

In closed form, float64, on logits that are given: made-up ones of a language model's size, and
those of trained pairs where there are any.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speculative import bench
from speculative.experiments import approximation_figures as figures, pairs
from speculative.experiments.distance import Distance, distance
from speculative.options import Options
from speculative.tasks.checkpoint import load_model
from speculative.tasks.evaluate import Split, observe
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
Logits = tuple[Tensor, Tensor, Tensor]


def measure(level: str, folder: Path) -> Results:
    """Distances of every method on every kind of logits."""
    decoded: dict[str, Options | None] = {"normal logits": None}
    for task, pair in pairs.trained(level, folder.parent).items():
        decoded[task] = pairs.options(task, pair, level)
    parts = {name: partial(_rows, level, options) for name, options in decoded.items()}
    return measure_once(folder, parts)


def conclude(results: Results, folder: Path) -> Outcome:
    """Figure (d), a table and the claims."""
    return Outcome(
        figures=(figures.distances(results, folder),),
        claims=tuple(c for name, rows in results.items() for c in _claims(name, rows)),
        notes=(figures.summary(results),),
    )


def _rows(level: str, options: Options | None) -> list[dict[str, Any]]:
    """Distances on the logits of the pair that `options` names, or on made-up ones if None."""
    if options is None:
        return list(_distances(*_made_up(level), temperature=1.0))
    return list(_distances(*_of_pair(options), options.temperature))


def _made_up(level: str) -> tuple[list[Logits], list[Logits]]:
    """Logits to calibrate on, and others."""
    calls = POSITIONS[level] // (MADE_UP.gamma * MADE_UP.batch)
    return (
        [bench.inputs(MADE_UP, seed) for seed in range(100, 104)],
        [bench.inputs(MADE_UP, seed) for seed in range(calls)],
    )


def _of_pair(options: Options) -> tuple[list[Logits], list[Logits]]:
    """Logits of training samples, and of test samples."""
    device = torch.device("cpu")
    target = load_model(options.task, options.target_path, device, "--speculative.target")
    draft = load_model(options.task, options.draft_path, device, "--speculative.draft")

    def logits(split: Split) -> list[Logits]:
        steps: list[Logits] = []
        observe(options, target, draft, lambda *step: steps.append(step), split=split)
        return steps

    return logits("train"), logits("test")


def _distances(
    seen: list[Logits], unseen: list[Logits], temperature: float
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
    for caution in CAUTIONS:
        yield row(observed.fit(caution), caution)


def _claims(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Claim]:
    """What is claimed of the distances on one kind of logits."""
    by = {(row["method"], row["setting"]): row for row in rows}
    exact, sigmoid, calibrated = by["exact", None], by["sigmoid", 1e4], by["calibrated", 4.0]
    slight = f"{OWN} for a slight accuracy loss, as arXiv 2406.11016 says"
    for method, what, row, target in (
        ("exact", "exact", exact, Target(most=1e-6)),
        ("sigmoid", "sigmoid, beta 1e4,", sigmoid, Target(most=MOST_VARIATION, source=slight)),
        ("calibrated", "calibrated", calibrated, Target(most=MOST_VARIATION)),
    ):
        yield claim(
            f"speculative.{method}-total-variation.{name}.measured",
            f"total variation of the next token's distribution of {what} from the target, mean, "
            f"{name}",
            [row["total_variation"]],
            target,
        )
    yield claim(
        f"speculative.calibrated-acceptance-kept.{name}.measured",
        f"acceptance rate of calibrated over exact's, {name}",
        [calibrated["acceptance"] / exact["acceptance"]],
        Target(least=0.9),
    )
