"""Writes the report of a reproduction: `report.html`, a page that needs no other file, `report.md`,
and the claims as JSON, JSONL and CSV.

Both reports are templates over the same `Report`; what they show of a number says how it was
obtained.
"""

import base64
import mimetypes
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from systems import disk
from systems.figures import claims as claim_files
from systems.figures.claims import Claim
from systems.figures.experiment import Comparison, Experiment, Outcome
from systems.figures.paper import Paper, Statement
from systems.runs import record

TIERS = {
    "measured": "real computation on real devices, real transport",
    "emulated": "real processes over shaped links, computation replaced by timed waits",
    "simulated": "a model of the schedule, no processes",
}
STATUSES = {
    "pass": "keeps its target",
    "near": "misses it by less than 10 %",
    "off": "misses it by more",
}
TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Concluded:
    """An experiment that was run."""

    experiment: Experiment
    outcome: Outcome
    lasted_s: float
    level: str

    @property
    def command(self) -> str:
        """The command that runs the experiment again, in a folder of its own."""
        what = f"{self.experiment.system} --experiment {self.experiment.id} --level {self.level}"
        return f"testbed reproduce {what}"


@dataclass(frozen=True)
class Section:
    """A system: its paper and its experiments."""

    system: str
    paper: Paper
    concluded: Sequence[Concluded]

    @property
    def claims(self) -> list[Claim]:
        """Of all its experiments."""
        return [claim for each in self.concluded for claim in each.outcome.claims]

    def answers(self, statement: Statement) -> dict[str, dict[str, list[Claim]]]:
        """The claims that answer a statement of the paper, by quantity, then by tier."""
        found: dict[str, dict[str, list[Claim]]] = {}
        for claim in statement.answers(self.claims):
            by_tier = found.setdefault(claim.quantity.replace("-", " "), {})
            by_tier.setdefault(claim.tier, []).append(claim)
        return found


@dataclass(frozen=True)
class Report:
    """All that a report shows."""

    folder: Path
    level: str
    written: str
    command: str
    sections: Sequence[Section]
    environment: Mapping[str, Any]

    @property
    def claims(self) -> list[Claim]:
        """Of all systems."""
        return [claim for section in self.sections for claim in section.claims]

    @property
    def comparisons(self) -> list[Comparison]:
        """All predictions beside what was found."""
        concluded = [each for section in self.sections for each in section.concluded]
        return [pair for each in concluded for pair in each.outcome.comparisons]

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each status."""
        return {status: sum(c.status == status for c in self.claims) for status in STATUSES}


def write_report(folder: Path, sections: Sequence[Section], level: str) -> Path:
    """Write claims and reports into a folder that holds the figures; returns the page's path."""
    report = Report(
        folder=folder,
        level=level,
        written=time.strftime("%Y-%m-%d %H:%M"),
        command=shlex.join(record.command_line()),
        sections=sections,
        environment=record.environment(),
    )
    claim_files.write(report.claims, folder)
    disk.write_text(folder / "report.md", _render("report.md", report))
    page = folder / "report.html"
    disk.write_text(page, _render("report.html", report))
    return page


def _render(template: str, report: Report) -> str:
    """A report from its template; text is escaped in HTML alone."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["markdown"] = _from_markdown
    templates.filters["embedded"] = _embedded
    templates.filters["beside"] = lambda path: os.path.relpath(path, report.folder)
    return templates.get_template(template).render(
        report=report, here=report.environment, tiers=TIERS, statuses=STATUSES
    )


def _from_markdown(text: str) -> Markup:
    """Notes (sentences and tables) as HTML; HTML in them stays text."""
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


def _embedded(path: Path) -> str:
    """A file as a data URI."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
