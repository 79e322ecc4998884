"""Audits a verifier: `audit(verifier)` gives a report that can be pasted into an issue."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from speculative.auditing.checks import Check, Plan, checks
from speculative.auditing.counting import POWER, draws
from speculative.auditing.verifier import Verifier
from systems.schema import InputError

VOCABULARIES = (4099, 32_003, 128_257)
"""None of them is a multiple of a block."""
HEADER = "| check | result | found |\n| --- | --- | --- |"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an audit found. Its text is a table and a verdict, in Markdown."""

    title: str
    """What was audited, where and with which seed: the first line."""
    total_variation: float
    """The error in the outputs of an ordinary pair that the audit sees."""
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """The checks that the verifier did not pass."""
        return tuple(c.name for c in self.checks if c.result == "WRONG" and c.name != "control")

    @property
    def judged(self) -> bool:
        """Whether the control was judged rightly, if there was one."""
        return not any(c.result == "WRONG" and c.name == "control" for c in self.checks)

    @property
    def exact(self) -> bool:
        """Whether nothing was found that speaks against the verifier being exact."""
        return self.judged and not self.wrong

    @property
    def verdict(self) -> str:
        """The last line."""
        if not self.judged:
            return "**UNDECIDED**: the control was misjudged, so the checks say nothing here."
        if self.wrong:
            return f"**NOT EXACT**: {', '.join(self.wrong)}."
        return (
            f"**EXACT, as far as {draws(self.total_variation):,} outputs show**: an error of total "
            f"variation {self.total_variation:g} would be seen with probability {POWER:g}."
        )

    def __str__(self) -> str:
        lines = [self.title, "", HEADER, *map(str, self.checks), "", self.verdict]
        return "\n".join(lines)


def audit(
    verifier: Verifier,
    *,
    total_variation: float = 0.002,
    vocabularies: Sequence[int] = VOCABULARIES,
    seed: int = 0,
    device: str | torch.device = "cpu",
    control: bool = True,
    name: str = "",
    show: Callable[[str], None] = lambda line: None,
) -> Report:
    """Hold a verifier to the target's distribution.

    Outputs of small models are counted and compared with the distribution of the target alone by
    chi-square, on an ordinary pair and on adversarial ones (disjoint supports, p = q, one-hot rows,
    excluded tokens, ties, large and shifted logits), in half precision, in uneven batches, and at
    large vocabularies by strata; and under filters, if the verifier takes any. Wrong verifiers go
    through the same as a control.

    Args:
        verifier: a function of target logits [B, G + 1, V], draft logits [B, G, V], draft tokens
            int64 [B, G] and a `torch.Generator`. It returns (accepted, next_token), integers [B]
            each, or the emitted tokens, integers [B, G + 1] with -1 after the last. If it has an
            argument `filters`, it is given `speculative.Filters` too. For one that takes a single
            sequence see `speculative.auditing.verifier.one_by_one`.
        total_variation: the error that shall be seen. Half of it takes four times the time.
        vocabularies: the large ones.
        device: where logits, tokens and the generator are.
        control: whether wrong verifiers are audited too, to show what the checks can see.
        name: what the report calls the verifier; "" takes its own name.
        show: is given every line of the report as soon as it is known.

    Raises:
        InputError: an argument is out of range, or the verifier fails on ordinary inputs.
    """
    if not 0 < total_variation < 1:
        raise InputError(f"--total-variation {total_variation:g}: give more than 0, less than 1")
    if any(size < 2 for size in vocabularies):
        sizes = " ".join(map(str, vocabularies))
        raise InputError(f"--vocabularies {sizes}: give sizes of 2 tokens or more")
    plan = Plan(
        total_variation=total_variation,
        vocabularies=tuple(vocabularies),
        seed=seed,
        device=torch.device(device),
        controlled=control,
    )
    title = _title(name or getattr(verifier, "__name__", type(verifier).__name__), plan)
    show(f"{title}\n\n{HEADER}")
    made = []
    for check in checks(verifier, plan):
        made.append(check)
        show(str(check))
    report = Report(title=title, total_variation=total_variation, checks=tuple(made))
    show(f"\n{report.verdict}")
    return report


def _title(name: str, plan: Plan) -> str:
    """The first line of a report."""
    python = platform.python_version()
    where = f"seed {plan.seed}, {plan.device}, torch {torch.__version__}, Python {python}"
    return f"**Audit of `{name}`**: {where}"
