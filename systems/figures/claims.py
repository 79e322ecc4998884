"""Claims: figures of merit, judged by targets. They are the rows of `claims.json` and `.csv`.

Every claim is made by one function, from its id to its status:

    claim(
        "stanza.accuracy.digits.measured",
        "test accuracy on 360 digits",
        [0.975, 0.98, 0.97],
        Target(least=0.97, unit="fraction"),
    )

A target stands in the code beside its source. A claim that misses its target is reported as off;
no command fails because of it.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, cast, get_args

from systems import disk
from systems.runs import record
from systems.runs.record import Tier
from systems.schema import to_json

OWN = "this project's target"
NEAR = 0.1
"""A miss by less than this fraction of the target is near, not off."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The bounds that a figure should keep, both optional, their unit, and who asks for them."""

    least: float | None = None
    most: float | None = None
    unit: str = ""
    source: str = OWN

    def judge(self, ours: float) -> Literal["pass", "near", "off"]:
        """Whether `ours` keeps the bounds, misses them by little, or misses them."""
        low = float("-inf") if self.least is None else self.least
        high = float("inf") if self.most is None else self.most
        if low <= ours <= high:
            return "pass"
        bound = low if ours < low else high
        return "near" if abs(ours - bound) <= NEAR * abs(bound) else "off"

    def __str__(self) -> str:
        bounds = [f">= {self.least:g}"] if self.least is not None else []
        bounds += [f"<= {self.most:g}"] if self.most is not None else []
        return f"{' and '.join(bounds)} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One figure of merit."""

    id: str
    """system.quantity.case.tier"""
    system: str
    what: str
    paper: str | None
    """What the paper reports, if it does."""
    ours: float
    unit: str
    tier: Tier
    n: int
    spread: tuple[float, float] | None
    """The least and the largest of the n values; None for a single one."""
    status: Literal["pass", "near", "off"]
    target: str

    @property
    def quantity(self) -> str:
        """The name of the quantity, whatever the case: the second part of the id."""
        return self.id.removeprefix(f"{self.system}.").partition(".")[0]

    @property
    def case(self) -> str:
        """The case of which it is claimed: the third part of the id, which may contain dots."""
        return self.id.removeprefix(f"{self.system}.{self.quantity}.").removesuffix(f".{self.tier}")


def slug(words: str) -> str:
    """The words in the form that ids and file names have: "Stanza m=4" becomes "stanza-m4"."""
    joined = re.sub(r"[ _:]", "-", words.lower().replace(" + ", "+"))
    return re.sub(r"[=',]", "", joined)


def claim(
    id: str,
    what: str,
    values: Sequence[float],
    target: Target,
    *,
    paper: str | None = None,
    judged_by: Literal["median", "largest"] = "median",
) -> Claim:
    """The claim that the median (or the largest) of `values` keeps `target`.

    Args:
        id: system.quantity.case.tier; words in it may be separated by spaces (see `slug`).
        what: names the quantity in words, with its setting.
        paper: what the paper reports, if it does.
        judged_by: the largest value is for errors, where a median would hide the one run that is
            wrong.

    Raises:
        ValueError: the id does not have four parts, or its last part is no tier.
    """
    name, dot, rest = id.partition(".")
    id = name + dot + slug(rest)  # the name of a system stays as it is
    system, *middle, tier = id.split(".")
    if len(middle) < 2 or tier not in get_args(Tier):
        raise ValueError(f"claim {id!r}: an id is system.quantity.case.tier")
    least, largest = min(values), max(values)
    ours = median(values) if judged_by == "median" else largest
    return Claim(
        id=id,
        system=system,
        what=what,
        paper=paper,
        ours=ours,
        unit=target.unit,
        tier=cast(Tier, tier),
        n=len(values),
        spread=(least, largest) if len(values) > 1 else None,
        status=target.judge(ours),
        target=str(target),
    )


def write(claims: Sequence[Claim], folder: Path) -> None:
    """Write `claims.json`, `claims.jsonl` (a claim a line) and `claims.csv`."""
    rows = [dataclasses.asdict(c) for c in claims]
    record.write_json(folder / "claims.json", rows)
    disk.write_text(folder / "claims.jsonl", "".join(to_json(row) + "\n" for row in rows))
    names = [f.name for f in dataclasses.fields(Claim) if f.name != "spread"]
    table = [[*(row[name] for name in names), *(row["spread"] or (None, None))] for row in rows]
    disk.write_table(folder / "claims.csv", [[*names, "spread_low", "spread_high"], *table])
