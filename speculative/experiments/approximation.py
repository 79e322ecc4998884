"""How far the approximations are from the target's distribution: acceptance and total variation.

In closed form, float64, on logits that are given: made-up ones of a language model's size, and
those of trained pairs where there are any.
"""

from collections.abc import Iterable, Mapping
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
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.runs import record

LIMITS = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5)
"""beta of the sigmoid; alpha is its negative."""
CAUTIONS = (1.0, 4.0, 16.0)
MADE_UP = replace(bench.CALIBRATED_ON, vocabulary=32_000, gamma=8, batch=8)
POSITIONS = {"quick": 64, "full": 256}
"""Of made-up logits."""
MOST_POSITIONS = 1000
"""Of a pair's."""
OWN = "this project's target"
Logits = tuple[Tensor, Tensor, Tensor]


def measure(level: str, folder: Path) -> Results:
    """Distances of every method on every kind of logits."""
    results: dict[str, list[Any]] = {}
    decoded: dict[str, Options | None] = {"normal logits": None}
    for task, pair in pairs.trained(level, folder.parent).items():
        decoded[task] = pairs.options(task, pair, level)
    for name, options in decoded.items():
        path = folder / f"{name.replace(' ', '-')}.json"
        results[name] = record.once(path, partial(_rows, level, options), told=name)
    return results


def conclude(results: Results, folder: Path) -> Outcome:
    """Figure (d), a table and the claims."""
    claims = [c for name, rows in results.items() for c in _claims(name, rows)]
    return Outcome(
        figures=(figures.distances(results, folder),),
        claims=tuple(claims),
        notes=(figures.table(results),),
    )


def _rows(level: str, options: Options | None) -> list[dict[str, Any]]:
    """Of the pair that `options` names; None: of made-up logits."""
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
        found: list[Logits] = []
        observe(options, target, draft, lambda *step: found.append(step), split=split)
        return found

    return logits("train"), logits("test")


def _distances(
    seen: list[Logits], unseen: list[Logits], temperature: float
) -> Iterable[dict[str, Any]]:
    """A row per method and setting: means over positions."""
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


def _claims(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterable[Claim]:
    by = {(row["method"], row["setting"]): row for row in rows}
    exact, sigmoid, calibrated = by["exact", None], by["sigmoid", 1e4], by["calibrated", 4.0]
    where = name.replace(" ", "-")
    figures_of_merit = (
        ("exact-total-variation", "of exact from the target", exact, Target(most=1e-6, source=OWN)),
        (
            "sigmoid-total-variation",
            "of sigmoid, beta 1e4, from the target",
            sigmoid,
            Target(most=0.05, source=f"{OWN} for a slight accuracy loss, as arXiv 2406.11016 says"),
        ),
        (
            "calibrated-total-variation",
            "of calibrated from the target",
            calibrated,
            Target(most=0.05, source=OWN),
        ),
    )
    for quantity, what, row, target in figures_of_merit:
        yield claim(
            *("speculative", quantity, where, "measured"),
            what=f"total variation of the next token's distribution {what}, mean, {name}",
            values=[row["total_variation"]],
            unit="",
            target=target,
        )
    yield claim(
        *("speculative", "calibrated-acceptance-kept", where, "measured"),
        what=f"acceptance rate of calibrated over exact's, {name}",
        values=[calibrated["acceptance"] / exact["acceptance"]],
        unit="",
        target=Target(least=0.9, source=OWN),
    )
