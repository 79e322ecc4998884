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
from systems.figures.experiment import Comparison, Experiment, Figure, Outcome
from systems.figures.paper import Answer, Paper, Statement
from systems.runs import provenance, record

TIERS = {
    "measured": "real computation on real devices, real transport",
    "shaped": "real training on one machine, behind shaped links and on shares of its cores",
    "emulated": "real processes over shaped links, computation replaced by timed waits",
    "simulated": "a model of the schedule, no processes",
}
STATUSES = {"pass": "target kept", "near": "missed by less than 10 %", "off": "missed by more"}
MOST_LISTED = 4
"""Cases of one quantity that the report lists one by one; of more it gives the range."""
ALL_CASES = "grid"
"""The case of a claim about all points of an experiment at once."""
TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Concluded:
    """An experiment that was run, and what it showed."""

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
class ReportedQuantity:
    """A quantity, with the sentence that explains it and its claims by tier."""

    quantity: str
    sentence: str
    by_tier: Mapping[str, Sequence[Claim]]

    def label(self, claim: Claim) -> str:
        """Return what distinguishes a claim from the others: its case, and its quantity where
        several answer."""
        claims = [each for tier in self.by_tier.values() for each in tier]
        several = len({each.quantity for each in claims}) > 1
        return f"{claim.quantity.replace('-', ' ')}, {claim.case}" if several else claim.case

    def values(self, claims: Sequence[Claim]) -> str:
        """Write the values of one tier, case by case where they are few, else their range."""
        if len(claims) > MOST_LISTED:
            in_order = sorted(claims, key=lambda claim: claim.ours)
            return f"{_value(in_order[0])} to {_value(in_order[-1])} ({len(claims)} cases)"
        named = (
            _value(c) if c.case == ALL_CASES else f"{self.label(c)} {_value(c)}" for c in claims
        )
        return ", ".join(named)


@dataclass(frozen=True)
class Section:
    """A system: its paper and its experiments."""

    system: str
    paper: Paper | None
    """None: the system implements none that is published."""
    concluded: Sequence[Concluded]

    @property
    def claims(self) -> list[Claim]:
        """The claims of all its experiments."""
        return [claim for each in self.concluded for claim in each.outcome.claims]

    @property
    def figure(self) -> Figure | None:
        """The figure for the first screen: the paper's, or else the first one that was drawn."""
        drawn = [figure for each in self.concluded for figure in each.outcome.figures]
        of_paper = None if self.paper is None else self.paper.figure
        best = (figure for figure in drawn if figure.path.stem == of_paper)
        return next(best, drawn[0] if drawn else None)

    def answers(self, statement: Statement) -> list[ReportedQuantity]:
        """Return the quantities that answer a statement of the paper, the most direct answer
        first."""
        return [
            ReportedQuantity(answer.quantity, answer.sentence, _by_tier(claims))
            for answer in statement.answers
            if (claims := self._first_answered(answer, statement))
        ]

    def _first_answered(self, answer: Answer, statement: Statement) -> list[Claim]:
        """The claims of an answer that no earlier answer of the statement has taken."""
        earlier = statement.answers[: statement.answers.index(answer)]
        earlier_ids = {claim.id for other in earlier for claim in other.claims(self.claims)}
        return [claim for claim in answer.claims(self.claims) if claim.id not in earlier_ids]

    def _sentence(self, quantity: str) -> str | None:
        """Return the sentence in which the paper's statements explain a quantity; None if none
        does."""
        return None if self.paper is None else self.paper.sentence(quantity)

    @property
    def off(self) -> list[ReportedQuantity]:
        """The quantities of which some claim is off, with those claims alone."""
        by_quantity: dict[str, list[Claim]] = {}
        for claim in self.claims:
            if claim.status == "off":
                by_quantity.setdefault(claim.quantity, []).append(claim)
        return [
            ReportedQuantity(
                quantity, self._sentence(quantity) or _described(claims), _by_tier(claims)
            )
            for quantity, claims in by_quantity.items()
        ]


def _described(claims: Sequence[Claim]) -> str:
    """Write a sentence for claims of a quantity that the paper says nothing about."""
    first = claims[0].what[0].upper() + claims[0].what[1:]
    return f"{first}, and {len(claims) - 1} more cases." if len(claims) > 1 else f"{first}."


def _by_tier(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Sort claims by their tier, in the order of `TIERS`."""
    by_tier = {tier: [claim for claim in claims if claim.tier == tier] for tier in TIERS}
    return {tier: those for tier, those in by_tier.items() if those}


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
        """The claims of all systems."""
        return [claim for section in self.sections for claim in section.claims]

    @property
    def comparisons(self) -> list[Comparison]:
        """All predictions beside what was found."""
        concluded = [each for section in self.sections for each in section.concluded]
        return [pair for each in concluded for pair in each.outcome.comparisons]

    @property
    def counts(self) -> dict[str, int]:
        """Count the claims of each status."""
        return {status: sum(c.status == status for c in self.claims) for status in STATUSES}


def write_report(folder: Path, sections: Sequence[Section], level: str) -> Path:
    """Write claims and reports into a folder that holds the figures; returns the page's path."""
    report = Report(
        folder=folder,
        level=level,
        written=time.strftime("%Y-%m-%d %H:%M"),
        command=shlex.join(record.command_line()),
        sections=sections,
        environment=provenance.environment(),
    )
    claim_files.write(report.claims, folder)
    disk.write_text(folder / "report.md", _render("report.md", report))
    page = folder / "report.html"
    disk.write_text(page, _render("report.html", report))
    return page


def _render(template: str, report: Report) -> str:
    """Fill a template with the report; text is escaped in HTML alone."""
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
    templates.filters["number"] = _number
    templates.filters["value"] = _value
    templates.filters["beside"] = lambda path: os.path.relpath(path, report.folder)
    return templates.get_template(template).render(
        report=report, here=report.environment, tiers=TIERS, statuses=STATUSES
    )


def _number(value: float) -> str:
    """Format a number with so many digits as matter."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _value(claim: Claim) -> str:
    """Format the value of a claim with its unit: `1.5x`, `80%`, `2.1 GB`, or a bare number."""
    number = _number(claim.ours)
    if claim.unit in ("", "fraction"):
        return number
    return number + claim.unit if claim.unit in ("x", "%") else f"{number} {claim.unit}"


def _from_markdown(text: str) -> Markup:
    """Turn notes (sentences and tables) into HTML; HTML in them stays text."""
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


def _embedded(path: Path) -> str:
    """A file as a data URI."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
