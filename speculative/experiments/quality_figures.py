"""Draws task scores with their intervals, and where the time of decoding goes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from systems.figures.draw import Bars, Panel, draw
from systems.figures.experiment import Figure
from systems.figures.text import machine, table

Runs = Sequence[Mapping[str, Any]]
ByTask = Mapping[str, Mapping[str, Runs]]
PHASES = ("draft", "target", "verify", "rest")
SHOWN = ("target alone", "exact", "calibrated", "sigmoid 1e+04")


def scores(by_task: ByTask, score_of: Mapping[str, str], folder: Path) -> Figure:
    """Draw figure (c): the task's score and the acceptance rate of every method."""
    panels: list[Panel] = []
    for task, runs in by_task.items():
        score = score_of[task]
        panels += [
            Bars(
                groups=[_short(name) for name in runs],
                series={score: [_ends(found, score) for found in runs.values()]},
                unit=score.replace("_", " "),
                title=f"{task} (measured): value and 95 % interval",
            ),
            Bars(
                groups=[_short(name) for name in runs],
                series={"acceptance": [_accepted(found) for found in runs.values()]},
                unit="acceptance rate",
                title=f"{task} (measured): draft tokens accepted",
            ),
        ]
    note = "dots: ends of the 95 % bootstrap interval, and further seeds; sigmoid: beta"
    return draw(
        folder / "task-scores",
        panels,
        f"{note}, alpha = -beta; {machine()}",
        title="(c) Error rates and ROUGE-1",
        tier="measured",
        caption="The target alone, exact verification, and the two approximations. What the "
        "sigmoid accepts is mostly the draft's choice.",
    )


def phases(by_task: ByTask, folder: Path) -> Figure:
    """Draw figure (e): tokens per second end to end, and seconds by phase."""
    panels: list[Panel] = []
    for task, runs in by_task.items():
        shown = {name: runs[name] for name in SHOWN}
        panels += [
            Bars(
                groups=[_short(name) for name in shown],
                series={"": [[run["tokens_per_s"] for run in found] for found in shown.values()]},
                unit="tokens per second",
                value_format="{:.0f}",
                title=f"{task} (measured): end to end",
            ),
            Bars(
                groups=[_short(name) for name in shown],
                series={
                    phase: [
                        [1e3 * run[f"{phase}_s"] / run["new_tokens"] for run in found]
                        for found in shown.values()
                    ]
                    for phase in PHASES
                },
                unit="ms per token",
                value_format="{:.2f}",
                title=f"{task} (measured): by phase",
            ),
        ]
    return draw(
        folder / "decoding-phases",
        panels,
        f"small trained pairs; {machine()}",
        title="(e) Decoding, end to end and by phase",
        tier="measured",
        caption=f"Batches of 16; {'; '.join(_gain(*item) for item in by_task.items())}. The models "
        "are tiny: a step's time is mostly overhead per layer, and vocabularies are small, so this "
        "says where the time goes and not what large models would gain.",
    )


def _gain(task: str, runs: Mapping[str, Runs]) -> str:
    """What exact speculation does to a task's speed, in words."""
    exact, alone = runs["exact"][0], runs["target alone"][0]
    gain = exact["tokens_per_s"] / alone["tokens_per_s"]
    verdict = "slower" if gain < 1 else "faster"
    return (
        f"{task}: exact speculation is {verdict} than the target alone ({gain:.2f}x its tokens/s)"
    )


def summary(task: str, runs: Mapping[str, Runs], score: str) -> str:
    """Every method, first seed, in Markdown."""
    (alone, *_), (exact, *_) = runs["target alone"], runs["exact"]
    rows = []
    for name, (run, *_) in runs.items():
        value, accepted = run[score], run["acceptance_rate"]
        rows.append(
            (
                name,
                f"{value['value']:.4f}",
                f"{value['low']:.4f} to {value['high']:.4f}",
                "" if accepted is None else f"{accepted:.3f}",
                f"{run['tokens_per_target_step']:.2f}",
                f"{run['tokens_per_s']:.0f}",
                f"{1e3 * run['verify_s'] / run['new_tokens']:.3f}",
            )
        )
    columns = "95 %, acceptance, tokens per target step, tokens/s, verify ms per token"
    return table(
        (task, score.replace("_", " "), *columns.split(", ")),
        rows,
        f"{task}: a target of {alone['target_parameters']:,} parameters, a draft of "
        f"{exact['draft_parameters']:,}, {alone['samples']} test samples.",
    )


def _short(name: str) -> str:
    """A method's name in two lines, for the axis."""
    return re.sub("target |sigmoid |, ", _broken, name)


def _broken(words: re.Match[str]) -> str:
    """These words, after which a line ends instead of a space."""
    return f"{words[0].rstrip()}\n"


def _ends(runs: Runs, score: str) -> list[float]:
    """The values of all seeds between the ends of the first seed's interval.

    As the ends lie outside, the median, which bars show, is a value.
    """
    first, *others = (run[score] for run in runs)
    values = [first["value"], *(other["value"] for other in others)]
    return [first["low"], *values, first["high"]]


def _accepted(runs: Runs) -> list[float]:
    """The acceptance rates of a method's runs; none where nothing is drafted."""
    return [run["acceptance_rate"] for run in runs if run["acceptance_rate"] is not None]
