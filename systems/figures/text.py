"""The text that stands beside figures: tables in Markdown, and what a machine is called."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from systems.runs import provenance


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], above: str = "") -> str:
    """Write a table in Markdown, with a sentence above it if there is one."""
    lines = [above, ""] if above else []
    lines += [_line(columns), "| --- " * len(columns) + "|"]
    return "\n".join([*lines, *map(_line, rows)])


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def machine(environment: Mapping[str, Any] | None = None) -> str:
    """Describe the machine that measurements are taken on: its processor, cores and GPUs, and the
    version of torch.

    Args:
        environment: what the record of a run says of it. None: this machine.
    """
    facts = provenance.environment() if environment is None else environment
    parts = [facts["processor"], f"{facts['cores']} cores"]
    parts += [f"{count} {name}" for name, count in Counter(facts["gpus"]).items()]
    return ", ".join([*parts, f"torch {facts['packages']['torch']}"])
