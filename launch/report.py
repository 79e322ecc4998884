"""Writes `report.md`: figures, tables and claims of a reproduction, with how each was obtained."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from systems import record
from systems.claims import Claim
from systems.experiment import Experiment, Outcome

TIERS = {
    "measured": "real computation on real devices, real transport",
    "emulated": "real processes over shaped links, computation replaced by timed waits",
    "simulated": "a model of the schedule, no processes",
}


def write_report(
    folder: Path, outcomes: Sequence[tuple[Experiment, Outcome, float]], level: str
) -> Path:
    """Write the report of experiments, with the seconds that each took; returns its path."""
    here = record.environment()
    lines = [
        "# Reproduction report",
        "",
        f"{time.strftime('%Y-%m-%d %H:%M')}, level {level}, on {here['processor']}, "
        f"{here['cores']} cores, {', '.join(here['gpus']) or 'no GPU'}; "
        f"torch {here['packages']['torch']}, source {here['git_commit'] or 'unknown'}.",
        "",
        "Every number carries its tier:",
        "",
        *(f"- **{name}**: {meaning}." for name, meaning in TIERS.items()),
    ]
    for experiment, outcome, lasted_s in outcomes:
        lines += ["", f"## {experiment.title}", "", f"Tier {experiment.tier}, {lasted_s:.0f} s."]
        for figure in outcome.figures:
            path = os.path.relpath(figure.path, folder)
            data = Path(path).with_suffix(".csv")
            lines += ["", f"![{figure.title}]({path})", ""]
            lines += [f"*{figure.title} ({figure.tier}).* {figure.caption} Data: [{data}]({data})."]
        for note in outcome.notes:
            lines += ["", note]
        lines += ["", *_claims_table(outcome.claims)]
    report = folder / "report.md"
    report.write_text("\n".join(lines) + "\n")
    return report


def _claims_table(claims: Sequence[Claim]) -> list[str]:
    rows = [
        "| claim | ours | quartiles | n | paper | target | status |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in claims:
        quartiles = "" if c.spread is None else f"{c.spread[0]:.4g} to {c.spread[1]:.4g}"
        rows.append(
            f"| {c.what} (`{c.id}`) | {c.ours:.4g} {c.unit} | {quartiles} | {c.n} "
            f"| {c.paper or ''} | {c.target} | **{c.status}** |"
        )
    return rows
