"""What is wrong in what was found: a row that no correct program gives, or a part that fails."""

from collections.abc import Iterator
from typing import Any

TIES = 2
"""Sequences of a batch that rounding may decide in another way than PyTorch's operators."""
TOLERANCE = 1e-3
"""The largest relative difference of float32 parameters from those of one process: rounding may
decide a maximum in another way, after which two trainings part."""


def wrong(found: dict[str, Any]) -> list[str]:
    """A line for everything that is wrong."""
    return [line for name, part in found["parts"].items() for line in _of_part(name, part)]


def _of_part(name: str, part: dict[str, Any]) -> Iterator[str]:
    if part["end"].startswith("failed"):
        yield f"{name} {part['end']}: {' '.join(part['errors'][-1:])}"
    for row in part["rows"]:
        said = ", ".join(f"{key} {value}" for key, value in row.items() if key != "output")
        if row.get("unlike_again") or row.get("faults") or row.get("unlike_pytorch", 0) > TIES:
            yield f"decisions differ: {said}"
        if row.get("same_again") is False or row.get("graph_equal") is False:
            yield f"another result at a second call: {said}"
        if row.get("difference", 0.0) > TOLERANCE:
            yield f"not one process's parameters: {said}"
        if row.get("exit_code", 0) not in (0, 5):  # 5: pytest found no test to run
            yield f"{row['command']} ended with {row['exit_code']}: {' '.join(row['output'][-1:])}"
