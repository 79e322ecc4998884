"""The text that stands beside figures: tables in Markdown, and what a machine is called."""

from collections.abc import Iterable, Sequence

from systems.runs import record


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], above: str = "") -> str:
    """A table in Markdown, with a sentence above it if there is one."""
    lines = [above, ""] if above else []
    lines += [_line(columns), "| --- " * len(columns) + "|"]
    return "\n".join([*lines, *map(_line, rows)])


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def machine() -> str:
    """The processor, cores and torch version of the machine that measurements are taken on."""
    here = record.environment()
    return f"{here['processor']}, {here['cores']} cores, torch {here['packages']['torch']}"
