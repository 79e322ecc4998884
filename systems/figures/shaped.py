"""What experiments have in common whose cases are trained on shaped clusters."""

from collections.abc import Mapping, Sequence
from typing import Any

from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome

AGREE, AGREEING = 0.1, 0.9
"""A predicted step time is this near to the measured one, at this part of the points."""


def left_out(reason: str) -> Outcome:
    """Make the outcome of an experiment of which nothing was run, with the reason."""
    note = f"Nothing was trained on a cluster in this machine: {reason}"
    return Outcome(figures=(), claims=(), notes=(note,))


def marked(runs: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence how many runs were marked as doubtful."""
    busy = sum(bool(run["host_busy"]) for run in runs)
    return (
        f"{busy} of {len(runs)} runs were marked: the machine was busy with something else, or a "
        "rank's speed changed by more than 10 %."
    )


def predictions(id: str, points: str, ratios: Sequence[float]) -> Claim:
    """Claim that predicted step times come true.

    Args:
        points: what was predicted, in words, such as "points (setting x scheme)".
        ratios: predicted over measured, or measured over predicted, of every point.
    """
    within = sum(abs(ratio - 1) <= AGREE for ratio in ratios)
    return claim(
        id,
        f"part of {len(ratios)} {points} whose step time was predicted within {AGREE:.0%}",
        [within / len(ratios)],
        Target(least=AGREEING, unit="fraction"),
    )
